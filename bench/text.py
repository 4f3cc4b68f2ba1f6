"""Make the tables of the character language model, from the runs in bench/results."""

from __future__ import annotations

from collections.abc import Sequence

from .plans import text as plan
from .plans.text import Row
from .report import markdown
from .seeds import median_and_range
from .store import Run, load

NOT_RUN = "not run"
BLOCKS = (1, 3, 8)  # of 32 characters


def tables() -> dict[str, str]:
    """Return every table, by the name in the markers of pages."""
    return {
        "text": rows(plan.ARMS), "text-gain": gains(plan.ARMS, plan.WINDOW), "text-continued": rows(plan.CONTINUED),
        "text-continued-gain": gains(plan.CONTINUED, plan.CONTINUED[0]), "text-claims": claims(),
    }  # fmt: skip


def missing() -> list[str]:
    """Return what the tables lack."""
    counts = [(row, len(_runs(row))) for row in (*plan.ARMS, *plan.CONTINUED)]
    return [
        f"text, {row.group}, {row.layer}: {count} of {plan.SEEDS} seeds" for row, count in counts if count < plan.SEEDS
    ]


def rows(chosen: Sequence[Row]) -> str:
    """Return the test loss by block of each row: medians and ranges of the seeds, in nats per character."""
    lines: list[list[object]] = []
    for row in chosen:
        runs = _runs(row)
        if not runs:
            lines.append([row.name, *[NOT_RUN] * (len(BLOCKS) + 4)])
            continue
        losses = [median_and_range([_block(run, n) for run in runs], 3, "") for n in BLOCKS]
        mean = median_and_range([run["test_nll"] for run in runs], 3, "")
        off = [_mean(run["nll_by_block_without_writes"]) for run in runs if _writes(run)]
        lines.append([
            row.name, *losses, mean, median_and_range(off, 3, "") if off else "-", runs[0]["updates"],
            len(runs),
        ])  # fmt: skip
    header = [f"block {n}" for n in BLOCKS]
    return markdown(["arm", *header, "all 8", "all 8, η = 0", "updates", "seeds"], lines)


def gains(chosen: Sequence[Row], baseline: Row) -> str:
    """Return by how much each row's loss is below the baseline's of the same seed, by block: median and range."""
    lines = []
    for row in chosen:
        if row == baseline:
            continue
        paired = _paired(row, baseline)
        cells = [
            median_and_range([_block(theirs, n) - _block(ours, n) for ours, theirs in paired], 3, "") if paired
            else NOT_RUN for n in range(1, 9)
        ]  # fmt: skip
        lines.append([row.name, *cells, len(paired)])
    return markdown(["arm", *(f"block {n}" for n in range(1, 9)), "seeds"], lines)


def claims() -> str:
    """Return each claim with what was measured, in how many seeds it holds, and a verdict."""
    checks = [
        (
            f"learned target, block 1: gain over the sliding window ≤ {plan.EARLY} nats", plan.LEARNED, plan.WINDOW,
            lambda ours, theirs: _block(theirs, 1) - _block(ours, 1), lambda gain: gain <= plan.EARLY,
        ),
        (
            f"learned target, block 8: gain over the sliding window ≥ {plan.LATE} nats", plan.LEARNED, plan.WINDOW,
            lambda ours, theirs: _block(theirs, 8) - _block(ours, 8), lambda gain: gain >= plan.LATE,
        ),
        (
            f"learned target, η = 0: mean loss within {plan.WITHOUT} nats of the sliding window's", plan.LEARNED,
            plan.WINDOW, lambda ours, theirs: _mean(ours["nll_by_block_without_writes"]) - theirs["test_nll"],
            lambda difference: abs(difference) <= plan.WITHOUT,
        ),
        (
            f"learned target: lower mean loss than the sliding window after {50 * plan.LONGER:,} updates (shown: gain)",
            plan.LEARNED, plan.LONGER_WINDOW,
            lambda ours, theirs: theirs["test_nll"] - ours["test_nll"], lambda gain: gain > 0,
        ),
        (
            "drop-in: after equal updates, lower loss in block 8 with fast weights than without (shown: gain)",
            plan.CONTINUED[1], plan.CONTINUED[0],
            lambda ours, theirs: _block(theirs, 8) - _block(ours, 8), lambda gain: gain > 0,
        ),
    ]  # fmt: skip
    lines = []
    for text, row, other, measured, holds in checks:
        values = [measured(*pair) for pair in _paired(row, other)]
        if not values:
            lines.append([text, NOT_RUN, "-", NOT_RUN])
            continue
        count = sum(map(holds, values))
        verdict = "supported" if count == len(values) else "missed" if not count else "mixed"
        lines.append([text, median_and_range(values, 3, " nats"), f"{count} of {len(values)}", verdict])
    return markdown(["claim, with the threshold fixed before the runs", "measured", "seeds", "verdict"], lines)


def _runs(row: Row) -> list[Run]:
    return [run for run in load(row.group) if run["settings"]["layer"] == row.layer]


def _paired(row: Row, other: Row) -> list[tuple[Run, Run]]:
    by_seed = {run["settings"]["seed"]: run for run in _runs(other)}
    return [(run, by_seed[run["settings"]["seed"]]) for run in _runs(row) if run["settings"]["seed"] in by_seed]


def _writes(run: Run) -> bool:
    return "nll_by_block_without_writes" in run


def _block(run: Run, number: int) -> float:
    """Return the test loss of a block, counted from 1."""
    return float(run["nll_by_block"][number - 1])


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
