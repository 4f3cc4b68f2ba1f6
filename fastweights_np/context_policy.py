"""A recurrent policy with fast weights, and contexts that adapt it to a task while its weights stay as they are.

    state context    h(0) = h0,   A(0) = Σ_r a_r a_rᵀ                     what R past states could have written
    block context    W + U Vᵀ,   b + b',   c + c' for W, b and the layer norm's bias c: parameters of the task's own
    policy           π = softmax(P h(T) + p)

A policy reads a sequence x(0) .. x(T-1), and acts once, after the last step. K contexts are tried on N sequences in one
call: the batch holds the N sequences with the first context, then the N with the second one, and so on. The gradients
of contexts and parameters are exact. Numbers such as (G3) are in DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from . import checks, fast_weights, ops
from .backend import Array, array_module
from .network import check_options
from .recurrent import check_init, uniform
from .workspace import Workspace

__all__ = ["ContextPolicy"]

Tree = dict[str, Any]

STATE, BLOCK = ("h0", "a"), ("U", "V", "b", "bias")  # the arrays of contexts


@dataclass(frozen=True)
class ContextPolicy:
    """A policy of `inputs` numbers at each step, with `actions` logits; `options` are passed to fast_weights.forward.

    The contexts are None, or one of

        state   h0 (K, H), a (K, R, H)
        block   U and V (K, H, R), b and bias (K, H); bias is added to the layer norm's
    """

    inputs: int
    actions: int
    hidden_size: int = 64
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "actions", "hidden_size"):
            checks.count(name, getattr(self, name), least=1)
        check_options("fast_weights", {}, self.options)

    def init(self, rng: numpy.random.Generator, dtype: str = "float32", recurrent_scale: float = 0.05) -> Tree:
        """Return new parameters, on the host."""
        check_init(rng, self.inputs, self.hidden_size, dtype)
        layer = fast_weights.init(
            rng, self.inputs, self.hidden_size, recurrent_scale=recurrent_scale, dtype=dtype
        )  # fmt: skip
        output = uniform(rng, self.actions, self.hidden_size).astype(dtype)
        return {"layer": layer, "readout": {"output": output, "output_bias": numpy.zeros(self.actions, dtype)}}

    def forward(
        self, params: Tree, x: Array, contexts: Mapping[str, Array] | None = None,
        workspace: Workspace | None = None,
    ) -> tuple[Array, Any]:  # fmt: skip
        """Return logits (B, actions) and the cache, from x (T, B, inputs); B is K N for K contexts.

        The workspace is not used for blocks, whose K passes would share it. Raises ValueError or TypeError for contexts
        that do not fit.
        """
        checks.keys("params", params, ("layer", "readout"))
        contexts = dict(contexts or {})
        if not contexts:
            h, layer_cache = fast_weights.forward(params["layer"], x, workspace=workspace, **self.options)
            last, layer_caches = h[-1], [layer_cache]
        elif set(contexts) == set(STATE):
            last, layer_caches = self._from_states(params["layer"], x, contexts, workspace)
        else:
            names = BLOCK if set(contexts) & set(BLOCK) else STATE
            checks.keys("contexts", contexts, names, remedy="a state has h0 and a, a block U, V, b and bias")
            last, layer_caches = self._with_blocks(params["layer"], x, contexts)
        logits = ops.linear(last, params["readout"]["output"], params["readout"]["output_bias"])
        return logits, (params, contexts, last, layer_caches)

    def _from_states(self, layer: Tree, x: Array, contexts: Tree, workspace: Workspace | None) -> Any:
        xp, (h0, a) = array_module(**contexts), (contexts[name] for name in STATE)
        checks.shape("h0", h0, ("K", self.hidden_size), "one for each context")
        checks.shape("a", a, (len(h0), "R", self.hidden_size), "R vectors for each context")
        count = self._sequences_of_each(x, len(h0))
        A0 = a.swapaxes(1, 2) @ a  # A(0) = Σ_r a_r a_rᵀ                                                            (G3)
        h, cache = fast_weights.forward(
            layer, x, xp.repeat(h0, count, axis=0), A0=xp.repeat(A0, count, axis=0), workspace=workspace,
            **self.options,
        )  # fmt: skip
        return h[-1], [cache]

    def _with_blocks(self, layer: Tree, x: Array, contexts: Tree) -> Any:
        xp, K, H = array_module(**contexts), len(contexts["b"]), self.hidden_size
        if "bias" not in layer:
            raise ValueError(
                "contexts: expected a layer with layer norm for blocks, got one without; use state contexts"
            )
        for name in ("b", "bias"):
            checks.shape(name, contexts[name], (K, H), "one for each context")
        checks.shape("U", contexts["U"], (K, H, "R"), "R columns for each context")
        checks.shape("V", contexts["V"], contexts["U"].shape, "it has the shape of U")
        checks.floating(W=layer["W"], **contexts)
        count, last, caches = self._sequences_of_each(x, K), [], []
        for k in range(K):
            U, V, b, bias = (contexts[name][k] for name in BLOCK)
            own = layer | {"W": layer["W"] + U @ V.T, "b": layer["b"] + b, "bias": layer["bias"] + bias}  # (G4)
            h, cache = fast_weights.forward(own, x[:, k * count : (k + 1) * count], **self.options)
            last.append(h[-1])
            caches.append(cache)
        return xp.concatenate(last), caches

    def _sequences_of_each(self, x: Array, contexts: int) -> int:
        if x.shape[1] % contexts:
            raise ValueError(f"x: expected as many sequences for each of {contexts} contexts, got {x.shape[1]} in all")
        return int(x.shape[1]) // contexts

    def backward(self, dlogits: Array, cache: Any, of_contexts: bool = True) -> tuple[Tree, Tree]:
        """Return (gradients of the parameters, gradients of the contexts) from dlogits (B, actions).

        of_contexts: False leaves the contexts' gradients out.
        """
        params, contexts, last, layer_caches = cache
        # logits = output h(T) + output_bias                                                                        (L1)
        dh, doutput, dbias = ops.linear_backward(dlogits, last, params["readout"]["output"])
        readout = {"output": doutput, "output_bias": dbias}
        of_states, of_blocks = set(contexts) == set(STATE), set(contexts) == set(BLOCK)
        if of_blocks:
            layer, dcontexts = self._blocks_backward(dh, layer_caches, contexts)
        else:
            extra = ("A0",) if of_states and of_contexts else ()
            layer, _, dh0 = fast_weights.backward(dh, layer_caches[0], extra)
            dcontexts = self._states_backward(layer.pop("A0"), dh0, contexts) if extra else {}
        return {"layer": layer, "readout": readout}, dcontexts if of_contexts else {}

    def _states_backward(self, dA0: Array, dh0: Array, contexts: Tree) -> Tree:
        """Return dh0 (K, H) and da (K, R, H), each the sum over a context's sequences."""
        K, a = len(contexts["h0"]), contexts["a"]
        dA0 = dA0.reshape(K, -1, *dA0.shape[1:]).sum(axis=1)
        # A(0) = Σ_r a_r a_rᵀ                                                                                       (G3)
        da = a @ (dA0 + dA0.swapaxes(1, 2))
        return {"h0": dh0.reshape(K, -1, dh0.shape[-1]).sum(axis=1), "a": da}

    def _blocks_backward(self, dh: Array, caches: list[Any], contexts: Tree) -> tuple[Tree, Tree]:
        """Return (gradients of the layer's parameters, summed over the contexts; gradients of the blocks)."""
        xp, count = array_module(dh=dh), len(dh) // len(caches)
        own = [
            fast_weights.backward(dh[k * count : (k + 1) * count], cache)[0] for k, cache in enumerate(caches)
        ]  # fmt: skip
        layer = {name: sum(grads[name] for grads in own) for name in own[0]}
        dW, db, dbias = (xp.stack([grads[name] for grads in own]) for name in ("W", "b", "bias"))
        # W + U Vᵀ,   b + b',   c + c'                                                                              (G4)
        return layer, {"U": dW @ contexts["V"], "V": dW.swapaxes(1, 2) @ contexts["U"], "b": db, "bias": dbias}
