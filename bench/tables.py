"""Make the paper's tables 1 to 3 with our results next to the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .cells import of, settings_of
from .plans import BASELINES, NORMALIZED
from .published import NAMES, Cells
from .report import markdown
from .sizes import sizes_of
from .store import Run, load

Row = tuple[str, str, list[Run], dict[int, float]]  # name, layer, runs, and R to a number of Ba et al. 2016


def normalized() -> list[Row]:
    """Return the rows of table 1 with layer norm, which are not in the paper."""
    runs = load(NORMALIZED)
    return [(f"{NAMES[layer]}, layer norm", layer, runs, {}) for layer in BASELINES]


def table(
    number: int, runs: list[Run], of_the_paper: Cells, seeds_wanted: int, missing: list[str], more: Sequence[Row] = ()
) -> str:
    """Return a table of the paper with our medians, then every seed and the settings; see `medians_and_seeds`."""
    return "\n".join(medians_and_seeds(number, runs, of_the_paper, seeds_wanted, missing, more))


def medians_and_seeds(
    number: int, runs: list[Run], of_the_paper: Cells, seeds_wanted: int, missing: list[str], more: Sequence[Row] = ()
) -> tuple[str, str]:
    """Return a table with each cell of the paper and the median of our seeds, and a table of every seed.

    Tables 1 and 2 show test errors. Table 3 shows accuracies: the paper's on Multi-PIE, ours on the named data set.
    Table 1 also counts the seeds, and the numbers in each network. A row of `more` without runs is left out.
    """
    sizes = list(of_the_paper["irnn"])
    cells, details = [], []
    for name, layer, of_row, theirs in [
        *((NAMES[each], each, runs, of_the_paper[each]) for each in of_the_paper),
        *more,
    ]:
        line = [name]
        counts = []
        for size in sizes:
            chosen = of(of_row, layer, size)
            counts.append(len(chosen))
            figures = [100 * (1 - run["test_error"] if number == 3 else run["test_error"]) for run in chosen]
            line += [
                f"{theirs[size]:.2f} %" if theirs else "-",
                f"**{figure(median(figures), number)}**" if figures else "missing" if theirs else "not run",
            ]
            if len(chosen) < seeds_wanted:
                missing.append(f"table {number}, {name}, R = {size}: {len(chosen)} of {seeds_wanted} seeds")
            if chosen:
                seeds = ", ".join(figure(each, number) for each in figures)
                updates, settings = chosen[0]["updates"], chosen[0]["settings"]  # the same for all stored seeds
                seconds = f"{median(run['seconds'] for run in chosen):.0f} s"
                counted = [f"{count:,}" for count in sizes_of(settings)] if number == 1 else []
                details.append([name, size, seeds, f"{updates:,}", seconds, settings_of(settings), *counted])
        if number == 1:
            line.append(_seeds(counts, seeds_wanted))
        if theirs or any(counts):
            cells.append(line)
    data = {run["data"]["name"] for run in runs if "data" in run} if number == 3 else set()
    whose = ("paper, Multi-PIE", f"here, {' and '.join(sorted(data)) or '-'}") if number == 3 else ("paper", "here")
    header = ["layer", *(f"R = {size}, {each}" for size in sizes for each in whose)]
    what = "test accuracy" if number == 3 else "test error"
    columns = ["layer", "R", f"{what} of every seed", "updates", "time of a run, two at a time", "settings"]
    if number == 1:
        header.append("seeds")
        columns += ["parameters", "of them in the layer", "numbers in a state"]
    return markdown(header, cells), markdown(columns, details)


def _seeds(counts: list[int], wanted: int) -> str:
    """Return the number of seeds of a row's cells, and the planned number where it differs."""
    text = ", ".join(str(count) for count in (counts if len(set(counts)) > 1 else counts[:1]))
    return text if set(counts) == {wanted} else f"{text} of {wanted}"


def figure(value: float, number: int) -> str:
    """Return the value in %, with digits to match the table's test set: one example is 0.005, 0.01 or 0.014 %."""
    return f"{value:.3f} %" if number == 1 else f"{value:.2f} %"
