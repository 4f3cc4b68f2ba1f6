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
    """One row of the table: its name, its layer, its features, and the convolutions that are run.

    suffix is part of the names of its runs and searches, where the layer has another row.
    """

    name: str
    layer: str
    feature_map: str = ""
    convolutions: tuple[int, ...] = CONVOLUTIONS
    suffix: str = ""

    def group(self, convolution: int) -> str:
        """Return the group of the runs with this convolution."""
        return f"mqar-small-convolution{convolution}{self.suffix}"

    def options(self, convolution: int) -> str:
        """Return the options of a run and of a trial."""
        features = f" --feature-map {self.feature_map}" if self.feature_map else ""
        return f"--layer {self.layer}{features} --convolution {convolution} {SIZE}"

    def search(self, convolution: int) -> Search:
        """Return the search of the learning rate."""
        name = f"mqar-{self.layer}-convolution{convolution}{self.suffix}"
        return Search(name, "mqar", f"{self.options(convolution)} {TRIAL}", LEARNING_RATES)


ROWS = [
    Row("softmax attention, positions", "softmax"),
    Row("sum, elu + 1", "sum", "elu"),
    Row("sum, learned λ", "decay"),
    Row("sum, learned λ, elu + 1", "decay", "elu", (4,), "-elu"),
    Row("sum, gated", "gated"),
    Row("sum, gated, elu + 1", "gated", "elu", (4,), "-elu"),
    Row("delta", "delta"),
    Row("gated delta", "gated_delta"),
]
MQAR: list[Cell | Search] = [
    *(row.search(each) for row in ROWS for each in row.convolutions),
    *(
        Cell(row.group(each), f"{row.options(each)} {RUN}", tuple(range(SEEDS)), row.search(each).name)
        for row in ROWS for each in row.convolutions
    ),
]  # fmt: skip
