"""Operations of one time step: embedding, activations and layer norm, as plainly as they can be written."""

from __future__ import annotations

from typing import Any

import numpy

EPSILON = 1e-5  # added to the variance


def times(A: Any, v: Any) -> Any:
    """Return A v for each sequence: A (B, H, H), v (B, H); or for each head, too: A (B, N, H, K), v (B, N, K)."""
    return (A @ v[..., None])[..., 0]


def outer(u: Any, v: Any) -> Any:
    """Return u vᵀ (B, H, K) for each sequence: u (B, H), v (B, K); or for each head, too."""
    return u[..., :, None] * v[..., None, :]


def embedding(table: Any, tokens: Any) -> Any:
    """Return the rows table[tokens] (..., E) of a table (V, E)."""
    return table[tokens]  # (L2)


def embedding_backward(dy: Any, tokens: Any, vocabulary: int) -> Any:
    """Return dtable (V, E) from dy (..., E)."""
    # y[n] = table[tokens[n]]
    return numpy.eye(vocabulary)[tokens.reshape(-1)].T @ dy.reshape(-1, dy.shape[-1])  # (L2)


def activate(z: Any, name: str, np: Any = numpy) -> Any:
    """Return f(z), "tanh" or "relu"."""
    return np.tanh(z) if name == "tanh" else np.maximum(z, 0)  # (L4), (L3)


def slope(y: Any, name: str) -> Any:
    """Return f'(z), which is known from y = f(z) alone; at the kink of relu it is 0."""
    return 1 - y * y if name == "tanh" else 1 * (y > 0)  # (L4), (L3)


def sigmoid(z: Any, np: Any = numpy) -> Any:
    """Return σ(z) = 1 / (1 + exp(-z))."""
    return 1 / (1 + np.exp(-z))


def layer_norm(z: Any, gain: Any, bias: Any, np: Any = numpy) -> tuple[Any, Any]:
    """Return y = gain ⊙ n + bias with n = (z - mean(z)) ρ, ρ = 1 / sqrt(var(z) + ε), and what backward needs."""
    u = z - np.mean(z, -1, keepdims=True)
    rho = (np.mean(u * u, -1, keepdims=True) + EPSILON) ** -0.5
    n = u * rho
    return gain * n + bias, (n, rho)  # (L5), (L6), (L7)


def layer_norm_backward(dy: Any, saved: Any, gain: Any) -> tuple[Any, Any, Any]:
    """Return dz, and dgain and dbias (H,), summed over the sequences."""
    n, rho = saved
    # y = gain ⊙ n + bias
    dgain, dbias = (dy * n).sum(0), dy.sum(0)  # (L7)
    dn = gain * dy  # (L5)
    # n = (z - mean(z)) ρ
    dz = rho * (dn - dn.mean(-1, keepdims=True) - n * (dn * n).mean(-1, keepdims=True))  # (L6)
    return dz, dgain, dbias


def norm_activation(
    z: Any, params: dict[str, Any], f: str, normalize: bool = True, np: Any = numpy
) -> tuple[Any, Any]:  # fmt: skip
    """Return h = f(LN[z]), or f(z) without layer norm, and what backward needs."""
    normed = None
    if normalize and "gain" in params:
        z, normed = layer_norm(z, params["gain"], params["bias"], np)
    h = activate(z, f, np)
    return h, (h, normed)


def norm_activation_backward(dh: Any, saved: Any, params: dict[str, Any], f: str, grads: dict[str, Any]) -> Any:
    """Return dz from dh; add the gradients of gain and bias to grads."""
    h, normed = saved
    # h = f(y)
    dy = dh * slope(h, f)  # (F1)
    if normed is None:
        return dy
    # y = LN[z]
    dz, dgain, dbias = layer_norm_backward(dy, normed, params["gain"])  # (F2)
    grads["gain"], grads["bias"] = grads["gain"] + dgain, grads["bias"] + dbias
    return dz
