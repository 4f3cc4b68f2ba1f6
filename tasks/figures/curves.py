"""Draw the learning curves of runs, and the trials of searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from ..running.layers import LayerSettings
from ..running.runs import RunSettings
from .style import COLOURS, NAMES, error_axis, reward_axis, save, title


def learning_curve(
    path: Path, settings: LayerSettings, curve: list[dict[str, float]], floor_nll: float | None = None,
    floor_error: float | None = None, metrics: tuple[str, str] = ("validation_nll", "validation_error"),
    loss_name: str = "negative log likelihood (nats)",
) -> None:  # fmt: skip
    """Plot training and validation loss, and validation error, against updates, with the key-blind floor."""
    updates, colour = [line["update"] for line in curve], COLOURS[settings.layer]
    figure, (loss, error) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    marker = "." if len(curve) < 3 else ""  # a line through fewer points is hardly visible
    for name, label, of_line in (("train_loss", "training", "tab:gray"), (metrics[0], "validation", colour)):
        loss.plot(updates, [line[name] for line in curve], marker=marker, label=label, color=of_line)
    if floor_nll is not None:
        loss.axhline(floor_nll, linestyle=":", color="black", label="key-blind floor")
    loss.set(xlabel="updates", ylabel=loss_name, yscale="log")
    loss.legend()
    error.plot(updates, [100 * line[metrics[1]] for line in curve], marker=marker, color=colour)
    error_axis(error, None if floor_error is None else 100 * floor_error)
    error.set(xlabel="updates", ylabel="validation error (%)")
    loss.grid(alpha=0.3)
    figure.suptitle(title(settings), fontsize=11)
    save(figure, path)


def reward_curve(path: Path, settings: LayerSettings, curve: list[dict[str, float]], chance: float) -> None:
    """Plot mean reward against frames."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    frames, rewards = [line["frames"] / 1e6 for line in curve], [line["mean_reward"] for line in curve]
    axes.plot(frames, rewards, marker=".", color=COLOURS[settings.layer])
    reward_axis(axes, chance)
    axes.legend()
    axes.set_title(title(settings), fontsize=11)
    save(figure, path)


def search(path: Path, settings: RunSettings, trials: list[dict[str, Any]], space: dict[str, Any]) -> None:
    """Plot the objective of the trials against each searched setting, in the layer's colour. The best is filled.

    settings: the settings that all trials share.
    """
    objective, layer = settings.objective, settings.as_json()["layer"]
    tried = [trial for trial in trials if trial[objective.name] is not None]
    best = objective.best(trial[objective.name] for trial in tried)
    size = (3.2 * len(space) + 0.6, 3.4)
    figure, panels = plt.subplots(1, len(space), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, (name, values) in zip(panels[0], space.items(), strict=True):
        numeric = all(isinstance(trial[name], int | float) and not isinstance(trial[name], bool) for trial in tried)
        for trial in tried:
            place, found = trial[name] if numeric else str(trial[name]), trial[objective.name]
            colour, fill = COLOURS[trial.get("layer", layer)], "full" if found == best else "none"
            axes.plot([place], [found], "o", color=colour, fillstyle=fill)
        ends = values if isinstance(values, list) else values[:2]
        if numeric and min(ends) > 0 and max(ends) > 5 * min(ends):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if numeric and isinstance(values, list):
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
        axes.set(xlabel=name, yscale="linear" if objective.maximize else "log")
        axes.grid(alpha=0.3)
    for each in dict.fromkeys(trial["layer"] for trial in tried if "layer" in trial):
        panels[0, 0].plot([], [], "o", color=COLOURS[each], fillstyle="none", label=NAMES[each])
        panels[0, 0].legend(fontsize=8)
    panels[0, 0].set_ylabel(objective.title)
    figure.suptitle(title(settings, searched=space), fontsize=11)
    save(figure, path)
