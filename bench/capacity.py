"""Make the tables and the figure of capacity: test error against the number of pairs (not in the paper).

Fast weights without decay are compared with an associative memory of random codes. The K keys and the ten digits are
random directions of H units. The memory is A = Σ_j v_j k_jᵀ over the pairs. Asked with the key of pair c it returns

    A k_c = v_c + Σ_{j≠c} (k_j·k_c) v_j

Each k_j·k_c has mean 0 and variance 1/H, so the signal-to-noise ratio of A k_c is H / (K - 1). The answer is the digit
whose code has the largest product with A k_c.
"""

from __future__ import annotations

from functools import cache
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import numpy

from tasks.figures import style
from tasks.retrieval import key_blind_floor

from . import report
from .cells import of
from .plans.retrieval import CAPACITY_EPOCHS, CAPACITY_PAIRS, PAIRS, TABLE_1_LAYERS
from .report import markdown, of_seeds
from .store import Run, load

GROUP = "retrieval-capacity"
NO_DECAY = "retrieval-capacity-no-decay"  # the group of fast weights with λ = 1
SIZE = 50  # R of the layers that are compared
SIZES = tuple(CAPACITY_EPOCHS)  # R of fast weights that are compared with random codes
DIGITS, SAMPLES = 10, 10_000
LINES = dict(zip(SIZES, (":", "-.", "--"), strict=True))  # of the figure's memories without decay


@cache
def error_of_random_codes(size: int, pairs: int) -> float:
    """Return the error in % of a memory of random codes with H = size units and K = pairs, over SAMPLES memories."""
    rng = numpy.random.default_rng(0)
    k, v = (_directions(rng, (SAMPLES, count, size)) for count in (pairs, DIGITS))
    digits = rng.integers(DIGITS, size=(SAMPLES, pairs))
    reads = numpy.einsum("njh,nh->nj", k, k[:, 0])  # k_j·k_c with c = 0
    of_digits = numpy.einsum("nj,njd->nd", reads, numpy.eye(DIGITS)[digits])  # A k_c is their combination of the codes
    scores = numpy.einsum("ndh,nh->nd", v, numpy.einsum("nd,ndh->nh", of_digits, v))
    return float(100 * numpy.mean(scores.argmax(axis=1) != digits[:, 0]))


def _directions(rng: numpy.random.Generator, shape: tuple[int, ...]) -> numpy.ndarray:
    """Return random vectors of length 1 along the last axis."""
    vectors = rng.standard_normal(shape)
    vectors /= numpy.sqrt(numpy.einsum("...h,...h->...", vectors, vectors))[..., None]
    return vectors


def make(missing: list[str]) -> None:
    """Draw capacity.png: all layers at R = 50, and fast weights without decay next to random codes."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
    layers, sizes = _layers(), _sizes()
    for name, layer, points in layers:
        missing += [f"capacity, {name}, K = {pairs}" for pairs in PAIRS if pairs not in points]
        line = "-" if name == style.NAMES[layer] else "--"
        style.band(panels[0], list(points), list(points.values()), mean, layer, name, line, marker="o")
    for size, points in sizes.items():
        missing += [f"capacity, λ = 1, R = {size}, K = {pairs}" for pairs in CAPACITY_PAIRS if pairs not in points]
        values, label = list(points.values()), f"Fast weights, λ = 1, R = {size}"
        style.band(panels[1], list(points), values, mean, "fast_weights", label, LINES[size], marker="o")
        of_codes = [error_of_random_codes(size, pairs) for pairs in CAPACITY_PAIRS]
        panels[1].plot(CAPACITY_PAIRS, of_codes, LINES[size], color="grey", label=f"random codes, H = {size}")
    for axes, ticks in zip(panels, (PAIRS, CAPACITY_PAIRS), strict=True):
        floors = [100 * key_blind_floor(pairs)[0] for pairs in ticks]
        axes.plot(ticks, floors, linestyle=(0, (1, 1)), color="black", label="key-blind floor")
        style.error_axis(axes)
        axes.set(xlabel="K, pairs in a sequence", xticks=ticks)
        axes.legend(fontsize=7, handlelength=4)
    panels[0].set(ylabel="test error (%)", title=f"R = {SIZE}, {_seeds(points for *_, points in layers)}")
    panels[1].set(title=f"without decay, {_seeds(sizes.values())}")
    figure.suptitle("Associative retrieval: test error against the number of pairs")
    style.save(figure, report.output / "capacity.png", dpi=110)


def table() -> str:
    """Return the test error of each layer at R = 50."""
    rows = [
        [name, *(", ".join(f"{error:.3f} %" for error in points.get(pairs, ())) or "missing" for pairs in PAIRS)]
        for name, _, points in _layers()
    ]
    return markdown(["test error", *(f"K = {pairs}" for pairs in PAIRS)], rows)


def table_by_size() -> str:
    """Return the test error of fast weights without decay next to a memory of random codes."""
    rows = []
    for size, points in _sizes().items():
        errors = (f"{mean(points[pairs]):.2f} %" if pairs in points else "not run" for pairs in CAPACITY_PAIRS)
        rows.append([f"Fast weights, R = {size}, {CAPACITY_EPOCHS[size]} epochs", *errors])
        of_codes = (f"{error_of_random_codes(size, pairs):.2f} %" for pairs in CAPACITY_PAIRS)
        rows.append([f"random codes, H = {size}", *of_codes])
    rows.append(["key-blind floor", *(f"{100 * key_blind_floor(pairs)[0]:.2f} %" for pairs in CAPACITY_PAIRS)])
    return markdown(["test error, λ = 1", *(f"K = {pairs}" for pairs in CAPACITY_PAIRS)], rows)


def _layers() -> list[tuple[str, str, dict[int, list[float]]]]:
    """Return (name, layer, errors by the number of pairs) of each memory of R = 50."""
    series = [(style.NAMES[layer], layer, GROUP) for layer in TABLE_1_LAYERS]
    series.append(("Fast weights, λ = 1", "fast_weights", NO_DECAY))
    return [(name, layer, _errors(load(group), layer, SIZE, PAIRS)) for name, layer, group in series]


def _sizes() -> dict[int, dict[int, list[float]]]:
    """Return the errors by the number of pairs of fast weights without decay, by R."""
    runs = load(NO_DECAY)
    return {size: _errors(runs, "fast_weights", size, CAPACITY_PAIRS) for size in SIZES}


def _errors(runs: list[Run], layer: str, size: int, counts: tuple[int, ...]) -> dict[int, list[float]]:
    """Return the test errors in % of this layer and R, by the number of pairs."""
    of_layer = of(runs, layer, size)
    errors = {
        pairs: [100 * run["test_error"] for run in of_layer if run["settings"]["pairs"] == pairs] for pairs in counts
    }
    return {pairs: found for pairs, found in errors.items() if found}


def _seeds(series: Any) -> str:
    return of_seeds([errors for points in series for errors in points.values()])
