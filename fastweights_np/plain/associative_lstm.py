"""The associative LSTM (Danihelka et al. 2016) and its gradients, as plainly as they can be written.

    z        = W h(t) + C x(t) + b   3 + 6 N blocks of D = H/2 rows: z_f, z_i, z_o, the real parts of all z_k, z_q, z_u,
                                     and then their imaginary parts; with layer norm LN[z_j] of each block by itself
    c_s(t+1) = f ⊙ c_s(t) + Σ_n P_s k_n ⊙ (i ⊙ u_n),   k_n, q_n, u_n = bound(z_k,n), bound(z_q,n), bound(z_u,n)
    h(t+1)   = o ⊙ Σ_n bound(m_n),   m_n = 1/S Σ_s P_s q_n ⊙ c_s(t+1),   bound(z) = z / max(1, |z|)

A complex array is a pair (2, B, D) of real and imaginary parts, and so is its gradient, (∂L/∂Re, ∂L/∂Im): the conjugate
of the gradient in DERIVATION.md, so `y = u v` gives du = v̄ dy. N heads n, S copies s, permutations P_s of D numbers.

shared_value: all heads write the same value, u_n = u, and there are 3 + 2 (2 N + 1) blocks. recurrent_value=False:
z_u = C_u x(t) + b_u, without W_u h(t).
"""

from __future__ import annotations

from typing import Any

import numpy

from .ops import layer_norm, layer_norm_backward, sigmoid


def product(u: Any, v: Any, np: Any = numpy) -> Any:
    """Return u ⊙ v of complex numbers."""
    return np.stack([u[0] * v[0] - u[1] * v[1], u[0] * v[1] + u[1] * v[0]])


def conjugate(u: Any) -> Any:
    """Return ū."""
    return numpy.stack([u[0], -u[1]])


def bound(z: Any, np: Any = numpy) -> tuple[Any, Any]:
    """Return y = z / max(1, |z|), and what backward needs."""
    m = np.maximum(1, (z[0] ** 2 + z[1] ** 2) ** 0.5)
    return z / m, (z / m, m)  # (A1)


def bound_backward(dy: Any, saved: Any) -> Any:
    """Return dz."""
    y, m = saved
    # y = z / |z| where |z| > 1, else z
    return (dy - (m > 1) * y * (y * dy).sum(0)) / m  # (A1)


def blocks(M: int, shared_value: bool, recurrent_value: bool) -> tuple[int, int, list[bool]]:
    """Return N, the number K of keys and values, and whether each of the M blocks of z has a recurrent input."""
    N, K = (M - 5) // 4 if shared_value else (M - 3) // 6, (M - 3) // 2
    return N, K, [recurrent_value or j < 3 or (j - 3) % K < 2 * N for j in range(M)]


def forward(
    params: dict[str, Any], x: Any, h0: Any, c0: Any, *, permutations: Any, shared_value: bool = False,
    recurrent_value: bool = True, np: Any = numpy,
) -> tuple[Any, Any]:  # fmt: skip
    """Return h (T, B, H) from x (T, B, I), h0 (B, H), c0 (B, S, H), permutations (S, D), and what backward needs."""
    W, C, b = params["W"], params["C"], params["b"]
    M, D, S = len(W), h0.shape[-1] // 2, len(permutations)
    N, K, recurrent = blocks(M, shared_value, recurrent_value)
    c = [np.stack([c0[:, s, :D], c0[:, s, D:]]) for s in range(S)]
    h, hs, saved = h0, [], []
    for x_t in x:
        h_before, c_before = h, c
        z = [recurrent[j] * (h @ W[j].T) + x_t @ C[j].T + b[j] for j in range(M)]  # (F7), (L1), (A8)
        norms = None
        if "gain" in params:
            normed = [layer_norm(z[j], params["gain"][j], params["bias"][j], np) for j in range(M)]  # (A6)
            z, norms = [y for y, _ in normed], [norm for _, norm in normed]
        f, i, o = (sigmoid(z[j], np) for j in range(3))
        bounds = [bound(np.stack([z[3 + j], z[3 + K + j]]), np) for j in range(K)]
        pairs = [y for y, _ in bounds]
        k, q, u = pairs[:N], pairs[N : 2 * N], pairs[2 * N :]
        if shared_value:
            u = u * N  # the list [u, u, ...], (A7)
        # (A4), (A5)
        c = [f * c[s] + sum(product(k[n][:, :, p], i * u[n], np) for n in range(N)) for s, p in enumerate(permutations)]
        # (A3), (A5)
        m = [sum(product(q[n][:, :, p], c[s], np) for s, p in enumerate(permutations)) / S for n in range(N)]
        reads = [bound(m[n], np) for n in range(N)]
        total = sum(y for y, _ in reads)  # (A2)
        h = np.concatenate([o * total[0], o * total[1]], -1)
        saved.append((x_t, h_before, c_before, norms, c, (f, i, o), (k, q, u), bounds, reads, total))
        hs.append(h)
    return np.stack(hs), saved


def backward(
    dhs: Any, saved: Any, params: dict[str, Any], *, permutations: Any, shared_value: bool = False,
    recurrent_value: bool = True,
) -> tuple[dict[str, Any], Any, Any]:  # fmt: skip
    """Return (grads, dx, dh0) from dhs (T, B, H); grads also has the gradient of c0."""
    W, C = params["W"], params["C"]
    grads = {name: 0 * value for name, value in params.items()}
    S, D = len(permutations), W.shape[1]
    _, _, recurrent = blocks(len(W), shared_value, recurrent_value)
    dh_next, dc, dx = 0 * saved[0][1], [0 * c for c in saved[0][2]], []
    for dh, (x_t, h_before, c_before, norms, c, (f, i, o), (k, q, u), bounds, reads, total) in zip(
        reversed(dhs), reversed(saved), strict=True
    ):
        dh = dh + dh_next
        dh = numpy.stack([dh[:, :D], dh[:, D:]])
        dk, dq, du = ([0 * pair for pair in pairs] for pairs in (k, q, u))
        # h(t+1) = o ⊙ Σ_n bound(m_n)
        do = (dh * total).sum(0)  # (A2)
        for n, (_, read) in enumerate(reads):
            dm = bound_backward(o * dh, read) / S  # (A1)
            # m_n = 1/S Σ_s (P_s q_n) ⊙ c_s                                                                 (A3), (A5)
            for s, p in enumerate(permutations):
                dq[n] = dq[n] + product(conjugate(c[s]), dm)[:, :, numpy.argsort(p)]
                dc[s] = dc[s] + product(conjugate(q[n][:, :, p]), dm)
        # c_s(t+1) = f ⊙ c_s(t) + Σ_n (P_s k_n) ⊙ (i ⊙ u_n)                                                 (A4), (A5)
        df, di = sum((c_before[s] * dc[s]).sum(0) for s in range(S)), 0 * i
        for n in range(len(k)):
            diu = 0 * u[n]
            for s, p in enumerate(permutations):
                dk[n] = dk[n] + product(conjugate(i * u[n]), dc[s])[:, :, numpy.argsort(p)]
                diu = diu + product(conjugate(k[n][:, :, p]), dc[s])
            di = di + (u[n] * diu).sum(0)
            du[n] = i * diu
        dc = [f * dc[s] for s in range(S)]
        if shared_value:
            # u_n = u
            du = [sum(du)]  # (A7)
        # k_n, q_n, u_n = bound(z);   f, i, o = σ(z)
        dpairs = [bound_backward(d, each) for d, (_, each) in zip([*dk, *dq, *du], bounds, strict=True)]  # (A1)
        dz = [df * f * (1 - f), di * i * (1 - i), do * o * (1 - o)]  # (M3)
        dz += [d[0] for d in dpairs] + [d[1] for d in dpairs]
        if norms is not None:
            # LN[z_j]
            normed = [layer_norm_backward(dz[j], norms[j], params["gain"][j]) for j in range(len(W))]  # (A6)
            dz, dgain, dbias = (list(each) for each in zip(*normed, strict=True))
            grads["gain"], grads["bias"] = grads["gain"] + numpy.stack(dgain), grads["bias"] + numpy.stack(dbias)
        # z = W h(t) + C x(t) + b, without W h(t) where there is no recurrent input                          (F7), (A8)
        grads["W"] = grads["W"] + numpy.stack([r * (d.T @ h_before) for r, d in zip(recurrent, dz, strict=True)])
        grads["C"] = grads["C"] + numpy.stack([d.T @ x_t for d in dz])  # (L1)
        grads["b"] = grads["b"] + numpy.stack([d.sum(0) for d in dz])
        dx.append(sum(d @ C[j] for j, d in enumerate(dz)))
        dh_next = sum(recurrent[j] * (d @ W[j]) for j, d in enumerate(dz))
    dc0 = numpy.stack([numpy.concatenate([d[0], d[1]], -1) for d in dc], 1)
    return grads | {"c0": dc0}, numpy.stack(dx[::-1]), dh_next
