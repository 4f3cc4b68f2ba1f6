"""Operations without time, each a forward and a backward: embedding, linear, layer norm, relu, tanh, cross-entropy.

A backward function takes the gradient of the loss with respect to its forward's result (`dy` for `y`). It returns the
gradients with respect to its arguments, in their order. Above each backward line stands the forward line that it
inverts. Numbers such as (L3) are in DERIVATION.md. Arrays are NumPy's or CuPy's and keep their dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import numpy

from . import checks
from .backend import Array, HoldsModule, array_module, scatter_add, take

__all__ = [
    "ClosedLoop", "Embedded", "LayerNorm", "Relu", "Tanh", "embedding", "embedding_backward", "entropy",
    "entropy_backward", "linear", "linear_backward", "product_backward", "softmax_cross_entropy",
    "softmax_cross_entropy_backward", "squared_error", "squared_error_backward",
]  # fmt: skip

LAYER_NORM_EPSILON = 1e-5  # added to the variance, so that a constant row is not 0/0


# ---------------------------------------------------------------------------------------------------- embedding, linear


@dataclass(frozen=True)
class Embedded:
    """The rows table[tokens], not yet looked up: table (V, E), tokens (...); stands for an array (..., E) in `linear`.

    A recurrent layer accepts it as input. The table usually has fewer rows than there are tokens, so that multiplying
    the table by a weight matrix is cheaper.

    Raises TypeError for tokens that are not integers, ValueError for one out of range (checked on the host only).
    """

    table: Array
    tokens: Array

    def __post_init__(self) -> None:
        array_module(table=self.table, tokens=self.tokens)
        checks.indices("tokens", self.tokens, self.table.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of table[tokens]."""
        return (*self.tokens.shape, self.table.shape[1])

    @property
    def ndim(self) -> int:
        """Return the number of axes of table[tokens]."""
        return len(self.shape)


@dataclass(frozen=True)
class ClosedLoop:
    """An input x (T, B, I) that is made step by step: x[t] = make(t, h) may depend on the state before, h (B, H).

    An agent, whose observations depend on its actions, thus needs only one pass to act and to learn. A recurrent layer
    accepts it as input, and calls make once for each t, in order. h is the h[t-1] that `forward` returns, or at t = 0
    the initial state; make must neither change nor keep it. array (T, B, I) stores all results of make for `backward`.

    Raises TypeError if array is not an array, or if make cannot be called.
    """

    array: Array
    make: Callable[[int, Array], Array]

    def __post_init__(self) -> None:
        checks.shape("array", self.array, ("T", "B", "I"), "it is (steps, sequences, inputs)")
        if not callable(self.make):
            raise TypeError(f"make: expected a function of t and h, got {type(self.make).__name__}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (T, B, I)."""
        return self.array.shape


Input = Array | Embedded | ClosedLoop


def refuse_closed_loop(x: Input, by: str) -> None:
    """Raise TypeError for a ClosedLoop; `by` names the layer that refuses it."""
    if isinstance(x, ClosedLoop):
        raise TypeError(f"x: expected an array or ops.Embedded, got an ops.ClosedLoop, which is not for {by}")


def made(x: Input) -> Any:
    """Return the input itself, or the array of a ClosedLoop."""
    return x.array if isinstance(x, ClosedLoop) else x


def embedding(table: Array, tokens: Array) -> Embedded:
    """Return y[...] = table[tokens[...]]; table (V, E), tokens (...) integers in [0, V). Raises as Embedded does."""
    return Embedded(table, tokens)


def input_array(x: Input) -> Array:
    """Return the floating-point array of a layer's input: x itself, or its table. Raises TypeError for bare tokens."""
    array = x.table if isinstance(x, Embedded) else made(x)
    if getattr(getattr(array, "dtype", None), "kind", "") in ("i", "u"):
        wanted = "tokens go in as ops.embedding(table, tokens)"
        raise TypeError(f"x: expected float32 or float64, got {array.dtype}; {wanted}")
    return array


def embedding_backward(dy: Array, tokens: Array, vocabulary: int) -> Array:
    """Return dtable (V, E) of `embedding`: the rows of dy (..., E), summed by token; or (N, V, E) for N maps of dy."""
    xp = array_module(dy=dy, tokens=tokens)
    blocks, features = dy.shape[: dy.ndim - tokens.ndim - 1], dy.shape[-1]
    dtable = xp.zeros((*blocks, vocabulary, features), dy.dtype)
    # y[n] = table[tokens[n]]                                                                                    (L2)
    scatter_add(dtable, tokens.reshape(-1), dy.reshape(*blocks, -1, features))
    return dtable


def linear(x: Array | Embedded, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
    """Return y = x weightᵀ + bias over the last axis; x (..., I), weight (O, I), bias (O,), y (..., O).

    weight (N, O, I) and bias (N, O) are N maps of the same x: y (N, ..., O). If `out` is given, y is written to it.

    Raises ValueError or TypeError for shapes or dtypes that do not fit, and for an `out` that is not contiguous.
    """
    xp = _check_linear(x, weight, **checks.given(bias=bias))
    *blocks, features, inputs = weight.shape
    if bias is not None:
        checks.shape("bias", bias, (*blocks, features), "one number for each row of weight")
    y = xp.empty((*blocks, *x.shape[:-1], features), weight.dtype) if out is None else out
    if not y.flags.c_contiguous:
        raise ValueError(f"out: expected a contiguous array, got one of shape {y.shape} with strides {y.strides}")
    if isinstance(x, Embedded):
        return take(linear(x.table, weight, bias), x.tokens, axis=len(blocks), out=y)
    rows = x.reshape(-1, inputs)  # one product for all leading axes
    xp.matmul(rows, weight.swapaxes(-2, -1), out=y.reshape(*blocks, len(rows), features))
    if bias is not None:
        # one row for each index of the last leading axis: adding equal shapes is several times faster
        few = bias.reshape(*blocks, *[1] * (x.ndim - 1), features)
        y += xp.repeat(few, x.shape[-2], axis=-2) if x.ndim > 2 else few
    return y


def linear_backward(dy: Array, x: Input, weight: Array) -> tuple[Array, Array, Array]:
    """Return (dx, dweight, dbias) of `linear`; dy (..., O), x (..., I), weight (O, I), or (N, O, I) and dy (N, ..., O).

    If x is Embedded, dx is dtable. If x is a ClosedLoop, dx is the gradient of its array, and stops before make.
    """
    _check_linear(x, weight, dy=dy)
    *blocks, features, inputs = weight.shape
    array = made(x)
    checks.shape("dy", dy, (*blocks, *array.shape[:-1], features), "it has the shape of y")
    if isinstance(array, Embedded):
        # y = (table weightᵀ + bias)[tokens]                                                                     (L2)
        dy, array = embedding_backward(dy, array.tokens, len(array.table)), array.table
    dy_rows, x_rows = dy.reshape(*blocks, -1, features), array.reshape(-1, inputs)
    # y = x weightᵀ + bias                                                                                       (L1)
    dx = dy_rows @ weight
    return (dx.sum(axis=0) if blocks else dx).reshape(array.shape), dy_rows.swapaxes(-2, -1) @ x_rows, sum_rows(dy_rows)


def product_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """Return (dx, dweight) of y = x weightᵀ, `linear` without a bias; dy (..., O), x (..., I), weight (O, I)."""
    rows = dy.reshape(-1, dy.shape[-1])
    # y = x weightᵀ                                                                                              (L1)
    return (rows @ weight).reshape(x.shape), rows.T @ x.reshape(-1, x.shape[-1])


def _check_linear(x: Input, weight: Array, **others: Array) -> ModuleType:
    """Raise ValueError or TypeError unless x (..., I) fits weight (..., O, I); return the module of all arrays."""
    arrays = {"x": input_array(x), "weight": weight, **others}
    xp = array_module(**arrays)
    checks.floating(**arrays)
    checks.shape("x", x, (*x.shape[:-1], weight.shape[-1]), "its last axis has the length of weight's last axis")
    return xp


def sum_rows(rows: Array) -> Array:
    """Return the sum over axis -2 of (..., N, H), as a product with ones: several times faster than `.sum`."""
    return array_module(rows=rows).ones(rows.shape[-2], rows.dtype) @ rows


# ------------------------------------------------------------------------------------------------------ nonlinearities


class Relu(HoldsModule):
    """y = max(z, 0); NaN stays NaN. An object serves one shape of z: NumPy compares with zeros faster than with 0."""

    def __init__(self, like: Array) -> None:
        self._xp = array_module(like=like)
        self._zeros = self._xp.zeros_like(like)

    def forward(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return self._xp.maximum(z, self._zeros, out=out)

    def bound(self, z: Array, out: Array | None) -> Callable[[], Array]:
        """Return the call forward(z, out), without the time that the method takes."""
        return partial(self._xp.maximum, z, self._zeros, out=out)

    def slope(self, y: Array, out: Array | None = None) -> Array:
        """Return f'(z) from y alone, so that z need not be stored; at the kink it is 0. y has any shape."""
        # y = max(z, 0)                                                                                          (L3)
        return self._xp.greater(y, 0, out=self._xp.empty_like(y) if out is None else out)


class Tanh(HoldsModule):
    """y = tanh(z)."""

    def __init__(self, like: Array) -> None:
        self._xp = array_module(like=like)

    def forward(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return self._xp.tanh(z, out=out)

    def bound(self, z: Array, out: Array | None) -> Callable[[], Array]:
        """Return the call forward(z, out), without the time that the method takes."""
        return partial(self._xp.tanh, z, out=out)

    def slope(self, y: Array, out: Array | None = None) -> Array:
        """Return f'(z) from y alone. y has any shape."""
        # y = tanh(z)                                                                                            (L4)
        return self._xp.subtract(1, y * y, out=out)


ACTIVATIONS: dict[str, type[Relu] | type[Tanh]] = {"relu": Relu, "tanh": Tanh}


# ---------------------------------------------------------------------------------------------------------- layer norm


class LayerNorm:
    """y = gain ⊙ n + bias with n = (z - mean(z)) / sqrt(var(z) + ε), over the last axis (the H units of one state).

    gain and bias (H,); z, y, n (rows, H); or (N, H) and (N, rows, H) for N layer norms in one. With H = 1, n is 0.
    An object serves one shape of z; `load` sets gain and bias. They are stored as equal rows: NumPy adds a row to a
    matrix at a third of the speed of adding two matrices. Means are computed by a product, which is faster than
    `.mean`.
    Source: Ba, Kiros, Hinton 2016, arXiv 1607.06450, equation (4).
    """

    def __init__(self, like: Array) -> None:
        xp = self._xp = array_module(like=like)
        *blocks, rows, units = like.shape
        self._gain, self._bias, self._scratch = (xp.empty_like(like) for _ in range(3))
        self._mean = xp.full((units, 1), 1 / units, like.dtype)  # z @ column is the mean of each row
        self._mean_by_gain = xp.empty((*blocks, units, 1), like.dtype)
        self._epsilon = xp.full((*blocks, rows, 1), LAYER_NORM_EPSILON, like.dtype)
        self._column = xp.empty((*blocks, rows, 1), like.dtype)
        # for backward: dy n and dy in one array, so that one product serves both
        self._pair = xp.empty((2, *blocks, rows, units), like.dtype)
        self._ones = xp.ones((1, rows), like.dtype)  # ones @ z is the sum of its rows
        self._sums, self._means = xp.empty((2, *blocks, 1, units), like.dtype), xp.empty_like(self._pair[..., :1])
        self._dy_n, self.dy = self._pair

    def load(self, gain: Array, bias: Array) -> None:
        """Load the current values of gain and bias."""
        self._gain[...], self._bias[...] = gain[..., None, :], bias[..., None, :]
        self._xp.multiply(self._mean, gain[..., None], out=self._mean_by_gain)

    def forward(
        self, z: Array, normalized: Array | None = None, inverse_std: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Return y, n and 1 / sqrt(var + ε) (rows, 1). backward needs the last two, which are put where given.

        y is valid until the next call of forward or backward.
        """
        xp = self._xp
        n = xp.subtract(z, xp.matmul(z, self._mean, out=self._column), out=normalized)  # u = z - mean(z), so far
        inverse_std = xp.matmul(xp.multiply(n, n, out=self._scratch), self._mean, out=inverse_std)
        inverse_std += self._epsilon
        xp.sqrt(inverse_std, out=inverse_std)
        xp.reciprocal(inverse_std, out=inverse_std)  # ρ
        n *= inverse_std
        y = xp.multiply(n, self._gain, out=self._scratch)
        y += self._bias
        return y, n, inverse_std

    def backward(self, normalized: Array, inverse_std: Array, dnorm: Array, out: Array) -> Array:
        """Return dz, shaped like z, from the dy in self.dy. Add dgain and dbias to dnorm (2, ..., 1, H)."""
        xp, n, dy, dy_n = self._xp, normalized, self.dy, self._dy_n
        # y = gain ⊙ n + bias                                                                               (L5), (L7)
        xp.multiply(dy, n, out=dy_n)
        dnorm += xp.matmul(self._ones, self._pair, out=self._sums)
        # n = (z - mean(z)) / sqrt(var(z) + ε), dn = gain ⊙ dy                                                   (L6)
        mean_dn_n, mean_dn = xp.matmul(self._pair, self._mean_by_gain, out=self._means)
        dz = xp.multiply(dy, self._gain, out=out)
        dz -= xp.multiply(n, mean_dn_n, out=dy_n)
        dz -= mean_dn
        dz *= inverse_std
        return dz


def layer_norm(z: Array, gain: Array, bias: Array) -> Array:
    """Return LN[z], as LayerNorm computes it for many z of one shape; z (rows, H), gain and bias (H,), or N of each."""
    xp, units = array_module(z=z), z.shape[-1]
    column = _column(units, z.dtype) if xp is numpy else xp.full((units, 1), 1 / units, z.dtype)
    # n = (z - mean(z)) / sqrt(var(z) + ε), y = gain ⊙ n + bias
    y = z - z.dot(column)
    y /= xp.sqrt((y * y).dot(column) + LAYER_NORM_EPSILON)
    y *= gain if gain.ndim == 1 else gain[:, None]
    y += bias if bias.ndim == 1 else bias[:, None]
    return y


@lru_cache
def _column(units: int, dtype: Any) -> Array:
    """Return 1/H (H, 1); z @ column is the mean of each row. It is shared by all callers, and cannot be changed."""
    column = numpy.full((units, 1), 1 / units, dtype)
    column.flags.writeable = False
    return column


# ------------------------------------------------------------------------------------------------------- cross-entropy


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return nll[n] = -log softmax(logits[n])[labels[n]] in nats; logits (N, classes), labels (N,) integers.

    Also returns the probabilities (N, classes), which backward needs. Large logits do not overflow.
    Raises TypeError for labels that are not integers, ValueError for one out of range (checked on the host only).
    """
    xp = array_module(logits=logits, labels=labels)
    checks.shape("labels", labels, (logits.shape[0],), "one label for each row of logits")
    checks.indices("labels", labels, logits.shape[1])
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = xp.exp(shifted)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    nll = xp.log(total[:, 0]) - shifted[xp.arange(len(labels)), labels]
    return nll, probabilities


def softmax_cross_entropy_backward(dnll: Array, probabilities: Array, labels: Array) -> Array:
    """Return dlogits (N, classes) of `softmax_cross_entropy`; dnll (N,)."""
    xp = array_module(dnll=dnll, probabilities=probabilities, labels=labels)
    checks.indices("labels", labels, probabilities.shape[1])
    # nll = log Σ_k exp(logits_k) - logits_label                                                                 (L8)
    dlogits = probabilities.copy()
    dlogits[xp.arange(len(labels)), labels] -= 1
    dlogits *= dnll[:, None]
    return dlogits


# --------------------------------------------------------------------------------------------------- for actor-critics


def entropy(logits: Array) -> tuple[Array, Array]:
    """Return H[n] = -Σ_k π_k log π_k in nats, with π = softmax(logits[n]); logits (N, classes).

    Also returns log π (N, classes), which backward needs. Large logits do not overflow. A class that is not allowed has
    the logit -inf. Its π is 0, and its term is 0, because p log p goes to 0 with p.
    """
    xp = array_module(logits=logits)
    checks.floating(logits=logits)
    log_pi = logits - logits.max(axis=1, keepdims=True)
    log_pi -= xp.log(xp.exp(log_pi).sum(axis=1, keepdims=True))
    return -_weighted(xp.exp(log_pi), log_pi).sum(axis=1), log_pi


def entropy_backward(dH: Array, H: Array, log_pi: Array) -> Array:
    """Return dlogits (N, classes) of `entropy`; dH (N,)."""
    xp = array_module(dH=dH, H=H, log_pi=log_pi)
    # H = -Σ_k π_k log π_k                                                                                       (L9)
    return -dH[:, None] * _weighted(xp.exp(log_pi), log_pi + H[:, None])


def _weighted(pi: Array, values: Array) -> Array:
    """Return π ⊙ values, 0 where π is 0 even if the value is infinite."""
    xp = array_module(pi=pi, values=values)
    return pi * xp.where(pi > 0, values, xp.zeros_like(values))


def squared_error(values: Array, targets: Array) -> Array:
    """Return ½ (value - target)² for each value."""
    array_module(values=values, targets=targets)
    return 0.5 * (values - targets) ** 2


def squared_error_backward(dloss: Array, values: Array, targets: Array) -> Array:
    """Return dvalues of `squared_error`; the targets are constants."""
    array_module(dloss=dloss, values=values, targets=targets)
    # loss = ½ (value - target)²                                                                                (L10)
    return dloss * (values - targets)
