"""The IRNN (Le, Jaitly, Hinton 2015) and its gradients, as plainly as they can be written.

    h(t+1) = f(LN[z]),   z = W h(t) + C x(t) + b;   without layer norm f(z)

x (T, B, I), h (T, B, H): T steps, B sequences, I inputs, H units. (I1) and on are in DERIVATION.md.
"""

from __future__ import annotations

from typing import Any

import numpy

from .ops import norm_activation, norm_activation_backward


def forward(
    params: dict[str, Any], x: Any, h0: Any, *, activation: str = "relu", np: Any = numpy
) -> tuple[Any, Any]:  # fmt: skip
    """Return h (T, B, H) from x (T, B, I) and h0 (B, H), and what backward needs."""
    h, hs, saved = h0, [], []
    for x_t in x:
        h_before = h
        z = h @ params["W"].T + x_t @ params["C"].T + params["b"]  # (I2), (F7), (L1)
        h, activated = norm_activation(z, params, activation, True, np)  # (I1)
        saved.append((x_t, h_before, activated))
        hs.append(h)
    return np.stack(hs), saved


def backward(
    dhs: Any, saved: Any, params: dict[str, Any], *, activation: str = "relu"
) -> tuple[dict[str, Any], Any, Any]:  # fmt: skip
    """Return (grads, dx, dh0) from dhs (T, B, H)."""
    grads = {name: 0 * value for name, value in params.items()}
    dh_next, dx = 0 * saved[0][1], []
    for dh, (x_t, h_before, activated) in zip(reversed(dhs), reversed(saved), strict=True):
        # h(t+1) = f(LN[z])
        dz = norm_activation_backward(dh + dh_next, activated, params, activation, grads)  # (I1)
        # z = W h(t) + C x(t) + b
        grads["W"] = grads["W"] + dz.T @ h_before  # (F7)
        grads["C"] = grads["C"] + dz.T @ x_t  # (L1)
        grads["b"] = grads["b"] + dz.sum(0)
        dx.append(dz @ params["C"])
        dh_next = dz @ params["W"]  # (I2)
    return grads, numpy.stack(dx[::-1]), dh_next
