"""Draw what a transformer does with a long context: accuracy by distance, loss by position, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy

from ..running.layers import LayerSettings
from .attention import _cells
from .style import COLOURS, NAMES, save, title

WITHOUT = "the same, η = 0"


def accuracy_by_distance(
    path: Path, settings: LayerSettings, tested: Mapping[str, Sequence[float]],
    without: Mapping[str, Sequence[float]] | None, chance: float, width: int,
) -> None:  # fmt: skip
    """Plot the accuracy against the distance to the stored key, with and without fast weights.

    tested, without: "from", the first distance of each bin, and its "accuracy". width: distances of a bin.
    """
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    colour = COLOURS[settings.layer]
    for name, found, line in ((NAMES[settings.layer], tested, "o-"), (WITHOUT, without, "o:")):
        if found is not None:
            axes.plot(found["from"], [100 * each for each in found["accuracy"]], line, color=colour, label=name)
    axes.axhline(100 * chance, linestyle=":", color="black", label="chance")
    axes.set(xlabel="steps between the query and the stored key", ylabel="test accuracy (%)", ylim=(-3, 103))
    bins = [f"{first:.0f}–{first + width - 1:.0f}" for first in tested["from"]]
    axes.set_xticks(tested["from"], bins, rotation=30, fontsize=8)
    axes.legend()
    axes.grid(alpha=0.3)
    axes.set_title(title(settings), fontsize=11)
    save(figure, path)


def loss_by_position(
    path: Path, settings: LayerSettings, block: int, losses: Sequence[float], without: Sequence[float] | None
) -> None:  # fmt: skip
    """Plot the loss of each block of positions, with and without fast weights. block: characters in each."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    places, colour = [block * (n + 1) for n in range(len(losses))], COLOURS[settings.layer]
    for name, found, line in ((NAMES[settings.layer], losses, "o-"), (WITHOUT, without, "o:")):
        if found is not None:
            axes.plot(places, found, line, color=colour, label=name)
    axes.set(xlabel="characters read, up to the end of the block", ylabel="test loss (nats per character)")
    axes.set_xticks(places)
    axes.legend()
    axes.grid(alpha=0.3)
    axes.set_title(title(settings), fontsize=11)
    save(figure, path)


def writes(
    path: Path, settings: LayerSettings, contributions: numpy.ndarray, tokens: list[str], queries: list[int],
    chunk: int,
) -> None:  # fmt: skip
    """Draw what each query reads of each step: contributions (queries, T), see tasks/language/reading.py.

    Lines separate chunks. A negative contribution is drawn as 0.
    """
    last = max(queries)  # later steps are read by no query
    figure, axes = plt.subplots(figsize=(0.13 * last + 2, 0.3 * len(queries) + 1.7), layout="constrained")
    cells: Any = numpy.array([numpy.where(numpy.arange(last) < query // chunk * chunk, row[:last], numpy.nan)
                              for query, row in zip(queries, contributions, strict=True)])  # fmt: skip
    drawn = _cells(axes, cells, float(numpy.nanmax(cells, initial=0)) or 1.0)
    for edge in range(chunk, last, chunk):
        axes.axvline(edge - 0.5, color="tab:cyan", linewidth=0.8)
    axes.set_xticks(range(last), tokens[:last], rotation=90, fontsize=6)
    axes.set_yticks(range(len(queries)), [f"{tokens[query]} (step {query})" for query in queries], fontsize=8)
    axes.tick_params(length=0)
    what = "What each query reads of each step (hatched: not written yet; lines: ends of chunks)"
    figure.suptitle(f"{title(settings)}\n{what}", fontsize=11)
    axes.set_xlabel("steps, by their tokens")
    figure.colorbar(drawn, ax=axes, label="norm of what is read (no unit)")
    save(figure, path)
