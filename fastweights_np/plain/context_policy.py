"""A policy that acts after its last step, with contexts, and its gradients, as plainly as they can be written.

    state context    h(0) = h0,   A(0) = Σ_r a_r a_rᵀ
    block context    W + U Vᵀ,   b + b',   c + c'
    logits           P h(T) + p

x (T, N, I) holds the sequences of one context. (G3) and (G4) are in DERIVATION.md.
"""

from __future__ import annotations

from typing import Any

import numpy

from . import fast_weights


def forward(
    params: dict[str, Any], x: Any, context: dict[str, Any], decay: float, rate: float, np: Any = numpy
) -> tuple[Any, Any]:  # fmt: skip
    """Return logits (N, actions), and what backward needs, for one context: h0 (H,) and a (R, H), or U, V, b, bias."""
    layer, one = params["layer"], numpy.ones((x.shape[1], 1))
    h0, A0 = 0 * one * layer["b"], 0 * one[:, :, None] * layer["W"]
    if "a" in context:
        h0, A0 = one * context["h0"], one[:, :, None] * np.dot(context["a"].T, context["a"])  # (G3)
    if "U" in context:
        layer = dict(layer)
        layer["W"] = layer["W"] + np.dot(context["U"], context["V"].T)  # (G4)
        layer["b"], layer["bias"] = layer["b"] + context["b"], layer["bias"] + context["bias"]
    h, _, saved = fast_weights.forward(layer, x, h0, A0, decay, rate, np=np)
    readout = params["readout"]
    return np.dot(h[-1], readout["output"].T) + readout["output_bias"], (layer, context, h, saved)


def backward(
    dlogits: Any, saved: Any, params: dict[str, Any], decay: float, rate: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the gradients of the parameters and of the context, from dlogits (N, actions)."""
    layer, context, h, of_layer = saved
    # logits = P h(T) + p
    readout = {"output": dlogits.T @ h[-1], "output_bias": dlogits.sum(0)}  # (L1)
    dh = 0 * h
    dh[-1] = dlogits @ params["readout"]["output"]  # (L1)
    grads, _, dh0 = fast_weights.backward(dh, of_layer, layer, decay, rate)
    dA0, dcontext = grads.pop("A0").sum(0), {}
    if "a" in context:
        # A(0) = Σ_r a_r a_rᵀ,   the same for all sequences
        dcontext = {"h0": dh0.sum(0), "a": context["a"] @ (dA0 + dA0.T)}  # (G3)
    if "U" in context:
        # W + U Vᵀ,   b + b',   c + c'
        dW = grads["W"]
        dcontext = {"U": dW @ context["V"], "V": dW.T @ context["U"], "b": grads["b"], "bias": grads["bias"]}  # (G4)
    return {"layer": {name: grads[name] for name in layer}, "readout": readout}, dcontext
