"""The associative LSTM: an LSTM whose cells are a holographic memory, with several heads.

Danihelka, Wayne, Uria, Kalchbrenner, Graves 2016, arXiv 1602.03032, "Associative Long Short-Term Memory".

The H units are D = H/2 complex numbers, real parts first: h = [Re; Im]. N heads, S copies, n = 1 .. N, s = 1 .. S:

    z(t+1)   = W h(t) + C x(t) + b         3 + 6 N blocks of D rows: z_f, z_i, z_o, then the real parts of all z_k,n,
                                           all z_q,n and all z_u,n, and then their imaginary parts; or LN[z]
    f, i, o  = σ(z_f), σ(z_i), σ(z_o)      gates, D real numbers each
    k_n, q_n, u_n = bound(z_k,n), bound(z_q,n), bound(z_u,n)    input key, output key, value: D complex numbers each
    c_s(t+1) = f ⊙ c_s(t) + Σ_n P_s k_n ⊙ (i ⊙ u_n)    write: the copies differ by their permutations
    m_n      = 1/S Σ_s P_s q_n ⊙ c_s(t+1)              read: the noise from other pairs averages out
    h(t+1)   = o ⊙ Σ_n bound(m_n)

    bound(z) = z / max(1, |z|),   ⊙ is the product of complex numbers, entry by entry

This file chooses how several heads are joined. They share the gates and the memory. Each writes a pair and reads with
its own key, and the bounded results are added: h has H units for any number of heads. (Adding the m_n before bound
would amount to a single read.) The permutations P_s of the D numbers are random, and fixed.

Two variants are options. With shared_value=True, all heads write the same value, u_n = u, and z has 3 + 2 (2 N + 1)
blocks. With recurrent_value=False, values are computed from the input alone, z_u = C_u x(t) + b_u. W then keeps its
shape, but the rows for the values are neither read nor trained.

Layer norm is an option. As in lstm.py, it normalizes each block of z over its own D units, with its own gain and bias.
The real and the imaginary part of a key or a value are two blocks, and each is normalized apart. So all stacked real
maps are treated equally, and the mean that is subtracted is the complex mean. (One layer norm of both parts would
subtract the same real number from both.) c and m are not normalized.

Internally, the batch is the last axis: a permutation then moves whole rows. Code counts from 0: x[t] is x(t), and the
returned h[t] is h(t+1). T steps, B sequences, I inputs. The gradient of a complex number is ∂L/∂Re - i ∂L/∂Im.
Numbers such as (A1) are in DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .associative_lstm_cell import Cell, F, Heads
from .associative_lstm_cell import permutations as permutations
from .backend import Array, array_module, take
from .inference import StatesOnly, in_parts, without
from .recurrent import (
    BaseCache,
    Params,
    affine_backward,
    check_cache,
    check_init,
    check_params,
    check_sequences,
    gradient_of_state,
    initial,
    renamed,
    requested,
    uniform,
)  # fmt: skip
from .spans import Spans
from .stepper import BaseStepper, Held, assign
from .workspace import Workspace, exclusive, unlocked

__all__ = ["Cache", "State", "Stepper", "backward", "final_state", "forward", "init", "initial_state", "step"]


class State(NamedTuple):
    """The state between steps: h (B, H), the hidden state, and c (B, S, H), copies of the memory; real parts first."""

    h: Array
    c: Array


# ------------------------------------------------------------------------------------------------------ whole sequences


class Buffers:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, heads: Heads, copies: int, layer_norm: bool
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        blocks = (heads.blocks, hidden_size // 2)
        self.h = xp.empty((steps + 1, hidden_size, batch_size), dtype)  # h[0] is h0
        self.z = xp.empty((*blocks, steps, batch_size), dtype)  # C x + b; backward puts its gradient here
        self.z_now = xp.empty((*blocks, batch_size), dtype)  # z of one step
        self.cell = Cell(xp, heads, copies, hidden_size // 2, batch_size, dtype, layer_norm)
        self.steps = self.cell.views(steps)


@dataclass
class Cache(BaseCache):
    """All that `backward` depends on, and nothing else. Valid until the next forward with the same workspace."""

    buffers: Buffers
    heads: Heads
    recurrent_value: bool


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, heads: int = 3, shared_value: bool = False,
    forget_bias: float = 1.0, layer_norm: bool = False, dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return W (M, H/2, H) uniform in ±1/√H, C (M, H/2, I) uniform in ±1/√I, and b (M, H/2), with M = 3 + 6 heads.

    With shared_value=True, M is 5 + 4 heads; pass it to forward, too. b is forget_bias for the forget gate, and zero
    elsewhere. Layer norm adds gain = 1 and bias (M, H/2). forget_bias is then in bias, and b is zero. Raises ValueError
    for an odd hidden_size.
    """
    check_init(rng, input_size, hidden_size, dtype)
    checks.count("heads", heads, least=1)
    checks.boolean("shared_value", shared_value)
    checks.finite("forget_bias", forget_bias, dtype)
    checks.boolean("layer_norm", layer_norm)
    if hidden_size % 2:
        raise ValueError(f"hidden_size: expected an even number, two for a complex one, got {hidden_size}")
    blocks = Heads(heads, shared_value).blocks, hidden_size // 2
    zero, bias = numpy.zeros((2, *blocks))
    bias[F] = forget_bias
    params = {
        "W": uniform(rng, *blocks, hidden_size),
        "C": uniform(rng, *blocks, input_size),
        "b": zero if layer_norm else bias,
    }
    if layer_norm:
        params |= {"gain": 1 + zero, "bias": bias}
    return {name: value.astype(dtype) for name, value in params.items()}


@exclusive
def forward(
    params: Params, x: Array | ops.Embedded, h0: Array | None = None, *, c0: Array | None = None, copies: int = 4,
    shared_value: bool = False, recurrent_value: bool = True, lengths: Array | None = None,
    resets: Array | None = None, gradients: bool = True, workspace: Workspace | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """Return h (T, B, H) for whole sequences x (T, B, I), and the cache that `backward` needs.

    x may also be ops.embedding(table, tokens), with a table (V, I) and tokens (T, B); dx is then the table's gradient.
    h0 (B, H) and c0 (B, copies, H) are the hidden state and the memory before the first step, real parts first. None is
    zero. shared_value is the argument that init had. recurrent_value=False computes the values without h(t). lengths
    (B,) and resets (T, B) are for padded batches and for several documents in one sequence: spans.py. gradients=False
    keeps nothing for backward: the cache is then for final_state alone. A workspace reuses buffers from one forward to
    the next. All arrays share one dtype and one device, and must not be changed before backward has been called. Raises
    ValueError or TypeError that names the argument at fault.
    """
    xp = _check(params, copies, x=ops.input_array(x), **checks.given(h0=h0, c0=c0))
    params, heads = _variant(params, shared_value, recurrent_value)
    ops.refuse_closed_loop(x, "the associative LSTM; take another layer")
    check_sequences(params, x)
    W, shape, layer_norm = params["W"], (*x.shape[:2], params["W"].shape[-1]), "gain" in params
    h0 = initial("h0", h0, shape[1:], W)
    c0 = initial("c0", c0, (shape[1], copies, shape[2]), W)
    spans = Spans(x, lengths, resets)
    workspace = workspace or Workspace()
    if without(gradients):  # params have W = 0 already, for values without recurrent input
        part = partial(unlocked(forward), params, copies=copies, shared_value=shared_value, workspace=workspace)
        return in_parts(part, unlocked(final_state), x, {"h0": h0, "c0": c0}, lengths, resets)
    x = spans.clear(x)

    ticket = workspace.begin()
    key = (xp, shape, W.dtype, heads, copies, layer_norm)
    buffers = workspace.buffers(key, lambda: Buffers(xp, shape, W.dtype, heads, copies, layer_norm))
    buffers.cell.load(params)
    W_all, z_now = W.reshape(-1, shape[2]), buffers.z_now.reshape(-1, shape[1])

    _from_input(x, params, out=buffers.z)
    buffers.h[0], buffers.steps[0].c_before[...] = h0.T, _to_complex(c0)
    for t, at in enumerate(buffers.steps):
        xp.matmul(W_all, spans.begin(t, buffers.h[t].T).T, out=z_now)
        buffers.z_now += buffers.z[:, :, t]
        buffers.cell.forward(buffers.z_now, at, buffers.h[t + 1], spans.restarted.get(t), spans.ended.get(t))
    again = partial(
        forward, params, x, h0, c0=c0, copies=copies, shared_value=shared_value, recurrent_value=recurrent_value,
        lengths=lengths, resets=resets,
    )  # fmt: skip
    cache = Cache(params, x, spans, workspace, ticket, again, buffers, heads, recurrent_value)
    return buffers.h[1:].swapaxes(1, 2).copy(), cache


@exclusive
@renamed(also="extra")
def backward(
    dh: Array, cache: Cache, extra: Sequence[str] = (), dstate: State | None = None
) -> tuple[Params, Array, Array]:  # fmt: skip
    """Return the gradients of `forward`, (grads, dx, dh0), from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step of each sequence alone. grads has the keys of params; dx (T, B, I);
    dh0 (B, H). `extra` may name one more key of grads: "c0" (B, copies, H).
    dstate is the gradient of the state that final_state returns, if the loss depends on it; None is zero.

    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    check_cache(cache, Cache)
    extra = requested(extra, ("c0",))
    params, buffers, spans = cache.params, cache.buffers, cache.spans
    h = buffers.h.swapaxes(1, 2)
    xp, (_, batch_size, hidden_size), copies = array_module(h=h), h.shape, len(buffers.steps[0].c)
    dh_last, dc_last = gradient_of_state(dstate, State, h, h.shape[1:], (batch_size, copies, hidden_size))
    dhs = spans.gradients(dh, h[1:], dh_last)
    W, steps = params["W"], len(buffers.steps)
    W_transposed, dz_now = W.reshape(-1, W.shape[-1]).T, buffers.z_now.reshape(-1, h.shape[1])
    dh_next, dc = xp.zeros_like(buffers.h[0]), xp.zeros_like(buffers.steps[0].c)  # from the steps after t
    dnorm = xp.zeros((2, len(W), 1, W.shape[1]), dh.dtype)  # gradients of gain and bias, for each block
    if dc_last is not None:
        dc += _to_complex(dc_last).conj()

    for t in reversed(range(steps)):
        if (dh_t := dhs[t]) is not None:
            dh_next += dh_t.T
        buffers.cell.backward(dh_next, dc, buffers.steps[t], buffers.z_now, dnorm)
        buffers.z[:, :, t] = buffers.z_now
        # z(t+1) = W h(t) + C x(t) + b                                                                            (F7)
        xp.matmul(W_transposed, dz_now, out=dh_next)
        spans.begin_backward(t, dh_next.T)

    rows = buffers.z.reshape(-1, *buffers.z.shape[2:]).transpose(1, 2, 0)  # (T, B, blocks D)
    C = params["C"].reshape(-1, params["C"].shape[-1])
    flat, dx = affine_backward(rows, {"C": C}, cache.x, spans.begin_all(h[:-1]))
    grads = {name: value.reshape(params[name].shape) for name, value in flat.items()}
    if not cache.recurrent_value:
        cache.heads.clear_values(grads["W"])  # (A8)
    if "gain" in params:
        grads["gain"], grads["bias"] = dnorm[:, :, 0]
    return grads | ({"c0": _to_real(dc.conj())} if extra else {}), dx, dh_next.T.copy()


@exclusive
def final_state(cache: Cache | StatesOnly) -> State:
    """Return the state after the last step. Pass its h and c to the next forward as h0 and c0 to continue."""
    if isinstance(cache, StatesOnly):
        return cache.final_state()
    check_cache(cache, Cache)
    return State(cache.spans.last(cache.buffers.h[1:].swapaxes(1, 2)), _to_real(cache.buffers.steps[-1].c))


# --------------------------------------------------------------------------------------------------- one step at a time


def initial_state(
    params: Params, batch_size: int, h0: Array | None = None, c0: Array | None = None, *, copies: int = 4
) -> State:
    """Return the state before the first step, zero unless h0 (B, H) and c0 (B, copies, H) are given."""
    _check(params, copies, **checks.given(h0=h0, c0=c0))
    checks.count("batch_size", batch_size, least=1)
    W = params["W"]
    c = initial("c0", c0, (batch_size, copies, W.shape[-1]), W)
    return State(initial("h0", h0, (batch_size, W.shape[-1]), W).copy(), c.copy())


def step(
    params: Params, x: Array, state: State, *, shared_value: bool = False, recurrent_value: bool = True
) -> tuple[Array, State]:  # fmt: skip
    """Return h (B, H) and the next state, from x (B, I) and a state. Equals `forward` up to rounding error.

    The options are as in `forward`. The given state is not changed. Raises ValueError or TypeError that names the
    argument at fault.
    """
    checks.instance("state", state, State, "make it with initial_state")
    array_module(**{"state.h": state.h, "state.c": state.c})
    checks.shape("state.c", state.c, ("B", "copies", "H"), "make it with initial_state")
    batch_size, copies, hidden_size = state.c.shape
    xp = _check(params, copies, x=x, **{"state.h": state.h, "state.c": state.c})
    params, heads = _variant(params, shared_value, recurrent_value)
    W = params["W"]
    checks.shape("state.h", state.h, (batch_size, W.shape[-1]), "make it with initial_state")
    checks.shape("state.c", state.c, (batch_size, copies, W.shape[-1]), "make it with initial_state")
    checks.shape("x", x, (batch_size, params["C"].shape[-1]), "x is (sequences, inputs) for the sequences of state")
    cell = Cell(xp, heads, copies, hidden_size // 2, batch_size, W.dtype, "gain" in params)
    cell.load(params)
    (at,) = cell.views(1)
    at.c_before[...] = _to_complex(state.c)
    z = xp.empty((*W.shape[:2], 1, batch_size), W.dtype)
    _from_input(x[None], params, out=z)
    h = xp.empty((hidden_size, batch_size), W.dtype)
    cell.forward(z[:, :, 0] + W @ state.h.T, at, h)
    return h.T.copy(), State(h.T.copy(), _to_real(at.c))


class Stepper(BaseStepper):
    """Advance the layer by one time step per call, as fast_weights.Stepper does, with the states of this layer."""

    State = State

    def __init__(
        self, params: Params, batch_size: int = 1, *, h0: Array | None = None, c0: Array | None = None,
        copies: int = 4, shared_value: bool = False, recurrent_value: bool = True,
    ) -> None:  # fmt: skip
        xp = _check(params, copies, **checks.given(h0=h0, c0=c0))
        params, heads = _variant(params, shared_value, recurrent_value)
        super().__init__(params, batch_size, copies=copies, shared_value=shared_value)  # a copy has W = 0, too
        W = params["W"]
        cell = Cell(xp, heads, copies, W.shape[1], batch_size, W.dtype, "gain" in params)
        cell.load(params)
        (at,) = cell.views(1)
        self._parts = Held(self._h), _HeldMemory(at.c_before)
        self._start(h0=h0, c0=c0)
        z, h = xp.empty((*W.shape[:2], batch_size), W.dtype), xp.empty((W.shape[-1], batch_size), W.dtype)
        self._calls = [
            partial(self._stacked().dot, self._u.T, z.reshape(-1, batch_size)),  # W h(t) + C x(t) + b
            partial(cell.forward, z, at, h),
            partial(at.c_before.__setitem__, ..., at.c),
            h.T.copy,
        ]


class _HeldMemory(Held):
    """The memory c (B, S, H), kept as complex numbers (S, D, B)."""

    def __init__(self, buffer: Array) -> None:
        self._buffer = buffer
        copies, size, batch_size = buffer.shape
        self.shape = batch_size, copies, 2 * size

    def value(self) -> Array:
        """Return c (B, S, H), a new array."""
        return _to_real(self._buffer)

    def reset(self, rows: Any, value: Array | None) -> None:
        """Begin anew with c (B, S, H), or zero, in these rows."""
        assign(self._buffer.swapaxes(0, 2), rows, None if value is None else _to_complex(value).swapaxes(0, 2))


def _from_input(x: Array | ops.Embedded, params: Params, out: Array) -> None:
    """Fill `out` (blocks, D, T, B) with C x + b, for x (T, B, I)."""
    xp, C = array_module(C=params["C"]), params["C"].reshape(-1, params["C"].shape[-1])
    inputs, b = x.table if isinstance(x, ops.Embedded) else x.reshape(-1, x.shape[-1]), params["b"].reshape(-1, 1)
    if isinstance(x, ops.Embedded):
        take(C @ inputs.T + b, x.tokens, axis=1, out=out.reshape(len(C), *x.tokens.shape))
    else:
        z = xp.matmul(C, inputs.T, out=out.reshape(len(C), -1))
        z += b


def _to_complex(c: Array) -> Array:
    """Return c (B, S, H), real parts first, as complex numbers (S, D, B)."""
    re, im = c.transpose(1, 2, 0).reshape(c.shape[1], 2, -1, c.shape[0]).swapaxes(0, 1)
    return re + 1j * im


def _to_real(c: Array) -> Array:
    """Return complex c (S, D, B) as (B, S, H), real parts first."""
    return array_module(c=c).concatenate([c.real, c.imag], axis=1).transpose(2, 0, 1).copy()


def _check(params: Params, copies: int, **arrays: Array) -> ModuleType:
    """Check the parameters and the number of copies; return the module."""
    checks.count("copies", copies, least=1)
    checks.instance("params", params, dict, "make it with init()")
    checks.keys("params", params, ("W", "C", "b"), ("gain", "bias"))
    array_module(**params)
    checks.shape("W", params["W"], ("blocks", "H/2", "H"), "make it with init()")
    return check_params(params, params["W"].shape[:1], arrays, parts=2)


def _variant(params: Params, shared_value: bool, recurrent_value: bool) -> tuple[Params, Heads]:
    """Return the parameters, with W = 0 for values without recurrent input, and the heads, from W's shape.

    shared_value is not read off the shape: 21 blocks are 3 heads, or 4 heads that share a value.
    """
    checks.boolean("shared_value", shared_value)
    checks.boolean("recurrent_value", recurrent_value)
    W, (fixed, of_a_head) = params["W"], (5, 4) if shared_value else (3, 6)
    heads = Heads((len(W) - fixed) // of_a_head, shared_value)
    if heads.number < 1 or heads.blocks != len(W):
        raise ValueError(
            f"W: expected shape ({fixed} + {of_a_head} heads, H/2, H) for shared_value={shared_value}, got {W.shape}; "
            "make it with init(), and pass the shared_value that init had"
        )
    if not recurrent_value:
        params = params | {"W": W.copy()}
        heads.clear_values(params["W"])
    return params, heads
