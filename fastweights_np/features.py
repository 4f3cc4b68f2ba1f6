"""Feature maps φ of keys and queries, and their normalization.

    identity   φ(z) = z
    elu        φ(z) = elu(z) + 1: z + 1 where z > 0, else exp(z)         Katharopoulos et al. 2020, arXiv 2006.16236
    dpfp-ν     φ(z) = [r ⊙ roll(r, 1), .., r ⊙ roll(r, ν)], r = relu([z, -z])   Schlag et al. 2021, arXiv 2102.11174
    l2         φ / sqrt(Σ φ² + ε): keys of length 1                             Yang et al. 2024, arXiv 2406.06484
    sum        φ / (Σ φ + ε): keys that sum to 1, for a φ >= 0                  Schlag et al. 2021

z (..., d), φ (..., d), or (..., 2 d ν) of dpfp-ν. Numbers such as (P1) are in DERIVATION.md; plain/features.py has the
same equations in plain lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from . import checks
from .backend import Array, array_module, is_device_array

__all__ = [
    "NORMALIZATIONS",
    "check",
    "count",
    "divided",
    "divided_backward",
    "features",
    "features_backward",
    "with_ones",
]

ATTENTION = 1e-6  # added to z·q
NORMALIZATIONS = ("none", "l2", "sum")
EPSILON = 1e-6  # in both normalizations, so that a key of zeros stays one
BLOCK = 2**16  # features of dpfp at once on the host: they stay in the cache


class Saved(NamedTuple):
    """What `features_backward` needs."""

    phi: Array  # φ, before the normalization
    y: Array  # after it
    scale: Array | None  # y / φ (..., 1)
    z: Array | None  # of dpfp


def check(feature_map: str, normalization: str) -> None:
    """Raise ValueError for a feature map or a normalization that there is not."""
    checks.choice("normalization", normalization, NORMALIZATIONS)
    nu = feature_map.removeprefix("dpfp-") if isinstance(feature_map, str) else ""
    if feature_map not in ("identity", "elu") and not (f"dpfp-{nu}" == feature_map and nu.isdecimal() and int(nu) > 0):
        raise ValueError(f"feature_map: expected identity, elu, or dpfp-1, dpfp-2 and so on; got {feature_map!r}")
    if feature_map == "identity" and normalization == "sum":
        raise ValueError(
            "normalization: expected none or l2 for the feature map identity, whose sum may be 0; got 'sum'"
        )


def count(feature_map: str, size: int) -> int:
    """Return the number of features of a key of this size. Raises ValueError for a dpfp-ν with ν > 2 · size."""
    if not feature_map.startswith("dpfp"):
        return size
    nu = _nu(feature_map)
    if nu > 2 * size:
        raise ValueError(
            f"feature_map: expected a ν of at most {2 * size}, twice the size of keys, got {feature_map!r}"
        )
    return 2 * size * nu


def features(z: Array, feature_map: str, normalization: str) -> tuple[Array, Saved]:
    """Return φ(z), normalized, and what backward needs. The result is z itself if nothing is done to it.

    Raises ValueError as `check` and `count` do.
    """
    check(feature_map, normalization)
    xp, phi, kept = array_module(z=z), z, None
    if feature_map == "elu":
        phi = xp.exp(xp.minimum(z, 0))  # (P1)
        phi += xp.maximum(z, 0)
    elif feature_map != "identity":
        phi, kept = _dpfp(z, feature_map), z
    if normalization == "none":
        return phi, Saved(phi, phi, None, kept)
    if normalization == "l2":
        scale = 1 / xp.sqrt((phi * phi).sum(axis=-1, keepdims=True) + EPSILON)  # (P3)
    else:
        scale = 1 / (phi.sum(axis=-1, keepdims=True) + EPSILON)  # (P3)
    y = phi * scale
    return y, Saved(phi, y, scale, kept)


def features_backward(dy: Array, saved: Saved, feature_map: str, normalization: str) -> Array:
    """Return dz from dy, the gradient of the normalized features."""
    xp, dphi = array_module(dy=dy), dy
    if saved.scale is not None:
        # y = φ ρ,   ρ = 1 / sqrt(Σ φ² + ε), or 1 / (Σ φ + ε)                                                       (P3)
        along: Any = (dy * saved.y).sum(axis=-1, keepdims=True)
        dphi = dy - (saved.y * along if normalization == "l2" else along)
        dphi *= saved.scale
    if feature_map == "identity":
        return dphi
    if feature_map == "elu":
        # φ = z + 1 where z > 0, else exp(z)                                                                       (P1)
        return dphi * xp.minimum(saved.phi, 1)
    assert saved.z is not None
    return _dpfp_backward(dphi, saved.z, feature_map)


def _dpfp(z: Array, feature_map: str) -> Array:
    """Return φ of dpfp-ν."""
    xp, size, nu = array_module(z=z), 2 * z.shape[-1], _nu(feature_map)
    phi = xp.empty((*z.shape[:-1], count(feature_map, z.shape[-1])), z.dtype)
    for z_rows, phi_rows in _blocks(z, phi):
        r, rolled = _rolled(z_rows, nu)
        for n in range(1, nu + 1):
            xp.multiply(r, rolled[:, nu - n : nu - n + size], out=phi_rows[:, (n - 1) * size : n * size])  # (P2)
    return phi


def _dpfp_backward(dphi: Array, z: Array, feature_map: str) -> Array:
    """Return dz from dφ."""
    xp, size, nu = array_module(z=z), 2 * z.shape[-1], _nu(feature_map)
    dz = xp.empty(z.shape, z.dtype)
    for z_rows, dphi_rows, dz_rows in _blocks(z, dphi, dz):
        r, rolled = _rolled(z_rows, nu)
        drolled = xp.zeros_like(rolled)
        dr = drolled[:, nu:]
        # φ_n = r ⊙ roll(r, n)                                                                                     (P2)
        for n in range(1, nu + 1):
            dphi_n, shifted = dphi_rows[:, (n - 1) * size : n * size], slice(nu - n, nu - n + size)
            drolled[:, shifted] += dphi_n * r
            dr += dphi_n * rolled[:, shifted]
        dr[:, size - nu :] += drolled[:, :nu]
        # r = relu([z, -z])                                                                                        (L3)
        dr *= r > 0
        xp.subtract(dr[:, : size // 2], dr[:, size // 2 :], out=dz_rows)
    return dz


def _rolled(z: Array, nu: int) -> tuple[Array, Array]:
    """Return r = relu([z, -z]) (n, 2 d) for z (n, d), and r with its last ν entries in front, too (n, ν + 2 d)."""
    xp = array_module(z=z)
    r = xp.maximum(xp.concatenate([z, -z], axis=-1), 0)  # (L3)
    return r, xp.concatenate([r[:, r.shape[-1] - nu :], r], axis=-1)


def _blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield some rows (n, size) of each array (..., size) at a time, on a GPU all. The last array is contiguous."""
    flat = [each.reshape(-1, each.shape[-1]) for each in arrays]
    rows = max(1, len(flat[0]) if is_device_array(flat[0]) else BLOCK // max(each.shape[-1] for each in flat))
    for start in range(0, len(flat[0]), rows):
        yield tuple(each[start : start + rows] for each in flat)


def _nu(feature_map: str) -> int:
    return int(feature_map.removeprefix("dpfp-"))


def with_ones(values: Array) -> Array:
    """Return values (..., d_v) with a further entry of 1, so that the last row of S is z, the sum of keys."""
    xp = array_module(values=values)
    return xp.concatenate([values, xp.ones_like(values[..., :1])], axis=-1)


def divided(o: Array) -> Array:
    """Return y (..., d_v), S q / (z·q + ε), from o (..., d_v + 1), S q with z·q as its last entry."""
    return o[..., :-1] / (o[..., -1:] + ATTENTION)  # (P9)


def divided_backward(dy: Array, o: Array) -> Array:
    """Return do from dy."""
    # y = o[:-1] / (o[-1] + ε)                                                                                      (P9)
    do = dy / (o[..., -1:] + ATTENTION)
    along: Any = (do * divided(o)).sum(axis=-1, keepdims=True)
    return array_module(o=o).concatenate([do, -along], axis=-1)
