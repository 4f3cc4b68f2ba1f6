"""Place named arrays in memory that several processes share: equal shapes give equal places in each process."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy

from .backend import Array

Shapes = Sequence[tuple[str, tuple[int, ...], str]]  # name, shape and dtype of each array

ALIGNMENT = 64  # bytes of a cache line: each array begins one


def size(shapes: Shapes) -> int:
    """Return the number of bytes of memory that the arrays take."""
    return sum(_size(shape, dtype) for _, shape, dtype in shapes)


def place(shapes: Shapes, memory: Any) -> dict[str, Array]:
    """Return an array for each name, one after another in `memory`, an object with a writable buffer."""
    arrays, start = {}, 0
    for name, shape, dtype in shapes:
        arrays[name] = numpy.frombuffer(memory, dtype, prod(shape), start).reshape(shape)
        start += _size(shape, dtype)
    return arrays


def _size(shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes of one array, rounded up to whole cache lines."""
    return -(-prod(shape) * numpy.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
