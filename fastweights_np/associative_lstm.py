"""The associative LSTM: an LSTM whose cells are a holographic memory, with several heads.

Danihelka, Wayne, Uria, Kalchbrenner, Graves 2016, arXiv 1602.03032, "Associative Long Short-Term Memory".

The H units are D = H/2 complex numbers, real parts first: h = [Re; Im]. N heads, S copies, n = 1 .. N, s = 1 .. S:

    z(t+1)   = W h(t) + C x(t) + b         3 + 6 N blocks of D rows: z_f, z_i, z_o, then the real parts of all z_k,n,
                                           all z_q,n and all z_u,n, and then their imaginary parts
    f, i, o  = σ(z_f), σ(z_i), σ(z_o)      gates, D real numbers each
    k_n, q_n, u_n = bound(z_k,n), bound(z_q,n), bound(z_u,n)    input key, output key, value: D complex numbers each
    c_s(t+1) = f ⊙ c_s(t) + Σ_n P_s k_n ⊙ (i ⊙ u_n)    write: the copies differ by their permutations
    m_n      = 1/S Σ_s P_s q_n ⊙ c_s(t+1)              read: the noise from other pairs averages out
    h(t+1)   = o ⊙ Σ_n bound(m_n)

    bound(z) = z / max(1, |z|),   ⊙ is the product of complex numbers, entry by entry

This file chooses how several heads are joined. They share the gates and the memory. Each writes a pair and reads with
its own key, and the bounded results are added: h has H units for any number of heads. (Adding the m_n before bound
would amount to a single read.) The permutations P_s of the D numbers are random, and fixed.

Internally, the batch is the last axis: a permutation then moves whole rows. Code counts from 0: x[t] is x(t), and the
returned h[t] is h(t+1). T steps, B sequences, I inputs. The gradient of a complex number is ∂L/∂Re - i ∂L/∂Im.
Numbers such as (A1) are in DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as cached
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module, take
from .recurrent import (
    BaseCache,
    Params,
    affine_backward,
    check_cache,
    check_init,
    check_params,
    check_sequences,
    gradient_of_state,
    gradients_of_steps,
    initial,
    renamed,
    requested,
    uniform,
)  # fmt: skip
from .stepper import BaseStepper, Held, assign
from .workspace import Workspace, exclusive

F, I, O = range(3)  # the gates  # noqa: E741
K, Q, U = range(3)  # of each head: input key, output key, value


class State(NamedTuple):
    """The state between steps: h (B, H), the hidden state, and c (B, S, H), copies of the memory; real parts first."""

    h: Array
    c: Array


@cached
def permutations(copies: int, size: int) -> numpy.ndarray:
    """Return P_s for each copy, (copies, size) indices. They never change: learned parameters depend on them."""
    rng = numpy.random.RandomState(0)  # NumPy guarantees that its numbers never change
    order = numpy.stack([rng.permutation(size) for _ in range(copies)])
    order.flags.writeable = False  # all callers share it
    return order


# --------------------------------------------------------------------------------------------------------------- bound


def bound(z: Array, y: Array, inverse: Array) -> None:
    """Compute y = z / max(1, |z|) of real parts z[0] and imaginary parts z[1]; fill y and inverse = 1 / max(1, |z|)."""
    xp = array_module(z=z)
    xp.multiply(z[0], z[0], out=inverse)
    inverse += z[1] * z[1]
    xp.sqrt(inverse, out=inverse)
    xp.reciprocal(xp.maximum(inverse, 1, out=inverse), out=inverse)
    xp.multiply(z, inverse, out=y)


def bound_backward(dy: Array, y: Array, inverse: Array, dz: Array) -> None:
    """Fill dz from dy, both as real and imaginary parts. Outside the unit circle, the part of dy along y is removed."""
    xp = array_module(dy=dy)
    # y = z / |z| where |z| > 1, else z                                                                          (A1)
    along = y[0] * dy[0]
    along += y[1] * dy[1]
    along *= xp.less(inverse, 1, out=xp.empty_like(inverse))
    xp.multiply(y, along, out=dz)
    xp.subtract(dy, dz, out=dz)
    dz *= inverse


# -------------------------------------------------------------------------------------------------------- one time step


class StepViews(NamedTuple):
    """The arrays of one time step that backward needs; `parts` are real and imaginary parts."""

    gates: Array  # (3, D, B): f, i, o
    pairs: Array  # (3, N, D, B) complex: keys and values after bound
    pairs_parts: Array  # (2, 3, N, D, B): the same
    pairs_inverse: Array  # (3, N, D, B): their 1 / max(1, |z|)
    c_before: Array  # (S, D, B) complex
    c: Array
    read: Array  # (2, N, D, B): bound(m_n)
    read_inverse: Array  # (N, D, B)
    total: Array  # (2, D, B): read, summed over heads


class Cell:
    """One time step from z (3 + 6 N, D, B), forward and backward. An object serves all steps of one shape."""

    def __init__(self, xp: ModuleType, heads: int, copies: int, size: int, batch_size: int, dtype: Any) -> None:
        self._xp, self._heads, self._copies, self._size, self._batch_size = xp, heads, copies, size, batch_size
        self._real, self._complex = numpy.dtype(dtype), numpy.result_type(dtype, numpy.complex64)
        self._gates = xp.empty((3, size, batch_size), self._complex)
        # for one head at a time, so that they stay in a core's cache
        self._key, self._product, self._moved = (xp.empty((copies, size, batch_size), self._complex) for _ in range(3))
        order = permutations(copies, size)
        self._order = xp.asarray(order)
        # _back[s, i]: the row, among the S D rows of all copies, to which copy s moves row i of a key
        self._back = xp.asarray(numpy.argsort(order, axis=1) + size * numpy.arange(copies)[:, None])

    def views(self, steps: int) -> list[StepViews]:
        """Return the views of `steps` steps, in new buffers."""

        def empty(*shape: int, dtype: Any = self._real) -> Array:
            return self._xp.empty((*shape, self._size, self._batch_size), dtype)

        n = self._heads
        c = empty(steps + 1, self._copies, dtype=self._complex)
        gates, pairs, parts = empty(steps, 3), empty(steps, 3, n, dtype=self._complex), empty(steps, 2, 3, n)
        inverse, read, read_inverse, total = empty(steps, 3, n), empty(steps, 2, n), empty(steps, n), empty(steps, 2)
        arrays = gates, pairs, parts, inverse, c[:-1], c[1:], read, read_inverse, total
        return [StepViews(*of_step) for of_step in zip(*arrays, strict=True)]

    def _in_copies(self, key: Array) -> Array:
        """Return P_s key (S, D, B) for all s, from key (D, B); valid until the next call."""
        return take(key, self._order, axis=0, out=self._key)

    def _complex_gates(self, at: StepViews) -> Array:
        self._gates[...] = at.gates  # complex times complex is several times faster than complex times real
        return self._gates

    def forward(self, z: Array, at: StepViews, h: Array) -> None:
        """Fill h (H, B) and the rest of `at` from at.c_before and z (3 + 6 N, D, B), which is overwritten."""
        xp, shape = self._xp, z.shape[1:]
        gates = z[:3]  # σ(z) = (1 + tanh(z/2)) / 2
        gates *= 0.5
        xp.tanh(gates, out=gates)
        gates *= 0.5
        xp.add(gates, 0.5, out=at.gates)
        bound(z[3:].reshape(at.pairs_parts.shape), at.pairs_parts, at.pairs_inverse)
        at.pairs.real, at.pairs.imag = at.pairs_parts
        f, i, _ = self._complex_gates(at)

        c = xp.multiply(at.c_before, f, out=at.c)
        for k, value in zip(at.pairs[K], i * at.pairs[U], strict=True):
            c += xp.multiply(self._in_copies(k), value, out=self._product)
        m = xp.empty((2, self._heads, *shape), z.dtype)
        for n, q in enumerate(at.pairs[Q]):
            total = xp.multiply(self._in_copies(q), c, out=self._product).sum(axis=0)
            m[0, n], m[1, n] = total.real, total.imag
        m *= 1 / self._copies
        bound(m, at.read, at.read_inverse)
        at.read.sum(axis=1, out=at.total)
        xp.multiply(at.gates[O], at.total, out=h.reshape(2, *shape))

    def backward(self, dh: Array, dc: Array, at: StepViews, dz: Array) -> None:
        """Fill dz (3 + 6 N, D, B) from dh (H, B) and dc (S, D, B); replace dc by the gradient of at.c_before.

        dc is complex, ∂L/∂Re - i ∂L/∂Im, like all complex gradients here.
        """
        xp, shape = self._xp, dz.shape[1:]
        f, i, _ = self._complex_gates(at)
        dpairs, dgates, dparts = (xp.empty_like(array) for array in (at.pairs, at.gates, at.pairs_parts))
        dh = dh.reshape(2, *shape)

        # h(t+1) = o ⊙ Σ_n bound(m_n)                                                                            (A2)
        (dh * at.total).sum(axis=0, out=dgates[O])
        dm_parts = xp.empty_like(at.read)
        bound_backward((dh * at.gates[O])[:, None], at.read, at.read_inverse, dm_parts)
        # m_n = 1/S Σ_s (P_s q_n) ⊙ c_s(t+1)                                                                     (A3)
        dm_parts *= 1 / self._copies
        for q, dm_re, dm_im, dq in zip(at.pairs[Q], *dm_parts, dpairs[Q], strict=True):
            dm = dm_re - 1j * dm_im  # ∂L/∂Re - i ∂L/∂Im, as all complex gradients here
            self._gather(xp.multiply(at.c, dm, out=self._product), out=dq)
            dc += xp.multiply(self._in_copies(q), dm, out=self._product)
        # c_s(t+1) = f ⊙ c_s(t) + Σ_n (P_s k_n) ⊙ (i ⊙ u_n)                                                      (A4)
        _of_real(at.c_before, dc, self._product).sum(axis=0, out=dgates[F])
        dvalues = xp.empty_like(dpairs[U])
        for k, value, dvalue, dk in zip(at.pairs[K], i * at.pairs[U], dvalues, dpairs[K], strict=True):
            self._gather(xp.multiply(dc, value, out=self._product), out=dk)
            xp.multiply(self._in_copies(k), dc, out=self._product).sum(axis=0, out=dvalue)
        dc *= f
        _of_real(at.pairs[U], dvalues, xp.empty_like(dvalues)).sum(axis=0, out=dgates[I])
        xp.multiply(dvalues, i, out=dpairs[U])
        # k_n, q_n, u_n = bound(z)                                                                               (A1)
        dparts[0] = dpairs.real
        xp.negative(dpairs.imag, out=dparts[1])
        bound_backward(dparts, at.pairs_parts, at.pairs_inverse, dz[3:].reshape(dparts.shape))
        # f, i, o = σ(z)                                                                                         (M3)
        xp.subtract(1, at.gates, out=dz[:3])
        dz[:3] *= at.gates
        dz[:3] *= dgates

    def _gather(self, dkey: Array, out: Array) -> None:
        """Fill `out` with the gradient of a key (D, B), from the gradients dkey (S, D, B) of its copies."""
        # P_s key, for all s                                                                                     (A5)
        moved = take(dkey.reshape(-1, dkey.shape[-1]), self._back, axis=0, out=self._moved)
        moved.sum(axis=0, out=out)


def _of_real(a: Array, dy: Array, scratch: Array) -> Array:
    """Return the gradient Re(a dy) of a real factor r, where y = r a and a is complex."""
    return array_module(a=a).multiply(a, dy, out=scratch).real


# ------------------------------------------------------------------------------------------------------ whole sequences


class Buffers:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, heads: int, copies: int
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        blocks = (3 + 6 * heads, hidden_size // 2)
        self.h = xp.empty((steps + 1, hidden_size, batch_size), dtype)  # h[0] is h0
        self.z = xp.empty((*blocks, steps, batch_size), dtype)  # C x + b; backward puts its gradient here
        self.z_now = xp.empty((*blocks, batch_size), dtype)  # z of one step
        self.cell = Cell(xp, heads, copies, hidden_size // 2, batch_size, dtype)
        self.steps = self.cell.views(steps)


@dataclass
class Cache(BaseCache):
    """All that `backward` depends on, and nothing else. Valid until the next forward with the same workspace."""

    buffers: Buffers


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, heads: int = 3, forget_bias: float = 1.0,
    dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return W (M, H/2, H) uniform in ±1/√H, C (M, H/2, I) uniform in ±1/√I, and b (M, H/2), with M = 3 + 6 heads.

    b is forget_bias for the forget gate, and zero elsewhere. Raises ValueError for an odd hidden_size.
    """
    check_init(rng, input_size, hidden_size, dtype)
    checks.count("heads", heads, least=1)
    checks.finite("forget_bias", forget_bias, dtype)
    if hidden_size % 2:
        raise ValueError(f"hidden_size: expected an even number, two for a complex one, got {hidden_size}")
    blocks = 3 + 6 * heads, hidden_size // 2
    bias = numpy.zeros(blocks)
    bias[F] = forget_bias
    params = {"W": uniform(rng, *blocks, hidden_size), "C": uniform(rng, *blocks, input_size), "b": bias}
    return {name: value.astype(dtype) for name, value in params.items()}


@exclusive
def forward(
    params: Params, x: Array | ops.Embedded, h0: Array | None = None, *, c0: Array | None = None, copies: int = 4,
    workspace: Workspace | None = None,
) -> tuple[Array, Cache]:  # fmt: skip
    """Return h (T, B, H) for whole sequences x (T, B, I), and the cache that `backward` needs.

    x may also be ops.embedding(table, tokens), with a table (V, I) and tokens (T, B); dx is then the table's gradient.
    h0 (B, H) and c0 (B, copies, H) are the hidden state and the memory before the first step, real parts first. None is
    zero. A workspace reuses buffers from one forward to the next. All arrays share one dtype and one device, and must
    not be changed before backward has been called. Raises ValueError or TypeError that names the argument at fault.
    """
    xp, heads = _check(params, copies, x=ops.input_array(x), **checks.given(h0=h0, c0=c0))
    ops.refuse_closed_loop(x, "the associative LSTM; take another layer")
    check_sequences(params, x)
    W, shape = params["W"], (*x.shape[:2], params["W"].shape[-1])
    h0 = initial("h0", h0, shape[1:], W)
    c0 = initial("c0", c0, (shape[1], copies, shape[2]), W)

    workspace = workspace or Workspace()
    ticket = workspace.begin()
    key = (xp, shape, W.dtype, heads, copies)
    buffers = workspace.buffers(key, lambda: Buffers(xp, shape, W.dtype, heads, copies))
    W_all, z_now = W.reshape(-1, shape[2]), buffers.z_now.reshape(-1, shape[1])

    _from_input(x, params, out=buffers.z)
    buffers.h[0], buffers.steps[0].c_before[...] = h0.T, _to_complex(c0)
    for t, at in enumerate(buffers.steps):
        xp.matmul(W_all, buffers.h[t], out=z_now)
        buffers.z_now += buffers.z[:, :, t]
        buffers.cell.forward(buffers.z_now, at, buffers.h[t + 1])
    again = partial(forward, params, x, h0, c0=c0, copies=copies)
    return buffers.h[1:].swapaxes(1, 2).copy(), Cache(params, x, workspace, ticket, again, buffers)


@exclusive
@renamed(also="extra")
def backward(
    dh: Array, cache: Cache, extra: Sequence[str] = (), dstate: State | None = None
) -> tuple[Params, Array, Array]:  # fmt: skip
    """Return the gradients of `forward`, (grads, dx, dh0), from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step alone. grads has the keys of params; dx (T, B, I); dh0 (B, H). `extra`
    may name one more key of grads: "c0" (B, copies, H).
    dstate is the gradient of the state that final_state returns, if the loss depends on it; None is zero.

    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    check_cache(cache, Cache)
    extra = requested(extra, ("c0",))
    params, buffers = cache.params, cache.buffers
    h = buffers.h.swapaxes(1, 2)
    xp, dhs = array_module(h=h), gradients_of_steps(dh, h[1:])
    W, steps = params["W"], len(buffers.steps)
    W_transposed, dz_now = W.reshape(-1, W.shape[-1]).T, buffers.z_now.reshape(-1, h.shape[1])
    dh_next, dc = xp.zeros_like(buffers.h[0]), xp.zeros_like(buffers.steps[0].c)  # from the steps after t
    batch_size, copies = h.shape[1], len(dc)
    dh_last, dc_last = gradient_of_state(dstate, State, h, h.shape[1:], (batch_size, copies, h.shape[-1]))
    if dh_last is not None:
        dh_next += dh_last.T
        dc += _to_complex(dc_last).conj()

    for t in reversed(range(steps)):
        if (dh_t := dhs[t]) is not None:
            dh_next += dh_t.T
        buffers.cell.backward(dh_next, dc, buffers.steps[t], buffers.z_now)
        buffers.z[:, :, t] = buffers.z_now
        # z(t+1) = W h(t) + C x(t) + b                                                                            (F7)
        xp.matmul(W_transposed, dz_now, out=dh_next)

    rows = buffers.z.reshape(-1, *buffers.z.shape[2:]).transpose(1, 2, 0)  # (T, B, (3 + 6 N) D)
    flat, dx = affine_backward(rows, {"C": params["C"].reshape(-1, params["C"].shape[-1])}, cache.x, h[:-1])
    grads = {name: value.reshape(params[name].shape) for name, value in flat.items()}
    return grads | ({"c0": _to_real(dc.conj())} if extra else {}), dx, dh_next.T.copy()


@exclusive
def final_state(cache: Cache) -> State:
    """Return the state after the last step. Pass its h and c to the next forward as h0 and c0 to continue."""
    check_cache(cache, Cache)
    return State(cache.buffers.h[-1].T.copy(), _to_real(cache.buffers.steps[-1].c))


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


def step(params: Params, x: Array, state: State) -> tuple[Array, State]:
    """Return h (B, H) and the next state, from x (B, I) and a state. Equals `forward` up to rounding error.

    The given state is not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    checks.instance("state", state, State, "make it with initial_state")
    array_module(**{"state.h": state.h, "state.c": state.c})
    checks.shape("state.c", state.c, ("B", "copies", "H"), "make it with initial_state")
    batch_size, copies, hidden_size = state.c.shape
    xp, heads = _check(params, copies, x=x, **{"state.h": state.h, "state.c": state.c})
    W = params["W"]
    checks.shape("state.h", state.h, (batch_size, W.shape[-1]), "make it with initial_state")
    checks.shape("state.c", state.c, (batch_size, copies, W.shape[-1]), "make it with initial_state")
    checks.shape("x", x, (batch_size, params["C"].shape[-1]), "x is (sequences, inputs) for the sequences of state")
    cell = Cell(xp, heads, copies, hidden_size // 2, batch_size, W.dtype)
    (at,) = cell.views(1)
    at.c_before[...] = _to_complex(state.c)
    z = xp.empty((*W.shape[:2], 1, batch_size), W.dtype)
    _from_input(x[None], params, out=z)
    h = xp.empty((hidden_size, batch_size), W.dtype)
    cell.forward(z[:, :, 0] + W @ state.h.T, at, h)
    return h.T.copy(), State(h.T.copy(), _to_real(at.c))


class Stepper(BaseStepper):
    """`step` without end, several times faster; as fast_weights.Stepper, with the states of this layer."""

    State = State

    def __init__(
        self, params: Params, batch_size: int = 1, *, h0: Array | None = None, c0: Array | None = None, copies: int = 4
    ) -> None:  # fmt: skip
        xp, heads = _check(params, copies, **checks.given(h0=h0, c0=c0))
        super().__init__(params, batch_size, copies=copies)
        W = params["W"]
        cell = Cell(xp, heads, copies, W.shape[1], batch_size, W.dtype)
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
    """Fill `out` (3 + 6 N, D, T, B) with C x + b, for x (T, B, I)."""
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


def _check(params: Params, copies: int, **arrays: Array) -> tuple[ModuleType, int]:
    """Check the parameters and the number of copies; return the module and the number of heads."""
    checks.count("copies", copies, least=1)
    checks.instance("params", params, dict, "make it with init()")
    checks.keys("params", params, ("W", "C", "b"))
    array_module(**params)
    blocks = params["W"].shape[:1]
    if params["W"].ndim != 3 or blocks[0] < 9 or blocks[0] % 6 != 3:
        wanted = "(3 + 6 heads, H/2, H)"
        raise ValueError(f"W: expected shape {wanted}, got {params['W'].shape}; make it with init()")
    return check_params(params, blocks, arrays, parts=2), (blocks[0] - 3) // 6
