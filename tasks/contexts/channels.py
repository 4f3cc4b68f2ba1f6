"""The fast channel: K contexts of one task, which learn while the weights stay as they are.

    StateContexts    initial states (h0, A0), or blocks of parameters, that go up the gradient of the reward
    PromptContexts   prompts, discrete tokens, that evolve; see evolution.py

`forward` gives each context every problem. Its batch holds all problems for the first context, then for the second one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from fastweights_np import Workspace, optim, policy_gradient
from fastweights_np.context_policy import ContextPolicy

from .episodes import Episodes, Family, prompted

Tree = dict[str, Any]


class Rollouts(NamedTuple):
    """Actions on P problems with K contexts, G / K of each: problems, and actions, rewards and log μ (K P, G / K)."""

    problems: Episodes
    actions: numpy.ndarray
    rewards: numpy.ndarray
    log_mu: numpy.ndarray

    def advantages(self) -> numpy.ndarray:
        """Return Â (K P, G / K): a group is all rollouts of a problem, with all contexts."""
        P, each = len(self.problems.values), self.rewards.shape[1]
        groups = self.rewards.reshape(-1, P, each).swapaxes(0, 1)  # (P, K, G / K)
        advantages = policy_gradient.group_advantages(groups.reshape(P, -1))
        return advantages.reshape(groups.shape).swapaxes(0, 1).reshape(self.rewards.shape)


def log_softmax(logits: Any) -> Any:
    """Return log π of logits (B, actions)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=1, keepdims=True))


def sample(
    rng: numpy.random.Generator, log_pi: Any, count: int, contexts: int, problems: int, mine: slice
) -> numpy.ndarray:  # fmt: skip
    """Return `count` actions (K P, count) for each row of log π (K P, actions), of P problems with K contexts.

    The P problems are a share, `mine`, of all problems. Random numbers are drawn for all of them.
    """
    uniform = rng.random((contexts, problems, count))[:, mine].reshape(-1, count)
    below = numpy.exp(log_pi).cumsum(axis=1)[:, None, :-1]
    return (uniform[:, :, None] > below).sum(axis=2)


class NoContexts:
    """The fast channel of a run that has none: the policy sees each problem as it is."""

    count = 1
    arrays: Tree = {"none": numpy.zeros(1, "float32")}  # noqa: RUF012 - a checkpoint has no empty groups

    def forward(self, policy: ContextPolicy, params: Tree, problems: Episodes, workspace: Any = None) -> Any:
        """Return logits (P, actions) and the cache."""
        return policy.forward(params, problems.x, workspace=workspace)

    evaluate = forward


class StateContexts:
    """K contexts as arrays with a gradient: initial states of rank R, or blocks of as many numbers."""

    def __init__(
        self, rng: numpy.random.Generator, kind: str, count: int, hidden_size: int, rank: int, scale: float, dtype: str
    ) -> None:
        def normal(*shape: int) -> numpy.ndarray:
            return (scale * rng.standard_normal((count, *shape))).astype(dtype)

        if kind == "state":
            self.contexts: Tree = {"h0": normal(hidden_size), "a": normal(rank, hidden_size)}
        else:  # U Vᵀ starts at zero, like the biases: a random block would damage the policy
            half = (hidden_size, (rank - 1) // 2)
            zero = numpy.zeros((count, hidden_size), dtype)
            self.contexts = {
                "U": normal(*half),
                "V": numpy.zeros((count, *half), dtype),
                "b": zero,
                "bias": zero.copy(),
            }
        self.count = count
        self._adam = optim.Adam(self.contexts)

    @property
    def arrays(self) -> Tree:
        """Return everything that a checkpoint needs."""
        state = self._adam.state()
        return {"contexts": self.contexts, "moments": {name: state[name] for name in self._adam.moments}}

    def load(self, arrays: Tree, updates: int) -> None:
        """Continue from a checkpoint's arrays, after this number of updates."""
        for name, value in arrays["contexts"].items():
            self.contexts[name][...] = value
        self._adam.load_state(arrays["moments"] | {"updates": updates})

    def forward(
        self, policy: ContextPolicy, params: Tree, problems: Episodes, workspace: Workspace | None = None
    ) -> Any:
        """Return logits (K P, actions) and the cache."""
        return policy.forward(params, numpy.tile(problems.x, (1, self.count, 1)), self.contexts, workspace)

    evaluate = forward  # the reward of a run is the mean over its contexts

    def ascend(self, dcontexts: Tree, learning_rate: float, clip_norm: float) -> None:
        """Make a step of Adam."""
        optim.clip_by_global_norm(dcontexts, clip_norm)
        self._adam.step(self.contexts, dcontexts, learning_rate)


class Prompts:
    """K prompts (K, slots) as contexts of the policy; the first one is the best so far."""

    def __init__(self, family: Family, prompts: numpy.ndarray) -> None:
        self.family, self.prompts = family, prompts

    @property
    def count(self) -> int:
        """Return K."""
        return len(self.prompts)

    def forward(self, policy: ContextPolicy, params: Tree, problems: Episodes, workspace: Any = None) -> Any:
        """Return logits (K P, actions) and the cache."""
        P = len(problems.values)
        tiled = Episodes(numpy.tile(problems.x, (1, self.count, 1)), numpy.tile(problems.values, self.count))
        tiled = prompted(self.family, tiled, numpy.repeat(self.prompts, P, axis=0))
        return policy.forward(params, tiled.x.astype(problems.x.dtype, copy=False), workspace=workspace)
