"""Causal softmax attention with rotary positions, to all earlier steps or to a sliding window of them.

    q, k, v = Q x, K x, V x, for each head,   q and k rotated by the position's angles
    o(t) = Σ_j p_j v(j),   p = softmax_j(q(t)·k(j) / √p),   t - window < j <= t
    y = output o

A window is computed in blocks of queries, each with the keys of its own steps and of the `window` steps before them, so
that time and memory grow linearly with T. Numbers such as (R3) are in DERIVATION.md. T steps, B sequences, N heads.

Sources: Vaswani et al. 2017, arXiv 1706.03762, equation (1); rotary positions, Su et al. 2021, arXiv 2104.09864.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module
from .recurrent import Params
from .spans import Spans

__all__ = ["State", "backward", "final_state", "forward", "init", "initial_state", "step"]

BLOCK = 16  # queries in a block, at least
BASE = 10000.0  # pair j rotates by BASE^(-2 j / p) at each step
MODERATE = 60.0  # scores whose exp, and sums of it, neither overflow nor underflow in float32
NAMES = ("Q", "K", "V")


class State(NamedTuple):
    """The state between steps: rotated keys, and values, (B, n, d), of the last steps; and the next position."""

    keys: Array
    values: Array
    position: int


def init(rng: numpy.random.Generator, size: int, *, dtype: str = "float32") -> Params:
    """Return Q, K, V (d, d), normal with variance 1/d, and output (d, d), normal with variance 1/(4 d)."""
    checks.generator("rng", rng)
    checks.count("size", size, least=1)
    checks.choice("dtype", dtype, checks.FLOATS)
    params = {name: rng.standard_normal((size, size)) / size**0.5 for name in (*NAMES, "output")}
    params["output"] *= 0.5
    return {name: value.astype(dtype) for name, value in params.items()}


def forward(
    params: Params, x: Array, heads: int, window: int | None = None, resets: Array | None = None
) -> tuple[Array, Any]:  # fmt: skip
    """Return y (T, B, d) for x (T, B, d), and the cache.

    heads    N, which divides d into heads of an even size
    window   number of steps that a step attends to, itself included; None for all steps up to it
    resets   (T, B), True at the first step of each further document in a sequence, as in spans.py: a step attends to
             its own document alone
    """
    _check(params, x, heads, window, ("T", "B"))
    parts = Spans(x, None, resets).parts()
    xp, (steps, batch_size, size) = array_module(x=x, **params), x.shape
    x = batch_first(x)
    pad, L = (0, steps) if window is None or window >= steps else (window, max(BLOCK, window))
    count = -(-steps // L)
    # a block's keys are views: `pad` steps of zeros stand before the first block
    qkv = xp.empty((batch_size, pad + count * L, 3 * size), x.dtype)
    qkv[:, :pad] = 0
    qkv[:, pad + steps :] = 0
    xp.matmul(x, _stacked(params).T, out=qkv[:, pad : pad + steps])  # (L1)
    rotations = xp.asarray(_rotations(0, steps, size, heads, x.dtype.char))
    qkv.view(rotations.dtype)[:, pad : pad + steps, :size] *= rotations  # (R2)
    Q, K, V = _blocks(qkv, heads, pad, L)
    P = Q @ K.swapaxes(3, 4)  # (R5)
    moderate = xp is numpy and abs(P.max()) < MODERATE and abs(P.min()) < MODERATE
    P += xp.asarray(_mask(count, L, pad, window or steps, parts, x.dtype.char))
    if not moderate:
        P -= P.max(axis=-1, keepdims=True)
    xp.exp(P, out=P)
    scale = 1 / (P @ xp.ones((P.shape[-1], 1), P.dtype))  # 1 / the sums of rows: a product is faster than .sum
    o = xp.empty((batch_size, count * L, size), x.dtype)
    of_heads = _of_heads(o, heads, L)
    # the softmax is P · scale                                                                                (R3), (R4)
    xp.matmul(P, V, out=of_heads)
    of_heads *= scale
    y = o[:, :steps] @ params["output"].T  # (L1)
    return y.swapaxes(0, 1), (params, x, heads, window, pad, L, qkv, (Q, K, V), P, scale, o, parts is not None)


def backward(dy: Array, cache: Any) -> tuple[Params, Array]:
    """Return the gradients of the parameters, and dx (T, B, d), from dy (T, B, d)."""
    params, x, heads, _, pad, L, qkv, (Q, K, V), P, scale, o, _ = cache
    xp, (batch_size, steps, size) = array_module(dy=dy), x.shape
    dy = batch_first(dy)
    # y = output o                                                                                                  (L1)
    doutput = dy.reshape(-1, size).T @ o[:, :steps].reshape(-1, size)
    do = xp.empty_like(o)
    xp.matmul(dy, params["output"], out=do[:, :steps])
    do[:, steps:] = 0
    # o = Σ_j p_j v(j)                                                                                              (R3)
    dO, p = _of_heads(do, heads, L), size // heads
    along = (do * o).reshape(batch_size, -1, L, heads, p) @ xp.ones((p, 1), o.dtype)
    along = along.swapaxes(2, 3) * scale
    dO *= scale
    dS = dO @ V.swapaxes(3, 4)
    # p = softmax(s)                                                                                                (R4)
    dS -= along
    dS *= P
    # s = q·k                                                                                                       (R5)
    dqkv = xp.empty_like(qkv)
    dqkv[:, :pad] = 0
    dq, dk, dv = _split(dqkv)
    xp.matmul(dS, K, out=_of_heads(dq[:, pad:], heads, L))
    for whole, of_block in ((dk, dS.swapaxes(3, 4) @ Q), (dv, P.swapaxes(3, 4) @ dO)):
        _of_heads(whole[:, pad:], heads, L)[...] = of_block[..., pad:, :]
        if pad:  # the steps before a block belong to the block before it, too
            before = _of_heads(whole[:, : whole.shape[1] - pad], heads, L)[..., :pad, :]
            before += of_block[..., :pad, :]
    # q and k are rotated                                                                                           (R2)
    rotations = xp.asarray(_rotations(0, steps, size, heads, x.dtype.char))
    dqkv = xp.ascontiguousarray(dqkv[:, pad : pad + steps])
    dqkv.view(rotations.dtype)[:, :, :size] *= rotations.conj()
    # q, k, v = Q x, K x, V x                                                                                       (L1)
    dx, dstacked = ops.product_backward(dqkv, x, _stacked(params))
    grads = {name: dstacked[n * size : (n + 1) * size] for n, name in enumerate(NAMES)}
    return grads | {"output": doutput}, dx.swapaxes(0, 1)


def initial_state(params: Params, batch_size: int) -> State:
    """Return the state before the first step."""
    Q = params["Q"]
    empty = array_module(Q=Q).empty((batch_size, 0, len(Q)), Q.dtype)
    return State(empty, empty, 0)


def final_state(cache: Any) -> State:
    """Return the state after the last step of `forward`. Raises ValueError after a `forward` with resets."""
    _, x, _, window, pad, _, qkv, *_, documents = cache
    refuse_documents(documents)
    steps, size = x.shape[1:]
    kept = qkv[:, max(pad + steps - ((window or steps + 1) - 1), pad) : pad + steps]
    return State(kept[..., size : 2 * size].copy(), kept[..., 2 * size :].copy(), steps)


def step(params: Params, x: Array, state: State, heads: int, window: int | None = None) -> tuple[Array, State]:
    """Return y (B, d) and the next state, from x (B, d). Equals `forward` up to rounding error."""
    _check(params, x, heads, window, ("B",))
    xp, (batch_size, size) = array_module(x=x, **params), x.shape
    checks.shape("state.keys", state.keys[:, :0], (batch_size, 0, size), "a state of the same sequences")
    qkv = x @ _stacked(params).T
    rotations = xp.asarray(_rotations(state.position, 1, size, heads, x.dtype.char))
    qkv.view(rotations.dtype)[:, :size] *= rotations
    q, k, v = (qkv[:, None, n * size : (n + 1) * size] for n in range(3))
    keys, values = xp.concatenate([state.keys, k], axis=1), xp.concatenate([state.values, v], axis=1)
    Q, K, V = (each.reshape(*each.shape[:2], heads, -1).swapaxes(1, 2) for each in (q, keys, values))
    p = Q @ K.swapaxes(2, 3)
    p = xp.exp(p - p.max(axis=-1, keepdims=True))
    o = (p / p.sum(axis=-1, keepdims=True)) @ V
    first = 0 if window is None else max(0, keys.shape[1] - (window - 1))
    following = State(keys[:, first:], values[:, first:], state.position + 1)
    return o.reshape(batch_size, size) @ params["output"].T, following


def _check(params: Params, x: Array, heads: int, window: int | None, axes: tuple[str, ...]) -> None:
    """Raise ValueError or TypeError for arguments that do not fit one another."""
    checks.keys("params", params, (*NAMES, "output"))
    size = len(params["output"])
    checks.shape("x", x, (*axes, size), "a vector of size d for each step")
    checks.floating(x=x, **params)
    checks.count("heads", heads, least=1)
    if size % (2 * heads):
        raise ValueError(f"heads: expected heads of an even size, got size {size} and {heads} heads")
    if window is not None:
        checks.count("window", window, least=1)


def refuse_documents(documents: bool) -> None:
    """Raise ValueError if there were resets: the state would have steps of several documents."""
    if documents:
        raise ValueError(
            "final_state: expected a forward without resets, got one with resets; pass the last document of each "
            "sequence alone"
        )


def batch_first(x: Array) -> Array:
    """Return x (T, B, d) as a contiguous array (B, T, d): a view if x is itself such a view of one."""
    return array_module(x=x).ascontiguousarray(x.swapaxes(0, 1))


def _stacked(params: Params) -> Array:
    """Return Q, K and V one below the other, so that one product serves all three."""
    return array_module(Q=params["Q"]).concatenate([params[name] for name in NAMES])


def _of_heads(array: Array, heads: int, L: int) -> Array:
    """Return (B, C, N, L, p), a view, from (B, C L, d)."""
    batch_size, rows, size = array.shape
    return array.reshape(batch_size, rows // L, L, heads, size // heads).swapaxes(2, 3)


def _blocks(qkv: Array, heads: int, pad: int, L: int) -> tuple[Array, Array, Array]:
    """Return queries (B, C, N, L, p), keys and values (B, C, N, pad + L, p) of each block, which overlap: views."""
    windows, found = array_module(qkv=qkv).lib.stride_tricks.sliding_window_view, []
    for n, array in enumerate(_split(qkv)):
        if n and pad:
            of_steps = windows(array, pad + L, 1)[:, ::L]  # (B, C, d, pad + L)
            of_steps = of_steps.reshape(*of_steps.shape[:2], heads, -1, pad + L).swapaxes(3, 4)
        else:
            of_steps = _of_heads(array[:, pad:], heads, L)
        found.append(of_steps)
    return found[0], found[1], found[2]


def _split(qkv: Array) -> list[Array]:
    """Return q, k and v (B, ., d), views, from (B, ., 3 d)."""
    size = qkv.shape[-1] // 3
    return [qkv[:, :, n * size : (n + 1) * size] for n in range(3)]


@lru_cache(maxsize=64)
def _rotations(start: int, steps: int, size: int, heads: int, dtype: str) -> numpy.ndarray:
    """Return the complex numbers (T, d) that rotate pairs of entries of q and k. For q they include the factor 1/√p."""
    p = size // heads
    angles = numpy.arange(start, start + steps)[:, None] * BASE ** (-numpy.arange(0, p, 2) / p)
    rotations = numpy.tile(numpy.exp(1j * angles), heads)
    of_qk = numpy.concatenate([rotations / p**0.5, rotations], axis=1)
    return of_qk.astype("complex64" if dtype == "f" else "complex128")


def _mask(count: int, L: int, pad: int, window: int, parts: numpy.ndarray | None, dtype: str) -> numpy.ndarray:
    """Return 0 where a query attends to a key, else -inf: (C, 1, L, pad + L), or (B, C, 1, L, pad + L) with parts."""
    allowed = _allowed(count, L, pad, window)
    if parts is not None:
        filled = numpy.full((parts.shape[1], pad + count * L), -1)
        filled[:, pad : pad + len(parts)] = parts.T
        of_keys = numpy.stack([filled[:, c * L : c * L + pad + L] for c in range(count)], axis=1)
        allowed = allowed & (of_keys[:, :, None, pad:, None] == of_keys[:, :, None, None])
        allowed |= _allowed(count, L, pad, 1)  # a query of the padding attends to itself
    return numpy.where(allowed, 0, -numpy.inf).astype(dtype)


@lru_cache(maxsize=16)
def _allowed(count: int, L: int, pad: int, window: int) -> numpy.ndarray:
    """Return which keys (C, 1, L, pad + L) are at most `window - 1` steps before the query, and not before step 0."""
    t = numpy.arange(count * L).reshape(count, 1, L, 1)
    j = numpy.arange(count)[:, None] * L + numpy.arange(-pad, L)
    j = j[:, None, None]
    return (j <= t) & (j > t - window) & (j >= 0)
