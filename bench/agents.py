"""Make figure 5 and the tables of agents that play Catch."""

from __future__ import annotations

from statistics import mean, median

import matplotlib.pyplot as plt

from tasks.catch import LEARNED, frames_to_learn
from tasks.figures import style
from tasks.figures.style import NAMES_OF_AGENTS
from tasks.games.catch_game import Rules

from . import report
from .cells import settings_of_memory
from .published import FIGURE_5
from .report import markdown, of_seeds
from .store import Run, load

SEEDS = 3
HEADER = [
    "N, M", "agent", "reward at the end, every seed", "paper", "frames to 0.9 (millions)", "paper, in its steps",
    "frames", "frames/s, two runs at a time", "settings",
]  # fmt: skip
SHORT = 6  # of these columns, those that a page shows
# agents that are not in the paper: name, layer, and the group of the runs
CONTROLS = (
    ("ReLU RNN, layer norm", "irnn", "catch-layer-norm"), ("Fast weights, η = 0", "fast_weights", "catch-no-memory"),
)  # fmt: skip
RANDOM_START = "catch-random-start"
BEST = 5  # of a search's agents, whose mean the paper reports


def figure_5(missing: list[str]) -> str:
    """Plot mean reward against frames, mean and range over the seeds, one panel for each game. Return the table."""
    games, lines = agents_of_games(missing)
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
    return markdown(HEADER, lines)


Panels = dict[tuple[int, int], list[tuple[str, str, list[Run]]]]  # (name, layer, runs) of each game's agents


def agents_of_games(missing: list[str]) -> tuple[Panels, list[list[str]]]:
    """Return each game's agents, and the lines of figure 5's table."""
    panels: Panels = {}
    lines, runs = [], load("catch")
    controls = [(name, layer, load(group)) for name, layer, group in CONTROLS]
    for game, theirs in FIGURE_5.items():
        agents = [*((NAMES_OF_AGENTS[layer], layer, runs) for layer in theirs), *controls]
        panels[game] = []
        for name, layer, of in agents:
            chosen = of_game(of, game, layer)
            if len(chosen) < SEEDS:
                missing.append(f"figure 5, N = {game[0]}, {name}: {len(chosen)} of {SEEDS} seeds")
            if chosen:
                panels[game].append((name, layer, chosen))
                lines.append(_line_of_agent(game, name, theirs.get(layer) if of is runs else None, chosen))
    return panels, lines


def of_game(runs: list[Run], game: tuple[int, int], layer: str) -> list[Run]:
    """Return the runs of this layer in the game of size N that is visible for M frames."""
    wanted = {"size": game[0], "visible": game[1], "layer": layer}
    return [run for run in runs if wanted.items() <= run["settings"].items()]


def _line_of_agent(
    game: tuple[int, int], name: str, theirs: tuple[float | None, float | None] | None, chosen: list[Run]
) -> list[str]:  # fmt: skip
    soon, end = theirs or (None, None)
    return [
        f"{game[0]}, {game[1]}", name, ", ".join(f"{run['mean_reward']:.3f}" for run in chosen),
        "-" if end is None else str(end), ", ".join(map(passed, chosen)), "-" if soon is None else str(soon),
        f"{chosen[0]['frames']:,}", f"{median(run['frames_per_second'] for run in chosen):,.0f}",
        _settings_of_agent(chosen[0]["settings"]),
    ]  # fmt: skip


def _settings_of_agent(settings: Run) -> str:
    if settings["layer"] == "fast_weights":
        own = settings_of_memory(settings)
    elif settings["layer"] == "lstm":
        own = f"forget gate's bias {settings['forget_bias']:g}"
    else:
        own = f"W = {settings['recurrent_scale']} I"
    return f"{own}, β {settings['entropy_weight']}, {settings['optimizer']} {settings['learning_rate']}"


def searches_of_agents(found: list[Run]) -> str:
    """Return the results of the searches of Catch's settings: the mean of the best five, the count below LEARNED."""
    rows = []
    for search in found:
        if search["task"] != "catch":
            continue
        words = " ".join(search["options"]).split()
        layer = words[words.index("--layer") + 1] if "--layer" in words else "fast_weights"
        name = NAMES_OF_AGENTS[layer] + (", layer norm" if "--layer-norm" in words else "")
        rewards = [trial["mean_reward"] for trial in search["trials"]]
        best = sorted(rewards, reverse=True)[:BEST]
        rows.append([name, len(rewards), f"{mean(best):.3f}", sum(r < LEARNED for r in rewards), f"{min(rewards):.3f}"])
    header = ["agent", "settings", "mean reward of the best five", f"settings below {LEARNED}", "lowest reward"]
    return markdown(header, sorted(rows, key=lambda row: str(row[2]), reverse=True))


def random_starts() -> str:
    """Return the reward of agents whose paddle starts in a random column, and when they reach 0.9, every seed."""
    groups = {"": "", "-layer-norm": ", layer norm", "-no-memory": ", η = 0"}
    rows = []
    for group, suffix in groups.items():
        runs = load(f"{RANDOM_START}{group}")
        for layer in dict.fromkeys(run["settings"]["layer"] for run in runs):
            chosen = [run for run in runs if run["settings"]["layer"] == layer]
            rewards = ", ".join(f"{run['mean_reward']:.3f}" for run in chosen)
            rows.append([NAMES_OF_AGENTS[layer] + suffix, rewards, ", ".join(map(passed, chosen))])
    return markdown(["agent", "reward at the end, every seed", f"frames to {LEARNED} (millions)"], rows)


def frames_to_pass(run: Run) -> float | None:
    """Return the millions of frames after which a run's mean reward passed 0.9, or None."""
    frames = frames_to_learn(run["curve"])
    return None if frames is None else frames / 1e6


def passed(run: Run) -> str:
    """Return the millions of frames after which a run's mean reward passed 0.9, or "-"."""
    frames = frames_to_pass(run)
    return "-" if frames is None else f"{frames:.1f}"
