"""A tree as JSON and arrays, which a checkpoint stores and rebuilds without pickle.

    tree       {"params": {"W": W}, "sizes": (3, 4.5), "state": irnn.State(h)}
    structure  {"params": {"W": ["array"]}, "sizes": ["tuple", 3, 4.5], "state": ["irnn.State", {"h": ["array"]}]}
    arrays     {"tree/params/W": W, "tree/state/h": h}

None, bool, int, float, text and dict are JSON's own. Everything else is a list in JSON, which begins with its kind. The
classes of this package that only hold values, such as the State of a layer or a network, are stored by their names.
"""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from typing import Any

import numpy

from .backend import Array, array_module, is_device_array
from .trees import SEPARATOR

PLAIN = (bool, int, float, str, type(None))
NUMBERS = "biufc"  # kinds of dtype: boolean, integer, unsigned, floating-point, complex
DEEPEST = 100  # levels of a tree
FORMER = {"network.Network": ("processes",)}  # settings that earlier releases stored, and that change no result


class OtherRelease(ValueError):
    """A structure names a class or a field that this release does not have."""


def split(name: str, tree: Any) -> tuple[Any, dict[str, Array]]:
    """Return (structure, arrays by path); `name` begins each path.

    Raises TypeError for a value of another kind, such as a subclass of dict, which would come back as a plain dict.
    Raises ValueError for a key that is not text, for two arrays of one path, and for more than DEEPEST levels.
    """
    arrays: dict[str, Array] = {}
    return _split(name, tree, arrays, DEEPEST), arrays


def difference(name: str, found: Any, expected: Any) -> str | None:
    """Return where two trees differ in structure, or in the shape or dtype of an array; None if nowhere."""
    (got, theirs), (wanted, ours) = split(name, found), split(name, expected)
    for path in ours | theirs:
        one, other = _described(theirs.get(path)), _described(ours.get(path))
        if one != other:
            return f"{path}: expected {other}, got {one}"
    return _first_difference(name, got, wanted)


def _first_difference(path: str, got: Any, wanted: Any) -> str | None:
    """Return where two structures differ; None if nowhere. A structure that is absent is ["nothing"]."""
    if isinstance(got, dict) and isinstance(wanted, dict):
        for key in wanted | got:
            below = got.get(key, ["nothing"]), wanted.get(key, ["nothing"])
            if found := _first_difference(path + SEPARATOR + key, *below):
                return found
        return None
    if got == wanted:
        return None
    expected, other = (
        each[0] if isinstance(each, list) else "a dict" if isinstance(each, dict) else repr(each)
        for each in (wanted, got)
    )
    return f"{path}: expected {expected}, got {other}"


def class_name(kind: type) -> str | None:
    """Return the name that `split` gives to this class, None if it cannot be stored.

    It is a named tuple or a frozen dataclass, and belongs to this package.
    """
    package, _, module = kind.__module__.rpartition(".")
    parameters = getattr(kind, "__dataclass_params__", None)
    holds_values = parameters.frozen if parameters else issubclass(kind, tuple) and hasattr(kind, "_fields")
    return f"{module}.{kind.__name__}" if package == __package__ and holds_values else None


def _split(path: str, node: Any, arrays: dict[str, Array], levels: int) -> Any:
    """Return the structure of a node that has at most this number of levels."""
    kind = type(node)
    if kind in PLAIN:
        return node
    if kind is dict:
        return _split_each(path, node, arrays, levels)
    if kind is list or kind is tuple:
        branches = {str(n): value for n, value in enumerate(node)}
        return [kind.__name__, *_split_each(path, branches, arrays, levels).values()]
    if name := class_name(kind):
        return [name, _split_each(path, {key: getattr(node, key) for key in _fields(kind)}, arrays, levels)]
    if isinstance(node, numpy.generic) or kind is complex:
        label, array = "complex" if kind is complex else "number", numpy.asarray(node)
    elif isinstance(node, numpy.ndarray) or is_device_array(node):
        label, array = "array", node
        array_module(**{path: array})  # raises for a masked array
    else:
        raise TypeError(
            f"{path}: expected an array, a number, text, None, or a dict, list or tuple of them, got "
            f"{kind.__module__}.{kind.__qualname__}; convert it, or leave it out"
        )
    if array.dtype.kind not in NUMBERS:
        raise TypeError(f"{path}: expected an array of numbers, got {array.dtype}; convert it, or leave it out")
    if path in arrays:
        raise ValueError(f"{path}: expected one array of this path, got two; rename a key with {SEPARATOR!r} in it")
    arrays[path] = array
    return [label]


def _split_each(path: str, branches: dict[str, Any], arrays: dict[str, Array], levels: int) -> dict[str, Any]:
    if not levels:
        raise ValueError(f"{path[:50]}...: expected at most {DEEPEST} levels, got more; does it contain itself?")
    for key in branches:
        if type(key) is not str:
            raise ValueError(f"{path}: expected keys that are text, got {key!r}; rename it")
    return {key: _split(path + SEPARATOR + key, value, arrays, levels - 1) for key, value in branches.items()}


def join(path: str, structure: Any, arrays: dict[str, Array]) -> Any:
    """Return the tree, and take its arrays out of `arrays`; inverts `split`.

    Raises OtherRelease, or any error for what `split` did not return.
    """
    if isinstance(structure, dict):
        return {key: join(path + SEPARATOR + key, value, arrays) for key, value in structure.items()}
    if not isinstance(structure, list):
        return structure
    label, *values = structure
    if label in ("list", "tuple"):
        branches = [join(f"{path}{SEPARATOR}{n}", value, arrays) for n, value in enumerate(values)]
        return branches if label == "list" else tuple(branches)
    if label in ("array", "number", "complex"):
        array = arrays.pop(path)
        return array if label == "array" else array[()] if label == "number" else array.item()
    return _rebuilt(path, label, join(path, values[0], arrays))


def _rebuilt(path: str, name: str, values: dict[str, Any]) -> Any:
    """Return an object of the class that `class_name` named."""
    module, _, attribute = name.partition(".")
    kind = getattr(sys.modules.get(f"{__package__}.{module}"), attribute, None)  # imports nothing
    if not isinstance(kind, type) or class_name(kind) is None:
        raise OtherRelease(f"{path}: expected a class of this release, got {name}")
    values = {key: value for key, value in values.items() if key not in FORMER.get(name, ())}
    if unknown := values.keys() - set(_fields(kind)):
        raise OtherRelease(f"{path}: expected the settings of {name}, got {', '.join(sorted(unknown))}, too")
    return kind(**values)


def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else kind._fields


def _described(array: Array | None) -> str:
    return "nothing" if array is None else f"{array.dtype} of shape {tuple(array.shape)}"
