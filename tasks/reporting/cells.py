"""Group runs that differ in the seed alone, and name the groups by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..figures.style import title
from .charts import Look, looks
from .measures import VARIES, FindReferences, References, shown
from .reading import Run


class Cell(NamedTuple):
    """Runs of a task that differ in the seed alone. look: its label, and its line in the charts."""

    task: str
    runs: list[Run]
    look: Look
    references: References


def cells(runs: Iterable[Run], find: FindReferences) -> dict[str, list[Cell]]:
    """Return the cells of each task, in the order of the runs."""
    grouped: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        key = repr(fixed(run))
        grouped.setdefault(run.settings.task, {}).setdefault(key, []).append(run)
    found = {}
    for task, by_settings in grouped.items():
        groups = list(by_settings.values())
        named = zip(_labels(groups), (group[0].settings.as_json()["layer"] for group in groups), strict=True)
        found[task] = [
            Cell(task, group, look, find(group[0].settings))
            for group, look in zip(groups, looks([*named]), strict=True)
        ]
    return found


def fixed(run: Run) -> dict[str, Any]:
    """Return the settings that all runs of a cell share."""
    return {name: value for name, value in run.settings.as_json().items() if name not in VARIES}


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which runs of one task differ."""
    settings = [run.settings.as_json() for run in runs]
    return [name for name in settings[0] if any(each[name] != settings[0][name] for each in settings)]


def _labels(groups: list[list[Run]]) -> list[str]:
    """Return the name of each group: layer, R, and the settings in which groups of the same layer and R differ."""
    runs = [group[0] for group in groups]
    titles = [title(run.settings, searched=("seed",)) for run in runs]
    labels = []
    for run, name in zip(runs, titles, strict=True):
        fellows = [fellow for fellow, other in zip(runs, titles, strict=True) if other == name]
        values = fixed(run)
        parts = [f"{each} {shown(values[each])}" for each in differing(fellows) if each in values]
        labels.append(", ".join([name, *parts]))
    return labels
