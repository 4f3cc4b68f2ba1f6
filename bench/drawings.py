"""Drawings to show glimpses of: a digit of MNIST's size, and a face of FER-2013's, whose own may not be shown."""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image, ImageDraw

from tasks import figures

FINER = 8  # drawn so many times as large and then made smaller, which smooths the edges


def digit() -> numpy.ndarray:
    """A five, white on black (28, 28)."""
    image, pen = _canvas(28, background=0)
    top, stem, bowl = [(19, 6.5), (11, 6.5)], [(11, 6.5), (10, 13)], (7, 11, 19, 22)
    for line in (top, stem):
        pen.line([(FINER * x, FINER * y) for x, y in line], fill=255, width=2 * FINER + 4)
    pen.arc([FINER * x for x in bowl], start=215, end=150, fill=255, width=2 * FINER + 4)
    return _smoothed(image)


def face() -> numpy.ndarray:
    """A smiling face in greys (48, 48)."""
    image, pen = _canvas(48, background=70)

    def ellipse(x: float, y: float, width: float, height: float, grey: int) -> None:
        pen.ellipse([FINER * (x - width), FINER * (y - height), FINER * (x + width), FINER * (y + height)], fill=grey)

    ellipse(24, 22, 21, 24, 30)  # hair
    ellipse(24, 26, 17, 20, 190)
    for x in (17, 31):
        ellipse(x, 22, 4, 2.4, 245)
        ellipse(x, 22, 1.9, 2.2, 20)
        pen.arc([FINER * v for v in (x - 5, 15, x + 5, 22)], start=200, end=340, fill=40, width=FINER)  # brow
    pen.line([(FINER * x, FINER * y) for x, y in ((24, 23), (22, 30), (25, 31))], fill=120, width=FINER)  # nose
    pen.chord([FINER * v for v in (15, 28, 33, 42)], start=15, end=165, fill=90)  # mouth
    pen.chord([FINER * v for v in (17, 30, 31, 39)], start=20, end=160, fill=235)  # teeth
    return _smoothed(image)


def draw_glimpses(folder: Path) -> None:
    """glimpses-digit.png and glimpses-face.png: each drawing, and the 24 glimpses that the tasks' models see of it."""
    for name, image, patch in (("digit", digit(), 7), ("face", face(), 12)):
        figures.glimpses(folder / f"glimpses-{name}.png", image, patch)


def _canvas(side: int, background: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (FINER * side, FINER * side), background)
    return image, ImageDraw.Draw(image)


def _smoothed(image: Image.Image) -> numpy.ndarray:
    return numpy.asarray(image.reduce(FINER))
