"""Train our transformer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastweights_np import Workspace, optim
from fastweights_np.network import train_step
from fastweights_np.trees import flatten

from .problem import Framework, Transformer


def transformer(problem: Transformer, threads: int = 1, dtype: str = "float32") -> Framework:
    """Return updates by Adam."""
    model, params = replace(problem.model(), threads=threads), problem.params(dtype)
    adam = optim.Adam(params, epsilon=problem.epsilon)
    (tokens, targets), workspace = problem.batch(), Workspace()  # as in training: it keeps freed memory

    def run() -> Any:
        train_step(
            model, params, adam, tokens, targets, problem.learning_rate, clip_norm=problem.clip_norm,
            workspace=workspace,
        )  # fmt: skip
        return params

    return Framework(run, lambda params: {name: value.copy() for name, value in flatten(params).items()})
