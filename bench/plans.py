"""List the runs and searches of each table and figure, by the options of `python -m tasks` that are not defaults.

The runs of a plan are stored in its group, under LAYER-R50-seed0. The paper's numbers are in published.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, product
from typing import NamedTuple


class Search(NamedTuple):
    """A search of settings on the validation set: every combination of a grid."""

    name: str  # in the store, where it follows "search/"
    task: str
    options: str  # of every trial
    grid: str  # NAME=V,V for each searched setting

    @property
    def group(self) -> str:
        """Return the task: the search is not in a group of its own."""
        return self.task


class Cell(NamedTuple):
    """Runs that differ only in their seed."""

    group: str  # the task, or TASK-NAME outside the paper's tables
    options: str
    seeds: tuple[int, ...]
    search: str = ""  # name of the stored search whose best settings the runs take, too

    @property
    def task(self) -> str:
        """Return the task that the runs belong to."""
        return self.group.partition("-")[0]


def cells(group: str, seeds: int, *options: str) -> list[Cell]:
    """Return one cell with seeds 0 .. seeds-1 for each text of options."""
    return [Cell(group, text, tuple(range(seeds))) for text in options]


SEEDS_OF_TABLE_1 = 5
TABLE_1 = cells(
    "retrieval", SEEDS_OF_TABLE_1,
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

# For each layer and R of table 1, with and without layer norm, the same number of trials: the learning rate, and W's
# scale or, where W has none, the forget gate's bias.
SIZES = (20, 50, 100)
LEARNING_RATES = "learning_rate=0.0005,0.001,0.002,0.004"
SEARCHED = {
    "irnn": "recurrent_scale=0.05,0.5,0.9", "lstm": "forget_bias=0,1,2", "associative_lstm": "forget_bias=0,1,2",
    "fast_weights": "recurrent_scale=0.05,0.5,0.9",
}  # fmt: skip
# epochs of a run, the same with and without layer norm
EPOCHS = {
    "irnn": (150, 130, 130), "lstm": (150, 130, 130), "associative_lstm": (150, 130, 40), "fast_weights": (150, 20, 20),
}  # fmt: skip
TRIAL, LONGEST_TRIAL = 4, 30  # a trial of a search has a quarter of the epochs of a run, and at most 30
BASELINES = ("irnn", "lstm", "associative_lstm")
TABLE_1_LAYERS = (*BASELINES, "fast_weights")
NORMALIZED = "retrieval-table1-layer-norm"  # the group of the rows with layer norm


def options_of(layer: str, size: int, layer_norm: bool, trial: bool = False) -> str:
    """Return the options of a layer in table 1, except those that are searched."""
    epochs = EPOCHS[layer][SIZES.index(size)]
    epochs = min(epochs // TRIAL, LONGEST_TRIAL) if trial else epochs
    own = " --layer-norm True" if layer_norm else " --decay 1" if (layer, size) == ("fast_weights", 20) else ""
    return f"--layer {layer}{own} --hidden-size {size} --epochs {epochs}"


def search_of(layer: str, size: int, layer_norm: bool) -> Search:
    """Return the search for a layer in table 1."""
    name = f"table1-{layer}{'-layer-norm' if layer_norm else ''}-R{size}"
    return Search(
        name, "retrieval", options_of(layer, size, layer_norm, trial=True), f"{SEARCHED[layer]} {LEARNING_RATES}"
    )


SEARCHES_OF_LAYER_NORM = [search_of(layer, size, True) for layer in BASELINES for size in SIZES]
SEARCHES = [*(search_of(layer, size, False) for layer in SEARCHED for size in SIZES), *SEARCHES_OF_LAYER_NORM]
TABLE_1_LAYER_NORM = [
    Cell(NORMALIZED, options_of(layer, size, True), tuple(range(SEEDS_OF_TABLE_1)), search_of(layer, size, True).name)
    for layer in BASELINES for size in SIZES
]  # fmt: skip

# the paper's 750,000 updates (781 an epoch) for the LSTM, with lower learning rates
LONG_LSTM = [
    cell for rate in (0.0002, 0.0005, 0.001)
    for cell in cells(
        f"retrieval-750000-updates-rate{rate:g}", 1,
        *(f"--layer lstm --learning-rate {rate:g} --hidden-size {size} --epochs 960" for size in (50, 100)),
    )
]  # fmt: skip
# public implementations differ in the number of heads
ONE_HEAD = cells("retrieval-one-head", 3, "--layer associative_lstm --heads 1 --learning-rate 0.002 --epochs 130")

PAIRS = (4, 8, 12, 16)
CAPACITY = cells(
    "retrieval-capacity", 1,
    *(f"{layer} --pairs {pairs}" for layer in (
        "--layer irnn", "--layer lstm --learning-rate 0.002", "--layer associative_lstm --learning-rate 0.002", "",
    ) for pairs in PAIRS),
)  # fmt: skip
# without decay, the budgets of small memories are longer: they learn more slowly
CAPACITY_PAIRS = (4, 8, 12, 16, 20, 26)
CAPACITY_EPOCHS = {10: 60, 20: 60, 50: 20}
CAPACITY_NO_DECAY = cells(
    "retrieval-capacity-no-decay", 1,
    *(f"--decay 1 --hidden-size {size} --epochs {epochs} --pairs {pairs}"
      for size, epochs in CAPACITY_EPOCHS.items() for pairs in CAPACITY_PAIRS),
)  # fmt: skip

# R = 50 with the budget of table 1; each setting is in a group of its own
DECAYS, RATES, INNER_STEPS = (0.8, 0.9, 0.95, 1.0), (0.03, 0.1, 0.3, 1.0), (1, 2)
SENSITIVITY = "retrieval-sensitivity"


def sensitivity_group(decay: float, rate: float, inner_steps: int) -> str:
    """Return the group of the runs with these settings of the memory."""
    return f"{SENSITIVITY}-decay{decay:g}-rate{rate:g}-S{inner_steps}"


SENSITIVITIES = [
    Cell(sensitivity_group(*each), "--decay {:g} --rate {:g} --inner-steps {}".format(*each), (0, 1, 2))
    for each in product(DECAYS, RATES, INNER_STEPS)
]

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
    # without layer norm they diverge at η = 0.1: this is the best of λ 0.9, 1 and η 0.001, 0.003, 0.01, 0.03. At K = 8
    # none of these learned to retrieve, and six of eight diverged: search/no-layer-norm-K8
    *cells("retrieval-generalization-no-layer-norm", 3, "--layer-norm False --rate 0.01 --pairs 4 --generalize"),
]

SIZES_OF_TABLE_2 = (50, 100, 200)
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
# Memory x wipe x V, all with layer norm. W starts at 0.5 I in every cell, as in an IRNN: a small W suits only a memory.
FACTORIAL = "mnist-factorial"
FACTORS = {"memory": "--rate 0", "wipe": "--no-wipe", "V": "--no-integrate"}  # the option that leaves each out


def factorial_group(kept: Sequence[str]) -> str:
    """Return the group of the runs that keep these factors."""
    return "-".join([FACTORIAL, *kept])


KEPT = [tuple(compress(FACTORS, bits)) for bits in product((True, False), repeat=len(FACTORS))]
FACTORIALS = [
    cell for size in SIZES_OF_TABLE_2 for kept in KEPT
    for cell in cells(
        factorial_group(kept), 5,
        " ".join(
            [f"--hidden-size {size} --recurrent-scale 0.5", *([f"--rate {8 / size:g}"] if "memory" in kept else []),
             *(option for name, option in FACTORS.items() if name not in kept)]
        ),
    )
]  # fmt: skip
# A control of privileged information: every layer gets the type of the glimpse, as multilevel does by control signals.
GLIMPSE_TYPE_LAYERS = {"irnn": True, "lstm": False, "multilevel": False}  # whether --layer-norm True is given
GLIMPSE_TYPE = cells(
    "mnist-glimpse-type", 5,
    *(
        f"--layer {layer} --hidden-size {size} --glimpse-type{' --layer-norm True' if layer_norm else ''}"
        f"{f' --rate {8 / size:g}' if layer == 'multilevel' else ''}"
        for size in SIZES_OF_TABLE_2 for layer, layer_norm in GLIMPSE_TYPE_LAYERS.items()
    ),
)  # fmt: skip
# the same trials for each layer of table 2, at R = 50, each a quarter of a run; 0.004 was the top of the first searches
MNIST_LEARNING_RATES = "learning_rate=0.001,0.002,0.004,0.008,0.016"
MNIST_SEARCHES = [
    Search(f"table2-{name}-R50", "mnist", f"{options} --epochs {epochs}", MNIST_LEARNING_RATES)
    for name, options, epochs in (
        ("irnn", "--layer irnn", 15), ("irnn-layer-norm", "--layer irnn --layer-norm True", 15),
        ("lstm", "--layer lstm", 15), ("convnet", "--layer convnet", 3), ("multilevel", "--layer multilevel", 15),
    )
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
# without duplicates, 40 epochs for every layer, the ConvNet's learning rate from its search
TABLE_3_CLEAN: list[Cell | Search] = [
    Search("table3-convnet", "faces", "--layer convnet --epochs 40", "learning_rate=0.0003,0.001,0.003"),
    *cells("faces-no-duplicates", 3, "--layer irnn", "--layer lstm", "--layer multilevel"),
    Cell("faces-no-duplicates", "--layer convnet --epochs 40", (0, 1, 2), "table3-convnet"),
]  # fmt: skip
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
    # layer norm alone, at the settings of fast weights
    *cells("catch-no-memory", 3, *(f"{AGENTS['fast_weights'].replace('0.0325', '0')} {game}" for game in GAMES)),
    *cells("catch-random-start", 5, *(f"{agent} {RANDOM_START}" for agent in AGENTS.values())),
    *cells("catch-random-start-layer-norm", 5, f"{LAYER_NORM} {RANDOM_START}"),
]

# searches stand before the runs that take their best settings
PLANS: dict[str, Sequence[Cell | Search]] = {
    "table1": [*SEARCHES_OF_LAYER_NORM, *TABLE_1, *TABLE_1_LAYER_NORM],
    "searches": SEARCHES,
    "table1-lstm-longer": LONG_LSTM,
    "table1-one-head": ONE_HEAD,
    "figure2": [cell for cell in TABLE_1 if "--test-curve" in cell.options],
    "capacity": [*CAPACITY, *CAPACITY_NO_DECAY],
    "sensitivity": SENSITIVITIES,
    "generalization": GENERALIZATION,
    "retrieval-controls": RETRIEVAL_CONTROLS,
    "table2": TABLE_2,
    "ablation": ABLATION,
    "factorial": FACTORIALS,
    "glimpse-type": GLIMPSE_TYPE,
    "table2-searches": MNIST_SEARCHES,
    "weight-decay": WEIGHT_DECAY,
    "table3": TABLE_3,
    "table3-clean": TABLE_3_CLEAN,
    "table3-synthetic": TABLE_3_SYNTHETIC,
    "figure5": FIGURE_5,
}
