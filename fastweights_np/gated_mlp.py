"""The MLP of a transformer block: y = down z, with hidden units z = silu(gate x) ⊙ (up x), or z = relu(up x).

    silu(g) = g σ(g)

The parameters select the form: without `gate`, the hidden units are relu(up x). Numbers such as (R6) are in
DERIVATION.md. d inputs and outputs, F hidden units. Source: Shazeer 2020, arXiv 2002.05202 (SwiGLU).
"""

from __future__ import annotations

from typing import Any

import numpy

from . import checks, ops
from .backend import Array, array_module
from .recurrent import Params

__all__ = ["backward", "forward", "hidden", "hidden_backward", "init"]


def init(
    rng: numpy.random.Generator, size: int, hidden_size: int, *, gated: bool = True, dtype: str = "float32"
) -> Params:  # fmt: skip
    """Return gate and up (F, d), normal with variance 1/d, and down (d, F), normal with variance 1/(4 F)."""
    checks.generator("rng", rng)
    for name, value in (("size", size), ("hidden_size", hidden_size)):
        checks.count(name, value, least=1)
    checks.boolean("gated", gated)
    checks.choice("dtype", dtype, checks.FLOATS)
    params = {name: rng.standard_normal((hidden_size, size)) / size**0.5 for name in ("gate", "up")[not gated :]}
    params["down"] = rng.standard_normal((size, hidden_size)) / (2 * hidden_size**0.5)
    return {name: value.astype(dtype) for name, value in params.items()}


def hidden(params: Params, x: Array) -> tuple[Array, Any]:
    """Return the hidden units z (..., F) for x (..., d), and the cache."""
    xp = array_module(up=params["up"], x=x)
    if "gate" not in params:
        a = ops.linear(x, params["up"])
        z = xp.maximum(a, 0, out=a)  # (L3)
        return z, (params, x, z)
    a, size = ops.linear(x, _stacked(params)), len(params["up"])
    g, u = a[..., :size], a[..., size:]
    sigma = xp.exp(-g)
    sigma += 1
    xp.reciprocal(sigma, out=sigma)
    phi = g * sigma
    return phi * u, (params, x, (u, sigma, phi))


def hidden_backward(dz: Array, cache: Any) -> tuple[Params, Array]:
    """Return the gradients of gate and up, and dx. It overwrites dz and the cache."""
    params, x, saved = cache
    if "gate" not in params:
        # z = relu(up x)                                                                                            (L3)
        dz *= saved > 0
        dx, dup = ops.product_backward(dz, x, params["up"])
        return {"up": dup}, dx
    (u, sigma, phi), size = saved, len(params["up"])
    da = array_module(dz=dz).empty((*dz.shape[:-1], 2 * size), dz.dtype)
    # z = φ u,   φ = g σ(g)                                                                                         (R6)
    da[..., size:] = dz * phi
    dz *= u
    phi *= 1 - sigma
    phi += sigma
    da[..., :size] = dz * phi
    # g = gate x,   u = up x                                                                                        (L1)
    dx, dstacked = ops.product_backward(da, x, _stacked(params))
    return {"gate": dstacked[:size], "up": dstacked[size:]}, dx


def forward(params: Params, x: Array) -> tuple[Array, Any]:
    """Return y (..., d) for x (..., d), and the cache."""
    z, cache = hidden(params, x)
    return ops.linear(z, params["down"]), (z, cache)


def backward(dy: Array, cache: Any) -> tuple[Params, Array]:
    """Return the gradients of the parameters, and dx. It overwrites the cache."""
    z, of_hidden = cache
    # y = down z                                                                                                    (L1)
    dz, ddown = ops.product_backward(dy, z, of_hidden[0]["down"])
    grads, dx = hidden_backward(dz, of_hidden)
    return grads | {"down": ddown}, dx


def _stacked(params: Params) -> Array:
    """Return gate and up, one below the other, so that one product serves both."""
    return array_module(**params).concatenate([params["gate"], params["up"]])
