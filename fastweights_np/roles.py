"""The role of each parameter, by its name: weight matrices are decayed; biases, gains and scalars are not.

The number of axes does not decide it: the four biases of an LSTM are stacked and have two axes.
"""

from __future__ import annotations

from .trees import SEPARATOR

# the last part of a parameter's path, without the number of its layer
WEIGHTS = frozenset(
    {"W", "V", "C", "K", "Q", "beta", "gate", "weight", "table", "hidden", "output", "policy", "value"}
    | {"up", "down", "kernel", "target"}
)  # fmt: skip
BIASES = frozenset({"hidden_bias", "output_bias", "policy_bias", "value_bias", "beta_bias", "gate_bias"})
OTHERS = frozenset({"b", "gain", "bias", "decay", "rate"}) | BIASES


def is_weight(path: str) -> bool:
    """Return whether the parameter at this path, such as "layer/W" or "weight0", is a weight matrix.

    Raises KeyError for a name that no layer of this package uses.
    """
    name = path.rpartition(SEPARATOR)[2].rstrip("0123456789")
    if name not in WEIGHTS | OTHERS:
        raise KeyError(path)
    return name in WEIGHTS
