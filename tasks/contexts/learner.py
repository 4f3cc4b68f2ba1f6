"""Learn one task by weights, by contexts, or by both: what one update does with one batch of episodes.

slow    gradient ascent on the clipped importance-weighted objective in θ. --kl-weight c subtracts c KL(π_θ‖π_base)
fast    gradient ascent on the same objective in the contexts, or evolution of prompts
same    both, on the same episodes: θ first. The contexts' gradient then has ratios ρ that differ from 1

Several ranks share the problems of a batch, and add up their gradients. All of them draw the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from fastweights_np import Workspace, distributed, optim, policy_gradient
from fastweights_np.context_policy import ContextPolicy

from .channels import NoContexts, Rollouts, StateContexts, Tree, log_softmax, sample
from .episodes import Episodes, Family, draw, permutations, prompts_of
from .evolution import PromptContexts

REHEARSED = 32  # base episodes in each update, for the KL penalty
EVALUATED, MEASURED = 128, 256  # problems of an evaluation, and base episodes on which the drift is measured
BASE_PAIRS = 3

Channel = NoContexts | StateContexts | PromptContexts


@dataclass(frozen=True)
class Rates:
    """The learning rates of one update, and what else changes the weights."""

    slow: float
    fast: float
    clip: float  # τ
    clip_norm: float
    kl_weight: float


class BaseEpisodes:
    """Episodes that show held-out permutations, and what the base policy answers to them."""

    def __init__(self, policy: ContextPolicy, base: Tree, family: Family, rng: numpy.random.Generator, count: int):
        pi = permutations(rng, count, family.digits, held_out=True)
        self.episodes = draw(rng, family, count, BASE_PAIRS, prompts_of(rng, family, pi))
        self.x = self.episodes.x.astype(base["readout"]["output"].dtype)
        self.answers = pi[numpy.arange(count), self.episodes.values]
        self.log_beta = log_softmax(policy.forward(base, self.x)[0])

    def drift(self, policy: ContextPolicy, params: Tree, workspace: Workspace | None = None) -> tuple[float, float]:
        """Return the mean KL(π‖β) in nats, and the accuracy of π."""
        logits, _ = policy.forward(params, self.x, workspace=workspace)
        kl, _ = policy_gradient.kl(logits, self.log_beta)
        return max(float(kl.mean()), 0.0), float((logits.argmax(axis=1) == self.answers).mean())


class Learner:
    """The weights, the fast channel and the optimizer of one task."""

    def __init__(
        self, policy: ContextPolicy, family: Family, base: Tree, params: Tree, channel: Channel, pi: numpy.ndarray,
        pairs: int, problems: int, rollouts: int,
    ) -> None:  # fmt: skip
        self.policy, self.family, self.base, self.params = policy, family, base, params
        self.channel, self.pi = channel, pi
        self.pairs, self.problems, self.rollouts = pairs, problems, rollouts
        self.adam = optim.Adam(params)
        self._ranks = distributed.ranks()
        self._none = NoContexts()
        self._workspaces = [Workspace() for _ in range(4)]
        rng = numpy.random.default_rng([7, 11])  # the same for all runs
        self._held_out = self._problems(rng, EVALUATED)
        self._base_episodes = BaseEpisodes(policy, base, family, rng, MEASURED)

    def _problems(self, rng: numpy.random.Generator, count: int) -> Episodes:
        problems = draw(rng, self.family, count, self.pairs)
        return Episodes(problems.x.astype(self.params["readout"]["output"].dtype, copy=False), problems.values)

    def update(self, rng: numpy.random.Generator, kind: str, rates: Rates, with_contexts: bool) -> None:
        """Spend one batch of episodes; kind is slow, fast or same. with_contexts: whether the policy acts with them."""
        channel = self.channel if with_contexts else self._none
        if kind == "fast" and isinstance(self.channel, PromptContexts):
            self.channel.evolve(rng, self.policy, self.params, self.rollouts, self._ranks)
            return
        mine = self._ranks.share(self.problems)
        problems = self._problems(rng, self.problems).part(mine)
        logits, cache = channel.forward(self.policy, self.params, problems, self._workspaces[0])
        log_pi = log_softmax(logits)
        actions = sample(rng, log_pi, self.rollouts // channel.count, channel.count, self.problems, mine)
        rows = numpy.arange(len(logits))[:, None]
        right = actions == numpy.tile(self.pi[problems.values], channel.count)[:, None]
        rollouts = Rollouts(problems, actions, right.astype(logits.dtype), log_pi[rows, actions])
        if kind in ("slow", "same"):
            self._slow(rng, logits, cache, rollouts, rates)
        if kind == "same":
            logits, cache = channel.forward(self.policy, self.params, problems, self._workspaces[0])
        if kind in ("fast", "same"):
            _, dcontexts = self.policy.backward(self._gradient(logits, rollouts, rates), cache)
            dcontexts = self._whole(dcontexts)
            self.channel.ascend(dcontexts, rates.fast, rates.clip_norm)  # type: ignore[union-attr]

    def _gradient(self, logits: Any, rollouts: Rollouts, rates: Rates) -> Any:
        advantages = rollouts.advantages()
        return policy_gradient.clipped_loss_and_gradient(
            logits, rollouts.actions, advantages, rollouts.log_mu, rates.clip
        )[1]  # fmt: skip

    def _whole(self, grads: Tree) -> Tree:
        """Return the gradients of the mean over all ranks' problems."""
        return self._ranks.add_up(grads, self._ranks.weight(self.problems))

    def _slow(self, rng: numpy.random.Generator, logits: Any, cache: Any, rollouts: Rollouts, rates: Rates) -> None:
        grads, _ = self.policy.backward(self._gradient(logits, rollouts, rates), cache, of_contexts=False)
        grads = self._whole(grads)
        if rates.kl_weight:
            grads = _sum(grads, self._penalty(rng, rates.kl_weight))
        optim.clip_by_global_norm(grads, rates.clip_norm)
        self.adam.step(self.params, grads, rates.slow)

    def _penalty(self, rng: numpy.random.Generator, weight: float) -> Tree:
        """Return the gradients of weight · KL(π_θ‖π_base), the mean over new base episodes."""
        rehearsed = BaseEpisodes(self.policy, self.base, self.family, rng, REHEARSED)
        mine = self._ranks.share(REHEARSED)
        x, log_beta = rehearsed.x[:, mine], rehearsed.log_beta[mine]
        logits, cache = self.policy.forward(self.params, x, workspace=self._workspaces[1])
        kl, log_pi = policy_gradient.kl(logits, log_beta)
        dkl = numpy.full_like(kl, weight / REHEARSED)
        dlogits = policy_gradient.kl_backward(dkl, kl, log_pi, log_beta)
        return self._ranks.add_up(self.policy.backward(dlogits, cache)[0])

    def measure(self, with_contexts: bool) -> dict[str, float]:
        """Return the exact reward on held-out problems, with and without contexts, its entropy, and the drift of θ."""
        channel = self.channel if with_contexts else self._none
        found = dict[str, float]()
        for name, each in (("reward", channel), ("neutral_reward", self._none)):
            if name == "neutral_reward" and channel is self._none:
                found[name] = found["reward"]
                continue
            logits, _ = each.evaluate(self.policy, self.params, self._held_out, self._workspaces[2])
            log_pi = log_softmax(logits)
            answers = numpy.resize(self.pi[self._held_out.values], len(logits))
            found[name] = float(numpy.exp(log_pi[numpy.arange(len(logits)), answers]).mean())
            if name == "reward":
                found["entropy"] = float(-(numpy.exp(log_pi) * log_pi).sum(axis=1).mean())
        found["kl"], found["base_accuracy"] = self._base_episodes.drift(self.policy, self.params, self._workspaces[3])
        return found


def _sum(first: Tree, second: Tree) -> Tree:
    return {part: {name: first[part][name] + second[part][name] for name in first[part]} for part in first}
