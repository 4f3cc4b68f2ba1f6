"""A network and its parameters as one file: `save` and `load`, which network.py exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy

from . import checkpoint
from .structures import class_name, difference, split


def save(path: str | Path, net: Any, params: dict[str, Any]) -> None:
    """Write a network and its parameters as one file, which `load` reads; if anything fails, the old file stays.

    net: a Network, ConvolutionalNetwork, ActorCritic, Transformer or ContextPolicy, with any parts of this package.
    params: made by net.init, and trained; NumPy or CuPy.

    Raises OSError if the file cannot be written. Raises TypeError or ValueError for a class from elsewhere, and for
    parameters that do not fit the network.
    """
    if not _is_network(net):
        raise TypeError(f"net: expected a network of this package, such as network.Network, got {type(net).__name__}")
    if misfit := _misfit(net, params):
        raise ValueError(f"{misfit}; pass the parameters that net.init made")
    checkpoint.save(path, {"net": net, "params": params})


def load(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Return (net, params) from a file that `save` wrote. Arrays are on the host.

    Raises FileNotFoundError if there is no file, and OSError if it cannot be read. Raises checkpoint.CheckpointError, a
    ValueError, if it is damaged, holds no network, or names a class or a setting that this release does not have.
    """
    found, _ = checkpoint.load(path)
    if not isinstance(found, dict) or found.keys() != {"net", "params"} or not _is_network(found["net"]):
        raise checkpoint.CheckpointError(
            f"checkpoint {path}: expected a network that network.save wrote, got another checkpoint; "
            "read it by checkpoint.load"
        )
    net, params = found["net"], found["params"]
    if misfit := _misfit(net, params):
        raise checkpoint.CheckpointError(f"checkpoint {path}: {misfit}; use another copy")
    return net, params


def _is_network(net: Any) -> bool:
    """Return whether this is a network of this package, and not an encoder or a readout alone."""
    module, _, _ = (class_name(type(net)) or "").partition(".")
    return module in ("network", "actor_critic", "transformer", "context_policy") and hasattr(net, "init")


def _misfit(net: Any, params: Any) -> str | None:
    """Return where the parameters differ from new ones of this network, in a sentence; None if nowhere."""
    dtypes = {array.dtype.name for array in split("params", params)[1].values()}
    dtype = "float64" if dtypes == {"float64"} else "float32"
    return difference("params", params, net.init(numpy.random.default_rng(0), dtype))
