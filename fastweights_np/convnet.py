"""A convolutional network, the baseline of sections 4.2 and 4.3 of Ba et al. 2016: convolution, max pooling, ReLU.

    y[f, i, j] = relu(b[f] + max over the p x p window at (p i, p j) of z[f])
    z[f, i, j] = Σ_c Σ_k Σ_l w[f, c, k, l] x[c, s i + k, s j + l]

The stride is s, and kernels have size K: k, l = 0 .. K-1. There is no padding. Rows and columns of z that fill no
window are left out. The features are y of the last layer, all positions of one feature side by side. The network is
feedforward: it has init, forward and backward, but no state and no step.

Arrays between the layers have the axes (features, rows, columns, B). A patch of all B images is then a row of long
runs, and gathering patches copies such runs; z is the product of the kernels and the patches. Patches are gathered for
some rows of z at a time, at least one, so that they stay in the cache where possible. The backward pass gathers them
again: keeping them would take up to K² times the memory of x. Numbers such as (N1) are in DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module
from .recurrent import Params, uniform
from .threads import of_each

__all__ = ["Cache", "Convolution", "backward", "feature_count", "forward", "init"]

BLOCK = 2**16  # numbers that are gathered into patches at a time: 256 KiB of float32


@dataclass(frozen=True)
class Convolution:
    """One layer: its number of features, kernel size K, stride s, and p, the side of the pooled windows (1: none)."""

    features: int
    size: int
    stride: int = 1
    pool: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            checks.count(f"layers.{name}", value, least=1)

    def side(self, side: int) -> int:
        """Return how many rows (or columns) y has if x has `side` of them. Raises ValueError if y has none."""
        pooled = ((side - self.size) // self.stride + 1) // self.pool if side >= self.size else 0
        if pooled < 1:
            raise ValueError(
                f"layers: expected kernels and windows within what they look at, got {self} for {side} rows "
                "or columns; take smaller ones, or fewer layers"
            )
        return pooled


class Trace(NamedTuple):
    """The arrays of one layer that backward needs."""

    x: Array  # (C, Y, X, B)
    z_shape: tuple[int, ...]
    winners: Array | None  # for each window, which of its p² places holds the maximum; None without pooling
    y: Array


@dataclass
class Cache:
    """All that `backward` depends on, and nothing else."""

    params: Params
    layers: tuple[Convolution, ...]
    parts: list[list[Trace]]  # for each part of the batch, for each layer
    block: int


def feature_count(layers: Sequence[Convolution], side: int) -> int:
    """Return how many features an image of side x side pixels has after these layers."""
    checks.count("side", side, least=1)
    layers = _checked(layers)
    for layer in layers:
        side = layer.side(side)
    return layers[-1].features * side**2


def init(
    rng: numpy.random.Generator, layers: Sequence[Convolution], channels: int = 1, *, dtype: str = "float32"
) -> Params:  # fmt: skip
    """Return weight0 (features, channels, K, K) uniform in ±√(6/fan), bias0 (features,) zero, and so on for each layer.

    The factor 6 suits ReLU. Source: He et al. 2015, arXiv 1502.01852.
    """
    checks.generator("rng", rng)
    checks.count("channels", channels, least=1)
    checks.choice("dtype", dtype, checks.FLOATS)
    params: Params = {}
    for n, layer in enumerate(_checked(layers)):
        fan = channels * layer.size**2
        weight = 6**0.5 * uniform(rng, layer.features, fan)
        params[f"weight{n}"] = weight.reshape(layer.features, channels, layer.size, layer.size).astype(dtype)
        params[f"bias{n}"] = numpy.zeros(layer.features, dtype)
        channels = layer.features
    return params


def forward(
    params: Params, images: Array, layers: Sequence[Convolution], *, block: int = BLOCK, threads: int = 1
) -> tuple[Array, Cache]:  # fmt: skip
    """Return the features (B, features) of images, and the cache that `backward` needs.

    images are (B, Y, X), grey, or (B, channels, Y, X). block is how many numbers are gathered into patches at a time.
    threads share the images, here and in `backward`; BLAS itself should use one thread. Results agree up to rounding
    error for every block and number of threads. Raises ValueError or TypeError that names the argument at fault.
    """
    checks.count("block", block, least=1)
    checks.count("threads", threads, least=1)
    layers = _checked(layers)
    names = [f"{kind}{n}" for n in range(len(layers)) for kind in ("weight", "bias")]
    checks.instance("params", params, dict, "make it with init()")
    checks.keys("params", params, names)
    xp = array_module(**params, images=images)
    checks.floating(**params, images=images)
    if images.ndim == 3:
        images = images[:, None]
    checks.shape("images", images, ("B", "channels", "Y", "X"), "or (B, Y, X) for grey ones")
    channels, side = images.shape[1], min(images.shape[2:])
    for n, layer in enumerate(layers):
        side = layer.side(side)  # raises if it is too small
        size = (layer.features, channels, layer.size, layer.size)
        checks.shape(f"weight{n}", params[f"weight{n}"], size, "its sizes follow from `layers` and the images")
        checks.shape(f"bias{n}", params[f"bias{n}"], (layer.features,))
        channels = layer.features
    parts = of_each(
        lambda part: _forward(params, part.transpose(1, 2, 3, 0), layers, block),
        xp.array_split(images, min(threads, len(images))),
    )
    features = [xp.ascontiguousarray(traces[-1].y.reshape(-1, traces[-1].y.shape[-1]).T) for traces in parts]
    return xp.concatenate(features), Cache(params, layers, parts, block)


def backward(dfeatures: Array, cache: Cache, *, input_gradient: bool = True) -> tuple[Params, Array | None]:
    """Return (grads, dimages) from dfeatures (B, features). dimages (B, channels, Y, X) is None if not wanted."""
    checks.instance("cache", cache, Cache, "forward returns it: features, cache = forward(...)")
    last = [traces[-1].y for traces in cache.parts]
    xp, counts = array_module(dfeatures=dfeatures, y=last[0]), [y.shape[-1] for y in last]
    checks.floating(y=last[0], dfeatures=dfeatures)
    checks.shape("dfeatures", dfeatures, (sum(counts), last[0][..., 0].size), "it has the shape of the features")
    dparts = xp.split(dfeatures, [sum(counts[:n]) for n in range(1, len(counts))])
    done = of_each(lambda n: _backward(dparts[n], cache.parts[n], cache, input_gradient), range(len(counts)))
    grads = {name: sum(grads[name] for grads, _ in done) for name in cache.params}
    return grads, xp.concatenate([dx.transpose(3, 0, 1, 2) for _, dx in done]) if input_gradient else None


def _checked(layers: Sequence[Convolution]) -> tuple[Convolution, ...]:
    """Return the layers as a tuple. Raise TypeError for other objects, ValueError if there is none."""
    checks.instance("layers", layers, Sequence, "pass a list of Convolution")
    if not layers:
        raise ValueError("layers: expected at least one Convolution, got none")
    for layer in layers:
        checks.instance("layers", layer, Convolution, "pass a list of Convolution")
    return tuple(layers)


def _forward(params: Params, x: Array, layers: Sequence[Convolution], block: int) -> list[Trace]:
    """Return the traces of all layers for images x (channels, Y, X, B)."""
    y = array_module(x=x).ascontiguousarray(x)
    traces = []
    for n, layer in enumerate(layers):
        x = y
        z = convolve(x, params[f"weight{n}"], layer.stride, block)
        y, winners = max_pool(z, layer.pool)
        y += params[f"bias{n}"][:, None, None, None]
        array_module(y=y).maximum(y, 0, out=y)
        traces.append(Trace(x, z.shape, winners, y))
    return traces


def _backward(dfeatures: Array, traces: list[Trace], cache: Cache, input_gradient: bool) -> tuple[Params, Array]:
    """Return (grads, dimages) for a part of the batch; dimages is (channels, Y, X, B)."""
    grads: Params = {}
    y = traces[-1].y
    dy = array_module(y=y).ascontiguousarray(dfeatures.T).reshape(y.shape)
    for n in reversed(range(len(cache.layers))):
        layer, (x, z_shape, winners, y) = cache.layers[n], traces[n]
        # y = relu(pooled + b)                                                                                    (L3)
        dy = dy * ops.Relu(y).slope(y)  # not in place: it may be a view of dfeatures
        grads[f"bias{n}"] = dy.reshape(len(dy), -1).sum(axis=1)
        dz = max_pool_backward(dy, winners, layer.pool, z_shape)
        wanted = n > 0 or input_gradient
        weight = cache.params[f"weight{n}"]
        dy, grads[f"weight{n}"] = convolve_backward(dz, x, weight, layer.stride, cache.block, wanted)
    return grads, dy


# ---------------------------------------------------------------------------------------------------------- convolution


def convolve(x: Array, weight: Array, stride: int, block: int) -> Array:
    """Return z (F, rows, columns, B) from x (C, Y, X, B) and weight (F, C, K, K)."""
    kernels, windows = weight.reshape(len(weight), -1), _windows(x, weight.shape[-1], stride)
    xp, (rows, columns, batch_size) = array_module(x=x), windows.shape[3:]
    z, width = xp.empty((len(weight), rows * columns * batch_size), x.dtype), columns * batch_size
    for chosen, patches in _patches(windows, block):
        xp.matmul(kernels, patches, out=z[:, chosen.start * width : chosen.stop * width])
    return z.reshape(len(weight), rows, columns, batch_size)


def convolve_backward(
    dz: Array, x: Array, weight: Array, stride: int, block: int, input_gradient: bool
) -> tuple[Array | None, Array]:
    """Return (dx, dweight) of `convolve`; dx is None if it is not wanted."""
    xp, size = array_module(x=x), weight.shape[-1]
    kernels, windows = weight.reshape(len(weight), -1), _windows(x, size, stride)
    dkernels = xp.zeros(kernels.shape, x.dtype)
    dx = xp.zeros(x.shape, x.dtype) if input_gradient else None
    columns = windows.shape[4]
    for rows, patches in _patches(windows, block):
        dz_rows = xp.ascontiguousarray(dz[:, rows]).reshape(len(dz), -1)
        # z = kernels patches                                                                                     (N1)
        dkernels += dz_rows @ patches.T
        if dx is not None:
            dpatches = (kernels.T @ dz_rows).reshape(windows[:, :, :, rows].shape)
            # patches[c, k, l, i, j] = x[c, s i + k, s j + l]                                                     (N2)
            for k in range(size):
                for l in range(size):  # noqa: E741
                    dx_window = dx[:, stride * rows.start + k :: stride, l::stride]
                    dx_window[:, : rows.stop - rows.start, :columns] += dpatches[:, k, l]  # the rows of this block
    return dx, dkernels.reshape(weight.shape)


def _windows(x: Array, size: int, stride: int) -> Array:
    """Return the view [c, k, l, i, j] = x[c, s i + k, s j + l], (C, K, K, rows, columns, B)."""
    view = array_module(x=x).lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return view[:, ::stride, ::stride].transpose(0, 4, 5, 1, 2, 3)


def _patches(windows: Array, block: int) -> Iterator[tuple[slice, Array]]:
    """Yield some rows of z at a time: their slice, and their patches (C K K, rows columns B)."""
    *kernel, count, columns, batch_size = windows.shape
    at_once = max(1, block // (columns * batch_size * kernel[0] * kernel[1] * kernel[2]))
    for start in range(0, count, at_once):
        rows = slice(start, min(start + at_once, count))
        yield rows, windows[:, :, :, rows].reshape(kernel[0] * kernel[1] * kernel[2], -1)


# -------------------------------------------------------------------------------------------------------------- pooling


def max_pool(z: Array, pool: int) -> tuple[Array, Array | None]:
    """Return the maximum over windows of pool x pool, (F, rows, columns, B), and its place in its window.

    If several places are equal, the first one counts. Without pooling, the result is z itself and None.
    """
    if pool == 1:
        return z, None
    xp, places = array_module(z=z), _places(z, pool)
    y = places[0].copy()
    winners = xp.zeros(y.shape, "int8" if pool < 12 else "int32")
    for n, place in enumerate(places[1:], 1):
        # a masked copy would take several times as long
        xp.maximum(winners, (place > y) * winners.dtype.type(n), out=winners)
        xp.maximum(y, place, out=y)
    return y, winners


def max_pool_backward(dy: Array, winners: Array | None, pool: int, shape: tuple[int, ...]) -> Array:
    """Return dz, of this shape, from dy."""
    if pool == 1:
        return dy
    dz = array_module(dy=dy).zeros(shape, dy.dtype)
    # y = max over the places of a window                                                                         (N3)
    for n, place in enumerate(_places(dz, pool)):
        place[...] = dy * (winners == n)
    return dz


def _places(z: Array, pool: int) -> list[Array]:
    """Return the views [f, i, j] = z[f, p i + k, p j + l] for each place (k, l) of a window."""
    rows, columns = (size // pool * pool for size in z.shape[1:3])
    return [z[:, k:rows:pool, l:columns:pool] for k in range(pool) for l in range(pool)]  # noqa: E741
