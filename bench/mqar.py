"""Make the table of multi-query associative recall from the runs in bench/results."""

from __future__ import annotations

from statistics import median

from . import store
from .plans.mqar import CONVOLUTIONS, ROWS, SEEDS, Row
from .report import markdown
from .seeds import median_and_range
from .store import Run

NOT_RUN = "not run"


def table() -> str:
    """Return the test accuracy of each rule, without and with a short convolution: median and range of the seeds."""
    lines = []
    for row in ROWS:
        cells: list[str] = []
        for convolution in CONVOLUTIONS:
            found = _runs(row, convolution)
            if not found:
                cells += [NOT_RUN if convolution in row.convolutions else "-"] * 3
                continue
            accuracies = [100 * (1 - run["test_error"]) for run in found]
            rates = {f"{run['settings']['learning_rate']:g}" for run in found}
            updates = f"{median(run['updates'] for run in found):.0f}"
            cells += [median_and_range(accuracies, 1), ", ".join(sorted(rates)), updates]
        lines.append([row.name, *cells])
    columns = [
        f"{name}, {'no convolution' if not convolution else f'convolution of {convolution}'}"
        for convolution in CONVOLUTIONS for name in ("test accuracy", "learning rate", "updates")
    ]  # fmt: skip
    return markdown(["rule, features", *columns], lines)


def missing() -> list[str]:
    """Return what the table lacks."""
    counts = {(row.name, each): len(_runs(row, each)) for row in ROWS for each in row.convolutions}
    return [
        f"mqar, {name}, convolution {convolution}: {count} of {SEEDS} seeds"
        for (name, convolution), count in counts.items() if count < SEEDS
    ]  # fmt: skip


def _runs(row: Row, convolution: int) -> list[Run]:
    start = f"{row.group(convolution)}/{row.layer}-"
    return [run for run in store.read(store.RUNS) if run["run"].startswith(start)]
