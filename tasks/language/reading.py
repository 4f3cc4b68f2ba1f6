"""Read from a trained transformer what its fast weights add at each step, and from which step it comes."""

from __future__ import annotations

from typing import Any

import numpy

from fastweights_np.backend import to_host
from fastweights_np.transformer import Transformer


def memory(cache: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return z (B, T, F) and η v (B, chunks - 1, chunk, d) of the last block, from the cache of Transformer.forward."""
    # each part of the sequences has (shape, caches of the blocks, ...), and a block ends with its MLP's cache
    of_mlp = [blocks[-1][-1] for _, blocks, *_ in cache.caches]
    z, U = (numpy.concatenate(to_host([getattr(each, name) for each in of_mlp])) for name in ("z", "U"))
    return z, U


def contributions(net: Transformer, params: Any, tokens: Any) -> numpy.ndarray:
    """Return what each step t reads of each step s in the last block: (B, T, T), at [b, t, s].

        y(t) = down z(t) + η Σ_s λ^age (z(s)·z(t)) v(s)

    The sum has the steps s of earlier chunks, and age is the number of chunks between them. The contribution is the
    length of a summand, with the sign of z(s)·z(t).
    """
    z, U = memory(net.forward(params, tokens)[1])
    steps, L = z.shape[1], net.options["chunk"]
    lengths = numpy.zeros(z.shape[:2], z.dtype)
    of_written = numpy.linalg.norm(U.reshape(len(U), -1, U.shape[-1]), axis=-1)
    lengths[:, : of_written.shape[1]] = of_written[:, :steps]
    chunks = numpy.arange(steps) // L
    between = chunks[:, None] - chunks - 1
    weights = numpy.where(between >= 0, float(net.options["decay"]) ** numpy.maximum(between, 0), 0)
    found: numpy.ndarray = weights * (z @ z.swapaxes(1, 2)) * lengths[:, None]
    return found
