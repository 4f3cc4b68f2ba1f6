"""Sequences of different lengths in one batch, and several documents in one sequence.

`lengths` (B,): how many steps each sequence of a padded batch has. After its end the states of a sequence are zero, and
its cells or fast weights no longer change. The padding may hold anything, also NaN.
`resets` (T, B): True at the first step of each further document. The state, the cells and the fast weights are zero
before this step.

A batch with lengths and resets has the states and gradients of its documents alone, if all their numbers are finite.
A NaN or an overflow in a document reaches the documents after it in its row, because their memory weights it by 0. Both
arrays are NumPy's, on the host, because they select the rows that are computed.
"""

from __future__ import annotations

from typing import Any

import numpy

from . import checks, ops
from .backend import Array, array_module
from .memory import Ages


class Spans:
    """Which steps of T belong to the B sequences, and where these start anew. By default all, and nowhere.

    ended and restarted hold the rows of the sequences that end, or start anew, before step t, by t: `get(t)` returns
    None where there are none.

    Raises ValueError or TypeError for lengths or resets that do not fit x (T, B, I).
    """

    def __init__(self, x: ops.Input, lengths: Array | None = None, resets: Array | None = None) -> None:
        self._shape = steps, batch_size = x.shape[0], x.shape[1]
        self._lengths, self._resets = lengths, resets
        self.ended: dict[int, Array] = {}  # t -> rows
        self.restarted: dict[int, Array] = {}
        if lengths is not None:
            _check_lengths(lengths, steps, batch_size)
            ops.refuse_closed_loop(x, "a batch with lengths; leave them out, or pass an array")
            self.ended = _rows(x, ~self.active())
        if resets is not None:
            check_resets(resets, steps, batch_size)
            self.restarted = _rows(x, self._starts())

    def lasts(self) -> numpy.ndarray:
        """Return the last step of each sequence, (B,), on the host."""
        steps, batch_size = self._shape
        return numpy.full(batch_size, steps - 1) if self._lengths is None else self._lengths.astype("int64") - 1

    def active(self) -> numpy.ndarray:
        """Return which steps belong to each sequence, (T, B), on the host."""
        return numpy.arange(self._shape[0])[:, None] <= self.lasts()

    def _starts(self) -> numpy.ndarray:
        """Return where sequences start anew, (T, B), on the host."""
        active = self.active()
        return numpy.zeros_like(active) if self._resets is None else self._resets & active

    def parts(self) -> numpy.ndarray | None:
        """Return the number of the document of each step, (T, B), on the host; None if nothing starts anew."""
        return None if self._resets is None else self._starts().cumsum(axis=0)

    def clear(self, x: ops.Input) -> Any:
        """Return x with zero, or the first token, for padding."""
        if not self.ended:
            return x
        if isinstance(x, ops.Embedded):
            return ops.Embedded(x.table, self._masked(x.tokens))
        return self._masked(ops.made(x))

    def reverse(self, x: Any) -> Any:
        """Return x (T, B, ...) with each sequence from its end to its start, a new array; padding stays in its place.

        It inverts itself, and a gradient goes back through it by it.
        """
        if isinstance(x, ops.Embedded):
            return ops.Embedded(x.table, self.reverse(x.tokens))
        xp, t = array_module(x=x), numpy.arange(self._shape[0])[:, None]
        return x[xp.asarray(numpy.where(self.active(), self.lasts() - t, t)), xp.arange(self._shape[1])]

    def reversed_resets(self) -> numpy.ndarray | None:
        """Return the resets of the sequences that `reverse` returns: a document there starts at its last step."""
        if self._resets is None:
            return None
        starts = self._starts()
        starts[:-1], starts[-1] = starts[1:], False  # a document ends one step before the next one starts
        reversed_starts: numpy.ndarray = self.reverse(starts)
        return reversed_starts

    def begin(self, t: int, h: Array) -> Array:
        """Return the state h (B, H) that step t starts from: zero, in a copy, where a sequence starts anew."""
        rows = self.restarted.get(t)
        if rows is None:
            return h
        h = h.copy()
        h[rows] = 0
        return h

    def begin_all(self, h: Array) -> Array:
        """Return the states (T, B, H) that all steps start from, as `begin` does for one."""
        if not self.restarted:
            return h
        return h * array_module(h=h).asarray(~self._starts()[:, :, None], h.dtype)

    def begin_backward(self, t: int, dh: Array) -> None:
        """Stop the gradient dh (B, H) of h(t), in place, where a sequence starts anew before step t."""
        rows = self.restarted.get(t)
        if rows is not None:
            # h(t) is replaced by 0                                                                               (S1)
            dh[rows] = 0

    def end(self, t: int, h: Array) -> None:
        """Make the state after step t, h (B, H), zero in place where a sequence has ended."""
        rows = self.ended.get(t)
        if rows is not None:
            h[rows] = 0

    def last(self, states: Array) -> Array:
        """Return each sequence's state after its last step, (B, H), a new array, from all states (T, B, H)."""
        return states[-1].copy() if self._lengths is None else states[self._places(states)]

    def gradients(self, dh: Array, states: Array, dlast: Array | None = None) -> list[Array | None]:
        """Check dh, the gradient of the states (T, B, H), or of each sequence's last one (B, H).

        Return the gradient of each step's h, None where it is 0. It includes dlast (B, H), the gradient of the final
        state.
        """
        xp = array_module(h=states, dh=dh)
        checks.floating(h=states, dh=dh)
        last_only = dh.ndim == 2
        checks.shape("dh", dh, states.shape[1:] if last_only else states.shape, "dh has the shape of h, or of h[-1]")
        if self._lengths is None:
            steps = [*[None] * (len(states) - 1), dh] if last_only else list(dh)
            if dlast is not None:
                steps[-1] = steps[-1] + dlast
            return steps
        # after its end a state is 0, whatever the padding holds                                                  (S2)
        whole = xp.zeros_like(states) if last_only else self._masked(dh)
        for gradient in (dh if last_only else None, dlast):
            if gradient is not None:
                whole[self._places(states)] += gradient
        return list(whole)

    def ages(self, stores: Any, reads: Any) -> Ages | None:
        """Return the ages of the states that a memory stores at some steps and reads at others; None if steady."""
        if self._lengths is None and self._resets is None:
            return None
        parts = self._starts().cumsum(axis=0)
        first = numpy.zeros((1, self._shape[1]), "int64")
        return Ages(
            numpy.concatenate([first, self.active()[stores].cumsum(axis=0)]),
            numpy.concatenate([first, parts[stores]]),
            parts[[*reads, -1]],
        )

    def _masked(self, array: Array) -> Array:
        """Return the array (T, B, ...) with zero for padding."""
        xp = array_module(array=array)
        active = xp.asarray(self.active()).reshape(*self._shape, *[1] * (array.ndim - 2))
        return xp.where(active, array, xp.zeros((), array.dtype))

    def whole_gradient(self, dy: Array, y: Array) -> Array:
        """Return the gradient of y (T, B, F), zero for padding, from dy (T, B, F), or of the last steps (B, F)."""
        xp = array_module(y=y, dy=dy)
        checks.floating(y=y, dy=dy)
        last_only = dy.ndim == 2
        checks.shape("dy", dy, y.shape[1:] if last_only else y.shape, "dy has the shape of y, or of y[-1]")
        # after its end y is 0, whatever the padding holds                                                        (S2)
        if not last_only:
            return dy if self._lengths is None else self._masked(dy)
        whole = xp.zeros_like(y)
        whole[self._places(y)] = dy
        return whole

    def _places(self, like: Array) -> tuple[Array, Array]:
        """Return the index of each sequence's last step."""
        xp = array_module(like=like)
        return xp.asarray(self.lasts()), xp.arange(self._shape[1])


def _rows(x: ops.Input, where: Array) -> dict[int, Array]:
    """Return the rows b with where[t, b], for each step t that has any."""
    xp = array_module(x=x.table if isinstance(x, ops.Embedded) else ops.made(x))
    return {t: xp.asarray(numpy.flatnonzero(row)) for t, row in enumerate(where) if row.any()}


def _check_lengths(lengths: Any, steps: int, batch_size: int) -> None:
    checks.on_host("lengths", lengths, "integers")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}; convert it with .astype(int)")
    checks.shape("lengths", lengths, (batch_size,), "one for each sequence of x")
    wrong = numpy.flatnonzero((lengths < 1) | (lengths > steps))
    if len(wrong):
        n = wrong[0]
        raise ValueError(f"lengths: expected numbers from 1 to {steps}, the steps of x, got {lengths[n]} at index {n}")


def check_resets(resets: Any, steps: int, batch_size: int) -> None:
    """Raise ValueError or TypeError unless resets are booleans (T, B) on the host."""
    checks.on_host("resets", resets, "booleans")
    if resets.dtype != bool:
        raise TypeError(f"resets: expected booleans, got {resets.dtype}; convert it with .astype(bool)")
    checks.shape("resets", resets, (steps, batch_size), "one for each step and sequence of x")
