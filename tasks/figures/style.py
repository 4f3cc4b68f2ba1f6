"""Define what all pictures of tasks/ and bench/ share: each layer's name and colour, titles, axes, and saving."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: works without a screen

import matplotlib.pyplot as plt

from fastweights_np import files

from ..running.runs import RunSettings

# layer: its name, and its colour in every picture. The colours are Okabe and Ito's, which colour-blind readers can
# distinguish. Black, grey and dotted lines are left for what is not a layer.
LAYERS = {
    "fast_weights": ("Fast weights", "#D55E00"),
    "multilevel": ("Multi-level fast weights", "#E69F00"),
    "irnn": ("IRNN", "#009E73"),
    "lstm": ("LSTM", "#0072B2"),
    "associative_lstm": ("A-LSTM", "#56B4E9"),
    "convnet": ("ConvNet", "#CC79A7"),
    # write rules share colours with layers that no picture shows next to them
    "sum": ("Sum", "#0072B2"),
    "decay": ("Decaying sum", "#56B4E9"),
    "gated": ("Gated sum", "#D55E00"),
    "delta": ("Delta rule", "#009E73"),
    "gated_delta": ("Gated delta rule", "#E69F00"),
    "softmax": ("Softmax attention", "#CC79A7"),
    # transformers, with and without In-Place TTT
    "window": ("Sliding window", "#882255"),
    "next_token": ("Next token", "#0072B2"),
    "learned": ("Learned target", "#D55E00"),
    "convolution": ("Learned convolution", "#E69F00"),
    "matrix": ("Learned W_target", "#56B4E9"),
    "reconstruction": ("Reconstruction", "#009E73"),
    "full": ("Full attention", "#CC79A7"),
}
NAMES = {layer: name for layer, (name, _) in LAYERS.items()}
NAMES_OF_AGENTS = NAMES | {"irnn": "ReLU RNN"}  # the paper's names for the agents of Catch
COLOURS = {layer: colour for layer, (_, colour) in LAYERS.items()}


def title(settings: RunSettings, searched: Collection[str] = ()) -> str:
    """Return the layer, R and the seed of a run. Leave out those that a search varies."""
    names, of = NAMES_OF_AGENTS if settings.task == "catch" else NAMES, settings.as_json()
    parts = {"layer": names[of["layer"]], "hidden_size": f"R = {of['hidden_size']}", "seed": f"seed {of['seed']}"}
    return ", ".join(text for name, text in parts.items() if name not in searched)


def band(
    axes: Any, x: Sequence[float], values: Sequence[Sequence[float]], middle: Callable[[Sequence[float]], float],
    layer: str, label: str, line: str = "-", marker: str = "",
) -> None:  # fmt: skip
    """Plot a layer's mean or median over the seeds, and shade their range.

    values: one sequence for each x, with a value for each seed. middle: the function that returns the mean or median.
    line: its style. "-" is the layer as in the paper's tables, another style is a variant of it.
    """
    colour = COLOURS[layer]
    axes.plot(x, [middle(each) for each in values], line, marker=marker, markersize=4, color=colour, label=label)
    lowest, highest = [min(each) for each in values], [max(each) for each in values]
    edge = {"edgecolor": (colour, 0.5), "linestyle": line, "linewidth": 0.6}  # distinguishes variants of a layer
    axes.fill_between(x, lowest, highest, facecolor=(colour, 0.15), **edge)


def error_axis(axes: Any, floor: float | None = None) -> None:
    """Make y an axis of errors in %, logarithmic down to 0.01 and then linear to 0. Draw the key-blind floor."""
    if floor is not None:
        axes.axhline(floor, linestyle=":", color="black", label="key-blind floor")
    axes.set_ylim(0, 100)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.grid(alpha=0.3)


def reward_axis(axes: Any, chance: float) -> None:
    """Make y an axis of rewards and x an axis of frames in millions. Draw the random-policy baseline."""
    axes.axhline(chance, linestyle=":", color="black", label="random policy")
    axes.set(xlabel="frames (millions)", ylabel="mean reward", ylim=(-1.03, 1.03))
    axes.grid(alpha=0.3)


def save(figure: Any, path: Path, dpi: int = 130) -> None:
    """Write the figure as PNG, whole or not at all, and close it."""
    try:
        with files.whole(path) as file:
            figure.savefig(file, format="png", dpi=dpi)
    finally:
        plt.close(figure)
