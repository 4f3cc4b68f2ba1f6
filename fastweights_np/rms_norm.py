"""RMS norm: y = gain ⊙ n with n = x ρ and ρ = 1 / sqrt(mean(x²) + ε), over the last axis.

Source: Zhang, Sennrich 2019, arXiv 1910.07467, equation (4). Numbers such as (R1) are in DERIVATION.md.
"""

from __future__ import annotations

from typing import Any

from .backend import Array, array_module

__all__ = ["backward", "forward"]

EPSILON = 1e-6  # added to the mean square, so that a row of zeros is not 0/0


def forward(gain: Array, x: Array) -> tuple[Array, Any]:
    """Return y (..., d), for gain (d,) and x (..., d), and the cache."""
    xp = array_module(gain=gain, x=x)
    column = xp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    rho = (x * x) @ column  # the mean of each row: a product is faster than .mean
    rho += EPSILON
    xp.sqrt(rho, out=rho)
    xp.reciprocal(rho, out=rho)
    n = x * rho
    return n * gain, (n, rho, gain, column)


def backward(dy: Array, cache: Any) -> tuple[Array, Array]:
    """Return dgain and dx."""
    n, rho, gain, column = cache
    # y = gain ⊙ n                                                                                                  (R1)
    dn = dy * n
    dgain: Array = dn.reshape(-1, dn.shape[-1]).sum(0)
    # n = x ρ                                                                                                       (R1)
    dn *= gain
    dx = n * -(dn @ column)
    dx += dy * gain
    dx *= rho
    return dgain, dx
