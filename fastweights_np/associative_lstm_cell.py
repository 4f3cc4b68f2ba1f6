"""One time step of the associative LSTM, forward and backward: from z to h and the memory, and back.

The equations and the symbols are in associative_lstm.py. The batch is the last axis: a permutation then moves whole
rows. The gradient of a complex number is ∂L/∂Re - i ∂L/∂Im. Numbers such as (A1) are in DERIVATION.md.
"""

from __future__ import annotations

from functools import cache as cached
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import ops
from .backend import Array, array_module, take
from .recurrent import Params, Saved

F, I, O = range(3)  # the gates  # noqa: E741


class Heads(NamedTuple):
    """N heads, and how the blocks of z are divided among their keys and values."""

    number: int  # N
    shared_value: bool = False  # whether all heads write the same value

    @property
    def pairs(self) -> int:
        """Return the number of keys and values: N input keys, N output keys, and N values or one."""
        return 2 * self.number + (1 if self.shared_value else self.number)

    @property
    def blocks(self) -> int:
        """Return the number of blocks of z: the gates, and a real and an imaginary part of each key and value."""
        return 3 + 2 * self.pairs

    def split(self, pairs: Array) -> tuple[Array, Array, Array]:
        """Return the input keys, the output keys and the values among the pairs (..., keys and values, D, B)."""
        n = self.number
        return pairs[..., :n, :, :], pairs[..., n : 2 * n, :, :], pairs[..., 2 * n :, :, :]

    def clear_values(self, W: Array) -> None:
        """Set the blocks of W (blocks, D, H) that belong to the values to zero."""
        # z_u = C_u x(t) + b_u: W_u = 0, or dW_u = 0                                                             (A8)
        for first in (3, 3 + self.pairs):  # the real parts, the imaginary parts
            W[first + 2 * self.number : first + self.pairs] = 0


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
    pairs: Array  # (3 N, D, B) complex: keys and values after bound; with a shared value (2 N + 1, D, B)
    k: Array  # (N, D, B): the input keys among them
    q: Array  # (N, D, B): the output keys
    u: Array  # (N, D, B): the values; a shared one (1, D, B)
    pairs_parts: Array  # (2, 3 N, D, B): pairs as real and imaginary parts
    pairs_inverse: Array  # (3 N, D, B): their 1 / max(1, |z|)
    c_before: Array  # (S, D, B) complex
    c: Array
    read: Array  # (2, N, D, B): bound(m_n)
    read_inverse: Array  # (N, D, B)
    total: Array  # (2, D, B): read, summed over heads
    saved: Saved  # from layer norm, (blocks, B, D)


class Cell:
    """One time step from z (blocks, D, B), forward and backward. An object serves all steps of one shape."""

    def __init__(
        self, xp: ModuleType, heads: Heads, copies: int, size: int, batch_size: int, dtype: Any, layer_norm: bool
    ) -> None:  # fmt: skip
        self._xp, self._heads, self._copies, self._size, self._batch_size = xp, heads, copies, size, batch_size
        self._real, self._complex = numpy.dtype(dtype), numpy.result_type(dtype, numpy.complex64)
        self._gates = xp.empty((3, size, batch_size), self._complex)
        # for one head at a time, so that they stay in a core's cache
        self._key, self._product, self._moved = (xp.empty((copies, size, batch_size), self._complex) for _ in range(3))
        order = permutations(copies, size)
        self._order = xp.asarray(order)
        # _back[s, i]: the row, among the S D rows of all copies, to which copy s moves row i of a key
        self._back = xp.asarray(numpy.argsort(order, axis=1) + size * numpy.arange(copies)[:, None])
        self._blocks = heads.blocks, size, batch_size
        # the units are its last axis
        self.norm = ops.LayerNorm(xp.empty(self._blocks, dtype).swapaxes(1, 2)) if layer_norm else None

    def load(self, params: Params) -> None:
        """Load the current values of gain and bias, if the layer has them."""
        if self.norm is not None:
            self.norm.load(params["gain"], params["bias"])

    def views(self, steps: int) -> list[StepViews]:
        """Return the views of `steps` steps, in new buffers."""

        def empty(*shape: int, dtype: Any = self._real) -> Array:
            return self._xp.empty((*shape, self._size, self._batch_size), dtype)

        n, m = self._heads.number, self._heads.pairs
        c, pairs = empty(steps + 1, self._copies, dtype=self._complex), empty(steps, m, dtype=self._complex)
        gates, parts, inverse = empty(steps, 3), empty(steps, 2, m), empty(steps, m)
        read, read_inverse, total = empty(steps, 2, n), empty(steps, n), empty(steps, 2)
        keys = pairs, *self._heads.split(pairs), parts, inverse
        arrays = gates, *keys, c[:-1], c[1:], read, read_inverse, total, self._saved(steps)
        return [StepViews(*of_step) for of_step in zip(*arrays, strict=True)]

    def _saved(self, steps: int) -> list[Saved]:
        """Return what layer norm saves at each of `steps` steps, in new buffers, if the layer has layer norm."""
        if self.norm is None:
            return [Saved()] * steps
        blocks, _, batch_size = self._blocks
        normalized = self._xp.empty((steps, *self._blocks), self._real).swapaxes(2, 3)
        inverse_std = self._xp.empty((steps, blocks, batch_size, 1), self._real)
        return [Saved(None, *of_step) for of_step in zip(normalized, inverse_std, strict=True)]

    def _in_copies(self, key: Array) -> Array:
        """Return P_s key (S, D, B) for all s, from key (D, B); valid until the next call."""
        return take(key, self._order, axis=0, out=self._key)

    def _written(self, at: StepViews) -> Array:
        """Return the key of each value that is written: k_n (N, D, B), or their sum (1, D, B) for a shared value."""
        # Σ_n (P_s k_n) ⊙ (i ⊙ u) = P_s (Σ_n k_n) ⊙ (i ⊙ u)                                                      (A7)
        return at.k.sum(axis=0, keepdims=True) if self._heads.shared_value else at.k

    def _complex_gates(self, at: StepViews) -> Array:
        self._gates[...] = at.gates  # complex times complex is several times faster than complex times real
        return self._gates

    def forward(
        self, z: Array, at: StepViews, h: Array, restarted: Array | None = None, ended: Array | None = None
    ) -> None:  # fmt: skip
        """Fill h (H, B) and the rest of `at` from at.c_before and z (blocks, D, B), which is overwritten.

        Sequences that have restarted do not use at.c_before; c of sequences that have ended is kept, and h is 0.
        """
        xp, shape = self._xp, z.shape[1:]
        if self.norm is not None:
            y, _, _ = self.norm.forward(z.swapaxes(1, 2), at.saved.normalized, at.saved.inverse_std)
            z[...] = y.swapaxes(1, 2)
        gates = z[:3]  # σ(z) = (1 + tanh(z/2)) / 2
        gates *= 0.5
        xp.tanh(gates, out=gates)
        gates *= 0.5
        xp.add(gates, 0.5, out=at.gates)
        if restarted is not None:
            at.gates[F][:, restarted] = 0
        if ended is not None:
            at.gates[F][:, ended], at.gates[I][:, ended], at.gates[O][:, ended] = 1, 0, 0
        bound(z[3:].reshape(at.pairs_parts.shape), at.pairs_parts, at.pairs_inverse)
        at.pairs.real, at.pairs.imag = at.pairs_parts
        f, i, _ = self._complex_gates(at)

        c = xp.multiply(at.c_before, f, out=at.c)
        for k, value in zip(self._written(at), i * at.u, strict=True):
            c += xp.multiply(self._in_copies(k), value, out=self._product)
        m = xp.empty((2, self._heads.number, *shape), z.dtype)
        for n, q in enumerate(at.q):
            total = xp.multiply(self._in_copies(q), c, out=self._product).sum(axis=0)
            m[0, n], m[1, n] = total.real, total.imag
        m *= 1 / self._copies
        bound(m, at.read, at.read_inverse)
        at.read.sum(axis=1, out=at.total)
        xp.multiply(at.gates[O], at.total, out=h.reshape(2, *shape))

    def backward(self, dh: Array, dc: Array, at: StepViews, dz: Array, dnorm: Array) -> None:
        """Fill dz (blocks, D, B) from dh (H, B) and dc (S, D, B); replace dc by the gradient of at.c_before.

        The gradients of gain and bias are added to dnorm (2, blocks, 1, D). dc is complex, ∂L/∂Re - i ∂L/∂Im, like all
        complex gradients here.
        """
        xp, shape = self._xp, dz.shape[1:]
        f, i, _ = self._complex_gates(at)
        dpairs, dgates, dparts = (xp.empty_like(array) for array in (at.pairs, at.gates, at.pairs_parts))
        dk, dq, du = self._heads.split(dpairs)
        dh = dh.reshape(2, *shape)

        # h(t+1) = o ⊙ Σ_n bound(m_n)                                                                            (A2)
        (dh * at.total).sum(axis=0, out=dgates[O])
        dm_parts = xp.empty_like(at.read)
        bound_backward((dh * at.gates[O])[:, None], at.read, at.read_inverse, dm_parts)
        # m_n = 1/S Σ_s (P_s q_n) ⊙ c_s(t+1)                                                                     (A3)
        dm_parts *= 1 / self._copies
        for q, dm_re, dm_im, dq_n in zip(at.q, *dm_parts, dq, strict=True):
            dm = dm_re - 1j * dm_im  # ∂L/∂Re - i ∂L/∂Im, as all complex gradients here
            self._gather(xp.multiply(at.c, dm, out=self._product), out=dq_n)
            dc += xp.multiply(self._in_copies(q), dm, out=self._product)
        # c_s(t+1) = f ⊙ c_s(t) + Σ_n (P_s k_n) ⊙ (i ⊙ u_n)                                                      (A4)
        _of_real(at.c_before, dc, self._product).sum(axis=0, out=dgates[F])
        dvalues = xp.empty_like(du)
        for k, value, dvalue, dk_n in zip(self._written(at), i * at.u, dvalues, dk[: len(du)], strict=True):
            self._gather(xp.multiply(dc, value, out=self._product), out=dk_n)
            xp.multiply(self._in_copies(k), dc, out=self._product).sum(axis=0, out=dvalue)
        if self._heads.shared_value:
            # the key of the shared value is Σ_n k_n                                                             (A7)
            dk[1:] = dk[0]
        dc *= f
        _of_real(at.u, dvalues, xp.empty_like(dvalues)).sum(axis=0, out=dgates[I])
        xp.multiply(dvalues, i, out=du)
        # k_n, q_n, u_n = bound(z)                                                                               (A1)
        dparts[0] = dpairs.real
        xp.negative(dpairs.imag, out=dparts[1])
        bound_backward(dparts, at.pairs_parts, at.pairs_inverse, dz[3:].reshape(dparts.shape))
        # f, i, o = σ(z)                                                                                         (M3)
        xp.subtract(1, at.gates, out=dz[:3])
        dz[:3] *= at.gates
        dz[:3] *= dgates
        if self.norm is not None:
            # LN[z]                                                                                              (A6)
            self.norm.dy[...] = dz.swapaxes(1, 2)
            self.norm.backward(at.saved.normalized, at.saved.inverse_std, dnorm, out=dz.swapaxes(1, 2))

    def _gather(self, dkey: Array, out: Array) -> None:
        """Fill `out` with the gradient of a key (D, B), from the gradients dkey (S, D, B) of its copies."""
        # P_s key, for all s                                                                                     (A5)
        moved = take(dkey.reshape(-1, dkey.shape[-1]), self._back, axis=0, out=self._moved)
        moved.sum(axis=0, out=out)


def _of_real(a: Array, dy: Array, scratch: Array) -> Array:
    """Return the gradient Re(a dy) of a real factor r, where y = r a and a is complex."""
    return array_module(a=a).multiply(a, dy, out=scratch).real
