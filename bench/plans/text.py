"""Plan the runs of the character language model, and what they must show. The thresholds were written before the runs.

The threshold of the first block and of the last one are a prototype's, in another framework, with two seeds.
"""

from __future__ import annotations

from typing import NamedTuple

from .cells import Cell

SEEDS = 3
EARLY, LATE = 0.015, 0.02  # nats: most gain in the first block, and least gain in the last one, of a learned target
WITHOUT = 0.01  # nats: most difference between η = 0 and the sliding window, in the mean loss
LONGER = 20  # epochs of the sliding window: an update takes about a fifth less time without fast weights


class Row(NamedTuple):
    """One row of a table: the name of its arm, its layer, its group, and the rest of its options."""

    name: str
    layer: str
    group: str = "text"
    options: str = ""
    start: Cell | None = None

    @property
    def cell(self) -> Cell:
        """Return the row's runs."""
        options = f"--layer {self.layer} {self.options}".strip()
        return Cell(self.group, options, tuple(range(SEEDS)), start=self.start)


WINDOW = Row("sliding window", "window")
LEARNED = Row("learned convolution and W_target", "learned")
LONGER_WINDOW = Row("sliding window, 1,000 updates", "window", "text-longer", f"--epochs {LONGER}")
ARMS = [
    WINDOW,
    LEARNED,
    Row("learned, both blocks", "learned", "text-all", "--written all"),
    Row("learned, λ = 0.5", "learned", "text-decay", "--decay 0.5"),
    Row("next token", "next_token"),
    Row("learned convolution", "convolution"),
    Row("learned W_target", "matrix"),
    Row("reconstruction", "reconstruction"),
    Row("full attention", "full"),
    LONGER_WINDOW,
]
CONTINUED = [
    Row(name, layer, "text-continued", "--epochs 8 --learning-rate 0.001", WINDOW.cell)
    for name, layer in (("sliding window, continued", "window"), ("with fast weights from there", "learned"))
]
TEXT = [row.cell for row in (*ARMS, *CONTINUED)]
