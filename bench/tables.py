"""Make the paper's tables 1 to 3 with our results next to the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .cells import of, settings_of
from .plans.retrieval import BASELINES, NORMALIZED
from .published import NAMES, TABLE_1, TABLE_3, Cells
from .report import markdown
from .seeds import median_and_range, table_of_pairs
from .sizes import sizes_of
from .store import Run, load

Row = tuple[str, str, list[Run], dict[int, float]]  # name, layer, runs, and R to a number of Ba et al. 2016


def normalized() -> list[Row]:
    """Return the rows of table 1 with layer norm, which are not in the paper."""
    runs = load(NORMALIZED)
    return [(f"{NAMES[layer]}, layer norm", layer, runs, {}) for layer in BASELINES]


def in_pairs(retrieval: list[Run]) -> str:
    """Return fast weights and the baselines of table 1, with and without layer norm, in pairs of the same seed."""
    baselines = [(NAMES[layer], retrieval, layer) for layer in BASELINES]
    baselines += [(name, runs, layer) for name, layer, runs, _ in normalized()]
    return table_of_pairs((retrieval, "fast_weights"), baselines, list(TABLE_1["irnn"]), ["test error", "test NLL"])


def table(
    number: int, runs: list[Run], of_the_paper: Cells, seeds_wanted: int, missing: list[str], more: Sequence[Row] = ()
) -> str:
    """Return a table of the paper with our medians, then every seed and the settings; see `medians_and_seeds`."""
    return "\n".join(medians_and_seeds(number, runs, of_the_paper, seeds_wanted, missing, more))


def medians_and_seeds(
    number: int, runs: list[Run], of_the_paper: Cells, seeds_wanted: int, missing: list[str], more: Sequence[Row] = ()
) -> tuple[str, str]:
    """Return a table with each cell of the paper, the median and range of our seeds, and a table of every seed.

    Tables 1 and 2 show test errors. Table 3 shows accuracies: the paper's on Multi-PIE, ours on the named data set.
    Our best median in each column is bold. The second table also has the numbers in each network (table 1), or the test
    NLL (tables 2 and 3). A row of `more` without runs is left out.
    """
    sizes = list(of_the_paper["irnn"])
    rows = [*((NAMES[each], each, runs, of_the_paper[each]) for each in of_the_paper), *more]
    chosen = {(name, size): of(of_row, layer, size) for name, layer, of_row, _ in rows for size in sizes}
    figures = {cell: [_in_percent(run, number) for run in of_cell] for cell, of_cell in chosen.items() if of_cell}
    medians = {size: [median(each) for (_, R), each in figures.items() if size == R] for size in sizes}
    best = {size: max(each) if number == 3 else min(each) for size, each in medians.items() if each}
    lines, details = [], []
    for name, _, _, theirs in rows:
        line, counts = [name], [len(chosen[name, size]) for size in sizes]
        for size, count in zip(sizes, counts, strict=True):
            if count < seeds_wanted:
                missing.append(f"table {number}, {name}, R = {size}: {count} of {seeds_wanted} seeds")
            line.append(f"{theirs[size]:.2f} %" if theirs else "-")
            if not count:
                line.append("not run")
                continue
            of_cell = figures[name, size]
            line.append(median_and_range(of_cell, _decimals(number), bold=median(of_cell) == best[size]))
            details.append([name, size, ", ".join(figure(each, number) for each in of_cell)])
            details[-1] += _details(chosen[name, size], number)
        if theirs or any(counts):
            lines.append([*line, _seeds(counts, seeds_wanted if number == 1 else 0)])
    data = {run["data"]["name"] for run in runs if "data" in run} if number == 3 else set()
    whose = ("paper, Multi-PIE", f"here, {' and '.join(sorted(data)) or '-'}") if number == 3 else ("paper", "here")
    header = ["layer", *(f"R = {size}, {each}" for size in sizes for each in whose), "seeds"]
    columns = ["layer", "R", f"{'test accuracy' if number == 3 else 'test error'} of every seed"]
    columns += ["updates", "time of a run, two at a time", "settings"]
    columns += ["parameters", "of them in the layer", "numbers in a state"] if number == 1 else ["test NLL (nats)"]
    return markdown(header, lines), markdown(columns, details)


def recalls(runs: list[Run]) -> str:
    """Return the median recall of each class, by layer, of the runs that stored it; empty if there are none."""
    runs = [run for run in runs if "recall" in run]
    classes = list(runs[0]["recall"]) if runs else []
    rows = []
    for layer in TABLE_3:
        if of_layer := [run["recall"] for run in runs if run["settings"]["layer"] == layer]:
            medians = (100 * median(recall[each] for recall in of_layer) for each in classes)
            rows.append([NAMES[layer], *(f"{each:.1f} %" for each in medians)])
    return markdown(["layer", *classes], rows) if rows else ""


def _in_percent(run: Run, number: int) -> float:
    """Return the run's test error, or its accuracy in table 3."""
    return 100 * (1 - run["test_error"] if number == 3 else run["test_error"])


def _details(of_cell: list[Run], number: int) -> list[str]:
    """Return the columns of the table of every seed that follow the errors."""
    settings = of_cell[0]["settings"]  # updates and settings are the same for all stored seeds
    seconds = f"{median(run['seconds'] for run in of_cell):.0f} s"
    if number == 1:
        more = [f"{count:,}" for count in sizes_of(settings)]
    else:
        more = [", ".join(f"{run['test_nll']:.4f}" for run in of_cell)]
    return [f"{of_cell[0]['updates']:,}", seconds, settings_of(settings), *more]


def _seeds(counts: list[int], planned: int) -> str:
    """Return the number of seeds of a row's cells, and the planned number, if there is one, where it differs."""
    text = ", ".join(str(count) for count in (counts if len(set(counts)) > 1 else counts[:1]))
    return f"{text} of {planned}" if planned and set(counts) != {planned} else text


def figure(value: float, number: int) -> str:
    """Return the value in % with the decimals of the table."""
    return f"{value:.{_decimals(number)}f} %"


def _decimals(number: int) -> int:
    """Return the decimals that match the table's test set: one example is 0.005, 0.01 or 0.014 %."""
    return 3 if number == 1 else 2
