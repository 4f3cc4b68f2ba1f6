"""Draw arrays, bars and text as HTML. Colours diverge around zero: blue is negative, white 0, orange positive.

All text from outside passes through `html.escape`.
"""

from __future__ import annotations

import base64
import io
import re
from html import escape

import numpy
from PIL import Image

# Okabe and Ito's blue and vermillion, which colour-blind readers can distinguish, on both sides of white
COLOURS = numpy.array([(0, 46, 82), (0, 114, 178), (255, 255, 255), (213, 94, 0), (92, 32, 0)], float)
PLACES = numpy.array([-1, -0.3, 0, 0.3, 1])


def coloured(values: numpy.ndarray, top: float) -> numpy.ndarray:
    """Return the colours (..., 3), bytes, of values from -top to top."""
    scaled = numpy.clip(numpy.asarray(values, float) / top, -1, 1)
    channels = [numpy.interp(scaled, PLACES, COLOURS[:, channel]) for channel in range(3)]
    return numpy.stack(channels, -1).round().astype("uint8")


def picture(pixels: numpy.ndarray, alt: str, kind: str) -> str:
    """Return an image element of pixels (rows, columns, 3) or grey (rows, columns), bytes. kind: its CSS class."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data, words = base64.b64encode(file.getvalue()).decode(), escape(alt)
    return f'<img class="fw-pixels {kind}" alt="{words}" title="{words}" src="data:image/png;base64,{data}">'


def heat_map(values: numpy.ndarray, top: float, alt: str, kind: str = "") -> str:
    """Return a picture of values (rows, columns)."""
    return picture(coloured(values, top), alt, kind)


def grey(image: numpy.ndarray, alt: str, kind: str = "") -> str:
    """Return a picture of an image (rows, columns) from 0 to 1."""
    return picture((255 * image.clip(0, 1)).astype("uint8"), alt, kind)


def scale(top: float) -> str:
    """Return the colour scale from -top to top."""
    ramp = picture(coloured(numpy.linspace(-top, top, 101)[None], top), "colour scale", "fw-ramp")
    return f'<span class="fw-scale">−{number(top)} {ramp} {number(top)}</span>'


def number(value: float, digits: int = 3) -> str:
    """Return a number with this many significant digits at most."""
    return f"{value:.{digits}g}".replace("-", "−")


def math(text: str) -> str:
    """Return a formula in its own font: h_0(1) and λ^(t−τ) become subscripts and superscripts."""
    lowered = re.sub(r"_(s\+1|\w+)", r"<sub>\1</sub>", escape(text))
    raised = re.sub(r"\^\((.*?)\)", r"<sup>\1</sup>", lowered)
    return f'<span class="fw-math">{raised}</span>'


def bar(share: float, text: str, kind: str = "") -> str:
    """Return a vertical bar of a height from -1 to 1, with a text above it."""
    sign = " fw-negative" if share < 0 else ""
    filled = f'<i class="{kind}{sign}" style="height:{100 * min(abs(share), 1):.1f}%"></i>'
    return f'<span class="fw-bar"><b>{escape(text)}</b>{filled}</span>'


def row(title: str, cells: list[str], selected: int, kind: str) -> str:
    """Return a row of cells, one for each time step, under a title. Later steps than the selected one are faint."""
    marks = [" fw-now" if t == selected else " fw-later" if t > selected else "" for t in range(len(cells))]
    drawn = "".join(f'<div class="fw-cell{mark}">{cell}</div>' for mark, cell in zip(marks, cells, strict=True))
    return f'<div class="fw-title">{title}</div><div class="fw-row {kind}">{drawn}</div>'


def card(title: str, body: str, caption: str = "", kind: str = "") -> str:
    """Return a card with a title, a body and a caption. They are HTML."""
    below = f'<p class="fw-caption">{caption}</p>' if caption else ""
    return f'<section class="fw-card {kind}"><div role="heading" aria-level="2">{title}</div>{body}{below}</section>'


def equation(text: str, numbers: str) -> str:
    """Return an equation with its numbers in the paper."""
    return f'<div class="fw-equation">{math(text)}<span class="fw-number">{numbers}</span></div>'
