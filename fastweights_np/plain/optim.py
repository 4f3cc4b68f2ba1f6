"""The optimizers, as plainly as they can be written: one update of one array."""

from __future__ import annotations

from typing import Any


def adam(
    theta: Any, m: Any, v: Any, g: Any, t: int, rate: float, decay: float = 0.0,
    beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return θ, m and v after update t = 1, 2, ...: Kingma, Ba 2015, algorithm 1, with decoupled weight decay."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    theta = theta - rate * decay * theta  # Loshchilov, Hutter 2019, algorithm 2
    return theta - rate * m_hat / (v_hat**0.5 + epsilon), m, v


def rmsprop(
    theta: Any, v: Any, g: Any, rate: float, rho: float = 0.99, epsilon: float = 1e-8
) -> tuple[Any, Any]:  # fmt: skip
    """Return θ and v after an update: Mnih et al. 2016, arXiv 1602.01783, equation S3."""
    v = rho * v + (1 - rho) * g * g
    return theta - rate * g / (v + epsilon) ** 0.5, v
