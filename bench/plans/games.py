"""Plan the runs of Catch: figure 5, and its controls."""

from __future__ import annotations

from .cells import cells

AGENTS = {
    "fast_weights": "--rate 0.0325 --inner-steps 2 --learning-rate 0.0027 --entropy-weight 0.0055",
    "irnn": "--layer irnn --recurrent-scale 0.9 --learning-rate 0.0024 --entropy-weight 0.004",
    "lstm": "--layer lstm --forget-bias 2 --learning-rate 0.0036 --entropy-weight 0.0041",
}
LAYER_NORM = "--layer irnn --layer-norm True --recurrent-scale 0.5 --learning-rate 0.0012 --entropy-weight 0.0045"
GAMES = ("--frames 6000000 --actors 1", "--size 24 --visible 5 --actors 1")
RANDOM_START = "--size 24 --visible 5 --paddle-start random --actors 1"
NO_MEMORY = AGENTS["fast_weights"].replace("--rate 0.0325", "--rate 0")  # the other settings of fast weights
FIGURE_5 = [
    *cells("catch", 3, *(f"{agent} {game}" for agent in AGENTS.values() for game in GAMES)),
    *cells("catch-layer-norm", 3, *(f"{LAYER_NORM} {game}" for game in GAMES)),
    *cells("catch-no-memory", 3, *(f"{NO_MEMORY} {game}" for game in GAMES)),
    *cells("catch-random-start", 5, *(f"{agent} {RANDOM_START}" for agent in AGENTS.values())),
    *cells("catch-random-start-layer-norm", 5, f"{LAYER_NORM} {RANDOM_START}"),
    *cells("catch-random-start-no-memory", 5, f"{NO_MEMORY} {RANDOM_START}"),
]
