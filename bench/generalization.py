"""Make the table and figure of retrieval on formats that a network was not trained on (not in the paper)."""

from __future__ import annotations

from statistics import median
from typing import Any

import matplotlib.pyplot as plt

from tasks.figures import style
from tasks.retrieval import OTHER_PAIRS, OTHER_SEPARATORS, key_blind_floor

from . import report
from .plans.retrieval import TRAINED_PAIRS
from .report import markdown, of_seeds
from .seeds import median_and_range
from .store import load

SEEDS = 3
GROUP = "retrieval-generalization"
# name, the end of the group's name, layer
SERIES = (
    ("Fast weights, λ = 1", "-no-decay", "fast_weights"),
    ("Fast weights, λ = 0.9", "", "fast_weights"),
    ("Fast weights, λ = 0.9, no layer norm", "-no-layer-norm", "fast_weights"),
    ("A-LSTM", "", "associative_lstm"),
    ("LSTM, layer norm", "-layer-norm", "lstm"),
    ("LSTM", "", "lstm"),
    ("IRNN, layer norm", "-layer-norm", "irnn"),
    ("IRNN", "", "irnn"),
)
# the line of each group, "" is the layer as in table 1
LINES = {"": "-", "-no-decay": "--", "-no-layer-norm": "-.", "-layer-norm": "--"}
SIZE = 50  # R
FORMATS = {"pairs": OTHER_PAIRS, "separators": OTHER_SEPARATORS}
SHOWN = (("pairs", 4), ("pairs", 8), ("pairs", 16), ("pairs", 26), ("separators", 64))  # of these, in docs
TITLES = {"pairs": "pairs in a test sequence", "separators": "separators in a test sequence"}


def make(missing: list[str]) -> str:
    """Draw generalization.png and return the table. Append the names of missing runs to `missing`."""
    figure, panels = plt.subplots(len(TRAINED_PAIRS), len(FORMATS), figsize=(11, 8), layout="constrained", sharey=True)
    rows: dict[str, list[list[Any]]] = {kind: [] for kind in FORMATS}
    drawn = []
    for trained, line in zip(TRAINED_PAIRS, panels, strict=True):
        for name, group, layer in SERIES:
            chosen = _results(group, layer, trained)
            if len(chosen) < SEEDS:
                missing.append(f"generalization, {name}, trained at K = {trained}: {len(chosen)} of {SEEDS} seeds")
            if not chosen:
                continue
            for axes, (kind, values) in zip(line, FORMATS.items(), strict=True):
                errors = {value: [100 * run[kind][str(value)] for run in chosen] for value in values}
                rows[kind].append(
                    [trained, name, len(chosen), *(median_and_range(each, 2) for each in errors.values())]
                )
                style.band(axes, values, list(errors.values()), median, layer, name, LINES[group], "o")
            drawn.append(chosen)
        for axes, (kind, values) in zip(line, FORMATS.items(), strict=True):
            floors = [100 * key_blind_floor(value if kind == "pairs" else trained)[0] for value in values]
            axes.plot(values, floors, ":", color="black", label="key-blind floor")
            style.error_axis(axes)
            axes.set(xlabel=TITLES[kind], title=f"trained at K = {trained}, with 2 separators", xscale="log")
            axes.set_xticks(values, [str(value) for value in values])
            axes.minorticks_off()
    if drawn:
        panels[0][0].set_ylabel("test error (%)")
        panels[0][0].legend(fontsize=7, handlelength=4)
        figure.suptitle(f"Associative retrieval, R = {SIZE}: median and range of {of_seeds(drawn)}")
        style.save(figure, report.output / "generalization.png", dpi=110)
    plt.close(figure)
    return "\n".join(
        markdown(["trained at K", "layer", "seeds", *(f"{value} {kind}" for value in FORMATS[kind])], lines)
        for kind, lines in rows.items() if lines
    )  # fmt: skip


def medians() -> str:
    """Return median and range of the test error of each layer, for the formats that a page shows."""
    header = ["median test error and range", *(f"{value} {kind}" for kind, value in SHOWN), "seeds"]
    rows = []
    for trained in TRAINED_PAIRS:
        for name, group, layer in SERIES:
            chosen = _results(group, layer, trained)
            if chosen:
                errors = [[100 * run[kind][str(value)] for run in chosen] for kind, value in SHOWN]
                title = f"{name.replace(', layer norm', ' with layer norm')}, trained at K = {trained}"
                rows.append([title, *(median_and_range(each, 2) for each in errors), len(chosen)])
    floors = [f"{100 * key_blind_floor(value)[0]:.1f} %" if kind == "pairs" else "" for kind, value in SHOWN]
    at_trained = " or ".join(f"{100 * key_blind_floor(trained)[0]:.1f}" for trained in TRAINED_PAIRS)
    rows.append(["Key-blind floor", *(floor or f"{at_trained} %" for floor in floors), "-"])
    return markdown(header, rows)


def _results(group: str, layer: str, trained: int) -> list[dict[str, Any]]:
    """Return the errors on other formats of each run of a series that was trained at this number of pairs."""
    wanted = {"layer": layer, "pairs": trained, "hidden_size": SIZE}
    return [run["generalization"] for run in load(GROUP + group) if wanted.items() <= run["settings"].items()]
