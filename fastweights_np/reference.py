"""Equations (1) to (5) of Ba et al. 2016, and the baselines' own, word for word: the yardstick for the fast layers.

One sequence at a time, one step at a time, nothing in place, nothing clever, nothing imported from the package. Every
function takes `np`, the array module: plain numpy, or autograd.numpy to let autograd differentiate the equations.

    A(t)       = λ A(t-1) + η h(t) h(t)ᵀ                                                                           (1)
    h_0(t+1)   = f(W h(t) + C x(t) + b), or f(LN[W h(t) + C x(t) + b]) as an option                               (2a)
    h_s+1(t+1) = f(LN[W h(t) + C x(t) + b + A(t) h_s(t+1)]),   h(t+1) = h_S(t+1)                              (2), (5)
    A(t)       = λᵗ A(0) + η Σ_{τ=1..t} λ^(t-τ) h(τ) h(τ)ᵀ                                                         (3)
    A(t) v     = λᵗ A(0) v + η Σ_{τ=1..t} λ^(t-τ) h(τ) [h(τ)ᵀ v]                                                   (4)

Those of the IRNN, the LSTM and the associative LSTM stand with their functions.
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


def multilevel(
    params: dict[str, Any], x: Any, h0: Any, A0: Any, decay: Any, rate: Any, inner_steps: int, *, controls: Any,
    activation_name: str = "relu", normalize_preliminary: bool = False, np: Any = numpy,
) -> Any:  # fmt: skip
    """h (T, B, H), by (1), (2a) and (2) or (5) with V for W where a step integrates, 0 for A where it does not read,
    A left alone where it does not store, and 0 for h(t) where the step before wiped. controls has the four signals.
    """
    sequences = []
    for b in range(x.shape[1]):
        h, A, states = h0[b], A0[b], []
        for t in range(x.shape[0]):
            U = params["V"] if controls.integrate[t] else params["W"]
            boundary = np.dot(U, h) + np.dot(params["C"], x[t, b]) + params["b"]
            normalized = boundary
            if "gain" in params and normalize_preliminary:
                normalized = layer_norm(boundary, params["gain"], params["bias"], np)
            h_s = activation(normalized, activation_name, np)  # (2a)
            for _ in range(inner_steps):
                z = (np.dot(A, h_s) if controls.read[t] else 0.0) + boundary  # (2)
                if "gain" in params:
                    z = layer_norm(z, params["gain"], params["bias"], np)  # (5)
                h_s = activation(z, activation_name, np)
            states.append(h_s)
            if controls.store[t]:
                A = decay * A + rate * np.outer(h_s, h_s)  # (1)
            h = 0.0 * h_s if controls.wipe[t] else h_s
        sequences.append(np.stack(states))
    return np.stack(sequences, axis=1)


def matrix_from_states(h: Any, A0: Any, decay: float, rate: float, np: Any = numpy) -> Any:
    """A(t) of one sequence by equation (3), from its states h (t, H) and A(0) (H, H)."""
    steps = len(h)
    A = decay**steps * A0
    for tau in range(steps):
        A = A + rate * decay ** (steps - 1 - tau) * np.outer(h[tau], h[tau])
    return A


def affine(params: dict[str, Any], h: Any, x: Any, np: Any = numpy) -> Any:
    """W h + C x + b for one state h (H,) and one input x (I,); with several maps, W (N, H, H), one after another."""
    return np.dot(params["W"], h) + np.dot(params["C"], x) + params["b"]


def sigmoid(z: Any, np: Any = numpy) -> Any:
    """1 / (1 + exp(-z))."""
    return 1 / (1 + np.exp(-z))


def irnn(params: dict[str, Any], x: Any, h0: Any, *, activation_name: str = "relu", np: Any = numpy) -> Any:
    """h (T, B, H) from x (T, B, I) and h0 (B, H): h(t+1) = f(W h(t) + C x(t) + b), with LN before f if there is one."""
    sequences = []
    for b in range(x.shape[1]):
        h, states = h0[b], []
        for t in range(x.shape[0]):
            z = affine(params, h, x[t, b], np)
            if "gain" in params:
                z = layer_norm(z, params["gain"], params["bias"], np)
            h = activation(z, activation_name, np)
            states.append(h)
        sequences.append(np.stack(states))
    return np.stack(sequences, axis=1)


def lstm(params: dict[str, Any], x: Any, h0: Any, c0: Any, *, np: Any = numpy) -> Any:
    """h (T, B, H) from x (T, B, I), h0 and c0 (B, H), by

    c(t+1) = σ(z_f) c(t) + σ(z_i) tanh(z_g),   h(t+1) = σ(z_o) tanh(c(t+1)),   z = W h(t) + C x(t) + b for i, f, g, o,

    with LN[z] of each of the four in the place of z if there is layer norm.
    """
    sequences = []
    for b in range(x.shape[1]):
        h, c, states = h0[b], c0[b], []
        for t in range(x.shape[0]):
            z = affine(params, h, x[t, b], np)
            z_i, z_f, z_g, z_o = (
                layer_norm(z[n], params["gain"][n], params["bias"][n], np) if "gain" in params else z[n]
                for n in range(4)
            )
            c = sigmoid(z_f, np) * c + sigmoid(z_i, np) * np.tanh(z_g)
            h = sigmoid(z_o, np) * np.tanh(c)
            states.append(h)
        sequences.append(np.stack(states))
    return np.stack(sequences, axis=1)


def associative_lstm(params: dict[str, Any], x: Any, h0: Any, c0: Any, permutations: Any, *, np: Any = numpy) -> Any:
    """h (T, B, H) from x (T, B, I), h0 (B, H), c0 (B, S, H) and the S permutations of H/2 numbers each, by

        c_s(t+1) = f c_s(t) + Σ_n P_s k_n (i u_n),   h(t+1) = o Σ_n bound(1/S Σ_s P_s q_n c_s(t+1)),

    products of complex numbers written out: a pair is (real parts, imaginary parts).
    """

    def bound(re: Any, im: Any) -> tuple[Any, Any]:
        modulus = np.sqrt(re**2 + im**2)
        return re / np.maximum(1.0, modulus), im / np.maximum(1.0, modulus)

    def times(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
        return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]

    copies, size, heads = len(permutations), h0.shape[1] // 2, (len(params["W"]) - 3) // 6
    sequences = []
    for b in range(x.shape[1]):
        h, states = h0[b], []
        c = [(c0[b, s, :size], c0[b, s, size:]) for s in range(copies)]
        for t in range(x.shape[0]):
            z = affine(params, h, x[t, b], np)
            f, i, o = sigmoid(z[0], np), sigmoid(z[1], np), sigmoid(z[2], np)
            re, im = z[3 : 3 + 3 * heads], z[3 + 3 * heads :]
            k = [bound(re[n], im[n]) for n in range(heads)]
            q = [bound(re[heads + n], im[heads + n]) for n in range(heads)]
            u = [bound(re[2 * heads + n], im[2 * heads + n]) for n in range(heads)]
            for s, p in enumerate(permutations):
                written = [times((k[n][0][p], k[n][1][p]), (i * u[n][0], i * u[n][1])) for n in range(heads)]
                c[s] = f * c[s][0] + sum(w[0] for w in written), f * c[s][1] + sum(w[1] for w in written)
            h_re, h_im = 0.0, 0.0
            for n in range(heads):
                found = [times((q[n][0][p], q[n][1][p]), c[s]) for s, p in enumerate(permutations)]
                read = bound(sum(m[0] for m in found) / copies, sum(m[1] for m in found) / copies)
                h_re, h_im = h_re + read[0], h_im + read[1]
            h = np.concatenate([o * h_re, o * h_im])
            states.append(h)
        sequences.append(np.stack(states))
    return np.stack(sequences, axis=1)


def convnet(params: dict[str, Any], images: Any, layers: Any, np: Any = numpy) -> Any:
    """Features (B, F) from images (B, channels, Y, X): for each layer y = relu(b + max over windows of z), where
    z[f, i, j] is the sum of w[f] times the patch of x at (s i, s j). Each layer has size K, stride s and pool p.
    """
    features = []
    for x in images:
        for n, layer in enumerate(layers):
            weight, bias = params[f"weight{n}"], params[f"bias{n}"]
            K, s, p = layer.size, layer.stride, layer.pool
            rows, columns = ((size - K) // s + 1 for size in x.shape[1:])
            z = [
                [np.sum(weight * x[:, s * i : s * i + K, s * j : s * j + K], axis=(1, 2, 3)) for j in range(columns)]
                for i in range(rows)
            ]
            maps = np.stack([np.stack(row, axis=1) for row in z], axis=1)  # (F, rows, columns)
            pooled = [
                [np.max(maps[:, p * i : p * i + p, p * j : p * j + p], axis=(1, 2)) for j in range(columns // p)]
                for i in range(rows // p)
            ]
            x = np.stack([np.stack(row, axis=1) for row in pooled], axis=1)
            x = np.maximum(x + bias[:, None, None], 0.0)
        features.append(np.reshape(x, (-1,)))
    return np.stack(features)


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
