"""Parse and check a search space: the values or the range of each searched setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ..running.runs import PLACES, RunSettings

EXPECTED = {bool: "True or False", int: "a whole number", float: "a finite number", NoneType: "None", str: "text"}
SPELLED = {"True": True, "False": False, "None": None}


class Range(NamedTuple):
    """The numbers from low to high, uniform or log-uniform. Whole numbers if both ends are int."""

    low: float
    high: float
    log: bool


Space = dict[str, list[Any] | Range]  # by the setting's name


def parse(words: list[str], base: RunSettings, ranges: bool) -> Space:
    """Return the space of the words NAME=VALUES. Raise ValueError for settings that cannot be searched.

    base: gives the settings' names and types.
    ranges: whether LOW..HIGH[:log] is allowed as well as lists of values.
    """
    hints = get_type_hints(type(base))
    known = [
        field.name for field in fields(base)
        if field.name not in PLACES and Path not in _alternatives(hints[field.name])
    ]  # fmt: skip
    space: Space = {}
    for word in words:
        name, _, text = word.partition("=")
        name = name.replace("-", "_")
        if not text or name not in known or name in space:
            raise ValueError(f"search: expected NAME=VALUES, once each, with one of {', '.join(known)}; got {word!r}")
        if ".." not in text:
            space[name] = values = [_value(name, hints[name], each) for each in text.split(",")]
            if len(set(values)) < len(values):
                raise ValueError(f"search: expected each value of {name} once, got {word!r}")
        elif ranges:
            space[name] = _range(name, hints[name], text)
        else:
            raise ValueError(f"grid: expected {name}=V,V,..., got {text!r}; ranges need --random N --over")
    return space


def _range(name: str, hint: Any, text: str) -> Range:
    ends, colon, scale = text.partition(":")
    low, high = (_value(name, hint, end) for end in ends.split("..", 1))
    numbers = all(type(end) in (int, float) for end in (low, high))
    if not numbers or not low < high or not isfinite(high - low) or (colon and (scale != "log" or low <= 0)):
        expected = "LOW..HIGH, two finite numbers with LOW < HIGH, or LOW..HIGH:log with 0 < LOW"
        raise ValueError(f"over: expected {name}={expected}; got {text!r}")
    return Range(low, high, bool(scale))


def _value(name: str, hint: Any, text: str) -> Any:
    """Return the text converted to the setting's type. Raise ValueError if it has no such value."""
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            if text in get_args(kind):
                return text
        elif kind in (bool, NoneType):
            if type(SPELLED.get(text, text)) is kind:
                return SPELLED[text]
        else:
            try:
                value = kind(text)
            except ValueError:
                continue
            if kind is not float or isfinite(value):
                return value
    raise ValueError(f"{name}: expected {' or '.join(map(_expected, _alternatives(hint)))}, got {text!r}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _expected(kind: Any) -> str:
    return f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else EXPECTED[kind]


def combinations(space: Space) -> list[dict[str, Any]]:
    """Return all combinations of a space of lists."""
    return [dict(zip(space, values, strict=True)) for values in product(*space.values())]


def check(space: Space, base: RunSettings, ranges: bool) -> None:
    """Raise ValueError if the task refuses a combination of a grid, or an end of a range."""
    for chosen in _ends(space) if ranges else combinations(space):
        replace(base, **chosen)


def without_effect(space: Space, base: RunSettings) -> dict[str, str]:
    """Return the settings that have no effect on any trial, each with the reasons."""
    unused = [type(base).unused(vars(base) | chosen) for chosen in _ends(space)]
    return {
        name: " and ".join(dict.fromkeys(each[name] for each in unused))
        for name in space if all(name in each for each in unused)
    }  # fmt: skip


def _ends(space: Space) -> Iterator[dict[str, Any]]:
    """Yield each listed value and each end of a range, with the first value of all other settings."""
    tried = {name: values if isinstance(values, list) else [values.low, values.high] for name, values in space.items()}
    first = {name: values[0] for name, values in tried.items()}
    for name, values in tried.items():
        for value in values:
            yield first | {name: value}
