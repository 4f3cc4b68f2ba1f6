"""The network of multi-query associative recall: blocks that mix the steps of a sequence, without an MLP.

    x = table[tokens] (+ positions),    x ← x + output mixer(LN(x)) in each block,    logits = table LN(x)

The mixer is a fast weight programmer or causal softmax attention, of one head. A short convolution over the last steps
may stand before it. The embeddings x have dropout in training. Logits are computed at the queries alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy

from fastweights_np import fast_weight_programmer, ops
from fastweights_np.backend import Array, array_module, scatter_add
from fastweights_np.network import Classifier, Model
from fastweights_np.parts import Tree
from fastweights_np.workspace import Workspace

from . import attention

SCALE = 0.02  # of the normal distribution that tables and output weights are drawn from, as in Zoology


@dataclass(frozen=True)
class MixingNetwork(Model):
    """logits (n, V) of the n queries of a batch, whose inputs are (tokens (T, B), steps (n,), columns (n,), seeds).

    vocabulary   V
    size         of x, and of keys, queries and values
    mixer        a name in fast_weight_programmer.RULES, or "softmax"
    options      options of fast_weight_programmer.forward
    convolution  number of steps of the short convolution, the current one included; 0 for none
    positions    number of learned positions that are added to the embeddings; 0 for none
    dropout      fraction of the embeddings' numbers that are set to 0 if there are seeds, one for each sequence
    """

    vocabulary: int
    size: int
    mixer: str
    options: dict[str, Any] = field(default_factory=dict)
    blocks: int = 2
    convolution: int = 0
    positions: int = 0
    dropout: float = 0.0

    @property
    def readout(self) -> Classifier:  # type: ignore[override]
        """Return the loss, the mean negative log likelihood over the queries."""
        return Classifier(self.vocabulary)

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host."""
        size = self.size

        def normal(*shape: int, scale: float = SCALE) -> numpy.ndarray:
            return (scale * rng.standard_normal(shape)).astype(dtype)

        def norm() -> Tree:
            return {"gain": numpy.ones(size, dtype), "bias": numpy.zeros(size, dtype)}

        params: Tree = {"tokens": {"table": normal(self.vocabulary, size)}}
        if self.positions:
            params["positions"] = {"table": normal(self.positions, size)}
        for name in self._names:
            output = normal(size, size, scale=SCALE / sqrt(2 * self.blocks))
            params[name] = {"norm": norm(), "output": {"weight": output}}
            if self.mixer == "softmax":
                params[name]["mixer"] = {"weight": normal(3 * size, size), "bias": numpy.zeros(3 * size, dtype)}
            else:
                params[name]["mixer"] = fast_weight_programmer.init(rng, size, size, size, rule=self.mixer, dtype=dtype)
            if self.convolution:
                limit = 1 / sqrt(self.convolution)
                kernel = rng.uniform(-limit, limit, (self.convolution, size)).astype(dtype)
                params[name]["convolution"] = {"weight": kernel}
        return params | {"norm": norm()}

    @property
    def _names(self) -> list[str]:
        return [f"block{n}" for n in range(1, self.blocks + 1)]

    def forward(self, params: Tree, inputs: Any, workspace: Workspace | None = None) -> tuple[Array, Any]:
        """Return the logits, and the cache."""
        tokens, steps, columns, seeds = inputs
        xp, table = array_module(tokens=tokens), params["tokens"]["table"]
        x = table[tokens]
        if self.positions:
            x += params["positions"]["table"][: len(x), None]
        kept = None
        if self.dropout and seeds is not None:
            kept = xp.asarray(self._kept(seeds, len(x)), x.dtype)
            x *= kept
        caches = []
        for name in self._names:
            y, cache = self._mixed(params[name], x)
            x = x + y
            caches.append(cache)
        read = _Norm(params["norm"], x[steps, columns])
        # logits = table LN(x) at the queries
        return read.y @ table.T, (params, tokens, steps, columns, kept, x.shape, caches, read)

    def _kept(self, seeds: Any, length: int) -> numpy.ndarray:
        """Return the embeddings' factors (T, B, size), 0 or 1 / (1 - dropout), which do not depend on the batch."""
        shape = (length, self.size)
        draws = [numpy.random.default_rng(seed).random(shape, "float32") for seed in seeds]
        return (numpy.stack(draws, axis=1) >= self.dropout) / (1 - self.dropout)

    def backward(self, doutputs: Array, cache: Any) -> Tree:
        """Return the gradients from dlogits (n, V)."""
        params, tokens, steps, columns, kept, shape, caches, read = cache
        xp, table = array_module(dlogits=doutputs), params["tokens"]["table"]
        # logits = table LN(x) at the queries
        dtable = doutputs.T @ read.y
        dread, dnorm = read.backward(doutputs @ table)
        dx = xp.zeros((shape[0] * shape[1], shape[2]), table.dtype)  # (T B, size)
        scatter_add(dx, steps * shape[1] + columns, dread)
        dx = dx.reshape(shape)
        grads: Tree = {"norm": dnorm}
        for name, of_block in zip(reversed(self._names), reversed(caches), strict=True):
            # x ← x + y
            dmixed, grads[name] = self._mixed_backward(dx, params[name], of_block)
            dx = dx + dmixed
        # x = (table[tokens] + positions) ⊙ kept
        if kept is not None:
            dx *= kept
        if self.positions:
            dpositions = xp.zeros_like(params["positions"]["table"])
            dpositions[: len(dx)] = dx.sum(1)
            grads["positions"] = {"table": dpositions}
        return grads | {"tokens": {"table": dtable + ops.embedding_backward(dx, tokens, self.vocabulary)}}

    def _mixed(self, params: Tree, x: Array) -> tuple[Array, Any]:
        """Return output mixer(convolution(LN(x))), and the cache."""
        norm = _Norm(params["norm"], x)
        u = convolved(norm.y, params["convolution"]["weight"]) if self.convolution else norm.y
        if self.mixer == "softmax":
            m, cache = attended(params["mixer"], u)
        else:
            m, cache = fast_weight_programmer.forward(params["mixer"], u, **self.options)
        return ops.linear(m, params["output"]["weight"]), (norm, m, cache)

    def _mixed_backward(self, dy: Array, params: Tree, cache: Any) -> tuple[Array, Tree]:
        """Return dx and the gradients of the block's parameters."""
        norm, m, of_mixer = cache
        # y = output mixer(u)
        dm, doutput, _ = ops.linear_backward(dy, m, params["output"]["weight"])
        grads: Tree = {"output": {"weight": doutput}}
        if self.mixer == "softmax":
            grads["mixer"], du = attended_backward(dm, of_mixer)
        else:
            grads["mixer"], du, _ = fast_weight_programmer.backward(dm, of_mixer)
        # u = convolution(LN(x))
        if self.convolution:
            du, dkernel = convolved_backward(du, norm.y, params["convolution"]["weight"])
            grads["convolution"] = {"weight": dkernel}
        dx, grads["norm"] = norm.backward(du)
        return dx, grads


class _Norm:
    """y = LN(x) of the last axis of x, by an ops.LayerNorm of its own."""

    def __init__(self, params: Tree, x: Array) -> None:
        rows = x.reshape(-1, x.shape[-1])
        self._norm, self._shape = ops.LayerNorm(rows), x.shape
        self._norm.load(params["gain"], params["bias"])
        y, self._normalized, self._inverse_std = self._norm.forward(rows)
        self.y = y.reshape(x.shape)

    def backward(self, dy: Array) -> tuple[Array, Tree]:
        """Return dx, and the gradients of gain and bias. It overwrites y."""
        xp, norm = array_module(dy=dy), self._norm
        norm.dy[...] = dy.reshape(norm.dy.shape)
        dnorm, dx = xp.zeros((2, 1, dy.shape[-1]), dy.dtype), xp.empty_like(norm.dy)
        norm.backward(self._normalized, self._inverse_std, dnorm, dx)
        return dx.reshape(self._shape), {"gain": dnorm[0, 0], "bias": dnorm[1, 0]}


def convolved(u: Array, weight: Array) -> Array:
    """Return y[t] = Σ_j weight[j] ⊙ u[t - j], for u (T, B, I) and weight (J, I)."""
    y = weight[0] * u
    for j in range(1, min(len(weight), len(u))):
        y[j:] += weight[j] * u[:-j]
    return y


def convolved_backward(dy: Array, u: Array, weight: Array) -> tuple[Array, Array]:
    """Return du and dweight."""
    du, dweight = weight[0] * dy, 0 * weight
    # y[t] = Σ_j weight[j] ⊙ u[t - j]
    dweight[0] = (dy * u).sum((0, 1))
    for j in range(1, min(len(weight), len(u))):
        du[:-j] += weight[j] * dy[j:]
        dweight[j] = (dy[j:] * u[:-j]).sum((0, 1))
    return du, dweight


def attended(params: Tree, u: Array) -> tuple[Array, Any]:
    """Return y (T, B, I), softmax attention to the steps up to t, for u (T, B, I), and the cache."""
    xp = array_module(u=u)
    q, k, v = xp.split(ops.linear(u, **params).swapaxes(0, 1), 3, axis=-1)  # (B, T, I) each
    w, cache = attention.weights(k, q, causal=True)
    return xp.ascontiguousarray((w @ v).swapaxes(0, 1)), (params, u, v, w, cache)


def attended_backward(dy: Array, cache: Any) -> tuple[Tree, Array]:
    """Return the gradients of the parameters, and du."""
    params, u, v, w, of_weights = cache
    xp, dy = array_module(dy=dy), dy.swapaxes(0, 1)
    # y = w v
    dk, dq = attention.weights_backward(dy @ v.swapaxes(1, 2), of_weights)
    dv = w.swapaxes(1, 2) @ dy
    # q, k, v = weight u + bias
    dz = xp.ascontiguousarray(xp.concatenate([dq, dk, dv], axis=-1).swapaxes(0, 1))
    du, dweight, dbias = ops.linear_backward(dz, u, params["weight"])
    return {"weight": dweight, "bias": dbias}, du
