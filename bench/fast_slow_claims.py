"""Make the tables of the six claims of Fast-Slow Training, one for each design, from the runs in bench/results.

A comparison takes pairs of runs of the same base policy and seed. It is supported if the sign test of at least FEWEST
pairs has p <= LEVEL, not supported if at least as many pairs are lost as won, and undecided otherwise, and with fewer
pairs. A claim is supported if all its comparisons are, and not supported if one is not. The rules were fixed before the
first run ended, like the thresholds in plans/fast_slow.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    shown,
    stored,
    thousands,
)  # fmt: skip
from .plans.fast_slow import Row
from .report import markdown
from .seeds import sign_test
from .store import Run

LEVEL, FEWEST = 0.0625, 5  # 5 of 5 pairs have p = 0.0625
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
WEIGHTS, CONTROLS = ("slow", "slow-best"), ("slow-kl", "block-low")
DESIGNS = {1: (("both", "both-low"), "fast"), 2: (("prompt-both", "prompt-both-low"), "prompt")}  # both; contexts alone


class Claim(NamedTuple):
    """A claim: its name, what is compared, whether less is better, and whether contexts alone are compared, too."""

    name: str
    measure: Measure
    less: bool
    with_contexts_alone: bool
    show: Callable[[Sequence[float]], str]


def _count(values: Sequence[float]) -> str:
    return f"{sum(values):.0f} in {len(values)} runs"


CLAIMS = [
    Claim("C1: fewer episodes to 0.9 (thousands)", episodes, True, True, thousands),
    Claim("C2: higher reward at the end", at_end("reward"), False, True, shown),
    Claim("C3: less KL when learned (nats)", drift, True, False, shown),
    Claim("C4: second task learned by the weights", second, False, False, _count),
    Claim("C5: tasks 2 and 3 learned in a row", learned_in_a_row, False, False, _count),
    Claim("C6: higher mean reward than either channel", at_end("mean_reward"), False, True, shown),
]


def tables(runs: Runs | None = None) -> dict[str, str]:
    """Return both tables, by the name in the markers of pages."""
    runs = stored() if runs is None else runs
    return {f"fast-slow-claims-{design}": table(runs, design) for design in DESIGNS}


def table(runs: Runs, design: int) -> str:
    """Return each claim for both rates of the weights: verdicts, and each arm's figure with pairs won/tied/lost."""
    keys, alone = DESIGNS[design]
    arms, lines = [ROWS[key] for key in (*WEIGHTS, alone, *CONTROLS)], []
    for claim in CLAIMS:
        for key in keys:
            ours, found = ROWS[key], of(runs, ROWS[key])
            judged = {arm.key: _judged(runs, claim, ours, arm) for arm in arms}
            singles = [*WEIGHTS, *([alone] if claim.with_contexts_alone else [])]
            verdicts = [_verdict([judged[name][0] for name in names]) for names in (singles, CONTROLS)]
            values = claim.show([claim.measure(run) for run in found]) if found else NOT_RUN
            lines.append([claim.name, ours.name, *verdicts, values, *(judged[arm.key][1] for arm in arms)])
    header = ["claim", "both channels", "verdict", "verdict against the controls", "both", *(arm.name for arm in arms)]
    return markdown(header, lines)


def _verdict(found: Sequence[str]) -> str:
    if NOT_SUPPORTED in found:
        return NOT_SUPPORTED
    return SUPPORTED if set(found) == {SUPPORTED} else UNDECIDED


def _judged(runs: Runs, claim: Claim, ours: Row, theirs: Row) -> tuple[str, str]:
    """Return the verdict of one comparison, and the other arm's figure with the pairs."""
    if not (others := of(runs, theirs)):
        return UNDECIDED, NOT_RUN
    by_place, text = {_place(run): run for run in others}, claim.show([claim.measure(run) for run in others])
    pairs = [(run, by_place[_place(run)]) for run in of(runs, ours) if _place(run) in by_place]
    if not pairs:
        return UNDECIDED, text
    values = [(claim.measure(one), claim.measure(other)) for one, other in pairs]
    won = sum(one < other if claim.less else one > other for one, other in values)
    tied = sum(one == other for one, other in values)
    lost = len(values) - won - tied
    text += f"; {won}/{tied}/{lost}"
    if len(values) < FEWEST:
        return UNDECIDED, text
    if lost >= won:
        return NOT_SUPPORTED, text
    return SUPPORTED if sign_test(won, lost) <= LEVEL else UNDECIDED, text


def _place(run: Run) -> tuple[int, int]:
    return run["settings"]["base_seed"], run["settings"]["seed"]
