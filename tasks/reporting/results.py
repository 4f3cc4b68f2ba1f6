"""Write the results of runs, next to the stored runs and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from .. import retrieval
from ..retrieval import key_blind_floor
from . import charts
from .cells import Cell
from .markup import Html, joined, table, tag
from .measures import MEASURES, Measure
from .reading import Run

COLUMNS = ("test loss (nats)", "validation error", "best epoch", "training time")
COLUMNS_OF_AGENTS = ("test reward, sampled actions", "millions of frames to a reward of 0.9", "training time")
# see bench/seeds.py
INTERVAL = (
    "In brackets: the range of the seeds. It contains the median over all seeds with a probability of at least 50 % "
    "for 2 seeds, 75 % for 3, 88 % for 4, 94 % for 5."
)


def results(task: str, of_task: Sequence[Cell]) -> Html:
    """Return the section of a task's results."""
    measure, runs = MEASURES[task], [run for cell in of_task for run in cell.runs]
    if len(runs) == 1:
        first = tag("dl", *(_pair(name, value) for name, value in facts(runs[0])), class_="tiles")
    else:
        first = _table(of_task, measure)
    cards = tag("div", _standings(task, of_task), *(_card(cell, measure) for cell in of_task), class_="cards")
    note = tag("p", INTERVAL) if any(cell.references.same or cell.references.table for cell in of_task) else None
    return tag("section", tag("h2", "Result" if len(runs) == 1 else "Results"), first, cards, note)


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each figure of a run, the main one first."""
    measure, result = MEASURES[run.settings.task], run.result
    if result is None:
        yield from _progress(run)
        return
    yield measure.title, measure.text(measure.of(result))
    if run.settings.task == "catch":
        learned = result.get("frames_to_learn")
        yield "test reward, sampled actions", f"{result['test_reward']:.3f}"
        yield "test reward, greedy actions", f"{result['test_reward_greedy']:.3f}"
        yield "random policy", f"{result['chance']:.3f}"
        yield "millions of frames to a reward of 0.9", "never" if learned is None else f"{learned / 1e6:.1f}"
        yield "frames", f"{result['frames']:,}"
    elif run.settings.task == "fast_slow":
        learned = result["episodes_to_learn"]
        yield "thousands of episodes to a reward of 0.9", "never" if learned is None else f"{learned / 1e3:.0f}"
        yield "mean reward", f"{result['mean_reward']:.3f}"
        yield "updates", f"{result['updates']:,}"
    else:
        if "test_nll" in result:
            yield "test loss (nats)", f"{result['test_nll']:.4f}"
        else:
            yield "test error", f"{100 * result['test_error']:.2f} %"
            yield "test loss", f"{result['test_loss']:.4f}"
        if floor := floor_of(run):
            yield "key-blind floor", f"{100 * floor[0]:.2f} %"
        best = result["best_on_validation"]
        yield "validation error", f"{100 * best['validation_error']:.{measure.decimals}f} %"
        yield "best epoch", f"{best['epoch']} of {run.settings.as_json()['epochs']}"
        yield "updates", f"{result['updates']:,}"
    yield "training time", duration(result["seconds"])


def _progress(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the figures of an unfinished run."""
    length, last = run.settings.length, run.curve[-1] if run.curve else {}
    done = last.get("epoch" if length == "epochs" else length, 0)
    if run.settings.task == "fast_slow":  # a line has the number of its stage
        done = min(len({line["stage"] for line in run.curve}), getattr(run.settings, length))
    yield "progress", f"{done:,.0f} of {getattr(run.settings, length):,} {length}"
    if run.curve and run.settings.task == "catch":
        yield "mean reward so far", f"{last['mean_reward']:.3f}"
    elif run.curve and run.settings.task == "fast_slow":
        yield "reward so far", f"{last['reward']:.3f}"
    elif run.curve:
        loss = MEASURES[run.settings.task].loss
        best = min(run.curve, key=lambda line: line[loss])
        unit = " (nats)" if loss == "validation_nll" else ""
        yield f"lowest validation loss{unit}", f"{best[loss]:.4f}"
        yield "validation error then", f"{100 * best['validation_error']:.2f} %"


def floor_of(run: Run) -> tuple[float, float] | None:
    """Return the key-blind floor of a run of retrieval, (error, nats), None of other tasks."""
    return key_blind_floor(run.settings.pairs) if isinstance(run.settings, retrieval.Settings) else None


def duration(seconds: float) -> str:
    """Return seconds as text: 59 s, 12 min or 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _table(of_task: Sequence[Cell], measure: Measure) -> Html:
    """Return the table of all runs."""
    columns = COLUMNS_OF_AGENTS if of_task[0].task == "catch" else COLUMNS
    rows: list[list[str | Html]] = []
    for cell in of_task:
        for run in cell.runs:
            figures = dict(facts(run))
            name = joined(charts.swatch(cell.look), f" {cell.look.label}", tag("small", run.name))
            main = figures.get(measure.title) or f"at {figures['progress']}"
            rows.append([name, str(run.settings.seed), main, *(figures.get(column, "-") for column in columns)])
    return table(["run", "seed", measure.title, *columns], rows, "runs")


def _standings(task: str, of_task: Sequence[Cell]) -> Html | None:
    """Return the chart of results; None without figures."""
    rows = [charts.Standing(cell.look, _figures(cell), cell.references) for cell in of_task]
    rows = [row for row in rows if row.has_figures()]
    if not rows:
        return None
    signs = {
        "◆ this report": any(row.figures for row in rows),
        "○ stored runs with the same settings; the bar is their range": any(row.references.same for row in rows),
        "◦ grey: stored runs of the paper's table, with other settings": any(row.references.table for row in rows),
        "❙ paper": any(row.references.paper for row in rows),
    }
    key = tag("ul", *(tag("li", text) for text, used in signs.items() if used), class_="key")
    measure = MEASURES[task]
    caption = measure.title.capitalize() + (" (%)" if measure.unit else "")
    return tag("div", charts.standings(task, caption, rows), key, class_="standings" + " alone" * (len(rows) > 1))


def _card(cell: Cell, measure: Measure) -> Html:
    """Return the comparison of a cell's runs with its references."""
    figures, references = _figures(cell), cell.references
    name = "this run"
    if len(cell.runs) > 1:
        finished = "these" if len(figures) in (0, len(cell.runs)) else f"{len(figures)} of these"
        name = f"median of {finished} {len(cell.runs)} runs"
    rows = []
    if figures:
        span = f"{measure.text(min(figures))} to {measure.text(max(figures))}" if len(figures) > 1 else ""
        note = "; ".join(filter(None, [span, _place(cell)]))
        rows.append(_pair(name, measure.text(median(figures)), note))
    else:
        rows.append(_pair(name, "not finished"))
    if references.same is None:
        rows.append(_pair("stored runs, same settings", "none"))
    rows += [_pair(each.name, each.text, each.note) for each in references if each is not None]
    if references.paper is None:
        rows.append(_pair("paper", "no number for these settings"))
    return tag("div", tag("h3", charts.swatch(cell.look), f" {cell.look.label}"), tag("dl", *rows), class_="card")


def _figures(cell: Cell) -> list[float]:
    return [run.measured for run in cell.runs if run.measured is not None]


def _pair(name: str, value: str, note: str = "") -> Html:
    return tag("div", tag("dt", name), tag("dd", tag("b", value), tag("small", note) if note else None))


def _place(cell: Cell) -> str:
    """Return in words where the runs stand in the range of the stored runs with their settings."""
    stored = cell.references.same
    if stored is None:
        return ""
    seeds = {run.settings.seed: run.measured for run in cell.runs if run.measured is not None}
    if all(stored.figures.get(seed) == figure for seed, figure in seeds.items()):
        return f"equal to the stored {'run' if len(seeds) == 1 else 'runs'} of the same seed"
    low, high, middle = min(stored.figures.values()), max(stored.figures.values()), median(seeds.values())
    if len(stored.figures) < 2:
        return ""
    where = "below" if middle < low else "above" if middle > high else "within"
    return f"{where} the range of the stored runs"
