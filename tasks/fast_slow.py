"""Learn by context and by weights: fast and slow channels that share one reward, after Fast-Slow Training.

A task is associative retrieval with a hidden convention: the rewarded answer is π(value). A base policy can retrieve,
and follow a π that is shown. What is left to learn is π alone. Every episode is counted, for both channels.

This is FST-style, not a reproduction of arXiv 2605.12484, which trains language models and evolves their prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy

from fastweights_np import distributed

from .contexts import base
from .contexts.settings import Settings
from .contexts.training import MEASURES, Training
from .running import runs

__all__ = ["Settings", "load", "run", "summary"]

LEARNED = 0.9  # reward at which a task counts as learned


def load(settings: Settings) -> dict[str, Any]:
    """Return the parameters of the base policy, which is trained if there is none.

    A run with --initial has that run's weights as its base: the result then has their names, shapes and dtypes alone.
    """
    if settings.initial is not None:
        return settings.base.policy.init(numpy.random.default_rng(0))
    return base.load(settings.base, settings.data_dir or Path("runs") / "bases")


def run(settings: Settings, folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Learn all tasks, store the result and draw the pictures. Raise Interruption on Ctrl-C, after a checkpoint."""
    training = Training(settings, folder, data)
    training.run()
    result = {
        **summary(settings, training.curve),
        "written_accuracy": base.written_accuracy(settings.base, training.base, settings.pairs),
        "updates": training.update,
        "seconds": round(training.seconds(), 1),
        "curve": training.curve,
    }
    if distributed.ranks().rank:
        return result
    runs.store_result(folder, settings, result)
    print("\nstage: episodes to a reward of 0.9, reward and KL(policy‖base policy) at the end")
    for stage in result["stages"]:
        learned = stage["episodes_to_learn"]
        when = "never" if learned is None else f"{learned:,}"
        print(f"  {stage['name']}: {when}, {stage['reward']:.3f}, {stage['kl']:.4f}")
    print(f"{training.update} updates in {training.seconds():.0f} s")

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    names = [stage.name for stage in settings.stages]
    figures.contexts_curve(folder / "learning_curve.png", settings, training.curve, names, 1 / settings.digits)
    return result


def summary(settings: Settings, curve: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return what a curve shows of each stage, and of all stages of the run's own method."""
    found: list[dict[str, Any]] = []
    for n, stage in enumerate(settings.stages):
        lines = [line for line in curve if line["stage"] == n]
        learned = next((line for line in lines if line["reward"] >= LEARNED), None)
        last = {name: lines[-1][name] for name in MEASURES}
        found.append(
            {
                "name": stage.name,
                **last,
                "episodes_to_learn": learned and learned["episodes"],
                "kl_when_learned": learned and learned["kl"],
            }
        )
    own = [each for each in found if each["name"] != "second"]
    times = [each["episodes_to_learn"] for each in own]
    return {
        "mean_reward": fmean(each["mean_reward"] for each in own),
        "final_reward": own[0]["reward"],
        "episodes_to_learn": times[0],
        "stages": found,
    }
