"""List the runs of each table and figure: seeds, and options of `python -m tasks` that differ from their defaults.

The runs of a plan are stored in its group, under LAYER-R50-seed0. The paper's numbers are in paper.py.
"""

from __future__ import annotations

from typing import NamedTuple


class Cell(NamedTuple):
    """Runs that differ only in their seed."""

    group: str  # the task, or TASK-NAME outside the paper's tables
    options: str
    seeds: tuple[int, ...]

    @property
    def task(self) -> str:
        """Return the task that the runs belong to."""
        return self.group.partition("-")[0]


def cells(group: str, seeds: int, *options: str) -> list[Cell]:
    """Return one cell with seeds 0 .. seeds-1 for each text of options."""
    return [Cell(group, text, tuple(range(seeds))) for text in options]


TABLE_1 = cells(
    "retrieval", 3,
    "--layer irnn --hidden-size 20 --epochs 150",
    "--layer irnn --epochs 130 --test-curve",
    "--layer irnn --hidden-size 100 --epochs 130",
    "--layer lstm --hidden-size 20 --learning-rate 0.002 --epochs 150",
    "--layer lstm --learning-rate 0.002 --epochs 130 --test-curve",
    "--layer lstm --hidden-size 100 --learning-rate 0.002 --epochs 130",
    "--layer associative_lstm --hidden-size 20 --learning-rate 0.002 --epochs 150",
    "--layer associative_lstm --learning-rate 0.002 --epochs 130 --test-curve",
    "--layer associative_lstm --hidden-size 100 --learning-rate 0.002 --epochs 40",
    "--hidden-size 20 --decay 1 --epochs 150",
    "--test-curve",
    "--hidden-size 100",
)  # fmt: skip

PAIRS = (4, 8, 12, 16)
CAPACITY = cells(
    "retrieval-capacity", 1,
    *(f"{layer} --pairs {pairs}" for layer in (
        "--layer irnn", "--layer lstm --learning-rate 0.002", "--layer associative_lstm --learning-rate 0.002", "",
    ) for pairs in PAIRS),
) + cells("retrieval-capacity-no-decay", 1, *(f"--decay 1 --pairs {pairs}" for pairs in PAIRS))  # fmt: skip

LSTM = "--layer lstm --learning-rate 0.002"
MORE_DATA = f"{LSTM} --training-size 400000"
RETRIEVAL_CONTROLS = [
    *cells("retrieval-ablation", 3, "--normalize-preliminary"),
    *cells("retrieval-layer-norm", 1, *(f"{LSTM} --layer-norm True --hidden-size {R} --epochs 130" for R in (50, 100))),
    *cells("retrieval-more-data", 1, f"{MORE_DATA} --epochs 33", f"{MORE_DATA} --hidden-size 100 --epochs 40"),
    *cells("retrieval-more-data-longer", 1, f"{MORE_DATA} --epochs 65"),
    *cells(
        "retrieval-layer-norm-more-data", 1,
        *(f"{MORE_DATA} --layer-norm True --hidden-size {R} --epochs 40" for R in (50, 100)),
    ),
]  # fmt: skip

# trained at K = 4 and at K = 8 with the budgets of table 1, then tested on other formats
TRAINED_PAIRS = (4, 8)


def generalization(group: str, options: str) -> list[Cell]:
    """Return the cells of one layer, three seeds each."""
    trained = [f"{options} --pairs {pairs} --generalize" for pairs in TRAINED_PAIRS]
    return cells(f"retrieval-generalization{group}", 3, *trained)


GENERALIZATION = [
    *generalization("-no-decay", "--decay 1"),
    *generalization("", ""),
    *generalization("-layer-norm", "--layer irnn --layer-norm True --epochs 130"),
    *generalization("-layer-norm", f"{LSTM} --layer-norm True --epochs 130"),
    *generalization("", f"{LSTM} --epochs 130"),
    *generalization("", "--layer irnn --epochs 130"),
    *generalization("", "--layer associative_lstm --learning-rate 0.002 --epochs 130"),
    # without layer norm they diverge at the default η = 0.1: the best of λ 0.9, 1 and η 0.001, 0.003, 0.01, 0.03
    *generalization("-no-layer-norm", "--layer-norm False --rate 0.01"),
]

TABLE_2 = [
    *cells("mnist", 2, *(f"--layer irnn --hidden-size {R}" for R in (50, 100, 200))),
    *cells("mnist", 5, *(f"--layer lstm --hidden-size {R}" for R in (50, 100))),
    *cells("mnist", 3, "--layer lstm --hidden-size 200"),
    *cells("mnist", 2, *(f"--layer convnet --hidden-size {R} --epochs 10" for R in (50, 100, 200))),
    *cells("mnist", 5, *(f"--hidden-size {R} --rate {8 / R:g}" for R in (50, 100))),
    *cells("mnist", 3, "--hidden-size 200 --rate 0.04"),
]
ABLATION = [
    *cells(
        "mnist", 1,
        *(f"--layer fast_weights --hidden-size {R} --rate {0.5 / R:g} --recurrent-scale 0.5" for R in (50, 100, 200)),
    ),
    *cells("mnist-layer-norm", 1, *(f"--layer irnn --layer-norm True --hidden-size {R}" for R in (50, 100, 200))),
]  # fmt: skip
WEIGHT_DECAY = [
    *cells("mnist-weight-decay", 2, *(f"--layer irnn --hidden-size {R} --hold 0" for R in (50, 100))),
    *cells(
        "mnist-weight-decay", 2,
        *(f"--layer lstm --hidden-size {R} --hold 0 --weight-decay 0.05" for R in (50, 100, 200)),
        "--hold 0 --weight-decay 0.2",
        *(f"--hidden-size {R} --rate {8 / R:g} --decay 1 --hold 0 --weight-decay 0.05" for R in (100, 200)),
    ),
    *cells(
        "mnist-weight-decay-no-memory-decay", 2, "--decay 1 --recurrent-scale 0.5 --hold 0 --weight-decay 0.05"
    ),
    *cells("mnist-100-epochs", 1, "--hidden-size 200 --rate 0.04 --epochs 100"),
]  # fmt: skip

# the stored runs are older than the removal of duplicates
TABLE_3 = cells(
    "faces", 3,
    *(f"{layer}--keep-duplicates" for layer in ("--layer irnn ", "--layer lstm ", "--layer convnet --epochs 6 ", "")),
)  # fmt: skip
# 200 epochs for every layer are 8,000 updates, as in table 3's recurrent layers
TABLE_3_SYNTHETIC = cells(
    "faces-synthetic", 3,
    *(f"--data synthetic{layer} --epochs 200" for layer in (" --layer irnn", " --layer lstm", " --layer convnet", "")),
)  # fmt: skip

AGENTS = {
    "fast_weights": "--rate 0.0325 --inner-steps 2 --learning-rate 0.0027 --entropy-weight 0.0055",
    "irnn": "--layer irnn --recurrent-scale 0.9 --learning-rate 0.0024 --entropy-weight 0.004",
    "lstm": "--layer lstm --forget-bias 2 --learning-rate 0.0036 --entropy-weight 0.0041",
}
LAYER_NORM = "--layer irnn --layer-norm True --recurrent-scale 0.5 --learning-rate 0.0012 --entropy-weight 0.0045"
GAMES = ("--frames 6000000 --actors 1", "--size 24 --visible 5 --actors 1")
RANDOM_START = "--size 24 --visible 5 --paddle-start random --actors 1"
FIGURE_5 = [
    *cells("catch", 3, *(f"{agent} {game}" for agent in AGENTS.values() for game in GAMES)),
    *cells("catch-layer-norm", 3, *(f"{LAYER_NORM} {game}" for game in GAMES)),
    *cells("catch-random-start", 1, *(f"{agent} {RANDOM_START}" for agent in AGENTS.values())),
    *cells("catch-random-start-layer-norm", 1, f"{LAYER_NORM} {RANDOM_START}"),
]

PLANS: dict[str, list[Cell]] = {
    "table1": TABLE_1, "figure2": [cell for cell in TABLE_1 if "--test-curve" in cell.options], "capacity": CAPACITY,
    "retrieval-controls": RETRIEVAL_CONTROLS, "table2": TABLE_2, "ablation": ABLATION, "weight-decay": WEIGHT_DECAY,
    "table3": TABLE_3, "table3-synthetic": TABLE_3_SYNTHETIC, "figure5": FIGURE_5, "generalization": GENERALIZATION,
}  # fmt: skip
