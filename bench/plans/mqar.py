"""Plan the searches and runs of multi-query associative recall at a size for two cores.

The format is the smallest of Zoology's figure 2, 64 tokens with 4 pairs. Vocabulary and number of sequences are taken
from Zoology's small example, experiments/basic_examples/basic.py. The learning rates are figure 2's, for every row.
"""

from __future__ import annotations

from typing import NamedTuple

from .cells import Cell, Search

SEEDS = 3
SIZE = "--vocabulary 256 --training-size 10000 --validation-size 1000 --test-size 1000 --batch-size 128"
TRIAL, RUN = "--epochs 16", "--epochs 32"  # an epoch is 78 updates
LEARNING_RATES = "learning_rate=0.0001,0.00046,0.0022,0.01"
CONVOLUTIONS = (0, 4)


class Row(NamedTuple):
    """One row of the table: its name, its layer, and its features."""

    name: str
    layer: str
    feature_map: str = ""

    def options(self, convolution: int) -> str:
        """Return the options of a run and of a trial."""
        features = f" --feature-map {self.feature_map}" if self.feature_map else ""
        return f"--layer {self.layer}{features} --convolution {convolution} {SIZE}"

    def search(self, convolution: int) -> Search:
        """Return the search of the learning rate."""
        name = f"mqar-{self.layer}-convolution{convolution}"
        return Search(name, "mqar", f"{self.options(convolution)} {TRIAL}", LEARNING_RATES)


def group(convolution: int) -> str:
    """Return the group of the runs with this convolution."""
    return f"mqar-small-convolution{convolution}"


ROWS = [
    Row("softmax attention, positions", "softmax"),
    Row("sum, elu + 1", "sum", "elu"),
    Row("sum, learned λ", "decay"),
    Row("sum, gated", "gated"),
    Row("delta", "delta"),
    Row("gated delta", "gated_delta"),
]
MQAR: list[Cell | Search] = [
    *(row.search(convolution) for row in ROWS for convolution in CONVOLUTIONS),
    *(
        Cell(
            group(convolution), f"{row.options(convolution)} {RUN}", tuple(range(SEEDS)), row.search(convolution).name
        )
        for row in ROWS for convolution in CONVOLUTIONS
    ),
]  # fmt: skip
