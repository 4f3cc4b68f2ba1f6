"""Draw the charts of a report as SVG, whose text stays text and whose black becomes the page's text colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..figures.style import COLOURS, error_axis, reward_axis
from .markup import Html, tag
from .measures import MEASURES, References
from .reading import Run

WIDTH, HEIGHT, ROW = 400, 235, 54  # of a chart and of a row in pixels; the page scales them
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 8, 40  # margins in pixels
NO_LABEL = 24  # the margin below an axis that has no label
SOLID: tuple[float, ...] = ()
DASHES = (SOLID, (5, 1.5), (1.5, 1), (5, 1.5, 1, 1.5), (8, 2, 2, 2), (3, 3))  # in units of the line's width
LINE = 1.8  # width of a line
GREY = "#7f7f7f"
METADATA = ("Date", "Creator", "Format", "Type")  # left out of the SVG
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False, "font.size": 11.5, "axes.grid": True,
    "grid.color": GREY, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
}  # fmt: skip


class Look(NamedTuple):
    """The line of a cell: its label, colour, dashes and opacity."""

    label: str
    colour: str
    dashes: tuple[float, ...]
    opacity: float

    def options(self) -> dict[str, Any]:
        """Return the options of Matplotlib's plot."""
        return {"color": (self.colour, self.opacity), "linestyle": (0, self.dashes or None), "linewidth": LINE}


FLOOR = Look("key-blind floor: the lowest error without retrieval", "currentColor", (1, 1.65), 1)


class Standing(NamedTuple):
    """The runs of a cell and their references: a row of the chart of results."""

    look: Look
    figures: list[float]
    references: References

    def has_figures(self) -> bool:
        """Return whether the row has anything to draw."""
        same, table, paper = self.references
        return bool(self.figures or same or table or (paper and paper.figure is not None))


def looks(cells: Sequence[tuple[str, str]]) -> list[Look]:
    """Return the look of each cell (label, layer): the layer's colour, and dashes that differ between its cells."""
    found, count = list[Look](), dict[str, int]()
    for label, layer in cells:
        n = count[layer] = count.get(layer, -1) + 1
        opacity = max(1 - 0.4 * (n // len(DASHES)), 0.3)
        found.append(Look(label, COLOURS[layer], DASHES[n % len(DASHES)], opacity))
    return found


def swatch(look: Look) -> Html:
    """Return a short piece of a cell's line, for the legend."""
    dashes = " ".join(f"{LINE * each:g}" for each in look.dashes) or None
    line = tag(
        "path", d="M0 6H28", stroke=look.colour, stroke_width=LINE + 0.4, stroke_dasharray=dashes,
        stroke_opacity=look.opacity,
    )  # fmt: skip
    return tag("svg", line, viewBox="0 0 28 12", width=28, height=12, aria_hidden="true")


def curves(task: str, runs: Sequence[tuple[Look, Run]], floor: tuple[float, float] | None) -> Iterator[Html]:
    """Yield the training curves of a task's runs, all runs in each chart.

    floor: (error, negative log likelihood) of the key-blind floor, None if the runs have none in common.
    """
    if task == "catch":
        yield _rewards(runs)
        return
    if task == "fast_slow":
        yield _rewards_of_tasks(runs)
        return

    def losses(axes: Any) -> None:
        for look, run in runs:
            if len(runs) == 1:
                _plot(axes, run.curve, "update", "train_loss", {"color": GREY})
            _plot(axes, run.curve, "update", MEASURES[task].loss, look.options())
        if floor is not None:
            axes.axhline(floor[1], linestyle=":", color="black")
        _updates(axes)
        _logarithmic(axes)

    def errors(axes: Any) -> None:
        for look, run in runs:
            _plot(axes, run.curve, "update", "validation_error", look.options(), 100)
        _updates(axes)
        if floor is None:
            _logarithmic(axes)
        else:
            error_axis(axes, 100 * floor[0])
            _plain_numbers(axes.yaxis)

    unit = " (nats)" if MEASURES[task].loss == "validation_nll" else ""
    both = f"Loss{unit}: validation, and training in grey"
    yield _chart(f"{task}-loss", both if len(runs) == 1 else f"Validation loss{unit}", losses)
    yield _chart(f"{task}-error", "Validation error (%)", errors)
    chosen = [(look, run) for look, run in runs if run.result and "generalization" in run.result]
    for name in ("pairs", "separators") if chosen else ():
        yield _generalization(chosen, name)


def _rewards(runs: Sequence[tuple[Look, Run]]) -> Html:
    def rewards(axes: Any) -> None:
        for look, run in runs:
            millions = [{**line, "frames": line["frames"] / 1e6} for line in run.curve]
            _plot(axes, millions, "frames", "mean_reward", look.options())
        chances = {run.settings.rules().chance for _, run in runs}  # type: ignore[attr-defined]
        for chance in chances:
            reward_axis(axes, chance)
        axes.set(ylabel="")

    return _chart("catch-reward", "Mean reward (dotted: random policy)", rewards)


def _rewards_of_tasks(runs: Sequence[tuple[Look, Run]]) -> Html:
    def rewards(axes: Any) -> None:
        for look, run in runs:
            first = [{**line, "episodes": line["episodes"] / 1e3} for line in run.curve if line["stage"] == 0]
            _plot(axes, first, "episodes", "reward", look.options())
        axes.set(xlabel="episodes (thousands)", ylim=(0, 1.03))
        axes.grid(alpha=0.3)

    return _chart("fast_slow-reward", "Reward on the first task", rewards)


def _generalization(runs: Sequence[tuple[Look, Run]], name: str) -> Html:
    """Draw the error of trained networks on strings of another format."""

    def errors(axes: Any) -> None:
        for look, run in runs:
            assert run.result is not None
            by_number = {int(number): error for number, error in run.result["generalization"][name].items()}
            points = [{"x": number, "y": error} for number, error in by_number.items()]
            _plot(axes, points, "x", "y", look.options() | {"marker": "."}, 100)
        error_axis(axes)
        axes.set(xlabel=f"number of {name}", xscale="log" if name == "separators" else "linear")
        axes.set_xticks([*by_number], [str(number) for number in by_number])
        axes.xaxis.set_minor_locator(NullLocator())
        _plain_numbers(axes.yaxis)

    return _chart(f"generalization-{name}", f"Test error (%) on other numbers of {name}", errors)


def standings(task: str, title: str, rows: Sequence[Standing]) -> Html:
    """Draw the main figure of each cell's runs, next to the stored runs and the paper's number."""

    def figures(axes: Any) -> None:
        for y, (look, ours, references) in enumerate(rows):
            axes.text(0, y - 0.3, look.label, transform=axes.get_yaxis_transform(), va="bottom")
            for stored, colour in ((references.table, GREY), (references.same, look.colour)):
                if stored is not None:
                    seeds = list(stored.figures.values())
                    axes.plot([min(seeds), max(seeds)], [y, y], color=(colour, 0.25), linewidth=11)
                    axes.plot(seeds, [y] * len(seeds), "o", color=colour, fillstyle="none", markersize=6)
            if references.paper is not None and references.paper.figure is not None:
                axes.plot([references.paper.figure], [y], "|", color="black", markersize=19, markeredgewidth=2.5)
            axes.plot(ours, [y] * len(ours), "D", color=look.colour, markeredgecolor="black", markersize=7)
        axes.set(ylim=(len(rows) - 0.5, -0.75), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        _scale(axes, [x for line in axes.lines for x in line.get_xdata()])

    return _chart(f"{task}-standings", title, figures, ROW * len(rows) + NO_LABEL, RIGHT, NO_LABEL)


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Make x logarithmic, and linear near 0, if the values differ by more than a factor of 20."""
    if min(values) >= 0 and max(values) > 20 * min(values):
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set_xlim(-0.003, 2 * max(*values, 0.01))
        _plain_numbers(axes.xaxis)
    else:
        axes.margins(x=0.06)


def _plot(
    axes: Any, lines: Sequence[Mapping[str, float]], x: str, y: str, options: dict[str, Any], scale: float = 1
) -> None:  # fmt: skip
    marker = "." if len(lines) < 3 else None  # a line through fewer points is hardly visible
    values = [scale * line[y] for line in lines]
    axes.plot([line[x] for line in lines], values, **{"linewidth": LINE, "marker": marker} | options)


def _updates(axes: Any) -> None:
    axes.set_xlabel("updates")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _logarithmic(axes: Any) -> None:
    """Make y logarithmic, with labels between the powers of ten if it spans few of them."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    _plain_numbers(axes.yaxis)


def _plain_numbers(axis: Any) -> None:
    """Label the axis by numbers such as 0.01, not by powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _chart(
    name: str, caption: str, draw: Callable[[Any], None], height: int = HEIGHT, left: int = LEFT, bottom: int = BOTTOM
) -> Html:  # fmt: skip
    """Return the figure that `draw` draws in the axes it is given."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH / 72, height / 72))
        figure.subplots_adjust(left / WIDTH, bottom / height, 1 - RIGHT / WIDTH, 1 - TOP / height)
        try:
            draw(axes)
            written = StringIO()
            figure.savefig(written, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
        finally:
            plt.close(figure)
    return tag("figure", tag("figcaption", caption), _inline(written.getvalue(), name, caption), class_="chart")


def _inline(svg: str, name: str, caption: str) -> Html:
    """Return Matplotlib's SVG for use in a page: without addresses and global styles, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).replace("#000000", "var(--ink)")
    (box,) = re.findall(r'viewBox="[\d. ]+"', svg)
    content = svg[svg.index(">") + 1 :]
    label = tag("svg", role="img", aria_label=caption).removesuffix("></svg>")
    return Html(f"{label} {box}>{content}")
