"""Plan the runs of recall over a long range, and what they must show.

The thresholds were written before the runs. Sources: a prototype in another framework, most of it with one seed, and
the arithmetic of chunks: a pair that the end of a chunk cuts is answered by chance.
"""

from __future__ import annotations

from typing import NamedTuple

from .cells import Cell, Search

SEEDS = 5
CEILING = 0.01  # accuracies of next-token targets are within this of the predicted ceiling
NOT_CUT = 0.99  # least accuracy of pairs that no chunk cuts
ACROSS = 0.995  # least accuracy with the tap +1 across the edge
WITHOUT = 0.05  # most that is recalled without fast weights
DELAY, SOONER = 0.85, 2  # a learned target reaches this accuracy in this many times fewer updates than a fixed one
REBIND, REBIND_AT = 0.93, 150  # least accuracy of rebound keys with λ < 1, at this update; λ = 1 is below it then
BIGRAM = 0.93  # least accuracy of bigrams with fast weights in both blocks
BLIND = 0.1  # most accuracy of queries in the chunk of their key, with chunks of 64

RATES = Search(
    "longrecall-full", "longrecall", "--layer full --epochs 40 --test-size 100",
    "learning_rate=0.0003,0.001,0.003",
)  # fmt: skip


class Row(NamedTuple):
    """One row of a table: the name of its arm, its layer, the rest of its options, and its search."""

    name: str
    layer: str
    epochs: int
    options: str = ""
    search: str = ""

    @property
    def group(self) -> str:
        """Return the group of the row's runs: each row has one of its own, because names have few options."""
        words = self.options.replace("--", "").replace("=", " ").split()
        return "-".join(["longrecall", *(words or ["plain"])])

    @property
    def cell(self) -> Cell:
        """Return the row's runs."""
        options = f"--layer {self.layer} --epochs {self.epochs} {self.options}".strip()
        return Cell(self.group, options, tuple(range(SEEDS)), self.search)


WINDOW, FULL = Row("sliding window", "window", 12), Row("full attention", "full", 60, "", RATES.name)
NEXT, LEARNED = Row("next token", "next_token", 6), Row("learned convolution and W_target", "learned", 6)
CONVOLUTION = Row("learned convolution", "convolution", 6)
TARGET = Row("learned W_target", "matrix", 6)
RECONSTRUCTION = Row("reconstruction", "reconstruction", 16)
SIZES = {
    16: (NEXT, LEARNED),
    **{size: tuple(row._replace(options=f"--chunk {size}") for row in (NEXT, LEARNED)) for size in (8, 32)},
}
EDGES = [row._replace(name=f"{row.name}, tap +1 across the edge", options="--across") for row in (NEXT, LEARNED)]
DECAYED = LEARNED._replace(name="learned, λ = 0.5", epochs=12, options="--decay 0.5")
DELAYED = [
    Row("delay, next token", "next_token", 16, "--variant delay"),
    Row("delay, learned", "learned", 6, "--variant delay"),
]
REBOUND = [
    Row(f"rebind, {name}, λ = {decay}", layer, 8, "--variant rebind" + (f" --decay {decay}" if decay < 1 else ""))
    for name, layer in (("next token", "next_token"), ("learned", "learned"))
    for decay in (1, 0.7, 0.5)
]
BIGRAMS = [
    Row("bigram, next token", "next_token", 24, "--variant bigram"),
    Row("bigram, learned", "learned", 24, "--variant bigram"),
    Row("bigram, learned, both blocks", "learned", 24, "--variant bigram --written all"),
]
NEAR = [LEARNED._replace(name=f"learned, C = {size}", options=f"--gap 8 --chunk {size}") for size in (8, 64)]

ARMS = [WINDOW, NEXT, LEARNED, CONVOLUTION, TARGET, RECONSTRUCTION, DECAYED, FULL]
ROWS = [*ARMS, *SIZES[8], *SIZES[32], *EDGES, *DELAYED, *REBOUND, *BIGRAMS, *NEAR]
LONGRECALL: list[Cell | Search] = [RATES, *(row.cell for row in ROWS)]
