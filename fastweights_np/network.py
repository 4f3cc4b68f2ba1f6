"""The networks that the tasks train: encoder, recurrent layers, readout; and ConvNet, readout.

Each part has `init`, `forward` and `backward`, and a network runs its parts one after another. Parameters and gradients
are nested dicts, {"encoder": ..., "layer": ..., "readout": ...}. A recurrent layer is selected by name. Its options are
the options of its own `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, NamedTuple

import numpy

from . import associative_lstm, checks, convnet, fast_weights, irnn, learned, lstm, multilevel
from .backend import Array, array_module
from .distributed import Ranks
from .optim import clip_by_global_norm
from .parts import (
    Classifier,
    Encoder,
    IdentityEncoder,
    LinearEncoder,
    LinearReadout,
    PatchEncoder,
    Readout,
    TokenEncoder,
    Tree,
)
from .recurrent import renamed
from .saving import load as load
from .saving import save as save
from .spans import Spans
from .workspace import Workspace

__all__ = [
    "LAYERS", "Cache", "Classifier", "ConvolutionalNetwork", "IdentityEncoder", "LinearEncoder", "LinearReadout",
    "Model", "Network", "PatchEncoder", "TokenEncoder", "load", "save", "train_step",
]  # fmt: skip

LAYERS = {
    "fast_weights": fast_weights, "multilevel": multilevel, "irnn": irnn, "lstm": lstm,
    "associative_lstm": associative_lstm,
}  # fmt: skip

# arguments of a layer's forward that belong to its data or to one call
NOT_OPTIONS = ("params", "x", "h0", "A0", "c0", "lengths", "resets", "gradients", "workspace")

Layer = Literal["fast_weights", "multilevel", "irnn", "lstm", "associative_lstm"]  # the names in LAYERS


class Model:
    """The interface of a model that can be trained: init, forward to outputs, backward."""

    readout: Readout

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host."""
        raise NotImplementedError

    def forward(self, params: Tree, inputs: Array, workspace: Workspace | None = None) -> tuple[Array, Any]:
        """Return the readout's outputs for the inputs, and the cache that `backward` needs."""
        raise NotImplementedError

    def backward(self, doutputs: Array, cache: Any) -> Tree:
        """Return the gradients, shaped like the parameters, from the gradient of the outputs."""
        raise NotImplementedError

    @renamed(labels="targets")
    def loss_and_gradients(
        self, params: Tree, inputs: Array, targets: Array, workspace: Workspace | None = None
    ) -> tuple[Array, Tree]:
        """Return the mean of the readout's loss (0-d, on the arrays' device), and its gradients."""
        outputs, cache = self.forward(params, inputs, workspace)
        loss, doutputs = self.readout.loss(outputs, targets)
        return loss, self.backward(doutputs, cache)


class Cache(NamedTuple):
    """All that a network's `backward` depends on."""

    spans: Spans
    encoder: Any
    layers: dict[str, tuple[Any, dict[str, Any]]]  # a layer's own cache and options, by its name in the parameters
    readout: Any


@dataclass(frozen=True)
class Network(Model):
    """outputs = readout(h) with h = layer(encoder(inputs)), of the last state or of every state.

    layer           a name in LAYERS; `init_options` and `options` are passed to its init and forward
    at              "end": the readout reads the last state of each sequence; if bidirectional, the state after the last
                    step and the backward state after the first one. "each": the state of every step
    layers          how many layers stand on top of one another; their parameters are "layer", "layer2", ...
    bidirectional   whether each layer also has a second one, "backward", "backward2", ..., that reads from the end to
                    the start. The next part gets both states, concatenated along the last axis
    learn           names among "decay" and "rate", which are then parameters of each layer, 0-d: λ = sigmoid(decay),
                    η = exp(rate). They start from `options`. Each forward copies them to the host

    Raises ValueError or TypeError that names the argument at fault.
    """

    encoder: Encoder
    readout: Readout
    hidden_size: int
    layer: Layer = "fast_weights"
    init_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    at: Literal["end", "each"] = "end"
    layers: int = 1
    bidirectional: bool = False
    learn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.choice("layer", self.layer, LAYERS)
        for name in ("hidden_size", "layers"):
            checks.count(name, getattr(self, name), least=1)
        checks.choice("at", self.at, ("end", "each"))
        checks.boolean("bidirectional", self.bidirectional)
        check_options(self.layer, self.init_options, self.options)
        learned.check(self.learn, self.layer, self.options)

    @property
    def _levels(self) -> list[list[str]]:
        """Return the names of the layers on each level, from the first to the last."""
        numbers = ["", *map(str, range(2, self.layers + 1))]
        return [["layer" + n, "backward" + n] if self.bidirectional else ["layer" + n] for n in numbers]

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host."""
        params: Tree = {}
        size = self.encoder.size
        for level in self._levels:
            for name in level:
                params[name] = LAYERS[self.layer].init(rng, size, self.hidden_size, dtype=dtype, **self.init_options)
                params[name] |= learned.init(self.learn, self.options, dtype)
            size = self.hidden_size * len(level)
        encoder = self.encoder.init(rng, dtype)
        before = {"encoder": encoder} if encoder else {}
        return before | params | {"readout": self.readout.init(rng, size, dtype)}

    def layer_arguments(self, params: Tree, name: str = "layer") -> tuple[Tree, dict[str, Any]]:
        """Return the parameters of the layer of this name, and its options, among them λ and η if they are learned.

        The functions of the layer's module take both: fast_weights.Stepper(own, batch_size, **options).
        """
        own, numbers = learned.split(self.learn, f"params[{name!r}]", params[name])
        return own, self.options | numbers

    def forward(
        self, params: Tree, inputs: Array, workspace: Workspace | None = None, lengths: Array | None = None, *,
        resets: Array | None = None, gradients: bool = True,
    ) -> tuple[Array, Cache]:  # fmt: skip
        """Return the outputs for inputs (T, B, ...), and the cache.

        The outputs are (B, outputs) at the end, or (T, B, outputs) at each step. A sequence begins with a zero state.

        lengths    (B,), how many steps each sequence of a padded batch has, as in spans.py. Its end is the last of them
        resets     (T, B), True at the first step of each further document in a sequence, as in spans.py
        gradients  False keeps nothing for `backward`, which then cannot be called
        """
        if workspace is not None:
            checks.instance("workspace", workspace, Workspace, "pass lengths by their name")
        if resets is not None and self.bidirectional and self.at == "end":
            raise ValueError(
                'resets: expected None in both directions with at="end", whose last states are of different documents, '
                'got an array; use at="each"'
            )
        names = [name for level in self._levels for name in level]
        encoded = not isinstance(self.encoder, IdentityEncoder)
        checks.keys("params", params, (*["encoder"] * encoded, *names, "readout"))
        x: Any
        x, encoder_cache = self.encoder.forward(params.get("encoder", {}), _cleared(inputs, lengths))
        checks.shape("x", x, ("T", "B", self.encoder.size), "inputs are (steps, sequences, ...)")
        spans, caches = Spans(x, lengths, resets), {}
        for level in self._levels:
            of_level = []
            for name in level:
                own, options = self.layer_arguments(params, name)
                states, cache = LAYERS[self.layer].forward(
                    own, spans.reverse(x) if _backwards(name) else x, lengths=lengths,
                    resets=spans.reversed_resets() if _backwards(name) else resets, gradients=gradients,
                    workspace=workspace.part(name) if workspace and name != names[0] else workspace, **options,
                )  # fmt: skip
                caches[name] = cache, options
                of_level.append(states)
            # the input of the next level, (T, B, H), or (T, B, 2 H) in both directions
            x = _joined([spans.reverse(h) if _backwards(name) else h for name, h in zip(level, of_level, strict=True)])
        read = _joined([spans.last(h) for h in of_level]) if self.at == "end" else x
        outputs, readout_cache = self.readout.forward(params["readout"], read)
        return outputs, Cache(spans, encoder_cache, caches, readout_cache)

    def backward(self, doutputs: Array, cache: Any) -> Tree:
        """Return the gradients, shaped like the parameters, from the gradient of the outputs."""
        readout, dh = self.readout.backward(doutputs, cache.readout)
        H, grads = self.hidden_size, {}
        for level in reversed(self._levels):
            dx: Any = 0
            for n, name in enumerate(level):
                layer_cache, options = cache.layers[name]
                dstates = dh
                if self.bidirectional:
                    dstates = array_module(dh=dh).ascontiguousarray(dh[..., n * H : (n + 1) * H])
                if _backwards(name) and dh.ndim == 3:  # the last states are not in the order of time
                    dstates = cache.spans.reverse(dstates)
                grads[name], dx_n, _ = LAYERS[self.layer].backward(dstates, layer_cache, extra=self.learn)
                learned.backward(self.learn, grads[name], options)
                if _backwards(name) and dx_n.ndim == 3:  # nor are the rows of a table
                    dx_n = cache.spans.reverse(dx_n)
                dx = dx + dx_n if n else dx_n
            dh = dx
        encoder = self.encoder.backward(dh, cache.encoder)
        before = {"encoder": encoder} if encoder else {}
        return before | {name: grads[name] for name in cache.layers} | {"readout": readout}

    @renamed(labels="targets")
    def loss_and_gradients(
        self, params: Tree, inputs: Array, targets: Array, workspace: Workspace | None = None,
        lengths: Array | None = None, *, resets: Array | None = None,
    ) -> tuple[Array, Tree]:  # fmt: skip
        """Return the mean of the readout's loss (0-d, on the arrays' device), and its gradients.

        targets belong to the outputs: labels (B,) or vectors (B, outputs) at the end, (T, B) or (T, B, outputs) at each
        step. The mean is over the sequences, or over their steps; padding does not count.
        """
        outputs, cache = self.forward(params, inputs, workspace, lengths, resets=resets)
        if self.at == "end":
            loss, doutputs = self.readout.loss(outputs, targets)
        else:
            xp = array_module(outputs=outputs, targets=targets)
            checks.shape("targets", targets, (*outputs.shape[:2], *targets.shape[2:]), "one for each step of inputs")
            counted = tuple(map(xp.asarray, cache.spans.active().nonzero()))
            doutputs = xp.zeros_like(outputs)
            loss, doutputs[counted] = self.readout.loss(outputs[counted], targets[counted])
        return loss, self.backward(doutputs, cache)


def check_options(layer: str, init_options: dict[str, Any], options: dict[str, Any]) -> None:
    """Raise ValueError or TypeError unless the layer has these options of init and of forward."""
    module = LAYERS[layer]
    checks.options("init_options", init_options, module.init, ("rng", "input_size", "hidden_size", "dtype"))
    checks.options("options", options, module.forward, NOT_OPTIONS)


def _backwards(name: str) -> bool:
    return name.startswith("backward")


def _joined(parts: list[Array]) -> Array:
    """Return the parts, one after the other along the last axis."""
    return parts[0] if len(parts) == 1 else array_module(part=parts[0]).concatenate(parts, axis=-1)


def _cleared(inputs: Array, lengths: Array | None) -> Array:
    """Return the inputs (T, B, ...) with zero for padding."""
    if lengths is None:
        return inputs
    array_module(inputs=inputs)
    checks.shape("inputs", inputs, ("T", "B", *inputs.shape[2:]), "inputs are (steps, sequences, ...)")
    cleared: Array = Spans(inputs, lengths).clear(inputs)
    return cleared


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
    model: Model, params: Tree, optimizer: Any, inputs: Array, targets: Array, learning_rate: float, *,
    clip_norm: float = inf, workspace: Workspace | None = None, ranks: Ranks | None = None, weight: float = 1.0,
) -> Array:  # fmt: skip
    """Update params once, in place, by the optimizer; return the loss before the update (0-d, on the arrays' device).

    Gradients are scaled down to a joint norm of clip_norm if their joint norm is larger. With ranks (distributed.py),
    inputs and targets are this rank's share of the batch, and weight is its fraction of the batch. The update and the
    loss are those of the whole batch, on every rank.
    """
    if clip_norm != inf:
        checks.positive("clip_norm", clip_norm)
    loss, grads = model.loss_and_gradients(params, inputs, targets, workspace)
    if ranks is not None:
        loss, grads = ranks.add_up({"loss": loss, "grads": grads}, weight).values()
        loss = loss.copy()  # a view would keep all gradients in memory
    if clip_norm != inf:
        clip_by_global_norm(grads, clip_norm)
    optimizer.step(params, grads, learning_rate)
    return loss
