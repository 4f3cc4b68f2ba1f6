"""Implement the layers in JAX, jit-compiled, with the time loop as a scan or unrolled into one program."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from typing import Any

import jax
import numpy
from jax import numpy as jnp

from fastweights_np.associative_lstm import permutations
from fastweights_np.multilevel import Controls

from .problem import Arrays, Forward, Framework, Layer, Programmer, Step

# asynchronous dispatch slows down programs of about a millisecond: measured 0.87 ms without it, up to 1.53 ms with it
jax.config.update("jax_cpu_enable_async_dispatch", False)

Array = Any
Params = dict[str, Array]


def fast_weights_attention(
    params: Params, x: Array, h0: Array, scan: bool, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Array:  # fmt: skip
    """Compute equations (2a), (4), (5) with S = 1. A scan keeps T states in a buffer, masked by their weights."""
    steps, (batch_size, hidden_size) = x.shape[0], h0.shape
    from_input = x @ params["C"].T + params["b"]

    def inner_loop(a: Array, h: Array, past: Array, weights: Array) -> Array:
        boundary = a + h @ params["W"].T
        v = jax.nn.relu(_norm(params, boundary) if normalize_preliminary else boundary)
        scores = jnp.einsum("bth,bh->bt", past, v) * weights
        return jax.nn.relu(_norm(params, boundary + jnp.einsum("bt,bth->bh", scores, past)))

    if scan:

        def step(carry: Array, a: Array) -> Array:
            h, past, t = carry
            ages = t - 1 - jnp.arange(steps)
            h = inner_loop(a, h, past, jnp.where(ages >= 0, rate * decay ** jnp.maximum(ages, 0), 0.0).astype(a.dtype))
            return (h, jax.lax.dynamic_update_slice(past, h[:, None], (0, t, 0)), t + 1), h

        past = jnp.zeros((batch_size, steps, hidden_size), x.dtype)
        return jax.lax.scan(step, (h0, past, 0), from_input)[1]

    h: Array = h0
    states: list[Array] = []
    for t in range(steps):
        past = jnp.stack(states, 1) if states else jnp.zeros((batch_size, 0, hidden_size), x.dtype)
        h = inner_loop(from_input[t], h, past, rate * decay ** jnp.arange(t - 1, -1, -1, dtype=x.dtype))
        states.append(h)
    return jnp.stack(states)


def fast_weights_matrix(
    params: Params, x: Array, h0: Array, scan: bool, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Array:  # fmt: skip
    """Compute equations (1), (2a), (5) with S = 1."""
    from_input = x @ params["C"].T + params["b"]

    def step(carry: Array, a: Array) -> Array:
        carry = _next_state(params, carry, a, decay, rate, normalize_preliminary)
        return carry, carry[0]

    A = jnp.zeros((*h0.shape, h0.shape[1]), x.dtype)
    return jax.lax.scan(step, (h0, A), from_input, unroll=1 if scan else x.shape[0])[1]


def _next_state(
    params: Params, state: tuple[Array, Array], from_input: Array, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """Return h(t+1) and A(t+1) from the state before and C x(t) + b."""
    h, A = state
    a = from_input + h @ params["W"].T
    v = jax.nn.relu(_norm(params, a) if normalize_preliminary else a)
    h = jax.nn.relu(_norm(params, a + jnp.einsum("bij,bj->bi", A, v)))
    return h, decay * A + rate * h[:, :, None] * h[:, None, :]


def multilevel(
    params: Params, x: Array, h0: Array, scan: bool, controls: Controls, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Array:  # fmt: skip
    """Compute figure 3 with S = 1. Unrolled: A is attention to the states stored so far.

    In a scan every step is the same program: A is a matrix, and the control signals are numbers.
    """
    from_input = x @ params["C"].T + params["b"]
    if scan:

        def step(carry: Array, at: Array) -> Array:
            (h, A), (a, store, wipe, read, integrate) = carry, at
            z = a + h @ jnp.where(integrate, params["V"], params["W"]).T
            z = z + read * jnp.einsum("bij,bj->bi", A, jax.nn.relu(_norm(params, z) if normalize_preliminary else z))
            h = jax.nn.relu(_norm(params, z))
            A = jnp.where(store, decay * A + rate * h[:, :, None] * h[:, None, :], A)
            return (jnp.where(wipe, 0.0, h), A), h

        A = jnp.zeros((*h0.shape, h0.shape[1]), x.dtype)
        return jax.lax.scan(step, (h0, A), (from_input, *map(jnp.array, astuple(controls))))[1]

    h: Array = h0
    states: list[Array] = []
    stored: list[Array] = []
    wiped = False
    for a, store, wipe, read, integrate in zip(from_input, *astuple(controls), strict=True):
        z = a if wiped else a + h @ params["V" if integrate else "W"].T
        if read and stored:
            past, weights = jnp.stack(stored, 1), rate * decay ** jnp.arange(len(stored) - 1, -1, -1, dtype=x.dtype)
            scores = (
                jnp.einsum("bth,bh->bt", past, jax.nn.relu(_norm(params, z) if normalize_preliminary else z)) * weights
            )
            z = z + jnp.einsum("bt,bth->bh", scores, past)
        h = jax.nn.relu(_norm(params, z))
        states.append(h)
        if store:
            stored.append(h)
        wiped = wipe
    return jnp.stack(states)


def _norm(params: Params, z: Array) -> Array:
    centred = z - z.mean(-1, keepdims=True)
    return params["gain"] * centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + params["bias"]


def irnn(params: Params, x: Array, h0: Array, scan: bool) -> Array:
    """Compute h = relu(W h + C x + b), with layer norm before relu if there is a gain."""

    def step(h: Array, a: Array) -> Array:
        z = a + h @ params["W"].T
        h = jax.nn.relu(_norm(params, z) if "gain" in params else z)
        return h, h

    from_input = x @ params["C"].T + params["b"]
    return jax.lax.scan(step, h0, from_input, unroll=1 if scan else x.shape[0])[1]


def lstm(params: Params, x: Array, h0: Array, scan: bool) -> Array:
    """Compute an LSTM whose gates i, f, g, o come from one matrix product."""
    W, C, b = (params[name].reshape(-1, *params[name].shape[2:]) for name in ("W", "C", "b"))

    def step(carry: Array, a: Array) -> Array:
        h, c = carry
        i, f, g, o = jnp.split(a + h @ W.T, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(step, (h0, jnp.zeros_like(h0)), x @ C.T + b, unroll=1 if scan else x.shape[0])[1]


def associative_lstm(params: Params, x: Array, h0: Array, scan: bool, copies: int = 4) -> Array:
    """Compute an associative LSTM with complex numbers."""
    blocks, size, _ = params["W"].shape
    heads, order = (blocks - 3) // 6, permutations(copies, size)
    W, C, b = (params[name].reshape(blocks * size, *params[name].shape[2:]) for name in ("W", "C", "b"))

    def step(carry: Array, a: Array) -> Array:
        h, c = carry
        z = (a + h @ W.T).reshape(-1, blocks, size)
        f, i, o = (jax.nn.sigmoid(z[:, n]) for n in range(3))
        pairs = z[:, 3:].reshape(-1, 2, 3, heads, size)
        k, q, u = jnp.moveaxis(_bound(pairs[:, 0], pairs[:, 1]), 1, 0)
        c = f[:, None] * c + jnp.sum(k[..., order] * (i[:, None] * u)[:, :, None], axis=1)
        m = jnp.mean(q[..., order] * c[:, None], axis=2)
        total = o * jnp.sum(_bound(m.real, m.imag), axis=1)
        h = jnp.concatenate([total.real, total.imag], axis=1)
        return (h, c), h

    c0 = jnp.zeros((len(h0), copies, size), "complex64")
    return jax.lax.scan(step, (h0, c0), x @ C.T + b, unroll=1 if scan else x.shape[0])[1]


def _bound(re: Array, im: Array) -> Array:
    square = jnp.maximum(re * re + im * im, 1)  # the root's slope at 0 is not finite
    return jax.lax.complex(re, im) * jax.lax.rsqrt(square)


FORMS: dict[str, dict[str, Any]] = {
    "fast_weights": {"attention": fast_weights_attention, "matrix": fast_weights_matrix},
    "multilevel": {"plain": multilevel},
    "irnn": {"plain": irnn},
    "lstm": {"plain": lstm},
    "associative_lstm": {"plain": associative_lstm},
}


def layer(problem: Layer, form: str, scan: bool = True) -> Framework:
    """Return the layer and its vector-Jacobian product as one jit-compiled program."""
    (device, *_) = jax.devices("gpu" if problem.device == "cuda" else "cpu")
    params, x, h0, dh = jax.device_put(problem.arrays(), device)
    function = partial(FORMS[problem.layer][form], scan=scan, **problem.all_options())

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

    return Framework(run, answer)


def forward(problem: Forward, form: str, scan: bool = True) -> Framework:
    """Return the layer without gradients as one jit-compiled program."""
    params, x, h0, _ = jax.device_put(problem.arrays())
    program = jax.jit(partial(FORMS[problem.layer][form], scan=scan, **problem.all_options()))
    return Framework(lambda: jax.block_until_ready(program(params, x, h0)), lambda h: {"h": numpy.asarray(h)})


def step(problem: Step) -> Framework:
    """Return steps that are one jit-compiled program each, whose state is donated: h and A are overwritten."""
    params, x, h, _ = jax.device_put(problem.arrays())
    inputs, state = list(x), (h, jnp.zeros((*h.shape, h.shape[1]), x.dtype))

    @partial(jax.jit, donate_argnums=0)
    def program(state: tuple[Array, Array], x_t: Array) -> tuple[Array, Array]:
        return _next_state(params, state, x_t @ params["C"].T + params["b"], **problem.options)

    def run() -> Any:
        nonlocal state
        for x_t in inputs:
            state = program(state, x_t)
        return jax.block_until_ready(state)

    return Framework(run, lambda state: dict(zip(("h", "A"), map(numpy.array, state), strict=True)))


def chunks(
    q: Array, k: Array, v: Array, beta: Array | None = None, log_decay: Array | None = None, length: int = 32
) -> Array:  # fmt: skip
    """Compute the memory of keys and values in chunks of this length, all of them in batched products.

    S is (B, N, d_k, d_v) here. The delta rule is one triangular solve for all chunks. A scan over chunks changes S.
    """
    steps, batch_size, heads, size = q.shape
    lower = jnp.tril(jnp.ones((length, length), bool))

    def by_chunks(z: Array) -> Array:
        """Return (C, B, N, L, ..) from (T, B, N, ..)."""
        return jnp.moveaxis(z.reshape(-1, length, *z.shape[1:]), 1, 3)

    Q, K, V = by_chunks(q), by_chunks(k), by_chunks(v)
    D, from_start, to_end, kept = lower, 1.0, 1.0, jnp.ones((len(Q), 1, 1, 1, 1), q.dtype)
    if log_decay is not None:
        sums = jnp.cumsum(by_chunks(jnp.broadcast_to(log_decay, (steps, batch_size, heads))), axis=3)[..., None]
        D = jnp.exp(jnp.where(lower, sums - jnp.swapaxes(sums, 3, 4), -jnp.inf))
        kept = jnp.exp(sums[..., -1:, :])
        from_start, to_end = jnp.exp(sums), jnp.exp(sums[..., -1:, :] - sums)
    K_to_end = K * to_end
    if beta is None:
        values, weights = V, None
    else:
        b = by_chunks(beta)[..., None]
        overlaps = jnp.tril(b * (K @ jnp.swapaxes(K, 3, 4)) * D, -1)
        right = jnp.concatenate([b * V, b * from_start * K], axis=-1)
        solved = jax.lax.linalg.triangular_solve(overlaps, right, left_side=True, lower=True, unit_diagonal=True)
        values, weights = jnp.split(solved, 2, axis=-1)

    def step(S: Array, of_chunk: Array) -> Array:
        keys, value, weight, remains = of_chunk
        written = value if weight is None else value - weight @ S
        return remains * S + jnp.swapaxes(keys, 2, 3) @ written, (S, written)

    S = jnp.zeros((batch_size, heads, size, size), q.dtype)
    before, written = jax.lax.scan(step, S, (K_to_end, values, weights, kept))[1]
    o = (Q * from_start) @ before + (Q @ jnp.swapaxes(K, 3, 4) * D) @ written
    return jnp.moveaxis(o, 3, 1).reshape(q.shape)


def programmer(problem: Programmer) -> Framework:
    """Return the memory of keys and values and its vector-Jacobian product as one jit-compiled program."""
    arrays, do = jax.device_put(problem.arrays())

    @jax.jit
    def program(arrays: Params, do: Array) -> Any:
        o, pullback = jax.vjp(lambda arrays: chunks(**arrays), arrays)
        return o, pullback(do)[0]

    def answer(result: Any) -> Arrays:
        o, grads = result
        return {"o": numpy.asarray(o)} | {"d" + name: numpy.asarray(grad) for name, grad in grads.items()}

    return Framework(lambda: jax.block_until_ready(program(arrays, do)), answer)
