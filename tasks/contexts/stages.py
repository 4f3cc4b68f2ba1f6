"""Plan the stages of a run: one task each, learned by the run's method or, to measure plasticity, by the weights alone.

    tasks 3, second    task 1, [task 2 by the weights alone], task 2, task 3

The stage in brackets starts from the weights after task 1, without contexts. The weights that it makes are discarded.
"""

from __future__ import annotations

from typing import NamedTuple

HALVES = ("fast_then_slow", "slow_then_fast")  # methods with half the updates for each channel


class Stage(NamedTuple):
    """One stage: its name, its task, counted from 0, and its method."""

    name: str
    task: int
    method: str


def stages(method: str, tasks: int, second: bool) -> list[Stage]:
    """Return the stages of a run, in order."""
    found = [Stage(f"task {n + 1}", n, method) for n in range(tasks)]
    return [found[0], *[Stage("second", 1, "slow")] * second, *found[1:]]


def kind_of(method: str, update: int, updates: int, interleave: int) -> str:
    """Return what learns in this update of a stage, counted from 0: slow, fast or same, as in learner.py.

    interleave: updates of one channel before the other has its turn; 0: both learn from the same episodes.
    """
    if method == "both":
        if not interleave:
            return "same"
        return "slow" if update // interleave % 2 else "fast"
    if method in HALVES:
        first, _, second = method.split("_")
        return first if update < updates // 2 else second
    return "fast" if method == "fast" else "slow"


def with_contexts(method: str, update: int, updates: int) -> bool:
    """Return whether the policy acts with its contexts in this update: not before slow_then_fast has made them."""
    return method != "slow" and not (method == "slow_then_fast" and update < updates // 2)
