"""Define the paper's four tasks and five of later papers, run by `python -m tasks NAME`.

Modules that moved into a subpackage can still be imported by their former names, such as tasks.catch_environment.
"""

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SUBPACKAGES = ("running", "searching", "vision", "games")


class _FormerNames(MetaPathFinder, Loader):
    """Import tasks.SUBPACKAGE.MODULE for tasks.MODULE, with a DeprecationWarning."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __name__ and _subpackage_of(module) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = spec.name.partition(".")[2]
        new = f"{__name__}.{_subpackage_of(module)}.{module}"
        warnings.warn(f"{spec.name}: this module is now called {new}", DeprecationWarning, stacklevel=2)
        found = import_module(new)
        self._spec = found.__spec__  # the import system replaces it
        return found

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _subpackage_of(module: str) -> str | None:
    """Return the subpackage that has this module; None if there is none."""
    here = Path(__file__).parent
    return next((package for package in SUBPACKAGES if (here / package / f"{module}.py").is_file()), None)


sys.meta_path.append(_FormerNames())
