"""The paper's tables and figures beside what was measured here, from the runs in bench/results."""

from __future__ import annotations

from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from .results import STORE, load

SIZES = (20, 50, 100)
# test error in %, table 1 of Ba et al. 2016
TABLE_1 = {"fast_weights": ("Fast weights", {20: 1.81, 50: 0.0, 100: 0.0})}


def make() -> str:
    """Writes bench/results/table1.md and table1.png, and returns the table."""
    runs = [run for run in load("retrieval") if _is_the_papers(run["settings"])]
    STORE.mkdir(parents=True, exist_ok=True)
    table = table_1(runs)
    (STORE / "table1.md").write_text(table)
    learning_curves(runs)
    return table


def table_1(runs: list[dict[str, Any]]) -> str:
    """Table 1 as Markdown: the paper's error, the median of our seeds, and every seed."""
    lines = ["| layer | R | paper | here, median | every seed | settings |", "|---|---|---|---|---|---|"]
    for layer, (name, of_the_paper) in TABLE_1.items():
        for size in SIZES:
            chosen = _of(runs, layer, size)
            errors = [100 * run["test_error"] for run in chosen]
            seeds = ", ".join(f"{error:.3f} %" for error in errors)
            here = f"**{median(errors):.3f} %**" if errors else "missing"
            made_with = _settings(chosen[0]["settings"]) if chosen else ""  # the store holds fellow seeds alike
            lines.append(f"| {name} | {size} | {of_the_paper[size]:.2f} % | {here} | {seeds} | {made_with} |")
    return "\n".join(lines) + "\n"


def learning_curves(runs: list[dict[str, Any]]) -> None:
    """Validation error against updates for every stored run, a colour for each size."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for colour, size in enumerate(SIZES):
        for n, run in enumerate(_of(runs, "fast_weights", size)):
            updates = [line["update"] for line in run["curve"]]
            errors = [100 * line["validation_error"] for line in run["curve"]]
            axes.plot(updates, errors, color=f"C{colour}", alpha=0.8, label=f"R = {size}" if n == 0 else None)
    if runs:
        floor = 100 * runs[0]["key_blind_floor"]["error"]
        axes.axhline(floor, linestyle=":", color="tab:red", label="key-blind floor")
        axes.legend()
    axes.set(
        xlabel="updates", ylabel="validation error (%)", ylim=(0, 100), title="Associative retrieval, fast weights"
    )
    axes.set_yscale("symlog", linthresh=0.01)
    axes.grid(alpha=0.3)
    figure.savefig(STORE / "table1.png", dpi=130)
    plt.close(figure)


def _is_the_papers(settings: dict[str, Any]) -> bool:
    """Whether a run has the sequences, and the numbers of them, that table 1 is about."""
    sizes = (settings["training_size"], settings["validation_size"], settings["test_size"])
    return settings["pairs"] == 4 and sizes == (100_000, 10_000, 20_000)


def _of(runs: list[dict[str, Any]], layer: str, size: int) -> list[dict[str, Any]]:
    return [run for run in runs if (run["settings"]["layer"], run["settings"]["hidden_size"]) == (layer, size)]


def _settings(settings: dict[str, Any]) -> str:
    chosen = f"λ {settings['decay']}, η {settings['rate']}, S {settings['inner_steps']}"
    return f"{chosen}, Adam {settings['learning_rate']:g}, {settings['epochs']} epochs"
