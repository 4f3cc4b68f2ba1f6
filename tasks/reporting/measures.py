"""Define what a report compares of each task's runs, and the references that it compares with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..running.runs import RunSettings

VARIES = ("seed", "test_curve", "generalize", "threads")  # settings that runs of one cell may differ in


def shown(value: object) -> str:
    """Return a setting's value as text, a whole number with commas."""
    return f"{value:,}" if type(value) is int else str(value)


class Measure(NamedTuple):
    """The main figure of a task's results."""

    name: str  # of the task
    title: str
    of: Callable[[Mapping[str, Any]], float]  # of a result, in the unit
    decimals: int
    unit: str
    needed: tuple[str, ...]  # numbers that a result must have
    curve: tuple[str, ...]  # numbers that each line of a curve must have

    @property
    def loss(self) -> str:
        """Return the name of the validation loss in a line of the curve."""
        return "validation_loss" if "validation_loss" in self.curve else "validation_nll"

    def text(self, figure: float) -> str:
        """Return the figure with its unit."""
        return f"{figure:.{self.decimals}f}{self.unit}"


_CURVE = ("update", "epoch", "train_loss", "validation_nll", "validation_error")
_NEEDED = ("test_error", "test_nll", "updates", "seconds")


def _error(result: Mapping[str, Any]) -> float:
    return 100 * result["test_error"]


def _accuracy(result: Mapping[str, Any]) -> float:
    return 100 - _error(result)


REWARDED = ("catch", "fast_slow")  # tasks that learn from rewards: their curves have no losses
MEASURES = {
    "retrieval": Measure("Associative retrieval", "test error", _error, 3, " %", _NEEDED, _CURVE),
    "mnist": Measure("Digits", "test error", _error, 2, " %", _NEEDED, _CURVE),
    "faces": Measure("Facial expressions", "test accuracy", _accuracy, 2, " %", _NEEDED, _CURVE),
    "catch": Measure(
        "Catch", "mean reward", lambda result: result["mean_reward"], 3, "",
        ("mean_reward", "test_reward", "test_reward_greedy", "chance", "updates", "frames", "seconds"),
        ("frames", "mean_reward"),
    ),
    "keyvalue": Measure(
        "Retrieval of values by their keys", "least evaluation loss", lambda result: result["validation_loss"], 4, "",
        ("validation_loss", "test_error", "test_loss", "updates", "seconds"),
        ("update", "epoch", "train_loss", "validation_loss", "validation_error"),
    ),
    "fast_slow": Measure(
        "Contexts and weights", "reward at the end of the first task", lambda result: result["final_reward"], 3, "",
        ("final_reward", "mean_reward", "updates", "seconds"), ("update", "episodes", "reward", "kl"),
    ),
    "mqar": Measure("Multi-query recall", "test error", _error, 2, " %", _NEEDED, _CURVE),
    "longrecall": Measure("Recall over a long range", "test accuracy", _accuracy, 2, " %", _NEEDED, _CURVE),
    "text": Measure(
        "Character language model", "test loss", lambda result: result["test_nll"], 4, " nats", _NEEDED, _CURVE
    ),
}  # fmt: skip


class Stored(NamedTuple):
    """Stored runs that differ in the seed alone."""

    name: str
    figures: dict[int, float]  # by seed
    text: str
    note: str


class Published(NamedTuple):
    """A number of the paper. figure: None if the paper has no number for the measure."""

    name: str
    figure: float | None
    text: str
    note: str


class References(NamedTuple):
    """The references of a run: stored runs with its settings, the stored runs of its table's cell, and the paper."""

    same: Stored | None = None
    table: Stored | None = None  # None if these have the run's settings
    paper: Published | None = None


FindReferences = Callable[[RunSettings], References]
