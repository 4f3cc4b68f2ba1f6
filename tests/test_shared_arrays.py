"""Arrays in shared memory: each process finds them at the same places."""

from __future__ import annotations

import numpy

from fastweights_np import shared_arrays

SMALL = (("h", (3,), "float32"), ("counts", (2, 2), "int64"))
LARGE = (*SMALL, ("empty", (0, 4), "float64"), ("A", (50, 50), "float64"))


def test_arrays_begin_cache_lines_and_do_not_overlap():
    memory = bytearray(shared_arrays.size(LARGE))
    arrays = shared_arrays.place(LARGE, memory)
    places = []
    for name, shape, dtype in LARGE:
        assert (arrays[name].shape, arrays[name].dtype) == (shape, dtype)
        begin = arrays[name].ctypes.data - numpy.frombuffer(memory, "uint8").ctypes.data
        places.append((begin, begin + arrays[name].nbytes))
    assert all(begin % 64 == 0 for begin, _ in places)
    ends = [0, *(end for _, end in places)]
    assert all(begin >= end for (begin, _), end in zip(places, ends, strict=False))
    assert shared_arrays.size(LARGE) == 64 + 64 + 50 * 50 * 8 + 32
