"""Draw the pictures of an output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: works without a screen

import matplotlib.pyplot as plt
import numpy
from matplotlib.ticker import NullFormatter
from PIL import Image

from fastweights_np import files

from .running.runs import Objective
from .vision.glimpses import glimpses as as_glimpses
from .vision.glimpses import layout
from .vision.glimpses import places as places_of


def error_axis(axes: Any, floor: float | None = None) -> None:
    """Make y an axis of errors in %, logarithmic down to 0.01 and then linear to 0. Draw the key-blind floor."""
    if floor is not None:
        axes.axhline(floor, linestyle=":", color="black", label="key-blind floor")
    axes.set_ylim(0, 100)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.grid(alpha=0.3)


def learning_curve(
    path: Path, curve: list[dict[str, float]], floor_nll: float | None = None, floor_error: float | None = None
) -> None:  # fmt: skip
    """Plot training and validation loss, and validation error, against updates, with the key-blind floor."""
    updates = [line["update"] for line in curve]
    figure, (loss, error) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    marker = "." if len(curve) < 3 else ""  # a line through fewer points is hardly visible
    for name, label, colour in (("train_loss", "training", "tab:gray"), ("validation_nll", "validation", "tab:blue")):
        loss.plot(updates, [line[name] for line in curve], marker=marker, label=label, color=colour)
    if floor_nll is not None:
        loss.axhline(floor_nll, linestyle=":", color="black", label="key-blind floor")
    loss.set(xlabel="updates", ylabel="negative log likelihood (nats)", yscale="log")
    loss.legend()
    error.plot(updates, [100 * line["validation_error"] for line in curve], marker=marker, color="tab:blue")
    error_axis(error, None if floor_error is None else 100 * floor_error)
    error.set(xlabel="updates", ylabel="validation error (%)")
    loss.grid(alpha=0.3)
    _save(figure, path)


def glimpses(path: Path, image: numpy.ndarray, patch: int) -> None:
    """Draw the image (side, side) with a frame around every glimpse, and the glimpses in the order of the model."""
    seen = as_glimpses(image[None].astype("float32"), patch).reshape(-1, patch, patch)
    places = places_of(layout(len(image), patch))
    columns = len(seen) // 4
    figure = plt.figure(figsize=(3 + 0.9 * columns, 3.6), layout="constrained")
    whole, sequence = figure.subfigures(1, 2, squeeze=False, width_ratios=(3, 0.9 * columns))[0]
    axes = whole.subplots()
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    for row, column, side in places:
        axes.add_patch(
            plt.Rectangle((column - 0.5, row - 0.5), side, side, fill=False, color="tab:orange", linewidth=1)
        )
    axes.axis("off")
    names = ["coarse", *[f"fine {n}" for n in range(1, columns - 1)], "coarse"]
    for n, (panel, glimpse) in enumerate(zip(sequence.subplots(4, columns).flat, seen, strict=True)):
        panel.imshow(glimpse, cmap="gray", vmin=0, vmax=255)
        panel.set_xticks([])
        panel.set_yticks([])
        if n < columns:
            panel.set_title(names[n], fontsize=8)
    _save(figure, path)


def confusion(path: Path, counts: numpy.ndarray, classes: tuple[str, ...]) -> None:
    """Draw the confusion matrix counts [label, answer], shaded by the share of the label's row."""
    shares = counts / numpy.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.2 + 0.55 * len(classes)
    figure, axes = plt.subplots(figsize=(size + 0.6, size), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (label, answer), count in numpy.ndenumerate(counts):
        if count:
            colour = "white" if shares[label, answer] > 0.5 else "black"
            axes.text(answer, label, str(count), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(classes)), classes)
    if max(map(len, classes)) > 2:
        plt.setp(axes.get_xticklabels(), rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="answer", ylabel="label")
    _save(figure, path)


def attention_to_places(
    path: Path, images: numpy.ndarray, answers: list[str], strengths: list[numpy.ndarray],
    places: list[tuple[int, int, int]],
) -> None:  # fmt: skip
    """Draw the attention of each integration step over the image: red is positive, blue is negative.

    strengths[step]: (images, states stored so far). places: (row, column, side) in pixels, the square that was seen
    when each state was stored.
    """
    colours = _colours(numpy.concatenate([step.ravel() for step in strengths]))
    size = (1.5 * len(strengths) + 1.2, 1.5 * len(images) + 0.5)
    figure, rows = plt.subplots(len(images), len(strengths), figsize=size, layout="constrained", squeeze=False)
    for n, (row, image, answer) in enumerate(zip(rows, images, answers, strict=True)):
        for k, (axes, step) in enumerate(zip(row, strengths, strict=True)):
            overlay = numpy.full(image.shape, numpy.nan)
            for strength, (top, left, side) in zip(step[n], places, strict=False):
                overlay[top : top + side, left : left + side] = strength
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            drawn = axes.imshow(overlay, alpha=0.6, **colours)
            axes.set_xticks([])
            axes.set_yticks([])
            if n == 0:
                axes.set_title(f"integration {k + 1}", fontsize=9)
        row[0].set_ylabel(answer, fontsize=9)
    figure.colorbar(drawn, ax=rows, shrink=0.6, label="η λ^age h(τ)·h₀")
    _save(figure, path)


def search(path: Path, trials: list[dict[str, Any]], space: dict[str, Any], objective: Objective) -> None:
    """Plot the objective of the trials against each searched setting. The best trial is filled."""
    tried = [trial for trial in trials if trial[objective.name] is not None]
    best = objective.best(trial[objective.name] for trial in tried)
    size = (3.2 * len(space) + 0.6, 3.2)
    figure, panels = plt.subplots(1, len(space), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, (name, values) in zip(panels[0], space.items(), strict=True):
        numeric = all(isinstance(trial[name], int | float) and not isinstance(trial[name], bool) for trial in tried)
        places = [trial[name] if numeric else str(trial[name]) for trial in tried]
        values_found = [trial[objective.name] for trial in tried]
        axes.plot(places, values_found, "o", color="tab:blue", fillstyle="none")
        of_the_best = [place for place, value in zip(places, values_found, strict=True) if value == best]
        axes.plot(of_the_best, [best] * len(of_the_best), "o", color="tab:red")
        ends = values if isinstance(values, list) else values[:2]
        if numeric and min(ends) > 0 and max(ends) > 5 * min(ends):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if numeric and isinstance(values, list):
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
        axes.set(xlabel=name, yscale="linear" if objective.maximize else "log")
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel(objective.title)
    _save(figure, path)


def _colours(strengths: numpy.ndarray) -> dict[str, Any]:
    """Return the colour map: red for positive strengths, and blue for negative ones if there are any."""
    limit = float(numpy.abs(strengths).max()) or 1.0
    if strengths.min() >= 0:
        return dict(cmap="Reds", vmin=0, vmax=limit)
    return dict(cmap="RdBu_r", vmin=-limit, vmax=limit)


def attention(path: Path, strings: list[str], answers: list[str], strengths: numpy.ndarray) -> None:
    """Draw how strongly each string's last character attends to the earlier ones: strengths (strings, length - 1)."""
    colours = _colours(strengths)
    size = (7, 0.75 * len(strings) + 0.6)
    figure, rows = plt.subplots(len(strings), 1, figsize=size, layout="constrained", squeeze=False)
    for axes, string, answer, row in zip(rows[:, 0], strings, answers, strengths, strict=True):
        image = axes.imshow(row[None], aspect="auto", **colours)
        axes.set_xticks(range(len(row)), list(string[:-1]), family="monospace", fontsize=12)
        axes.set_yticks([0], [f"query {string[-1]}, {answer}"])
        axes.tick_params(length=0)
    figure.suptitle("How strongly the query attends to each past step:  η λ^age h(τ)·h₀", fontsize=11)
    figure.colorbar(image, ax=rows[:, 0], shrink=0.9)
    _save(figure, path)


# --------------------------------------------------------------------------------------------------------------- agents


def reward_curve(path: Path, curve: list[dict[str, float]], chance: float) -> None:
    """Plot mean reward against frames."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot([line["frames"] / 1e6 for line in curve], [line["mean_reward"] for line in curve], marker=".")
    reward_axis(axes, chance)
    axes.legend()
    _save(figure, path)


def reward_axis(axes: Any, chance: float) -> None:
    """Make y an axis of rewards and x an axis of frames in millions. Draw the random-policy baseline."""
    axes.axhline(chance, linestyle=":", color="black", label="random policy")
    axes.set(xlabel="frames (millions)", ylabel="mean reward", ylim=(-1.03, 1.03))
    axes.grid(alpha=0.3)


def film_strip(
    path: Path, screens: numpy.ndarray, seen: numpy.ndarray, outcome: str, attention: numpy.ndarray | None
) -> None:  # fmt: skip
    """Draw an episode frame by frame: the screens and the observations, (frames, N, N) each, and the outcome.

    attention: (frames, frames), how strongly each frame attends to earlier ones. Its column is below the frame.
    """
    frames = len(screens)
    figure = plt.figure(figsize=(0.62 * frames + 1, 1.9 if attention is None else 5.4), layout="constrained")
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
        drawn = axes.imshow(attention.T, aspect="auto", **_colours(attention[numpy.isfinite(attention)]))
        axes.set(xlabel="frame", ylabel="attended frame")
        names = [str(t + 1) for t in range(frames)]
        axes.set_xticks(range(frames), names)
        axes.set_yticks(range(0, frames, 4), names[::4])
        figure.colorbar(drawn, ax=axes, label="η λ^age h(τ)·h₀", location="bottom", shrink=0.4)
    _save(figure, path, dpi=110)


def film(path: Path, screens: numpy.ndarray, seen: numpy.ndarray, magnify: int = 10) -> None:
    """Write the episode as an animated GIF: the screen on the left, the observation on the right."""
    gap = numpy.full((*screens.shape[:2], 1), 0.4)
    pictures = numpy.concatenate([screens, gap, seen], axis=2).repeat(magnify, axis=1).repeat(magnify, axis=2)
    first, *rest = (Image.fromarray((255 * picture).astype("uint8")) for picture in pictures)
    durations = [200] * (len(screens) - 1) + [1000]
    with files.whole(path) as file:
        first.save(file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)


def _save(figure: Any, path: Path, dpi: int = 130) -> None:
    try:
        with files.whole(path) as file:
            figure.savefig(file, format="png", dpi=dpi)
    finally:
        plt.close(figure)
