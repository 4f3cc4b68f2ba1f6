"""The forward pass of the fast-weight layer without gradients, in parts of K steps: equations (1), (2) and (5).

The calls of K steps are bound once to buffers, which all parts share. The states of a part are the recent states of a
StreamMemory. They are folded into its matrix before the next part: equation (1), K steps at once. A sequence of at
most K steps forms no matrix. T steps, B sequences, H units.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy

from . import ops
from .backend import Array, array_module
from .fast_weights_stepper import inner_loop_calls
from .inner_loop import Options
from .memory import choose_chunk
from .recurrent import Params
from .spans import Spans
from .stepper import Call, norm_of
from .stream import StreamMemory
from .workspace import Workspace


class Part:
    """The buffers and calls of K steps, K = chunk, for states of the shape (B, H) of `like`.

    The caller fills `sums` by `add_up`, and calls `run` for each part of a sequence, after `start` for the first one.
    """

    def __init__(self, params: Params, like: Array, options: Options, chunk: int) -> None:
        xp = array_module(like=like)
        self._xp, self._options = xp, options
        self.A = StreamMemory(like, options.decay, options.rate, chunk, identity=not options.sustained_boundary)
        self.states = self.A.vectors  # (K, B, H)  h(t+1) of each step
        self.sums = xp.empty_like(self.states)  # C x(t) + b
        self._before = xp.empty_like(like)  # h(t) of the first step
        self._a = self.A.term if options.sustained_boundary else xp.empty_like(like)  # W h(t) + C x(t) + b
        self._W_transposed, self._b = xp.empty_like(params["W"]), xp.empty_like(like)  # b as equal rows, as in Norm
        self._f, self._norm = ops.ACTIVATIONS[options.activation](like), norm_of(self.A.result, params)
        self._bound: dict[bool, list[list[Call]]] = {}

    def start(self, params: Params, h0: Array, A0: Array | None) -> None:
        """Begin with the current values of the parameters, and with h0 and A0."""
        self._W_transposed[...], self._b[...] = params["W"].T, params["b"]
        if self._norm is not None:
            self._norm.load(params["gain"], params["bias"])
        self._before[...] = h0
        self.A.reset(None, A0)

    def add_up(self, x: Array | ops.Embedded, params: Params, out: Array) -> None:
        """Put C x(t) + b of any number of steps in out (.., B, H)."""
        if isinstance(x, ops.Embedded):
            ops.linear(x, params["C"], params["b"], out=out)
            return
        # as ops.linear, whose checks take as long as a small product
        self._xp.matmul(x.reshape(-1, x.shape[-1]), params["C"].T, out=out.reshape(-1, out.shape[-1]))
        out += self._b

    def run(self, h: Array, start: int, spans: Spans) -> None:
        """Put the states of n <= K steps in h (n, B, H). start is the number of the first step in the sequence."""
        if self.A.recent:
            self._before[...] = self.states[self.A.recent - 1]
            self.A.fold()
        done = 0
        for r, calls in enumerate(self._steps(len(h))):
            if (anew := spans.restarted.get(start + r)) is not None:
                h[done:r], done = self.states[done:r], r  # the reset makes them zero here
                self._before[anew] = 0
                self.A.reset(anew, None)
            for call in calls:
                call()  # h(t+1), (2) and (5), which is then a recent state
            if (ended := spans.ended.get(start + r)) is not None:
                self.states[r][ended] = 0
        h[done:] = self.states[done : len(h)]
        self.A.recent = len(h)

    def _steps(self, count: int) -> list[list[Call]]:
        """Return the calls of each of this number of steps. They are bound at their first use."""
        steps = self._bound.setdefault(self.A.has_matrix, [])
        steps += [self._bind(r) for r in range(len(steps), count)]
        return steps[:count]

    def _bind(self, r: int) -> list[Call]:
        """Return the calls that compute h(t+1) from h(t) and A(t), after r recent states."""
        a, A, h = self._a, self.A, self.states[r - 1] if r else self._before
        return [
            # a = W h(t) + C x(t) + b
            partial(h.dot, self._W_transposed, a), partial(self._xp.add, a, self.sums[r], a),
            *inner_loop_calls(self._f, self._norm, self._options, a, A, A.read_calls(r), out=self.states[r]),
        ]  # fmt: skip


def _choose_chunk(steps: int, hidden_size: int) -> int:
    """Return K for `chunk=None`, by measurement: as with gradients, but at most 32 where a matrix is formed."""
    K = choose_chunk(steps, hidden_size)
    return K if steps <= K else min(K, 32)


def forward_only(
    params: Params, x: ops.Input, h0: Array, A0: Array | None, lengths: Array | None, resets: Array | None,
    options: Options, chunk: int | None, workspace: Workspace,
) -> tuple[Array, Callable[[], tuple[Array, Array]]]:  # fmt: skip
    """Return h (T, B, H), and a function that returns the final h and A, from arguments that have been checked."""
    ops.refuse_closed_loop(x, "a forward without gradients; use a Stepper")
    spans, xp, ticket = Spans(x, lengths, resets), array_module(h0=h0), workspace.begin()
    steps, (batch_size, hidden_size) = x.shape[0], h0.shape
    K = min(chunk or _choose_chunk(steps, hidden_size), steps)
    key = (xp, (K, batch_size, hidden_size), h0.dtype, options, "gain" in params)
    part = workspace.buffers(key, lambda: Part(params, h0, options, K))
    part.start(params, h0, A0)
    h = xp.empty((steps, batch_size, hidden_size), h0.dtype)
    sums = part.sums if steps == K else h  # in h, the states replace the sums
    part.add_up(spans.clear(x), params, out=sums)
    ends = None if lengths is None else spans.lasts() + 1
    ended: list[tuple[Array, Array]] = []  # rows of sequences that end before the last part, and their A
    for start in range(0, steps, K):
        of_part = h[start : start + K]
        if sums is h:
            part.sums[: len(of_part)] = of_part
        part.run(of_part, start, spans)
        if ends is not None and start + K < steps:
            rows = numpy.flatnonzero((start < ends) & (ends <= start + K))
            ended.append((xp.asarray(rows), part.A.value_after(rows, ends[rows] - start)))
    h_last = spans.last(h)

    def final() -> tuple[Array, Array]:
        workspace.check(ticket)
        if ends is None:
            return h_last.copy(), part.A.value()
        A = part.A.value_after(numpy.arange(batch_size), (ends - start).clip(0))
        for rows, of_rows in ended:
            A[rows] = of_rows
        return h_last.copy(), A

    return h, final
