"""What the contestants of a bench compute, on the same arrays: a layer's forward and backward, or a training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from fastweights_np.multilevel import quadrants
from fastweights_np.network import LAYERS

QUADRANT = 6  # glimpses: coarse, four fine, coarse

Arrays = dict[str, numpy.ndarray]


@dataclass(frozen=True)
class Layer:
    """Forward and backward of one recurrent layer: T steps of B sequences of I inputs, H units.

    The answer: h, and the gradients of every parameter ("dW" and so on), of x and of h0, from a dense dL/dh.
    """

    layer: str
    batch_size: int
    steps: int
    hidden_size: int
    input_size: int = 100
    options: dict[str, Any] = field(default_factory=dict)  # of the layer's forward
    seed: int = 0
    device: str = "cpu"  # or cuda

    def arrays(self, dtype: str = "float32") -> tuple[Arrays, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """The layer's parameters, x (T, B, I), h0 (B, H) and dh (T, B, H); the same numbers whatever the dtype."""
        rng = numpy.random.default_rng(self.seed)

        def normal(*shape: int) -> numpy.ndarray:
            return rng.standard_normal(shape, dtype="float32")

        params = LAYERS[self.layer].init(rng, self.input_size, self.hidden_size)
        # away from the round numbers that layers start with
        params = {name: value + numpy.float32(0.1) * normal(*value.shape) for name, value in params.items()}
        for name in {"W", "V"} & set(params):
            params[name] /= numpy.float32(self.hidden_size**0.5)
        x = normal(self.steps, self.batch_size, self.input_size)
        h0 = abs(normal(self.batch_size, self.hidden_size))
        dh = normal(self.steps, self.batch_size, self.hidden_size)
        params = {name: value.astype(dtype) for name, value in params.items()}
        return params, x.astype(dtype), h0.astype(dtype), dh.astype(dtype)

    def all_options(self) -> dict[str, Any]:
        """The options, and for the multi-level layer the signals of figure 3, quadrant after quadrant.

        Raises ValueError for a T of incomplete quadrants.
        """
        if self.layer != "multilevel":
            return self.options
        if self.steps % QUADRANT:
            raise ValueError(f"sizes: expected T to be a multiple of {QUADRANT} for the multi-level layer")
        return self.options | {"controls": quadrants(self.steps // QUADRANT)}


@dataclass(frozen=True)
class Training:
    """Some updates of the network of a task, retrieval or mnist: pick the examples, loss, gradients, clip, Adam.

    For mnist the layer may be "convnet"; its images are random, which take as long as real ones. The answer: all
    parameters after the updates. Adam's epsilon is far above the usual 1e-8, with which a gradient that is nothing but
    rounding would move a parameter as far as any other, and no two answers would be alike.
    """

    layer: str
    hidden_size: int
    task: str = "retrieval"
    batch_size: int = 128
    updates: int = 2
    learning_rate: float = 1e-3
    epsilon: float = 1e-4
    clip_norm: float = 5.0
    seed: int = 0


def seconds_of(run: Callable[[], Any]) -> float:
    """How long run() takes by the clock on the wall."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Contestant(NamedTuple):
    """`run()` computes once, and on the host waits for the end; `answer` turns what it returned into NumPy arrays;
    `seconds(run)` tells how long a run takes: on a GPU by the events of its stream.
    """

    run: Callable[[], Any]
    answer: Callable[[Any], Arrays]
    seconds: Callable[[Callable[[], Any]], float] = seconds_of
