"""Draw what trained networks attend to, and the episodes of agents.

In every picture bright is strong, all cells share one colour bar, and what was not stored yet is hatched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy
from PIL import Image

from fastweights_np import files

from ..running.layers import LayerSettings
from .style import save, title

STRENGTH = "attention: match with the stored state,\nfaded with its age"  # η λ^age h(τ)·h_0, equation (4)


def attention(
    path: Path, settings: LayerSettings, strings: list[str], answers: list[str], strengths: numpy.ndarray
) -> None:  # fmt: skip
    """Draw how strongly each string's last character attends to the earlier ones: strengths (strings, length - 1)."""
    top = _top(strengths)
    size = (7, 0.75 * len(strings) + 0.8)
    figure, rows = plt.subplots(len(strings), 1, figsize=size, layout="constrained", squeeze=False)
    for axes, string, answer, row in zip(rows[:, 0], strings, answers, strengths, strict=True):
        drawn = _cells(axes, numpy.append(row, numpy.nan)[None], top)  # the query is not stored yet
        axes.set_xticks(range(len(string)), list(string), family="monospace", fontsize=12)
        axes.get_xticklabels()[-1].set_fontweight("bold")
        axes.set_yticks([0], [answer])
        axes.tick_params(length=0)
    what = "What the last character, the query, attends to (hatched: the query itself)"
    figure.suptitle(f"{title(settings)}\n{what}", fontsize=11)
    figure.colorbar(drawn, ax=rows[:, 0], shrink=0.9, label=STRENGTH)
    save(figure, path)


def attention_to_places(
    path: Path, settings: LayerSettings, images: numpy.ndarray, answers: list[str], strengths: list[numpy.ndarray],
    places: list[tuple[int, int, int]],
) -> None:  # fmt: skip
    """Draw each image, and next to it the attention of each integration step to the squares that were stored before.

    strengths[step]: (images, states stored so far). places: (row, column, side) in pixels, the square that was seen
    when each state was stored.
    """
    top = _top(*strengths)
    columns = 1 + len(strengths)
    size = (1.5 * columns + 1.2, 1.5 * len(images) + 0.8)
    figure, rows = plt.subplots(len(images), columns, figsize=size, layout="constrained", squeeze=False)
    for row, image, answer, n in zip(rows, images, answers, range(len(images)), strict=True):
        row[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        row[0].set_ylabel(answer, fontsize=9)
        for axes, step in zip(row[1:], strengths, strict=True):
            cells = numpy.full(image.shape, numpy.nan)
            for strength, (first, left, side) in zip(step[n], places, strict=False):
                cells[first : first + side, left : left + side] = strength
            drawn = _cells(axes, cells, top, aspect="equal")
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, name in zip(rows[0], ["image", *(f"integration {k + 1}" for k in range(len(strengths)))], strict=True):
        axes.set_title(name, fontsize=9)
    what = "What each integration attends to (hatched: not seen yet)"
    figure.suptitle(f"{title(settings)}\n{what}", fontsize=11)
    figure.colorbar(drawn, ax=rows, shrink=0.6, label=STRENGTH)
    save(figure, path)


def film_strip(
    path: Path, settings: LayerSettings, screens: numpy.ndarray, seen: numpy.ndarray, outcome: str,
    attention: numpy.ndarray | None,
) -> None:  # fmt: skip
    """Draw an episode frame by frame: the screens and the observations, (frames, N, N) each, and the outcome.

    attention: (frames, frames), how strongly each frame attends to earlier ones. Its column is below the frame.
    """
    frames = len(screens)
    figure = plt.figure(figsize=(0.62 * frames + 1, 2.2 if attention is None else 5.7), layout="constrained")
    heights = (1, 1) if attention is None else (1, 1, 5)
    grid = figure.add_gridspec(len(heights), frames, height_ratios=heights)
    for row, (name, pictures) in enumerate((("screen", screens), ("visible", seen))):
        for t, picture in enumerate(pictures):
            axes = figure.add_subplot(grid[row, t])
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            if t == 0:
                axes.set_ylabel(name)
            if row == 0:
                axes.set_title(str(t + 1), fontsize=8)
            elif t == frames - 1:
                axes.set_xlabel(outcome)
    if attention is not None:
        axes = figure.add_subplot(grid[2, :])
        drawn = _cells(axes, attention.T, _top(attention))
        axes.set(xlabel="frame (hatched: not stored yet; the last frame needs no decision)", ylabel="attended frame")
        names = [str(t + 1) for t in range(frames)]
        axes.set_xticks(range(frames), names)
        axes.set_yticks(range(0, frames, 4), names[::4])
        figure.colorbar(drawn, ax=axes, label=STRENGTH.replace("\n", " "), location="bottom", shrink=0.4)
    figure.suptitle(title(settings), fontsize=11)
    save(figure, path, dpi=110)


def film(path: Path, screens: numpy.ndarray, seen: numpy.ndarray, magnify: int = 10) -> None:
    """Write the episode as an animated GIF: the screen on the left, the observation on the right."""
    gap = numpy.full((*screens.shape[:2], 1), 0.4)
    pictures = numpy.concatenate([screens, gap, seen], axis=2).repeat(magnify, axis=1).repeat(magnify, axis=2)
    first, *rest = (Image.fromarray((255 * picture).astype("uint8")) for picture in pictures)
    durations = [200] * (len(screens) - 1) + [1000]
    with files.whole(path) as file:
        first.save(file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)


def _top(*strengths: numpy.ndarray) -> float:
    """Return the strength at the top of the colour bar. Strengths are not negative: the states are of ReLU units."""
    return max(float(numpy.nanmax(each)) for each in strengths) or 1.0


def _cells(axes: Any, strengths: numpy.ndarray, top: float, aspect: str = "auto") -> Any:
    """Draw the strengths (rows, columns) as opaque cells from dark, 0, to bright, `top`. Hatch those that are NaN."""
    axes.patch.set(facecolor="white", edgecolor="0.5", hatch="////", linewidth=0)
    return axes.imshow(strengths, cmap="inferno", vmin=0, vmax=top, interpolation="nearest", aspect=aspect)
