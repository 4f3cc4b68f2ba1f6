"""Make the tables of controls of table 2: memory x wipe x V, and the glimpse's type as an input (not in the paper)."""

from __future__ import annotations

from tasks.figures.style import NAMES

from . import mcnemar
from .cells import of
from .plans.images import FACTORS, GLIMPSE_TYPE_LAYERS, KEPT, SIZES_OF_TABLE_2, factorial_group
from .report import markdown
from .seeds import pairs
from .store import Run, load

GLIMPSE_TYPE = "mnist-glimpse-type"
# what a comparison shows, and the factors that its first and its second run keep
COMPARISONS = {
    "memory, where there is V": (("memory", "V"), ("V",)),
    "memory and wipe, where there is V": (("memory", "wipe", "V"), ("V",)),
    "wipe, where there are memory and V": (("memory", "wipe", "V"), ("memory", "V")),
    "V, where there are memory and wipe": (("memory", "wipe", "V"), ("memory", "wipe")),
    "V, where there is memory": (("memory", "V"), ("memory",)),
    "V alone": (("V",), ()),
    "memory alone": (("memory",), ()),
}


def table() -> str:
    """Return the test error of every seed with and without memory, wipe and V; empty if there are no runs."""
    rows, stored = [], {kept: load(factorial_group(kept)) for kept in KEPT}
    for kept, runs in stored.items():
        factors = ["yes" if name in kept else "no" for name in FACTORS]
        rows.append([*factors, *(_errors(runs, "multilevel", size) or "not run" for size in SIZES_OF_TABLE_2)])
    header = [*FACTORS, *(f"R = {size}" for size in SIZES_OF_TABLE_2)]
    return markdown(header, rows) if any(stored.values()) else ""


def table_of_tests() -> str:
    """Return McNemar's test of each comparison, by size and seed; empty if there are no pairs."""
    paired = {}
    for name, kept in COMPARISONS.items():
        first, second = (load(factorial_group(factors)) for factors in kept)
        found = [pairs(*(of(runs, "multilevel", size) for runs in (first, second))) for size in SIZES_OF_TABLE_2]
        paired[name] = [pair for of_size in found for pair in of_size]
    return mcnemar.table(paired) if any(paired.values()) else ""


def table_of_glimpse_types(digits: list[Run], irnn_with_layer_norm: list[Run]) -> str:
    """Return the test error of every seed with and without the type of each glimpse; empty if there are no runs."""
    with_type = load(GLIMPSE_TYPE)
    rows = []
    for layer, layer_norm in GLIMPSE_TYPE_LAYERS.items():
        name = f"{NAMES[layer]}{', layer norm' if layer_norm else ''}"
        without = irnn_with_layer_norm if layer_norm else digits
        for what, runs in (("no", without), ("yes", with_type)):
            rows.append([name, what, *(_errors(runs, layer, size) or "not run" for size in SIZES_OF_TABLE_2)])
    header = ["layer", "type as an input", *(f"R = {size}" for size in SIZES_OF_TABLE_2)]
    return markdown(header, rows) if with_type else ""


def _errors(runs: list[Run], layer: str, size: int) -> str:
    return ", ".join(f"{100 * run['test_error']:.2f} %" for run in of(runs, layer, size))
