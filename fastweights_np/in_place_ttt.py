"""In-Place Test-Time Training: an MLP whose down projection is written while a sequence is read.

    z(t) = hidden units of the MLP (gated_mlp.py)
    v(t) = target Σ_j kernel_j ⊙ source(t + j)           j in taps, e.g. -2 .. 2; without kernel, or target: 1
    y(t) = (down + S_i) z(t)                             for step t of chunk i: apply,
    S_i+1 = λ S_i + η Σ_{t in chunk i} v(t) z(t)ᵀ        then update;  S_0 = 0

It is the memory of Ba et al. 2016, equation (1), with keys and values apart, added to a slow matrix, and written once a
chunk. A step reads only what earlier chunks have written. Therefore v may contain later tokens of its own chunk, and
v(t) = source(t + 1) makes it predict the next token.

Source: In-Place Test-Time Training, 2026, arXiv 2604.06169. Not in the paper: λ < 1, and the tap +1 across the edge of
a chunk. T steps, B sequences, d inputs and outputs, F hidden units, J taps. Numbers such as (W1) are in DERIVATION.md.
plain/in_place_ttt.py has the same equations in plain lines.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from . import checks, gated_mlp, ops
from .attention import batch_first, refuse_documents
from .backend import Array, array_module
from .recurrent import Params
from .spans import Spans
from .targets import TAPS, Masks, Taps, init_target, targets, targets_backward

__all__ = [
    "TAPS", "Cache", "State", "backward", "final_state", "forward", "init", "init_target", "initial_state", "step",
]  # fmt: skip


class State(NamedTuple):
    """The state between steps: S (B, d, F), and z (B, n, F) and source (B, n, d) of the steps not yet written."""

    S: Array
    z: Array
    source: Array


class Options(NamedTuple):
    """The options of `forward` that `step` has, too."""

    decay: float
    rate: float
    taps: Taps
    clip: float | None


def init(
    rng: numpy.random.Generator, size: int, hidden_size: int, taps: Sequence[int] = TAPS, *, gated: bool = True,
    kernel: bool = True, target: bool = True, dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return the parameters of the MLP, and the learned parameters of the target.

    gated    whether z = silu(gate x) ⊙ (up x), else z = relu(up x)
    kernel   whether there is a kernel (J, d), zero: v = 0, so that the layer starts as the plain MLP. Without a kernel
             v has one tap, whose factor is 1
    target   whether there is a target (d, d), a diagonal of normal numbers with standard deviation 0.02. Without it, it
             is the identity
    """
    of_mlp = gated_mlp.init(rng, size, hidden_size, gated=gated, dtype=dtype)
    return of_mlp | init_target(rng, size, taps, kernel=kernel, target=target, dtype=dtype)


@dataclass
class Cache:
    """All that `backward` depends on. C chunks of L steps; only the first C - 1 are written, and the first reads 0."""

    params: Params
    options: Options
    from_input: bool  # whether source is x
    source: Array  # (B, T, d)
    of_hidden: Any
    z: Array  # (B, T, F)
    Z: Array  # (B, C, L, F)  z by chunks, filled up with zeros
    of_target: Any
    V: Array  # (B, C - 1, L, d)
    U: Array  # (B, C - 1, L, d)  η v
    S: Array  # (B, C - 1, d, F)  S before chunks 1 .. C - 1
    masks: Masks | None


def forward(
    params: Params, x: Array, source: Array | None = None, decay: float = 1.0, rate: float = 1.0, *, chunk: int = 16,
    taps: Sequence[int] = TAPS, across: bool = False, clip: float | None = None, resets: Array | None = None,
) -> tuple[Array, Cache]:  # fmt: skip
    """Return y (T, B, d) for x (T, B, d), and the cache that `backward` needs.

    source   (T, B, d): what the targets are made of, such as the token embeddings; None is x
    decay    λ in (0, 1], a chunk
    rate     η >= 0; with 0, y is the output of the plain MLP
    chunk    L, steps in a chunk. An incomplete last chunk is read, and not written
    taps     the distances j of the steps that v(t) is made of; one for each row of kernel. Steps outside the chunk of t
             count as zeros
    across   whether the tap +1 reaches the first step of the next chunk. The write stays causal: that step reads it
    clip     largest norm of what a chunk writes, ‖η Σ v zᵀ‖; for inference alone
    resets   (T, B), True at the first step of each further document in a sequence: S is zero there, and no tap reaches
             another document. Chunks stay where they are: a document is as it is alone if it begins where a chunk does

    Padding at the end of a sequence needs no option: no output before it depends on it.
    """
    options = _checked(params, decay, rate, chunk, taps, across, clip)
    checks.shape("x", x, ("T", "B", len(params["down"])), "x is (steps, sequences, size)")
    if source is not None:
        checks.shape("source", source, x.shape, "a vector for each step of x")
    xp, (steps, batch_size, size), L = array_module(x=x, **params), x.shape, options.taps.chunk
    parts, from_input = Spans(x, None, resets).parts(), source is None
    masks = None if parts is None else Masks.of(xp, parts, options.taps, x.dtype)
    x = batch_first(x)
    source = x if source is None else batch_first(source)
    count = -(-steps // L)
    z, of_hidden = gated_mlp.hidden(params, x)
    y = ops.linear(z, params["down"])
    Z = z
    if steps % L:
        Z = xp.zeros((batch_size, count * L, z.shape[-1]), z.dtype)
        Z[:, :steps] = z
    Z = Z.reshape(batch_size, count, L, -1)
    V, of_target = targets(params, source, options.taps, count - 1, masks)
    U = options.rate * V  # (W2)
    if masks is not None:
        U = U * masks.to_end
    # S_i+1 = λ S_i + Σ_t u(t) z(t)ᵀ                                                                                (W3)
    S = U.swapaxes(2, 3) @ Z[:, :-1]
    S = _clipped(S, options.clip)
    for c in range(1, count - 1):
        S[:, c] += _kept(options, masks, c) * S[:, c - 1]
    # y = (down + S_i) z                                                                                            (W4)
    if count > 1:
        read = Z[:, 1:] @ S.swapaxes(2, 3)
        if masks is not None:
            read *= masks.from_start
        y[:, L:] += read.reshape(batch_size, -1, size)[:, : steps - L]
    return y.swapaxes(0, 1), Cache(params, options, from_input, source, of_hidden, z, Z, of_target, V, U, S, masks)


def backward(dy: Array, cache: Cache, extra: Collection[str] = ()) -> tuple[Params, Array, Array]:
    """Return (grads, dx, dsource) from dy (T, B, d). It overwrites the cache.

    grads has the keys of params, and "rate" for dη if extra contains it. If source was None, dx includes its gradient,
    and dsource is 0.
    """
    params, options, masks, Z, U, S = cache.params, cache.options, cache.masks, cache.Z, cache.U, cache.S
    if options.clip is not None:
        raise ValueError(f"clip: expected None for a gradient, got {options.clip}; clip at inference alone")
    xp, (batch_size, count, L, _), (_, steps, size) = array_module(dy=dy), Z.shape, cache.source.shape
    dy = batch_first(dy)
    # y = (down + S_i) z                                                                                            (W4)
    dz, ddown = ops.product_backward(dy, cache.z, params["down"])
    dO = dy[:, L:]
    if steps % L:
        dO = xp.zeros((batch_size, (count - 1) * L, size), dy.dtype)
        dO[:, : steps - L] = dy[:, L:]
    dO = dO.reshape(batch_size, count - 1, L, size)
    if masks is not None:
        dO = dO * masks.from_start
    dS = dO.swapaxes(2, 3) @ Z[:, 1:]
    # S_i+1 = λ S_i + Σ_t u(t) z(t)ᵀ                                                                          (W3), (W5)
    for c in reversed(range(1, count - 1)):
        dS[:, c - 1] += _kept(options, masks, c) * dS[:, c]
    if count > 1:
        dz[:, L:] += (dO @ S).reshape(batch_size, -1, Z.shape[-1])[:, : steps - L]
        dz[:, : (count - 1) * L] += (U @ dS).reshape(batch_size, -1, Z.shape[-1])
    dU = Z[:, :-1] @ dS.swapaxes(2, 3)
    if masks is not None:
        dU *= masks.to_end
    grads: Any = {}
    if "rate" in extra:
        grads["rate"] = (dU * cache.V).sum()  # (W2)
    # u = η v                                                                                                       (W2)
    dU *= options.rate
    of_targets, dsource = targets_backward(dU, cache.of_target)
    of_mlp, dx = gated_mlp.hidden_backward(dz, cache.of_hidden)
    if cache.from_input:
        dx += dsource
        dsource = xp.zeros_like(dsource)
    grads |= of_mlp | of_targets | {"down": ddown}
    return {name: grads[name] for name in (*params, *extra)}, dx.swapaxes(0, 1), dsource.swapaxes(0, 1)


def initial_state(params: Params, batch_size: int) -> State:
    """Return the state before the first step: nothing is written."""
    down = params["down"]
    xp, (size, hidden_size) = array_module(down=down), down.shape
    shapes = (batch_size, size, hidden_size), (batch_size, 0, hidden_size), (batch_size, 0, size)
    return State(*(xp.zeros(shape, down.dtype) for shape in shapes))


def final_state(cache: Cache) -> State:
    """Return the state after the last step of `forward`. The last chunk, even if complete, is not yet written.

    Raises ValueError after a `forward` with resets.
    """
    refuse_documents(cache.masks is not None)
    xp, S, written = array_module(z=cache.z), cache.S, cache.S.shape[1] * cache.options.taps.chunk
    S = S[:, -1].copy() if S.shape[1] else xp.zeros((len(S), *S.shape[2:]), S.dtype)
    return State(S, cache.z[:, written:].copy(), cache.source[:, written:].copy())


def step(
    params: Params, x: Array, source: Array | None, state: State, decay: float = 1.0, rate: float = 1.0, *,
    chunk: int = 16, taps: Sequence[int] = TAPS, across: bool = False, clip: float | None = None,
) -> tuple[Array, State]:  # fmt: skip
    """Return y (B, d) and the next state, from x and source (B, d). Options as in `forward`, which it equals.

    A chunk is written at the first step after it. All sequences are at the same step.
    """
    options = _checked(params, decay, rate, chunk, taps, across, clip)
    xp, (S, tail, sources) = array_module(x=x, **params), state
    source = x if source is None else source
    if tail.shape[1] > chunk:
        raise ValueError(
            f"state: expected at most chunk, {chunk}, steps that are not yet written, got {tail.shape[1]}; pass the "
            "chunk that the state was made with"
        )
    if tail.shape[1] == chunk:
        # S_i+1 = λ S_i + η Σ_t v(t) z(t)ᵀ                                                                          (W3)
        V, _ = targets(params, xp.concatenate([sources, source[:, None]], axis=1), options.taps, 1)
        S = options.decay * S + _clipped(options.rate * V[:, 0].swapaxes(1, 2) @ tail, options.clip)
        tail, sources = tail[:, :0], sources[:, :0]
    z, _ = gated_mlp.hidden(params, x)
    y = z @ params["down"].T + (S @ z[:, :, None])[:, :, 0]  # (W4)
    return y, State(S, xp.concatenate([tail, z[:, None]], 1), xp.concatenate([sources, source[:, None]], 1))


def _clipped(writes: Array, clip: float | None) -> Array:
    """Return what chunks write (..., d, F), scaled down to a norm of clip where it is larger; None is no limit."""
    if clip is None:
        return writes
    xp = array_module(writes=writes)
    norm = xp.square(writes, dtype="float64").sum(axis=(-2, -1), keepdims=True) ** 0.5  # does not overflow for float32
    return writes * (clip / xp.maximum(norm, clip)).astype(writes.dtype)


def _kept(options: Options, masks: Masks | None, c: int) -> Any:
    """Return how much of what is written before chunk c is left after it."""
    return options.decay if masks is None else options.decay * masks.whole[:, c]


def _checked(
    params: Params, decay: float, rate: float, chunk: int, taps: Sequence[int], across: bool, clip: float | None
) -> Options:  # fmt: skip
    """Return the options. Raise ValueError or TypeError for one that does not fit the others or the parameters."""
    checks.keys("params", params, ("up", "down"), ("gate", "kernel", "target"))
    checks.not_negative("rate", rate)
    checks.fraction("decay", decay)
    if not decay:
        raise ValueError("decay: expected a number above 0, got 0; S would be lost after each chunk")
    if clip is not None:
        checks.finite("clip", clip)
        if clip <= 0:
            raise ValueError(f"clip: expected a number above 0, got {clip}; rate=0 writes nothing")
    return Options(decay, rate, Taps.checked(params, taps, chunk, across), clip)
