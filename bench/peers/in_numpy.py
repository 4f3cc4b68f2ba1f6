"""Ours."""

from __future__ import annotations

from typing import Any

from fastweights_np import Workspace
from fastweights_np.network import LAYERS

from .problem import Arrays, Contestant, Problem


def ours(problem: Problem) -> Contestant:
    """The layer as the package has it, with a workspace, as training uses it."""
    layer, workspace = LAYERS[problem.layer], Workspace()
    params, x, h0, dh = problem.arrays()

    def run() -> Any:
        h, cache = layer.forward(params, x, h0, workspace=workspace, **problem.options)
        return h, layer.backward(dh, cache)

    def outputs(result: Any) -> Arrays:
        h, (grads, dx, dh0) = result
        return {"h": h, "dx": dx, "dh0": dh0} | {"d" + name: grad for name, grad in grads.items()}

    return Contestant(run, outputs)


CONTESTANTS = {"ours": ours}
