"""The whole chain: every link for every subject."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..backend import to_device
from ..network import LAYERS
from . import programmer
from .cases import FULL, QUICK
from .contexts import context_policy_links, policy_gradient_links
from .layers import device_link, layer_links
from .links import Link, Move
from .networks import actor_critic_links, network_link
from .operations import convnet_links, operation_links
from .others import optimizer_link
from .programmer import NAME, programmer_links
from .transformer import NAME as TRANSFORMER
from .transformer import transformer_links


def run(
    device: str = "cpu", quick: bool = False, layers: Sequence[str] = (*LAYERS, NAME, TRANSFORMER), *,
    others: bool = True, few: bool = False, only: Collection[str] = (),
) -> list[Link]:  # fmt: skip
    """Run the chain and return its rows. Raises ImportError if autograd or SciPy is absent.

    quick runs a quarter of the cases. It leaves out links 4 and 7; the finite differences of link 4 take most of the
    time.
    layers: names of recurrent layers, fast_weight_programmer, and transformer.
    only: titles of the layers' links to run; all if empty.
    others: whether to run more than the links of these layers. few: whether link 4 runs a quarter of the layers' cases.
    """
    move: Move = (lambda tree: tree) if device == "cpu" else (lambda tree: to_device(tree, device))
    of_programmer = programmer.QUICK if quick else programmer.FULL
    links = programmer_links(of_programmer, quick, few, move, only) if NAME in layers else []
    links += transformer_links(quick, few, move, only) if TRANSFORMER in layers else []
    layers = [layer for layer in layers if layer in LAYERS]
    cases = tuple(case for case in (QUICK if quick else FULL) if case.layer in layers)
    for layer in layers:
        links += layer_links([case for case in cases if case.layer == layer], quick, few, move, only)
    if others:
        links += other_links(layers, quick, move)
        if device != "cpu":
            links.append(device_link(cases, move))
    return sorted(links, key=lambda link: link.number)


def other_links(layers: Sequence[str], quick: bool, move: Move) -> list[Link]:
    """Return the links of what is no layer, and of networks and agents of these layers."""
    return [
        *convnet_links(quick, move),
        *operation_links(move),
        *policy_gradient_links(move),
        optimizer_link(move),
        network_link(layers, move),
        *actor_critic_links(layers, quick, move),
        *(context_policy_links(move) if "fast_weights" in layers else ()),
    ]
