"""Make the table and the heat maps of fast weights' sensitivity to λ, η and S, at R = 50 (not in the paper)."""

from __future__ import annotations

from statistics import median

import matplotlib.pyplot as plt
import numpy
from matplotlib.colors import SymLogNorm

from tasks.figures import style

from . import report
from .plans.retrieval import DECAYS, INNER_STEPS, RATES, sensitivity_group
from .report import markdown, of_seeds
from .store import load

Errors = dict[tuple[float, float, int], list[float]]  # test errors in % of each (λ, η, S) that has runs


def errors() -> Errors:
    """Return the test errors in % of every seed, by (λ, η, S)."""
    found = {
        (decay, rate, S): [100 * run["test_error"] for run in load(sensitivity_group(decay, rate, S))]
        for decay in DECAYS for rate in RATES for S in INNER_STEPS
    }  # fmt: skip
    return {settings: of_seeds for settings, of_seeds in found.items() if of_seeds}


def make(missing: list[str]) -> None:
    """Draw sensitivity.png if every cell has runs: the median test error by λ and η, one heat map for each S."""
    found = errors()
    without = [
        f"sensitivity, λ = {decay}, η = {rate}, S = {S}"
        for decay in DECAYS for rate in RATES for S in INNER_STEPS if (decay, rate, S) not in found
    ]  # fmt: skip
    if without:
        missing += without
        return
    figure, panels = plt.subplots(1, len(INNER_STEPS), figsize=(9, 3.8), layout="constrained", sharey=True)
    for axes, S in zip(panels, INNER_STEPS, strict=True):
        cells = numpy.array(
            [[median(found[decay, rate, S]) for rate in RATES] for decay in DECAYS]
        )  # fmt: skip
        image = axes.imshow(cells, cmap="cividis_r", norm=SymLogNorm(0.01, vmin=0, vmax=100))
        for row, column in numpy.ndindex(cells.shape):
            value = cells[row, column]
            colour, decimals = ("black", 3) if value < 1 else ("white", 1)
            text = f"{value:.{decimals}f} %"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
        axes.set_yticks(range(len(DECAYS)), [f"{decay:g}" for decay in DECAYS])
        axes.set(xlabel="η", title=f"S = {S}")
    panels[0].set_ylabel("λ")
    figure.colorbar(image, ax=panels, label="test error (%)", ticks=[0, 0.01, 0.1, 1, 10, 100], format="%g")
    figure.suptitle(f"Associative retrieval, fast weights, R = 50: median of {of_seeds(found.values())}")
    style.save(figure, report.output / "sensitivity.png")


def table() -> str:
    """Return the test error of every seed by η, for each λ and S that has runs; empty if there are none."""
    found = errors()
    rows = [
        [S, decay, *(", ".join(f"{e:.3f} %" for e in found.get((decay, rate, S), ())) or "not run" for rate in RATES)]
        for S in INNER_STEPS for decay in DECAYS if any((decay, rate, S) in found for rate in RATES)
    ]  # fmt: skip
    header = ["S", "λ", *(f"η = {rate:g}" for rate in RATES)]
    return markdown(header, rows) if found else ""
