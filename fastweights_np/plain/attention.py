"""Causal softmax attention with rotary positions, and its gradient, as plainly as they can be written.

    q(t), k(t) = R(t) Q x(t), R(t) K x(t),   v(t) = V x(t)
    o(t) = Σ_j w_tj v(j),   w_t = softmax_j(q(t)·k(j) / √p),   t - window < j <= t
    y(t) = output o(t)

for N heads of size p; R(t) rotates each pair of entries. x, y (T, B, d), q, k, v, o (T, B, N, p), w (B, N, T, T),
row t, column j. (R2) and on are in DERIVATION.md. Sources: see the fast layer.
"""

from __future__ import annotations

from typing import Any

import numpy

BASE = 10000.0


def rotate(q: Any, sign: int, np: Any = numpy) -> Any:
    """Return R(t) q(t), or for sign -1 the inverse: a rotation of entries 2j and 2j+1 by the angle t BASE^(-2j / p)."""
    steps, _, _, p = q.shape
    angles = numpy.arange(steps)[:, None] * BASE ** (-numpy.arange(0, p, 2) / p)
    c, s = numpy.cos(angles)[:, None, None], sign * numpy.sin(angles)[:, None, None]
    first, second = q[..., 0::2], q[..., 1::2]
    return np.stack([c * first - s * second, s * first + c * second], -1).reshape(q.shape)  # (R2)


def forward(params: dict[str, Any], x: Any, heads: int, window: int | None, np: Any = numpy) -> tuple[Any, Any]:
    """Return y, and what backward needs."""
    t, shape = numpy.arange(len(x)), (*x.shape[:2], heads, -1)
    allowed = (t <= t[:, None]) & (t > t[:, None] - (window or len(x)))
    q, k, v = (np.dot(x, params[name].T).reshape(shape) for name in ("Q", "K", "V"))  # (L1)
    q, k = rotate(q, 1, np), rotate(k, 1, np)
    s = np.einsum("tbnp,jbnp->bntj", q, k) / q.shape[-1] ** 0.5  # (R5)
    e = np.exp(s) * allowed
    w = e / np.sum(e, -1, keepdims=True)  # (R4)
    o = np.einsum("bntj,jbnp->tbnp", w, v)  # (R3)
    return np.dot(o.reshape(x.shape), params["output"].T), (x, q, k, v, w, o)


def backward(dy: Any, saved: Any, params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the gradients of the parameters, and dx."""
    x, q, k, v, w, o = saved
    # y = output o
    grads = {"output": numpy.einsum("tbi,tbj->ij", dy, o.reshape(x.shape))}  # (L1)
    do = (dy @ params["output"]).reshape(o.shape)
    # o(t) = Σ_j w_tj v(j)
    dw, dv = numpy.einsum("tbnp,jbnp->bntj", do, v), numpy.einsum("bntj,tbnp->jbnp", w, do)  # (R3)
    # w = softmax(s)
    ds = w * (dw - (dw * w).sum(-1, keepdims=True))  # (R4)
    # s_tj = q(t)·k(j) / √p
    ds = ds / q.shape[-1] ** 0.5
    dq, dk = numpy.einsum("bntj,jbnp->tbnp", ds, k), numpy.einsum("bntj,tbnp->jbnp", ds, q)  # (R5)
    # q(t) = R(t) Q x(t),   k(t) = R(t) K x(t),   v(t) = V x(t)
    dx = 0
    for name, d in (("Q", rotate(dq, -1)), ("K", rotate(dk, -1)), ("V", dv)):  # (R2)
        d = d.reshape(x.shape)
        grads[name] = numpy.einsum("tbi,tbj->ij", d, x)  # (L1)
        dx = dx + d @ params[name]
    return grads, dx
