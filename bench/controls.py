"""Make the tables of control experiments for docs: runs and searches that are not in the paper's tables."""

from __future__ import annotations

from statistics import median

from .cells import of
from .plans.retrieval import NO_RECURRENT_VALUE, ONE_HEAD, SHARED_VALUE
from .report import markdown
from .seeds import median_and_range
from .store import Run, load

# what differs from table 1's LSTM, and the groups of the runs; a seed that two groups have is shown once
CONTROLS_OF_THE_LSTM = {
    "as in table 1": ("retrieval",),
    "400,000 sequences": ("retrieval-more-data",),
    "layer norm": ("retrieval-layer-norm", "retrieval-generalization-layer-norm"),
    "both": ("retrieval-layer-norm-more-data",),
    "400,000 sequences, twice the updates": ("retrieval-more-data-longer",),
}
VARIANTS_OF_THE_A_LSTM = {
    "one head": ONE_HEAD,
    "one value for all heads": SHARED_VALUE,
    "no recurrent input to the value": NO_RECURRENT_VALUE,
}
PRELIMINARY = "retrieval-ablation"  # the group of fast weights with layer norm on the preliminary state


def of_the_lstm(retrieval: list[Run]) -> str:
    """Return the LSTM's test error with more sequences and with layer norm, every seed, and the updates of a run."""
    rows = []
    for name, groups in CONTROLS_OF_THE_LSTM.items():
        row = [name]
        for size in (50, 100):
            chosen = lstm_runs(name, size, retrieval)
            errors = ", ".join(f"{100 * run['test_error']:.3f} %" for run in chosen)
            row += [errors, f"{chosen[0]['updates']:,}"] if chosen else ["-", "-"]
        rows.append([*row, ", ".join(groups)])
    header = ["LSTM, test error of seeds 0, 1, 2", "R = 50", "updates", "R = 100", "updates", "group of the runs"]
    return markdown(header, rows)


def lstm_runs(name: str, size: int, retrieval: list[Run]) -> list[Run]:
    """Return the runs of a control of the LSTM with R = size, by seed. retrieval: the runs of table 1."""
    groups = CONTROLS_OF_THE_LSTM[name]
    runs = [run for group in groups for run in (retrieval if group == "retrieval" else load(group))]
    by_seed = {run["settings"]["seed"]: run for run in of(runs, "lstm", size) if run["settings"]["pairs"] == 4}
    return [by_seed[seed] for seed in sorted(by_seed)]


def of_the_a_lstm(retrieval: list[Run]) -> str:
    """Return the test error of the A-LSTM of R = 50 and of its variants, every seed; empty if no run is stored."""
    groups = {"as in table 1, three heads": ("retrieval", retrieval)}
    groups |= {name: (cell.group, load(cell.group)) for name, (cell,) in VARIANTS_OF_THE_A_LSTM.items()}
    rows, stored = [], False
    for name, (group, runs) in groups.items():
        errors = [100 * run["test_error"] for run in of(runs, "associative_lstm", 50)]
        stored = stored or bool(errors)
        every = ", ".join(f"{error:.3f} %" for error in errors)
        rows.append([name, median_and_range(errors, 3) if errors else "not run", every or "-", group])
    header = ["A-LSTM, R = 50", "median test error and range", "every seed", "group of the runs"]
    return markdown(header, rows) if stored else ""


def of_the_preliminary_state(retrieval: list[Run]) -> str:
    """Return the test error of fast weights of R = 50 with and without layer norm on the preliminary state."""
    rows = []
    for name, runs in (("off (table 1)", retrieval), ("on", load(PRELIMINARY))):
        errors = [100 * run["test_error"] for run in of(runs, "fast_weights", 50)]
        if errors:
            rows.append([name, f"{median(errors):.3f} %", ", ".join(f"{error:.3f} %" for error in errors)])
    return markdown(["layer norm on the preliminary state", "median test error", "every seed"], rows)
