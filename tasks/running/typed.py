"""Check values against type hints: settings and counters come from files, command lines and scripts. Spell options."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_EXPECTED = {
    bool: "True or False", int: "a whole number below 2^63", float: "a finite number", str: "text", NoneType: "None",
    Path: "a path", dict: "named values", list: "a list",
}  # fmt: skip
_hints = cache(get_type_hints)


def checked(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, with text converted to Path where the type hint is Path.

    kind: a class whose annotations name every value: bool, int, float, str, None, Path, dict, list, Literal and unions.

    A bool is not a number, an int is accepted as a float, and text is never converted to a number. Numbers must be
    finite. Raise TypeError for another type, and ValueError for a number or text that the type does not allow.
    """
    return {name: _checked(name, value, _hints(kind)[name]) for name, value in values.items()}


def _checked(name: str, value: Any, hint: Any) -> Any:
    alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(fits(value, alternative) for alternative in alternatives):
        of_kind = any(isinstance(value, _types(alternative)) for alternative in alternatives)
        error = ValueError if of_kind and not isinstance(value, bool) else TypeError
        expected = " or ".join(map(_described, alternatives))
        raise error(f"{name}: expected {expected}, got {reprlib.repr(value)}")
    return Path(value) if Path in alternatives and value is not None else value


def fits(value: Any, hint: Any) -> bool:
    """Return whether the value is of this type, which is not a union."""
    if get_origin(hint) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(hint))
    if not isinstance(value, _types(hint)) or (isinstance(value, bool) and hint is not bool):
        return False
    if hint in (int, float) and isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or isfinite(value)


def words(kind: Any, values: Mapping[str, Any]) -> list[str]:
    """Return the values as options of a command line, such as --no-wipe and --decay=0.9; kind as in `checked`."""
    found = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if _hints(kind)[name] is bool:
            found.append(f"--{option}" if value else f"--no-{option}")
        else:
            found.append(f"--{option}={value}")
    return found


def _types(hint: Any) -> tuple[type, ...]:
    """Return the types that the values of a hint can have."""
    if get_origin(hint) is Literal:
        return tuple({type(known) for known in get_args(hint)})
    return {float: (float, int), Path: (str, os.PathLike)}.get(hint, (hint,))


def _described(hint: Any) -> str:
    return f"one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else _EXPECTED[hint]
