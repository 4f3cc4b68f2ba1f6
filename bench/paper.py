"""Make the paper's tables and figures with our results next to the paper's, from the runs in bench/results."""

from __future__ import annotations

from statistics import mean

import matplotlib.pyplot as plt

from fastweights_np.files import write_text
from tasks.figures import style
from tasks.retrieval import key_blind_floor
from tasks.running.runs import read_json

from . import agents, cells, claims, controls, digits, generalization, report, searches, speed, store, tables
from .cells import of as _of
from .drawings import draw_glimpses
from .plans import SEEDS_OF_TABLE_1
from .published import NAMES, TABLE_1, TABLE_2, TABLE_3
from .report import markdown, of_seeds
from .store import Run, load
from .tables import figure as _figure

SEEDS = 3
SEEDS_OF_TABLE_2 = 2
WEIGHT_DECAY = "mnist-weight-decay"  # the group of table 2's layers with the weight decay that validation chose
LAYER_NORM = "mnist-layer-norm"  # the group of IRNNs with layer norm
CATCH_LAYER_NORM = "catch-layer-norm"  # the group of agents with layer norm, but without fast weights
CAPACITY = "retrieval-capacity"  # the group of runs with more and more pairs
SYNTHETIC_FACES = "faces-synthetic"  # the group of table 3's layers on synthetic faces
NO_DECAY = "retrieval-capacity-no-decay"  # the same of fast weights with λ = 1
PAIRS = (4, 8, 12, 16)
CAPACITY_SIZE = 50
FIGURE_2_SIZE = 50


def make() -> str:
    """Write every table and figure that has stored runs. Return the tables and the names of missing runs."""
    report.output.mkdir(parents=True, exist_ok=True)
    runs = cells.retrieval()
    of_digits = cells.digits()
    missing: list[str] = []
    made = {
        "table1": tables.table(1, runs, TABLE_1, SEEDS_OF_TABLE_1, missing, tables.normalized()),
        "table2": tables.table(2, of_digits, TABLE_2, SEEDS_OF_TABLE_2, missing),
        "table3": tables.table(3, load("faces"), TABLE_3, SEEDS, missing),
        "ablation": digits.ablation(of_digits, load(LAYER_NORM), missing),
        "weight-decay": digits.weight_decay(of_digits, load(WEIGHT_DECAY)),
        "search": searches.table(load("search"), missing),
        "generalization": generalization.make(missing),
        "figure5": agents.figure_5(load("catch"), load(CATCH_LAYER_NORM), missing),
    }
    if synthetic := load(SYNTHETIC_FACES):
        made["table3-synthetic"] = tables.table(3, synthetic, TABLE_3, SEEDS, missing)
    for name, text in made.items():
        if text:
            write_text(report.output / f"{name}.md", text)
    draw_glimpses(report.output / "glimpses-digit.png")
    figure_2(runs, missing)
    capacity(load(CAPACITY), load(NO_DECAY), missing)
    figure_of_speed(missing)
    return "\n".join([*made.values(), *(f"missing: {what}" for what in missing)])


def for_pages() -> dict[str, str]:
    """Return the tables of the store that README and docs show, by the name in their markers."""
    retrieval = cells.retrieval()
    of_digits = cells.digits()
    made = {}
    for number, runs, published, more in (
        (1, retrieval, TABLE_1, tables.normalized()), (2, of_digits, TABLE_2, []), (3, load("faces"), TABLE_3, []),
    ):  # fmt: skip
        seeds = SEEDS_OF_TABLE_1 if number == 1 else 0
        made[f"table{number}"], made[f"table{number}-seeds"] = tables.medians_and_seeds(
            number, runs, published, seeds, [], more
        )
    if synthetic := load(SYNTHETIC_FACES):
        name = "table3-synthetic"
        made[name], made[f"{name}-seeds"] = tables.medians_and_seeds(3, synthetic, TABLE_3, 0, [])
    _, lines = agents.agents_of_games(load("catch"), load(CATCH_LAYER_NORM), [])
    made |= {f"{task}-trials": searches.trials(load("search"), task) for task in ("retrieval", "mnist", "faces")}
    return made | {
        "claims": claims.table(),
        "retrieval-pairs": tables.in_pairs(retrieval),
        "retrieval-controls": controls.of_the_lstm(retrieval),
        "retrieval-preliminary": controls.of_the_preliminary_state(retrieval),
        "capacity": markdown(
            ["test error", *(f"K = {pairs}" for pairs in PAIRS)],
            [
                [
                    name,
                    *(", ".join(_figure(error, 1) for error in points.get(pairs, ())) or "missing" for pairs in PAIRS),
                ]
                for name, _, points in _capacities(load(CAPACITY), load(NO_DECAY))
            ],
        ),
        "generalization-medians": generalization.medians(),
        "digits-pairs": digits.in_pairs(of_digits),
        "weight-decay-pairs": digits.in_pairs(load(WEIGHT_DECAY)),
        "table3-pairs": digits.in_pairs(load("faces")),
        "digits-mcnemar": digits.answers(of_digits, load(WEIGHT_DECAY), load(LAYER_NORM)),
        "ablation": digits.ablation(of_digits, load(LAYER_NORM), []),
        "weight-decay": digits.weight_decay(of_digits, load(WEIGHT_DECAY)),
        "figure5": markdown(agents.HEADER[: agents.SHORT], [line[: agents.SHORT] for line in lines]),
        "catch-search": agents.searches_of_agents(load("search")),
        "catch-random-start": agents.random_starts(),
    }


def figure_2(runs: list[Run], missing: list[str]) -> None:
    """Plot test negative log likelihood against updates at R = 50: mean and range over the seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    drawn = []
    for layer in TABLE_1:
        chosen = [run for run in _of(runs, layer, FIGURE_2_SIZE) if "test_nll" in run["curve"][0]]
        if len(chosen) < SEEDS_OF_TABLE_1:
            missing.append(f"figure 2, {NAMES[layer]}: {len(chosen)} of {SEEDS_OF_TABLE_1} seeds with --test-curve")
        if not chosen:
            continue
        updates = [line["update"] for line in chosen[0]["curve"]]
        by_update = list(zip(*([line["test_nll"] for line in run["curve"]] for run in chosen), strict=True))
        style.band(axes, updates, by_update, mean, layer, NAMES[layer])
        drawn.append(chosen)
    axes.axhline(key_blind_floor(4)[1], linestyle=":", color="black", label="key-blind floor")
    axes.set(
        xlabel="updates", ylabel="test negative log likelihood (nats)", ylim=(-0.02, 2),
        title=f"Associative retrieval, R = {FIGURE_2_SIZE}: mean and range of {of_seeds(drawn)}",
    )  # fmt: skip
    axes.legend()
    axes.grid(alpha=0.3)
    style.save(figure, report.output / "figure2.png")


def _capacities(runs: list[Run], without_decay: list[Run]) -> list[tuple[str, str, dict[int, list[float]]]]:
    """Return (name, layer, errors) of each memory of R = 50: its test errors in % by the number of pairs."""
    series = [(NAMES[layer], layer, _of(runs, layer, CAPACITY_SIZE)) for layer in TABLE_1]
    series.append(("Fast weights, λ = 1", "fast_weights", _of(without_decay, "fast_weights", CAPACITY_SIZE)))
    found = []
    for name, layer, chosen in series:
        by_pairs = {pairs: [run for run in chosen if run["settings"]["pairs"] == pairs] for pairs in PAIRS}
        errors = {pairs: [100 * run["test_error"] for run in of] for pairs, of in by_pairs.items() if of}
        found.append((name, layer, errors))
    return found


def capacity(runs: list[Run], without_decay: list[Run], missing: list[str]) -> None:
    """Plot test error against the number of pairs at R = 50: the capacity of each memory (not in the paper)."""
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    series = _capacities(runs, without_decay)
    for name, layer, points in series:
        missing += [f"capacity, {name}, K = {pairs}" for pairs in PAIRS if pairs not in points]
        line = "-" if name == NAMES[layer] else "--"
        style.band(axes, list(points), list(points.values()), mean, layer, name, line, marker="o")
    axes.plot(PAIRS, [100 * key_blind_floor(pairs)[0] for pairs in PAIRS], ":", color="black", label="key-blind floor")
    style.error_axis(axes)
    updates = [f"{count:,} updates" for count in sorted({run["updates"] for run in runs})]
    seeds = of_seeds(errors for *_, points in series for errors in points.values())
    title = ", ".join(["Associative retrieval", f"R = {CAPACITY_SIZE}", *updates, seeds])
    axes.set(xlabel="K, pairs in a sequence", ylabel="test error (%)", xticks=PAIRS, title=title)
    axes.legend()
    style.save(figure, report.output / "capacity.png")


def figure_of_speed(missing: list[str]) -> None:
    """Draw the stored measurement of `python -m bench speed` as bars."""
    path = store.STORE / "speed.json"
    if not path.exists():
        missing.append("the figure of speed: python -m bench speed --store")
        return
    measured = read_json(path)
    speed.draw(measured["figures"], measured["layer"], "speed")
