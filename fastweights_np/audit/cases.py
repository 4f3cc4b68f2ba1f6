"""The recurrent layers that the audit runs: sizes and options, with random data that a seed fixes."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from typing import Any

import numpy

from .. import associative_lstm, multilevel, network
from ..inner_loop import Options
from .links import Arrays

PLAIN = {name: import_module(f"{network.__package__}.plain.{name}") for name in network.LAYERS}


@dataclass(frozen=True)
class Case:
    """Sizes and options of one recurrent layer, with random data that the seed fixes."""

    layer: str = "fast_weights"
    steps: int = 5
    batch_size: int = 2
    input_size: int = 3
    hidden_size: int = 4
    seed: int = 0
    initial: bool = True  # whether the initial state is random (A0 not symmetric) or zero
    init: dict[str, Any] = field(default_factory=dict)  # options of the layer's init
    options: dict[str, Any] = field(default_factory=dict)  # options of its forward

    def __str__(self) -> str:
        sizes = f"T{self.steps} B{self.batch_size} I{self.input_size} H{self.hidden_size}"
        options = (f"{name}={value}" for name, value in (self.init | self.options).items())
        return " ".join([sizes, f"seed={self.seed}", *options])

    @property
    def module(self) -> Any:
        """Return the layer's module."""
        return network.LAYERS[self.layer]

    @property
    def has_memory(self) -> bool:
        """Return whether the layer has fast weights."""
        return self.layer in ("fast_weights", "multilevel")

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the initial states that the layer takes, by name."""
        batch_size, hidden_size = self.batch_size, self.hidden_size
        beside_h0: dict[str, dict[str, tuple[int, ...]]] = {
            "fast_weights": {"A0": (batch_size, hidden_size, hidden_size)},
            "multilevel": {"A0": (batch_size, hidden_size, hidden_size)},
            "irnn": {},
            "lstm": {"c0": (batch_size, hidden_size)},
            "associative_lstm": {"c0": (batch_size, self.options.get("copies", 4), hidden_size)},
        }
        return {"h0": (batch_size, hidden_size), **beside_h0[self.layer]}

    def arrays(self) -> tuple[Arrays, Arrays, numpy.ndarray]:
        """Return (params, {x, h0 and the other initial states}, the cotangent dh)."""
        rng = numpy.random.default_rng(self.seed)
        params = self.module.init(rng, self.input_size, self.hidden_size, dtype="float64", **self.init)
        params = {name: value + 0.4 * rng.standard_normal(value.shape) for name, value in params.items()}
        sequence = (self.steps, self.batch_size)
        given = {"x": rng.standard_normal((*sequence, self.input_size))}
        for name, shape in self.state_shapes().items():
            given[name] = self.initial * (0.3 if name == "A0" else 1.0) * rng.standard_normal(shape)
        return params, given, rng.standard_normal((*sequence, self.hidden_size))

    def ways(self) -> list[dict[str, Any]]:
        """Return the options of all ways to compute the same results.

        They store fast weights differently: matrix, blends whose chunk divides T or does not, attention, default.
        """
        if not self.has_memory:
            return [{}]
        return [{"chunk": chunk} for chunk in [*sorted({1, 2, 3, self.steps}), None]]

    def scalars(self) -> dict[str, Any]:
        """Return the options that are numbers and have gradients."""
        if not self.has_memory:
            return {}
        return {name: self.options.get(name, getattr(Options, name)) for name in ("decay", "rate")}

    def extra(self) -> tuple[str, ...]:
        """Return the names of further gradients, in addition to params, x and h0."""
        return (*self.scalars(), *(name for name in self.state_shapes() if name != "h0"))

    def fixed(self) -> dict[str, Any]:
        """Return the options that have no gradient, as the plain layer takes them."""
        options = {name: value for name, value in self.options.items() if name not in ("decay", "rate", "copies")}
        if self.layer == "associative_lstm":
            copies = self.options.get("copies", 4)
            options["permutations"] = associative_lstm.permutations(copies, self.hidden_size // 2)
        return options

    def plain(self, params: Arrays, given: Arrays, np: Any = numpy) -> Any:
        """Return the plain forward's results: h (T, B, H) first, what backward needs last; given may hold λ and η."""
        return PLAIN[self.layer].forward(params, **self.scalars() | given, **self.fixed(), np=np)

    def plain_gradients(self, params: Arrays, saved: Any, dh: numpy.ndarray) -> Arrays:
        """Return all gradients by the plain backward."""
        backward = PLAIN[self.layer].backward
        options = {
            name: value for name, value in (self.scalars() | self.fixed()).items()
            if name in signature(backward).parameters
        }  # fmt: skip
        grads, dx, dh0 = backward(dh, saved, params, **options)
        return grads | {"x": dx, "h0": dh0}


ENDS = (("decay", 0.0), ("decay", 1.0), ("rate", 0.0))  # bounds, where a central difference would leave the range


def controls(*steps: str) -> multilevel.Controls:
    """Return the control signals of each step, given their first letters: store, wipe, read, integrate."""
    return multilevel.Controls(*([letter in step for step in steps] for letter in "swri"))


ALL_SIGNALS = controls("s", "sw", "r", "", "sri", "rw", "i", "sr", "r")
QUADRANTS = multilevel.quadrants(2)  # as the paper uses them
QUICK = (
    Case(seed=1, options={"inner_steps": 2, "normalize_preliminary": True, "decay": 0.8, "rate": 0.6}),
    Case(seed=2, options={"inner_steps": 1, "sustained_boundary": False, "activation": "tanh"}),
    Case(seed=3, init={"layer_norm": False}, options={"inner_steps": 2, "decay": 0.7, "rate": 0.1}),
    Case(seed=4, options={"inner_steps": 2, "decay": 0.9}),
    Case("multilevel", 9, seed=44, options={"inner_steps": 2, "decay": 0.8, "rate": 0.6, "controls": ALL_SIGNALS}),
    Case("irnn", seed=40, init={"layer_norm": True}),
    Case("lstm", seed=41),
    Case("lstm", seed=42, init={"layer_norm": True}),
    Case("associative_lstm", 3, 1, 1, 6, seed=43, init={"heads": 2}, options={"copies": 3}),
    Case("associative_lstm", 3, 2, 1, 6, seed=45, init={"heads": 1, "layer_norm": True}, options={"copies": 2}),
    Case(
        "associative_lstm", 3, 2, 1, 4, seed=67, init={"heads": 2, "shared_value": True},
        options={"copies": 2, "shared_value": True, "recurrent_value": False},
    ),
)  # fmt: skip
FULL = (
    *QUICK,
    Case(seed=5, options={"inner_steps": 0}),
    Case(seed=6, options={"inner_steps": 3, "activation": "tanh", "decay": 0.5, "rate": 1.0}),
    Case(seed=7, steps=1, options={"inner_steps": 1}),
    Case(seed=8, batch_size=1, hidden_size=1, options={"inner_steps": 1}),
    Case(seed=9, batch_size=1, hidden_size=1, init={"layer_norm": False}, options={"inner_steps": 2, "rate": 0.2}),
    Case(seed=30, steps=11, hidden_size=7, options={"inner_steps": 1, "decay": 0.9, "rate": 0.5}),
    Case(seed=11, steps=9, initial=False, options={"inner_steps": 1, "decay": 0.95}),
    Case(seed=12, options={"inner_steps": 2, "decay": 1.0, "rate": 0.3}),
    Case(seed=13, options={"inner_steps": 2, "sustained_boundary": False, "normalize_preliminary": True}),
    Case(
        seed=14, init={"layer_norm": False},
        options={"inner_steps": 1, "activation": "tanh", "sustained_boundary": False},
    ),
    Case(seed=15, steps=3, batch_size=3, input_size=1, hidden_size=3, options={"inner_steps": 4, "decay": 0.6}),
    Case(  # in several chunks
        seed=19, steps=34, batch_size=1, input_size=1, hidden_size=3, options={"activation": "tanh", "rate": 0.3},
    ),
    Case(seed=17, options={"decay": 0.0, "inner_steps": 2}),
    Case(seed=18, options={"rate": 0.0, "inner_steps": 2}),
    Case("multilevel", 9, seed=63, options={"decay": 0.0, "controls": ALL_SIGNALS}),
    Case(seed=16, options={"inner_steps": 0, "normalize_preliminary": True, "activation": "tanh"}),
    Case("multilevel", 12, seed=59, options={"controls": QUADRANTS}),
    Case("multilevel", 9, seed=60, init={"layer_norm": False}, options={"rate": 0.1, "controls": ALL_SIGNALS}),
    Case(
        "multilevel", 9, 1, 1, 3, seed=61, initial=False,
        options={"activation": "tanh", "normalize_preliminary": True, "decay": 1.0, "controls": ALL_SIGNALS},
    ),
    Case("multilevel", 4, seed=62, options={"controls": controls("", "r", "rwi", "")}),  # nothing is stored
    Case("irnn", seed=50),
    Case("irnn", seed=51, steps=1, batch_size=1, hidden_size=1, initial=False),
    Case("irnn", seed=52, init={"layer_norm": True}, options={"activation": "tanh"}),
    Case("lstm", seed=53, steps=1, batch_size=1, hidden_size=1, initial=False),
    Case("lstm", seed=54, steps=9, batch_size=3, input_size=1, init={"forget_bias": -1.0}),
    Case("associative_lstm", seed=55, hidden_size=4),
    Case("associative_lstm", seed=56, steps=1, batch_size=1, hidden_size=2, initial=False, init={"heads": 1}),
    Case("associative_lstm", seed=57, steps=4, hidden_size=6, init={"heads": 1}, options={"copies": 1}),
    Case("associative_lstm", seed=58, steps=3, hidden_size=6, init={"heads": 2}, options={"copies": 3}),
    Case("associative_lstm", seed=66, steps=3, hidden_size=6, init={"layer_norm": True}),
    Case("associative_lstm", seed=65, steps=1, batch_size=1, hidden_size=2, initial=False, init={"layer_norm": True}),
    Case("associative_lstm", seed=68, hidden_size=4, init={"shared_value": True}, options={"shared_value": True}),
    Case(
        "associative_lstm", seed=69, steps=3, hidden_size=6, init={"heads": 2, "layer_norm": True},
        options={"recurrent_value": False},
    ),
    Case(
        "associative_lstm", seed=70, steps=4, hidden_size=6,
        init={"heads": 3, "shared_value": True, "layer_norm": True},
        options={"copies": 2, "shared_value": True, "recurrent_value": False},
    ),
)  # fmt: skip
