"""Equations (1) to (5) of Ba et al. 2016, and their gradients, as plainly as they can be written.

    A(t)       = λ A(t-1) + η h(t) h(t)ᵀ                                        (1)
    h_0(t+1)   = f(a),   a = W h(t) + C x(t) + b                                (2a)
    h_s+1(t+1) = f(LN[A(t) h_s + a]),   s = 0 .. S-1,   h(t+1) = h_S(t+1)       (2), (5)

T steps, B sequences, I inputs, H units. x (T, B, I), h (T, B, H), A (B, H, H). (F1) and on are in DERIVATION.md.
"""

from __future__ import annotations

from typing import Any

import numpy

from .ops import norm_activation, norm_activation_backward, outer, times


def attend(v: Any, past: Any, A0: Any, decay: float, rate: float) -> Any:
    """Return A(t) v by equation (4), from h(1) .. h(t) and A(0): attention to past states, without the matrix A(t)."""
    result = decay ** len(past) * times(A0, v)
    for age, h in enumerate(reversed(past)):
        result = result + rate * decay**age * (h * v).sum(-1, keepdims=True) * h  # (4)
    return result


def inner_loop(
    a: Any, A: Any, params: dict[str, Any], inner_steps: int, activation: str, sustained_boundary: bool = True,
    normalize_preliminary: bool = False, np: Any = numpy,
) -> tuple[Any, Any]:  # fmt: skip
    """Return h(t+1) from a = W h(t) + C x(t) + b and A(t), and what backward needs."""
    h, saved = norm_activation(a, params, activation, normalize_preliminary, np)  # (2a), (F4)
    queries, saved_activations = [], [saved]
    for _ in range(inner_steps):
        z = times(A, h) + (a if sustained_boundary else h)  # (2), (F3); appendix B's method 1, or 2
        queries.append(h)
        h, saved = norm_activation(z, params, activation, True, np)  # (5), (F1), (F2)
        saved_activations.append(saved)
    return h, (A, queries, saved_activations)


def inner_loop_backward(
    dh: Any, saved: Any, params: dict[str, Any], activation: str, sustained_boundary: bool, grads: dict[str, Any]
) -> tuple[Any, Any]:  # fmt: skip
    """Return da, and dA of the reads of A(t); add the gradients of gain and bias to grads."""
    A, queries, saved_activations = saved
    da, dA = 0 * dh, 0 * A
    for s in reversed(range(len(queries))):
        # h_s+1 = f(LN[z])
        r = norm_activation_backward(dh, saved_activations[s + 1], params, activation, grads)  # (F1), (F2)
        # z = A h_s + a, or with method 2 z = A h_s + h_s                                                    (F3)
        dA = dA + outer(r, queries[s])
        dh = times(A.swapaxes(1, 2), r)
        if sustained_boundary:
            da = da + r
        else:
            dh = dh + r
    # h_0 = f(a), or f(LN[a])
    return da + norm_activation_backward(dh, saved_activations[0], params, activation, grads), dA  # (F4)


def forward(
    params: dict[str, Any], x: Any, h0: Any, A0: Any, decay: Any, rate: Any, inner_steps: int = 1, *,
    activation: str = "relu", sustained_boundary: bool = True, normalize_preliminary: bool = False, np: Any = numpy,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return h (T, B, H), A(T) (B, H, H), and what backward needs."""
    h, A, hs, saved = h0, A0, [], []
    for x_t in x:
        h_before = h
        a = h @ params["W"].T + x_t @ params["C"].T + params["b"]  # (F7), (F8), (L1)
        # h(t+1) from a and A(t), by (2) and (5)
        h, loop = inner_loop(a, A, params, inner_steps, activation, sustained_boundary, normalize_preliminary, np)
        saved.append((x_t, h_before, A, h, loop))
        A = decay * A + rate * outer(h, h)  # (1), (F5), (F6), (F9), (F10)
        hs.append(h)
    return np.stack(hs), A, saved


def backward(
    dhs: Any, saved: Any, params: dict[str, Any], decay: float, rate: float, *,
    activation: str = "relu", sustained_boundary: bool = True,
) -> tuple[dict[str, Any], Any, Any]:  # fmt: skip
    """Return (grads, dx, dh0) from dhs (T, B, H); grads also has the gradients of λ, η and A0."""
    grads = {name: 0 * value for name, value in params.items()} | {"decay": 0.0, "rate": 0.0}
    _, h0, A0, _, _ = saved[0]
    dh_next, G, dx = 0 * h0, 0 * A0, []  # of h(t+1), through W; G(t+1) = dL/dA(t+1)
    for dh, (x_t, h_before, A, h, loop) in zip(reversed(dhs), reversed(saved), strict=True):
        # A(t+1) = λ A(t) + η h hᵀ,   h = h(t+1)
        dh = dh + dh_next + rate * times(G + G.swapaxes(1, 2), h)  # (F6)
        grads["rate"] = grads["rate"] + (h * times(G, h)).sum()  # (F9)
        grads["decay"] = grads["decay"] + (G * A).sum()  # (F10)
        # h from a and A(t), by (2) and (5)
        da, dA = inner_loop_backward(dh, loop, params, activation, sustained_boundary, grads)
        G = decay * G + dA  # (F5)
        # a = W h(t) + C x(t) + b
        grads["W"] = grads["W"] + da.T @ h_before  # (F7)
        grads["C"] = grads["C"] + da.T @ x_t  # (L1)
        grads["b"] = grads["b"] + da.sum(0)
        dx.append(da @ params["C"])
        dh_next = da @ params["W"]  # (F7), and at last (F8)
    return grads | {"A0": G}, numpy.stack(dx[::-1]), dh_next  # (F8)
