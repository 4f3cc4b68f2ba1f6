"""The models of synthetic retrieval: a memory by a write rule, softmax attention, or a recurrent layer.

The input of a model is what `pairs.generate` returns: T pairs of a key and a value, then a query. All models encode
them in the same way. The values of a memory are one-hot vectors, and are not learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt, tanh
from typing import Any

import numpy

from fastweights_np import checks, ops
from fastweights_np.backend import Array, array_module, scatter_add, take
from fastweights_np.features import features, features_backward
from fastweights_np.network import LinearReadout, Model
from fastweights_np.parts import Tree
from fastweights_np.workspace import Workspace

from . import reading

GATE_BIAS = log(2**5 - 1)  # a gate begins at 1 - 2^-5, as in fast_weight_programmer.init


class OneHotReadout(LinearReadout):
    """values = output h + bias; the loss compares them with the one-hot vector of the label."""

    def loss(self, values: Array, labels: Array) -> tuple[Array, Array]:
        """Return the mean over n of ½ Σ_i (values[n, i] - onehot[n, i])², 0-d, and dvalues (N, S); labels (N,)."""
        error = values - one_hot(labels, values)
        return 0.5 * (error * error).sum() / len(labels), error / len(labels)


def one_hot(labels: Array, like: Array) -> Array:
    """Return zeros of the shape of `like` (N, S), with 1 at [n, labels[n]]."""
    xp = array_module(labels=labels, like=like)
    found = xp.zeros_like(like)
    found[xp.arange(len(labels)), labels] = 1
    return found


@dataclass(frozen=True)
class PairEncoder:
    """codes = weight [one-hot value; table[key]] + bias of a pair, and weight table[key] + bias of a query.

    keys      S, the number of keys and of values
    size      d, the size of the codes of pairs and queries
    extra     number of further codes of each pair, one number each
    xavier    draw the weights in ±√(6 / (fan in + fan out)), as for softmax attention, not in ±1/√d

    The initial values are the published code's: the table, whose rows have int(2.2 S) numbers, from N(0, 1), and what
    is not mentioned above in ±1/√fan in.
    """

    keys: int
    size: int
    extra: int = 0
    xavier: bool = False

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return table (S, E), pairs: weight (d + extra, S + E), bias (d + extra,), queries: weight (d, E), bias."""
        S, d, E = self.keys, self.size, int(1.1 * 2 * self.keys)

        def uniform(limit: float, *shape: int) -> numpy.ndarray:
            return rng.uniform(-limit, limit, shape).astype(dtype)

        def weight(fan: int) -> numpy.ndarray:
            return uniform(sqrt(6 / (fan + d)) if self.xavier else 1 / sqrt(d), d, fan)

        of_pairs, of_queries = 1 / sqrt(S + E), 1 / sqrt(E)
        rows = [weight(S + E), uniform(of_pairs, self.extra, S + E)]
        return {
            "table": rng.standard_normal((S, E)).astype(dtype),
            "pairs": {"weight": numpy.concatenate(rows), "bias": uniform(of_pairs, d + self.extra)},
            "queries": {"weight": weight(E), "bias": uniform(of_queries, d)},
        }

    def pairs(self, params: Tree, keys: Array, values: Array) -> Array:
        """Return the codes (..., size + extra) of pairs: keys and values (...)."""
        checks.indices("values", values, self.keys)
        weight = params["pairs"]["weight"]
        of_value = weight[:, : self.keys].T
        codes = ops.linear(ops.embedding(params["table"], keys), weight[:, self.keys :], params["pairs"]["bias"])
        codes += take(of_value, values, 0, codes.copy())
        return codes

    def pairs_backward(self, dcodes: Array, params: Tree, keys: Array, values: Array) -> tuple[Array, Tree]:
        """Return the gradients of the table, and of params["pairs"]."""
        xp = array_module(dcodes=dcodes)
        # codes = weight [one-hot value; table[key]] + bias
        of_key = params["pairs"]["weight"][:, self.keys :]
        dtable, dof_key, dbias = ops.linear_backward(dcodes, ops.embedding(params["table"], keys), of_key)
        dof_value = ops.embedding_backward(dcodes, values, self.keys).T
        return dtable, {"weight": xp.concatenate([dof_value, dof_key], axis=1), "bias": dbias}

    def queries(self, params: Tree, keys: Array) -> Array:
        """Return the codes (..., size) of queries: keys (...)."""
        return ops.linear(ops.embedding(params["table"], keys), **params["queries"])

    def queries_backward(self, dcodes: Array, params: Tree, keys: Array) -> tuple[Array, Tree]:
        """Return the gradients of the table, and of params["queries"]."""
        # codes = weight table[key] + bias
        weight = params["queries"]["weight"]
        dtable, dweight, dbias = ops.linear_backward(dcodes, ops.embedding(params["table"], keys), weight)
        return dtable, {"weight": dweight, "bias": dbias}

    def forward(self, params: Tree, inputs: Array) -> tuple[Array, Any]:
        """Return x (T + 1, B, d) for inputs (T + 1, B, 2), the pairs and the query: the input of a recurrent layer."""
        xp = array_module(inputs=inputs)
        keys, values = inputs[..., 0], inputs[:-1, :, 1]
        codes = [self.pairs(params, keys[:-1], values), self.queries(params, keys[-1:])]
        return xp.concatenate(codes), (params, keys, values)

    def backward(self, dx: Array, cache: Any) -> Tree:
        """Return the gradients of the parameters from dx (T + 1, B, d)."""
        params, keys, values = cache
        dtable, dpairs = self.pairs_backward(dx[:-1], params, keys[:-1], values)
        more, dqueries = self.queries_backward(dx[-1:], params, keys[-1:])
        return {"table": dtable + more, "pairs": dpairs, "queries": dqueries}


@dataclass(frozen=True)
class MemoryRetriever(Model):
    """What the query reads of a memory that the pairs wrote, or by softmax attention.

    keys          S, the number of keys and of values
    size          d, the size of keys and queries before the feature map
    rule          a name in RULES
    feature_map   φ, as in fastweights_np/features.py; softmax has none
    decay         λ of the rule sum. The rule decay learns it: λ = sigmoid(params["gate_bias"])
    """

    keys: int
    size: int
    rule: str
    feature_map: str = "elu"
    decay: float = 1.0

    @property
    def encoder(self) -> PairEncoder:
        """Return the encoder of pairs and queries."""
        return PairEncoder(self.keys, self.size, reading.GATES.get(self.rule, 0), xavier=self.rule == "softmax")

    @property
    def readout(self) -> OneHotReadout:  # type: ignore[override]
        """Return the loss. The outputs are what is read: no weights stand between."""
        return OneHotReadout(self.keys)

    @property
    def _features(self) -> tuple[str, str]:
        """Return the feature map, and its normalization."""
        if self.rule == "softmax":
            return "identity", "none"
        return self.feature_map, "sum" if self.rule in reading.GATES else "none"

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host."""
        params: Tree = {"encoder": self.encoder.init(rng, dtype)}
        if self.rule == "gated_delta":
            params["encoder"]["pairs"]["bias"][-1] = GATE_BIAS
        return params | ({"gate_bias": numpy.array(GATE_BIAS, dtype)} if self.rule == "decay" else {})

    @staticmethod
    def learned_decay(params: Tree) -> float:
        """Return the λ that the rule decay has learned, on the host."""
        return 0.5 + 0.5 * tanh(float(params["gate_bias"]) / 2)

    def forward(self, params: Tree, inputs: Array, workspace: Workspace | None = None) -> tuple[Array, Any]:
        """Return the values (B, S) that the queries read, for inputs (T + 1, B, 2), and the cache."""
        y, cache = self.read(params, inputs[:-1], inputs[-1:, :, 0])
        return y[:, 0], cache

    def backward(self, doutputs: Array, cache: Any) -> Tree:
        """Return the gradients from doutputs (B, S)."""
        return self.read_backward(doutputs[:, None], cache)

    def read(self, params: Tree, pairs: Array, queries: Array) -> tuple[Array, Any]:
        """Return the values y (B, N, S) that queries (N, B) read after the pairs (T, B, 2), and the cache."""
        xp = array_module(pairs=pairs, queries=queries)
        keys, values, queries = (xp.ascontiguousarray(each.T) for each in (pairs[..., 0], pairs[..., 1], queries))
        encoder = params["encoder"]
        codes = self.encoder.pairs(encoder, keys, values)
        k, of_k = features(codes[..., : self.size], *self._features)
        q, of_q = features(self.encoder.queries(encoder, queries), *self._features)
        decay = self.learned_decay(params) if self.rule == "decay" else self.decay
        w, read = reading.forward(self.rule, k, q, codes[..., self.size :], decay)
        # y_b = Σ_t w_t onehot(value_t)
        index = (values + self.keys * xp.arange(len(values))[:, None]).reshape(-1)  # of the value of each pair
        y = xp.zeros((len(values) * self.keys, w.shape[1]), w.dtype)
        scatter_add(y, index, w.swapaxes(1, 2).reshape(-1, w.shape[1]))
        y = y.reshape(len(values), self.keys, -1).swapaxes(1, 2)
        return y, (encoder, keys, values, queries, of_k, of_q, decay, index, read)

    def read_backward(self, dy: Array, cache: Any) -> Tree:
        """Return the gradients of the parameters from dy (B, N, S)."""
        encoder, keys, values, queries, of_k, of_q, decay, index, read = cache
        xp = array_module(dy=dy)
        # y_b = Σ_t w_t onehot(value_t)
        dw = dy.swapaxes(1, 2).reshape(-1, dy.shape[1]).take(index, axis=0)
        dk, dq, dlogits, ddecay = reading.backward(dw.reshape(*values.shape, -1).swapaxes(1, 2), read)
        # k and q are φ of the codes
        dcodes = xp.concatenate([features_backward(dk, of_k, *self._features), dlogits], axis=-1)
        dasked = features_backward(dq, of_q, *self._features)
        dtable, dpairs = self.encoder.pairs_backward(dcodes, encoder, keys, values)
        more, dqueries = self.encoder.queries_backward(dasked, encoder, queries)
        grads: Tree = {"encoder": {"table": dtable + more, "pairs": dpairs, "queries": dqueries}}
        # λ = sigmoid(gate_bias)
        return grads | ({"gate_bias": xp.asarray(decay * (1 - decay) * ddecay)} if self.rule == "decay" else {})
