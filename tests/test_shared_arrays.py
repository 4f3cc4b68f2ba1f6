"""Arrays in shared memory: each process finds them at the same places, and a file grows for larger ones."""

from __future__ import annotations

import os

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


def test_two_mappings_of_a_file_share_their_arrays_also_after_it_has_grown():
    file = shared_arrays.new_file()
    try:
        ours, theirs = shared_arrays.SharedFile(file), shared_arrays.SharedFile(os.dup(file))
        for shapes in (SMALL, LARGE, SMALL):
            for name, array in ours.arrays(shapes).items():
                array[...] = 7
                assert (theirs.arrays(shapes)[name] == 7).all()
                array[...] = 0
            assert ours.arrays(shapes) is ours.arrays(shapes)
        os.close(theirs._file)
    finally:
        os.close(file)
