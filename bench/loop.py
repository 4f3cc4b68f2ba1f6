"""Compare updates per second of a task's whole training loop with PyTorch eager: python -m bench loop."""

from __future__ import annotations

from typing import Any

from .peers.problem import Training
from .peers.runner import at_work, available, is_ours, layer_frameworks, take_turns
from .report import markdown, store

SIZES = {"retrieval": (20, 50, 100), "mnist": (50, 100, 200)}


def run(layer: str, threads: list[int], task: str) -> None:
    """Measure the sizes R of the task's table in the paper. Store loop.json and loop.md."""
    rows: list[dict[str, Any]] = []
    for count in threads:
        for hidden_size in SIZES[task]:
            problem = Training(layer, hidden_size, task)
            frameworks = [name for name in layer_frameworks(layer, count) if is_ours(name) or "eager" in name]
            names = available(frameworks)[0]
            with at_work(problem, names, count) as processes:
                times = take_turns(processes)
            rates = {name: round(1e3 * problem.updates / time["median_ms"], 1) for name, time in times.items()}
            rows.append({"R": hidden_size, "threads": count, "updates_per_second": rates, "times": times})
            print(hidden_size, count, rates, flush=True)
    store("loop" if task == "retrieval" else f"loop-{task}", rows, _table(rows), layer)


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the table of each size: ours and PyTorch, each with its fastest configuration."""
    lines = []
    for hidden_size in sorted({row["R"] for row in rows}):
        found = [
            (rate, name, row["threads"])
            for row in rows
            if row["R"] == hidden_size
            for name, rate in row["updates_per_second"].items()
        ]
        ours, theirs = (
            max((each for each in found if is_ours(each[1]) == which), default=(float("nan"), "-", 0))
            for which in (True, False)
        )
        cells = [f"{rate:.0f} ({name}, {threads} threads)" for rate, name, threads in (ours, theirs)]
        lines.append([hidden_size, *cells, f"**{ours[0] / theirs[0]:.2f}**"])
    header = ["R", "ours", "PyTorch eager", "ratio"]
    return "Updates a second, whole training loop:\n\n" + markdown(header, lines)
