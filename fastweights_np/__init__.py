"""Fast-weight recurrent networks (Ba et al. 2016) in NumPy and CuPy, with every gradient derived by hand.

    import numpy as np
    import fastweights_np as fw

    rng = np.random.default_rng(0)
    params = fw.fast_weights.init(rng, input_size=3, hidden_size=20)
    x = rng.standard_normal((11, 8, 3), dtype="float32")  # 11 steps of 8 sequences
    h, cache = fw.fast_weights.forward(params, x, decay=0.95, rate=0.5)
    grads, dx, dh0 = fw.fast_weights.backward(np.ones_like(h), cache)

Start with fast_weights; network has whole networks. audit is imported at its first use.
"""

from importlib import import_module
from typing import Any

from . import (
    actor_critic,
    associative_lstm,
    checkpoint,
    context_policy,
    convnet,
    distributed,
    fast_weight_programmer,
    fast_weights,
    features,
    in_place_ttt,
    irnn,
    key_value_memory,
    lstm,
    memory,
    multilevel,
    network,
    ops,
    optim,
    policy_gradient,
    transformer,
)
from .backend import to_device, to_host
from .workspace import Workspace

__version__ = "0.1.0"
__all__ = [
    "Workspace", "actor_critic", "associative_lstm", "audit", "checkpoint", "context_policy", "convnet", "distributed",
    "fast_weight_programmer", "fast_weights", "features", "in_place_ttt", "irnn", "key_value_memory", "lstm", "memory",
    "multilevel", "network", "ops", "optim", "policy_gradient", "to_device", "to_host", "transformer",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "audit":  # few need it, and importing the package stays quick
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
