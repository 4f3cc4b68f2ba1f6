"""Make the tables of synthetic retrieval: our losses next to the published ones, from the runs in bench/results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median

from tasks.keyvalue import SOLVED

from . import seeds, store
from .plans.keyvalue import ROWS_REPEATED, ROWS_UNIQUE, SEEDS, Row, published
from .report import markdown
from .store import Run

LARGE, FACTOR = 0.05, 2  # losses agree if both solve the task, or if large ones are within this factor
NOT_RUN = "not run"


Runs = dict[tuple[str, str, int], list[Run]]  # by group, layer and number of keys


def tables() -> dict[str, str]:
    """Return every table, by the name in the markers of pages."""
    runs = stored()
    return {
        "keyvalue-unique": losses(runs, ROWS_UNIQUE),
        "keyvalue-repeat": losses(runs, ROWS_REPEATED),
        "keyvalue-agreement": agreement(runs, [*ROWS_UNIQUE, *ROWS_REPEATED]),
        "keyvalue-longer": longer(runs, ROWS_REPEATED),
    }


def missing() -> list[str]:
    """Return what the tables lack."""
    runs = stored()
    cells = [
        (row, keys, len(runs.get(_cell(row, keys), ()))) for row in (*ROWS_UNIQUE, *ROWS_REPEATED) for keys in row.keys
    ]
    return [
        f"keyvalue, {row.group}, {row.layer}, S = {keys}: {count} of {SEEDS} seeds"
        for row, keys, count in cells if count < SEEDS
    ]  # fmt: skip


def stored() -> Runs:
    """Return the stored runs of the tables, without their curves."""
    found: Runs = {}
    for run in store.read(store.RUNS):
        if run["task"] == "keyvalue":
            settings = run["settings"]
            found.setdefault((run["run"].partition("/")[0], settings["layer"], settings["keys"]), []).append(run)
    return found


def _cell(row: Row, keys: int) -> tuple[str, str, int]:
    return row.group, row.layer, keys


def _in_paper(row: Row, keys: int) -> tuple[bool, str, str, int]:
    return row.repeat, row.layer, row.feature_map, keys


def losses(runs: Runs, rows: Sequence[Row]) -> str:
    """Return a table with two lines for each row: the published loss, and the median and range of our seeds."""
    theirs, lines, sizes = published(), [], sorted({keys for row in rows for keys in row.keys})
    for row in rows:
        if _is_published(row):
            of_row = [theirs.get(_in_paper(row, keys)) for keys in sizes]
            lines.append([row.name, "published", *("-" if loss is None else f"{loss:.4f}" for loss in of_row)])
        ours = [_median_and_range(_losses(runs, row, keys)) if keys in row.keys else "-" for keys in sizes]
        lines.append(["" if _is_published(row) else row.name, "here", *ours])
    return markdown(["rule, features", "loss", *(f"S = {keys}" for keys in sizes)], lines)


def agreement(runs: Runs, rows: Sequence[Row]) -> str:
    """Return how many medians agree with the published losses that solve the task, and with those above LARGE.

    Losses between the two are only counted: seeds differ there by up to eleven times.
    """
    theirs, lines = published(complete=True), []
    for row in filter(_is_published, rows):
        pairs = {
            keys: (theirs[_in_paper(row, keys)], found)
            for keys in row.keys if _in_paper(row, keys) in theirs and (found := _losses(runs, row, keys))
        }  # fmt: skip
        solved = {keys: median(ours) <= SOLVED for keys, (loss, ours) in pairs.items() if loss <= SOLVED}
        seeds_solved = [loss <= SOLVED for keys in solved for loss in pairs[keys][1]]
        factors = {keys: _factor(median(ours), loss) for keys, (loss, ours) in pairs.items() if loss > LARGE}
        large = {keys: factor <= FACTOR for keys, factor in factors.items()}
        between = [_factor(median(ours), loss) <= FACTOR for loss, ours in pairs.values() if SOLVED < loss <= LARGE]
        differ = [
            f"S = {keys}: {median(ours):.4f}, published {loss:.4f}"
            for keys, (loss, ours) in pairs.items() if not (solved | large).get(keys, True)
        ]  # fmt: skip
        cells = [NOT_RUN] * 6
        if pairs:
            counts = [_count(each) for each in (solved.values(), seeds_solved, large.values(), between)]
            largest = f"{max(factors.values()):.2f}" if factors else "-"
            cells = [*counts[:3], largest, counts[3], "; ".join(differ) or "none"]
        lines.append(["repeated" if row.repeat else "unique", row.name, *cells])
    header = ["solved", "seeds that solve them", f"above {LARGE}, agree", "largest factor", "between, agree", "differ"]
    return markdown(["keys", "rule, features", *header], lines)


def _count(agreed: Collection[bool]) -> str:
    return f"{sum(agreed)} of {len(agreed)}" if agreed else "-"


def _factor(one: float, other: float) -> float:
    """Return by which factor the larger loss exceeds the smaller one."""
    return max(one / other, other / one)


def longer(runs: Runs, rows: Sequence[Row]) -> str:
    """Return the test losses of sequences of S pairs, as evaluated, and of 2S pairs, as trained: medians."""
    lines = []
    for row in rows:
        for keys in row.keys:
            if found := runs.get(_cell(row, keys)):
                both = (median(run[name] for run in found) for name in ("test_loss", "test_loss_of_longer"))
                lines.append([row.name, keys, *(f"{loss:.4f}" for loss in both)])
    header = ["rule, features", "S", "S pairs, as in the evaluation", "2S pairs, as in training"]
    return markdown(header, lines or [[NOT_RUN] * 4])


def _is_published(row: Row) -> bool:
    return "--decay" not in row.options and _in_paper(row, row.keys[0]) in published()


def _losses(runs: Runs, row: Row, keys: int) -> list[float]:
    """Return the least evaluation loss of every seed, which the published tables show, too."""
    return [run["validation_loss"] for run in runs.get(_cell(row, keys), ())]


def _median_and_range(found: Sequence[float]) -> str:
    return seeds.median_and_range(found, 4, "") if found else NOT_RUN
