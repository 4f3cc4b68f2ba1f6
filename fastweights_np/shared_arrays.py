"""Place named arrays in memory that several processes share: equal shapes give equal places in each process."""

from __future__ import annotations

import mmap
import os
import tempfile
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


def new_file() -> int:
    """Return the descriptor of a file without a name, in memory where the system can. It is freed when it is closed."""
    with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        return os.dup(file.fileno())


class SharedFile:
    """Arrays in a file that two processes map into their memory. It grows when it has to.

    file: the descriptor of the same file in each process.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._shapes: Shapes = ()
        self._arrays: dict[str, Array] = {}

    def arrays(self, shapes: Shapes) -> dict[str, Array]:
        """Return an array for each name. If the shapes differ from the last call's, the last call's arrays are lost."""
        if shapes != self._shapes:
            needed = max(size(shapes), ALIGNMENT)
            if os.fstat(self._file).st_size < needed:
                # allocated now, with an error if there is no room; after ftruncate alone, writing to it may crash
                getattr(os, "posix_fallocate", lambda file, _, size: os.ftruncate(file, size))(self._file, 0, needed)
            self._arrays = place(shapes, mmap.mmap(self._file, needed))
            self._shapes = shapes
        return self._arrays
