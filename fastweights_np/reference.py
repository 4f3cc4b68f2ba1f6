"""Equations (1) to (5) of Ba et al. 2016, word for word: the yardstick that the fast layer is held against.

One sequence at a time, one step at a time, nothing in place, nothing clever, nothing imported from the package. Every
function takes `np`, the array module: plain numpy, or autograd.numpy to let autograd differentiate the equations.

    A(t)       = λ A(t-1) + η h(t) h(t)ᵀ                                                                           (1)
    h_0(t+1)   = f(W h(t) + C x(t) + b), or f(LN[W h(t) + C x(t) + b]) as an option                               (2a)
    h_s+1(t+1) = f(LN[W h(t) + C x(t) + b + A(t) h_s(t+1)]),   h(t+1) = h_S(t+1)                              (2), (5)
    A(t)       = λᵗ A(0) + η Σ_{τ=1..t} λ^(t-τ) h(τ) h(τ)ᵀ                                                         (3)
    A(t) v     = λᵗ A(0) v + η Σ_{τ=1..t} λ^(t-τ) h(τ) [h(τ)ᵀ v]                                                   (4)
"""

from __future__ import annotations

from typing import Any

import numpy

EPSILON = 1e-5


def layer_norm(z: Any, gain: Any, bias: Any, np: Any = numpy) -> Any:
    """gain ⊙ (z - μ) / σ + bias with μ the mean and σ² the variance (plus ε) of the units of one state z (H,)."""
    mean = np.mean(z)
    variance = np.mean((z - mean) ** 2)
    return gain * (z - mean) / np.sqrt(variance + EPSILON) + bias


def activation(z: Any, name: str, np: Any = numpy) -> Any:
    """f(z)."""
    return np.tanh(z) if name == "tanh" else np.maximum(z, 0.0)


def fast_weights(
    params: dict[str, Any], x: Any, h0: Any, A0: Any, decay: Any, rate: Any, inner_steps: int, *,
    activation_name: str = "relu", sustained_boundary: bool = True, normalize_preliminary: bool = False,
    form: str = "matrix", np: Any = numpy,
) -> Any:  # fmt: skip
    """h (T, B, H) from x (T, B, I), h0 (B, H) and A0 (B, H, H).

    form: "matrix" keeps A(t) by equation (1); "attention" never forms it and reads by equation (4).
    """
    sequences = []
    for b in range(x.shape[1]):
        h, A = h0[b], A0[b]
        past: list[Any] = []  # h(1) .. h(t)
        for t in range(x.shape[0]):
            boundary = np.dot(params["W"], h) + np.dot(params["C"], x[t, b]) + params["b"]

            def read(v: Any, A: Any = A, past: Any = tuple(past)) -> Any:
                if form == "matrix":
                    return np.dot(A, v)
                result = decay ** len(past) * np.dot(A0[b], v)  # noqa: B023 (used within this pass of the loop only)
                for age, h_tau in enumerate(reversed(past)):
                    result = result + rate * decay**age * h_tau * np.dot(h_tau, v)  # (4)
                return result

            normalized = boundary
            if "gain" in params and normalize_preliminary:
                normalized = layer_norm(boundary, params["gain"], params["bias"], np)
            h_s = activation(normalized, activation_name, np)  # (2a)
            for _ in range(inner_steps):
                z = read(h_s) + (boundary if sustained_boundary else h_s)  # (2); else appendix B: (A + I) h_s
                if "gain" in params:
                    z = layer_norm(z, params["gain"], params["bias"], np)  # (5)
                h_s = activation(z, activation_name, np)
            h = h_s
            A = decay * A + rate * np.outer(h, h)  # (1)
            past.append(h)
        sequences.append(np.stack(past))
    return np.stack(sequences, axis=1)


def matrix_from_states(h: Any, A0: Any, decay: float, rate: float, np: Any = numpy) -> Any:
    """A(t) of one sequence by equation (3), from its states h (t, H) and A(0) (H, H)."""
    steps = len(h)
    A = decay**steps * A0
    for tau in range(steps):
        A = A + rate * decay ** (steps - 1 - tau) * np.outer(h[tau], h[tau])
    return A


def softmax_cross_entropy(logits: Any, labels: Any, np: Any = numpy) -> Any:
    """-log softmax(logits[n])[labels[n]] for each row."""
    return np.stack([np.log(np.sum(np.exp(row))) - row[label] for row, label in zip(logits, labels, strict=True)])


def network(params: dict[str, Any], tokens: Any, labels: Any, options: dict[str, Any], np: Any = numpy) -> Any:
    """The mean loss of section 4.1: token, two embeddings, fast weights, ReLU, softmax."""
    encoder, readout = params["encoder"], params["readout"]
    vectors = encoder["table"][tokens]
    codes = np.dot(vectors, encoder["weight"].T) + encoder["bias"]
    batch_size, hidden_size = tokens.shape[1], params["layer"]["b"].shape[0]
    h0, A0 = np.zeros((batch_size, hidden_size)), np.zeros((batch_size, hidden_size, hidden_size))
    h = fast_weights(params["layer"], codes, h0, A0, **options, np=np)[-1]
    hidden = np.maximum(np.dot(h, readout["hidden"].T) + readout["hidden_bias"], 0.0)
    logits = np.dot(hidden, readout["output"].T) + readout["output_bias"]
    return np.mean(softmax_cross_entropy(logits, labels, np))
