"""Write the curves, settings, pictures and origin of runs, and the trials of searches."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from ..running import option_help
from ..running.runs import RunSettings
from . import charts
from .cells import Cell, differing
from .markup import Html, joined, table, tag
from .measures import VARIES, shown
from .reading import Picture, Run, Search
from .results import duration, floor_of

CAPTIONS = {
    "attention.png": "What the network attends to", "confusion.png": "Confusion matrix",
    "glimpses.png": "The glimpses of an image", "episode.png": "An episode, frame by frame",
    "episode.gif": "The same episode: the screen, and what the agent sees of it",
    "search.png": "The objective of each trial",
}  # fmt: skip
LARGE = 700  # pixels: on a phone, a larger picture scrolls sideways rather than shrink to the screen
PROVENANCE = ("command", "commit", "machine", "python", "numpy", "device", "processes", "finished")


def curves(task: str, of_task: Sequence[Cell]) -> Html:
    """Return the section of the training curves: every run of a task in each chart."""
    runs = [(cell.look, run) for cell in of_task for run in cell.runs if run.curve]
    heading = tag("h2", "Training")
    if not runs:
        return tag("section", heading, tag("p", "No run has a curve yet."))
    floors = {floor_of(run) for _, run in runs}
    floor = floors.pop() if len(floors) == 1 else None
    legend = [tag("li", charts.swatch(cell.look), f" {cell.look.label}{_seeds(cell)}") for cell in of_task]
    if floor is not None:
        legend.append(tag("li", charts.swatch(charts.FLOOR), f" {charts.FLOOR.label}"))
    drawn = tag("div", *charts.curves(task, runs, floor), class_="charts")
    return tag("section", heading, tag("ul", *legend, class_="key"), drawn)


def _seeds(cell: Cell) -> str:
    return f", {len(cell.runs)} runs" if len(cell.runs) > 1 else ""


# ------------------------------------------------------------------------------------------------------------- settings


def settings(of_task: Sequence[Cell]) -> Html:
    """Return the section of the settings: first those in which the cells differ, then each cell's own."""
    parts: list[Html] = []
    if len(of_task) > 1:
        firsts = [cell.runs[0] for cell in of_task]
        names = [name for name in differing(firsts) if name not in VARIES]
        rows = [
            [joined(charts.swatch(cell.look), f" {cell.look.label}"), *(_value(run, name) for name in names)]
            for cell, run in zip(of_task, firsts, strict=True)
        ]
        parts.append(_foldable("What differs between the runs", table(["runs", *names], rows), unfolded=True))
    for cell in of_task:
        own = _of_settings(cell.runs[0].settings, [run.settings.seed for run in cell.runs])
        parts += own if len(of_task) == 1 else [_foldable(cell.look.label, joined(*own))]
    return tag("section", tag("h2", "Settings"), *parts, class_="stack")


def _of_settings(of_run: RunSettings, seeds: Sequence[int]) -> list[Html]:
    """Return the settings that differ from the defaults, and all settings that have an effect, both foldable."""
    values, usual = of_run.as_json(), type(of_run)().as_json()
    values["seed"] = ", ".join(map(str, seeds))
    usual["seed"] = str(usual["seed"])
    used = [name for name in values if name not in of_run.unused(of_run.as_json())]
    changed = [name for name in used if values[name] != usual[name]]
    docs = option_help.documented(type(of_run))

    def rows(names: Sequence[str]) -> Html:
        body: list[list[str | Html]] = [
            [tag("code", name), shown(values[name]), shown(usual[name]), tag("small", " ".join(docs[name].split()))]
            for name in names
        ]
        return table(["setting", "value", "default", "meaning"], body, "settings")

    first = rows(changed) if changed else tag("p", "None: every setting has its default.")
    return [
        _foldable("What differs from the defaults", first, unfolded=True),
        _foldable("All settings", rows(used), class_="all"),
    ]


def _foldable(heading: str, content: Html, unfolded: bool = False, class_: str | None = None) -> Html:
    return tag("details", tag("summary", heading), content, open=unfolded or None, class_=class_)


def _value(run: Run, name: str) -> str:
    """Return a setting's value, or a dash if it has no effect on the run."""
    values = run.settings.as_json()
    return "-" if name in run.settings.unused(values) else shown(values[name])


# ------------------------------------------------------------------------------------------------------------- pictures


def pictures(runs: Sequence[Run]) -> Html | None:
    """Return the section of the pictures in the runs' folders; None if there are none."""
    with_some = [run for run in runs if run.pictures]
    if not with_some:
        return None
    if len(runs) == 1:
        return tag("section", tag("h2", "Pictures"), _gallery(runs[0].pictures))
    parts = [_foldable(run.name, _gallery(run.pictures), unfolded=n == 0) for n, run in enumerate(with_some)]
    return tag("section", tag("h2", "Pictures"), *parts, class_="stack")


def _gallery(found: Sequence[Picture]) -> Html:
    known = list(CAPTIONS)
    ordered = sorted(found, key=lambda each: known.index(each.name) if each.name in known else len(known))
    return tag("div", *map(_figure, ordered), class_="gallery")


def _figure(picture: Picture) -> Html:
    caption, (width, height) = CAPTIONS.get(picture.name, picture.name), picture.size
    source = f"data:image/{picture.kind.lower()};base64,{b64encode(picture.data).decode()}"
    image = tag("img", src=source, alt=caption, width=width, height=height)
    return tag("figure", image, tag("figcaption", caption), class_="picture" + " large" * (width > LARGE))


# ---------------------------------------------------------------------------------------------------- searches, origins


def search(item: Search) -> Html:
    """Return the section of a search: its trials, best first, its settings and its picture."""
    objective, found = item.settings.objective, item.found
    names = list(found["space"])

    def rank(trial: dict[str, Any]) -> float:
        value = objective.worst if trial[objective.name] is None else trial[objective.name]
        return -value if objective.maximize else value

    rows: list[list[str | Html]] = []
    for trial in sorted(found["trials"], key=rank):
        value, state = trial[objective.name], trial.get("state")
        failed = "stopped early" if state == "PRUNED" else "diverged"
        figure = f"{value:.4f}" if value is not None else failed
        rows.append([str(trial["number"]), *(shown(trial[name]) for name in names), figure])
    left = (
        tag("p", f"Not finished: {found['left']} settings are left.", class_="warning") if found.get("left") else None
    )
    trials = table(["trial", *names, objective.title], rows) if rows else tag("p", "No trial is finished yet.")
    own = tag("section", tag("h3", "Settings of each trial"), *_of_settings(item.settings, [item.settings.seed]),
              class_="stack")  # fmt: skip
    heading = tag("h2", f"Search {item.folder.resolve().name}")
    return tag("section", heading, left, trials, _gallery(item.pictures), own)


def origins(items: Sequence[Run | Search]) -> Html:
    """Return the section of the provenance of each run and search."""
    parts = []
    for item in items:
        about = item.about if isinstance(item, Run) else item.found
        rows = {"folder": str(item.folder.resolve())}
        rows |= {name: str(about[name]) for name in PROVENANCE if name in about}
        if isinstance(item, Run) and item.result is not None:
            rows["training time"] = duration(item.result["seconds"])
        if isinstance(origin := about.get("origin"), dict):
            rows["started from"] = ", ".join(f"{name} {shlex.quote(str(value))}" for name, value in origin.items())
        values = [tag("div", tag("dt", name), tag("dd", tag("code", value))) for name, value in rows.items()]
        listed = tag("dl", *values, class_="origin")
        parts.append(_foldable(item.name, listed, unfolded=len(items) == 1))
    return tag("section", tag("h2", "Where it comes from"), *parts, class_="stack")
