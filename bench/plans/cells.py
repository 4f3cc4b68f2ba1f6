"""Define what a plan lists: searches, and runs that differ only in their seed."""

from __future__ import annotations

from typing import NamedTuple


class Search(NamedTuple):
    """A search of settings on the validation set: every combination of a grid."""

    name: str  # in the store, where it follows "search/"
    task: str
    options: str  # of every trial
    grid: str  # NAME=V,V for each searched setting

    @property
    def group(self) -> str:
        """Return the task: the search is not in a group of its own."""
        return self.task

    @property
    def start(self) -> None:
        """Return None: its trials start anew."""
        return None


class Cell(NamedTuple):
    """Runs that differ only in their seed."""

    group: str  # the task, or TASK-NAME outside the paper's tables
    options: str
    seeds: tuple[int, ...]
    search: str = ""  # name of the stored search whose best settings the runs take, too
    start: Cell | None = None  # each run starts from the parameters of this cell's run with its seed, by --initial

    @property
    def task(self) -> str:
        """Return the task that the runs belong to."""
        return self.group.partition("-")[0]


def cells(group: str, seeds: int, *options: str) -> list[Cell]:
    """Return one cell with seeds 0 .. seeds-1 for each text of options."""
    return [Cell(group, text, tuple(range(seeds))) for text in options]
