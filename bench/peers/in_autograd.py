"""The autograd package, which differentiates NumPy code."""

from __future__ import annotations

from functools import partial
from typing import Any

import autograd.numpy as np
from autograd import make_vjp

from .problem import Arrays, Contestant, Layer

Array = Any
Params = dict[str, Array]


def fast_weights_attention(
    params: Params, x: Array, h: Array, decay: float = 0.95, rate: float = 0.5, normalize_preliminary: bool = False
) -> Array:
    """Equations (2a), (4), (5) with S = 1."""
    from_input = np.dot(x, params["C"].T) + params["b"]
    weights = (rate * decay ** np.arange(len(x) - 1, -1, -1)).astype(x.dtype)
    states: list[Array] = []
    for t in range(len(x)):
        z = boundary = from_input[t] + np.dot(h, params["W"].T)
        v = np.maximum(_norm(params, boundary) if normalize_preliminary else boundary, 0)
        if states:
            past = np.stack(states, 1)
            scores = np.matmul(past, v[:, :, None]) * weights[len(x) - t :, None]
            z = boundary + np.matmul(np.swapaxes(scores, 1, 2), past)[:, 0]
        h = np.maximum(_norm(params, z), 0)
        states.append(h)
    return np.stack(states)


def fast_weights_matrix(
    params: Params, x: Array, h: Array, decay: float = 0.95, rate: float = 0.5, normalize_preliminary: bool = False
) -> Array:
    """Equations (1), (2a), (5) with S = 1."""
    from_input = np.dot(x, params["C"].T) + params["b"]
    A: Array = 0.0
    states: list[Array] = []
    for t in range(len(x)):
        z = boundary = from_input[t] + np.dot(h, params["W"].T)
        v = np.maximum(_norm(params, boundary) if normalize_preliminary else boundary, 0)
        if states:
            z = boundary + np.matmul(A, v[:, :, None])[:, :, 0]
        h = np.maximum(_norm(params, z), 0)
        states.append(h)
        A = decay * A + rate * h[:, :, None] * h[:, None, :]
    return np.stack(states)


def _norm(params: Params, z: Array) -> Array:
    centred = z - np.mean(z, axis=-1, keepdims=True)
    scale = (np.mean(centred**2, axis=-1, keepdims=True) + 1e-5) ** -0.5
    return params["gain"] * centred * scale + params["bias"]


FORMS = {"fast_weights": {"attention": fast_weights_attention, "matrix": fast_weights_matrix}}


def layer(problem: Layer, form: str) -> Contestant:
    """The layer and its vector-Jacobian product."""
    params, x, h0, dh = problem.arrays()
    function = partial(FORMS[problem.layer][form], **problem.options)

    def run() -> Any:
        pullback, h = make_vjp(lambda inputs: function(*inputs))((params, x, h0))
        return h, pullback(dh)

    def answer(result: Any) -> Arrays:
        h, (grads, dx, dh0) = result
        return {"h": h, "dx": dx, "dh0": dh0} | {"d" + name: grad for name, grad in grads.items()}

    return Contestant(run, answer)
