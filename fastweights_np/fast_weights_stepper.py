"""The stepper of the layers with fast weights: equations (1), (2) and (5), one time step after another."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import checks, ops
from .backend import Array
from .inner_loop import Options
from .recurrent import Params
from .stepper import BaseStepper, Call, Held, Norm, activation_calls, norm_of
from .stream import StreamMemory


def inner_loop_calls(
    f: ops.Relu | ops.Tanh, norm: Norm | None, options: Options, a: Array, A: StreamMemory, read: list[Call],
    out: Array | None = None,
) -> list[Call]:  # fmt: skip
    """Return the calls that compute h(t+1) from a (B, H) and A(t), by the calls of a read.

    The last one returns h(t+1), in `out` or in a new array.
    """
    S = options.inner_steps
    calls = activation_calls(f, norm if options.normalize_preliminary else None, a, A.query if S else out)  # (2a)
    for s in range(S):
        calls += read  # (2), (4)
        calls += activation_calls(f, norm, A.result, A.query if s < S - 1 else out)  # (5)
    return calls


class MemoryStepper(BaseStepper):
    """A stepper whose inner loop reads fast weights. See fast_weights.Stepper."""

    def __init__(
        self, params: Params, batch_size: int, options: Options, h0: Array | None, A0: Array | None,
        chunk: int | None, **others: Any,
    ) -> None:  # fmt: skip
        """Make the buffers, for parameters that have been checked; `others` are further arguments of a copy."""
        super().__init__(params, batch_size, chunk=chunk, **others)
        if chunk is not None:
            checks.count("chunk", chunk, least=1)
        own = self._xp.zeros(self._h.shape, self._dtype)
        self._A = StreamMemory(own, options.decay, options.rate, chunk, identity=not options.sustained_boundary)
        self._parts = Held(self._h), self._A
        self._start(h0=h0, A0=A0)

        self._a = self._A.term if options.sustained_boundary else own  # W h(t) + C x(t) + b
        self._from_state = partial(self._h.dot, self._params["W"].T.copy(), self._a)
        self._f, self._norm = ops.ACTIVATIONS[options.activation](own), norm_of(self._A.result, self._params)
        self._inner_loop = inner_loop_calls(self._f, self._norm, options, self._a, self._A, [self._A.read])
        self._calls = [self._affine(self._a), *self._inner_loop]

    def __call__(self, x: Array) -> Array:
        """Return h (B, H), a new array, from x (B, I), and take the step. Raises as BaseStepper does."""
        self._take(x)
        return self._written(self._run_calls(self._calls))  # (2), (5)

    def advance(self, c: Array) -> Array:
        """Return h (B, H), a new array, from c = C x(t) + b (B, H), which is not checked, and take the step."""
        self._from_state()  # a = W h(t) + c
        self._a[...] += c
        return self._written(self._run_calls(self._inner_loop))

    def _written(self, h: Array) -> Array:
        """Return h(t+1), after writing it to the fast weights."""
        self._A.write(h)  # A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ, (1)
        return h
