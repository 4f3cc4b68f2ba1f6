"""PyTorch, eager and compiled. The layers are written as a PyTorch user would write them for speed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .problem import Arrays, Contestant, Problem

Params = dict[str, Tensor]


def fast_weights_attention(
    params: Params, x: Tensor, h: Tensor, decay: float = 0.95, rate: float = 0.5, normalize_preliminary: bool = False
) -> Tensor:
    """Equations (2a), (4), (5) with S = 1."""
    steps = x.shape[0]
    from_input = functional.linear(x, params["C"], params["b"])
    weights = rate * decay ** torch.arange(steps - 1, -1, -1, dtype=x.dtype)
    states: list[Tensor] = []
    for t in range(steps):
        z = boundary = from_input[t] + h @ params["W"].T
        v = torch.relu(_norm(params, boundary) if normalize_preliminary else boundary)
        if states:
            past = torch.stack(states, 1)
            scores = torch.bmm(past, v[:, :, None]) * weights[steps - t :, None]
            z = boundary + torch.bmm(scores.transpose(1, 2), past)[:, 0]
        h = torch.relu(_norm(params, z))
        states.append(h)
    return torch.stack(states)


def fast_weights_matrix(
    params: Params, x: Tensor, h: Tensor, decay: float = 0.95, rate: float = 0.5, normalize_preliminary: bool = False
) -> Tensor:
    """Equations (1), (2a), (5) with S = 1."""
    from_input = functional.linear(x, params["C"], params["b"])
    A = x.new_zeros(h.shape[0], h.shape[1], h.shape[1])
    states: list[Tensor] = []
    for t in range(x.shape[0]):
        boundary = from_input[t] + h @ params["W"].T
        v = torch.relu(_norm(params, boundary) if normalize_preliminary else boundary)
        z = torch.baddbmm(boundary[:, :, None], A, v[:, :, None])[:, :, 0] if states else boundary
        h = torch.relu(_norm(params, z))
        states.append(h)
        A = torch.baddbmm(A, h[:, :, None], h[:, None, :], beta=decay, alpha=rate)
    return torch.stack(states)


def _norm(params: Params, z: Tensor) -> Tensor:
    return functional.layer_norm(z, z.shape[-1:], params["gain"], params["bias"], 1e-5)


def contestant(layer: Callable[..., Tensor], compiled: bool, problem: Problem) -> Contestant:
    """The layer under autograd, compiled or not."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    arrays, *others = problem.arrays()
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in arrays.items()}
    x, h0, dh = map(torch.from_numpy, others)
    inputs = [x.requires_grad_(), h0.requires_grad_(), *params.values()]
    function = partial(layer, **problem.options)
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)

    def run() -> Any:
        h = function(params, x, h0)
        return h, torch.autograd.grad(h, inputs, dh)

    def outputs(result: Any) -> Arrays:
        h, grads = result
        names = ["h", "dx", "dh0"] + ["d" + name for name in params]
        return {name: value.detach().numpy() for name, value in zip(names, [h, *grads], strict=True)}

    return Contestant(run, outputs)


LAYERS = {"fast_weights": {"attention": fast_weights_attention, "matrix": fast_weights_matrix}}
