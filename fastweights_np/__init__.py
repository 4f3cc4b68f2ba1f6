"""Fast-weight recurrent networks (Ba et al. 2016) in plain array operations, with every gradient derived by hand."""

from . import (
    actor_critic,
    associative_lstm,
    checkpoint,
    convnet,
    fast_weights,
    irnn,
    lstm,
    multilevel,
    network,
    ops,
    optim,
)
from .backend import to_device, to_host
from .workspace import Workspace

__version__ = "0.1.0"
__all__ = [
    "Workspace", "actor_critic", "associative_lstm", "checkpoint", "convnet", "fast_weights", "irnn", "lstm",
    "multilevel", "network", "ops", "optim", "to_device", "to_host",
]  # fmt: skip
