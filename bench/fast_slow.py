"""Make the tables of fast_slow from the runs in bench/results: every arm, and what the study must show.

Episodes are those of all channels together. fast_slow_claims.py has the table of claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from statistics import median
from typing import Any, NamedTuple

from . import store
from .plans import fast_slow as plan
from .plans.fast_slow import BASES, DESIGN_1, DESIGN_2, HARDER, SEEDS, Row
from .report import markdown
from .seeds import median_and_range
from .store import Run

NOT_RUN = "not run"
SECOND = "second"

Measure = Callable[[Run], float]
Runs = dict[str, list[Run]]  # by group


def stored() -> Runs:
    """Return the stored runs, without their curves, by group."""
    found: Runs = {}
    for run in store.read(store.RUNS):
        if run["task"] == "fast_slow":
            found.setdefault(run["run"].partition("/")[0], []).append(run)
    return found


def tables() -> dict[str, str]:
    """Return every table, by the name in the markers of pages."""
    runs = stored()
    return {
        "fast-slow-1": arms(runs, DESIGN_1),
        "fast-slow-2": arms(runs, [ROWS["slow"], ROWS["slow-best"], *DESIGN_2]),
        "fast-slow-harder": arms(runs, HARDER),
        "fast-slow-must": must_show(runs),
    }


def missing() -> list[str]:
    """Return what the tables lack."""
    runs = stored()
    planned = [(row, base, SEEDS) for base in BASES for row in (*DESIGN_1, *DESIGN_2)]
    planned += [(row, 0, plan.HARDER_SEEDS) for row in HARDER]
    counts = [(row, base, len(runs.get(row.group(base), ())), seeds) for row, base, seeds in planned]
    return [
        f"fast_slow, {row.group(base)}: {count} of {seeds} seeds" for row, base, count, seeds in counts if count < seeds
    ]


ROWS = {row.key: row for row in (*DESIGN_1, *DESIGN_2)}


def of(runs: Runs, row: Row, bases: Sequence[int] = BASES) -> list[Run]:
    """Return an arm's runs from these base policies."""
    return [run for base in bases for run in runs.get(row.group(base), ())]


# ------------------------------------------------------------------------------------------------ measures of one run


def stage(run: Run, name: str = "task 1") -> dict[str, Any]:
    """Return what one stage of a run shows."""
    return next(each for each in run["stages"] if each["name"] == name)


def episodes(run: Run, name: str = "task 1") -> float:
    """Return the episodes to a reward of 0.9 in a stage; infinity if it was never reached."""
    found = stage(run, name)["episodes_to_learn"]
    return inf if found is None else found


def drift(run: Run) -> float:
    """Return KL(policy‖base policy) when the first task was learned; infinity if it never was."""
    found = stage(run)["kl_when_learned"]
    return inf if found is None else found


def second(run: Run) -> float:
    """Return 1 if the weights alone learned the second task, else 0."""
    return float(episodes(run, SECOND) < inf)


def learned_in_a_row(run: Run) -> float:
    """Return how many of the tasks after the first one were learned."""
    later = [each["name"] for each in run["stages"] if each["name"] not in ("task 1", SECOND)]
    return float(sum(episodes(run, name) < inf for name in later))


def at_end(name: str) -> Measure:
    """Return the measure of this name at the end of the first task."""
    return lambda run: stage(run)[name]


# --------------------------------------------------------------------------------------------------------------- arms


def arms(runs: Runs, rows: Sequence[Row]) -> str:
    """Return one line for each arm: medians and ranges over base policies and seeds."""
    lines = []
    for row in rows:
        found = of(runs, row)
        rates = sorted({_rates(run["settings"]) for run in found})
        lines.append(
            [row.name, len(found), ", ".join(rates), *_cells(found)] if found else [row.name, 0, *[NOT_RUN] * 9]
        )
    header = [
        "arm", "runs", "rates: weights, contexts", "learned", "thousand episodes to 0.9", "reward at the end",
        "reward without contexts", "KL when learned", "KL at the end", "base accuracy at the end",
        "second task, weights alone",
    ]  # fmt: skip
    return markdown([*header, "tasks 2 and 3"], [[*line] + [NOT_RUN] * (12 - len(line)) for line in lines])


def _rates(settings: dict[str, Any]) -> str:
    weights = "-" if settings["method"] == "fast" else f"{settings['learning_rate']:g}"
    gradient = settings["method"] not in ("slow", "random") and settings["context"] != "prompt"
    return f"{weights}, {settings['fast_learning_rate']:g}" if gradient else f"{weights}, -"


def shown(values: Sequence[float]) -> str:
    """Return median and range with three decimals; infinity is "never", the value of a run that did not learn."""
    each = (median(values), min(values), max(values))
    middle, low, high = ("never" if value == inf else f"{value:.3f}" for value in each)
    return f"{middle} ({low} to {high})"


def _cells(found: list[Run]) -> list[str]:
    times = [episodes(run) for run in found]
    learned = [time for time in times if time < inf]
    later = sum(learned_in_a_row(run) for run in found)
    of_later = sum(len(run["stages"]) - 2 for run in found)
    return [
        f"{len(learned)} of {len(found)}",
        thousands(times),
        median_and_range([at_end("reward")(run) for run in found], 3, ""),
        median_and_range([at_end("neutral_reward")(run) for run in found], 2, ""),
        shown([drift(run) for run in found]),
        median_and_range([at_end("kl")(run) for run in found], 3, ""),
        median_and_range([at_end("base_accuracy")(run) for run in found], 3, ""),
        f"{sum(second(run) for run in found):.0f} of {len(found)}",
        f"{later:.0f} of {of_later}",
    ]


def thousands(times: Sequence[float]) -> str:
    """Return the median and range of episodes in thousands, "never" for infinity."""
    texts = ["never" if value == inf else f"{value / 1000:.0f}" for value in (median(times), min(times), max(times))]
    return f"{texts[0]} ({texts[1]} to {texts[2]})" if len(times) > 1 else texts[0]


# ---------------------------------------------------------------------------------------------------- what it must show


class Need(NamedTuple):
    """A threshold that the plan fixed: what, the arm, the measured text, and whether it holds."""

    what: str
    row: Row
    judge: Callable[[list[Run]], tuple[str, bool]]


def _oracle(found: list[Run]) -> tuple[str, bool]:
    values = [run["written_accuracy"] for run in found]
    return f"{min(values):.3f}", min(values) >= plan.ORACLE


def _alone(found: list[Run]) -> tuple[str, bool]:
    kls = [at_end("kl")(run) for run in found]
    curves = {run["run"]: run["curve"] for run in store.load(found[0]["run"].partition("/")[0])}
    highest = [max(line["reward"] for line in curves[run["run"]] if line["stage"] == 0) for run in found]
    reached, kept = (
        sum(reward >= plan.CONTEXT_REWARD for reward in each)
        for each in (highest, [at_end("reward")(run) for run in found])
    )
    text = f"{reached} of {len(found)} ({kept} at the end), KL at most {max(kls):g}"
    return text, reached >= plan.CONTEXT_SEEDS and not any(kls)


def _median_episodes(found: list[Run]) -> tuple[str, bool]:
    times = [episodes(run) for run in found]
    return f"{thousands(times)} thousand", median(times) <= plan.BOTH_EPISODES


def _base_accuracy(found: list[Run]) -> tuple[str, bool]:
    values = [at_end("base_accuracy")(run) for run in found]
    return median_and_range(values, 3, ""), median(values) >= plan.BASE_ACCURACY


def _second(found: list[Run], most: bool) -> tuple[str, bool]:
    count = sum(second(run) for run in found)
    return f"{count:.0f} of {len(found)}", count <= plan.SECOND_SLOW if most else count >= plan.SECOND_CONTEXT


NEEDS = [
    Need(f"A0 written by showing π: accuracy of at least {plan.ORACLE}", ROWS["slow"], _oracle),
    Need(
        f"reward of {plan.CONTEXT_REWARD} within the episodes in {plan.CONTEXT_SEEDS} of {SEEDS} seeds, KL exactly 0",
        ROWS["fast"], _alone,
    ),
    *(
        need
        for key in ("both", "both-low")
        for need in (
            Need(f"median episodes to 0.9 of at most {plan.BOTH_EPISODES:,}", ROWS[key], _median_episodes),
            Need(f"base accuracy at the end of at least {plan.BASE_ACCURACY}, median", ROWS[key], _base_accuracy),
            Need(f"second task in at least {plan.SECOND_CONTEXT} seeds", ROWS[key], partial(_second, most=False)),
        )
    ),
    Need(f"second task in at most {plan.SECOND_SLOW} seed", ROWS["slow"], partial(_second, most=True)),
    Need(f"second task in at most {plan.SECOND_SLOW} seed", ROWS["slow-best"], partial(_second, most=True)),
]  # fmt: skip


def must_show(runs: Runs) -> str:
    """Return each threshold, and for each base policy what was measured and whether it holds."""
    lines = []
    for need in NEEDS:
        cells: list[str] = []
        for base in BASES:
            found = of(runs, need.row, [base])
            if not found:
                cells.append(NOT_RUN)
                continue
            text, holds = need.judge(found)
            whole = len(found) == SEEDS
            verdict = ("holds" if holds else "fails") if whole else f"{len(found)} of {SEEDS} seeds"
            cells.append(f"{text}: {verdict}")
        lines.append([need.row.name, need.what, *cells])
    return markdown(["arm", "must show", *(f"base policy {base}" for base in BASES)], lines)
