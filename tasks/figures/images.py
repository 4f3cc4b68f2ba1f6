"""Draw an image with its glimpses, and confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy

from ..running.layers import LayerSettings
from .style import save, title


def glimpses(
    path: Path, heading: str, image: numpy.ndarray, seen: numpy.ndarray, places: Sequence[tuple[int, int, int]]
) -> None:  # fmt: skip
    """Draw the image (side, side) with a frame around every glimpse, and the glimpses in the order of the model.

    seen: the glimpses (T, patch, patch), four quadrants. places: the square that each shows, (row, column, side).
    """
    columns = len(seen) // 4
    figure = plt.figure(figsize=(3 + 0.9 * columns, 3.9), layout="constrained")
    whole, sequence = figure.subfigures(1, 2, squeeze=False, width_ratios=(3, 0.9 * columns))[0]
    axes = whole.subplots()
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    for row, column, side in places:
        axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), side, side, fill=False, color="yellow", linewidth=1))
    axes.axis("off")
    names = ["coarse", *[f"fine {n}" for n in range(1, columns - 1)], "coarse"]
    for n, (panel, glimpse) in enumerate(zip(sequence.subplots(4, columns).flat, seen, strict=True)):
        panel.imshow(glimpse, cmap="gray", vmin=0, vmax=255)
        panel.set_xticks([])
        panel.set_yticks([])
        if n < columns:
            panel.set_title(names[n], fontsize=8)
    figure.suptitle(heading, fontsize=11)
    save(figure, path)


def confusion(path: Path, settings: LayerSettings, counts: numpy.ndarray, classes: tuple[str, ...]) -> None:
    """Draw the confusion matrix counts [label, answer], shaded by the share of the label's row."""
    shares = counts / numpy.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.2 + 0.55 * len(classes)
    figure, axes = plt.subplots(figsize=(size + 0.6, size + 0.3), layout="constrained")
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)  # no layer's colour
    for (label, answer), count in numpy.ndenumerate(counts):
        if count:
            colour = "white" if shares[label, answer] > 0.5 else "black"
            axes.text(answer, label, str(count), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(classes)), classes)
    if max(map(len, classes)) > 2:
        plt.setp(axes.get_xticklabels(), rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="answer", ylabel="label")
    axes.set_title(title(settings), fontsize=11)
    save(figure, path)
