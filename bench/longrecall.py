"""Make the tables of recall over a long range, from the runs in bench/results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from .plans import longrecall as plan
from .plans.longrecall import Row
from .report import markdown
from .seeds import median_and_range
from .store import Run, load

NOT_RUN, NEVER = "not run", "never"
HEADER = [
    "arm", "C", "accuracy", "predicted ceiling", "pairs not cut", "pairs cut", "η = 0", "updates to > 10 / 50 / 90 %",
    "updates", "seeds",
]  # fmt: skip


class Claim(NamedTuple):
    """What runs of the same seed must show: the rows whose runs are compared, and the functions that compare them."""

    text: str
    rows: Sequence[Row]
    holds: Callable[..., bool]  # of a run of each row, with one seed
    shown: Callable[..., float | None]  # the number that the table shows; None for never
    unit: str = " %"


def tables() -> dict[str, str]:
    """Return every table, by the name in the markers of pages."""
    return {
        "longrecall": rows(plan.ARMS),
        "longrecall-chunks": rows([*plan.SIZES[8], *plan.SIZES[16], *plan.SIZES[32], *plan.EDGES]),
        "longrecall-variants": rows([*plan.DELAYED, *plan.REBOUND, *plan.BIGRAMS]),
        "longrecall-near": near(),
        "longrecall-claims": claims(),
    }


def missing() -> list[str]:
    """Return what the tables lack."""
    counts = [(row, len(_runs(row))) for row in plan.ROWS]
    return [
        f"longrecall, {row.group}, {row.layer}: {count} of {plan.SEEDS} seeds"
        for row, count in counts if count < plan.SEEDS
    ]  # fmt: skip


def rows(chosen: Sequence[Row]) -> str:
    """Return a table with a line for each row: medians and ranges of the seeds, in percent."""
    lines: list[list[object]] = []
    for row in chosen:
        runs = _runs(row)
        if not runs:
            lines.append([row.name, *[NOT_RUN] * (len(HEADER) - 1)])
            continue
        accuracies = [100 * (1 - run["test_error"]) for run in runs]
        reached = " / ".join(_updates([run["updates_to"][level] for run in runs]) for level in ("10", "50", "90"))
        cells: list[object] = ["-"] * 5
        if "ceiling" in runs[0]:
            cells = [
                runs[0]["settings"]["chunk"], f"{100 * median(run['ceiling'] for run in runs):.1f} %",
                *(_of_part(runs, part) for part in ("not_cut", "cut")),
                median_and_range([100 * (1 - run["test_error_without_writes"]) for run in runs], 1),
            ]  # fmt: skip
        size, ceiling, *rest = cells
        lines.append([
            row.name, size, median_and_range(accuracies, 1), ceiling, *rest, reached, runs[0]["updates"], len(runs)
        ])  # fmt: skip
    return markdown(HEADER, lines)


def near() -> str:
    """Return the accuracy where windows may reach the pairs: in the chunk of the key, beyond it, and by distance."""
    lines, starts = [], sorted({start for row in plan.NEAR for run in _runs(row) for start in _bins(run)})
    for row in plan.NEAR:
        runs = _runs(row)
        parts = [_of_part(runs, part) for part in ("beyond_chunk", "in_chunk")] if runs else [NOT_RUN] * 2
        by_start = [[100 * _bins(run)[start] for run in runs if start in _bins(run)] for start in starts]
        lines.append([row.name, *parts, *(f"{median(found):.1f} %" if found else "-" for found in by_start)])
    header = [f"{start} to {start + 15} steps" for start in starts]
    return markdown(["arm", "query in a later chunk", "query in the key's chunk", *header], lines)


def _bins(run: Run) -> dict[int, float]:
    found = run["by_distance"]
    return dict(zip(found["from"], found["accuracy"], strict=True))


def claims() -> str:
    """Return each claim with what was measured, in how many seeds it holds, and a verdict."""
    lines = []
    for claim in _claims():
        paired = _of_the_same_seed(claim.rows)
        if not paired:
            lines.append([claim.text, NOT_RUN, "-", NOT_RUN])
            continue
        shown = [claim.shown(*runs) for runs in paired]
        numbers = [each for each in shown if each is not None]
        text = median_and_range(numbers, 1, claim.unit) if len(numbers) == len(shown) else NEVER
        count = sum(claim.holds(*runs) for runs in paired)
        verdict = "supported" if count == len(paired) else "missed" if not count else "mixed"
        lines.append([claim.text, text, f"{count} of {len(paired)}", verdict])
    return markdown(["claim, with the threshold fixed before the runs", "measured", "seeds", "verdict"], lines)


def accuracy(run: Run, *_: Run) -> float:
    """Return the test accuracy in percent."""
    return 100 * (1 - run["test_error"])


def updates_to(run: Run, level: float) -> int | None:
    """Return the first evaluated update at which the validation accuracy is at least `level`; None for never."""
    return next((line["update"] for line in run["curve"] if 1 - line["validation_error"] >= level), None)


def accuracy_at(run: Run, update: int) -> float:
    """Return the validation accuracy at an evaluated update."""
    return next(1 - line["validation_error"] for line in run["curve"] if line["update"] == update)


def _claims() -> list[Claim]:
    found = [
        Claim(
            f"{row.name}, C = {size}: within {plan.CEILING} of the predicted ceiling; "
            f"pairs not cut ≥ {100 * plan.NOT_CUT:g} %", [row],
            lambda run: abs(1 - run["test_error"] - run["ceiling"]) <= plan.CEILING
            and run["accuracy_of"]["not_cut"] >= plan.NOT_CUT, accuracy,
        )
        for size, of_size in plan.SIZES.items() for row in of_size
    ]  # fmt: skip
    found += [
        Claim(
            f"{row.name}: ≥ {100 * plan.ACROSS:g} %", [row],
            lambda run: 1 - run["test_error"] >= plan.ACROSS, accuracy,
        )
        for row in plan.EDGES
    ]  # fmt: skip
    found += [
        Claim(
            f"sliding window: ≤ {100 * plan.WITHOUT:g} %", [plan.WINDOW],
            lambda run: 1 - run["test_error"] <= plan.WITHOUT, accuracy,
        ),
        *(
            Claim(
                f"{row.name}, η = 0 at the test: ≤ {100 * plan.WITHOUT:g} %", [row],
                lambda run: 1 - run["test_error_without_writes"] <= plan.WITHOUT,
                lambda run: 100 * (1 - run["test_error_without_writes"]),
            )
            for row in (plan.NEXT, plan.LEARNED)
        ),
        Claim(
            f"delay: the learned target reaches {100 * plan.DELAY:g} % at least "
            f"{plan.SOONER} times as soon as the fixed one (shown: its updates)", plan.DELAYED[::-1],
            lambda learned, fixed: _sooner(learned, fixed, plan.DELAY, plan.SOONER),
            lambda learned, _: updates_to(learned, plan.DELAY), "",
        ),
        *(
            Claim(
                f"{row.name}: ≥ {100 * plan.REBIND:g} % at update {plan.REBIND_AT}, "
                "and less with λ = 1", [row, one],
                lambda half, one: accuracy_at(half, plan.REBIND_AT) >= plan.REBIND > accuracy_at(one, plan.REBIND_AT),
                lambda half, _: 100 * accuracy_at(half, plan.REBIND_AT),
            )
            for one, *others in (plan.REBOUND[:3], plan.REBOUND[3:]) for row in others
        ),
        Claim(
            "plain recall, learned: λ = 0.5 reaches 90 % later than λ = 1 (shown: its updates)",
            [plan.DECAYED, plan.LEARNED], lambda half, one: not _sooner(half, one, 0.9, 1),
            lambda half, _: updates_to(half, 0.9), "",
        ),
        Claim(
            f"{plan.BIGRAMS[-1].name}: ≥ {100 * plan.BIGRAM:g} %", [plan.BIGRAMS[-1]],
            lambda run: 1 - run["test_error"] >= plan.BIGRAM, accuracy,
        ),
        Claim(
            f"C = 64, query in the chunk of its key: ≤ {100 * plan.BLIND:g} %; in a later chunk "
            f"≥ {100 * plan.NOT_CUT:g} % (shown: the first)", [plan.NEAR[-1]],
            lambda run: run["accuracy_of"]["in_chunk"] <= plan.BLIND
            and run["accuracy_of"]["beyond_chunk"] >= plan.NOT_CUT,
            lambda run: 100 * run["accuracy_of"]["in_chunk"],
        ),
        Claim(
            "full attention is an upper bound: at least as accurate as the learned target", [plan.FULL, plan.LEARNED],
            lambda full, learned: full["test_error"] <= learned["test_error"], accuracy,
        ),
    ]  # fmt: skip
    return found


def _sooner(first: Run, second: Run, level: float, times: float) -> bool:
    """Return whether the first run reaches the level in `times` fewer updates. A run that never does counts as inf."""
    one, other = updates_to(first, level), updates_to(second, level)
    return one is not None and (other is None or times * one <= other)


def _runs(row: Row) -> list[Run]:
    return [run for run in load(row.group) if run["settings"]["layer"] == row.layer]


def _of_the_same_seed(chosen: Sequence[Row]) -> list[list[Run]]:
    by_seed = [{run["settings"]["seed"]: run for run in _runs(row)} for row in chosen]
    return [[runs[seed] for runs in by_seed] for seed in sorted(set.intersection(*map(set, by_seed)))]


def _of_part(runs: Sequence[Run], part: str) -> str:
    found = [100 * run["accuracy_of"][part] for run in runs if part in run["accuracy_of"]]
    return median_and_range(found, 1) if found else "-"


def _updates(found: Sequence[Any]) -> str:
    """Return the median of numbers of updates, in which None, for never, is the largest."""
    middle = sorted(found, key=lambda each: float("inf") if each is None else each)[len(found) // 2]
    return NEVER if middle is None else str(middle)
