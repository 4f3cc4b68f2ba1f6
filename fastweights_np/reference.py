"""Losses of whole networks word for word, one row and one step at a time. The layers stand in plain/.

Nothing in place, nothing imported from the package. Every function takes `np`, the array module: plain numpy, or
autograd.numpy to let autograd differentiate.
"""

from __future__ import annotations

from typing import Any

import numpy


def softmax_cross_entropy(logits: Any, labels: Any, np: Any = numpy) -> Any:
    """-log softmax(logits[n])[labels[n]] for each row."""
    return np.stack([np.log(np.sum(np.exp(row))) - row[label] for row, label in zip(logits, labels, strict=True)])


def network(params: dict[str, Any], tokens: Any, labels: Any, layer: Any, np: Any = numpy) -> Any:
    """The mean loss of section 4.1: token, two embeddings, layer(params, x) to h, ReLU, softmax."""
    encoder = params["encoder"]
    vectors = encoder["table"][tokens]
    codes = np.dot(vectors, encoder["weight"].T) + encoder["bias"]
    return readout_loss(params["readout"], layer(params["layer"], codes)[-1], labels, np)


def relu_layer(params: dict[str, Any], x: Any, weight: str, bias: str, np: Any = numpy) -> Any:
    """relu(weight x + bias) over the last axis, for the parameters of these names."""
    return np.maximum(np.dot(x, params[weight].T) + params[bias], 0.0)


def readout_loss(params: dict[str, Any], h: Any, labels: Any, np: Any = numpy) -> Any:
    """The mean loss of h (B, H) to ReLU to softmax."""
    hidden = relu_layer(params, h, "hidden", "hidden_bias", np)
    logits = np.dot(hidden, params["output"].T) + params["output_bias"]
    return np.mean(softmax_cross_entropy(logits, labels, np))


def actor_critic(
    params: dict[str, Any], seen: Any, actions: Any, targets: Any, advantages: Any, value_weight: float,
    entropy_weight: float, layer: Any, np: Any = numpy,
) -> Any:  # fmt: skip
    """The loss of steps (T, B), summed over the steps and averaged over the games, the advantages taken as given:

    -Â log π(a) + c ½ (v - R)² + β Σ_k π_k log π_k, where layer(params, x) is h (T, B, H), x the ReLU of what is seen.
    """
    x = relu_layer(params["encoder"], seen, "weight", "bias", np)
    h, heads = layer(params["layer"], x), params["heads"]
    loss = 0.0
    for t in range(seen.shape[0]):
        for b in range(seen.shape[1]):
            logits = np.dot(heads["policy"], h[t, b]) + heads["policy_bias"]
            value = np.sum(np.dot(heads["value"], h[t, b]) + heads["value_bias"])
            pi = np.exp(logits) / np.sum(np.exp(logits))
            loss = loss - advantages[t, b] * np.log(pi[actions[t, b]])
            loss = loss + value_weight * 0.5 * (value - targets[t, b]) ** 2
            loss = loss + entropy_weight * np.sum(pi * np.log(pi))
    return loss / seen.shape[1]
