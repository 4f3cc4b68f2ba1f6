"""The networks that the tasks train: encoder, recurrent layer, readout; and ConvNet, readout.

Each part has `init`, `forward` and `backward`, and a network runs its parts one after another. Parameters and gradients
are nested dicts, {"encoder": ..., "layer": ..., "readout": ...}. A recurrent layer is selected by name. Its options are
the options of its own `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from math import inf
from typing import Any, Literal

import numpy

from . import associative_lstm, checks, convnet, fast_weights, irnn, lstm, multilevel, ops
from .backend import Array, array_module
from .optim import clip_by_global_norm
from .recurrent import check_init, uniform
from .saving import load as load
from .saving import save as save
from .workspace import Workspace

__all__ = [
    "LAYERS", "Classifier", "ConvolutionalNetwork", "Model", "Network", "PatchEncoder", "TokenEncoder", "load",
    "save", "train_step",
]  # fmt: skip

LAYERS = {
    "fast_weights": fast_weights, "multilevel": multilevel, "irnn": irnn, "lstm": lstm,
    "associative_lstm": associative_lstm,
}  # fmt: skip

Layer = Literal["fast_weights", "multilevel", "irnn", "lstm", "associative_lstm"]  # the names in LAYERS
Tree = dict[str, Any]


@dataclass(frozen=True)
class TokenEncoder:
    """x = weight table[token] + bias: section 4.1, token to 50-d embedding to 100-d embedding, both linear.

    There are fewer distinct tokens than tokens. Therefore the table is encoded first, and its rows are looked up after.
    """

    vocabulary: int
    embedding_size: int = 50
    size: int = 100

    def __post_init__(self) -> None:
        _check_sizes(self)

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return table (V, E) uniform in ±1, weight (size, E) uniform in ±1/√E, bias (size,) zero.

        Both are in ±1/√fan: one token is looked up at a time, so that a table's fan is 1. (The paper prints √fan, which
        cannot be meant.) A table in ±1/√E learns associative retrieval far later: A h dominates its inputs at first.
        """
        check_init(rng, self.vocabulary, self.size, dtype)
        return {
            "table": rng.uniform(-1.0, 1.0, (self.vocabulary, self.embedding_size)).astype(dtype),
            "weight": uniform(rng, self.size, self.embedding_size).astype(dtype),
            "bias": numpy.zeros(self.size, dtype),
        }

    def forward(self, params: Tree, tokens: Array) -> tuple[ops.Embedded, Any]:
        """Return x (T, B, size) for tokens (T, B); its rows are rows of the encoded table."""
        _check_part("encoder", params, ("table", "weight", "bias"))
        codes = ops.linear(params["table"], params["weight"], params["bias"])
        return ops.embedding(codes, tokens), params

    def backward(self, dcodes: Array, cache: Any) -> Tree:
        """Return the gradients of the parameters from dcodes (V, size), the gradient of the encoded table."""
        params = cache
        # codes = table weightᵀ + bias
        dtable, dweight, dbias = ops.linear_backward(dcodes, params["table"], params["weight"])
        return {"table": dtable, "weight": dweight, "bias": dbias}


@dataclass(frozen=True)
class PatchEncoder:
    """x = relu(weight patch + bias): sections 4.2 and 4.3, patch to a 100-d embedding."""

    inputs: int
    size: int = 100

    def __post_init__(self) -> None:
        _check_sizes(self)

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return weight (size, inputs) uniform in ±1/√inputs, bias (size,) zero."""
        check_init(rng, self.inputs, self.size, dtype)
        return {
            "weight": uniform(rng, self.size, self.inputs).astype(dtype),
            "bias": numpy.zeros(self.size, dtype),
        }

    def forward(self, params: Tree, patches: Array) -> tuple[Array, Any]:
        """Return x (T, B, size) for patches (T, B, inputs)."""
        _check_part("encoder", params, ("weight", "bias"))
        x = ops.linear(patches, params["weight"], params["bias"])
        relu = ops.Relu(x)
        return relu.forward(x, out=x), self.cache(params, patches, relu, x)

    def cache(self, params: Tree, patches: Array, relu: ops.Relu, x: Array) -> Any:
        """Return what `backward` needs. The arrays may hold many steps, even if each had a forward of its own."""
        return params, patches, relu, x

    def backward(self, dx: Array, cache: Any) -> Tree:
        """Return the gradients of the parameters from dx (T, B, size)."""
        params, patches, relu, x = cache
        # x = relu(patches weightᵀ + bias)
        dz = dx * relu.slope(x)
        _, dweight, dbias = ops.linear_backward(dz, patches, params["weight"])
        return {"weight": dweight, "bias": dbias}


@dataclass(frozen=True)
class Classifier:
    """logits = output relu(hidden h + bias) + bias: section 4.1, last state to 100 ReLU units to softmax."""

    classes: int
    size: int = 100

    def __post_init__(self) -> None:
        _check_sizes(self)

    def init(self, rng: numpy.random.Generator, input_size: int, dtype: str = "float32") -> Tree:
        """Return hidden (size, H) and output (classes, size), uniform in ±1/√fan, and zero biases; H is input_size."""
        check_init(rng, input_size, self.size, dtype)
        return {
            "hidden": uniform(rng, self.size, input_size).astype(dtype),
            "hidden_bias": numpy.zeros(self.size, dtype),
            "output": uniform(rng, self.classes, self.size).astype(dtype),
            "output_bias": numpy.zeros(self.classes, dtype),
        }

    def forward(self, params: Tree, h: Array) -> tuple[Array, Any]:
        """Return logits (B, classes) for h (B, H)."""
        _check_part("readout", params, ("hidden", "hidden_bias", "output", "output_bias"))
        z = ops.linear(h, params["hidden"], params["hidden_bias"])
        relu = ops.Relu(z)
        hidden = relu.forward(z)
        return ops.linear(hidden, params["output"], params["output_bias"]), (params, h, relu, hidden)

    def backward(self, dlogits: Array, cache: Any) -> tuple[Tree, Array]:
        """Return the gradients of the parameters and dh (B, H), from dlogits (B, classes)."""
        params, h, relu, hidden = cache
        # logits = hidden outputᵀ + output_bias
        dhidden, doutput, doutput_bias = ops.linear_backward(dlogits, hidden, params["output"])
        # hidden = relu(h hiddenᵀ + hidden_bias)
        dz = dhidden * relu.slope(hidden)
        dh, dweight, dbias = ops.linear_backward(dz, h, params["hidden"])
        return {"hidden": dweight, "hidden_bias": dbias, "output": doutput, "output_bias": doutput_bias}, dh


def _check_sizes(part: TokenEncoder | PatchEncoder | Classifier) -> None:
    """Raise ValueError or TypeError unless every size is a whole number of at least 1."""
    for name, size in vars(part).items():
        checks.count(name, size, least=1)


def _check_part(name: str, params: Tree, names: tuple[str, ...]) -> None:
    """Raise ValueError or TypeError unless the parameters of this part are arrays of these names."""
    checks.keys(f"params[{name!r}]", params, names)
    array_module(**params)


class Model:
    """The interface of a model that can be trained: init, forward to logits, backward."""

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host."""
        raise NotImplementedError

    def forward(self, params: Tree, inputs: Array, workspace: Workspace | None = None) -> tuple[Array, Any]:
        """Return logits (B, classes) for the inputs, and the cache that `backward` needs."""
        raise NotImplementedError

    def backward(self, dlogits: Array, cache: Any) -> Tree:
        """Return the gradients, shaped like the parameters, from dlogits (B, classes)."""
        raise NotImplementedError

    def close(self) -> None:
        """End the helper processes, if there are any."""

    def loss_and_gradients(
        self, params: Tree, inputs: Array, labels: Array, workspace: Workspace | None = None
    ) -> tuple[Array, Tree]:
        """Return the mean negative log likelihood of labels (B,) in nats (0-d, on their device), and its gradients."""
        logits, cache = self.forward(params, inputs, workspace)
        nll, probabilities = ops.softmax_cross_entropy(logits, labels)
        dnll = 0 * nll + 1 / len(labels)
        return nll.mean(), self.backward(ops.softmax_cross_entropy_backward(dnll, probabilities, labels), cache)


@dataclass(frozen=True)
class Network(Model):
    """logits = readout(h[-1]) with h = layer(encoder(inputs)).

    `layer` is a name in LAYERS; `init_options` and `options` are passed to its init and forward. With several
    `processes` the layer is a parallel.Layer, whose helpers start at the first forward; `close` ends them. Raises
    ValueError for an unknown layer.
    """

    encoder: TokenEncoder | PatchEncoder
    readout: Classifier
    hidden_size: int
    layer: Layer = "fast_weights"
    init_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 1

    def __post_init__(self) -> None:
        checks.choice("layer", self.layer, LAYERS)
        checks.count("hidden_size", self.hidden_size, least=1)
        checks.count("processes", self.processes, least=1)

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # helper processes are not copied

    @cached_property
    def _recurrent(self) -> Any:
        if self.processes == 1:
            return LAYERS[self.layer]
        from . import parallel  # few need it, and it would double the import time of the package

        return parallel.Layer(LAYERS[self.layer], self.processes)

    def close(self) -> None:
        """End the helper processes, if there are any."""
        if self.processes > 1 and "_recurrent" in vars(self):
            self._recurrent.close()

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host."""
        layer = LAYERS[self.layer].init(rng, self.encoder.size, self.hidden_size, dtype=dtype, **self.init_options)
        return {
            "encoder": self.encoder.init(rng, dtype),
            "layer": layer,
            "readout": self.readout.init(rng, self.hidden_size, dtype),
        }

    def forward(self, params: Tree, inputs: Array, workspace: Workspace | None = None) -> tuple[Array, Any]:
        """Return logits (B, classes) for inputs (T, B, ...), from the state after the last step, and the cache."""
        checks.keys("params", params, ("encoder", "layer", "readout"))
        x, encoder_cache = self.encoder.forward(params["encoder"], inputs)
        h, layer_cache = self._recurrent.forward(params["layer"], x, workspace=workspace, **self.options)
        logits, readout_cache = self.readout.forward(params["readout"], h[-1])
        return logits, (encoder_cache, layer_cache, readout_cache)

    def backward(self, dlogits: Array, cache: Any) -> Tree:
        """Return the gradients, shaped like the parameters, from dlogits (B, classes)."""
        encoder_cache, layer_cache, readout_cache = cache
        readout, dh = self.readout.backward(dlogits, readout_cache)
        layer, dx, _ = self._recurrent.backward(dh, layer_cache)
        return {"encoder": self.encoder.backward(dx, encoder_cache), "layer": layer, "readout": readout}


@dataclass(frozen=True)
class ConvolutionalNetwork(Model):
    """logits = readout(convnet(images)), for square grey images of side x side pixels; threads as in convnet.py."""

    layers: tuple[convnet.Convolution, ...]
    readout: Classifier
    side: int
    threads: int = 1

    def __post_init__(self) -> None:
        checks.count("side", self.side, least=1)
        convnet.feature_count(self.layers, self.side)  # raises for layers that do not fit
        checks.count("threads", self.threads, least=1)

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host."""
        features = convnet.feature_count(self.layers, self.side)
        return {
            "layer": convnet.init(rng, self.layers, dtype=dtype),
            "readout": self.readout.init(rng, features, dtype),
        }

    def forward(self, params: Tree, inputs: Array, workspace: Workspace | None = None) -> tuple[Array, Any]:
        """Return logits (B, classes) for inputs (B, side, side), and the cache."""
        checks.keys("params", params, ("layer", "readout"))
        checks.shape("inputs", inputs, ("B", self.side, self.side), "grey images, as large as side says")
        features, layer_cache = convnet.forward(params["layer"], inputs, self.layers, threads=self.threads)
        logits, readout_cache = self.readout.forward(params["readout"], features)
        return logits, (layer_cache, readout_cache)

    def backward(self, dlogits: Array, cache: Any) -> Tree:
        """Return the gradients, shaped like the parameters, from dlogits (B, classes)."""
        layer_cache, readout_cache = cache
        readout, dfeatures = self.readout.backward(dlogits, readout_cache)
        layer, _ = convnet.backward(dfeatures, layer_cache, input_gradient=False)
        return {"layer": layer, "readout": readout}


def train_step(
    model: Model, params: Tree, optimizer: Any, inputs: Array, labels: Array, learning_rate: float, *,
    clip_norm: float = inf, workspace: Workspace | None = None,
) -> Array:  # fmt: skip
    """Update params once, in place, by the optimizer; return the loss before the update (0-d, on the arrays' device).

    Gradients are scaled down to a joint norm of clip_norm if their joint norm is larger.
    """
    checks.number("clip_norm", clip_norm)
    if not clip_norm >= 0:
        raise ValueError(f"clip_norm: expected a number of at least 0, or infinity, got {clip_norm}")
    loss, grads = model.loss_and_gradients(params, inputs, labels, workspace)
    if clip_norm < inf:
        clip_by_global_norm(grads, clip_norm)
    optimizer.step(params, grads, learning_rate)
    return loss
