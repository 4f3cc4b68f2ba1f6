"""Make the paper's tables and figures with our results next to the paper's, from the runs in bench/results."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

import matplotlib.pyplot as plt

from fastweights_np.files import write_text
from tasks.figures import style
from tasks.figures.style import NAMES_OF_AGENTS
from tasks.games.catch_game import Rules
from tasks.retrieval import key_blind_floor
from tasks.running.runs import read_json

from . import capacity, controls, factorial, generalization, report, sensitivity, speed, store
from .drawings import draw_glimpses
from .plans import BASELINES, NORMALIZED, SEEDS_OF_TABLE_1
from .report import markdown, of_seeds
from .sizes import sizes_of
from .store import load

Run = dict[str, Any]

NAMES = style.NAMES | {"multilevel": "Fast weights"}  # the paper's name in tables 2 and 3
Cells = dict[str, dict[int, float]]  # layer to R to a number of Ba et al. 2016
Row = tuple[str, str, list[Run], dict[int, float]]  # name, layer, runs, and R to a number of Ba et al. 2016
# test error in %
TABLE_1: Cells = {
    "irnn": {20: 62.11, 50: 60.23, 100: 0.34},
    "lstm": {20: 60.81, 50: 1.85, 100: 0.0},
    "associative_lstm": {20: 60.13, 50: 1.62, 100: 0.0},
    "fast_weights": {20: 1.81, 50: 0.0, 100: 0.0},
}
TABLE_2: Cells = {
    "irnn": {50: 12.95, 100: 1.95, 200: 1.42},
    "lstm": {50: 12.0, 100: 1.55, 200: 1.10},
    "convnet": {50: 1.81, 100: 1.00, 200: 0.9},
    "multilevel": {50: 7.21, 100: 1.30, 200: 0.85},
}
# test accuracy in % on Multi-PIE; our runs use another data set
TABLE_3: Cells = {
    "irnn": {200: 81.11}, "lstm": {200: 81.32}, "convnet": {200: 88.23}, "multilevel": {200: 86.34},
}  # fmt: skip
# read off figure 5: the step at which the reward passes 0.9 (the paper does not define its unit), and the final reward
FIGURE_5: dict[tuple[int, int], dict[str, tuple[float | None, float | None]]] = {
    (16, 3): {"irnn": (None, 0.95), "lstm": (5.5, None), "fast_weights": (3, 0.99)},
    (24, 5): {"irnn": (None, 0.65), "lstm": (23, None), "fast_weights": (12, 0.99)},
}
SEEDS = 3
SEEDS_OF_TABLE_2 = 2
SEEDS_OF_ABLATION = 1
WEIGHT_DECAY = "mnist-weight-decay"  # the group of table 2's layers with the weight decay that validation chose
LAYER_NORM = "mnist-layer-norm"  # the group of IRNNs with layer norm
CATCH_LAYER_NORM = "catch-layer-norm"  # the group of agents with layer norm, but without fast weights
SYNTHETIC_FACES = "faces-synthetic"  # the group of table 3's layers on synthetic faces
HEADER_OF_AGENTS = [
    "N, M", "agent", "reward at the end, every seed", "paper", "frames to 0.9 (millions)", "paper, in its steps",
    "frames", "frames/s, two runs at a time", "settings",
]  # fmt: skip
SHORT = 6  # of these columns, those that a page shows
FIGURE_2_SIZE = 50


def make() -> str:
    """Write every table and figure that has stored runs. Return the tables and the names of missing runs."""
    report.output.mkdir(parents=True, exist_ok=True)
    runs = [run for run in load("retrieval") if _is_the_papers(run["settings"])]
    digits = [run for run in load("mnist") if _is_the_papers_mnist(run["settings"])]
    missing: list[str] = []
    tables = {
        "table1": table(1, runs, TABLE_1, SEEDS_OF_TABLE_1, missing, normalized()),
        "table2": table(2, digits, TABLE_2, SEEDS_OF_TABLE_2, missing),
        "table3": table(3, load("faces"), TABLE_3, SEEDS, missing),
        "ablation": ablation(digits, load(LAYER_NORM), missing),
        "weight-decay": weight_decay(digits, load(WEIGHT_DECAY)),
        "search": searches(load("search"), missing),
        "generalization": generalization.make(missing),
        "figure5": figure_5(load("catch"), load(CATCH_LAYER_NORM), missing),
    }
    if synthetic := load(SYNTHETIC_FACES):
        tables["table3-synthetic"] = table(3, synthetic, TABLE_3, SEEDS, missing)
    for name, text in tables.items():
        if text:
            write_text(report.output / f"{name}.md", text)
    draw_glimpses(report.output / "glimpses-digit.png")
    figure_2(runs, missing)
    capacity.make(missing)
    sensitivity.make(missing)
    figure_of_speed(missing)
    return "\n".join([*tables.values(), *(f"missing: {what}" for what in missing)])


def for_pages() -> dict[str, str]:
    """Return the tables of the store that README and docs show, by the name in their markers."""
    retrieval = [run for run in load("retrieval") if _is_the_papers(run["settings"])]
    digits = [run for run in load("mnist") if _is_the_papers_mnist(run["settings"])]
    tables = {}
    for number, runs, cells, more in (
        (1, retrieval, TABLE_1, normalized()), (2, digits, TABLE_2, []), (3, load("faces"), TABLE_3, []),
    ):  # fmt: skip
        seeds = SEEDS_OF_TABLE_1 if number == 1 else 0
        tables[f"table{number}"], tables[f"table{number}-seeds"] = medians_and_seeds(
            number, runs, cells, seeds, [], more
        )
    if synthetic := load(SYNTHETIC_FACES):
        name = "table3-synthetic"
        tables[name], tables[f"{name}-seeds"] = medians_and_seeds(3, synthetic, TABLE_3, 0, [])
    _, lines = _agents(load("catch"), load(CATCH_LAYER_NORM), [])
    return tables | {
        "retrieval-controls": controls.of_the_lstm(retrieval),
        "retrieval-preliminary": controls.of_the_preliminary_state(retrieval),
        "capacity": capacity.table(),
        "capacity-by-size": capacity.table_by_size(),
        "sensitivity": sensitivity.table(),
        "factorial": factorial.table(),
        "glimpse-type": factorial.table_of_glimpse_types(digits, load(LAYER_NORM)),
        "generalization-medians": generalization.medians(),
        "digits-pairs": controls.pairs_of_digits(digits, list(TABLE_2["irnn"])),
        "ablation": ablation(digits, load(LAYER_NORM), []),
        "weight-decay": weight_decay(digits, load(WEIGHT_DECAY)),
        "figure5": markdown(HEADER_OF_AGENTS[:SHORT], [line[:SHORT] for line in lines]),
        "catch-search": controls.searches_of_agents(load("search")),
        "catch-random-start": controls.random_starts(),
    }


def normalized() -> list[Row]:
    """Return the rows of table 1 with layer norm, which are not in the paper."""
    runs = load(NORMALIZED)
    return [(f"{NAMES[layer]}, layer norm", layer, runs, {}) for layer in BASELINES]


def table(
    number: int, runs: list[Run], of_the_paper: Cells, seeds_wanted: int, missing: list[str], more: Sequence[Row] = ()
) -> str:
    """Return a table of the paper with our medians, then every seed and the settings; see `medians_and_seeds`."""
    return "\n".join(medians_and_seeds(number, runs, of_the_paper, seeds_wanted, missing, more))


def medians_and_seeds(
    number: int, runs: list[Run], of_the_paper: Cells, seeds_wanted: int, missing: list[str], more: Sequence[Row] = ()
) -> tuple[str, str]:
    """Return a table with each cell of the paper and the median of our seeds, and a table of every seed.

    Tables 1 and 2 show test errors. Table 3 shows accuracies: the paper's on Multi-PIE, ours on the named data set.
    Table 1 also counts the seeds, and the numbers in each network. A row of `more` without runs is left out.
    """
    sizes = list(of_the_paper["irnn"])
    cells, details = [], []
    for name, layer, of_row, theirs in [
        *((NAMES[each], each, runs, of_the_paper[each]) for each in of_the_paper),
        *more,
    ]:
        line = [name]
        counts = []
        for size in sizes:
            chosen = _of(of_row, layer, size)
            counts.append(len(chosen))
            figures = [100 * (1 - run["test_error"] if number == 3 else run["test_error"]) for run in chosen]
            line += [
                f"{theirs[size]:.2f} %" if theirs else "-",
                f"**{_figure(median(figures), number)}**" if figures else "missing" if theirs else "not run",
            ]
            if len(chosen) < seeds_wanted:
                missing.append(f"table {number}, {name}, R = {size}: {len(chosen)} of {seeds_wanted} seeds")
            if chosen:
                seeds = ", ".join(_figure(figure, number) for figure in figures)
                updates, settings = chosen[0]["updates"], chosen[0]["settings"]  # the same for all stored seeds
                seconds = f"{median(run['seconds'] for run in chosen):.0f} s"
                counted = [f"{count:,}" for count in sizes_of(settings)] if number == 1 else []
                details.append([name, size, seeds, f"{updates:,}", seconds, _settings(settings), *counted])
        if number == 1:
            line.append(_seeds(counts, seeds_wanted))
        if theirs or any(counts):
            cells.append(line)
    data = {run["data"]["name"] for run in runs if "data" in run} if number == 3 else set()
    whose = ("paper, Multi-PIE", f"here, {' and '.join(sorted(data)) or '-'}") if number == 3 else ("paper", "here")
    header = ["layer", *(f"R = {size}, {each}" for size in sizes for each in whose)]
    what = "test accuracy" if number == 3 else "test error"
    columns = ["layer", "R", f"{what} of every seed", "updates", "time of a run, two at a time", "settings"]
    if number == 1:
        header.append("seeds")
        columns += ["parameters", "of them in the layer", "numbers in a state"]
    return markdown(header, cells), markdown(columns, details)


def _seeds(counts: list[int], wanted: int) -> str:
    """Return the number of seeds of a row's cells, and the planned number where it differs."""
    text = ", ".join(str(count) for count in (counts if len(set(counts)) > 1 else counts[:1]))
    return text if set(counts) == {wanted} else f"{text} of {wanted}"


def _figure(value: float, number: int) -> str:
    """Return the value in %, with digits to match the table's test set: one example is 0.005, 0.01 or 0.014 %."""
    return f"{value:.3f} %" if number == 1 else f"{value:.2f} %"


def _test_errors(digits: list[Run]) -> str:
    """Return the test error of every seed, with the digits of table 2."""
    return ", ".join(_figure(100 * run["test_error"], 2) for run in digits)


def ablation(runs: list[Run], with_layer_norm: list[Run], missing: list[str]) -> str:
    """Return the table of ablations: fast weights with and without control signals, and layer norm without them."""
    rows = {
        "fast weights, with control signals": (runs, "multilevel"),
        "fast weights, read and stored at every step": (runs, "fast_weights"),
        "no fast weights, but layer norm (IRNN)": (with_layer_norm, "irnn"),
        "neither (IRNN)": (runs, "irnn"),
    }
    cells = []
    for name, (of, layer) in rows.items():
        line = [name]
        for size in TABLE_2["irnn"]:
            chosen = _of(of, layer, size)
            line.append(_test_errors(chosen) or "missing")
            if len(chosen) < SEEDS_OF_ABLATION:
                missing.append(f"ablation, {name}, R = {size}: {len(chosen)} of {SEEDS_OF_ABLATION} seeds")
        cells.append(line)
    return markdown(["test error on MNIST, every seed", *(f"R = {size}" for size in TABLE_2["irnn"])], cells)


def weight_decay(without: list[Run], with_it: list[Run]) -> str:
    """Return table 2's cells with each layer's chosen weight decay, and learning rates that decay from the start."""
    lines = []
    for size in TABLE_2["irnn"]:
        for layer in TABLE_2:
            chosen = _of(with_it, layer, size)
            if not chosen:
                continue
            before, now = _test_errors(_of(without, layer, size)), _test_errors(chosen)
            settings = chosen[0]["settings"]
            now += "".join(f" ({reason})" for reason in {run["wrong"] for run in chosen if "wrong" in run})
            lines.append([size, NAMES[layer], before, now, settings["weight_decay"], _settings(settings)])
    header = ["R", "layer", "table 2, every seed", "with weight decay, every seed", "weight decay", "settings"]
    return markdown(header, lines) if lines else ""


def searches(found: list[Run], missing: list[str]) -> str:
    """Return the table of searches: the settings that each tried, and the objective of each trial."""
    lines, searched = [], set()
    for search in sorted(found, key=lambda search: (search["task"], search["options"])):
        names = list(search["space"])
        searched |= {(search["task"], layer) for layer in _searched_layers(search)}

        def text(chosen: dict[str, Any], names: list[str] = names) -> str:
            return " ".join(
                f"{chosen[name]:.3g}" if isinstance(chosen[name], float) else str(chosen[name]) for name in names
            )

        trials = sorted(search["trials"], key=lambda trial: [trial[name] for name in names])
        tried = ", ".join(f"{text(trial)}: {_loss(trial)}" for trial in trials)
        options = " ".join([search["task"], *search["options"]])
        if "wrong" in search:
            tried += f" ({search['wrong']})"
        lines.append([options, " ".join(names), tried, f"**{text(search['best'])}**"])
    for task, cells in (("retrieval", TABLE_1), ("mnist", TABLE_2)):
        missing += [f"the search of {task}, {NAMES[layer]}" for layer in cells if (task, layer) not in searched]
    header = [
        "task, and options that differ from its defaults",
        "searched",
        "validation loss (nats), of agents mean reward",
        "lowest loss, or highest reward",
    ]
    return markdown(header, lines)


def _searched_layers(search: Run) -> set[str]:
    """Return the layers of a search: those in its space, or the one in its options."""
    if "layer" in search["space"]:
        return set(search["space"]["layer"])
    words = " ".join(search["options"]).replace("=", " ").split()
    usual = "multilevel" if search["task"] in ("mnist", "faces") else "fast_weights"
    return {words[words.index("--layer") + 1] if "--layer" in words else usual}


def _loss(trial: dict[str, Any]) -> str:
    value = trial.get("mean_reward", trial.get("validation_nll"))
    if value is not None:
        return f"{value:.4f}"
    return "stopped early" if trial["state"] == "PRUNED" else "∞"


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


def figure_of_speed(missing: list[str]) -> None:
    """Draw the stored measurement of `python -m bench speed` as bars."""
    path = store.STORE / "speed.json"
    if not path.exists():
        missing.append("the figure of speed: python -m bench speed --store")
        return
    measured = read_json(path)
    speed.draw(measured["figures"], measured["layer"], "speed")


def _agents(
    runs: list[Run], with_layer_norm: list[Run], missing: list[str]
) -> tuple[dict[tuple[int, int], list[tuple[str, str, list[Run]]]], list[list[str]]]:  # fmt: skip
    """Return (name, layer, runs) of each game's agents, and the lines of figure 5's table."""
    panels: dict[tuple[int, int], list[tuple[str, str, list[Run]]]] = {}
    lines = []
    for game, theirs in FIGURE_5.items():
        agents = [(NAMES_OF_AGENTS[layer], layer, runs) for layer in theirs]
        agents.append(("ReLU RNN, layer norm", "irnn", with_layer_norm))
        panels[game] = []
        for name, layer, of in agents:
            chosen = [
                run for run in of
                if (run["settings"]["size"], run["settings"]["visible"], run["settings"]["layer"]) == (*game, layer)
            ]  # fmt: skip
            if len(chosen) < SEEDS:
                missing.append(f"figure 5, N = {game[0]}, {name}: {len(chosen)} of {SEEDS} seeds")
            if chosen:
                panels[game].append((name, layer, chosen))
                lines.append(_line_of_agent(game, name, theirs.get(layer) if of is runs else None, chosen))
    return panels, lines


def figure_5(runs: list[Run], with_layer_norm: list[Run], missing: list[str]) -> str:
    """Plot mean reward against frames, mean and range over the seeds, one panel for each game. Return the table."""
    games, lines = _agents(runs, with_layer_norm, missing)
    if not lines:
        return ""
    figure, panels = plt.subplots(1, len(games), figsize=(11, 4), layout="constrained", sharey=True)
    for axes, (game, agents) in zip(panels, games.items(), strict=True):
        for name, layer, chosen in agents:
            points = min(len(run["curve"]) for run in chosen)
            frames = [line["frames"] / 1e6 for line in chosen[0]["curve"][:points]]
            by_part = list(zip(*([line["mean_reward"] for line in run["curve"]] for run in chosen), strict=False))
            line = "-" if name == NAMES_OF_AGENTS[layer] else "--"
            style.band(axes, frames, by_part, mean, layer, name, line)
        style.reward_axis(axes, Rules(*game).chance)
        title = f"Catch, N = {game[0]}, M = {game[1]}"
        if agents:
            sizes = " and ".join(sorted({str(run["settings"]["hidden_size"]) for *_, of in agents for run in of}))
            title += f", R = {sizes}: mean and range of {of_seeds(of for *_, of in agents)}"
        axes.set_title(title, fontsize=10)
    panels[0].legend()
    style.save(figure, report.output / "figure5.png")
    return markdown(HEADER_OF_AGENTS, lines)


def _line_of_agent(
    game: tuple[int, int], name: str, theirs: tuple[float | None, float | None] | None, chosen: list[Run]
) -> list[str]:  # fmt: skip
    passed = [controls.passed(run) for run in chosen]
    soon, end = theirs or (None, None)
    return [
        f"{game[0]}, {game[1]}", name, ", ".join(f"{run['mean_reward']:.3f}" for run in chosen),
        "-" if end is None else str(end), ", ".join(passed), "-" if soon is None else str(soon),
        f"{chosen[0]['frames']:,}", f"{median(run['frames_per_second'] for run in chosen):,.0f}",
        _settings_of_agent(chosen[0]["settings"]),
    ]  # fmt: skip


def _settings_of_agent(settings: Run) -> str:
    if settings["layer"] == "fast_weights":
        own = _settings_of_memory(settings)
    elif settings["layer"] == "lstm":
        own = f"forget gate's bias {settings['forget_bias']:g}"
    else:
        own = f"W = {settings['recurrent_scale']} I"
    return f"{own}, β {settings['entropy_weight']}, {settings['optimizer']} {settings['learning_rate']}"


def _is_the_papers(settings: Run) -> bool:
    """Return whether a run has the sequences of table 1, and their numbers."""
    sizes = (settings["training_size"], settings["validation_size"], settings["test_size"])
    return settings["pairs"] == 4 and sizes == (100_000, 10_000, 20_000)


def _is_the_papers_mnist(settings: Run) -> bool:
    """Return whether a run has the digits of table 2, and their numbers."""
    return (settings["data"], settings["validation_size"], settings["patch"]) == ("mnist", 5000, 7)


def _of(runs: list[Run], layer: str, size: int) -> list[Run]:
    return [run for run in runs if (run["settings"]["layer"], run["settings"]["hidden_size"]) == (layer, size)]


def _settings(settings: Run) -> str:
    chosen = f"Adam {settings['learning_rate']:g}, {settings['epochs']} epochs"
    if settings["layer"] in ("fast_weights", "multilevel"):
        return f"{_settings_of_memory(settings)}, {chosen}"
    if settings.get("recurrent_scale") is not None:
        return f"W = {settings['recurrent_scale']} I, {chosen}"
    if settings.get("forget_bias", 1) != 1:
        return f"forget gate's bias {settings['forget_bias']:g}, {chosen}"
    return chosen


def _settings_of_memory(settings: Run) -> str:
    return f"λ {settings['decay']}, η {settings['rate']}, S {settings['inner_steps']}"
