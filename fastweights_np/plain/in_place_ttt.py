"""In-Place Test-Time Training and its gradient, as plainly as they can be written.

    u(t)  = η target Σ_j kernel_j ⊙ source(t + j)              j in taps; without kernel, or target: 1
    y(t)  = (down + S_i) z(t)                                  t in chunk i: apply,
    S_i+1 = λ S_i + Σ_{t in chunk i} u(t) z(t)ᵀ,   S_0 = 0     then update

z are the MLP's hidden units (gated_mlp.py), source(t + j) is 0 outside the chunk of t. x, source, u, y (T, B, d),
z (T, B, F), S (B, d, F). (W1) and on are in DERIVATION.md. Source: arXiv 2604.06169, in which λ is 1.
"""

from __future__ import annotations

from typing import Any

import numpy

from .gated_mlp import hidden, hidden_backward

TAPS = (-2, -1, 0, 1, 2)


def reaches(steps: int, j: int, chunk: int, across: int) -> Any:
    """Return a matrix (T, T), 1 where column = row + j is seen from row: in its chunk, or after it if 0 < j <= across.

    The write acts from the next chunk on, whose first step knows its own token: across is 0 or 1. With 2, the layer
    would not be causal.
    """
    t = numpy.arange(steps)
    end = (t // chunk + 1) * chunk + (j if 0 < j <= across else 0)
    seen = (t + j >= t // chunk * chunk) & (t + j < end)
    return numpy.eye(steps, k=j) * seen[:, None]


def convolve(params: dict[str, Any], source: Any, chunk: int, taps: Any, across: int, np: Any = numpy) -> Any:
    """Return Y(t) = Σ_j kernel_j ⊙ source(t + j)."""
    kernel = params.get("kernel", numpy.ones((len(taps), 1)))
    shifts = [reaches(len(source), j, chunk, across) for j in taps]
    return sum(kernel[n] * np.einsum("ts,sbd->tbd", shift, source) for n, shift in enumerate(shifts))  # (W1)


def convolve_backward(
    dY: Any, source: Any, params: dict[str, Any], chunk: int, taps: Any, across: int
) -> tuple[Any, Any]:  # fmt: skip
    """Return dkernel and dsource."""
    kernel, dkernel, dsource = params.get("kernel", numpy.ones((len(taps), 1))), [], 0 * source
    for n, j in enumerate(taps):
        shift = reaches(len(source), j, chunk, across)
        # Y(t) = Σ_j kernel_j ⊙ source(t + j)
        dkernel.append((dY * numpy.einsum("ts,sbd->tbd", shift, source)).sum((0, 1)))  # (W1)
        dsource = dsource + kernel[n] * numpy.einsum("ts,tbd->sbd", shift, dY)
    return numpy.stack(dkernel), dsource


def forward(
    params: dict[str, Any], x: Any, source: Any, *, decay: float = 1.0, rate: Any = 1.0, chunk: int = 16,
    taps: Any = TAPS, across: int = 0, np: Any = numpy,
) -> tuple[Any, Any]:  # fmt: skip
    """Return y, and what backward needs."""
    z, of_hidden = hidden(params, x, np)
    Y = convolve(params, source, chunk, taps, across, np)
    v = np.dot(Y, params["target"].T) if "target" in params else Y
    u = rate * v  # (W2)
    S, states, ys = numpy.zeros((x.shape[1], *params["down"].shape)), [], []
    for i in range(0, len(x), chunk):
        Z, U = z[i : i + chunk], u[i : i + chunk]
        ys.append(np.dot(Z, params["down"].T) + np.einsum("bdf,tbf->tbd", S, Z))  # (W4)
        states.append(S)
        S = decay * S + np.einsum("tbd,tbf->bdf", U, Z)  # (W3), (W5)
    return np.concatenate(ys), (source, of_hidden, z, Y, v, u, states)


def backward(
    dy: Any, saved: Any, params: dict[str, Any], *, decay: float = 1.0, rate: float = 1.0, chunk: int = 16,
    taps: Any = TAPS, across: int = 0,
) -> tuple[dict[str, Any], Any, Any]:  # fmt: skip
    """Return (grads, dx, dsource); grads has dη too, as "rate"."""
    source, of_hidden, z, Y, v, u, states = saved
    dz, du, dS, grads = 0 * z, 0 * u, 0 * states[0], {"down": 0 * params["down"]}
    for n, S in reversed(list(enumerate(states))):
        t = slice(n * chunk, (n + 1) * chunk)
        # S_i+1 = λ S_i + Σ_t u(t) z(t)ᵀ
        du[t] = numpy.einsum("bdf,tbf->tbd", dS, z[t])  # (W3)
        dz[t] = numpy.einsum("bdf,tbd->tbf", dS, u[t])
        dS = decay * dS  # (W5)
        # y = (down + S_i) z
        dz[t] += dy[t] @ params["down"] + numpy.einsum("bdf,tbd->tbf", S, dy[t])  # (W4)
        dS = dS + numpy.einsum("tbd,tbf->bdf", dy[t], z[t])
        grads["down"] += numpy.einsum("tbd,tbf->df", dy[t], z[t])
    # u = η v,   v = target Y
    grads["rate"], dY = (du * v).sum(), rate * du  # (W2)
    if "target" in params:
        grads["target"], dY = numpy.einsum("tbi,tbj->ij", dY, Y), dY @ params["target"]
    dkernel, dsource = convolve_backward(dY, source, params, chunk, taps, across)
    if "kernel" in params:
        grads["kernel"] = dkernel
    of_maps, dx = hidden_backward(dz, of_hidden, params)
    return grads | of_maps, dx, dsource


def accumulate(z: Any, u: Any, down: Any, chunk: int, decay: float) -> Any:
    """Return y (T, d) of one sequence from sums of all chunks: S_i = Σ_{j < i} λ^(i-1-j) U_jᵀ Z_j.

    z (T, F), u (T, d). With λ = 1, S is an exclusive cumulative sum.
    """
    starts = range(0, len(z), chunk)
    D = [u[i : i + chunk].T @ z[i : i + chunk] for i in starts]
    S = [sum((decay ** (i - 1 - j) * D[j] for j in range(i)), 0 * down) for i in range(len(D))]
    return numpy.concatenate([z[i : i + chunk] @ (down + S[n]).T for n, i in enumerate(starts)])


def attend(z: Any, u: Any, down: Any, chunk: int, decay: float) -> Any:
    """Return y (T, d) of one sequence as masked attention, without S: Y = Z downᵀ + (M ⊙ Z Zᵀ) U.

    M_ts = λ^(i-1-j) if t is in chunk i and s in chunk j < i, else 0.
    """
    number = numpy.arange(len(z)) // chunk
    between = number[:, None] - number - 1
    M = numpy.where(between >= 0, decay ** numpy.maximum(between, 0), 0)
    return z @ down.T + (M * (z @ z.T)) @ u
