"""Keys, values, queries, strengths β and decays γ of the fast weight programmer, from its input, for all steps at once.

    K x, V x, Q x,   β = σ(beta x + beta_bias),   γ = σ(gate x + gate_bias), or σ(gate_bias)

γ is kept as log γ, which does not underflow. T steps, B sequences, I inputs, N heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import checks, ops
from .backend import Array, array_module
from .recurrent import Params

MAPS = ("K", "V", "Q", "beta", "gate")  # parameters that are multiplied by x


class Projected(NamedTuple):
    """What the memory takes, except that keys and queries are not features yet."""

    keys: Array  # (T, B, N, d_k)
    values: Array  # (T, B, N, d_v)
    queries: Array  # (T, B, N, d_k)
    beta: Array | None  # (T, B, N); None without the delta rule
    log_decay: Array | None  # log γ (T, B, N), or (1, 1, N) if it does not depend on x; None without a gate


def check(params: Params, **others: Array) -> None:
    """Raise ValueError or TypeError unless the parameters fit one another, and all arrays share module and dtype."""
    checks.keys("params", params, ("K", "V", "Q"), ("beta", "beta_bias", "gate", "gate_bias"))
    array_module(**params, **others)
    checks.floating(**params, **others)
    checks.shape("K", params["K"], ("N", "d_k", "I"))
    heads, _, inputs = params["K"].shape
    shapes = {"V": (heads, "d_v", inputs), "Q": params["K"].shape, "beta": (heads, inputs), "gate": (heads, inputs)}
    shapes |= {"beta_bias": (heads,), "gate_bias": (heads,)}
    for name, shape in shapes.items():
        if name in params:
            checks.shape(name, params[name], shape)
    if ("beta" in params) != ("beta_bias" in params):
        raise ValueError("params: expected both beta and beta_bias, or neither for a rule without β")
    if "gate" in params and "gate_bias" not in params:
        raise ValueError("params: expected gate_bias too, got gate alone; make them with init()")


def project(x: Any, params: Params) -> Projected:
    """Return keys, values, queries, β and log γ from x (T, B, I)."""
    z, found, start = ops.linear(x, _stacked(params)), dict[str, Any](), 0  # (L1)
    for name in (name for name in MAPS if name in params):
        shape = params[name].shape[:-1]
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        found[name] = z[..., start : start + size].reshape(*z.shape[:2], *shape)
        start += size
    beta = log_decay = None
    if "beta_bias" in params:
        beta = array_module(z=z).exp(log_sigmoid(found["beta"] + params["beta_bias"]))  # (P4)
    if "gate_bias" in params:
        bias = params["gate_bias"].reshape(1, 1, -1)
        log_decay = log_sigmoid(found["gate"] + bias if "gate" in found else bias)  # (P4)
    return Projected(found["K"], found["V"], found["Q"], beta, log_decay)


def project_backward(grads: Projected, projected: Projected, params: Params, x: Any) -> tuple[Params, Array]:
    """Return the gradients of all parameters, and dx, from the gradients of what `project` has returned.

    The gradients of β and log γ are (T, B, N), also where log γ is (1, 1, N).
    """
    xp, of_params = array_module(keys=grads.keys), dict[str, Any]()
    found: dict[str, Any] = {"K": grads.keys, "V": grads.values, "Q": grads.queries}
    if projected.beta is not None:
        # β = σ(z)                                                                                                  (P4)
        found["beta"] = grads.beta * projected.beta * (1 - projected.beta)
    if projected.log_decay is not None:
        # log γ = log σ(z)                                                                                          (P4)
        dz = grads.log_decay * -xp.expm1(projected.log_decay)
        if "gate" in params:
            found["gate"] = dz
        else:
            of_params["gate_bias"] = dz.sum(axis=(0, 1))
    rows = [found[name].reshape(*found[name].shape[:2], -1) for name in MAPS if name in found]
    # z = W x                                                                                                       (L1)
    dx, dstacked, dbias = ops.linear_backward(xp.concatenate(rows, axis=-1), x, _stacked(params))
    start = 0
    for name, of_name in zip((name for name in MAPS if name in found), rows, strict=True):
        stop = start + of_name.shape[-1]
        of_params[name] = dstacked[start:stop].reshape(params[name].shape)
        if f"{name}_bias" in params:
            of_params[f"{name}_bias"] = dbias[start:stop]
        start = stop
    return {name: of_params[name] for name in params}, dx


def _stacked(params: Params) -> Array:
    """Return the rows of all maps one below the other, so that one product serves them all."""
    maps = [params[name].reshape(-1, params[name].shape[-1]) for name in MAPS if name in params]
    return array_module(**params).concatenate(maps, axis=0)


def log_sigmoid(z: Array) -> Array:
    """Return log σ(z) = min(z, 0) - log(1 + exp(-|z|))."""
    xp = array_module(z=z)
    return xp.minimum(z, 0) - xp.log1p(xp.exp(-xp.abs(z)))
