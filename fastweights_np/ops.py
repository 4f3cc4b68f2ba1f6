"""Operations without time, each a forward and a backward: embedding, linear, layer norm, relu, tanh, cross-entropy.

A backward function takes the gradient of the loss with respect to its forward's result (`dy` for `y`) and returns the
gradients with respect to its arguments, in their order. Above each backward line stands the forward line it inverts;
numbers such as (L3) point into DERIVATION.md. Arrays are NumPy's or CuPy's and keep their dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from . import checks
from .backend import Array, array_module, scatter_add

LAYER_NORM_EPSILON = 1e-5  # added to the variance, so that a constant row is not 0/0


# ---------------------------------------------------------------------------------------------------- embedding, linear


@dataclass(frozen=True)
class Embedded:
    """The rows table[tokens], not yet looked up: table (V, E), tokens (...); stands for an array (..., E) in `linear`.

    A recurrent layer takes it as its input. The table has fewer rows than there are tokens, as a rule, so that its
    product with a weight matrix is the cheaper one.

    Raises TypeError for tokens that are not integers, ValueError for one out of range (seen on the host only).
    """

    table: Array
    tokens: Array

    def __post_init__(self) -> None:
        array_module(table=self.table, tokens=self.tokens)
        checks.indices("tokens", self.tokens, self.table.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array it stands for."""
        return (*self.tokens.shape, self.table.shape[1])


def embedding(table: Array, tokens: Array) -> Embedded:
    """y[...] = table[tokens[...]]; table (V, E), tokens (...) integers in [0, V); raises as Embedded does."""
    return Embedded(table, tokens)


def input_array(x: Array | Embedded) -> Array:
    """The floating-point array behind a layer's input: x itself, or its table. Raises TypeError for bare tokens."""
    if isinstance(x, Embedded):
        return x.table
    if getattr(getattr(x, "dtype", None), "kind", "") in ("i", "u"):
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}; tokens go in as ops.embedding(table, tokens)")
    return x


def embedding_backward(dy: Array, tokens: Array, vocabulary: int) -> Array:
    """dtable (V, E) of `embedding`: the rows of dy (..., E) added up by token."""
    xp = array_module(dy=dy, tokens=tokens)
    dtable = xp.zeros((vocabulary, dy.shape[-1]), dy.dtype)
    # y[n] = table[tokens[n]]                                                                                    (L2)
    scatter_add(dtable, tokens.reshape(-1), dy.reshape(-1, dy.shape[-1]))
    return dtable


def linear(x: Array | Embedded, weight: Array, bias: Array | None = None) -> Array:
    """y = x weightᵀ + bias over the last axis; x (..., I), weight (O, I), bias (O,), y (..., O)."""
    if isinstance(x, Embedded):
        return linear(x.table, weight, bias)[x.tokens]
    rows = x.reshape(-1, x.shape[-1])  # one matrix product however many leading axes there are
    y = rows @ weight.T
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(dy: Array, x: Array | Embedded, weight: Array) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of `linear`; dy (..., O), x (..., I), weight (O, I). If x is Embedded, dx is dtable."""
    if isinstance(x, Embedded):
        # y = (table weightᵀ + bias)[tokens]                                                                     (L2)
        dy, x = embedding_backward(dy, x.tokens, len(x.table)), x.table
    dy_rows, x_rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    # y = x weightᵀ + bias                                                                                       (L1)
    dx = (dy_rows @ weight).reshape(x.shape)
    return dx, dy_rows.T @ x_rows, sum_rows(dy_rows)


def sum_rows(rows: Array) -> Array:
    """The sum over the first axis of (N, H), as a product with ones: several times faster than `.sum(axis=0)`."""
    return array_module(rows=rows).ones(len(rows), rows.dtype) @ rows


# ------------------------------------------------------------------------------------------------------ nonlinearities


class Activation(NamedTuple):
    """An elementwise y = f(z) whose slope f'(z) is known from y alone, so that z need not be kept."""

    forward: Callable[..., Array]
    slope: Callable[..., Array]


def relu(z: Array, out: Array | None = None) -> Array:
    """y = max(z, 0); NaN stays NaN."""
    xp = array_module(z=z)
    return xp.maximum(z, xp.zeros_like(z), out=out)  # with a scalar 0 NumPy takes four times as long


def relu_slope(y: Array, out: Array | None = None) -> Array:
    """f'(z) from y = relu(z): 1 where y > 0, else 0 (at the kink it is taken as 0)."""
    xp = array_module(y=y)
    # y = max(z, 0)                                                                                              (L3)
    return xp.greater(y, 0, out=xp.empty_like(y) if out is None else out)


def tanh(z: Array, out: Array | None = None) -> Array:
    """y = tanh(z)."""
    return array_module(z=z).tanh(z, out=out)


def tanh_slope(y: Array, out: Array | None = None) -> Array:
    """f'(z) = 1 - y² from y = tanh(z)."""
    # y = tanh(z)                                                                                                (L4)
    slope = array_module(y=y).multiply(y, y, out=out)
    slope *= -1
    slope += 1
    return slope


ACTIVATIONS = {"relu": Activation(relu, relu_slope), "tanh": Activation(tanh, tanh_slope)}


# ---------------------------------------------------------------------------------------------------------- layer norm


class LayerNorm:
    """y = gain ⊙ n + bias with n = (z - mean(z)) / sqrt(var(z) + ε), over the last axis (the H units of one state).

    gain and bias (H,); z, y, n (rows, H). Made once for all steps: NumPy adds a row to a matrix at a third of the speed
    of adding two matrices, so gain and bias are kept as `rows` equal rows, and means are taken by a product, which is
    faster than `.mean`. With H = 1, n is 0. Source: Ba, Kiros, Hinton 2016, arXiv 1607.06450, equation (4).
    """

    def __init__(self, gain: Array, bias: Array, rows: int) -> None:
        self._xp = array_module(gain=gain, bias=bias)
        self._gain, self._bias = (self._xp.tile(row, (rows, 1)) for row in (gain, bias))
        self._mean = self._xp.full((len(gain), 1), 1 / len(gain), gain.dtype)  # z @ column is the mean of each row

    def forward(self, z: Array, normalized: Array | None = None) -> tuple[Array, Array, Array]:
        """y, n and 1 / sqrt(var + ε) (rows, 1); backward needs the last two. n is put in `normalized` if given."""
        normalized = self._xp.subtract(z, z @ self._mean, out=normalized)
        inverse_std = (normalized * normalized) @ self._mean
        inverse_std += LAYER_NORM_EPSILON
        inverse_std **= -0.5
        normalized *= inverse_std
        y = normalized * self._gain
        y += self._bias
        return y, normalized, inverse_std

    def backward(self, dy: Array, normalized: Array, inverse_std: Array) -> Array:
        """dz (rows, H); for dgain and dbias, once for all steps, there is `layer_norm_parameters_backward`."""
        # y = gain ⊙ n + bias                                                                                    (L5)
        dn = dy * self._gain
        # n = (z - mean(z)) / sqrt(var(z) + ε)                                                                   (L6)
        common = normalized * ((dn * normalized) @ self._mean)
        common += dn @ self._mean
        dn -= common
        dn *= inverse_std
        return dn


def layer_norm_parameters_backward(dy: Array, normalized: Array) -> tuple[Array, Array]:
    """(dgain, dbias) of `LayerNorm`; dy and normalized (..., H), summed over all leading axes."""
    dy, normalized = dy.reshape(-1, dy.shape[-1]), normalized.reshape(-1, dy.shape[-1])
    # y = gain ⊙ n + bias                                                                                        (L7)
    return sum_rows(dy * normalized), sum_rows(dy)


# ------------------------------------------------------------------------------------------------------- cross-entropy


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """nll[n] = -log softmax(logits[n])[labels[n]] in nats; logits (N, classes), labels (N,) integers.

    Returns nll (N,) and the probabilities (N, classes), which backward needs. Large logits do not overflow.
    Raises TypeError for labels that are not integers, ValueError for one out of range (seen on the host only).
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
    """dlogits (N, classes) of `softmax_cross_entropy`; dnll (N,)."""
    xp = array_module(probabilities=probabilities, labels=labels)
    # nll = log Σ_k exp(logits_k) - logits_label                                                                 (L8)
    dlogits = probabilities.copy()
    dlogits[xp.arange(len(labels)), labels] -= 1
    dlogits *= dnll[:, None]
    return dlogits
