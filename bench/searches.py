"""Make the table of stored searches."""

from __future__ import annotations

from typing import Any

from .plans.cells import Search
from .published import NAMES, TABLE_1, TABLE_2
from .report import markdown
from .store import Run

STOPPED, DIVERGED = "stopped early", "∞"  # in place of a loss


def table(found: list[Run], missing: list[str]) -> str:
    """Return the table of searches: the settings that each tried, and the objective of each trial."""
    lines, searched = [], set()
    for search in sorted(found, key=lambda search: (search["task"], search["options"])):
        names = list(search["space"])
        searched |= {(search["task"], layer) for layer in layers_of(search)}

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


def trials(found: list[Run], task: str) -> str:
    """Return the number of trials of each search of a task, and how many completed, by layer and date."""
    lines = []
    for search in found:
        if search["task"] == task:
            states = [_loss(trial) for trial in search["trials"]]
            stopped, diverged = states.count(STOPPED), states.count(DIVERGED)
            layers = " and ".join(NAMES[layer] for layer in sorted(layers_of(search)))
            about = [
                layers,
                search.get("finished", "")[:16],
                f"`{' '.join(search['options'])}`",
                ", ".join(search["space"]),
            ]
            counts = [len(states), len(states) - stopped - diverged, stopped, diverged]
            lines.append([*about, *counts, search.get("wrong", "none known")])
    columns = ["layer", "finished", "options of each trial", "searched", "trials", "complete", STOPPED, "diverged"]
    return markdown([*columns, "fault"], sorted(lines, key=lambda line: (str(line[0]), str(line[1]))))


def learning_rates(found: list[Run], equal: list[Search]) -> str:
    """Return the validation loss at each learning rate, by layer, of planned searches with the same rates."""
    planned = {f"search/{search.name}": search.options for search in equal}
    rows, rates = [], list[float]()
    for search in found:
        if search["search"] in planned:
            rates = search["space"]["learning_rate"]
            losses = {trial["learning_rate"]: _loss(trial) for trial in search["trials"]}
            best = search["best"]["learning_rate"]
            cells = (f"**{losses[rate]}**" if rate == best else losses[rate] for rate in rates)
            rows.append([f"`{planned[search['search']]}`", *cells])
    return markdown(["options of each trial", *(f"{rate:g}" for rate in rates)], rows) if rows else ""


def layers_of(search: Run) -> set[str]:
    """Return the layers of a search: those in its space, or the one in its options."""
    if "layer" in search["space"]:
        return set(search["space"]["layer"])
    words = " ".join(search["options"]).replace("=", " ").split()
    usual = "multilevel" if search["task"] in ("mnist", "faces") else "fast_weights"
    return {words[words.index("--layer") + 1] if "--layer" in words else usual}


def _loss(trial: dict[str, Any]) -> str:
    names = ("mean_reward", "validation_nll", "validation_loss")
    value = next((trial[name] for name in names if trial.get(name) is not None), None)
    if value is not None:
        return f"{value:.4f}"
    return STOPPED if trial["state"] == "PRUNED" else DIVERGED
