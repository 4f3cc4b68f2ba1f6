"""Checkpoints: one .npz file of plain arrays (no pickle) that is either whole or not there.

The file is written beside its final name, flushed to the disk and renamed, so a process that is killed at any moment
leaves the checkpoint before or the new one. What is no array (settings, counters, a generator's state) goes in as JSON.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy

from .backend import to_host
from .trees import flatten, unflatten

VERSION = 1
# what reading a file that is damaged somewhere raises, by where it is
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError, AttributeError, OSError,
           NotImplementedError, RuntimeError)  # fmt: skip
_INFO, _ARRAYS = "info", "arrays"


def save(path: str | Path, arrays: dict[str, Any], info: dict[str, Any]) -> None:
    """Writes a nested dict of arrays (NumPy or CuPy) and a JSON-able dict.

    Raises OSError if the folder refuses, TypeError for what can be stored neither as plain arrays nor as JSON.
    """
    path = Path(path)
    text = json.dumps({"version": VERSION, "info": info})
    flat = flatten({_ARRAYS: to_host(arrays)})
    for name, array in flat.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name}: expected an array of numbers, got {array.dtype}; what is no array goes into info")
    flat[_INFO] = numpy.frombuffer(text.encode(), numpy.uint8)
    beside = path.with_name(path.name + ".writing")
    with open(beside, "wb") as file:
        numpy.savez(file, **flat)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `save` was given: (arrays, on the host; info).

    Raises FileNotFoundError if there is none, ValueError if it is truncated, no checkpoint, or of another version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path}: expected a file that save() wrote, found none; check the folder")
    try:
        with open(path, "rb") as opened, numpy.load(opened, allow_pickle=False) as file:
            flat = {name: file[name] for name in file.files}
        header = json.loads(flat.pop(_INFO).tobytes())
        version, info = header["version"], header["info"]
    except _BROKEN as error:
        raise ValueError(
            f"checkpoint {path}: expected a file that save() wrote, got one that is truncated or something else "
            f"({type(error).__name__}: {error}); start anew without it"
        ) from error
    if version != VERSION:
        raise ValueError(
            f"checkpoint {path}: expected version {VERSION}, got {version}; "
            "load it with the release that wrote it, or start anew"
        )
    return unflatten(flat).get(_ARRAYS, {}), info
