"""Define the encoders and readouts of a network: the parts before and after its recurrent layer.

Each has `init`, `forward` and `backward`. An encoder also has `size`, the size of its output x. A readout has a `loss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from . import checks, ops
from .backend import Array, array_module
from .recurrent import check_init, uniform

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
class LinearEncoder:
    """x = weight v + bias, for vectors v of real numbers."""

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

    def forward(self, params: Tree, vectors: Array) -> tuple[Array, Any]:
        """Return x (T, B, size) for vectors (T, B, inputs)."""
        _check_part("encoder", params, ("weight", "bias"))
        return ops.linear(vectors, params["weight"], params["bias"]), (params, vectors)

    def backward(self, dx: Array, cache: Any) -> Tree:
        """Return the gradients of the parameters from dx (T, B, size)."""
        params, vectors = cache
        # x = vectors weightᵀ + bias                                                                              (L1)
        _, dweight, dbias = ops.linear_backward(dx, vectors, params["weight"])
        return {"weight": dweight, "bias": dbias}


@dataclass(frozen=True)
class PatchEncoder(LinearEncoder):
    """x = relu(weight patch + bias): sections 4.2 and 4.3, patch to a 100-d embedding."""

    def forward(self, params: Tree, vectors: Array) -> tuple[Array, Any]:
        """Return x (T, B, size) for patches (T, B, inputs)."""
        x, _ = super().forward(params, vectors)
        relu = ops.Relu(x)
        return relu.forward(x, out=x), self.cache(params, vectors, relu, x)

    def cache(self, params: Tree, patches: Array, relu: ops.Relu, x: Array) -> Any:
        """Return what `backward` needs. The arrays may hold many steps, even if each had a forward of its own."""
        return params, patches, relu, x

    def backward(self, dx: Array, cache: Any) -> Tree:
        """Return the gradients of the parameters from dx (T, B, size)."""
        params, patches, relu, x = cache
        # x = relu(patches weightᵀ + bias)
        return super().backward(dx * relu.slope(x), (params, patches))


@dataclass(frozen=True)
class IdentityEncoder:
    """x = v, for vectors v of real numbers. It has no parameters: the network's have no "encoder"."""

    inputs: int

    def __post_init__(self) -> None:
        _check_sizes(self)

    @property
    def size(self) -> int:
        """Return the size of x."""
        return self.inputs

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return no parameters."""
        return {}

    def forward(self, params: Tree, vectors: Array) -> tuple[Array, Any]:
        """Return the vectors (T, B, inputs) themselves."""
        checks.shape("inputs", vectors, ("T", "B", self.inputs), "vectors, as long as the encoder says")
        return vectors, None

    def backward(self, dx: Array, cache: Any) -> Tree:
        """Return no gradients."""
        return {}


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
        """Return logits (..., classes) for h (..., H)."""
        _check_part("readout", params, ("hidden", "hidden_bias", "output", "output_bias"))
        z = ops.linear(h, params["hidden"], params["hidden_bias"])
        relu = ops.Relu(z)
        hidden = relu.forward(z)
        return ops.linear(hidden, params["output"], params["output_bias"]), (params, h, relu, hidden)

    def backward(self, dlogits: Array, cache: Any) -> tuple[Tree, Array]:
        """Return the gradients of the parameters and dh (..., H), from dlogits (..., classes)."""
        params, h, relu, hidden = cache
        # logits = hidden outputᵀ + output_bias
        dhidden, doutput, doutput_bias = ops.linear_backward(dlogits, hidden, params["output"])
        # hidden = relu(h hiddenᵀ + hidden_bias)
        dz = dhidden * relu.slope(hidden)
        dh, dweight, dbias = ops.linear_backward(dz, h, params["hidden"])
        return {"hidden": dweight, "hidden_bias": dbias, "output": doutput, "output_bias": doutput_bias}, dh

    def loss(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        """Return the mean negative log likelihood of labels (N,) in nats (0-d), and dlogits (N, classes)."""
        nll, probabilities = ops.softmax_cross_entropy(logits, labels)
        dnll = 0 * nll + 1 / len(labels)
        return nll.mean(), ops.softmax_cross_entropy_backward(dnll, probabilities, labels)


@dataclass(frozen=True)
class LinearReadout:
    """values = output h + bias, for regression: the loss is half the squared error."""

    outputs: int

    def __post_init__(self) -> None:
        _check_sizes(self)

    def init(self, rng: numpy.random.Generator, input_size: int, dtype: str = "float32") -> Tree:
        """Return output (outputs, H) uniform in ±1/√H and a zero bias; H is input_size."""
        check_init(rng, input_size, self.outputs, dtype)
        return {
            "output": uniform(rng, self.outputs, input_size).astype(dtype),
            "output_bias": numpy.zeros(self.outputs, dtype),
        }

    def forward(self, params: Tree, h: Array) -> tuple[Array, Any]:
        """Return values (..., outputs) for h (..., H)."""
        _check_part("readout", params, ("output", "output_bias"))
        return ops.linear(h, params["output"], params["output_bias"]), (params, h)

    def backward(self, dvalues: Array, cache: Any) -> tuple[Tree, Array]:
        """Return the gradients of the parameters and dh (..., H), from dvalues (..., outputs)."""
        params, h = cache
        # values = h outputᵀ + output_bias                                                                        (L1)
        dh, doutput, doutput_bias = ops.linear_backward(dvalues, h, params["output"])
        return {"output": doutput, "output_bias": doutput_bias}, dh

    def loss(self, values: Array, targets: Array) -> tuple[Array, Array]:
        """Return the mean of ½ (value - target)² over all values (N, outputs), 0-d, and dvalues."""
        array_module(values=values, targets=targets)
        checks.floating(values=values, targets=targets)
        checks.shape("targets", targets, values.shape, "one for each value")
        losses = ops.squared_error(values, targets)
        return losses.mean(), ops.squared_error_backward(0 * losses + 1 / losses.size, values, targets)


Encoder = TokenEncoder | LinearEncoder | PatchEncoder | IdentityEncoder
Readout = Classifier | LinearReadout


def _check_sizes(part: Encoder | Readout) -> None:
    """Raise ValueError or TypeError unless every size is a whole number of at least 1."""
    for name, size in vars(part).items():
        checks.count(name, size, least=1)


def _check_part(name: str, params: Tree, names: tuple[str, ...]) -> None:
    """Raise ValueError or TypeError unless the parameters of this part are arrays of these names."""
    checks.keys(f"params[{name!r}]", params, names)
    array_module(**params)
