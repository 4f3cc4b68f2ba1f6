"""Chunks of steps, for a memory whose keys do not depend on what is read from it: what all chunks need at once.

Arrays of steps (T, B, N, d) are laid out by chunks, (B, N, C, L, d): B sequences, N heads, C chunks of L steps. The
last chunk is filled up with zeros.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy

from .backend import Array, array_module


def by_chunks(array: Array, chunk: int) -> Array:
    """Return (B, N, C, L, d), a new array, from (T, B, N, d); L = chunk."""
    xp = array_module(array=array)
    steps, batch_size, heads, size = array.shape
    count = -(-steps // chunk)
    laid_out = xp.empty((batch_size, heads, count * chunk, size), array.dtype)
    laid_out[:, :, :steps] = array.transpose(1, 2, 0, 3)
    laid_out[:, :, steps:] = 0
    return laid_out.reshape(batch_size, heads, count, chunk, size)


def by_steps(array: Array, steps: int) -> Array:
    """Return (T, B, N, d), a view, from (B, N, C, L, d); T = steps."""
    batch_size, heads, count, chunk, size = array.shape
    return array.reshape(batch_size, heads, count * chunk, size)[:, :, :steps].transpose(2, 0, 1, 3)


class Decays(NamedTuple):
    """How much is left of one step's S in another's: the product of the α in between, 0 if a reset lies in between.

    B and N are 1 where all sequences, or all heads, have the same. None is 1 everywhere.
    """

    within: Array  # (B, N, C, L, L)  of step j in step i >= j of the chunk; 0 for j > i
    from_start: Array | None  # (B, N, C, L, 1)  of the S before the chunk in step i
    to_end: Array | None  # (B, N, C, L, 1)  of step j in the last step of the chunk
    whole: Array | None  # (B, N, C, 1, 1)  of the S before the chunk in the last step

    @classmethod
    def none(cls, xp: ModuleType, chunk: int, dtype: Any) -> Decays:
        """Return the decays of a memory without decay and without resets."""
        return cls(xp.asarray(numpy.tri(chunk), dtype), None, None, None)

    @classmethod
    def of(cls, log_decay: Array, parts: numpy.ndarray | None, chunk: int, dtype: Any) -> Decays:
        """Return the Decays, from log α (T, B, N) <= 0 and the number of the document of each step (T, B), on the host.

        Everything is the exp of a difference of sums of log α, which is at most 0: nothing overflows, and no α is
        divided by. The sums are float64, because a difference of large sums loses digits.
        """
        xp = array_module(log_decay=log_decay)
        logs = by_chunks(log_decay.astype("float64")[..., None], chunk)[..., 0]
        sums: Array = logs @ xp.asarray(numpy.triu(numpy.ones((chunk, chunk))))  # log α(1) + .. + log α(i)
        last = sums[..., -1:]
        between = xp.minimum((sums[..., :, None] - sums[..., None, :]).astype(dtype), 0)
        decays = (between, sums[..., None], (last - sums)[..., None], last[..., None])
        exps = (xp.exp(each.astype(dtype)) for each in decays)
        return cls(*(each * mask for each, mask in zip(exps, _same_document(xp, parts, chunk, dtype), strict=True)))

    def left(self, state: Array, c: int) -> Array:
        """Return what is left of the S before chunk c in its last step. The gradient of S decays by the same factor."""
        return state if self.whole is None else self.whole[:, :, c] * state


def _same_document(xp: ModuleType, parts: numpy.ndarray | None, chunk: int, dtype: Any) -> list[Array]:
    """Return for each field of Decays whether its two steps belong to the same document, as 0 or 1."""
    # S is zero before a reset: nothing is left of what was written before it                                       (S1)
    lower = numpy.tri(chunk, dtype=bool)
    if parts is None:
        masks = [lower, *(numpy.ones(1, bool) for _ in range(3))]
    else:
        missing = -len(parts) % chunk
        filled = numpy.concatenate([parts, *[parts[-1:]] * missing]).T.reshape(parts.shape[1], 1, -1, chunk)
        last = filled[..., -1:]
        before = numpy.concatenate([numpy.zeros_like(last[:, :, :1]), last[:, :, :-1]], axis=2)
        masks = [
            (filled[..., :, None] == filled[..., None, :]) & lower, (filled == before)[..., None],
            (filled == last)[..., None], (before == last)[..., None],
        ]  # fmt: skip
    return [xp.asarray(mask, dtype) for mask in masks]


def inverse(lower: Array) -> Array:
    """Return (I + lower)⁻¹ (..., L, L), a new array; lower (..., L, L) is 0 on and above the diagonal.

    [[P, 0], [M, R]]⁻¹ = [[P⁻¹, 0], [-R⁻¹ M P⁻¹, R⁻¹]], for blocks of 1, 2, 4, .. rows: forward substitution by blocks,
    and as accurate. The product of all I + (-lower)^(2ⁿ) is not: for equal keys, powers of `lower` grow, and cancel.
    """
    xp, rows = array_module(lower=lower), lower.shape[-1]
    found = xp.zeros_like(lower)
    found += xp.asarray(numpy.eye(rows), lower.dtype)
    size = 1
    while size < rows:
        for start in range(0, rows - size, 2 * size):
            above, below = slice(start, start + size), slice(start + size, min(start + 2 * size, rows))
            product = found[..., below, below] @ lower[..., below, above] @ found[..., above, above]
            xp.negative(product, out=found[..., below, above])
        size *= 2
    return found
