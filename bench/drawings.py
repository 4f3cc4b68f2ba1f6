"""Draw a digit and its glimpses."""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image, ImageDraw

from tasks import figures
from tasks.vision import glimpses

FINER = 8  # the digit is drawn at this many times its size, then reduced, which smooths the edges


def digit() -> numpy.ndarray:
    """Return the image (28, 28) of a white five on black."""
    image, pen = _canvas(28, background=0)
    top, stem, bowl = [(19, 6.5), (11, 6.5)], [(11, 6.5), (10, 13)], (7, 11, 19, 22)
    for line in (top, stem):
        pen.line([(FINER * x, FINER * y) for x, y in line], fill=255, width=2 * FINER + 4)
    pen.arc([FINER * x for x in bowl], start=215, end=150, fill=255, width=2 * FINER + 4)
    return _smoothed(image)


def draw_glimpses(path: Path) -> None:
    """Draw the digit and its 24 glimpses, as the tasks' models see them."""
    image = digit()
    figures.glimpses(path, "A drawn digit and its glimpses, one quadrant a row", image, *glimpses.shown(image, 7))


def _canvas(side: int, background: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (FINER * side, FINER * side), background)
    return image, ImageDraw.Draw(image)


def _smoothed(image: Image.Image) -> numpy.ndarray:
    return numpy.asarray(image.reduce(FINER))
