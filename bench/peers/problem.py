"""What every contestant of a bench computes: one layer's forward and backward on the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from fastweights_np.network import LAYERS

Arrays = dict[str, numpy.ndarray]


@dataclass(frozen=True)
class Problem:
    """Forward and backward of one recurrent layer, T steps of B sequences of I inputs, H units, float32."""

    layer: str
    batch_size: int
    steps: int
    hidden_size: int
    input_size: int = 100
    options: dict[str, Any] = field(default_factory=dict)  # of the layer's forward
    seed: int = 0

    def arrays(self) -> tuple[Arrays, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """The layer's parameters, x (T, B, I), h0 (B, H) and dh (T, B, H), the cotangent of h."""
        rng = numpy.random.default_rng(self.seed)
        params = LAYERS[self.layer].init(rng, self.input_size, self.hidden_size)
        # away from the round numbers that layers start with
        params = {name: value + 0.1 * _normal(rng, *value.shape) / len(value) ** 0.5 for name, value in params.items()}
        x = _normal(rng, self.steps, self.batch_size, self.input_size)
        h0 = abs(_normal(rng, self.batch_size, self.hidden_size))
        dh = _normal(rng, self.steps, self.batch_size, self.hidden_size)
        return params, x, h0, dh


class Contestant(NamedTuple):
    """`run()` makes one forward and backward and waits for its end; `outputs` turns what it returns into arrays.

    The arrays are h, dx, dh0 and the gradient of each parameter by its name, "dW" and so on.
    """

    run: Callable[[], Any]
    outputs: Callable[[Any], Arrays]


def _normal(rng: numpy.random.Generator, *shape: int) -> numpy.ndarray:
    return rng.standard_normal(shape, dtype="float32")
