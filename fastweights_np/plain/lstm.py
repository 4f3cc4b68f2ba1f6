"""The LSTM with a forget gate, and its gradients, as plainly as they can be written.

    z_n      = W_n h(t) + C_n x(t) + b_n   for each of n = i, f, g, o; with layer norm LN[z_n], each by itself
    c(t+1)   = σ(z_f) ⊙ c(t) + σ(z_i) ⊙ tanh(z_g)
    h(t+1)   = σ(z_o) ⊙ tanh(c(t+1))

x (T, B, I), h and c (T, B, H): T steps, B sequences, I inputs, H units. (M1) and on are in DERIVATION.md.
"""

from __future__ import annotations

from typing import Any

import numpy

from .ops import layer_norm, layer_norm_backward, sigmoid

GATES = range(4)  # i, f, g, o


def forward(params: dict[str, Any], x: Any, h0: Any, c0: Any, *, np: Any = numpy) -> tuple[Any, Any]:
    """Return h (T, B, H) from x (T, B, I), h0 and c0 (B, H), and what backward needs."""
    W, C, b = params["W"], params["C"], params["b"]
    h, c, hs, saved = h0, c0, [], []
    for x_t in x:
        h_before, c_before = h, c
        z = [h @ W[n].T + x_t @ C[n].T + b[n] for n in GATES]  # (M4), (F7), (L1)
        norms = None
        if "gain" in params:
            normed = [layer_norm(z[n], params["gain"][n], params["bias"][n], np) for n in GATES]
            z, norms = [y for y, _ in normed], [norm for _, norm in normed]
        i, f, g, o = sigmoid(z[0], np), sigmoid(z[1], np), np.tanh(z[2]), sigmoid(z[3], np)  # (M3)
        c = f * c + i * g  # (M2)
        tanh_c = np.tanh(c)  # (M1)
        h = o * tanh_c
        saved.append((x_t, h_before, c_before, norms, (i, f, g, o), tanh_c))
        hs.append(h)
    return np.stack(hs), saved


def backward(dhs: Any, saved: Any, params: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """Return (grads, dx, dh0) from dhs (T, B, H); grads also has the gradient of c0."""
    W, C = params["W"], params["C"]
    lists: dict[str, list[Any]] = {name: [0 * value[n] for n in GATES] for name, value in params.items()}
    dh_next, dc, dx = 0 * saved[0][1], 0 * saved[0][2], []
    for dh, (x_t, h_before, c_before, norms, (i, f, g, o), tanh_c) in zip(reversed(dhs), reversed(saved), strict=True):
        dh = dh + dh_next
        # h(t+1) = o ⊙ tanh(c)
        do = dh * tanh_c  # (M1)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        # c(t+1) = f ⊙ c(t) + i ⊙ g
        di, df, dg = dc * g, dc * c_before, dc * i  # (M2)
        dc = dc * f
        # i, f, o = σ(z);   g = tanh(z)
        dz = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)]  # (M3)
        dh_next, dx_t = 0, 0
        for n in GATES:
            if norms is not None:
                # LN[z_n]
                dz[n], dgain, dbias = layer_norm_backward(dz[n], norms[n], params["gain"][n])  # (M4)
                lists["gain"][n], lists["bias"][n] = lists["gain"][n] + dgain, lists["bias"][n] + dbias
            # z_n = W_n h(t) + C_n x(t) + b_n
            lists["W"][n] = lists["W"][n] + dz[n].T @ h_before  # (F7)
            lists["C"][n] = lists["C"][n] + dz[n].T @ x_t  # (L1)
            lists["b"][n] = lists["b"][n] + dz[n].sum(0)
            dx_t = dx_t + dz[n] @ C[n]
            dh_next = dh_next + dz[n] @ W[n]  # (M4)
        dx.append(dx_t)
    return {name: numpy.stack(value) for name, value in lists.items()} | {"c0": dc}, numpy.stack(dx[::-1]), dh_next
