"""Read a memory of T keys and values by a few queries, after the last write; and read them by softmax attention.

What a query q reads is a weighted sum of the values, y = Σ_t w_t v_t, for every write rule:

    sum, decay   W ← λ W + v kᵀ                   w_t = λ^(T-t) k_t·q / (Σ_s λ^(T-s) k_s·q + ε)
    delta        W ← W + β (v - W k) kᵀ           w_t = β_t k_t·q_t,  q_T = q,  q_(t-1) = q_t - w_t k_t
    gated_delta  W ← γ W + β (v - γ W k) kᵀ       w_t = β_t k_t·q_t,  q_T = q,  q_(t-1) = γ_t (q_t - w_t k_t)
    softmax      no memory                        w = softmax(k·q / √p)

β and γ are sigmoids of each pair's logits. For delta and gated_delta, the entries of each k and q have to sum to 1.

The weights need no array of values x keys: for one query they cost a fraction of the memory itself. Shapes: keys k
(B, T, p), queries q (B, N, p), weights w (B, N, T), logits (B, T, G). λ is a number, 1 for a sum that keeps everything.
A forward returns w and a cache. A backward returns dk, dq, dlogits and dλ. Above each backward line stands the forward
line that it inverts.

Source: Schlag, Irie, Schmidhuber 2021, arXiv 2102.11174, sections 3 and 4, and the published code.
"""

from __future__ import annotations

from typing import Any

from fastweights_np.backend import Array, array_module

from . import attention

EPSILON = 1e-6  # in the published code
GATES = {"delta": 1, "gated_delta": 2}  # G, the logits that a rule takes of each pair
RULES = ("sum", "decay", "delta", "gated_delta", "softmax")


def forward(rule: str, k: Array, q: Array, logits: Array, decay: float = 1.0) -> tuple[Array, Any]:
    """Return the weights of a rule, and the cache."""
    if rule == "softmax":
        w, cache = attention.weights(k, q)
    elif rule in GATES:
        w, cache = _erased(k, q, logits)
    else:
        w, cache = _decayed(k, q, decay)
    return w, (rule, logits, cache)


def backward(dw: Array, cache: Any) -> tuple[Array, Array, Array, Array]:
    """Return dk, dq, dlogits and dλ; the last two are zero where the rule has none."""
    rule, logits, own = cache
    dlogits, ddecay = 0 * logits, 0 * dw[0, 0, 0]
    if rule == "softmax":
        dk, dq = attention.weights_backward(dw, own)
    elif rule in GATES:
        dk, dq, dlogits = _erased_backward(dw, own)
    else:
        dk, dq, ddecay = _decayed_backward(dw, own)
    return dk, dq, dlogits, ddecay


def _decayed(k: Array, q: Array, decay: float) -> tuple[Array, Any]:
    xp = array_module(k=k, q=q)
    age = xp.arange(k.shape[1] - 1, -1, -1, dtype=k.dtype)
    scores = q @ k.swapaxes(1, 2)
    kept = decay**age * scores
    total = kept.sum(-1, keepdims=True) + EPSILON
    w = kept / total
    return w, (k, q, decay, age, scores, total, w)


def _decayed_backward(dw: Array, cache: Any) -> tuple[Array, Array, Array]:
    k, q, decay, age, scores, total, w = cache
    # w = kept / total, total = Σ kept + ε
    dkept = (dw - (w * dw).sum(-1, keepdims=True)) / total
    # kept = λ^age scores
    dscores = decay**age * dkept
    ddecay = (dkept * scores * age * decay ** (age - (age > 0))).sum()
    # scores = q kᵀ
    return dscores.swapaxes(1, 2) @ q, dscores @ k, ddecay


def _erased(k: Array, q: Array, logits: Array) -> tuple[Array, Any]:
    xp = array_module(k=k, q=q, logits=logits)
    T, (B, N, p) = k.shape[1], q.shape
    gates = 0.5 + 0.5 * xp.tanh(logits / 2)  # the sigmoid, which does not overflow in this form
    keys = xp.ascontiguousarray(k.swapaxes(0, 1))[:, :, None]  # (T, B, 1, p)
    w, left, reads = xp.empty((T, B, N, 1), q.dtype), xp.empty_like(q), xp.empty((T + 1, B, N, p), q.dtype)
    reads[T] = q
    for t in range(T - 1, -1, -1):
        k_t, q_t = keys[t], reads[t + 1]
        xp.multiply(gates[:, t, 0, None, None], q_t @ k_t.swapaxes(1, 2), out=w[t])
        xp.subtract(q_t, xp.multiply(w[t], k_t, out=left), out=reads[t])
        if gates.shape[-1] > 1:
            reads[t] *= gates[:, t, 1, None, None]
    return w[..., 0].transpose(1, 2, 0), (keys, gates, w, reads)


def _erased_backward(dw: Array, cache: Any) -> tuple[Array, Array, Array]:
    keys, gates, w, reads = cache
    xp, T = array_module(keys=keys), len(w)
    dgates, dk, dq = xp.empty_like(gates), xp.empty_like(keys), xp.zeros_like(reads[0])
    dws = xp.ascontiguousarray(dw.transpose(2, 0, 1))[..., None]
    for t in range(T):
        k_t, q_t, w_t, strength = keys[t], reads[t + 1], w[t], gates[:, t, 0, None, None]
        if gates.shape[-1] > 1:
            # q_(t-1) = γ_t (q_t - w_t k_t)
            dgates[:, t, 1] = (dq * (q_t - w_t * k_t)).sum((1, 2))
            dq *= gates[:, t, 1, None, None]
        # q_(t-1) = q_t - w_t k_t
        dw_t = dws[t] - dq @ k_t.swapaxes(1, 2)
        # w_t = β_t k_t·q_t
        dgates[:, t, 0] = (dw_t * (q_t @ k_t.swapaxes(1, 2))).sum((1, 2))
        dw_t *= strength
        xp.subtract(dw_t.swapaxes(1, 2) @ q_t, w_t.swapaxes(1, 2) @ dq, out=dk[t])
        dq += dw_t * k_t
    return dk[:, :, 0].swapaxes(0, 1), dq, dgates * gates * (1 - gates)
