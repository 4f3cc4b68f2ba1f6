"""The whole chain: every link for every subject."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..backend import to_device
from ..network import LAYERS
from .cases import FULL, QUICK
from .contexts import context_policy_links, policy_gradient_links
from .layers import device_link, layer_links
from .links import Link, Move
from .networks import actor_critic_links, network_link
from .operations import convnet_links, operation_links
from .others import optimizer_link
from .programmer import NAME, programmer_links


def run(
    device: str = "cpu", quick: bool = False, layers: Sequence[str] = (*LAYERS, NAME), *, others: bool = True,
    few: bool = False, only: Collection[str] = (),
) -> list[Link]:  # fmt: skip
    """Run the chain and return its rows. Raises ImportError if autograd or SciPy is absent.

    quick runs a quarter of the cases. It leaves out links 4 and 7; the finite differences of link 4 take most of the
    time.
    layers: names of recurrent layers, and fast_weight_programmer.
    only: titles of the layers' links to run; all if empty.
    others: whether to run more than the links of these layers. few: whether to run a quarter of the cases, with all
    links.
    """
    move: Move = (lambda tree: tree) if device == "cpu" else (lambda tree: to_device(tree, device))
    links = programmer_links(quick, few, move, only) if NAME in layers else []
    layers = [layer for layer in layers if layer in LAYERS]
    cases = tuple(case for case in (QUICK if few or quick else FULL) if case.layer in layers)
    links += [
        link for layer in layers for link in layer_links([c for c in cases if c.layer == layer], quick, move, only)
    ]
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
