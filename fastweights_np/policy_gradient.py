"""Policy gradients of groups of rollouts: advantages, the clipped importance-weighted loss, and the drift from a base.

    Â[n, g] = (r[n, g] - mean_g r) / (std_g r + ε)                      the G rollouts of problem n are a group
    loss    = -mean [min(ρ, τ) Â log π(a)],   ρ = π(a) / μ(a)           min(ρ, τ) and Â are constants
    KL      = Σ_k π_k (log π_k - log β_k)

π is the policy that learns, μ the policy that took the actions, and β a base policy. The loss is that of CISPO
(MiniMax-M1, arXiv 2506.13585): the clipped ratio weights log π(a), and each action keeps its gradient. The advantages
are those of GRPO (arXiv 2402.03300). Numbers such as (G1) are in DERIVATION.md.
"""

from __future__ import annotations

import numpy

from . import checks, ops
from .backend import Array, array_module

__all__ = ["clipped_loss_and_gradient", "group_advantages", "kl", "kl_backward"]

EPSILON = 1e-6  # of the standard deviation of a group's rewards


def group_advantages(rewards: Array, epsilon: float = EPSILON) -> Array:
    """Return Â (N, G) of rewards (N, G): G rollouts of each of N problems. A group of equal rewards has zeros."""
    checks.shape("rewards", rewards, ("N", "G"), "rewards is (problems, rollouts)")
    checks.floating(rewards=rewards)
    checks.finite("epsilon", epsilon)
    if epsilon <= 0:
        raise ValueError(f"epsilon: expected a number above 0, got {epsilon}; a group of equal rewards would be 0/0")
    xp = array_module(rewards=rewards)
    if xp is numpy and not numpy.isfinite(rewards).all():
        raise ValueError("rewards: expected finite numbers, got others")
    above = rewards - rewards[:, :1]  # exactly 0 in a group of equal rewards
    centered = above - above.mean(axis=1, keepdims=True)
    return centered / (above.std(axis=1, keepdims=True) + epsilon)


def clipped_loss_and_gradient(
    logits: Array, actions: Array, advantages: Array, log_mu: Array, clip: float
) -> tuple[Array, Array]:  # fmt: skip
    """Return the loss, 0-d, and its gradient dlogits (N, actions).

    logits      (N, actions), of π
    actions     (N, G), sampled from μ
    advantages  (N, G), constants
    log_mu      (N, G), log μ(a) of the actions
    clip        τ, the largest weight

    Raises ValueError or TypeError that names the argument at fault.
    """
    xp = array_module(logits=logits, actions=actions, advantages=advantages, log_mu=log_mu)
    checks.shape("logits", logits, ("N", "actions"), "logits is (sequences, actions)")
    checks.shape("actions", actions, (len(logits), "G"), "G actions for each row of logits")
    for name, array in (("advantages", advantages), ("log_mu", log_mu)):
        checks.shape(name, array, actions.shape, "one for each action")
    checks.floating(logits=logits, advantages=advantages, log_mu=log_mu)
    checks.indices("actions", actions, logits.shape[1])
    checks.not_negative("clip", clip)
    rows = xp.arange(len(logits))[:, None]
    log_pi = ops.entropy(logits)[1]
    log_pi_a = log_pi[rows, actions]
    weights = xp.minimum(xp.exp(log_pi_a - log_mu), clip) * advantages / actions.size
    # loss = -Σ weights log π(a): each action is a label of (L8), with dnll = weights                              (G1)
    taken = xp.zeros_like(logits)
    for g in range(actions.shape[1]):  # each row occurs once for each g
        taken[rows[:, 0], actions[:, g]] += weights[:, g]
    dlogits = weights.sum(axis=1, keepdims=True) * xp.exp(log_pi) - taken
    return -(weights * log_pi_a).sum(), dlogits


def kl(logits: Array, log_beta: Array) -> tuple[Array, Array]:
    """Return KL(π‖β) in nats for each row, and log π (N, actions), which backward needs; logits, log_beta (N, actions).

    β must not be zero where π is not.
    """
    array_module(logits=logits, log_beta=log_beta)
    checks.shape("log_beta", log_beta, logits.shape, "one row for each row of logits")
    H, log_pi = ops.entropy(logits)
    xp = array_module(log_pi=log_pi)
    return -(xp.exp(log_pi) * log_beta).sum(axis=1) - H, log_pi


def kl_backward(dkl: Array, kl: Array, log_pi: Array, log_beta: Array) -> Array:
    """Return dlogits (N, actions) of `kl`; dkl and kl (N,). β is a constant."""
    xp = array_module(dkl=dkl, kl=kl, log_pi=log_pi, log_beta=log_beta)
    # KL = Σ_k π_k (log π_k - log β_k)                                                                             (G2)
    return dkl[:, None] * xp.exp(log_pi) * (log_pi - log_beta - kl[:, None])
