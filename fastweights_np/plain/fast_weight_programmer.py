"""Keys, values and queries on one memory, and their gradients, as plainly as they can be written.

    k(t) = φ(K x(t)),   q(t) = φ(Q x(t)),   v(t) = V x(t)
    e(t) = v(t)                           the sum, or with β the delta rule: e(t) = v(t) - α(t) S(t-1) k(t)
    S(t) = α(t) S(t-1) + β(t) e(t) k(t)ᵀ
    y(t) = S(t) q(t)                      or [S(t) q(t)] / (z(t)·q(t) + ε), where z is the sum of keys

α = λ, or σ of a gate; β = 1, or σ(β x + bias). x (T, B, I), y (T, B, N, d_v), S (B, N, d_v, d_k): T steps, B sequences,
I inputs, N heads, keys of size d_k, values of size d_v. (P1) and on are in DERIVATION.md. Sources: see the fast layer.
"""

from __future__ import annotations

from typing import Any

import numpy

from .features import features, features_backward
from .ops import outer, sigmoid, times

EPSILON = 1e-6  # added to z·q


def project(W: Any, x: Any, np: Any = numpy) -> Any:
    """Return W x (B, N, d) for each head: W (N, d, I), x (B, I)."""
    return np.einsum("ndi,bi->bnd", W, x)


def project_backward(dy: Any, W: Any, x: Any) -> tuple[Any, Any]:
    """Return dW and dx from dy (B, N, d)."""
    # y = W x, for each head
    return numpy.einsum("bnd,bi->ndi", dy, x), numpy.einsum("bnd,ndi->bi", dy, W)  # (L1)


def scalar(name: str, params: dict[str, Any], x: Any, default: Any, np: Any = numpy) -> Any:
    """Return σ(w x + bias) (B, N) for each head; without a bias the default, and without w the same for each x."""
    if f"{name}_bias" not in params:
        return default + np.zeros((len(x), len(params["K"])))
    z = params[f"{name}_bias"] + (np.dot(x, params[name].T) if name in params else np.zeros((len(x), 1)))
    return sigmoid(z, np)  # (P4)


def scalar_backward(dy: Any, y: Any, name: str, params: dict[str, Any], x: Any, grads: dict[str, Any]) -> Any:
    """Return dx from dy (B, N); add the gradients of w and bias to grads."""
    if f"{name}_bias" not in params:
        return 0
    # y = σ(w x + bias)
    dz = dy * y * (1 - y)  # (P4)
    grads[f"{name}_bias"] = grads[f"{name}_bias"] + dz.sum(0)
    if name not in params:
        return 0
    grads[name] = grads[name] + dz.T @ x  # (L1)
    return dz @ params[name]


def write(S: Any, k: Any, v: Any, alpha: Any, beta: Any, delta: bool) -> tuple[Any, Any, Any]:
    """Return S(t), e(t) and α(t) S(t-1), from S(t-1) (B, N, d_v, d_k), k and v (B, N, .), α and β (B, N)."""
    decayed = alpha[:, :, None, None] * S  # (P8)
    e = v - times(decayed, k) if delta else v  # (P7)
    return decayed + outer(beta[:, :, None] * e, k), e, decayed  # (P6)


def forward(
    params: dict[str, Any], x: Any, S0: Any, *, decay: float = 1.0, feature_map: str = "identity",
    normalization: str = "none", attention_normalization: bool = False, writes: Any = None, np: Any = numpy,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return y (T, B, N, d_v), S(T), and what backward needs. `writes` (T, B) is 0 where a step only reads, else 1."""
    S, ys, saved, delta = S0, [], [], "beta_bias" in params
    for t, x_t in enumerate(x):
        w = numpy.ones((len(x_t), 1)) if writes is None else writes[t][:, None]
        k, of_k = features(project(params["K"], x_t, np), feature_map, normalization, np)
        q, of_q = features(project(params["Q"], x_t, np), feature_map, normalization, np)
        v = project(params["V"], x_t, np)
        if attention_normalization:
            v = np.concatenate([v, np.ones((*v.shape[:2], 1))], axis=2)  # the last row of S is z, the sum of keys
        gate, strength = scalar("gate", params, x_t, decay, np), scalar("beta", params, x_t, 1.0, np)
        before, alpha, beta = S, w * gate + (1 - w), w * strength
        S, e, decayed = write(S, k, v, alpha, beta, delta)
        o = times(S, q)  # (P5)
        y = o[..., :-1] / (o[..., -1:] + EPSILON) if attention_normalization else o  # (P9)
        saved.append((x_t, w, (k, of_k), (q, of_q), (gate, strength), alpha, beta, before, decayed, e, S, o, y))
        ys.append(y)
    return np.stack(ys), S, saved


def backward(
    dys: Any, saved: Any, params: dict[str, Any], *, feature_map: str = "identity", normalization: str = "none",
    attention_normalization: bool = False, dS: Any = 0.0,
) -> tuple[dict[str, Any], Any, Any]:  # fmt: skip
    """Return (grads, dx, dS0) from dys (T, B, N, d_v), and dS of S(T)."""
    grads, dxs = {name: 0 * value for name, value in params.items()}, []
    for dy, step in zip(reversed(dys), reversed(saved), strict=True):
        x, w, (k, of_k), (q, of_q), (gate, strength), alpha, beta, before, decayed, e, S, o, y = step
        # y = o[:-1] / (o[-1] + ε)
        if attention_normalization:
            do = dy / (o[..., -1:] + EPSILON)  # (P9)
            dy = numpy.concatenate([do, -(do * y).sum(-1, keepdims=True)], axis=2)
        # o = S q
        dS, dq = dS + outer(dy, q), times(S.swapaxes(2, 3), dy)  # (P5)
        # S = α S(t-1) + β e kᵀ
        du, dk = times(dS, k), times(dS.swapaxes(2, 3), beta[:, :, None] * e)  # (P6)
        dbeta, dv = (du * e).sum(2), beta[:, :, None] * du
        # e = v, or v - α S(t-1) k
        if "beta_bias" in params:
            dS, dk = dS - outer(dv, k), dk - times(decayed.swapaxes(2, 3), dv)  # (P7)
        # α S(t-1)
        dalpha, dS = (dS * before).sum((2, 3)), alpha[:, :, None, None] * dS  # (P8)
        # k = φ(K x),   q = φ(Q x),   v = V x;   β and α by σ
        dx = scalar_backward(w * dalpha, gate, "gate", params, x, grads)
        dx = dx + scalar_backward(w * dbeta, strength, "beta", params, x, grads)
        dk, dq = (features_backward(d, of, feature_map, normalization) for d, of in ((dk, of_k), (dq, of_q)))
        for name, d in (("K", dk), ("Q", dq), ("V", dv[..., : params["V"].shape[1]])):
            dW, dx_name = project_backward(d, params[name], x)
            grads[name], dx = grads[name] + dW, dx + dx_name
        dxs.append(dx)
    return grads, numpy.stack(dxs[::-1]), dS


def attend(k: Any, v: Any, q: Any, alpha: Any, beta: Any, S0: Any, delta: bool) -> Any:
    """Return o(t) = S(t) q(t) of one head of one sequence as masked attention to all steps, without S(t).

    k, v, q (T, .), α and β (T,), S0 (d_v, d_k). With D_ij = α(j+1) .. α(i) for j <= i, else 0, and d_i = α(1) .. α(i):
    (I + [D ⊙ K Kᵀ, i > j] diag(β)) E = V - d ⊙ K S0ᵀ for the delta rule, or E = V;  O = [D ⊙ Q Kᵀ] (β E) + d ⊙ Q S0ᵀ.
    """
    steps = range(len(k))
    D = numpy.array([[numpy.prod(alpha[j + 1 : i + 1]) if j <= i else 0 for j in steps] for i in steps])
    d = numpy.array([numpy.prod(alpha[: i + 1]) for i in steps])[:, None]
    E = v
    if delta:
        E = numpy.linalg.solve(numpy.eye(len(k)) + numpy.tril(D * (k @ k.T), -1) * beta, v - d * (k @ S0.T))
    return (D * (q @ k.T)) @ (beta[:, None] * E) + d * (q @ S0.T)
