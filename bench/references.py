"""Find what the report of a run compares it with: the stored runs of its cell, and the paper's number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.reporting.measures import MEASURES, VARIES, Published, References, Stored, shown
from tasks.running.runs import RunSettings

from . import agents, cells, store
from .plans.keyvalue import published
from .published import FIGURE_5, TABLE_1, TABLE_2, TABLE_3
from .seeds import median_and_range
from .store import Run

TABLES = {"retrieval": ("table 1", TABLE_1), "mnist": ("table 2", TABLE_2), "faces": ("table 3", TABLE_3)}
FORMAT = {"retrieval": "pairs", "mnist": "data"}  # the setting that must have its default for a number of the paper
# settings that make a network of another kind than the paper's
NETWORK = ("layer_norm", "normalize_preliminary", "wipe", "integrate", "glimpse_type")
SHOWN = 6  # differing settings that a note names


def of(settings: RunSettings) -> References:
    """Return the references of a run with these settings, finished or not."""
    task, values = settings.task, settings.as_json()
    of_task = [run for run in store.read(store.RUNS) if run["task"] == task and "wrong" not in run]
    same = [run for run in of_task if not _differing(task, run["settings"], values)]
    if task not in (*TABLES, "catch"):  # of another paper, whose tables have other cells
        paper = _published_of_keyvalue(values) if task == "keyvalue" else None
        return References(_stored(task, "stored runs, same settings", same) if same else None, paper=paper)
    of_table = _of_the_tables_cell(task, values)
    table = None
    if of_table and not {run["run"] for run in of_table} & {run["run"] for run in same}:
        table = _stored(
            task, f"stored runs, {_table(task)}", of_table, _difference(task, of_table[0]["settings"], values)
        )
    # of two runs with the same settings and seed, take the one of the paper's table
    same.sort(key=lambda run: not run["run"].startswith(f"{task}/"))
    stored = _stored(task, "stored runs, same settings", same) if same else None
    return References(stored, table, _published(task, values))


def _of_the_tables_cell(task: str, values: Mapping[str, Any]) -> list[Run]:
    """Return the stored runs of the paper's table, or figure 5, in the cell of these settings."""
    layer, size = values["layer"], values["hidden_size"]
    if task == "catch":
        return agents.of_game(store.load(task), (values["size"], values["visible"]), layer)
    if not _has_the_papers_format(task, values):
        return []
    runs = {"retrieval": cells.retrieval, "mnist": cells.digits}.get(task, lambda: store.load(task))()
    return cells.of(runs, layer, size)


def _stored(task: str, name: str, runs: list[Run], difference: str = "") -> Stored:
    """Return a summary of the runs: the median and range of one run for each seed."""
    measure, by_seed = MEASURES[task], dict[int, Run]()
    for run in runs:
        by_seed.setdefault(run["settings"]["seed"], run)
    figures = {seed: measure.of(run) for seed, run in sorted(by_seed.items())}
    text = median_and_range(list(figures.values()), measure.decimals, measure.unit)
    groups = " and ".join(dict.fromkeys(run["run"].partition("/")[0] for run in by_seed.values()))
    note = f"{len(figures)} seeds of {groups}" if len(figures) > 1 else f"one seed of {groups}"
    if difference:
        note += f", {difference}"
    return Stored(name, figures, text, note)


def _published(task: str, values: Mapping[str, Any]) -> Published | None:
    """Return the paper's number for the layer, R and the format of the data; None if it has none."""
    layer, usual = values["layer"], store.before_options(task)
    if any(values.get(name) != usual.get(name) for name in NETWORK) or not values["rate"]:
        return None
    if task == "catch":
        return _published_of_catch(values)
    name, table = TABLES[task]
    if not _has_the_papers_format(task, values) or values["hidden_size"] not in table.get(layer, {}):
        return None
    figure = table[layer][values["hidden_size"]]
    note = "on Multi-PIE, another data set" if task == "faces" else ""
    return Published(f"paper, {name}", figure, f"{figure:.2f} %", note)


def _published_of_keyvalue(values: Mapping[str, Any]) -> Published | None:
    """Return the published loss of this rule, feature map and number of keys."""
    layer = values["layer"]
    cell = values["repeat"], layer, "" if layer == "softmax" else values["feature_map"], values["keys"]
    loss = published(complete=True).get(cell) if (values["hidden_size"], values["decay"]) == (64, 1) else None
    return None if loss is None else Published("Schlag et al. 2021", loss, f"{loss:.4f}", "of one seed, by its log")


def _published_of_catch(values: Mapping[str, Any]) -> Published | None:
    """Return what figure 5 shows of this agent and game."""
    theirs = FIGURE_5.get((values["size"], values["visible"]), {}).get(values["layer"])
    if theirs is None:
        return None
    soon, reward = theirs
    note = "read off the figure"
    if soon is not None:
        note += f"; the reward passes 0.9 at {soon:g} of its steps, whose unit it does not define"
    return Published("paper, figure 5", reward, "no number" if reward is None else f"{reward:.2f}", note)


def _has_the_papers_format(task: str, values: Mapping[str, Any]) -> bool:
    name = FORMAT.get(task)
    return name is None or values[name] == store.before_options(task)[name]


def _differing(task: str, stored: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Return the settings in which a stored run differs from these values, except those that runs of a cell may."""
    theirs = store.before_options(task) | dict(stored)
    return [name for name in values if name not in VARIES and theirs.get(name) != values[name]]


def _difference(task: str, stored: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return how the settings of stored runs differ, in words."""
    theirs, names = store.before_options(task) | dict(stored), _differing(task, stored, values)
    parts = [f"{name} {shown(theirs[name])} instead of {shown(values[name])}" for name in names[:SHOWN]]
    return f"with {', '.join(parts)}" + (", and others" if len(names) > SHOWN else "")


def _table(task: str) -> str:
    return TABLES[task][0] if task in TABLES else "figure 5"
