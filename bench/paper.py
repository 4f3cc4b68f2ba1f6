"""Make the paper's tables and figures with our results next to the paper's, from the runs in bench/results."""

from __future__ import annotations

from statistics import mean

import matplotlib.pyplot as plt

from fastweights_np.files import write_text
from tasks.figures import style
from tasks.retrieval import key_blind_floor
from tasks.running.runs import read_json

from . import (
    agents,
    capacity,
    cells,
    claims,
    controls,
    digits,
    factorial,
    fast_slow,
    fast_slow_claims,
    fast_slow_figure,
    generalization,
    keyvalue,
    longrecall,
    mqar,
    report,
    searches,
    sensitivity,
    speed,
    store,
    tables,
    text,
)  # fmt: skip
from .drawings import draw_glimpses
from .plans.images import FACES_SEARCHES, MNIST_SEARCHES
from .plans.retrieval import SEEDS_OF_TABLE_1
from .published import NAMES, TABLE_1, TABLE_2, TABLE_3
from .report import markdown, of_seeds
from .store import Run, load

SEEDS = 3
SEEDS_OF_TABLE_2 = 2
WEIGHT_DECAY = "mnist-weight-decay"  # the group of table 2's layers with the weight decay that validation chose
LAYER_NORM = "mnist-layer-norm"  # the group of IRNNs with layer norm
# the groups of table 3's layers: on all of FER-2013, without its duplicates, and on synthetic faces
FACES = {"table3": "faces", "table3-clean": "faces-no-duplicates", "table3-synthetic": "faces-synthetic"}
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
        **{
            name: tables.table(3, faces, TABLE_3, SEEDS, missing)
            for name, group in FACES.items()
            if (faces := load(group)) or name == "table3"
        },
        "ablation": digits.ablation(of_digits, load(LAYER_NORM), missing),
        "weight-decay": digits.weight_decay(of_digits, load(WEIGHT_DECAY)),
        "search": searches.table(load("search"), missing),
        "generalization": generalization.make(missing),
        "figure5": agents.figure_5(missing),
        **keyvalue.tables(),
        "mqar": mqar.table(),
        **longrecall.tables(),
        **text.tables(),
        **fast_slow.tables(),
        **fast_slow_claims.tables(),
    }
    missing += keyvalue.missing() + mqar.missing() + longrecall.missing() + text.missing()
    missing += fast_slow.missing()
    for name, table in made.items():
        if table:
            write_text(report.output / f"{name}.md", table)
    draw_glimpses(report.output / "glimpses-digit.png")
    figure_2(runs, missing)
    capacity.make(missing)
    sensitivity.make(missing)
    fast_slow_figure.make()
    figure_of_speed(missing)
    return "\n".join([*made.values(), *(f"missing: {what}" for what in missing)])


def for_pages() -> dict[str, str]:
    """Return the tables of the store that README and docs show, by the name in their markers."""
    retrieval = cells.retrieval()
    of_digits = cells.digits()
    made = {}
    by_name = {
        "table1": (1, retrieval, TABLE_1), "table2": (2, of_digits, TABLE_2),
        **{name: (3, faces, TABLE_3) for name, group in FACES.items() if (faces := load(group))},
    }  # fmt: skip
    for name, (number, runs, published) in by_name.items():
        seeds, rows = (SEEDS_OF_TABLE_1, tables.normalized()) if number == 1 else (0, [])
        made[name], made[f"{name}-seeds"] = tables.medians_and_seeds(number, runs, published, seeds, [], rows)
        if number == 3:
            made |= {f"{name}-recall": tables.recalls(runs), f"{name}-answers": digits.answers_to_faces(runs)}
    _, lines = agents.agents_of_games([])
    made |= {f"{task}-trials": searches.trials(load("search"), task) for task in ("retrieval", "mnist", "faces")}
    made |= {
        **claims.table_and_tally(),
        "retrieval-pairs": tables.in_pairs(retrieval),
        "retrieval-controls": controls.of_the_lstm(retrieval),
        "retrieval-a-lstm-variants": controls.of_the_a_lstm(retrieval),
        "retrieval-preliminary": controls.of_the_preliminary_state(retrieval),
        "capacity": capacity.table(),
        "capacity-by-size": capacity.table_by_size(),
        "sensitivity": sensitivity.table(),
        "factorial": factorial.table(),
        "factorial-tests": factorial.table_of_tests(),
        "mnist-rates": searches.learning_rates(load("search"), MNIST_SEARCHES),
        "faces-rates": searches.learning_rates(load("search"), FACES_SEARCHES),
        "glimpse-type": factorial.table_of_glimpse_types(of_digits, load(LAYER_NORM)),
        "generalization-medians": generalization.medians(),
        "digits-pairs": digits.in_pairs(of_digits),
        "weight-decay-pairs": digits.in_pairs(load(WEIGHT_DECAY)),
        **{f"{name}-pairs": digits.in_pairs(load(FACES[name])) for name in ("table3", "table3-clean")},
        "digits-mcnemar": digits.answers(of_digits, load(WEIGHT_DECAY), load(LAYER_NORM)),
        "ablation": digits.ablation(of_digits, load(LAYER_NORM), []),
        "weight-decay": digits.weight_decay(of_digits, load(WEIGHT_DECAY)),
        "figure5": markdown(agents.HEADER[: agents.SHORT], [line[: agents.SHORT] for line in lines]),
        "catch-search": agents.searches_of_agents(load("search")),
        "catch-random-start": agents.random_starts(),
        **keyvalue.tables(),
        "mqar": mqar.table(),
        **longrecall.tables(),
        **text.tables(),
        **fast_slow.tables(),
        **fast_slow_claims.tables(),
    }
    return {name: table for name, table in made.items() if table}


def figure_2(runs: list[Run], missing: list[str]) -> None:
    """Plot test negative log likelihood against updates at R = 50: mean and range over the seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    drawn = []
    for layer in TABLE_1:
        chosen = [run for run in cells.of(runs, layer, FIGURE_2_SIZE) if "test_nll" in run["curve"][0]]
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


def figure_of_speed(missing: list[str]) -> None:
    """Draw the stored measurement of `python -m bench speed` as bars."""
    path = store.STORE / "speed.json"
    if not path.exists():
        missing.append("the figure of speed: python -m bench speed --store")
        return
    try:
        measured = read_json(path)
        figures, layer = measured["figures"], measured["layer"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: expected what bench speed --store writes, got {error!r}; restore it") from error
    speed.draw(figures, layer, "speed")
