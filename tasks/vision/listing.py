"""List the content of a folder, without files that operating systems and editors create."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

STRAYS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx")  # hidden files begin with a dot


def is_stray(name: str) -> bool:
    """Return whether a file or folder has a name of system or editor files: .DS_Store, ._x.png, .ipynb_checkpoints."""
    return name.startswith(".") or name.casefold() in STRAYS


def visible(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted, without strays. Raise OSError if it cannot be listed."""
    return sorted(path for path in folder.iterdir() if not is_stray(path.name))


def files_under(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, without strays. Links are followed; every folder is visited once.

    Raise OSError if a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen, files = set[str](), list[Path]()
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_stray(name)]
        files += [Path(where) / name for name in names if not is_stray(name)]
    return sorted(files)


def listing(names: Iterable[str], most: int = 10) -> str:
    """Return the names as text for an error message: the first `most` and the number of others, or "nothing"."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more
