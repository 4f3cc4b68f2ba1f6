"""λ and η of a layer as parameters, 0-d arrays p: λ = sigmoid(p) stays below 1, and η = exp(p) above 0."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy

from . import checks
from .backend import Array, array_module
from .inner_loop import Options

LEARNED = ("decay", "rate")


def check(learn: Any, layer: str, options: dict[str, Any]) -> None:
    """Raise ValueError or TypeError unless `learn` names options of this layer that start where they can be learned."""
    checks.instance("learn", learn, tuple, 'pass a tuple of names, such as ("decay", "rate")')
    for name in learn:
        checks.choice("learn", name, LEARNED)
        if layer not in ("fast_weights", "multilevel"):
            raise ValueError(f"learn: expected none, for the layer {layer} has no {name}, got {name!r}")
        start, upper = _start(name, options), 1.0 if name == "decay" else inf
        checks.number(f"options[{name!r}]", start)
        if not 0 < start < upper:
            raise ValueError(
                f"options[{name!r}]: expected a number between 0 and {upper:g}, from which it can be learned, got "
                f"{start}"
            )


def init(learn: tuple[str, ...], options: dict[str, Any], dtype: str) -> dict[str, Array]:
    """Return p of each name, log(λ / (1 - λ)) or log η of the options, 0-d."""
    starts = {name: _start(name, options) for name in learn}
    odds = {name: start / (1 - start) if name == "decay" else start for name, start in starts.items()}
    return {name: numpy.array(numpy.log(value), dtype) for name, value in odds.items()}


def split(learn: tuple[str, ...], where: str, params: dict[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
    """Return the parameters without the learned ones, and λ and η as numbers, which are copied to the host.

    where is the name of the parameters. Raises ValueError or TypeError unless each p is a 0-d array.
    """
    if not learn:
        return params, {}
    checks.instance(where, params, dict, "make it with init()")
    rest, numbers = {name: value for name, value in params.items() if name not in learn}, {}
    for name in learn:
        checks.shape(f"{where}[{name!r}]", params.get(name), (), "it is one number")
        p = float(params[name])
        with numpy.errstate(over="ignore"):  # the layer refuses an infinite rate
            # sigmoid(p) = ½ + ½ tanh(p/2), which does not overflow
            numbers[name] = float(0.5 + 0.5 * numpy.tanh(p / 2) if name == "decay" else numpy.exp(p))
    return rest, numbers


def backward(learn: tuple[str, ...], grads: dict[str, Array], options: dict[str, Any]) -> None:
    """Turn dλ and dη among the gradients into dp, in place; the options have the λ and η of the forward pass."""
    for name in learn:
        # λ = sigmoid(p): dp = λ (1 - λ) dλ.   η = exp(p): dp = η dη
        value = options[name]
        slope = value * (1 - value) if name == "decay" else value
        grads[name] = array_module(C=grads["C"]).asarray(grads[name] * slope, grads["C"].dtype)


def _start(name: str, options: dict[str, Any]) -> Any:
    return options.get(name, getattr(Options, name))
