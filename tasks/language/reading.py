"""Read from a trained transformer what its fast weights add at each step, and from which step it comes."""

from __future__ import annotations

from typing import Any

import numpy

from fastweights_np.backend import to_host
from fastweights_np.transformer import Transformer


def contributions(net: Transformer, params: Any, tokens: Any) -> numpy.ndarray:
    """Return what each step t reads of each step s in the last block: (B, T, T), at [b, t, s].

        y(t) = down z(t) + η Σ_s λ^age (z(s)·z(t)) v(s)

    The sum has the steps s of earlier chunks, and age is the number of chunks between them. The contribution is the
    length of a summand, with the sign of z(s)·z(t).
    """
    _, cache = net.forward(params, tokens)
    of_blocks = cache[4]
    of_mlp = of_blocks[-1][-1]  # the cache of in_place_ttt.forward
    z, U = to_host((of_mlp.z, of_mlp.U))  # (B, T, F), and η v (B, C - 1, L, d)
    steps, L = z.shape[1], net.options["chunk"]
    lengths = numpy.zeros(z.shape[:2], z.dtype)
    of_written = numpy.linalg.norm(U.reshape(len(U), -1, U.shape[-1]), axis=-1)
    lengths[:, : of_written.shape[1]] = of_written[:, :steps]
    chunks = numpy.arange(steps) // L
    between = chunks[:, None] - chunks - 1
    weights = numpy.where(between >= 0, float(net.options["decay"]) ** numpy.maximum(between, 0), 0)
    found: numpy.ndarray = weights * (z @ z.swapaxes(1, 2)) * lengths[:, None]
    return found
