"""The MLP of a transformer block and its gradient, as plainly as they can be written.

    y = down z,   z = φ(gate x) ⊙ (up x) with φ(g) = g σ(g),   or without a gate  z = relu(up x)

x, y (T, B, d), z (T, B, F).
"""

from __future__ import annotations

from typing import Any

import numpy

from .ops import sigmoid


def hidden(params: dict[str, Any], x: Any, np: Any = numpy) -> tuple[Any, Any]:
    """Return z, and what backward needs."""
    u = np.dot(x, params["up"].T)
    if "gate" not in params:
        return np.maximum(u, 0), (x, None, u)  # (L3)
    g = np.dot(x, params["gate"].T)
    return g * sigmoid(g, np) * u, (x, g, u)  # (R6)


def hidden_backward(dz: Any, saved: Any, params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the gradients of gate and up, and dx."""
    x, g, u = saved
    if g is None:
        # z = relu(u)
        of_maps = {"up": dz * (u > 0)}  # (L3)
    else:
        # z = φ(g) ⊙ u,   φ(g) = g σ(g)
        sigma = sigmoid(g)
        of_maps = {"gate": dz * u * sigma * (1 + g * (1 - sigma)), "up": dz * g * sigma}  # (R6)
    # g = gate x,   u = up x
    grads = {name: numpy.einsum("tbf,tbd->fd", d, x) for name, d in of_maps.items()}  # (L1)
    return grads, sum(d @ params[name] for name, d in of_maps.items())


def forward(params: dict[str, Any], x: Any, np: Any = numpy) -> tuple[Any, Any]:
    """Return y, and what backward needs."""
    z, saved = hidden(params, x, np)
    return np.dot(z, params["down"].T), (z, saved)


def backward(dy: Any, saved: Any, params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the gradients of the parameters, and dx."""
    z, of_hidden = saved
    # y = down z
    grads, dx = hidden_backward(dy @ params["down"], of_hidden, params)  # (L1)
    return grads | {"down": numpy.einsum("tbd,tbf->df", dy, z)}, dx
