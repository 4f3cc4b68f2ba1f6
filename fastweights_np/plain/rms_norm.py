"""RMS norm and its gradient, as plainly as they can be written: y = gain ⊙ n, n = x / sqrt(mean(x²) + ε)."""

from __future__ import annotations

from typing import Any

import numpy

EPSILON = 1e-6  # added to the mean square


def forward(gain: Any, x: Any, np: Any = numpy) -> tuple[Any, Any]:
    """Return y (..., d), for gain (d,) and x (..., d), and what backward needs."""
    rho = (np.mean(x * x, -1, keepdims=True) + EPSILON) ** -0.5
    n = x * rho
    return gain * n, (n, rho)  # (R1)


def backward(dy: Any, saved: Any, gain: Any) -> tuple[Any, Any]:
    """Return dgain and dx."""
    n, rho = saved
    # y = gain ⊙ n
    dgain, dn = (dy * n).reshape(-1, len(gain)).sum(0), gain * dy  # (R1)
    # n = x ρ
    return dgain, rho * (dn - n * (dn * n).mean(-1, keepdims=True))  # (R1)
