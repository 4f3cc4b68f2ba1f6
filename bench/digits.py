"""Make the tables of digits other than table 2: ablations, weight decay, and paired tests."""

from __future__ import annotations

from itertools import pairwise

from . import mcnemar
from .cells import of, settings_of
from .published import NAMES, TABLE_2
from .report import markdown
from .seeds import MEASURES, median_and_range, pairs, table_of_pairs
from .store import Run
from .tables import figure

SEEDS_OF_ABLATION = 1
BASELINES = ("lstm", "irnn", "convnet")


def ablation(runs: list[Run], with_layer_norm: list[Run], missing: list[str]) -> str:
    """Return the table of ablations: fast weights with and without control signals, and layer norm without them."""
    rows = {
        "fast weights, with control signals": (runs, "multilevel"),
        "fast weights, read and stored at every step": (runs, "fast_weights"),
        "no fast weights, but layer norm (IRNN)": (with_layer_norm, "irnn"),
        "neither (IRNN)": (runs, "irnn"),
    }
    cells = []
    for name, (all_runs, layer) in rows.items():
        line = [name]
        for size in TABLE_2["irnn"]:
            chosen = of(all_runs, layer, size)
            line.append(_test_errors(chosen) or "missing")
            if len(chosen) < SEEDS_OF_ABLATION:
                missing.append(f"ablation, {name}, R = {size}: {len(chosen)} of {SEEDS_OF_ABLATION} seeds")
        line += [_nll(of(all_runs, layer, size)) for size in TABLE_2["irnn"]]
        cells.append(line)
    header = ["test error on MNIST, every seed", *(f"R = {size}" for size in TABLE_2["irnn"])]
    return markdown([*header, *(f"R = {size}, test NLL (nats)" for size in TABLE_2["irnn"])], cells)


def weight_decay(without: list[Run], with_it: list[Run]) -> str:
    """Return table 2's cells with each layer's chosen weight decay, and learning rates that decay from the start."""
    lines = []
    for size in TABLE_2["irnn"]:
        for layer in TABLE_2:
            chosen = of(with_it, layer, size)
            if not chosen:
                continue
            earlier = of(without, layer, size)
            before, now = _test_errors(earlier), _test_errors(chosen)
            settings = chosen[0]["settings"]
            lines.append([size, NAMES[layer], before, now, settings["weight_decay"], settings_of(settings)])
            lines[-1] += [_nll(earlier), _nll(chosen)]
    header = ["R", "layer", "table 2, every seed", "with weight decay, every seed", "weight decay", "settings"]
    header += ["table 2, test NLL (nats)", "with weight decay, test NLL (nats)"]
    return markdown(header, lines) if lines else ""


def in_pairs(runs: list[Run]) -> str:
    """Return fast weights and the baselines of tables 2 and 3 in pairs of the same seed."""
    baselines = [(NAMES[layer], runs, layer) for layer in BASELINES]
    return table_of_pairs((runs, "multilevel"), baselines, list(TABLE_2["irnn"]), list(MEASURES))


def answers(digits: list[Run], with_decay: list[Run], with_layer_norm: list[Run]) -> str:
    """Return McNemar's test for the main comparisons, run by run, where both runs stored their answers."""
    names = {layer: f"table 2: fast weights and {NAMES[layer]}" for layer in BASELINES}
    comparisons = {name: _same_seed(digits, "multilevel", digits, layer) for layer, name in names.items()}
    comparisons["fast weights and IRNN with layer norm"] = _same_seed(digits, "multilevel", with_layer_norm, "irnn")
    comparisons["fast weights with and without control signals"] = _same_seed(
        digits, "multilevel", digits, "fast_weights"
    )
    comparisons["with weight decay: fast weights and LSTM"] = _same_seed(with_decay, "multilevel", with_decay, "lstm")
    two_seeds = [of(with_decay, "lstm", size)[:2] for size in TABLE_2["irnn"]]
    name = "control: two seeds of the LSTM with weight decay"
    comparisons[name] = [pair for runs in two_seeds for pair in pairwise(runs)]
    return mcnemar.table(comparisons)


def answers_to_faces(faces: list[Run]) -> str:
    """Return McNemar's test of fast weights and each baseline; empty if no pair of runs stored its answers."""
    faces = [run for run in faces if "wrong_answers" in run]
    comparisons = {
        f"fast weights and {NAMES[layer]}": _same_seed(faces, "multilevel", faces, layer) for layer in BASELINES
    }
    return mcnemar.table(comparisons) if any(comparisons.values()) else ""


def _same_seed(first: list[Run], layer: str, second: list[Run], other: str) -> list[tuple[Run, Run]]:
    sizes = [(of(first, layer, size), of(second, other, size)) for size in TABLE_2["irnn"]]
    return [pair for of_size in sizes for pair in pairs(*of_size)]


def _test_errors(digits: list[Run]) -> str:
    """Return the test error of every seed, with the digits of table 2."""
    return ", ".join(figure(100 * run["test_error"], 2) for run in digits)


def _nll(digits: list[Run]) -> str:
    """Return the median and range of the test negative log likelihood in nats."""
    return median_and_range([run["test_nll"] for run in digits], 4, unit="") if digits else "missing"
