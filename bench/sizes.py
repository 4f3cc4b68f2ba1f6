"""Count the parameters of a stored run's network and of its recurrent layer, and the numbers in the layer's state."""

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple

import numpy

from fastweights_np.network import LAYERS
from fastweights_np.trees import flatten
from tasks import retrieval


class Sizes(NamedTuple):
    """How many numbers a network has."""

    network: int  # all parameters
    layer: int  # parameters of the recurrent layer
    state: int  # between two steps, for one sequence


def sizes_of(settings: dict[str, Any]) -> Sizes:
    """Return the sizes of the network of a retrieval run with these settings."""
    chosen = retrieval.Settings(**settings)
    params = retrieval.network(chosen).init(numpy.random.default_rng(0))
    initial_state, options = LAYERS[chosen.layer].initial_state, chosen.of_layer()["options"]
    known = {name: value for name, value in options.items() if name in signature(initial_state).parameters}
    trees = params, params["layer"], initial_state(params["layer"], 1, **known)._asdict()
    return Sizes(*(sum(array.size for array in flatten(tree).values()) for tree in trees))
