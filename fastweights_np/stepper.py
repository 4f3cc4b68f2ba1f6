"""The shared parts of the steppers, which take one time step after another without end, in buffers of fixed size.

A layer's `Stepper` computes what its `step` does, up to rounding error, several times faster: arguments are checked
once, parameters are read once, and the state is updated in place.

Code that runs at every step is bound to its views once, because creating a view costs about a microsecond: a `Call` is
such a bound operation. `dot` costs a third of `matmul`, so one sequence is multiplied without the axis of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from types import ModuleType
from typing import Any, ClassVar

import numpy

from . import checks, ops
from .backend import Array, array_module, is_device_array
from .recurrent import Params

Call = Callable[[], Any]


def product(xp: ModuleType, left: Array, right: Array, out: Array) -> Call:
    """Return the call that puts left @ right, each (B, ., .), in out."""
    if len(out) == 1:
        return partial(left[0].dot, right[0], out[0])
    return partial(xp.matmul, left, right, out=out)


class Norm:
    """LN[z] over the last axis, as bound calls that put it in the attribute y (..., H).

    This is the y that it is given, which may be z itself, or for a single row a buffer of its own.
    """

    def __init__(self, y: Array, gain: Array, bias: Array) -> None:
        xp, units = array_module(y=y), y.shape[-1]
        epsilon = units * ops.LAYER_NORM_EPSILON
        # a single row ends with √(H ε): its product with itself is then Σ u² + H ε
        self._row = xp.full((1, units + 1), sqrt(epsilon), y.dtype)
        self.y = y if y.size > units else self._row[:, :units].reshape(y.shape)
        self._xp, self._u = xp, self.y.reshape(-1, units)
        self._gains, self._biases, self._square = xp.empty_like(y), xp.empty_like(y), xp.empty_like(self._u)
        self.load(gain, bias)
        self._mean, self._total, self._shifted, self._std = (xp.empty((len(self._u), 1), y.dtype) for _ in range(4))
        self._column, self._ones = (xp.full((units, 1), value, y.dtype) for value in (1 / units, 1))
        self._epsilon = xp.full((len(self._u), 1), epsilon, y.dtype)

    def load(self, gain: Array, bias: Array) -> None:
        """Load the current values of gain and bias, as equal rows: NumPy multiplies equal shapes faster."""
        units = gain.shape[-1]
        self._gains[...], self._biases[...] = sqrt(units) * gain, bias

    def calls(self, z: Array) -> list[Call]:
        """Return the calls for z, of the shape of y."""
        xp, y, u, z = self._xp, self.y, self._u, z.reshape(self._u.shape)
        mean, shifted, std, gains, biases = self._mean, self._shifted, self._std, self._gains, self._biases
        # LN[z] = gain ⊙ √H u / sqrt(Σ u² + H ε) + bias,   u = z - mean(z)                                           (5)
        if len(u) == 1:
            mean_, std_ = mean.reshape(()), std.reshape(())  # a 0-d array broadcasts faster
            squares = [partial(self._row.dot, self._row.T, shifted)]
        else:
            mean_, std_ = mean, std
            squares = [
                partial(xp.multiply, u, u, self._square), partial(self._square.dot, self._ones, self._total),
                partial(xp.add, self._total, self._epsilon, shifted),
            ]  # fmt: skip
        return [
            partial(z.dot, self._column, mean), partial(xp.subtract, z, mean_, u), *squares,
            partial(xp.sqrt, shifted, std), partial(xp.divide, u, std_, u),
            partial(xp.multiply, y, gains, y), partial(xp.add, y, biases, y),
        ]  # fmt: skip


def norm_of(y: Array, params: Params) -> Norm | None:
    """Return the layer norm that may put its results in y; None if the parameters have no gain."""
    return Norm(y, params["gain"], params["bias"]) if "gain" in params else None


def activation_calls(f: ops.Relu | ops.Tanh, norm: Norm | None, z: Array, out: Array | None = None) -> list[Call]:
    """Return the calls that compute h = f(LN[z]) (B, H), or f(z) if norm is None.

    The last one returns h, in `out` or in a new array.
    """
    return [f.bound(z, out)] if norm is None else [*norm.calls(z), f.bound(norm.y, out)]


def assign(buffer: Array, rows: Any, values: Array | None, axis: int = 0) -> None:
    """Put values, or zero, in buffer at `rows` of its axis of the batch: None for all, indices, or on a GPU a mask."""
    new: Any = 0 if values is None else values
    if rows is None:
        buffer[...] = new
    elif axis:
        assign(buffer.swapaxes(0, axis), rows, values)
    elif rows.dtype.kind == "b":  # an index by a mask would copy its size to the host
        xp = array_module(buffer=buffer)
        buffer[...] = xp.where(rows.reshape(-1, *[1] * (buffer.ndim - 1)), new, buffer)
    else:
        buffer[rows] = new if values is None else values[rows]


class Held:
    """An array of the state that a stepper keeps in a buffer (B, ...) as it is."""

    def __init__(self, buffer: Array) -> None:
        self._buffer, self.shape = buffer, buffer.shape

    def value(self) -> Array:
        """Return a copy of the array."""
        return self._buffer.copy()

    def reset(self, rows: Any, value: Array | None) -> None:
        """Begin anew with `value`, or zero, in the sequences that `rows` selects; see `assign`."""
        assign(self._buffer, rows, value)

    def snapshot(self) -> Any:
        """Return a copy for `restore`."""
        return self.value()

    def restore(self, snapshot: Any) -> None:
        """Continue from a snapshot."""
        self.reset(None, snapshot)


class BaseStepper:
    """The part of a stepper that all layers share: the input, the state, copies.

    u = [h, x, 1] (B, H + I + 1), so that W h + C x + b is one product. A layer's Stepper names its State. It puts an
    object like Held for each array of the state in `_parts`, and in `_calls` what computes h(t+1) from u, which the
    last call returns. A copy, by copy or pickle, continues with the same numbers.
    """

    State: ClassVar[Any]
    _parts: tuple[Any, ...]
    _calls: Sequence[Call]

    def __init__(self, params: Params, batch_size: int, **options: Any) -> None:
        """Make the buffers of u, for parameters that have been checked. options are those that a copy is made with."""
        checks.count("batch_size", batch_size, least=1)
        self._params = {name: value.copy() for name, value in params.items()}
        self._arguments = options | {"params": self._params, "batch_size": batch_size}
        W, xp = params["W"], array_module(**params)
        hidden_size, inputs = W.shape[-1], params["C"].shape[-1]
        self._xp, self._dtype, self._shape = xp, W.dtype, (batch_size, inputs)
        self._type = numpy.ndarray if xp is numpy else None  # no other type says which device its arrays are on
        self._u = xp.zeros((batch_size, hidden_size + inputs + 1), W.dtype)
        self._u[:, -1] = 1
        self._h, self._x = self._u[:, :hidden_size], self._u[:, hidden_size:-1]

    def _stacked(self, name: str = "W") -> Array:
        """Return [W, C, b] (.., H + I + 1), with the rows of all maps one below the other; W has this name."""
        maps = self._params[name], self._params["C"], self._params["b"][..., None]
        return self._xp.concatenate([each.reshape(-1, each.shape[-1]) for each in maps], axis=1)

    def _affine(self, out: Array, name: str = "W") -> Call:
        """Return the call that puts W h + C x + b in out (B, rows of all maps); W is the parameter of this name."""
        return partial(self._u.dot, self._stacked(name).T.copy(), out)

    def __call__(self, x: Array) -> Array:
        """Return h (B, H), a new array, from x (B, I), and take the step.

        Raises TypeError or ValueError for an x of another shape, dtype or place; the step is then not taken.
        """
        self._take(x)
        return self._run_calls(self._calls)

    def _run_calls(self, calls: Sequence[Call]) -> Array:
        """Return h(t+1), the result of the last call, and make it the h of the next step."""
        for call in calls:
            h = call()
        self._h[...] = h
        return h

    def _take(self, x: Array) -> None:
        """Copy x (B, I) into u. Raises TypeError or ValueError for another shape, dtype or place."""
        if type(x) is not self._type or x.shape != self._shape or x.dtype is not self._dtype:
            batch_size, inputs = self._shape
            self._check("x", x, self._shape, f"this stepper was made for {batch_size} sequences of {inputs} inputs")
        self._x[...] = x

    def _check(self, name: str, array: Array, shape: tuple[int, ...], remedy: str) -> None:
        """Raise TypeError or ValueError unless the array has this shape, and is in place and dtype like W."""
        arrays = {"W": self._params["W"], name: array}
        array_module(**arrays)
        checks.floating(**arrays)
        checks.shape(name, array, shape, remedy)

    @property
    def state(self) -> Any:
        """Return the state, in new arrays."""
        return self.State(*(part.value() for part in self._parts))

    def reset(self, rows: Any = None, state: Any = None) -> None:
        """Begin anew, in all sequences or in the given ones.

        rows   indices of sequences, or a mask of B booleans; None for all
        state  the State to begin with, of all B sequences; None is zero

        Raises TypeError or ValueError that names the argument at fault; nothing has then been changed.
        """
        chosen = self._chosen(rows)
        if state is not None:
            checks.instance("state", state, self.State, "pass one like stepper.state")
            for part, (name, array) in zip(self._parts, state._asdict().items(), strict=True):
                self._check(f"state.{name}", array, part.shape, "one for each sequence of the stepper")
        for part, array in zip(self._parts, state or [None] * len(self._parts), strict=True):
            part.reset(chosen, array)

    def _start(self, **initial: Array | None) -> None:
        """Begin with the initial states that the constructor was given, such as h0. None is zero."""
        for part, (name, array) in zip(self._parts, initial.items(), strict=True):
            if array is not None:
                self._check(name, array, part.shape, "one for each sequence of the stepper")
            part.reset(None, array)

    def _chosen(self, rows: Any) -> Any:
        """Return the rows as `assign` takes them. Raises TypeError or ValueError for others."""
        xp, batch_size = self._xp, self._shape[0]
        if rows is None:
            return None
        if is_device_array(rows):
            array_module(W=self._params["W"], rows=rows)
        else:
            rows = numpy.asarray(rows) if numpy.size(rows) else numpy.zeros(0, int)
        if rows.dtype.kind == "b":
            checks.shape("rows", rows, (batch_size,), "a mask has one boolean for each sequence")
            return rows.nonzero()[0] if xp is numpy else xp.asarray(rows)
        rows = rows.reshape(-1)
        checks.indices("rows", rows, batch_size)
        if xp is numpy:
            return rows
        mask = xp.zeros(batch_size, "bool")
        mask[xp.asarray(rows)] = True
        return mask

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (type(self), self._arguments, [part.snapshot() for part in self._parts])


def _copied(kind: Callable[..., Any], arguments: dict[str, Any], snapshots: list[Any]) -> Any:
    stepper = kind(**arguments)
    for part, snapshot in zip(stepper._parts, snapshots, strict=True):
        part.restore(snapshot)
    return stepper
