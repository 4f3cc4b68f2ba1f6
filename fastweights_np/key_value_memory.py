"""A memory of keys and values, S(t), whose keys, values and queries do not depend on what is read from it.

    e(t) = v(t),  or with the delta rule  e(t) = v(t) - α(t) S(t-1) k(t)                                         (P7)
    S(t) = α(t) S(t-1) + β(t) e(t) k(t)ᵀ                                                                  (P6), (P8)
    o(t) = S(t) q(t)                                                                                             (P5)

With α = λ, β = η and v = k = q = h it is the memory of Ba et al. 2016, equation (1), except that o(t) also reads what
step t writes. Because nothing feeds back, all steps of a chunk are matrix products: DERIVATION.md, "A chunk at a time".
Time and memory grow linearly with T.

k, q (T, B, N, d_k), v, e, o (T, B, N, d_v), α, β (T, B, N), S (B, N, d_v, d_k): T steps, B sequences, N heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy

from . import checks
from .backend import Array, array_module
from .chunks import Decays, by_chunks, by_steps, inverse
from .threads import of_each
from .workspace import keep_freed_memory

__all__ = ["Cache", "Gradients", "backward", "final_state", "forward"]

CHUNK = 32  # steps in a chunk
FORGOTTEN = -1e3  # log α whose α is 0 in every dtype; sums of smaller ones would lose the digits of others


@dataclass
class BlockCache:
    """All that `_backward` depends on, for one block. Arrays of steps have the layout of chunks.py."""

    steps: int
    queries: Array
    keys: Array
    beta: Array | None  # (B, N, C, L, 1); None is 1
    decays: Decays
    scores: Array  # (B, N, C, L, L)  D ⊙ Q Kᵀ
    overlaps: Array | None  # D ⊙ K Kᵀ below the diagonal; None without the delta rule
    inverted: Array | None  # (I + overlaps diag(β))⁻¹
    errors: Array  # e
    writes: Array  # β e
    states: Array  # (C + 1, B, N, d_v, d_k)  S before each chunk, and after the last one
    written: Array | None  # (T, B, 1)  the option `writes`, as 0 or 1
    learned_decay: bool  # whether log α has a gradient


@dataclass
class Cache:
    """All that `backward` depends on: blocks of sequences and heads, which threads share."""

    blocks: list[tuple[slice, slice]]
    caches: list[BlockCache]
    threads: int
    shape: tuple[int, ...]  # of o


def forward(
    queries: Array, keys: Array, values: Array, state: Array | None = None, beta: Array | None = None,
    log_decay: Array | float = 0.0, *, delta: bool = False, writes: numpy.ndarray | None = None,
    parts: numpy.ndarray | None = None, chunk: int | None = None, threads: int = 1,
) -> tuple[Array, Cache]:  # fmt: skip
    """Return o (T, B, N, d_v) for all steps, and the cache that `backward` needs.

    queries, keys  (T, B, N, d_k)
    values         (T, B, N, d_v)
    state          S(0) (B, N, d_v, d_k); zero if None
    beta           β (T, B, N); None is 1
    log_decay      log α <= 0, (T, B, N), (1, 1, N) if it is the same at all steps, or a number; -inf clears S
    delta          whether e(t) is what is missing from the memory, by the delta rule, or v(t) itself
    writes         (T, B) booleans on the host: False where a step only reads. S does not change there
    parts          (T, B) integers on the host: the number of the document of a step, which grows from 0. S is zero
                   where one begins. The state belongs to document 0
    chunk          steps in a chunk; None is CHUNK
    threads        how many share the sequences, or their heads, here and in `backward`. Results agree up to rounding
                   error for every chunk and number of threads

    With the delta rule and β |k|² > 2, S itself grows without bound. Raises ValueError or TypeError for arrays that do
    not fit.
    """
    arrays = {"keys": keys, "queries": queries, "values": values} | checks.given(state=state, beta=beta)
    array_module(**arrays)
    checks.floating(**arrays)
    checks.shape("keys", keys, ("T", "B", "N", "d_k"), "they are (steps, sequences, heads, size)")
    steps, batch_size, heads, size = keys.shape
    checks.shape("queries", queries, keys.shape, "they have the shape of keys")
    checks.shape("values", values, (steps, batch_size, heads, "d_v"), "one for each key")
    if state is not None:
        checks.shape("state", state, (batch_size, heads, values.shape[-1], size), "a matrix for each sequence and head")
    if beta is not None:
        checks.shape("beta", beta, (steps, batch_size, heads), "one for each key")
    log_decay = _log_decay(log_decay, keys)
    checks.boolean("delta", delta)
    for name, array, dtypes in (("writes", writes, "b"), ("parts", parts, "iu")):
        if array is not None:
            checks.on_host(name, array, "booleans" if dtypes == "b" else "integers")
            checks.shape(name, array, (steps, batch_size), "one for each step of a sequence")
            if array.dtype.kind not in dtypes:
                raise TypeError(f"{name}: expected {'booleans' if dtypes == 'b' else 'integers'}, got {array.dtype}")
    if parts is not None and (parts.min() < 0 or (parts[1:] < parts[:-1]).any()):
        raise ValueError("parts: expected numbers of documents that grow from 0 in each sequence, got smaller ones")
    if chunk is not None:
        checks.count("chunk", chunk, least=1)
    checks.count("threads", threads, least=1)

    def of_block(block: tuple[slice, slice]) -> tuple[Array, BlockCache]:
        b, n = block
        logs = log_decay
        if not isinstance(logs, float):
            logs = logs[:, b if logs.shape[1] > 1 else slice(None), n]
        return _forward(
            queries[:, b, n], keys[:, b, n], values[:, b, n], None if state is None else state[b, n],
            None if beta is None else beta[:, b, n], logs, delta, None if writes is None else writes[:, b],
            None if parts is None else parts[:, b], chunk,
        )  # fmt: skip

    keep_freed_memory()
    blocks = _blocks(batch_size, heads, threads)
    outputs, caches = zip(*of_each(of_block, blocks, threads), strict=True)
    o = _joined(outputs, blocks, 1)
    return o, Cache(blocks, list(caches), threads, o.shape)


def _log_decay(log_decay: Array | float, keys: Array) -> Array | float:
    """Return log α, at least FORGOTTEN. Raise TypeError or ValueError unless it fits the keys and is at most 0."""
    steps, batch_size, heads, _ = keys.shape
    if isinstance(log_decay, int | float):
        checks.finite("log_decay", log_decay)
    else:
        xp = array_module(keys=keys, log_decay=log_decay)
        checks.floating(keys=keys, log_decay=log_decay)
        wanted = (1, 1, heads) if log_decay.shape[:2] == (1, 1) else (steps, batch_size, heads)
        checks.shape("log_decay", log_decay, wanted, "one for each key, or (1, 1, heads)")
    if isinstance(log_decay, int | float | numpy.ndarray):  # with a GPU's numbers, the host would have to wait
        largest = numpy.max(log_decay, initial=0)
        if largest > 0:
            raise ValueError(f"log_decay: expected at most 0, got {largest:g}; S would grow without bound")
    return max(float(log_decay), FORGOTTEN) if isinstance(log_decay, int | float) else xp.maximum(log_decay, FORGOTTEN)


def _blocks(batch_size: int, heads: int, threads: int) -> list[tuple[slice, slice]]:
    """Return a block of sequences, or of heads, for each thread, (B, N)."""
    of_sequences = batch_size >= threads
    size = batch_size if of_sequences else heads
    count = min(threads, size)
    cuts = [slice(*ends) for ends in pairwise(size * n // count for n in range(count + 1))]
    return [(cut, slice(None)) if of_sequences else (slice(None), cut) for cut in cuts]


def _joined(pieces: Sequence[Array], blocks: list[tuple[slice, slice]], axis: int) -> Array:
    """Return one array of the pieces of all blocks, whose axes of sequences and heads are `axis` and the next one."""
    if len(pieces) == 1:
        return pieces[0]
    cut = axis + (blocks[0][0] == slice(None))
    return array_module(piece=pieces[0]).concatenate(pieces, axis=cut)


def _forward(
    queries: Array, keys: Array, values: Array, state: Array | None, beta: Array | None, log_decay: Array | float,
    delta: bool, writes: numpy.ndarray | None, parts: numpy.ndarray | None, chunk: int | None,
) -> tuple[Array, BlockCache]:  # fmt: skip
    """Return what `forward` does, for one block."""
    xp = array_module(queries=queries, keys=keys, values=values)
    steps, batch_size, heads, size = keys.shape
    L = min(chunk or CHUNK, steps)
    learned, written = not isinstance(log_decay, float), None
    if writes is not None:
        written = xp.asarray(writes[:, :, None], keys.dtype)
        beta = written if beta is None else beta * written
    if parts is None and not learned and log_decay == 0:
        D = Decays.none(xp, L, keys.dtype)
    else:
        decaying = xp.ones((steps, 1, 1), keys.dtype) if written is None else written
        D = Decays.of(log_decay * decaying, parts, L, keys.dtype)
    Q, K, V = (by_chunks(each, L) for each in (queries, keys, values))
    b = None if beta is None else by_chunks(beta[..., None], L)
    S = xp.empty((Q.shape[2] + 1, batch_size, heads, values.shape[-1], size), keys.dtype)
    S[0] = 0 if state is None else state
    K_to_end, overlaps, inverted = _times(K, D.to_end), None, None

    if delta:
        overlaps = K @ K.swapaxes(3, 4)
        overlaps *= D.within
        _clear_diagonal(overlaps)
        inverted = inverse(_times(overlaps, None if b is None else b.swapaxes(3, 4)))
        K_before, E = _times(K, D.from_start), xp.empty_like(V)
        U = E if b is None else xp.empty_like(V)
        for c in range(len(S) - 1):
            # e = v - α S(t-1) k                                                                                    (P7)
            missing = V[:, :, c] - K_before[:, :, c] @ S[c].swapaxes(2, 3)
            xp.matmul(inverted[:, :, c], missing, out=E[:, :, c])
            if b is not None:
                xp.multiply(E[:, :, c], b[:, :, c], out=U[:, :, c])
            # S = α S(t-1) + β e kᵀ                                                                           (P6), (P8)
            xp.matmul(U[:, :, c].swapaxes(2, 3), K_to_end[:, :, c], out=S[c + 1])
            S[c + 1] += D.left(S[c], c)
    else:
        E, U = V, _times(V, b)
        # S = α S(t-1) + β v kᵀ                                                                               (P6), (P8)
        xp.matmul(U.swapaxes(3, 4), K_to_end, out=_in_layout(S[1:]))
        for c in range(len(S) - 1):
            S[c + 1] += D.left(S[c], c)
    # o = S q                                                                                                       (P5)
    scores = Q @ K.swapaxes(3, 4)
    scores *= D.within
    outputs = _times(Q, D.from_start) @ _in_layout(S[:-1]).swapaxes(3, 4)
    outputs += scores @ U
    cache = BlockCache(steps, Q, K, b, D, scores, overlaps, inverted, E, U, S, written, learned)
    return by_steps(outputs, steps), cache


class Gradients(NamedTuple):
    """The gradients of the arguments of `forward`; of beta and log_decay for all steps, (T, B, N)."""

    queries: Array
    keys: Array
    values: Array
    beta: Array | None  # None if it was None
    log_decay: Array | None  # None if it was a number
    state: Array


def backward(do: Array, cache: Cache, dstate: Array | None = None) -> Gradients:
    """Return the gradients from do (T, B, N, d_v), and dstate of the final S, None for zero.

    Raises ValueError or TypeError for gradients of another shape or dtype than o, or than the final S.
    """
    checks.instance("cache", cache, Cache, "forward returns it, as its second result")
    states = cache.caches[0].states
    arrays = {"keys": states, "do": do} | checks.given(dstate=dstate)
    array_module(**arrays)
    checks.floating(**arrays)
    checks.shape("do", do, cache.shape, "it has the shape of o")
    if dstate is not None:
        checks.shape("dstate", dstate, (*cache.shape[1:], states.shape[-1]), "it has the shape of the final S")

    def of_block(given: tuple[tuple[slice, slice], BlockCache]) -> Gradients:
        (b, n), of_cache = given
        return _backward(do[:, b, n], of_cache, None if dstate is None else dstate[b, n])

    blocks = cache.blocks
    parts = list(zip(blocks, cache.caches, strict=True))
    *of_steps, of_state = zip(*of_each(of_block, parts, cache.threads), strict=True)
    joined: list[Any] = [None if pieces[0] is None else _joined(pieces, blocks, 1) for pieces in of_steps]
    return Gradients._make([*joined, _joined(of_state, blocks, 0)])


def _backward(do: Array, cache: BlockCache, dstate: Array | None) -> Gradients:
    """Return what `backward` does, for one block."""
    Q, K, U, E, S, b, D = (
        cache.queries, cache.keys, cache.writes, cache.errors, cache.states, cache.beta, cache.decays
    )  # fmt: skip
    xp, dO, before = array_module(do=do), by_chunks(do, Q.shape[3]), _in_layout(S[:-1])
    dS = xp.empty_like(S)
    dS[-1] = 0 if dstate is None else dstate
    # o = S q                                                                                                       (P5)
    dscores = dO @ U.swapaxes(3, 4)
    of_pairs: Any = dscores * cache.scores if cache.learned_decay else None  # of D
    dscores *= D.within
    dU = cache.scores.swapaxes(3, 4) @ dO
    dO_before = _times(dO, D.from_start)
    dQ = dO_before @ before
    of_start: Any = _dot(dQ, Q) if cache.learned_decay else None  # of d
    dQ += dscores @ K
    xp.matmul(dO_before.swapaxes(3, 4), Q, out=_in_layout(dS[:-1]))
    # S = α S(t-1) + β e kᵀ,   and with the delta rule e = v - α S(t-1) k                               (P6), (P7), (P8)
    K_to_end = _times(K, D.to_end)
    if cache.inverted is not None:
        transposed, K_before, dE = cache.inverted.swapaxes(3, 4), _times(K, D.from_start), xp.empty_like(dO)
    for c in reversed(range(len(S) - 1)):
        dU[:, :, c] += K_to_end[:, :, c] @ dS[c + 1].swapaxes(2, 3)
        if cache.inverted is not None:
            xp.matmul(transposed[:, :, c], _times(dU[:, :, c], None if b is None else b[:, :, c]), out=dE[:, :, c])
            dS[c] -= dE[:, :, c].swapaxes(2, 3) @ K_before[:, :, c]
        dS[c] += D.left(dS[c + 1], c)
    after = _in_layout(dS[1:])
    dK = _times(U, D.to_end) @ after
    of_end: Any = _dot(dK, K) if cache.learned_decay else None  # of r
    dK += dscores.swapaxes(3, 4) @ Q
    if cache.inverted is not None:
        dV, overlaps = dE, cache.overlaps
        assert overlaps is not None
        doverlaps = dE @ U.swapaxes(3, 4)
        dK_before = _times(dE, D.from_start) @ before
        if cache.learned_decay:
            of_pairs -= doverlaps * overlaps
            of_start -= _dot(dK_before, K)
        doverlaps *= D.within
        _clear_diagonal(doverlaps)
        dK -= (doverlaps + doverlaps.swapaxes(3, 4)) @ K
        dK -= dK_before
        dU -= overlaps.swapaxes(3, 4) @ dE
    else:
        dV = _times(dU, b)
    dq, dk, dv = (by_steps(each, cache.steps) for each in (dQ, dK, dV))
    dbeta = None if b is None else _times(by_steps(_dot(dU, E), cache.steps)[..., 0], cache.written)
    dlog = None
    if cache.learned_decay:
        # exp of the sum of log α over some steps                                                                   (P8)
        of_whole = _times(xp.einsum("...vk,...vk->...", after, before)[..., None, None], D.whole)
        dlog = by_steps(_span_sums(of_pairs, of_start, of_end) + of_whole, cache.steps)[..., 0]
        dlog = _times(dlog, cache.written)
    return Gradients(dq, dk, dv, dbeta, dlog, dS[0].copy())


def _span_sums(of_pairs: Array, of_start: Array, of_end: Array) -> Array:
    """Return d log α(i) for each step i (B, N, C, L, 1): the sum over all products of decays that contain α(i).

    of_pairs (B, N, C, L, L)  of D_aj, which contains α(i) for j < i <= a
    of_start (B, N, C, L, 1)  of d_a, which contains α(i) for i <= a
    of_end   (B, N, C, L, 1)  of r_j, which contains α(i) for j < i
    """
    xp, L = array_module(of_pairs=of_pairs), of_pairs.shape[-1]
    not_after, before = (xp.asarray(numpy.tri(L, k=k), of_pairs.dtype) for k in (0, -1))  # (a, i) i <= a; (i, j) j < i
    pairs: Array = xp.einsum("...ai,ai->...i", of_pairs @ before.T, not_after)[..., None]
    return pairs + not_after.T @ of_start + before @ of_end


def final_state(cache: Cache) -> Array:
    """Return S after the last step (B, N, d_v, d_k), a new array."""
    return _joined([each.states[-1] for each in cache.caches], cache.blocks, 0).copy()


def _in_layout(states: Array) -> Array:
    """Return the states (C, B, N, d_v, d_k) in the layout of chunks.py, a view."""
    return states.transpose(1, 2, 0, 3, 4)


def _times(array: Array, factor: Array | None) -> Array:
    """Return their product; None is 1."""
    return array if factor is None else array * factor


def _dot(left: Array, right: Array) -> Array:
    """Return the products of the rows of two arrays (.., L, d), as (.., L, 1)."""
    dots: Array = array_module(left=left).einsum("...d,...d->...", left, right)[..., None]
    return dots


def _clear_diagonal(squares: Array) -> None:
    """Make the diagonal of squares (..., L, L) zero, in place."""
    n = array_module(squares=squares).arange(squares.shape[-1])
    squares[..., n, n] = 0
