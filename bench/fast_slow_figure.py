"""Draw fast-slow.png: reward against episodes and drift, a second task by the weights alone, and tasks in a row."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

from tasks.figures import style

from . import report
from .fast_slow import ROWS, SECOND
from .plans.fast_slow import BASES
from .store import Run, load

# Okabe and Ito's colours; a dashed line is the other rate of an arm
ARMS = {
    "slow": ("#0072B2", "-"), "slow-best": ("#0072B2", "--"), "slow-kl": ("#56B4E9", "-"), "fast": ("#009E73", "-"),
    "both": ("#D55E00", "-"), "both-low": ("#D55E00", "--"), "block-low": ("#CC79A7", "-"), "prompt": ("#E69F00", "-"),
}  # fmt: skip


def make() -> None:
    """Write the figure if there are runs: the median over base policies and seeds of each arm that was run."""
    runs = {key: [run for base in BASES for run in load(ROWS[key].group(base))] for key in ARMS}
    runs = {key: found for key, found in runs.items() if found}
    if not runs:
        return
    figure, panels = plt.subplots(1, 4, figsize=(16, 4.2), layout="constrained", sharey=True)
    for key, found in runs.items():
        colour, line = ARMS[key]
        label = f"{ROWS[key].name} ({len(found)})"
        for axes, stages, x in zip(panels, (1, 1, 0, 3), ("episodes", "kl", "episodes", "episodes"), strict=True):
            names = [f"task {n + 1}" for n in range(stages)] or [SECOND]
            points = [point for n, name in enumerate(names) for point in _medians(found, name, x, n)]
            if points:
                axes.plot(*zip(*points, strict=True), line, color=colour, label=label, linewidth=1.2)
    titles = ("task 1", "task 1: drift", "second task, by the weights alone", "three tasks in a row")
    for axes, title in zip(panels, titles, strict=True):
        axes.axhline(0.2, linestyle=":", color="black")
        axes.set(xlabel="thousand episodes, all counted", title=title, ylim=(0, 1.03))
        axes.grid(alpha=0.3)
    panels[1].set_xscale("symlog", linthresh=1e-3)
    panels[1].set(xlabel="KL(policy‖base) in nats", xlim=(0, None))
    panels[0].set(ylabel="reward")
    panels[0].legend(fontsize=7, handlelength=3)
    figure.suptitle("Median of the runs (their number in brackets); dotted: guessing")
    style.save(figure, report.output / "fast-slow.png", dpi=100)


def _medians(found: Sequence[Run], name: str, x: str, tasks_before: int) -> list[tuple[float, float]]:
    """Return (x, reward) at each evaluation of a stage: medians over the runs that have it."""
    lines: dict[int, list[Any]] = {}
    for run in found:
        numbers = [n for n, stage in enumerate(run["stages"]) if stage["name"] == name]
        for line in run["curve"]:
            if line["stage"] in numbers:
                lines.setdefault(line["episodes"], []).append(line | {"of": run["settings"]["episodes"]})
    points = []
    for episodes, each in sorted(lines.items()):
        before = tasks_before * each[0]["of"]
        where = (before + episodes) / 1000 if x == "episodes" else median(line["kl"] for line in each)
        points.append((where, median(line["reward"] for line in each)))
    return points
