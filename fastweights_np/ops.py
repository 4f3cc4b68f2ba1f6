"""Operations without time, each a forward and a backward: linear, embedding, layer norm, relu, tanh, cross-entropy.

A backward function takes the gradient of the loss with respect to its forward's result (`dy` for `y`) and returns the
gradients with respect to its arguments, in their order. Above each backward line stands the forward line it inverts;
numbers such as (L3) point into DERIVATION.md. Arrays are NumPy's or CuPy's and keep their dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from . import checks
from .backend import Array, array_module, scatter_add

LAYER_NORM_EPSILON = 1e-5  # added to the variance, as in Ba, Kiros, Hinton 2016, so that a constant row is not 0/0


# ---------------------------------------------------------------------------------------------------- linear, embedding


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """y = x weightᵀ + bias over the last axis; x (..., I), weight (O, I), bias (O,), y (..., O)."""
    rows = x.reshape(-1, x.shape[-1])  # one matrix product however many leading axes there are
    y = rows @ weight.T
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of `linear`; dy (..., O), x (..., I), weight (O, I)."""
    dy_rows, x_rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    # y = x weightᵀ + bias                                                                                       (L1)
    dx = (dy_rows @ weight).reshape(x.shape)
    return dx, dy_rows.T @ x_rows, dy_rows.sum(axis=0)


def embedding(table: Array, tokens: Array) -> Array:
    """y[...] = table[tokens[...]]; table (V, E), tokens (...) integers in [0, V), y (..., E).

    Raises TypeError for tokens that are not integers, ValueError for one out of range (seen on the host only).
    """
    checks.indices("tokens", tokens, table.shape[0])
    return table[tokens]


def embedding_backward(dy: Array, table: Array, tokens: Array) -> Array:
    """dtable (V, E) of `embedding`: the rows of dy (..., E) added up by token."""
    xp = array_module(dy=dy, table=table)
    dtable = xp.zeros_like(table)
    # y[n] = table[tokens[n]]                                                                                    (L2)
    scatter_add(dtable, tokens.reshape(-1), dy.reshape(-1, table.shape[1]))
    return dtable


# ------------------------------------------------------------------------------------------------------ nonlinearities


class Activation(NamedTuple):
    """An elementwise y = f(z) whose slope f'(z) is known from y alone, so that z need not be kept."""

    forward: Callable[..., Array]
    slope: Callable[[Array], Array]


def relu(z: Array, out: Array | None = None) -> Array:
    """y = max(z, 0); NaN stays NaN."""
    return array_module(z=z).maximum(z, 0, out=out)


def relu_slope(y: Array) -> Array:
    """f'(z) from y = relu(z): 1 where y > 0, else 0 (at the kink it is taken as 0)."""
    # y = max(z, 0)                                                                                              (L3)
    return (y > 0).astype(y.dtype)


def tanh(z: Array, out: Array | None = None) -> Array:
    """y = tanh(z)."""
    return array_module(z=z).tanh(z, out=out)


def tanh_slope(y: Array) -> Array:
    """f'(z) = 1 - y² from y = tanh(z)."""
    # y = tanh(z)                                                                                                (L4)
    return 1 - y * y


ACTIVATIONS = {"relu": Activation(relu, relu_slope), "tanh": Activation(tanh, tanh_slope)}


# ---------------------------------------------------------------------------------------------------------- layer norm


def layer_norm(z: Array, gain: Array, bias: Array, normalized: Array | None = None) -> tuple[Array, Array, Array]:
    """y = gain ⊙ n + bias with n = (z - mean(z)) / sqrt(var(z) + ε), over the last axis (the H units of one state).

    z (..., H), gain and bias (H,). Returns y (..., H), n (..., H) and 1 / sqrt(var + ε) (..., 1); backward needs the
    last two. n is written to `normalized` if that is given. With H = 1, n is 0.
    Source: Ba, Kiros, Hinton 2016, arXiv 1607.06450, equation (4).
    """
    xp, mean = _averager(z)
    normalized = xp.subtract(z, z @ mean, out=normalized)
    inverse_std = (normalized * normalized) @ mean
    inverse_std += LAYER_NORM_EPSILON
    inverse_std **= -0.5
    normalized *= inverse_std
    y = normalized * gain
    y += bias
    return y, normalized, inverse_std


def layer_norm_backward(dy: Array, gain: Array, normalized: Array, inverse_std: Array) -> Array:
    """dz of `layer_norm`; dgain and dbias are `layer_norm_parameters_backward`, once for all steps."""
    _, mean = _averager(dy)
    # y = gain ⊙ n + bias                                                                                        (L5)
    dn = dy * gain
    # n = (z - mean(z)) / sqrt(var(z) + ε)                                                                       (L6)
    common = normalized * ((dn * normalized) @ mean)
    common += dn @ mean
    dn -= common
    dn *= inverse_std
    return dn


def layer_norm_parameters_backward(dy: Array, normalized: Array) -> tuple[Array, Array]:
    """(dgain, dbias) of `layer_norm`; dy and normalized (..., H), summed over all leading axes."""
    dy, normalized = dy.reshape(-1, dy.shape[-1]), normalized.reshape(-1, dy.shape[-1])
    # y = gain ⊙ n + bias                                                                                        (L7)
    return (dy * normalized).sum(axis=0), dy.sum(axis=0)


def _averager(z: Array) -> tuple[ModuleType, Array]:
    """z's module, and a column of 1/H: `z @ column` is the mean over the last axis, and faster than `z.mean`."""
    xp, size = array_module(z=z), z.shape[-1]
    return xp, xp.full((size, 1), 1 / size, z.dtype)


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
