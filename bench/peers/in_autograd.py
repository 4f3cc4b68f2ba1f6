"""Implement the layers with the autograd package, which differentiates NumPy code."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from typing import Any

import autograd.numpy as np
from autograd import make_vjp

from fastweights_np.associative_lstm import permutations
from fastweights_np.multilevel import Controls

from .problem import Arrays, Framework, Layer

Array = Any
Params = dict[str, Array]


def fast_weights_attention(
    params: Params, x: Array, h: Array, decay: float = 0.95, rate: float = 0.5, normalize_preliminary: bool = False
) -> Array:
    """Compute equations (2a), (4), (5) with S = 1."""
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
    """Compute equations (1), (2a), (5) with S = 1."""
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


def irnn(params: Params, x: Array, h: Array) -> Array:
    """Compute h = relu(W h + C x + b), with layer norm before relu if there is a gain."""
    from_input = np.dot(x, params["C"].T) + params["b"]
    states: list[Array] = []
    for a in from_input:
        z = a + np.dot(h, params["W"].T)
        h = np.maximum(_norm(params, z) if "gain" in params else z, 0)
        states.append(h)
    return np.stack(states)


def lstm(params: Params, x: Array, h: Array) -> Array:
    """Compute an LSTM whose gates i, f, g, o come from one matrix product."""
    W, C, b = (params[name].reshape(-1, *params[name].shape[2:]) for name in ("W", "C", "b"))
    from_input, c = np.dot(x, C.T) + b, np.zeros_like(h)
    states: list[Array] = []
    for a in from_input:
        i, f, g, o = np.split(a + np.dot(h, W.T), 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def associative_lstm(params: Params, x: Array, h: Array, copies: int = 4) -> Array:
    """Compute in real and imaginary parts, because autograd's complex gradients are of functions to complex numbers."""
    blocks, size, _ = params["W"].shape
    heads, order = (blocks - 3) // 6, permutations(copies, size)
    W, C, b = (params[name].reshape(blocks * size, *params[name].shape[2:]) for name in ("W", "C", "b"))
    from_input = np.dot(x, C.T) + b
    re, im = np.zeros((2, len(h), copies, size), x.dtype)
    states: list[Array] = []
    for a in from_input:
        z = (a + np.dot(h, W.T)).reshape(len(h), blocks, size)
        f, i, o = (_sigmoid(z[:, n]) for n in range(3))
        pairs = z[:, 3:].reshape(len(h), 2, 3, heads, size)
        pairs_re, pairs_im = _bound(pairs[:, 0], pairs[:, 1])
        (k_re, q_re), (k_im, q_im) = ((part[:, 0][..., order], part[:, 1][..., order]) for part in (pairs_re, pairs_im))
        u_re, u_im = (i[:, None, None] * part[:, 2][:, :, None] for part in (pairs_re, pairs_im))
        re, im = (
            f[:, None] * re + np.sum(k_re * u_re - k_im * u_im, axis=1),
            f[:, None] * im + np.sum(k_re * u_im + k_im * u_re, axis=1),
        )
        c_re, c_im = re[:, None], im[:, None]
        m_re, m_im = _bound(
            np.mean(q_re * c_re - q_im * c_im, axis=2), np.mean(q_re * c_im + q_im * c_re, axis=2)
        )  # fmt: skip
        h = np.concatenate([o * np.sum(m_re, axis=1), o * np.sum(m_im, axis=1)], axis=1)
        states.append(h)
    return np.stack(states)


def _sigmoid(z: Array) -> Array:
    return 0.5 * np.tanh(0.5 * z) + 0.5


def _bound(re: Array, im: Array) -> tuple[Array, Array]:
    inverse = np.maximum(re * re + im * im, 1) ** -0.5  # the root's slope at 0 is not finite
    return re * inverse, im * inverse


def multilevel(
    params: Params, x: Array, h: Array, controls: Controls, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Array:  # fmt: skip
    """Compute figure 3 with S = 1, with A as attention to the states stored so far."""
    from_input = np.dot(x, params["C"].T) + params["b"]
    states: list[Array] = []
    stored: list[Array] = []
    wiped = False
    for a, store, wipe, read, integrate in zip(from_input, *astuple(controls), strict=True):
        z = a if wiped else a + np.dot(h, params["V" if integrate else "W"].T)
        if read and stored:
            past, v = np.stack(stored, 1), np.maximum(_norm(params, z) if normalize_preliminary else z, 0)
            weights = (rate * decay ** np.arange(len(stored) - 1, -1, -1)).astype(x.dtype)
            scores = np.matmul(past, v[:, :, None]) * weights[:, None]
            z = z + np.matmul(np.swapaxes(scores, 1, 2), past)[:, 0]
        h = np.maximum(_norm(params, z), 0)
        states.append(h)
        if store:
            stored.append(h)
        wiped = wipe
    return np.stack(states)


FORMS: dict[str, dict[str, Any]] = {
    "fast_weights": {"attention": fast_weights_attention, "matrix": fast_weights_matrix},
    "multilevel": {"plain": multilevel},
    "irnn": {"plain": irnn},
    "lstm": {"plain": lstm},
    "associative_lstm": {"plain": associative_lstm},
}


def layer(problem: Layer, form: str) -> Framework:
    """Return the layer and its vector-Jacobian product."""
    params, x, h0, dh = problem.arrays()
    function = partial(FORMS[problem.layer][form], **problem.all_options())

    def run() -> Any:
        pullback, h = make_vjp(lambda inputs: function(*inputs))((params, x, h0))
        return h, pullback(dh)

    def answer(result: Any) -> Arrays:
        h, (grads, dx, dh0) = result
        return {"h": h, "dx": dx, "dh0": dh0} | {"d" + name: grad for name, grad in grads.items()}

    return Framework(run, answer)
