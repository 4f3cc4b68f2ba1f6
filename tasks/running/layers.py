"""Define the options of a task's recurrent layer, and select the options of the layer's init and forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastweights_np import checks, fast_weights

from .runs import RunSettings

WRITTEN = ("window", "written", "chunk", "across", "decay", "rate")  # options of a transformer with fast weights
# the options of each layer's init, and of its forward
TAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fast_weights": (
        ("layer_norm", "recurrent_scale"), ("decay", "rate", "inner_steps", "normalize_preliminary"),
    ),
    "multilevel": (
        ("layer_norm", "recurrent_scale"), ("decay", "rate", "inner_steps", "normalize_preliminary"),
    ),
    "irnn": (("layer_norm", "recurrent_scale"), ()),
    "lstm": (("layer_norm", "forget_bias"), ()),
    "associative_lstm": (
        ("layer_norm", "forget_bias", "heads", "shared_value"), ("copies", "shared_value", "recurrent_value"),
    ),
    "convnet": ((), ()),
    # write rules of keyvalue and mqar, and softmax attention
    "sum": ((), ("feature_map", "decay")),
    "decay": ((), ("feature_map",)),
    "gated": ((), ("feature_map",)),
    "delta": ((), ("feature_map",)),
    "gated_delta": ((), ("feature_map",)),
    "softmax": ((), ()),
    # transformers of longrecall and text
    "window": ((), ("window",)),
    "next_token": ((), WRITTEN),
    "learned": ((), WRITTEN),
    "convolution": ((), WRITTEN),
    "matrix": ((), WRITTEN),
    "reconstruction": ((), tuple(name for name in WRITTEN if name != "across")),
    "full": ((), ()),
}  # fmt: skip


@dataclass(frozen=True)
class LayerSettings(RunSettings):
    """The options of a task's recurrent layer. An option that the chosen layer does not use is refused.

    A task narrows the type of `layer` to a Literal of the layers that it offers.
    """

    layer: str = "fast_weights"
    """Recurrent layer."""
    hidden_size: int = 50
    """R, the number of units of the recurrent layer."""
    decay: float = 0.9
    """λ, the decay rate of the fast weights, from 0 to 1."""
    rate: float = 0.1
    """η, the learning rate of the fast weights."""
    inner_steps: int = 1
    """S, the number of steps of the inner loop of the fast weights."""
    normalize_preliminary: bool = False
    """Also apply layer norm to the preliminary state, which is computed before the fast weights are read."""
    layer_norm: bool | None = None
    """Use layer norm. None: True for layers with fast weights, False for other layers."""
    recurrent_scale: float | None = None
    """Initialize W of fast weights and IRNN to this multiple of the identity. None: 0.05 for fast weights, 0.5 for
    IRNN."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate of LSTM and associative LSTM."""
    copies: int = 4
    """Number of redundant copies of the associative LSTM's memory."""
    heads: int = 3
    """Number of key-value pairs that the associative LSTM writes, and of keys that it reads, at each time step."""
    shared_value: bool = False
    """Let all heads of the associative LSTM write the same value."""
    recurrent_value: bool = True
    """Compute the values of the associative LSTM from its input and its hidden state, not from its input alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("hidden_size", self.hidden_size, least=1)
        checks.count("copies", self.copies, least=1)
        checks.count("heads", self.heads, least=1)
        fast_weights.Options(self.decay, self.rate, self.inner_steps)  # raises for invalid options
        if self.layer == "multilevel" and not self.inner_steps:
            raise ValueError(
                "inner_steps: expected at least 1 for the layer multilevel, got 0; pass --rate 0 for no memory"
            )
        if self.layer == "associative_lstm" and self.hidden_size % 2:
            raise ValueError(f"hidden_size: expected an even number, two for a complex one, got {self.hidden_size}")

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        used = {name for names in TAKES[values["layer"]] for name in names}
        layers_own = {name for takes in TAKES.values() for names in takes for name in names}
        found = super().unused(values) | dict.fromkeys(sorted(layers_own - used), f"the layer {values['layer']}")
        of_the_rest = {
            "a layer without layer norm": ("normalize_preliminary",) if values["layer_norm"] is False else (),
            "a layer with rate 0": ("decay",) if values["rate"] == 0 else (),
            "a layer without inner steps": ("decay", "rate") if values["inner_steps"] == 0 else (),
            "a layer with one head": ("shared_value",) if values["heads"] == 1 else (),
            "a run that starts from --initial": ("recurrent_scale", "forget_bias") if values["initial"] else (),
        }
        found |= {name: user for user, names in of_the_rest.items() for name in names if name not in found}
        return {name: user for name, user in found.items() if name in values}

    def of_layer(self) -> dict[str, Any]:
        """Return layer, hidden_size, init_options and options: the arguments of network.Network."""
        init_options, options = (
            {name: getattr(self, name) for name in names if getattr(self, name) is not None}
            for names in TAKES[self.layer]
        )
        return {
            "layer": self.layer, "hidden_size": self.hidden_size, "init_options": init_options, "options": options,
        }  # fmt: skip
