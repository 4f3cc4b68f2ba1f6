"""Checkpoints: one .npz file of plain arrays (no pickle), written completely or not at all.

All other data (settings, counters, a generator's state) is stored as JSON, see structures.py. The file ends with the
SHA-256 of all bytes before it, as the comment of the zip archive that an .npz file is. `numpy.load` reads the file;
`load` also checks it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy

from . import checks
from .backend import to_host
from .files import whole
from .structures import NUMBERS, OtherRelease, join, split
from .trees import unflatten

__all__ = ["CheckpointError", "load", "save"]

OLDEST, VERSION = 2, 3  # the versions that can be loaded; the one that is written
DIGEST_SIZE = 64  # hexadecimal digits of a SHA-256
START, END = b"PK\3\4", b"PK\5\6"  # of a zip archive: the first bytes of all, and of the record at the end
LONGEST = 10_000  # most bytes of a name in the file
_HEADER, _INFO, _ARRAYS = "info", "info", "arrays"
_READ_HEADER = {
    (1, 0): numpy.lib.format.read_array_header_1_0,
    (2, 0): numpy.lib.format.read_array_header_2_0,
}


class CheckpointError(ValueError):
    """The file is damaged, or is not a checkpoint of this version."""


def save(path: str | Path, arrays: Any, info: dict[str, Any] | None = None) -> None:
    """Write two trees as one file; if anything fails, the old file stays.

    A tree is an array (NumPy or CuPy), a number of Python or NumPy, a bool, None, text, or a dict, list or tuple of
    trees. It may also hold a State, a network, or a part of one. `load` returns the same values with the same types.
    By convention, `arrays` has what is trained and `info` the rest. Keys of dicts are text.

    Raises OSError if the file cannot be written. Raises TypeError or ValueError, with the place in the tree, for what
    `load` could not return.
    """
    info = {} if info is None else info
    checks.instance("info", info, dict, "pass one with keys that are text")
    structure, flat = split(_ARRAYS, arrays)
    more, flat_info = split(_INFO, info)
    flat |= flat_info
    for name in flat:
        if (
            "\0" in name
            or len(name.encode(errors="replace")) > LONGEST
            or name != name.encode(errors="replace").decode()
        ):
            raise ValueError(f"{name[:50]!r}: expected keys of plain text, {LONGEST} bytes in all at most; rename it")
    text = json.dumps({"version": VERSION, _ARRAYS: structure, _INFO: more})
    members = {_HEADER: numpy.frombuffer(text.encode(), numpy.uint8)} | to_host(flat)
    content = io.BytesIO()
    numpy.savez(content, **members)
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = bytes(DIGEST_SIZE)  # reserves the digest's place; it also covers the comment's length
    signed = content.getbuffer()[:-DIGEST_SIZE]
    with whole(path) as file:
        file.write(signed)
        file.write(_digest(signed))


def load(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Return the arguments of `save`: (arrays, info). All arrays are on the host.

    Raises FileNotFoundError if there is no file, and OSError if it cannot be read. Raises CheckpointError, a
    ValueError, if it is damaged, not a checkpoint, or of another version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path}: expected a file that save() wrote, found none; check the folder")
    if not path.is_file():  # reading a pipe would wait forever
        raise CheckpointError(f"checkpoint {path}: expected a regular file, got a folder or a device; name another one")
    content = path.read_bytes()
    if not START.startswith(content[:4]) and END not in content[-DIGEST_SIZE - 22 :]:
        raise CheckpointError(
            f"checkpoint {path}: expected a file that save() wrote, got one that is not a checkpoint (no .npz file); "
            "name another one, such as checkpoint.npz in the output folder of a run"
        )
    if content[-DIGEST_SIZE:] != _digest(memoryview(content)[:-DIGEST_SIZE]):
        raise CheckpointError(
            f"checkpoint {path}: expected a file that save() wrote, got one that is damaged, truncated, "
            f"something else, or of a format older than {OLDEST} (its SHA-256 does not match); "
            "use another copy, or start anew without it"
        )
    try:
        return _trees(_members(content))
    except OtherRelease as error:
        raise CheckpointError(
            f"checkpoint {path}: {error}; load it with the release that wrote it, or start anew"
        ) from error
    except Exception as error:  # any error here means that save() did not write the content
        raise CheckpointError(
            f"checkpoint {path}: expected a file that save() wrote, got something else "
            f"({type(error).__name__}: {error}); use another copy, or start anew without it"
        ) from error


def _trees(flat: dict[str, numpy.ndarray]) -> tuple[Any, dict[str, Any]]:
    """Return (arrays, info) from the file's members."""
    header = json.loads(flat.pop(_HEADER).tobytes())
    version = header["version"]
    if version == VERSION:
        arrays, info = join(_ARRAYS, header[_ARRAYS], flat), join(_INFO, header[_INFO], flat)
        if flat:
            raise ValueError(f"expected no arrays without a place in a tree, got {', '.join(flat)}")
    elif version == 2:  # arrays were nested dicts, and info was JSON
        arrays, info = unflatten(flat).get(_ARRAYS, {}), header[_INFO]
    else:
        raise OtherRelease(f"expected version {OLDEST} to {VERSION}, got {version}")
    checks.instance("info", info, dict, "mend the file")
    return arrays, info


def _digest(content: memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _members(content: bytes) -> dict[str, numpy.ndarray]:
    """Return the arrays of an .npz file by name. Sizes that the file claims are checked before they are used."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                raise ValueError(f"{member.filename}: expected it uncompressed, and not larger than the file")
        return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}


def _array(member: bytes) -> numpy.ndarray:
    stream = io.BytesIO(member)
    shape, fortran_order, dtype = _READ_HEADER[numpy.lib.format.read_magic(stream)](stream)
    if dtype.kind not in NUMBERS or stream.tell() + prod(shape) * dtype.itemsize != len(member):
        raise ValueError(f"expected an array of numbers that fills its member, got {dtype} of shape {shape}")
    flat = numpy.frombuffer(member, dtype, prod(shape), stream.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C").copy("K")
