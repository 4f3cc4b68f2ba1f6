"""Make the table of the six claims of Fast-Slow Training, for both designs, from the runs in bench/results.

A comparison takes pairs of runs of the same base policy and seed. It is supported if the sign test of at least FEWEST
pairs has p <= LEVEL, not supported if at least as many pairs are lost as won, and undecided otherwise, and with fewer
pairs. The verdicts were fixed before the runs, like the thresholds in plans/fast_slow.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from .fast_slow import (
    NOT_RUN,
    ROWS,
    Measure,
    Runs,
    at_end,
    drift,
    episodes,
    learned_in_a_row,
    of,
    second,
    stage,
    stored,
    thousands,
)  # fmt: skip
from .plans.fast_slow import Row
from .report import markdown
from .seeds import sign_test
from .store import Run

LEVEL, FEWEST = 0.0625, 5  # 5 of 5 pairs have p = 0.0625


class Claim(NamedTuple):
    """A comparison of two arms: the claim, what is measured, whether less is better, and how a value is shown."""

    name: str
    measure: Measure
    less: bool
    show: Callable[[Sequence[float]], str]
    others: tuple[str, ...]  # keys of the arms that it is compared with


def _plain(decimals: int) -> Callable[[Sequence[float]], str]:
    return lambda values: f"{median(values):.{decimals}f} ({min(values):.{decimals}f} to {max(values):.{decimals}f})"


SINGLE = ("slow", "slow-best", "fast")
CONTROLS = ("slow-kl", "block-low")
CLAIMS = [
    Claim("C1 fewer episodes to 0.9", episodes, True, thousands, (*SINGLE, "block-low")),
    Claim("C2 higher reward at the end", at_end("reward"), False, _plain(3), SINGLE),
    Claim("C3 less KL when learned", drift, True, _plain(3), ("slow", "slow-best", *CONTROLS)),
    Claim("C4 learns a second task by the weights", second, False, _plain(0), ("slow", "slow-best", *CONTROLS)),
    Claim("C5 learns tasks 2 and 3 in a row", learned_in_a_row, False, _plain(0), ("slow", "slow-best", *CONTROLS)),
    Claim("C6 higher mean reward than one channel", lambda run: stage(run)["mean_reward"], False, _plain(3), SINGLE),
]
OURS = {"1": ("both", "both-low"), "2": ("prompt-both", "prompt-both-low")}
PROMPTS_FOR = {"fast": "prompt"}  # design 2's single channel


def table(runs: Runs | None = None) -> str:
    """Return every claim for each design and rate, compared with each arm: verdict, medians and ranges, and pairs."""
    runs = stored() if runs is None else runs
    lines = []
    for claim in CLAIMS:
        for design, keys in OURS.items():
            for key in keys:
                for other in claim.others:
                    theirs = ROWS[PROMPTS_FOR.get(other, other) if design == "2" else other]
                    lines.append([claim.name, design, ROWS[key].name, theirs.name, *_judged(runs, claim, key, theirs)])
    header = [
        "claim",
        "design",
        "both channels",
        "compared with",
        "verdict",
        "both",
        "the other",
        "won / tied / lost, p",
    ]
    return markdown(header, lines)


def _judged(runs: Runs, claim: Claim, key: str, theirs: Row) -> list[str]:
    by_place = {_place(run): run for run in of(runs, theirs)}
    pairs = [(run, by_place[_place(run)]) for run in of(runs, ROWS[key]) if _place(run) in by_place]
    if not pairs:
        return [NOT_RUN] * 4
    values = [(claim.measure(ours), claim.measure(other)) for ours, other in pairs]
    won = sum(ours < other if claim.less else ours > other for ours, other in values)
    tied = sum(ours == other for ours, other in values)
    lost, p = len(values) - won - tied, sign_test(won, len(values) - won - tied)
    if len(values) < FEWEST:
        verdict = "undecided"
    elif won > lost and p <= LEVEL:
        verdict = "supported"
    else:
        verdict = "undecided" if won > lost else "not supported"
    ours, other = zip(*values, strict=True)
    return [verdict, claim.show(ours), claim.show(other), f"{won} / {tied} / {lost}, {p:.2g}"]


def _place(run: Run) -> tuple[int, int]:
    return run["settings"]["base_seed"], run["settings"]["seed"]
