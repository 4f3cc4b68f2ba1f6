"""The pictures of an output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: works without a screen

import matplotlib.pyplot as plt
import numpy


def error_axis(axes: Any, floor: float | None = None) -> None:
    """Makes y an axis of errors in %, logarithmic down to 0.01 and then linear to 0; marks the key-blind floor."""
    if floor is not None:
        axes.axhline(floor, linestyle=":", color="black", label="key-blind floor")
    axes.set_ylim(0, 100)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.grid(alpha=0.3)


def learning_curve(path: Path, curve: list[dict[str, float]], floor_nll: float, floor_error: float) -> None:
    """Training and validation loss, and validation error, against updates, with the floor of a key-blind model."""
    updates = [line["update"] for line in curve]
    figure, (loss, error) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    loss.plot(updates, [line["train_loss"] for line in curve], label="training", color="tab:gray")
    loss.plot(updates, [line["validation_nll"] for line in curve], label="validation", color="tab:blue")
    loss.axhline(floor_nll, linestyle=":", color="black", label="key-blind floor")
    loss.set(xlabel="updates", ylabel="negative log likelihood (nats)", yscale="log")
    loss.legend()
    error.plot(updates, [100 * line["validation_error"] for line in curve], color="tab:blue")
    error_axis(error, 100 * floor_error)
    error.set(xlabel="updates", ylabel="validation error (%)")
    loss.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def search(path: Path, trials: list[dict[str, Any]], space: dict[str, Any]) -> None:
    """Validation loss against each setting that was varied; the best trial is filled."""
    tried = [trial for trial in trials if trial["validation_nll"] is not None]
    best = min(trial["validation_nll"] for trial in tried)
    size = (3.2 * len(space) + 0.6, 3.2)
    figure, panels = plt.subplots(1, len(space), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, (name, values) in zip(panels[0], space.items(), strict=True):
        numeric = all(isinstance(trial[name], int | float) and not isinstance(trial[name], bool) for trial in tried)
        places = [trial[name] if numeric else str(trial[name]) for trial in tried]
        losses = [trial["validation_nll"] for trial in tried]
        axes.plot(places, losses, "o", color="tab:blue", fillstyle="none")
        of_the_best = [place for place, loss in zip(places, losses, strict=True) if loss == best]
        axes.plot(of_the_best, [best] * len(of_the_best), "o", color="tab:red")
        ends = values if isinstance(values, list) else values[:2]
        if numeric and min(ends) > 0 and max(ends) > 5 * min(ends):
            axes.set_xscale("log")
        if numeric and isinstance(values, list):
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
        axes.set(xlabel=name, yscale="log")
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("validation loss (nats)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def attention(path: Path, strings: list[str], answers: list[str], strengths: numpy.ndarray) -> None:
    """How strongly the last character of each string attends to each one before it; strengths (strings, length - 1)."""
    limit = float(numpy.abs(strengths).max()) or 1.0
    colours = (
        dict(cmap="Reds", vmin=0, vmax=limit) if strengths.min() >= 0 else dict(cmap="RdBu_r", vmin=-limit, vmax=limit)
    )
    size = (7, 0.75 * len(strings) + 0.6)
    figure, rows = plt.subplots(len(strings), 1, figsize=size, layout="constrained", squeeze=False)
    for axes, string, answer, row in zip(rows[:, 0], strings, answers, strengths, strict=True):
        image = axes.imshow(row[None], aspect="auto", **colours)
        axes.set_xticks(range(len(row)), list(string[:-1]), family="monospace", fontsize=12)
        axes.set_yticks([0], [f"{string[-1]} is asked, {answer}"])
        axes.tick_params(length=0)
    figure.suptitle("How strongly the query attends to each past step:  η λ^age h(τ)·h₀", fontsize=11)
    figure.colorbar(image, ax=rows[:, 0], shrink=0.9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
