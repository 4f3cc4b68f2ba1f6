"""Draw what a run of fast_slow learned in each of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from ..running.runs import RunSettings
from .style import save

CHANCE = "by chance"
LINEAR = 1e-4  # nats: the axis of KL is linear up to here, and then logarithmic
SECOND = "second"  # the stage of weights alone


def contexts_curve(
    path: Path, settings: RunSettings, curve: Sequence[Mapping[str, float]], names: Sequence[str], chance: float
) -> None:  # fmt: skip
    """Plot reward against episodes and against KL, the second task by the weights alone, and the stream of tasks.

    names: of the stages, in order. Episodes are those of all channels together.
    """
    stages = {name: [line for line in curve if line["stage"] == n] for n, name in enumerate(names)}
    own = {name: lines for name, lines in stages.items() if name != SECOND}
    first = next(iter(own.values()))
    figure, panels = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained", sharey=True)
    episodes, drift, second, stream = panels
    of = settings.as_json()
    labels = {"reward": "with contexts", "neutral_reward": "without contexts"}
    for name, label in ({"reward": "weights alone"} if of["method"] == "slow" else labels).items():
        episodes.plot(*_points(first, "episodes", name), marker=".", label=label)
    drift.plot(*_points(first, "kl", "reward"), marker=".")
    if (most := max(line["kl"] for line in first)) > LINEAR:
        drift.set_xscale("symlog", linthresh=LINEAR)
        drift.set_xlim(0, 1.5 * most)  # an axis within one power of ten would have no ticks
    if SECOND in stages:
        second.plot(*_points(stages[SECOND], "episodes", "reward"), marker=".", color="tab:gray")
    before = 0.0
    for name, lines in own.items():
        x, y = _points(lines, "episodes", "reward")
        stream.plot([before + each for each in x], y, marker=".", label=name)
        before += x[-1]
    for axes, label, what in (
        (episodes, "episodes (thousands)", "first task"), (drift, "KL(policy‖base) in nats", "first task: drift"),
        (second, "episodes (thousands)", "second task, weights alone"),
        (stream, "episodes (thousands)", "tasks in a row"),
    ):  # fmt: skip
        axes.axhline(chance, linestyle=":", color="black", label=CHANCE)
        axes.set(xlabel=label, title=what, ylim=(0, 1.03))
        axes.grid(alpha=0.3)
    episodes.set_ylabel("reward")
    for axes in (episodes, stream):
        axes.legend(fontsize=8)
    figure.suptitle(f"{of['method']}, {of['context']}, R = {of['hidden_size']}, seed {of['seed']}", fontsize=11)
    save(figure, path)


def _points(lines: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[list[float], list[float]]:
    """Return x and y of the lines; episodes in thousands."""
    unit = 1000 if x == "episodes" else 1
    return [line[x] / unit for line in lines], [line[y] for line in lines]
