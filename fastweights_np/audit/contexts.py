"""The links of policy gradients, and of policies with contexts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy

from .. import policy_gradient
from ..context_policy import ContextPolicy
from ..plain import context_policy as plain
from ..plain import losses
from ..trees import flatten, map_leaves
from .links import Arrays, Link, Move

N, G, ACTIONS, CLIP = 6, 3, 4, 1.1


def _rollouts(rng: numpy.random.Generator, rows: int) -> Arrays:
    """Return actions, two of them equal, advantages, and log μ for which some ratios are clipped and others are not."""
    actions = rng.integers(0, ACTIONS, (rows, G))
    actions[:, 1] = actions[:, 0]
    rewards = rng.standard_normal((rows, G))
    log_mu = numpy.log(rng.uniform(0.1, 0.9, (rows, G)))
    return {"actions": actions, "advantages": policy_gradient.group_advantages(rewards), "log_mu": log_mu}


def _weights(logits: Any, rollouts: Arrays) -> Any:
    """Return min(ρ, τ) of π = softmax(logits)."""
    pi = losses.softmax(logits)[numpy.arange(len(logits))[:, None], rollouts["actions"]]
    return numpy.minimum(pi / numpy.exp(rollouts["log_mu"]), CLIP)


def policy_gradient_links(move: Move) -> Iterator[Link]:
    """Yield the links of the clipped loss and of the KL divergence."""
    import autograd
    import autograd.numpy as np

    fast = Link(3, "backward = autograd", "policy_gradient", 1e-12)
    plain = Link(3, "plain backward = autograd", "policy_gradient", 1e-12)
    rng = numpy.random.default_rng(80)
    logits, log_beta = 2 * rng.standard_normal((N, ACTIONS)), numpy.log(rng.dirichlet(numpy.ones(ACTIONS), N))
    rollouts, dkl = _rollouts(rng, N), rng.standard_normal(N)
    weights = _weights(logits, rollouts)
    actions, advantages = rollouts["actions"], rollouts["advantages"]

    loss, expected = autograd.value_and_grad(lambda at: losses.clipped_policy(at, actions, advantages, weights, np))(
        logits
    )  # fmt: skip
    found, dlogits = policy_gradient.clipped_loss_and_gradient(move(logits), **move(rollouts), clip=CLIP)
    fast.compare("clipped", {"logits": dlogits, "loss": found}, {"logits": expected, "loss": loss})
    dlogits = losses.clipped_policy_backward(logits, actions, advantages, weights)
    plain.compare("clipped", {"logits": dlogits}, {"logits": expected})

    expected = autograd.grad(lambda at: np.sum(dkl * losses.kl(at, log_beta, np)))(logits)
    kl, log_pi = policy_gradient.kl(move(logits), move(log_beta))
    got = {"logits": policy_gradient.kl_backward(move(dkl), kl, log_pi, move(log_beta)), "KL": kl}
    fast.compare("KL", got, {"logits": expected, "KL": losses.kl(logits, log_beta)})
    plain.compare("KL", {"logits": losses.kl_backward(dkl, logits, log_beta)}, {"logits": expected})
    yield from (fast, plain)


def context_policy_links(move: Move) -> Iterator[Link]:
    """Yield the links of a policy's loss with several contexts of each kind, and with none, through all its steps."""
    import autograd
    import autograd.numpy as np

    fast = Link(3, "backward = autograd", "context_policy", 1e-12)
    plain_link = Link(3, "plain backward = autograd", "context_policy", 1e-12)
    rng, (K, P, H, R, steps) = numpy.random.default_rng(81), (2, 3, 4, 2, 4)
    options = {"decay": 0.8, "rate": 0.6}
    policy = ContextPolicy(3, ACTIONS, H, options)
    params = map_leaves(lambda leaf: leaf + 0.4 * rng.standard_normal(leaf.shape), policy.init(rng, "float64"))
    kinds: dict[str, Arrays] = {
        "none": {},
        "state": {"h0": rng.standard_normal((K, H)), "a": rng.standard_normal((K, R, H))},
        "block": {
            "U": rng.standard_normal((K, H, R)), "V": rng.standard_normal((K, H, R)), "b": rng.standard_normal((K, H)),
            "bias": rng.standard_normal((K, H)),
        },
    }  # fmt: skip
    for kind, contexts in kinds.items():
        count = K if contexts else 1
        x, rollouts = rng.standard_normal((steps, count * P, 3)), _rollouts(rng, count * P)

        def logits_of(at: Arrays, np: Any, contexts: Arrays = contexts, count: int = count, x: Any = x) -> list[Any]:
            """Return (logits, saved) of each context."""
            return [
                plain.forward(at["params"], x[:, k * P : (k + 1) * P], {n: at["contexts"][n][k] for n in contexts},
                              **options, np=np)
                for k in range(count)
            ]  # fmt: skip

        given = {"params": params, "contexts": contexts}
        found = logits_of(given, numpy)
        logits = numpy.concatenate([each for each, _ in found])
        weights, actions, advantages = _weights(logits, rollouts), rollouts["actions"], rollouts["advantages"]

        def loss(at: Arrays, weights: Any = weights, rollouts: Arrays = rollouts, logits_of: Any = logits_of) -> Any:
            logits = np.concatenate([each for each, _ in logits_of(at, np)])
            return losses.clipped_policy(logits, rollouts["actions"], rollouts["advantages"], weights, np)

        expected = flatten(
            autograd.grad(loss)(given)
            if contexts
            else {"params": autograd.grad(lambda at, loss=loss: loss({"params": at, "contexts": {}}))(params)}
        )
        _, cache = policy.forward(move(params), move(x), move(contexts) or None)
        _, dlogits = policy_gradient.clipped_loss_and_gradient(move(logits), **move(rollouts), clip=CLIP)
        grads, dcontexts = policy.backward(dlogits, cache)
        fast.compare(kind, flatten({"params": grads} | ({"contexts": dcontexts} if contexts else {})), expected)

        dlogits = losses.clipped_policy_backward(logits, actions, advantages, weights)
        parts = [
            plain.backward(dlogits[k * P : (k + 1) * P], saved, params, **options) for k, (_, saved) in enumerate(found)
        ]
        got = {f"contexts/{n}": numpy.stack([part[1][n] for part in parts]) for n in contexts}
        for name in flatten(params):
            group, leaf = name.split("/")
            got[f"params/{name}"] = sum(part[0][group][leaf] for part in parts)
        plain_link.compare(kind, got, expected)
    yield from (fast, plain_link)
