"""The multi-level layer of figure 3 of Ba et al. 2016, and its gradients, as plainly as they can be written.

    a(t+1) = U h'(t) + C x(t) + b,   U = V where integrate(t), else W
    h(t+1) from a(t+1) and A(t) by (2) and (5) where read(t), else f(LN[a(t+1)])
    A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ where store(t), else A(t)
    h'(t+1) = 0 where wipe(t), else h(t+1)

x (T, B, I), h (T, B, H), A (B, H, H): T steps, B sequences, I inputs, H units. (V1) and on are in DERIVATION.md.
"""

from __future__ import annotations

from typing import Any

import numpy

from .fast_weights import inner_loop, inner_loop_backward
from .ops import norm_activation, norm_activation_backward, outer, times


def forward(
    params: dict[str, Any], x: Any, h0: Any, A0: Any, decay: Any, rate: Any, inner_steps: int = 1, *, controls: Any,
    activation: str = "relu", normalize_preliminary: bool = False, np: Any = numpy,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return h (T, B, H) before wipes, A(T) (B, H, H), and what backward needs."""
    h, A, hs, saved = h0, A0, [], []
    for t, x_t in enumerate(x):
        h_before, U = h, "V" if controls.integrate[t] else "W"
        a = h @ params[U].T + x_t @ params["C"].T + params["b"]  # (V3), (L1)
        if controls.read[t]:
            h, step = inner_loop(a, A, params, inner_steps, activation, True, normalize_preliminary, np)  # (2), (5)
        else:
            h, step = norm_activation(a, params, activation, True, np)  # (V2)
        saved.append((x_t, U, h_before, A, h, step))
        hs.append(h)
        if controls.store[t]:
            A = decay * A + rate * outer(h, h)  # (1), (V1)
        if controls.wipe[t]:
            h = 0 * h  # (V3)
    return np.stack(hs), A, saved


def backward(
    dhs: Any, saved: Any, params: dict[str, Any], decay: float, rate: float, *, controls: Any,
    activation: str = "relu",
) -> tuple[dict[str, Any], Any, Any]:  # fmt: skip
    """Return (grads, dx, dh0) from dhs (T, B, H); grads also has the gradients of λ, η and A0."""
    grads = {name: 0 * value for name, value in params.items()} | {"decay": 0.0, "rate": 0.0}
    _, _, h0, A0, _, _ = saved[0]
    dh_next, G, dx = 0 * h0, 0 * A0, []  # of h'(t+1), through U; G(t+1) = dL/dA(t+1)
    for t in reversed(range(len(saved))):
        x_t, U, h_before, A, h, step = saved[t]
        # h'(t+1) = 0 where the step wipes
        dh = dhs[t] + (0 if controls.wipe[t] else dh_next)  # (V3)
        if controls.store[t]:
            # A(t+1) = λ A(t) + η h hᵀ
            dh = dh + rate * times(G + G.swapaxes(1, 2), h)  # (F6)
            grads["rate"] = grads["rate"] + (h * times(G, h)).sum()  # (F9)
            grads["decay"] = grads["decay"] + (G * A).sum()  # (F10)
            G = decay * G  # (F5)
        if controls.read[t]:
            # h from a and A(t), by (2) and (5)
            da, dA = inner_loop_backward(dh, step, params, activation, True, grads)
            G = G + dA  # (V1)
        else:
            # h = f(LN[a])
            da = norm_activation_backward(dh, step, params, activation, grads)  # (V2)
        # a = U h'(t) + C x(t) + b
        grads[U] = grads[U] + da.T @ h_before  # (V3)
        grads["C"] = grads["C"] + da.T @ x_t  # (L1)
        grads["b"] = grads["b"] + da.sum(0)
        dx.append(da @ params["C"])
        dh_next = da @ params[U]  # (V3), and at last (F8)
    return grads | {"A0": G}, numpy.stack(dx[::-1]), dh_next  # (F8)
