"""Make the tables of digits other than table 2: ablations, and weight decay."""

from __future__ import annotations

from .cells import of, settings_of
from .published import NAMES, TABLE_2
from .report import markdown
from .store import Run
from .tables import figure

SEEDS_OF_ABLATION = 1


def ablation(runs: list[Run], with_layer_norm: list[Run], missing: list[str]) -> str:
    """Return the table of ablations: fast weights with and without control signals, and layer norm without them."""
    rows = {
        "fast weights, with control signals": (runs, "multilevel"),
        "fast weights, read and stored at every step": (runs, "fast_weights"),
        "no fast weights, but layer norm (IRNN)": (with_layer_norm, "irnn"),
        "neither (IRNN)": (runs, "irnn"),
    }
    cells = []
    for name, (all_runs, layer) in rows.items():
        line = [name]
        for size in TABLE_2["irnn"]:
            chosen = of(all_runs, layer, size)
            line.append(_test_errors(chosen) or "missing")
            if len(chosen) < SEEDS_OF_ABLATION:
                missing.append(f"ablation, {name}, R = {size}: {len(chosen)} of {SEEDS_OF_ABLATION} seeds")
        cells.append(line)
    return markdown(["test error on MNIST, every seed", *(f"R = {size}" for size in TABLE_2["irnn"])], cells)


def weight_decay(without: list[Run], with_it: list[Run]) -> str:
    """Return table 2's cells with each layer's chosen weight decay, and learning rates that decay from the start."""
    lines = []
    for size in TABLE_2["irnn"]:
        for layer in TABLE_2:
            chosen = of(with_it, layer, size)
            if not chosen:
                continue
            before, now = _test_errors(of(without, layer, size)), _test_errors(chosen)
            settings = chosen[0]["settings"]
            now += "".join(f" ({reason})" for reason in {run["wrong"] for run in chosen if "wrong" in run})
            lines.append([size, NAMES[layer], before, now, settings["weight_decay"], settings_of(settings)])
    header = ["R", "layer", "table 2, every seed", "with weight decay, every seed", "weight decay", "settings"]
    return markdown(header, lines) if lines else ""


def _test_errors(digits: list[Run]) -> str:
    """Return the test error of every seed, with the digits of table 2."""
    return ", ".join(figure(100 * run["test_error"], 2) for run in digits)
