"""Checkpoints: one .npz file of plain arrays (no pickle), written completely or not at all.

All other data (settings, counters, a generator's state) is stored as JSON. The file ends with the SHA-256 of all bytes
before it, as the comment of the zip archive that an .npz file is. `numpy.load` reads the file; `load` also checks it.
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
from .backend import array_module, to_host
from .files import whole
from .trees import flatten, unflatten

__all__ = ["CheckpointError", "load", "save"]

VERSION = 2
DIGEST_SIZE = 64  # hexadecimal digits of a SHA-256
NUMBERS = "biufc"  # kinds of dtype: boolean, integer, unsigned, floating-point, complex
LONGEST = 10_000  # most bytes of a name in the file
_INFO, _ARRAYS = "info", "arrays"
_READ_HEADER = {
    (1, 0): numpy.lib.format.read_array_header_1_0,
    (2, 0): numpy.lib.format.read_array_header_2_0,
}


class CheckpointError(ValueError):
    """The file is damaged, or is not a checkpoint of this version."""


def save(path: str | Path, arrays: dict[str, Any], info: dict[str, Any]) -> None:
    """Write a nested dict of arrays (NumPy or CuPy) and a JSON-able dict; if anything fails, the old file stays.

    Keys are strings without "/", their separator in the file. No dict inside `arrays` may be empty. JSON has no tuples:
    a tuple inside `info` is loaded as a list.

    Raises OSError if the file cannot be written. Raises TypeError for a leaf that is not an array of numbers, or for
    info that is not JSON. Raises ValueError for a key or a dict that would be lost.
    """
    checks.instance("info", info, dict, "pass one with keys that are text")
    _check_keys(info)
    try:
        text = json.dumps({"version": VERSION, "info": info})
    except TypeError as error:
        raise TypeError(f"info: expected numbers, text, lists and dicts of Python: {error}; convert it") from error
    flat = {_INFO: numpy.frombuffer(text.encode(), numpy.uint8)}
    for name, array in flatten({_ARRAYS: arrays} if arrays else {}).items():
        array_module(**{name: array})  # raises for a leaf that is not an array
        if array.dtype.kind not in NUMBERS:
            raise TypeError(f"{name}: expected an array of numbers, got {array.dtype}; what is no array goes into info")
        if (
            "\0" in name
            or len(name.encode(errors="replace")) > LONGEST
            or name != name.encode(errors="replace").decode()
        ):
            raise ValueError(f"{name[:50]!r}: expected keys of plain text, {LONGEST} bytes in all at most; rename it")
        flat[name] = to_host(array)
    content = io.BytesIO()
    numpy.savez(content, **flat)  # type: ignore[arg-type]
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = bytes(DIGEST_SIZE)  # reserves the digest's place; it also covers the comment's length
    signed = content.getbuffer()[:-DIGEST_SIZE]
    with whole(path) as file:
        file.write(signed)
        file.write(_digest(signed))


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `save`: (arrays, on the host; info).

    Raises FileNotFoundError if there is no file, and OSError if it cannot be read. Raises CheckpointError, a
    ValueError, if it is damaged, not a checkpoint, or of another version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path}: expected a file that save() wrote, found none; check the folder")
    if not path.is_file():  # reading a pipe would wait forever
        raise CheckpointError(f"checkpoint {path}: expected a regular file, got a folder or a device; name another one")
    content = path.read_bytes()
    if content[-DIGEST_SIZE:] != _digest(memoryview(content)[:-DIGEST_SIZE]):
        raise CheckpointError(
            f"checkpoint {path}: expected a file that save() wrote, got one that is damaged, truncated, "
            f"something else, or older than version {VERSION} (its SHA-256 does not match); "
            "use another copy, or start anew without it"
        )
    try:
        flat = _members(content)
        header = json.loads(flat.pop(_INFO).tobytes())
        version, info, arrays = header["version"], header["info"], unflatten(flat).get(_ARRAYS, {})
    except Exception as error:  # any error here means that save() did not write the content
        raise CheckpointError(
            f"checkpoint {path}: expected a file that save() wrote, got something else "
            f"({type(error).__name__}: {error}); use another copy, or start anew without it"
        ) from error
    if version != VERSION:
        raise CheckpointError(
            f"checkpoint {path}: expected version {VERSION}, got {version}; "
            "load it with the release that wrote it, or start anew"
        )
    return arrays, info


def _check_keys(info: Any) -> None:
    """Raise TypeError for a key that JSON would convert to a string."""
    for key in info if isinstance(info, dict) else ():
        if not isinstance(key, str):
            raise TypeError(f"info: expected keys that are text, got {key!r}; rename it")
    for value in info.values() if isinstance(info, dict) else info if isinstance(info, list | tuple) else ():
        _check_keys(value)


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
