"""The associative LSTM: an LSTM whose cells are a holographic memory, with several heads.

Danihelka, Wayne, Uria, Kalchbrenner, Graves 2016, arXiv 1602.03032, "Associative Long Short-Term Memory".

H units are D = H/2 complex numbers, the real parts first: h = [Re; Im]. N heads, S copies, n = 1 .. N, s = 1 .. S:

    z(t+1)   = W h(t) + C x(t) + b         in blocks of D rows: three of gates, then Re and Im of keys and values
    f, i, o  = σ(z_f), σ(z_i), σ(z_o)      gates, D real numbers each
    k_n, q_n, u_n = bound(z_k,n), bound(z_q,n), bound(z_u,n)    input key, output key, value: D complex ones each
    c_s(t+1) = f ⊙ c_s(t) + Σ_n P_s k_n ⊙ (i ⊙ u_n)    write: the copies differ by their permutations
    m_n      = 1/S Σ_s P_s q_n ⊙ c_s(t+1)              read: what other pairs have left averages out
    h(t+1)   = o ⊙ Σ_n bound(m_n)

    bound(z) = z / max(1, |z|),   ⊙ is the product of complex numbers, entry by entry

How several heads are joined is a choice made here: they share the gates and the memory, each writes a pair and reads
with a key of its own, and what they read is added up, so that h has H units however many heads there are. (To add up
the m_n instead would make one read of them all.) The permutations P_s of the D numbers are random, and fixed.

Inside, the batch is the last axis, so that a permutation moves whole rows. In code, which counts from 0, x[t] is x(t)
and the returned h[t] is h(t+1). T steps, B sequences, I inputs. The gradient of a complex number is ∂L/∂Re + i ∂L/∂Im.
Numbers such as (A1) point into DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as cached
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module
from .recurrent import (
    Params,
    affine_backward,
    check_gradient,
    check_init,
    check_params,
    check_sequences,
    initial,
    requested,
    uniform,
)  # fmt: skip
from .workspace import Workspace

F, I, O = range(3)  # the gates  # noqa: E741
K, Q, U = range(3)  # what each head has: input key, output key, value


class State(NamedTuple):
    """Between two steps: h (B, H), the hidden state, and c (B, S, H), the copies of the memory, real parts first."""

    h: Array
    c: Array


@cached
def permutations(copies: int, size: int) -> numpy.ndarray:
    """P_s for each copy: (copies, size) indices. Always the same ones, for parameters are learned for them."""
    rng = numpy.random.RandomState(0)  # whose numbers NumPy promises never to change
    return numpy.stack([rng.permutation(size) for _ in range(copies)])


# --------------------------------------------------------------------------------------------------------------- bound


def bound(re: Array, im: Array, y: Array, inverse: Array) -> None:
    """y = z / max(1, |z|) for z = re + i im; y complex and inverse = 1 / max(1, |z|), both filled."""
    xp = array_module(y=y)
    xp.multiply(re, re, out=inverse)
    inverse += im * im
    xp.sqrt(inverse, out=inverse)
    xp.reciprocal(xp.maximum(inverse, 1, out=inverse), out=inverse)
    xp.multiply(re, inverse, out=y.real)
    xp.multiply(im, inverse, out=y.imag)


def bound_backward(dy: Array, y: Array, inverse: Array, dre: Array, dim: Array) -> None:
    """dre and dim, filled, from the complex dy. Outside the unit circle only what is at right angles to y remains."""
    xp = array_module(dy=dy)
    # y = z / |z| where |z| > 1, else z                                                                          (A1)
    radial = _real(y, dy)
    radial *= xp.less(inverse, 1, out=xp.empty_like(inverse))
    for dpart, dy_part, y_part in ((dre, dy.real, y.real), (dim, dy.imag, y.imag)):
        xp.multiply(radial, y_part, out=dpart)
        xp.subtract(dy_part, dpart, out=dpart)
        dpart *= inverse


# -------------------------------------------------------------------------------------------------------- one time step


class Moment(NamedTuple):
    """What one step leaves for its gradient."""

    gates: Array  # (3, D, B): f, i, o
    pairs: Array  # (3, N, D, B) complex: keys and values after bound
    pairs_inverse: Array  # (3, N, D, B): their 1 / max(1, |z|)
    c_before: Array  # (S, D, B) complex
    c: Array
    read: Array  # (N, D, B) complex: bound(m_n)
    read_inverse: Array  # (N, D, B)
    total: Array  # (D, B) complex: their sum


class Cell:
    """One step, from z (3 + 6 N, D, B), and back. Made once for all steps of one shape."""

    def __init__(self, xp: ModuleType, heads: int, copies: int, size: int, batch_size: int, dtype: Any) -> None:
        self._xp, self._heads, self._copies, self._size = xp, heads, copies, size
        complex_dtype = numpy.result_type(dtype, numpy.complex64)
        of_heads = (heads, copies, size, batch_size)
        self._keys, self._dkeys = (xp.empty((2, *of_heads), complex_dtype) for _ in range(2))
        self._products = xp.empty(of_heads, complex_dtype)
        self._gates = xp.empty((3, size, batch_size), complex_dtype)
        order = permutations(copies, size)
        self._order = xp.asarray(order)
        # where among all copies' rows (S D) each row of each copy went
        self._back = xp.asarray(numpy.argsort(order, axis=1) + size * numpy.arange(copies)[:, None])

    def tape(self, steps: int) -> list[Moment]:
        """Room for what `steps` steps leave."""
        xp, n, s, d, b = self._xp, self._heads, self._copies, self._size, self._gates.shape[-1]
        dtype = self._gates.dtype
        real = self._gates.real.dtype
        c = xp.empty((steps + 1, s, d, b), dtype)
        arrays = [
            xp.empty((steps, 3, d, b), real), xp.empty((steps, 3, n, d, b), dtype), xp.empty((steps, 3, n, d, b), real),
            c[:-1], c[1:], xp.empty((steps, n, d, b), dtype), xp.empty((steps, n, d, b), real),
            xp.empty((steps, d, b), dtype),
        ]  # fmt: skip
        return [Moment(*(array[t] for array in arrays)) for t in range(steps)]

    def _prepare(self, at: Moment) -> tuple[Array, Array, Array]:
        """The keys of all copies, P_s k_n and P_s q_n (2, N, S, D, B), the gates as complex numbers, and i ⊙ u_n."""
        keys = self._xp.take(at.pairs[:U], self._order, axis=-2, out=self._keys, mode="wrap")
        self._gates[...] = at.gates  # NumPy multiplies complex numbers by complex ones several times faster
        return keys, self._gates, self._gates[I] * at.pairs[U]

    def forward(self, z: Array, at: Moment, h: Array) -> None:
        """h (H, B), filled, from z (3 + 6 N, D, B), which is overwritten, and at.c_before. Fills the rest of `at`."""
        xp, n, d = self._xp, self._heads, self._size
        gates = z[:3]  # σ(z) = (1 + tanh(z/2)) / 2
        gates *= 0.5
        xp.tanh(gates, out=gates)
        gates *= 0.5
        xp.add(gates, 0.5, out=at.gates)
        re, im = z[3:].reshape(2, 3, n, *z.shape[1:])
        bound(re, im, at.pairs, at.pairs_inverse)
        keys, (f, _, _), values = self._prepare(at)

        c = xp.multiply(at.c_before, f, out=at.c)
        c += xp.multiply(keys[K], values[:, None], out=self._products).sum(axis=0)
        m = xp.multiply(keys[Q], c, out=self._products).sum(axis=1)
        m *= 1 / self._copies
        bound(m.real, m.imag, at.read, at.read_inverse)
        at.read.sum(axis=0, out=at.total)
        xp.multiply(at.gates[O], at.total.real, out=h[:d])
        xp.multiply(at.gates[O], at.total.imag, out=h[d:])

    def backward(self, dh: Array, dc: Array, at: Moment, dz: Array) -> None:
        """dz (3 + 6 N, D, B), filled, from dh (H, B) and dc (S, D, B), which becomes the gradient of at.c_before."""
        xp, n, d = self._xp, self._heads, self._size
        keys, (f, i, o), values = self._prepare(at)
        dgates, dpairs = xp.empty_like(at.gates), xp.empty_like(at.pairs)
        dkeys, products = self._dkeys, self._products
        dtotal = xp.empty_like(at.total)
        dtotal.real, dtotal.imag = dh[:d], dh[d:]

        # h(t+1) = o ⊙ Σ_n bound(m_n)                                                                            (A2)
        dgates[O] = _real(at.total, dtotal)
        dtotal *= o
        dm = xp.empty_like(at.read)
        bound_backward(dtotal, at.read, at.read_inverse, dm.real, dm.imag)
        # m_n = 1/S Σ_s P_s q_n ⊙ c_s(t+1)                                                                       (A3)
        dm *= 1 / self._copies
        dm = dm[:, None]
        xp.multiply(dm, at.c.conj(), out=dkeys[Q])
        xp.conjugate(keys, out=keys)
        dc += xp.multiply(dm, keys[Q], out=products).sum(axis=0)
        # c_s(t+1) = f ⊙ c_s(t) + Σ_n P_s k_n ⊙ (i ⊙ u_n)                                                        (A4)
        dgates[F] = _real(at.c_before, dc).sum(axis=0)
        xp.multiply(dc, values.conj()[:, None], out=dkeys[K])
        dvalues = xp.multiply(dc, keys[K], out=products).sum(axis=1)
        dc *= f
        dgates[I] = _real(at.pairs[U], dvalues).sum(axis=0)
        xp.multiply(dvalues, i, out=dpairs[U])
        # keys = P_s k_n and P_s q_n                                                                             (A5)
        rows = dkeys.reshape(2, n, -1, dkeys.shape[-1])
        xp.take(rows, self._back, axis=-2, out=keys, mode="wrap").sum(axis=2, out=dpairs[:U])
        # k_n, q_n, u_n = bound(z)                                                                               (A1)
        dre, dim = dz[3:].reshape(2, 3, n, *dz.shape[1:])
        bound_backward(dpairs, at.pairs, at.pairs_inverse, dre, dim)
        # f, i, o = σ(z)                                                                                         (M3)
        xp.subtract(1, at.gates, out=dz[:3])
        dz[:3] *= at.gates
        dz[:3] *= dgates


def _real(a: Array, da: Array) -> Array:
    """Re(conj(a) da): the gradient of a real factor of a."""
    product = a.real * da.real
    product += a.imag * da.imag
    return product


# ------------------------------------------------------------------------------------------------------ whole sequences


class Tape:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, heads: int, copies: int
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        blocks = (3 + 6 * heads, hidden_size // 2)
        self.h = xp.empty((steps + 1, hidden_size, batch_size), dtype)  # h[0] is h0
        self.z = xp.empty((*blocks, steps, batch_size), dtype)  # C x + b; backward puts its gradient here
        self.z_now = xp.empty((*blocks, batch_size), dtype)  # of one step
        self.cell = Cell(xp, heads, copies, hidden_size // 2, batch_size, dtype)
        self.moments = self.cell.tape(steps)


@dataclass
class Cache:
    """What `backward` depends on, and nothing else. Good until the next forward with the same workspace."""

    params: Params
    x: Array | ops.Embedded  # (T, B, I)
    tape: Tape
    workspace: Workspace
    ticket: int


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, heads: int = 3, forget_bias: float = 1.0,
    dtype: str = "float32",
) -> Params:  # fmt: skip
    """New parameters: W (M, H/2, H) uniform in ±1/√H, C (M, H/2, I) uniform in ±1/√I, b (M, H/2), M = 3 + 6 heads.

    b is zero but for the forget gate's. Raises ValueError for an odd hidden_size.
    """
    check_init(rng, input_size, hidden_size, dtype)
    checks.count("heads", heads, least=1)
    checks.number("forget_bias", forget_bias)
    if hidden_size % 2:
        raise ValueError(f"hidden_size: expected an even number, two for a complex one, got {hidden_size}")
    blocks = 3 + 6 * heads, hidden_size // 2
    bias = numpy.zeros(blocks)
    bias[F] = forget_bias
    params = {"W": uniform(rng, *blocks, hidden_size), "C": uniform(rng, *blocks, input_size), "b": bias}
    return {name: value.astype(dtype) for name, value in params.items()}


def forward(
    params: Params, x: Array | ops.Embedded, h0: Array | None = None, *, c0: Array | None = None, copies: int = 4,
    workspace: Workspace | None = None,
) -> tuple[Array, Cache]:  # fmt: skip
    """Runs the layer over whole sequences: x (T, B, I) to h (T, B, H), and the cache that `backward` needs.

    x may also be ops.embedding(table, tokens), a table (V, I) and tokens (T, B): dx is then the table's gradient.
    h0 (B, H) and c0 (B, copies, H) are the state and the memory before the first step, real parts first, zero if None;
    a workspace reuses buffers from one forward to the next. All arrays share one dtype and one device, and must not be
    changed before backward has been called. Raises ValueError or TypeError that names the argument at fault.
    """
    xp, heads = _check(params, copies, x=ops.input_array(x), h0=h0, c0=c0)
    check_sequences(params, x)
    W, shape = params["W"], (*x.shape[:2], params["W"].shape[-1])
    h0 = initial("h0", h0, shape[1:], W)
    c0 = initial("c0", c0, (shape[1], copies, shape[2]), W)

    workspace = workspace or Workspace()
    ticket = workspace.begin()
    key = (xp, shape, W.dtype, heads, copies)
    tape = workspace.buffers(key, lambda: Tape(xp, shape, W.dtype, heads, copies))
    W_all, z_now = W.reshape(-1, shape[2]), tape.z_now.reshape(-1, shape[1])

    _from_input(x, params, out=tape.z)
    tape.h[0], tape.moments[0].c_before[...] = h0.T, _to_complex(c0)
    for t, at in enumerate(tape.moments):
        xp.matmul(W_all, tape.h[t], out=z_now)
        tape.z_now += tape.z[:, :, t]
        tape.cell.forward(tape.z_now, at, tape.h[t + 1])
    return xp.ascontiguousarray(tape.h[1:].swapaxes(1, 2)), Cache(params, x, tape, workspace, ticket)


def backward(dh: Array, cache: Cache, also: Sequence[str] = ()) -> tuple[Params, Array, Array]:
    """The gradients of `forward`: (grads, dx, dh0) from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step alone. grads has the keys of params; dx (T, B, I); dh0 (B, H). `also` asks
    for one more key in grads: "c0" (B, copies, H).
    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    checks.instance("cache", cache, Cache, "forward returns it: h, cache = forward(...)")
    cache.workspace.check(cache.ticket)
    also = requested(also, ("c0",))
    params, tape = cache.params, cache.tape
    h = tape.h.swapaxes(1, 2)
    xp, last_only = array_module(h=h), check_gradient(dh, h[1:])
    W, steps = params["W"], len(tape.moments)
    W_transposed, dz_now = W.reshape(-1, W.shape[-1]).T, tape.z_now.reshape(-1, h.shape[1])
    dh_next, dc = xp.zeros_like(tape.h[0]), xp.zeros_like(tape.moments[0].c)  # from the steps after t

    for t in reversed(range(steps)):
        if not last_only:
            dh_next += dh[t].T
        elif t == steps - 1:
            dh_next += dh.T
        tape.cell.backward(dh_next, dc, tape.moments[t], tape.z_now)
        tape.z[:, :, t] = tape.z_now
        # z(t+1) = W h(t) + C x(t) + b                                                                            (F7)
        xp.matmul(W_transposed, dz_now, out=dh_next)

    rows = tape.z.reshape(-1, *tape.z.shape[2:]).transpose(1, 2, 0)  # (T, B, (3 + 6 N) D)
    flat, dx = affine_backward(rows, {"C": params["C"].reshape(-1, params["C"].shape[-1])}, cache.x, h[:-1])
    grads = {name: value.reshape(params[name].shape) for name, value in flat.items()}
    return grads | ({"c0": _to_real(dc)} if also else {}), dx, dh_next.T.copy()


def final_state(cache: Cache) -> State:
    """The state after the last step of `forward`: give its h and c to the next forward as h0 and c0 to go on."""
    cache.workspace.check(cache.ticket)
    return State(cache.tape.h[-1].T.copy(), _to_real(cache.tape.moments[-1].c))


# --------------------------------------------------------------------------------------------------- one step at a time


def initial_state(
    params: Params, batch_size: int, h0: Array | None = None, c0: Array | None = None, *, copies: int = 4
) -> State:
    """The state before the first step, zero unless h0 (B, H) and c0 (B, copies, H) are given."""
    _check(params, copies, h0=h0, c0=c0)
    checks.count("batch_size", batch_size, least=1)
    W = params["W"]
    c = initial("c0", c0, (batch_size, copies, W.shape[-1]), W)
    return State(initial("h0", h0, (batch_size, W.shape[-1]), W).copy(), c.copy())


def step(params: Params, x: Array, state: State) -> tuple[Array, State]:
    """One step: x (B, I) and the state before it to h (B, H) and the state after it. Equals `forward`, to rounding.

    The state given is not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    checks.instance("state", state, State, "make it with initial_state")
    checks.shape("state.c", state.c, ("B", "copies", "H"), "make it with initial_state")
    batch_size, copies, hidden_size = state.c.shape
    xp, heads = _check(params, copies, x=x, **{"state.h": state.h, "state.c": state.c})
    W = params["W"]
    checks.shape("state.h", state.h, (batch_size, W.shape[-1]), "make it with initial_state")
    checks.shape("state.c", state.c, (batch_size, copies, W.shape[-1]), "make it with initial_state")
    checks.shape("x", x, (batch_size, params["C"].shape[-1]), "x is (sequences, inputs) for the sequences of state")
    cell = Cell(xp, heads, copies, hidden_size // 2, batch_size, W.dtype)
    (at,) = cell.tape(1)
    at.c_before[...] = _to_complex(state.c)
    z = xp.empty((*W.shape[:2], 1, batch_size), W.dtype)
    _from_input(x[None], params, out=z)
    h = xp.empty((hidden_size, batch_size), W.dtype)
    cell.forward(z[:, :, 0] + W @ state.h.T, at, h)
    return h.T.copy(), State(h.T.copy(), _to_real(at.c))


def _from_input(x: Array | ops.Embedded, params: Params, out: Array) -> None:
    """C x + b, laid out as (3 + 6 N, D, T, B), for x (T, B, I)."""
    xp, C = array_module(C=params["C"]), params["C"].reshape(-1, params["C"].shape[-1])
    inputs, b = x.table if isinstance(x, ops.Embedded) else x.reshape(-1, x.shape[-1]), params["b"].reshape(-1, 1)
    if isinstance(x, ops.Embedded):
        xp.take(C @ inputs.T + b, x.tokens, axis=1, out=out.reshape(len(C), *x.tokens.shape), mode="wrap")
    else:
        z = xp.matmul(C, inputs.T, out=out.reshape(len(C), -1))
        z += b


def _to_complex(c: Array) -> Array:
    """(B, S, H), real parts first, to (S, D, B)."""
    re, im = c.transpose(1, 2, 0).reshape(c.shape[1], 2, -1, c.shape[0]).swapaxes(0, 1)
    return re + 1j * im


def _to_real(c: Array) -> Array:
    """(S, D, B) complex to (B, S, H), real parts first."""
    return array_module(c=c).concatenate([c.real, c.imag], axis=1).transpose(2, 0, 1).copy()


def _check(params: Params, copies: int, **arrays: Array | None) -> tuple[ModuleType, int]:
    """Checks the parameters and the number of copies; returns the module and the number of heads."""
    checks.count("copies", copies, least=1)
    checks.instance("params", params, dict, "make it with init()")
    checks.keys("params", params, ("W", "C", "b"))
    blocks = params["W"].shape[:1]
    if params["W"].ndim != 3 or blocks[0] < 9 or blocks[0] % 6 != 3:
        wanted = "(3 + 6 heads, H/2, H)"
        raise ValueError(f"W: expected shape {wanted}, got {params['W'].shape}; make it with init()")
    return check_params(params, blocks, parts=2, **arrays), (blocks[0] - 3) // 6
