"""Define the problems that all frameworks compute on the same arrays: a layer, its steps one at a time, or training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from fastweights_np import transformer
from fastweights_np.multilevel import quadrants
from fastweights_np.network import LAYERS
from fastweights_np.trees import map_leaves

QUADRANT = 6  # glimpses: coarse, four fine, coarse

Arrays = dict[str, numpy.ndarray]


@dataclass(frozen=True)
class Layer:
    """Forward and backward of one recurrent layer: T steps, B sequences, I inputs, H units.

    The answer is h and the gradients of every parameter ("dW" and so on), of x and of h0, from a dense dL/dh.
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
        """Return the layer's parameters, x (T, B, I), h0 (B, H) and dh (T, B, H): the same numbers for every dtype."""
        rng = numpy.random.default_rng(self.seed)

        def normal(*shape: int) -> numpy.ndarray:
            return rng.standard_normal(shape, dtype="float32")

        params = LAYERS[self.layer].init(rng, self.input_size, self.hidden_size)
        # noise, because many initial values are 0 or 1
        params = {name: value + numpy.float32(0.1) * normal(*value.shape) for name, value in params.items()}
        for name in {"W", "V"} & set(params):
            params[name] /= numpy.float32(self.hidden_size**0.5)
        x = normal(self.steps, self.batch_size, self.input_size)
        h0 = abs(normal(self.batch_size, self.hidden_size))
        dh = normal(self.steps, self.batch_size, self.hidden_size)
        params = {name: value.astype(dtype) for name, value in params.items()}
        return params, x.astype(dtype), h0.astype(dtype), dh.astype(dtype)

    def all_options(self) -> dict[str, Any]:
        """Return the options, and for the multi-level layer the control signals of figure 3 for each quadrant.

        Raise ValueError if T is not a whole number of quadrants.
        """
        if self.layer != "multilevel":
            return self.options
        if self.steps % QUADRANT:
            raise ValueError(f"sizes: expected T to be a multiple of {QUADRANT} for the multi-level layer")
        return self.options | {"controls": quadrants(self.steps // QUADRANT)}


@dataclass(frozen=True)
class Forward(Layer):
    """Forward alone, without what a gradient would need. The answer is h."""


@dataclass(frozen=True)
class Step(Layer):
    """The fast-weight layer, one call a time step. Each run makes T of them, from the state where the last run ended.

    The first run starts from h0 and A = 0. The answer is the state after it.
    """


@dataclass(frozen=True)
class Training:
    """Some updates of a task's network, retrieval or mnist: select examples, loss, gradients, clipping, Adam.

    For mnist the layer may be "convnet". Its images are random, which take as long as real ones. The answer is all
    parameters after the updates. Adam's epsilon is far above the usual 1e-8: with 1e-8 a gradient of pure rounding
    error would move a parameter as far as any other gradient, and the answers would not agree.
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


@dataclass(frozen=True)
class Transformer:
    """One update of the transformer: loss of all steps of random tokens, gradients, clipping, Adam.

    The answer is all parameters after it. The kernel starts at random numbers, so that every gradient is far from 0;
    epsilon as in Training.
    """

    written: tuple[int, ...] = ()  # the blocks whose MLP is written in place
    batch_size: int = 32
    steps: int = 256
    vocabulary: int = 128
    size: int = 64
    blocks: int = 2
    heads: int = 4
    hidden_size: int = 128
    window: int = 16
    chunk: int = 16
    rate: float = 1.0
    learning_rate: float = 1e-3
    epsilon: float = 1e-4
    clip_norm: float = 1.0
    seed: int = 0

    def model(self) -> transformer.Transformer:
        """Return our model."""
        return transformer.Transformer(
            self.vocabulary, self.size, self.blocks, self.heads, self.hidden_size, self.window,
            written=tuple(self.written), options={"chunk": self.chunk, "rate": self.rate},
        )  # fmt: skip

    def params(self, dtype: str = "float32") -> Any:
        """Return the initial parameters: the same numbers for every dtype."""
        rng = numpy.random.default_rng(self.seed)
        params = self.model().init(rng)
        for n in self.written:
            mlp = params[f"block{n}"]["mlp"]
            for name in ("kernel", "target"):
                mlp[name] = mlp[name] + numpy.float32(0.02) * rng.standard_normal(mlp[name].shape, "float32")
        return map_leaves(lambda leaf: leaf.astype(dtype), params)

    def batch(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return tokens and targets (T, B): each target is the next token."""
        rng = numpy.random.default_rng(self.seed + 1)
        tokens = rng.integers(0, self.vocabulary, (self.steps + 1, self.batch_size))
        return tokens[:-1], tokens[1:]


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the wall-clock seconds of run()."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Framework(NamedTuple):
    """One framework's implementation of a problem: `run()` computes once, and waits for the result on the host.

    `answer` converts its result to NumPy arrays. `seconds(run)` times a run: on a GPU by the events of its stream.
    """

    run: Callable[[], Any]
    answer: Callable[[Any], Arrays]
    seconds: Callable[[Callable[[], Any]], float] = seconds_of
