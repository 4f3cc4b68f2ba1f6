"""JAX, jit-compiled: the loop over time as a scan, or unrolled into one program."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy
from jax import numpy as jnp

from .problem import Arrays, Contestant, Layer

Array = Any
Params = dict[str, Array]


def fast_weights_attention(
    params: Params, x: Array, h0: Array, scan: bool, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Array:  # fmt: skip
    """Equations (2a), (4), (5) with S = 1; in a scan the history is a buffer of T states, masked by its weights."""
    steps, (batch_size, hidden_size) = x.shape[0], h0.shape
    from_input = x @ params["C"].T + params["b"]

    def settle(a: Array, h: Array, past: Array, weights: Array) -> Array:
        boundary = a + h @ params["W"].T
        v = jax.nn.relu(_norm(params, boundary) if normalize_preliminary else boundary)
        scores = jnp.einsum("bth,bh->bt", past, v) * weights
        return jax.nn.relu(_norm(params, boundary + jnp.einsum("bt,bth->bh", scores, past)))

    if scan:

        def step(carry: Array, a: Array) -> Array:
            h, past, t = carry
            ages = t - 1 - jnp.arange(steps)
            h = settle(a, h, past, jnp.where(ages >= 0, rate * decay ** jnp.maximum(ages, 0), 0.0).astype(a.dtype))
            return (h, jax.lax.dynamic_update_slice(past, h[:, None], (0, t, 0)), t + 1), h

        past = jnp.zeros((batch_size, steps, hidden_size), x.dtype)
        return jax.lax.scan(step, (h0, past, 0), from_input)[1]

    h: Array = h0
    states: list[Array] = []
    for t in range(steps):
        past = jnp.stack(states, 1) if states else jnp.zeros((batch_size, 0, hidden_size), x.dtype)
        h = settle(from_input[t], h, past, rate * decay ** jnp.arange(t - 1, -1, -1, dtype=x.dtype))
        states.append(h)
    return jnp.stack(states)


def fast_weights_matrix(
    params: Params, x: Array, h0: Array, scan: bool, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Array:  # fmt: skip
    """Equations (1), (2a), (5) with S = 1."""
    from_input = x @ params["C"].T + params["b"]

    def step(carry: Array, a: Array) -> Array:
        h, A = carry
        boundary = a + h @ params["W"].T
        v = jax.nn.relu(_norm(params, boundary) if normalize_preliminary else boundary)
        h = jax.nn.relu(_norm(params, boundary + jnp.einsum("bij,bj->bi", A, v)))
        return (h, decay * A + rate * h[:, :, None] * h[:, None, :]), h

    A = jnp.zeros((*h0.shape, h0.shape[1]), x.dtype)
    return jax.lax.scan(step, (h0, A), from_input, unroll=1 if scan else x.shape[0])[1]


def _norm(params: Params, z: Array) -> Array:
    centred = z - z.mean(-1, keepdims=True)
    return params["gain"] * centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + params["bias"]


FORMS = {"fast_weights": {"attention": fast_weights_attention, "matrix": fast_weights_matrix}}


def layer(problem: Layer, form: str, scan: bool = True) -> Contestant:
    """The layer and its vector-Jacobian product as one jit-compiled program."""
    params, x, h0, dh = jax.tree.map(jnp.asarray, problem.arrays())
    function = partial(FORMS[problem.layer][form], scan=scan, **problem.options)

    @jax.jit
    def program(params: Params, x: Array, h0: Array, dh: Array) -> Any:
        h, pullback = jax.vjp(function, params, x, h0)
        return h, pullback(dh)

    def run() -> Any:
        return jax.block_until_ready(program(params, x, h0, dh))

    def answer(result: Any) -> Arrays:
        h, (grads, dx, dh0) = result
        named = {"h": h, "dx": dx, "dh0": dh0} | {"d" + name: grad for name, grad in grads.items()}
        return {name: numpy.asarray(value) for name, value in named.items()}

    return Contestant(run, answer)
