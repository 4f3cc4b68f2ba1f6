"""Losses and their gradients, as plainly as they can be written. (L8) and on are in DERIVATION.md."""

from __future__ import annotations

from typing import Any

import numpy


def softmax(logits: Any, np: Any = numpy) -> Any:
    """Return π = softmax(logits) over the last axis."""
    return np.exp(logits) / np.sum(np.exp(logits), -1, keepdims=True)


def cross_entropy(logits: Any, labels: Any, np: Any = numpy) -> Any:
    """Return nll[n] = log Σ_k exp(logits[n, k]) - logits[n, labels[n]]: logits (N, classes), labels (N,)."""
    return np.log(np.sum(np.exp(logits), -1)) - logits[numpy.arange(len(labels)), labels]  # (L8)


def cross_entropy_backward(dnll: Any, logits: Any, labels: Any) -> Any:
    """Return dlogits from dnll (N,)."""
    # nll = log Σ_k exp(logits_k) - logits_label
    return dnll[:, None] * (softmax(logits) - numpy.eye(logits.shape[-1])[labels])  # (L8)


def entropy(logits: Any, np: Any = numpy) -> Any:
    """Return H = -Σ_k π_k log π_k over the last axis, π = softmax(logits)."""
    pi = softmax(logits, np)
    return -np.sum(pi * np.log(pi), -1)  # (L9)


def entropy_backward(dH: Any, logits: Any) -> Any:
    """Return dlogits from dH."""
    # H = -Σ_k π_k log π_k
    pi = softmax(logits)
    return -dH[..., None] * pi * (numpy.log(pi) + entropy(logits)[..., None])  # (L9)


def squared_error(values: Any, targets: Any) -> Any:
    """Return ½ (value - target)² for each value."""
    return 0.5 * (values - targets) ** 2  # (L10)


def squared_error_backward(dloss: Any, values: Any, targets: Any) -> Any:
    """Return dvalues; the targets are constants."""
    # loss = ½ (value - target)²
    return dloss * (values - targets)  # (L10)


def actor_critic(
    logits: Any, values: Any, actions: Any, targets: Any, advantages: Any, value_weight: float, entropy_weight: float,
    np: Any = numpy,
) -> Any:  # fmt: skip
    """Return Σ_n Â nll(a) + c ½ (v - R)² - β H(π) over rows: logits (N, actions), all else (N,).

    The advantages Â are constants.
    """
    policy = advantages * cross_entropy(logits, actions, np)
    return np.sum(policy + value_weight * squared_error(values, targets) - entropy_weight * entropy(logits, np))


def actor_critic_backward(
    logits: Any, values: Any, actions: Any, targets: Any, advantages: Any, value_weight: float, entropy_weight: float
) -> tuple[Any, Any]:
    """Return (dlogits, dvalues) of the sum."""
    # Σ Â nll(a) + c ½ (v - R)² - β H(π)
    one = numpy.ones(len(values))
    dlogits = cross_entropy_backward(advantages, logits, actions) + entropy_backward(-entropy_weight * one, logits)
    return dlogits, squared_error_backward(value_weight * one, values, targets)


def clipped_policy(logits: Any, actions: Any, advantages: Any, weights: Any, np: Any = numpy) -> Any:
    """Return -mean [w Â log π(a)]: logits (N, actions); actions, advantages Â and weights w = min(ρ, τ) (N, G).

    Advantages and weights are constants.
    """
    rows = numpy.arange(len(actions))[:, None]
    log_pi = np.log(softmax(logits, np))
    return -np.sum(weights * advantages * log_pi[rows, actions]) / actions.size  # (G1)


def clipped_policy_backward(logits: Any, actions: Any, advantages: Any, weights: Any) -> Any:
    """Return dlogits."""
    # -mean [w Â log π(a)]
    dnll = weights * advantages / actions.size
    taken = numpy.eye(logits.shape[-1])[actions]  # (N, G, actions)
    return (dnll[:, :, None] * (softmax(logits)[:, None] - taken)).sum(1)  # (G1)


def kl(logits: Any, log_beta: Any, np: Any = numpy) -> Any:
    """Return Σ_k π_k (log π_k - log β_k) over the last axis, π = softmax(logits)."""
    pi = softmax(logits, np)
    return np.sum(pi * (np.log(pi) - log_beta), -1)  # (G2)


def kl_backward(dkl: Any, logits: Any, log_beta: Any) -> Any:
    """Return dlogits from dkl (N,); β is a constant."""
    # KL = Σ_k π_k (log π_k - log β_k)
    pi = softmax(logits)
    return dkl[:, None] * pi * (numpy.log(pi) - log_beta - kl(logits, log_beta)[:, None])  # (G2)


def relu_layer(params: dict[str, Any], x: Any, weight: str, bias: str, np: Any = numpy) -> Any:
    """Return relu(weight x + bias) over the last axis, for the parameters of these names."""
    return np.maximum(np.dot(x, params[weight].T) + params[bias], 0.0)


def loss_of_classifier(params: dict[str, Any], h: Any, labels: Any, np: Any = numpy) -> Any:
    """Return the mean loss of h (B, H) to ReLU to softmax."""
    hidden = relu_layer(params, h, "hidden", "hidden_bias", np)
    return np.mean(cross_entropy(np.dot(hidden, params["output"].T) + params["output_bias"], labels, np))


def loss_of_network(params: dict[str, Any], tokens: Any, labels: Any, layer: Any, np: Any = numpy) -> Any:
    """Return the mean loss of section 4.1: token, two embeddings, layer(params, x) to h, ReLU, softmax."""
    encoder = params["encoder"]
    codes = np.dot(encoder["table"][tokens], encoder["weight"].T) + encoder["bias"]
    return loss_of_classifier(params["readout"], layer(params["layer"], codes)[-1], labels, np)


def loss_of_agent(
    params: dict[str, Any], seen: Any, actions: Any, targets: Any, advantages: Any, value_weight: float,
    entropy_weight: float, layer: Any, np: Any = numpy,
) -> Any:  # fmt: skip
    """Return the loss of T steps of B games, summed over steps and averaged over games.

    seen (T, B, I), actions, targets and advantages (T, B); layer(params, x) is h (T, B, H), x the ReLU of seen.
    """
    heads = params["heads"]
    h = layer(params["layer"], relu_layer(params["encoder"], seen, "weight", "bias", np))
    h = np.reshape(h, (-1, h.shape[-1]))
    logits, values = (np.dot(h, heads[name].T) + heads[f"{name}_bias"] for name in ("policy", "value"))
    a, R, A = (each.reshape(-1) for each in (actions, targets, advantages))
    return actor_critic(logits, values[:, 0], a, R, A, value_weight, entropy_weight, np) / seen.shape[1]
