"""The ConvNet and its gradients, as plainly as they can be written: convolution, max over windows, bias, ReLU.

    z[f, i, j] = Σ_c,k,l w[f, c, k, l] x[c, s i + k, s j + l]
    y          = relu(b + max over each window of p x p places of z)

images (B, channels, Y, X); a layer has size K, stride s and pool p. (N1) and on are in DERIVATION.md.
"""

from __future__ import annotations

from typing import Any

import numpy


def places(start: int, count: int, step: int) -> slice:
    """Return `count` places from `start` on, `step` apart."""
    return slice(start, start + step * (count - 1) + 1, step)


def window(array: Any, k: int, l: int, rows: int, columns: int, step: int) -> Any:
    """Return array[..., step i + k, step j + l] for i < rows, j < columns."""
    return array[:, :, places(k, rows, step), places(l, columns, step)]


def forward(params: dict[str, Any], images: Any, layers: Any, np: Any = numpy) -> tuple[Any, Any]:
    """Return features (B, F), and what backward needs."""
    x, saved = images, []
    for n, layer in enumerate(layers):
        w, b, K, s, p = params[f"weight{n}"], params[f"bias{n}"], layer.size, layer.stride, layer.pool
        rows, columns = ((size - K) // s + 1 for size in x.shape[2:])
        z = sum(  # (N1), (N2)
            np.einsum("fc,bcij->bfij", w[:, :, k, l], window(x, k, l, rows, columns, s)) for k, l in numpy.ndindex(K, K)
        )
        seen = np.stack([window(z, k, l, rows // p, columns // p, p) for k, l in numpy.ndindex(p, p)])
        y = np.maximum(np.max(seen, 0) + b[:, None, None], 0)  # (N3), (L3)
        saved.append((x, z, seen, y))
        x = y
    return np.reshape(x, (len(images), -1)), saved


def backward(dfeatures: Any, saved: Any, params: dict[str, Any], layers: Any) -> tuple[dict[str, Any], Any]:
    """Return (grads, dimages) from dfeatures (B, F)."""
    grads = {name: 0 * value for name, value in params.items()}
    dy = dfeatures.reshape(saved[-1][-1].shape)
    for n in reversed(range(len(layers))):
        (x, z, seen, y), w = saved[n], params[f"weight{n}"]
        (rows, columns), (windows_down, windows_across) = z.shape[2:], y.shape[2:]
        K, s, p = layers[n].size, layers[n].stride, layers[n].pool
        # y = relu(m + b)
        dm = dy * (y > 0)  # (L3)
        grads[f"bias{n}"] = dm.sum((0, 2, 3))
        # m = max over windows of z
        dz, winner = 0 * z, seen.argmax(0)
        for index, (k, l) in enumerate(numpy.ndindex(p, p)):
            window(dz, k, l, windows_down, windows_across, p)[...] = dm * (winner == index)  # (N3)
        # z[f, i, j] = Σ_c,k,l w[f, c, k, l] x[c, s i + k, s j + l]
        dx, dw = 0 * x, 0 * w
        for k, l in numpy.ndindex(K, K):
            dw[:, :, k, l] = numpy.einsum("bfij,bcij->fc", dz, window(x, k, l, rows, columns, s))  # (N1)
            window(dx, k, l, rows, columns, s)[...] += numpy.einsum("fc,bfij->bcij", w[:, :, k, l], dz)  # (N2)
        grads[f"weight{n}"], dy = dw, dx
    return grads, dy
