"""Softmax attention, the baseline of the memories: its weights, and their gradients.

    w = softmax(q·k / √p)

Keys k (B, T, p), queries q (B, N, p), weights w (B, N, T). Source: Vaswani et al. 2017, arXiv 1706.03762, equation (1).
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

from fastweights_np.backend import Array, array_module


def weights(k: Array, q: Array, causal: bool = False) -> tuple[Array, Any]:
    """Return the weights, and the cache. If causal, N is T, and w[:, n, t] is 0 for t > n."""
    xp = array_module(k=k, q=q)
    scores = q @ k.swapaxes(1, 2)
    scores /= sqrt(k.shape[-1])
    if causal:
        steps = xp.arange(k.shape[1])
        steps = xp.arange(k.shape[1])
        scores = xp.where(steps[:, None] < steps, xp.full_like(scores, -inf), scores)
    scores -= scores.max(-1, keepdims=True)
    w = xp.exp(scores, out=scores)
    w /= w.sum(-1, keepdims=True)
    return w, (k, q, w)


def weights_backward(dw: Array, cache: Any) -> tuple[Array, Array]:
    """Return (dk, dq) from dw."""
    k, q, w = cache
    # w = exp(scores) / Σ exp(scores)
    dscores = w * (dw - (w * dw).sum(-1, keepdims=True))
    # scores = q·k / √p
    dscores /= sqrt(k.shape[-1])
    return dscores.swapaxes(1, 2) @ q, dscores @ k
