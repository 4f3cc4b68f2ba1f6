"""Plan the runs and searches of digits and faces: tables 2 and 3, and their controls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, product

from .cells import Cell, Search, cells

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
# the same rates for each layer of table 2, at R = 50; 0.004 was the top of the first searches
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
# without duplicates: 40 epochs and the same search of the learning rate for every layer
FACES_SEARCHES = [
    Search(f"table3-{layer}", "faces", f"--layer {layer} --epochs 40", "learning_rate=0.0003,0.001,0.003")
    for layer in ("irnn", "lstm", "convnet", "multilevel")
]
TABLE_3_CLEAN: list[Cell | Search] = [
    *FACES_SEARCHES,
    *(Cell("faces-no-duplicates", search.options, (0, 1, 2), search.name) for search in FACES_SEARCHES),
]
# 200 epochs for every layer are 8,000 updates, as in table 3's recurrent layers
TABLE_3_SYNTHETIC = cells(
    "faces-synthetic", 3,
    *(f"--data synthetic{layer} --epochs 200" for layer in (" --layer irnn", " --layer lstm", " --layer convnet", "")),
)  # fmt: skip
