"""Checks of arguments. An error names the argument, the expected and the given value, and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

import numpy

from .backend import Array, is_device_array

FLOATS = ("float32", "float64")


def shape(name: str, array: Any, expected: Sequence[int | str], remedy: str = "") -> None:
    """Raise ValueError unless `array` has the expected shape; a str in `expected` names an axis of any size >= 1.

    Raises TypeError for an object that is not an array.
    """
    if not hasattr(array, "shape"):
        raise TypeError(f"{name}: expected a NumPy or CuPy array, got {type(array).__name__}")
    got = tuple(array.shape)
    fits = len(got) == len(expected) and all(
        size >= 1 if isinstance(axis, str) else size == axis for size, axis in zip(got, expected, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join(str(axis) for axis in expected) + ("," if len(expected) == 1 else "") + ")"
        if any(isinstance(axis, str) for axis in expected):
            wanted += " with every size at least 1"
        raise ValueError(f"{name}: expected shape {wanted}, got {got}" + (f"; {remedy}" if remedy else ""))


def on_host(name: str, array: Any, kind: str) -> None:
    """Raise TypeError unless the array is NumPy's, on the host."""
    if not isinstance(array, numpy.ndarray):
        remedy = "move it to the host with to_host" if is_device_array(array) else "convert it with numpy.asarray"
        raise TypeError(f"{name}: expected a NumPy array of {kind}, got {type(array).__name__}; {remedy}")


def given(**arrays: Array | None) -> dict[str, Array]:
    """Return the optional arrays that were given: the ones that are not None."""
    return {name: array for name, array in arrays.items() if array is not None}


def floating(**arrays: Array) -> None:
    """Raise TypeError unless all arrays share one dtype, float32 or float64."""
    first, first_dtype = "", None
    for name, array in arrays.items():
        if array.dtype.char not in "fd":  # float32 or float64; reading .name takes NumPy 3 µs
            raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}; convert it with .astype")
        if first and array.dtype != first_dtype:
            raise TypeError(
                f"{name}: expected {first_dtype}, the dtype of {first}, got {array.dtype}; "
                "no operation converts dtypes; convert one of the two with .astype"
            )
        first, first_dtype = first or name, array.dtype


def writable(name: str, arrays: Mapping[str, Array]) -> None:
    """Raise ValueError unless all arrays are writable and no two of them share memory."""
    hosted = [(key, array) for key, array in arrays.items() if isinstance(array, numpy.ndarray)]
    for n, (key, array) in enumerate(hosted):
        if not array.flags.writeable:
            raise ValueError(f"{name}[{key!r}]: expected an array that can be changed, got a read-only one; copy it")
        for other, earlier in hosted[:n]:
            if array is not earlier and array.base is None and earlier.base is None:
                continue  # each owns its memory; this check is faster than comparing addresses
            if numpy.may_share_memory(array, earlier) and numpy.shares_memory(array, earlier):
                raise ValueError(
                    f"{name}[{key!r}]: expected memory of its own, got memory that {other!r} has too, which would be "
                    "changed twice; copy one, or keep it under one name"
                )


def boolean(name: str, value: bool) -> None:
    """Raise TypeError unless value is True or False, Python's or NumPy's."""
    if not isinstance(value, bool | numpy.bool_):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}; pass True or False")


def indices(name: str, array: Array, size: int) -> None:
    """Raise TypeError unless `array` holds integers, ValueError unless they are in [0, size).

    Values are checked only on the host: reading them on a GPU would make the host wait. Check data before moving it to
    a GPU, because CuPy silently wraps an index that is out of range.
    """
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}; convert it with .astype(int)")
    if isinstance(array, numpy.ndarray) and array.size and (array.min() < 0 or array.max() >= size):
        flat = numpy.flatnonzero((array < 0) | (array >= size))[0]
        place = tuple(int(i) for i in numpy.unravel_index(flat, array.shape))
        raise ValueError(f"{name}: expected values from 0 to {size - 1}, got {array[place]} at index {place}")


def fraction(name: str, value: float) -> None:
    """Raise TypeError unless value is a number, ValueError unless 0 <= value <= 1."""
    number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")


def not_negative(name: str, value: float) -> None:
    """Raise TypeError unless value is a number, ValueError unless it is finite and >= 0."""
    number(name, value)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")


def positive(name: str, value: float) -> None:
    """Raise TypeError unless value is a number, ValueError unless it is finite and > 0."""
    number(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")


def finite(name: str, value: float, dtype: str = "float64") -> None:
    """Raise TypeError unless value is a number, ValueError unless it is finite in this dtype."""
    number(name, value)
    if not abs(value) <= float(numpy.finfo(dtype).max):
        raise ValueError(f"{name}: expected a finite number in {dtype}, got {value}")


def number(name: str, value: float) -> None:
    """Raise TypeError unless value is a real number (a Python or NumPy scalar, not an array, not a bool)."""
    if isinstance(value, bool) or not isinstance(value, int | float | numpy.integer | numpy.floating):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}; pass a Python float")


def count(name: str, value: int, least: int) -> None:
    """Raise TypeError unless value is an integer, ValueError unless it is at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | numpy.integer):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def instance(name: str, value: object, kind: type, remedy: str) -> None:
    """Raise TypeError unless value is an instance of `kind`."""
    if not isinstance(value, kind):
        expected, got = kind.__name__, type(value).__name__
        if expected == got:  # for example the caches or states of two layers
            expected, got = (f"{each.__module__.rpartition('.')[2]}.{got}" for each in (kind, type(value)))
        raise TypeError(f"{name}: expected a {expected}, got {got}; {remedy}")


def generator(name: str, value: object) -> None:
    """Raise TypeError unless value is a numpy.random.Generator."""
    instance(name, value, numpy.random.Generator, "make one by numpy.random.default_rng(0)")


def choice(name: str, value: str, known: Sequence[str] | Mapping[str, object]) -> None:
    """Raise ValueError unless value is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(sorted(known))}; got {value!r}")


def keys(
    name: str, mapping: Mapping[str, object], required: Sequence[str], optional: Sequence[str] = (),
    remedy: str = "make it with init()",
) -> None:  # fmt: skip
    """Raise ValueError unless `mapping` holds all required names and no others, except optional ones.

    Raises TypeError for an object that is not a dict.
    """
    instance(name, mapping, dict, remedy)
    missing = [key for key in required if key not in mapping]
    unknown = [key for key in mapping if key not in required and key not in optional]
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(f"{name}: expected {', '.join(required)}; {'; '.join(parts)}; {remedy}")


def options(name: str, given: Mapping[str, object], function: Callable[..., object], passed: Collection[str]) -> None:
    """Raise ValueError unless the names in `given` are arguments of the function, other than the ones in `passed`.

    Arguments without a default must be among them. Raises TypeError for an object that is not a dict.
    """
    instance(name, given, dict, "pass the options by their names")
    parameters = {key: each for key, each in signature(function).parameters.items() if key not in passed}
    known = list(parameters)
    for key in given:
        if key not in known:
            nearest = "".join(f"; did you mean {each!r}?" for each in get_close_matches(str(key), known, 1))
            wanted = f"names among {', '.join(known)};" if known else "none,"
            raise ValueError(f"{name}: expected {wanted} got {key!r}{nearest}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in given:
            raise ValueError(f"{name}: expected {key!r}, which has no default, got none; pass {name}={{{key!r}: ...}}")
