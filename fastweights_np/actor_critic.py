"""Actor-critics (section 4.4 of Ba et al. 2016, after Mnih et al. 2016, arXiv 1602.01783): returns, loss, agent.

    R(t) = r(t) + γ R(t+1);   R after the last step is the value of the next observation, or 0 at an episode's end
    loss = Â nll(a) + c ½ (v - R)² - β H(π),   Â = R - v, a constant,   nll(a) = -log π(a)

At each step, π is the policy, v the value, a the action taken, and r(t) its reward. ops.py and the layers have the
gradients; this file combines them. T steps, B games in parallel. Numbers such as (L9) are in DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module
from .network import LAYERS, check_options
from .parts import PatchEncoder, Tree
from .recurrent import check_init, uniform
from .workspace import Workspace

__all__ = ["ActorCritic", "Loss", "loss_and_gradients", "returns"]

CLOSED_LOOP_LAYERS = ("fast_weights", "irnn", "lstm")  # the layers that an agent can use
OF_FORWARD_ALONE = ("chunk",)  # options of a layer's forward that its step lacks


def returns(rewards: Array, discount: float, bootstrap: Array) -> Array:
    """Return R (T, B) from the rewards (T, B) and bootstrap (B,), the value of the observation after the last step."""
    checks.fraction("discount", discount)
    xp = array_module(rewards=rewards, bootstrap=bootstrap)
    checks.floating(rewards=rewards, bootstrap=bootstrap)
    checks.shape("rewards", rewards, ("T", "B"), "rewards is (steps, games)")
    checks.shape("bootstrap", bootstrap, rewards.shape[1:], "one value for each game")
    result, later = xp.empty_like(rewards), bootstrap
    for t in reversed(range(len(rewards))):
        result[t] = later = rewards[t] + discount * later
    return result


class Loss(NamedTuple):
    """The terms of the loss, means over games and steps (0-d): policy, value (without c), entropy (without β)."""

    policy: Array
    value: Array
    entropy: Array


def loss_and_gradients(
    logits: Array, values: Array, actions: Array, targets: Array, value_weight: float = 0.5,
    entropy_weight: float = 0.01,
) -> tuple[Loss, Array, Array]:  # fmt: skip
    """Return the loss of steps (T, B), and the gradients of logits (T, B, actions) and values (T, B).

    actions (T, B) were taken; targets (T, B) are their returns R. The gradients belong to the loss that is summed over
    a game's steps and averaged over games: each game is an actor-learner that adds up its steps' gradients.
    Raises ValueError or TypeError that names the argument at fault.
    """
    xp = array_module(logits=logits, values=values, actions=actions, targets=targets)
    checks.shape("values", values, ("T", "B"), "values is (steps, games)")
    checks.shape("logits", logits, (*values.shape, "actions"), "one row of logits for each value")
    for name, array in (("actions", actions), ("targets", targets)):
        checks.shape(name, array, values.shape, "one for each value")
    checks.floating(logits=logits, values=values, targets=targets)
    checks.indices("actions", actions, logits.shape[-1])
    checks.not_negative("value_weight", value_weight)
    checks.not_negative("entropy_weight", entropy_weight)
    games = values.shape[-1]
    rows, chosen = logits.reshape(-1, logits.shape[-1]), actions.reshape(-1)
    advantages = (targets - values).reshape(-1)
    nll, pi = ops.softmax_cross_entropy(rows, chosen)
    H, log_pi = ops.entropy(rows)
    loss = Loss((advantages * nll).mean(), ops.squared_error(values, targets).mean(), H.mean())
    # loss = Â nll + c ½ (v - R)² - β H                                                            (L8), (L9), (L10)
    dlogits = ops.softmax_cross_entropy_backward(advantages / games, pi, chosen)
    dlogits += ops.entropy_backward(xp.full_like(H, -entropy_weight / games), H, log_pi)
    dvalues = ops.squared_error_backward(xp.full_like(values, value_weight / games), values, targets)
    return loss, dlogits.reshape(logits.shape), dvalues


@dataclass(frozen=True)
class ActorCritic:
    """An agent: from observation to ReLU units, to a recurrent layer, to the logits of the policy and to the value.

        x(t) = relu(E seen(t) + e),   h(t+1) = layer(h(t), x(t)),   logits(t) = P h(t+1) + p,   v(t) = w h(t+1) + u

    `layer` is one of CLOSED_LOOP_LAYERS; `init_options` and `options` are passed to its init and forward. Raises
    ValueError for another layer or option.
    """

    inputs: int
    actions: int
    hidden_size: int = 128
    layer: Literal["fast_weights", "irnn", "lstm"] = "fast_weights"
    init_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    encoded_size: int = 128

    def __post_init__(self) -> None:
        checks.choice("layer", self.layer, CLOSED_LOOP_LAYERS)
        for name in ("inputs", "actions", "hidden_size", "encoded_size"):
            checks.count(name, getattr(self, name), least=1)
        check_options(self.layer, self.init_options, self.options)

    @property
    def _encoder(self) -> PatchEncoder:
        return PatchEncoder(self.inputs, self.encoded_size)

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host. Policy and value are uniform in ±1/√H: the agent starts near chance."""
        check_init(rng, self.inputs, self.hidden_size, dtype)
        hidden_size = self.hidden_size
        heads = {
            "policy": uniform(rng, self.actions, hidden_size), "policy_bias": numpy.zeros(self.actions),
            "value": uniform(rng, 1, hidden_size), "value_bias": numpy.zeros(1),
        }  # fmt: skip
        return {
            "encoder": self._encoder.init(rng, dtype),
            "layer": LAYERS[self.layer].init(rng, self.encoded_size, hidden_size, dtype=dtype, **self.init_options),
            "heads": {name: value.astype(dtype) for name, value in heads.items()},
        }

    def forward(
        self, params: Tree, see: Callable[[int, Array | None], Array], steps: int, games: int,
        state: Any = None, workspace: Workspace | None = None,
    ) -> tuple[Array, Array, Any]:  # fmt: skip
        """Play `steps` steps of all games; return (logits (T, B, actions), values (T, B), cache).

        see(t, logits) returns the observation (B, inputs) at step t. logits (B, actions) belong to step t-1; at t = 0
        they are None. The caller carries out the action of the last step. state is the recurrent layer's state before
        the first step, as `final_state` returns it; None selects its initial state.
        """
        checks.keys("params", params, ("encoder", "layer", "heads"))
        if not callable(see):
            raise TypeError(f"see: expected a function of t and logits, got {type(see).__name__}")
        checks.count("steps", steps, least=1)
        checks.count("games", games, least=1)
        heads = params["heads"]
        xp, dtype = array_module(**heads), heads["policy"].dtype
        seen = xp.empty((steps, games, self.inputs), dtype)
        logits = xp.empty((steps, games, self.actions), dtype)
        encoder = self._encoder

        def make(t: int, h: Array) -> Array:
            if t:
                ops.linear(h, heads["policy"], heads["policy_bias"], out=logits[t - 1])
            looked, name = see(t, logits[t - 1].copy() if t else None), f"what see({t}, ..) returned"
            array_module(**{name: looked})
            checks.shape(name, looked, (games, self.inputs), "it is (games, inputs)")
            checks.floating(seen=seen, **{name: looked})
            seen[t] = looked
            return encoder.forward(params["encoder"], seen[t])[0]

        x = ops.ClosedLoop(xp.empty((steps, games, self.encoded_size), dtype), make)
        initial: dict[str, Array] = {}
        if state is not None:
            checks.instance("state", state, LAYERS[self.layer].State, "final_state of this agent returns it")
            initial = {f"{name}0": value for name, value in state._asdict().items()}
        h, layer_cache = LAYERS[self.layer].forward(params["layer"], x, workspace=workspace, **initial, **self.options)
        ops.linear(h[-1], heads["policy"], heads["policy_bias"], out=logits[-1])
        return logits, self.values(params, h), (params, seen, x.array, h, layer_cache)

    def values(self, params: Tree, h: Array) -> Array:
        """Return v (...) for states h (..., H)."""
        return ops.linear(h, params["heads"]["value"], params["heads"]["value_bias"])[..., 0]

    def backward(self, dlogits: Array, dvalues: Array, cache: Any) -> Tree:
        """Return the gradients of the parameters through all steps, from dlogits (T, B, actions), dvalues (T, B)."""
        params, seen, x, h, layer_cache = cache
        array_module(dlogits=dlogits, dvalues=dvalues, h=h)
        checks.shape("dlogits", dlogits, (*h.shape[:2], self.actions), "one row for each step of each game")
        checks.shape("dvalues", dvalues, h.shape[:2], "one for each step of each game")
        # logits = h policyᵀ + policy_bias,   values = h valueᵀ + value_bias                                     (L1)
        dh, dpolicy, dpolicy_bias = ops.linear_backward(dlogits, h, params["heads"]["policy"])
        dh_by_value, dvalue, dvalue_bias = ops.linear_backward(dvalues[..., None], h, params["heads"]["value"])
        dh += dh_by_value
        layer, dx, _ = LAYERS[self.layer].backward(dh, layer_cache)
        heads = {"policy": dpolicy, "policy_bias": dpolicy_bias, "value": dvalue, "value_bias": dvalue_bias}
        encoder = self._encoder.backward(dx, self._encoder.cache(params["encoder"], seen, ops.Relu(x), x))
        return {"encoder": encoder, "layer": layer, "heads": heads}

    def final_state(self, cache: Any) -> Any:
        """Return the recurrent layer's state after the last step, for the next `forward` or for `next_values`."""
        return LAYERS[self.layer].final_state(cache[-1])

    def next_values(self, params: Tree, seen: Array, state: Any) -> Array:
        """Return the values (B,) of `seen`, the observation after a forward that ended in `state`; no gradient."""
        checks.keys("params", params, ("encoder", "layer", "heads"))
        x, _ = self._encoder.forward(params["encoder"], seen)
        options = {name: value for name, value in self.options.items() if name not in OF_FORWARD_ALONE}
        h, _ = LAYERS[self.layer].step(params["layer"], x, state, **options)
        return self.values(params, h)
