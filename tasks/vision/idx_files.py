"""Read an IDX file, the format of MNIST, plain or compressed by gzip, in bounded memory.

The format: two zero bytes, a byte for the type of the values, a byte for the number of axes, the size of each axis as a
big-endian 32-bit number, then the values, big-endian.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO

import numpy

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_BYTES = 1 << 30  # of values; MNIST has 47 million, EMNIST, the largest set in this format, 547 million
GZIP = b"\x1f\x8b"
CHUNK = 1 << 20


def read_idx(path: Path) -> numpy.ndarray:
    """Return the values of an IDX file of any type and shape. Its first bytes show whether it is compressed.

    Raise ValueError, naming the file and the defect. No more bytes are decompressed than the header specifies.
    """
    with open(path, "rb") as file:
        compressed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if not compressed:
            return _values(path, file)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _values(path, unpacked)  # type: ignore[arg-type]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: expected a gzip file, got a broken one ({error}); fetch it again") from error


def _values(path: Path, file: IO[bytes]) -> numpy.ndarray:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPES or not 1 <= start[3] <= 4:
        raise ValueError(
            f"{path}: expected an IDX file, which begins with 00 00, a type ({', '.join(f'{t:02x}' for t in TYPES)}) "
            f"and 1 to 4 axes, got {start.hex(' ') or 'an empty file'}"
        )
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise ValueError(f"{path}: expected a header of {4 + 4 * start[3]} bytes, got {4 + len(sizes)} in all")
    shape = tuple(int(size) for size in numpy.frombuffer(sizes, ">u4"))
    dtype = numpy.dtype(TYPES[start[2]])
    wanted = math.prod(shape) * dtype.itemsize
    if not wanted:
        raise ValueError(f"{path}: expected at least one value, its header says {shape}")
    if wanted > MOST_BYTES:
        raise ValueError(f"{path}: expected at most {MOST_BYTES} bytes of values, its header says {shape} of {dtype}")
    content = bytearray()
    # one byte more than specified: it detects a file that is too long, and makes gzip check its checksum
    while chunk := file.read(min(CHUNK, wanted + 1 - len(content))):
        content += chunk
    if len(content) != wanted:
        got = f"{len(content)}: it is cut short" if len(content) < wanted else "more: it is too long"
        raise ValueError(f"{path}: expected {wanted} bytes of values, {shape} of {dtype} as its header says, got {got}")
    return numpy.frombuffer(content, dtype).reshape(shape)
