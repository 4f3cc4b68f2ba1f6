"""Plan the runs of synthetic retrieval (Schlag 2021), and read the published losses of the same settings.

The published runs have one seed. A row of a table is a write rule with its features. The first rows are published, the
others are ours.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from tasks.keyvalue import SOLVED, UPDATES

from .cells import Cell

SEEDS = 3
EARLIEST = 12 * UPDATES  # of an unsolved run: the first evaluation and 11 without progress
UNIQUE, REPEATED = (20, 40, 60, 80, 100, 120, 200, 300, 600), (20, 40, 60, 80, 100, 120, 160, 200)  # numbers of keys


class Row(NamedTuple):
    """One row of a table: its name, its options of `python -m tasks keyvalue`, and the numbers of keys that are run."""

    name: str
    layer: str
    options: str
    keys: tuple[int, ...]
    repeat: bool = False
    feature_map: str = ""

    @property
    def group(self) -> str:
        """Return the group of the row's runs: each row has one of its own, because names have no further options."""
        words = self.options.removeprefix("--repeat ").replace("--", "").split()
        return "-".join(["keyvalue", "repeat" if self.repeat else "unique", *words[1::2]])

    def cells(self) -> list[Cell]:
        """Return the row's runs."""
        seeds = tuple(range(SEEDS))
        return [Cell(self.group, f"--layer {self.layer} {self.options} --keys {keys}", seeds) for keys in self.keys]


def _row(name: str, layer: str, keys: tuple[int, ...], repeat: bool, feature_map: str = "", more: str = "") -> Row:
    words = ["--repeat"] * repeat + ([f"--feature-map {feature_map}"] if feature_map else []) + [more] * bool(more)
    return Row(name, layer, " ".join(words), keys, repeat, feature_map)


FEATURES = {"elu": "elu + 1", "dpfp-1": "DPFP-1", "dpfp-2": "DPFP-2", "dpfp-3": "DPFP-3"}
SMALL_UNIQUE, SMALL_REPEATED, SMALLEST = (20, 40, 60, 80, 100), (20, 40, 60, 80, 100, 120), (4, 8, 20, 40)
FIXED = 0.99  # λ of the sum with a fixed decay
BA = "fast weights of Ba et al., λ = 1, R = 64"
ROWS_UNIQUE = [
    _row("softmax attention", "softmax", UNIQUE, False),
    *(_row(f"sum, {name}", "sum", UNIQUE, False, features) for features, name in FEATURES.items()),
    _row(f"sum, λ = {FIXED}, elu + 1", "sum", SMALL_UNIQUE, False, "elu", f"--decay {FIXED}"),
    _row("sum, learned λ, elu + 1", "decay", SMALL_UNIQUE, False, "elu"),
    _row(f"{BA}, η = 0.1", "fast_weights", SMALLEST, False),
    _row(f"{BA}, η = 1", "fast_weights", SMALLEST[:2], False, more="--rate 1"),
]
ROWS_REPEATED = [
    _row("sum, DPFP-1", "sum", REPEATED, True, "dpfp-1"),
    *(_row(f"delta, {FEATURES[each]}", "delta", REPEATED, True, each) for each in ("elu", "dpfp-1", "dpfp-2")),
    _row(f"sum, λ = {FIXED}, DPFP-1", "sum", SMALL_REPEATED, True, "dpfp-1", f"--decay {FIXED}"),
    _row("sum, learned λ, DPFP-1", "decay", SMALL_REPEATED, True, "dpfp-1"),
    _row("gated delta, DPFP-1", "gated_delta", SMALL_REPEATED, True, "dpfp-1"),
    _row(f"{BA}, η = 0.1", "fast_weights", SMALLEST, True),
    _row(f"{BA}, η = 1", "fast_weights", SMALLEST[:2], True, more="--rate 1"),
]
KEYVALUE = [cell for row in (*ROWS_UNIQUE, *ROWS_REPEATED) for cell in row.cells()]


def published(complete: bool = False) -> dict[tuple[bool, str, str, int], float]:
    """Return the least published evaluation loss by repeat, layer, feature map ("" for softmax) and number of keys.

    complete  leave out logs that end before the run: with a loss above SOLVED, sooner than EARLIEST updates
    """
    lines = (Path(__file__).parent / "schlag2021.csv").read_text("utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {
        (row["repeat"] == "1", row["layer"], row["feature_map"], int(row["keys"])): float(row["least_loss"])
        for row in rows
        if not complete or float(row["least_loss"]) <= SOLVED or int(row["last_update"]) >= EARLIEST
    }
