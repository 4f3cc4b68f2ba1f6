"""The documented defaults of the package, as literals: a default changes together with this table, or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from math import inf
from typing import Any

from fastweights_np import (
    actor_critic,
    associative_lstm,
    convnet,
    distributed,
    fast_weight_programmer,
    fast_weights,
    features,
    inner_loop,
    irnn,
    key_value_memory,
    lstm,
    multilevel,
    network,
    ops,
    optim,
    parts,
)

MODULES = (
    actor_critic, associative_lstm, convnet, distributed, fast_weight_programmer, fast_weights, features, inner_loop,
    irnn, key_value_memory, lstm, multilevel, network, ops, optim, parts,
)  # fmt: skip

H0, A0, C0 = {"h0": None}, {"A0": None}, {"c0": None}
MEMORY = {"decay": 0.95, "rate": 0.5, "inner_steps": 1, "activation": "relu", "normalize_preliminary": False}
INIT = {"layer_norm": True, "recurrent_scale": 0.05, "dtype": "float32"}
SPANS = {"lengths": None, "resets": None, "gradients": True}
VARIANT = {"shared_value": False, "recurrent_value": True}
STATE, CHUNKS = {"state": None}, {"chunk": None, "threads": 1}
OF_STATE = {"feature_map": "identity", "attention_normalization": False}
PROGRAMMER = {"decay": 1.0, "normalization": None} | OF_STATE
RUN = SPANS | {"chunk": None, "workspace": None}

DEFAULTS: dict[str, dict[str, Any]] = {
    "fast_weights.init": INIT,
    "fast_weights.forward": H0 | A0 | MEMORY | {"sustained_boundary": True} | RUN,
    "fast_weights.backward": {"extra": ()},
    "fast_weights.attention": {"t": -1},
    "fast_weights.final_state": {},
    "fast_weights.initial_state": H0 | A0,
    "fast_weights.step": MEMORY | {"sustained_boundary": True},
    "fast_weights.Stepper": {"batch_size": 1, "chunk": None} | MEMORY | {"sustained_boundary": True} | H0 | A0,
    "multilevel.init": INIT,
    "multilevel.forward": H0 | A0 | MEMORY | RUN,
    "multilevel.backward": {"extra": ()},
    "multilevel.attention": {"t": -1},
    "multilevel.final_state": {},
    "multilevel.initial_state": H0 | A0,
    "multilevel.step": MEMORY,
    "irnn.init": {"layer_norm": False, "recurrent_scale": 0.5, "dtype": "float32"},
    "irnn.forward": H0 | SPANS | {"activation": "relu", "workspace": None},
    "irnn.backward": {"extra": ()},
    "irnn.final_state": {},
    "irnn.initial_state": H0,
    "irnn.step": {"activation": "relu"},
    "lstm.init": {"forget_bias": 1.0, "layer_norm": False, "dtype": "float32"},
    "lstm.forward": H0 | C0 | SPANS | {"workspace": None},
    "lstm.backward": {"extra": ()},
    "lstm.final_state": {},
    "lstm.initial_state": H0 | C0,
    "lstm.step": {},
    "associative_lstm.init": {
        "heads": 3,
        "shared_value": False,
        "forget_bias": 1.0,
        "layer_norm": False,
        "dtype": "float32",
    },
    "associative_lstm.forward": H0 | C0 | SPANS | VARIANT | {"copies": 4, "workspace": None},
    "associative_lstm.backward": {"extra": ()},
    "associative_lstm.final_state": {},
    "associative_lstm.initial_state": H0 | C0 | {"copies": 4},
    "associative_lstm.step": VARIANT,
    "fast_weight_programmer.init": {"heads": 1, "rule": "delta", "dtype": "float32"},
    "fast_weight_programmer.forward": STATE | PROGRAMMER | SPANS | CHUNKS,
    "fast_weight_programmer.backward": {"dstate": None},
    "fast_weight_programmer.initial_state": STATE | OF_STATE,
    "fast_weight_programmer.step": PROGRAMMER,
    "key_value_memory.forward": STATE | CHUNKS | {"beta": None, "log_decay": 0.0, "delta": False},
    "key_value_memory.backward": {"dstate": None},
    "multilevel.Stepper": {"batch_size": 1, "chunk": None} | MEMORY | H0 | A0,
    "irnn.Stepper": {"batch_size": 1, "activation": "relu"} | H0,
    "lstm.Stepper": {"batch_size": 1} | H0 | C0,
    "associative_lstm.Stepper": {"batch_size": 1, "copies": 4} | VARIANT | H0 | C0,
    "multilevel.quadrants": {"fine": 4},
    "inner_loop.InnerLoop.forward": {"first": 0},
    "inner_loop.InnerLoop.backward": {"first": 0},
    "inner_loop.Options": MEMORY | {"sustained_boundary": True},
    "convnet.Convolution": {"stride": 1, "pool": 1},
    "convnet.init": {"channels": 1, "dtype": "float32"},
    "convnet.forward": {"block": 65536, "threads": 1},
    "convnet.backward": {"input_gradient": True},
    "distributed.Ranks.add_up": {"weight": 1.0},
    "distributed.Ranks.meet": {"patience": inf},
    "parts.TokenEncoder": {"embedding_size": 50, "size": 100},
    "parts.LinearEncoder": {"size": 100},
    "parts.PatchEncoder": {"size": 100},
    "parts.Classifier": {"size": 100},
    "network.Network": {
        "layer": "fast_weights",
        "at": "end",
        "layers": 1,
        "bidirectional": False,
    },
    "network.Network.forward": {"gradients": True},
    "network.Network.layer_arguments": {"name": "layer"},
    "network.ConvolutionalNetwork": {"threads": 1},
    "network.train_step": {"clip_norm": inf, "workspace": None, "weight": 1.0},
    **{f"network.{model}.init": {"dtype": "float32"} for model in ("Model", "Network", "ConvolutionalNetwork")},
    **{
        f"parts.{part}.init": {"dtype": "float32"}
        for part in ("TokenEncoder", "LinearEncoder", "IdentityEncoder", "Classifier", "LinearReadout")
    },
    "actor_critic.loss_and_gradients": {"value_weight": 0.5, "entropy_weight": 0.01},
    "actor_critic.ActorCritic": {"hidden_size": 128, "layer": "fast_weights", "encoded_size": 128},
    "actor_critic.ActorCritic.init": {"dtype": "float32"},
    "optim.Adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
    "optim.RMSProp": {"rho": 0.99, "epsilon": 1e-8},
    "optim.constant": {"hold": 1.0},
    "optim.cosine": {"hold": 0.0},
    "optim.linear_decay": {"hold": 0.5},
}


def public_calls() -> Iterator[tuple[str, Any]]:
    """Every public function, class and method of the public modules, by name."""
    for module in MODULES:
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_"):
                path = f"{module.__name__.rpartition('.')[2]}.{name}"
                yield path, value
                methods = vars(value).items() if inspect.isclass(value) else ()
                yield from ((f"{path}.{key}", each) for key, each in methods if not key.startswith("_"))


def test_defaults_equal_the_table():
    """Of all public functions, those defaults that are numbers, names or switches."""
    found, expected = {}, {}
    for path, call in public_calls():
        if inspect.isfunction(call) or inspect.isclass(call):
            parameters = inspect.signature(call).parameters.values()
            found[path] = {
                each.name: each.default for each in parameters if isinstance(each.default, (int, float, str))
            }
            given = DEFAULTS.get(path, {})
            expected[path] = {name: value for name, value in given.items() if isinstance(value, (int, float, str))}
    assert found == expected
    assert DEFAULTS.keys() <= found.keys()
    assert all(type(found[path][name]) is type(value) for path in found for name, value in expected[path].items())
