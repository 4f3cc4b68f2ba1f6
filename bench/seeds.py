"""Summarize and compare runs of several seeds, without assuming a distribution.

Interval: the range of n seeds. All n lie on one side of the median over all seeds with probability 2 · 2^-n at most. So
the range contains this median with probability 1 - 2^(1-n) at least: 50 %, 75 %, 87.5 % and 93.75 % for n = 2, 3, 4, 5.

Test: the sign test of pairs of the same seed. It is exact, and cannot give less than p = 2^(1-n) for n pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb
from statistics import median

from .cells import of
from .report import markdown
from .store import Run

Measure = Callable[[Run], float]
MEASURES: dict[str, Measure] = {
    "test error": lambda run: run["test_error"],
    "test NLL": lambda run: run["test_nll"],
    "held-out error": lambda run: run["best_on_validation"]["validation_error"],
}


def median_and_range(figures: Sequence[float], decimals: int, unit: str = " %", bold: bool = False) -> str:
    """Return the median and, for several seeds, their range: 0.70 % (0.62 to 0.91)."""
    mark = "**" if bold else ""
    middle = f"{mark}{median(figures):.{decimals}f}{unit}{mark}"
    spread = f" ({min(figures):.{decimals}f} to {max(figures):.{decimals}f})" if len(figures) > 1 else ""
    return middle + spread


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of the sign test: min(1, 2 Σ_{k <= min(wins, losses)} C(n, k) / 2^n)."""
    n = wins + losses
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)


def pairs(first: Sequence[Run], second: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return the runs of two cells in pairs of the same seed. Leave out a seed that only one of them has."""
    by_seed = {run["settings"]["seed"]: run for run in second}
    return [(run, by_seed[run["settings"]["seed"]]) for run in first if run["settings"]["seed"] in by_seed]


def outcomes(paired: Sequence[tuple[Run, Run]], measure: Measure) -> tuple[int, int, int]:
    """Return the numbers of pairs whose first run has the lower, the same and the higher figure."""
    differences = [measure(first) - measure(second) for first, second in paired]
    return sum(d < 0 for d in differences), sum(d == 0 for d in differences), sum(d > 0 for d in differences)


def table_of_pairs(
    ours: tuple[list[Run], str], baselines: Sequence[tuple[str, list[Run], str]], sizes: Sequence[int],
    measures: Sequence[str],
) -> str:  # fmt: skip
    """Return how often fast weights have the lower figure than each baseline in pairs of the same seed.

    ours: the runs and the layer of fast weights. baselines: name, runs and layer of each.
    """
    lines = []
    for name, runs, layer in baselines:
        by_size = {size: pairs(of(*ours, size), of(runs, layer, size)) for size in sizes}
        rows: list[tuple[int | str, list[tuple[Run, Run]]]] = [(size, each) for size, each in by_size.items() if each]
        if len(rows) > 1:
            rows.append(("all", [pair for _, each in rows for pair in each]))
        for size, each in rows:
            cells = []
            for measure in measures:
                wins, ties, losses = outcomes(each, MEASURES[measure])
                cells += [f"{wins} / {ties} / {losses}", f"{sign_test(wins, losses):.2g}"]
            lines.append([name, size, len(each), *cells])
    header = ["fast weights and", "R", "pairs", *(text for each in measures for text in (each, "p"))]
    return markdown(header, lines)
