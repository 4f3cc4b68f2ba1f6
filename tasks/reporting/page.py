"""Write the page of a report from the runs and searches that were read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from fastweights_np import __version__

from ..figures.style import title
from .cells import Cell, cells
from .details import curves, origins, pictures, search, settings
from .markup import Html, tag
from .measures import MEASURES, FindReferences
from .reading import Run, Search
from .results import results

CSS = Path(__file__).with_name("page.css")
# with this policy the browser refuses scripts and requests
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(items: Sequence[Run | Search], find: FindReferences) -> str:
    """Return the whole page. find: the function that finds the references of a run."""
    runs = [item for item in items if isinstance(item, Run)]
    by_task = cells(runs, find)
    heading = _heading(items, by_task)
    parts = [_header(heading, items)]
    for task, of_task in by_task.items():
        if len(by_task) > 1:
            parts.append(tag("h2", MEASURES[task].name, class_="of-task"))
        parts += [results(task, of_task), curves(task, of_task), settings(of_task)]
    parts += [part for part in (pictures(runs), *(search(item) for item in items if isinstance(item, Search))) if part]
    parts.append(origins(items))
    made = time.strftime("%Y-%m-%d %H:%M %z")
    foot = tag("footer", f"Made on {made} by python -m tasks report, fastweights_np {__version__}.")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", heading),
        tag("style", Html(CSS.read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *parts), foot), lang='en')}\n"


def _header(heading: str, items: Sequence[Run | Search]) -> Html:
    tasks = dict.fromkeys(MEASURES[item.settings.task].name for item in items)
    unfinished = [item.name for item in items if isinstance(item, Run) and item.result is None]
    note = tag("p", f"Not finished: {', '.join(unfinished)}", class_="warning") if unfinished else None
    return tag("header", tag("p", " · ".join(tasks), class_="task"), tag("h1", heading), note)


def _heading(items: Sequence[Run | Search], by_task: dict[str, list[Cell]]) -> str:
    if len(items) == 1:
        (item,) = items
        return title(item.settings) if isinstance(item, Run) else f"Search {item.folder.resolve().name}"
    of_cells = [cell for of_task in by_task.values() for cell in of_task]
    if len(of_cells) == 1 and len(of_cells[0].runs) == len(items):
        return f"{of_cells[0].look.label}, {len(items)} runs"
    searches = sum(isinstance(item, Search) for item in items)
    counts = {"run": (len(items) - searches, "runs"), "search": (searches, "searches")}
    words = (f"{count} {one if count == 1 else several}" for one, (count, several) in counts.items() if count)
    return f"Report of {' and '.join(words)}"
