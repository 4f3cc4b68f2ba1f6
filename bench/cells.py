"""Select the stored runs of the paper's tables, and describe their settings."""

from __future__ import annotations

from .store import Run, load


def retrieval() -> list[Run]:
    """Return the runs of table 1: its sequences, and their numbers."""
    return [run for run in load("retrieval") if _is_the_papers(run["settings"])]


def digits() -> list[Run]:
    """Return the runs of table 2: its digits, and their numbers."""
    return [run for run in load("mnist") if _is_the_papers_mnist(run["settings"])]


def of(runs: list[Run], layer: str, size: int) -> list[Run]:
    """Return the runs of this layer with R = size."""
    return [run for run in runs if (run["settings"]["layer"], run["settings"]["hidden_size"]) == (layer, size)]


def settings_of(settings: Run) -> str:
    """Return the settings that tables show of a run of a supervised task."""
    chosen = f"Adam {settings['learning_rate']:g}, {settings['epochs']} epochs"
    if settings["layer"] in ("fast_weights", "multilevel"):
        return f"{settings_of_memory(settings)}, {chosen}"
    if settings.get("recurrent_scale") is not None:
        return f"W = {settings['recurrent_scale']} I, {chosen}"
    if settings.get("forget_bias", 1) != 1:
        return f"forget gate's bias {settings['forget_bias']:g}, {chosen}"
    return chosen


def settings_of_memory(settings: Run) -> str:
    """Return λ, η and S."""
    return f"λ {settings['decay']}, η {settings['rate']}, S {settings['inner_steps']}"


def _is_the_papers(settings: Run) -> bool:
    """Return whether a run has the sequences of table 1, and their numbers."""
    sizes = (settings["training_size"], settings["validation_size"], settings["test_size"])
    return settings["pairs"] == 4 and sizes == (100_000, 10_000, 20_000)


def _is_the_papers_mnist(settings: Run) -> bool:
    """Return whether a run has the digits of table 2, and their numbers."""
    return (settings["data"], settings["validation_size"], settings["patch"]) == ("mnist", 5000, 7)
