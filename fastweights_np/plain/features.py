"""Feature maps of keys and queries, and their normalization, as plainly as they can be written.

    identity   φ(z) = z
    elu        φ(z) = elu(z) + 1: z + 1 where z > 0, else exp(z)                   Katharopoulos et al. 2020
    dpfp-ν     φ(z) = [r ⊙ roll(r, 1), .., r ⊙ roll(r, ν)],   r = relu([z, -z])     Schlag et al. 2021
    l2         φ / sqrt(Σ φ² + ε)
    sum        φ / (Σ φ + ε)

z (..., d), φ (..., d), or (..., 2 d ν) of dpfp-ν.
"""

from __future__ import annotations

from typing import Any

import numpy

EPSILON = 1e-6


def features(z: Any, feature_map: str, normalization: str, np: Any = numpy) -> tuple[Any, Any]:
    """Return φ(z), normalized, and what backward needs."""
    r = None
    phi = z
    if feature_map == "elu":
        phi = np.where(z > 0, z + 1, np.exp(np.minimum(z, 0)))  # (P1)
    elif feature_map != "identity":
        r = np.maximum(np.concatenate([z, -z], axis=-1), 0)  # (L3)
        shifts = range(1, int(feature_map.removeprefix("dpfp-")) + 1)
        phi = np.concatenate([r * np.roll(r, n, axis=-1) for n in shifts], axis=-1)  # (P2)
    scale = 1.0
    if normalization == "l2":
        scale = (np.sum(phi * phi, axis=-1, keepdims=True) + EPSILON) ** -0.5  # (P3)
    elif normalization == "sum":
        scale = 1 / (np.sum(phi, axis=-1, keepdims=True) + EPSILON)  # (P3)
    return phi * scale, (z, r, phi, phi * scale, scale)


def features_backward(dy: Any, saved: Any, feature_map: str, normalization: str) -> Any:
    """Return dz from dy, the gradient of the normalized features."""
    z, r, phi, y, scale = saved
    # y = φ ρ,   ρ = 1 / sqrt(Σ φ² + ε), or 1 / (Σ φ + ε)
    along = (dy * y).sum(-1, keepdims=True)
    dphi = scale * (dy - {"none": 0.0, "l2": y, "sum": 1.0}[normalization] * along)  # (P3)
    if feature_map == "identity":
        return dphi
    if feature_map == "elu":
        # φ = z + 1, or exp(z)
        return dphi * numpy.where(z > 0, 1, phi)  # (P1)
    # φ_n = r ⊙ roll(r, n)
    dr = 0 * r
    for n, dphi_n in enumerate(numpy.split(dphi, dphi.shape[-1] // r.shape[-1], axis=-1), 1):
        dr = dr + dphi_n * numpy.roll(r, n, axis=-1) + numpy.roll(dphi_n * r, -n, axis=-1)  # (P2)
    # r = relu([z, -z])
    dr = dr * (r > 0)  # (L3)
    return dr[..., : z.shape[-1]] - dr[..., z.shape[-1] :]
