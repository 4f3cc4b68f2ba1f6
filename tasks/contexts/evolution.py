"""Evolve prompts by mutation and crossover, with a Pareto frontier over instances, after GEPA (arXiv 2507.19457).

A round spends one batch of episodes. K parents and K children answer the same P instances, which stay the same for a
whole task. A prompt's score on an instance is its running mean reward. It gets a share of each instance on which no
prompt is clearly better. The K prompts with the largest shares survive: a prompt that alone solves an instance stays,
however bad it is elsewhere.

    mutation    one token becomes a random line v→a, or a blank
    crossover   each token is that of one of two parents
    feedback    the a of a mutation is the right symbol of an instance that the parent failed; v stays random
"""

from __future__ import annotations

from typing import Any

import numpy

from fastweights_np.context_policy import ContextPolicy
from fastweights_np.distributed import Ranks

from .channels import Prompts, Tree, log_softmax, sample
from .episodes import Episodes, Family

MEMORY = 0.5  # decay of the running mean reward
MARGIN = 0.25  # a score that is lower by more is clearly worse
CROSSOVER = 0.5  # probability that a child has two parents
BLANK = 0.1  # probability that a mutation makes a blank
FEWEST = 4  # lines of a prompt


class PromptContexts(Prompts):
    """K prompts of one task, and their scores on P instances."""

    def __init__(
        self, rng: numpy.random.Generator, family: Family, count: int, instances: Episodes, answers: numpy.ndarray,
        feedback: bool,
    ) -> None:  # fmt: skip
        lines = rng.integers(0, family.blank, (count, family.slots))
        super().__init__(family, lines)
        self.instances, self.answers, self.feedback = instances, answers, feedback
        self.scores = numpy.zeros((count, len(answers)), "float32")

    @property
    def arrays(self) -> Tree:
        """Return everything that a checkpoint needs."""
        return {"prompts": self.prompts, "scores": self.scores}

    def load(self, arrays: Tree, updates: int) -> None:
        """Continue from a checkpoint's arrays."""
        self.prompts, self.scores = arrays["prompts"], arrays["scores"]

    def evaluate(self, policy: ContextPolicy, params: Tree, problems: Episodes, workspace: Any = None) -> Any:
        """Return logits (P, actions) with the best prompt, and the cache."""
        return Prompts(self.family, self.prompts[:1]).forward(policy, params, problems, workspace)

    def evolve(
        self, rng: numpy.random.Generator, policy: ContextPolicy, params: Tree, rollouts: int, ranks: Ranks
    ) -> None:  # fmt: skip
        """Make a round: each of 2 K prompts answers each instance rollouts / (2 K) times. Ranks share the instances."""
        shares = frontier(self.scores)
        children = numpy.stack([self._child(rng, shares) for _ in range(self.count)])
        pool = numpy.concatenate([self.prompts, children])
        mine = ranks.share(len(self.answers))
        logits, _ = Prompts(self.family, pool).forward(policy, params, self.instances.part(mine))
        actions = sample(rng, log_softmax(logits), rollouts // len(pool), len(pool), len(self.answers), mine)
        right = actions == numpy.tile(self.answers[mine], len(pool))[:, None]
        own = right.mean(axis=1, dtype="float32").reshape(len(pool), -1)
        found = numpy.concatenate(ranks.gather(own), axis=1)  # (2 K, P)
        old = MEMORY * self.scores + (1 - MEMORY) * found[: self.count] if self.scores.any() else found[: self.count]
        scores = numpy.concatenate([old, found[self.count :]])
        means = scores.mean(axis=1)
        survive = numpy.lexsort((-means, -frontier(scores)))[: self.count]
        survive = survive[numpy.argsort(-means[survive], kind="stable")]
        self.prompts, self.scores = pool[survive], scores[survive]

    def _child(self, rng: numpy.random.Generator, shares: numpy.ndarray) -> numpy.ndarray:
        """Return a new prompt, by crossover or by mutation; parents are drawn by their shares."""
        first, second = rng.choice(self.count, 2, p=shares / shares.sum())
        if rng.random() < CROSSOVER and first != second:
            return numpy.where(rng.random(self.family.slots) < 0.5, self.prompts[first], self.prompts[second])
        child = self.prompts[first].copy()
        child[rng.integers(self.family.slots)] = self._token(rng, first)
        lines = (child != self.family.blank).sum()
        return child if lines >= FEWEST else self.prompts[first].copy()

    def _token(self, rng: numpy.random.Generator, parent: int) -> int:
        """Return a line or a blank."""
        failed = 1 - self.scores[parent]
        if rng.random() < BLANK:
            return self.family.blank
        v, a = rng.integers(0, self.family.digits, 2)
        if self.feedback and failed.sum() > 0:
            a = self.answers[rng.choice(len(failed), p=failed / failed.sum(dtype="float64"))]
        return int(v * self.family.digits + a)


def frontier(scores: numpy.ndarray) -> numpy.ndarray:
    """Return each prompt's share of the instances, (K,), from scores (K, P): an instance is shared by its best."""
    best = scores >= scores.max(axis=0) - MARGIN
    return (best / best.sum(axis=0)).sum(axis=1)
