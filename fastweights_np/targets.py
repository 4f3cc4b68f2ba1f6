"""The targets that In-Place TTT writes: v(t) = target Σ_j kernel_j ⊙ source(t + j), for the steps t of whole chunks.

Steps outside the chunk of t count as zeros, except that the tap +1 may reach the first step of the next chunk. T steps,
B sequences, C chunks of L steps, d entries of v and source, J taps. Numbers such as (W1) are in DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module
from .recurrent import Params

TAPS = (-2, -1, 0, 1, 2)  # of the paper's convolution
SCALE = 0.02  # of the initial diagonal of target


def init_target(
    rng: numpy.random.Generator, size: int, taps: Sequence[int] = TAPS, *, kernel: bool = True, target: bool = True,
    dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return the parameters of the targets that are to be learned, such as for an MLP that was trained without them.

    kernel   whether there is a kernel (J, d), zero: v = 0, so that the layer starts as the plain MLP. Without a kernel
             v has one tap, whose factor is 1
    target   whether there is a target (d, d), a diagonal of normal numbers with standard deviation 0.02. Without it, it
             is the identity
    """
    _check_taps(taps)
    for name, value in (("kernel", kernel), ("target", target)):
        checks.boolean(name, value)
    params: Params = {}
    if kernel:
        params["kernel"] = numpy.zeros((len(taps), size), dtype)
    if target:
        params["target"] = numpy.diag(SCALE * rng.standard_normal(size)).astype(dtype)
    return params


class Taps(NamedTuple):
    """The distances j, and where they end."""

    distances: tuple[int, ...]
    chunk: int
    across: bool

    @classmethod
    def checked(cls, params: Params, taps: Sequence[int], chunk: int, across: bool) -> Taps:
        """Return the Taps. Raise ValueError or TypeError if the arguments do not fit one another or the parameters."""
        checks.count("chunk", chunk, least=1)
        _check_taps(taps)
        checks.boolean("across", across)
        if across and 1 not in taps:
            raise ValueError(f"across: expected the tap 1 among taps, got {tuple(taps)}; leave across out")
        if "kernel" in params:
            checks.shape("kernel", params["kernel"], (len(taps), len(params["down"])), "a row for each of taps")
        elif len(taps) > 1:
            raise ValueError(
                f"taps: expected one for params without a kernel, got {tuple(taps)}; pass taps=(1,), or make a kernel "
                "with init_target"
            )
        return cls(tuple(taps), chunk, across)

    def views(self, count: int) -> Iterator[tuple[Any, Any]]:
        """Yield for each tap j two functions that return views of the same shape (B, C, ., .); C = count.

        The first takes an array by chunks (B, C, L, .), and returns its steps t that see t + j. The second takes an
        array (B, T, .), and returns its steps t + j.
        """
        L = self.chunk

        def by_chunks(array: Array, start: int = 0) -> Array:
            return array[:, start : start + count * L].reshape(len(array), count, L, array.shape[-1])

        def inside(j: int) -> tuple[Any, Any]:
            first, last = min(max(0, -j), L), max(L - max(0, j), 0)
            return lambda array: array[:, :, first:last], lambda array: by_chunks(array)[:, :, first + j : last + j]

        for j in self.distances:
            next_step = (lambda array: array, lambda array: by_chunks(array, 1))
            yield next_step if j == 1 and self.across else inside(j)


class Masks(NamedTuple):
    """Where steps belong to the same document, as 0 or 1."""

    to_end: Array  # (B, C - 1, L, 1)  a step, and the last step of its chunk
    from_start: Array  # (B, C - 1, L, 1)  a step of chunks 1 .. C - 1, and the last step of the chunk before
    whole: Array  # (B, C - 1, 1, 1)  the last steps of a chunk and of the chunk before
    taps: list[Array]  # (B, C - 1, L, 1)  steps t and t + j

    @classmethod
    def of(cls, xp: ModuleType, parts: numpy.ndarray, taps: Taps, dtype: Any) -> Masks:
        """Return the Masks, from the number of the document of each step (T, B), on the host."""
        L, steps = taps.chunk, len(parts)
        count = -(-steps // L)
        filled = numpy.concatenate([parts, *[parts[-1:]] * (count * L - steps)]).T  # (B, C L)
        by_chunks = filled.reshape(len(filled), count, L, 1)
        last = by_chunks[:, :-1, -1:]
        before = numpy.concatenate([last[:, :1], last[:, :-1]], axis=1)
        t = numpy.arange((count - 1) * L)
        of_taps = [
            (filled[:, t] == filled[:, (t + j).clip(0, steps - 1)]).reshape(len(filled), count - 1, L, 1)
            for j in taps.distances
        ]
        # S is zero before a reset: nothing is left of what was written before it                                   (S1)
        of_chunks = (by_chunks[:, :-1] == last, by_chunks[:, 1:] == last, last == before)
        to_end, from_start, whole = (xp.asarray(mask, dtype) for mask in of_chunks)
        return cls(to_end, from_start, whole, [xp.asarray(mask, dtype) for mask in of_taps])


def targets(
    params: Params, source: Array, taps: Taps, count: int, masks: Masks | None = None
) -> tuple[Array, Any]:  # fmt: skip
    """Return v (B, C, L, d) for the first C = count chunks of source (B, T, d), and the cache."""
    xp, (batch_size, _, size) = array_module(source=source), source.shape
    Y = xp.zeros((batch_size, count, taps.chunk, size), source.dtype)
    for n, (of_target, of_source) in enumerate(taps.views(count)):
        X = of_source(source)
        if "kernel" in params:
            X = X * params["kernel"][n]
        if masks is not None:
            X = X * of_target(masks.taps[n])
        of_target(Y)[...] += X  # (W1)
    V = ops.linear(Y, params["target"]) if "target" in params else Y  # (L1)
    return V, (params, source, taps, masks, Y)


def targets_backward(dV: Array, cache: Any) -> tuple[Params, Array]:
    """Return the gradients of kernel and target, as far as there are any, and dsource."""
    params, source, taps, masks, Y = cache
    grads, dY, dsource = Params(), dV, array_module(dV=dV).zeros_like(source)
    # v = target Y                                                                                                  (L1)
    if "target" in params:
        dY, grads["target"] = ops.product_backward(dV, Y, params["target"])
    dkernel = []
    for n, (of_target, of_source) in enumerate(taps.views(Y.shape[1])):
        of_tap, dX = of_target(dY), of_source(dsource)
        if masks is not None:
            of_tap = of_tap * of_target(masks.taps[n])
        # Y(t) = Σ_j kernel_j ⊙ source(t + j)                                                                      (W1)
        if "kernel" in params:
            dkernel.append((of_tap * of_source(source)).reshape(-1, Y.shape[-1]).sum(axis=0))
            of_tap = of_tap * params["kernel"][n]
        dX += of_tap
    if "kernel" in params:
        grads["kernel"] = array_module(dV=dV).stack(dkernel)
    return grads, dsource


def _check_taps(taps: Any) -> None:
    for j in taps:
        if isinstance(j, bool) or not isinstance(j, int | numpy.integer):
            raise TypeError(f"taps: expected whole numbers, got {j!r}")
    if not len(taps) or len(set(taps)) < len(taps):
        raise ValueError(f"taps: expected at least one distance, and none twice, got {tuple(taps)}")
