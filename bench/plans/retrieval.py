"""Plan the runs and searches of associative retrieval: table 1, figure 2, and experiments not in the paper."""

from __future__ import annotations

from itertools import product

from .cells import Cell, Search, cells

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
# public implementations differ in the number of heads, and in the value that a head writes
A_LSTM = "--layer associative_lstm --learning-rate 0.002 --epochs 130"
ONE_HEAD = cells("retrieval-one-head", 3, f"{A_LSTM} --heads 1")
SHARED_VALUE = cells("retrieval-shared-value", 3, f"{A_LSTM} --shared-value")
NO_RECURRENT_VALUE = cells("retrieval-no-recurrent-value", 3, f"{A_LSTM} --no-recurrent-value")

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
