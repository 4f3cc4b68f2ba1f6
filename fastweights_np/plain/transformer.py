"""A transformer language model and its gradient, as plainly as they can be written.

    x = table[tokens]
    x ← x + attention(rms(x)),   x ← x + mlp(rms(x))        in each block; the MLP may be written in place
    logits = head rms(x)

tokens (T, B), x (T, B, d), logits (T, B, V). A block is written in place if it has an entry in `options`: the options
of in_place_ttt.forward. Its source is the token embeddings, or the MLP's input.
"""

from __future__ import annotations

from typing import Any

import numpy

from . import attention, gated_mlp, in_place_ttt, rms_norm
from .ops import embedding, embedding_backward


def forward(
    params: dict[str, Any], tokens: Any, heads: int, window: int | None, options: dict[str, Any],
    from_embeddings: bool = True, np: Any = numpy,
) -> tuple[Any, Any]:  # fmt: skip
    """Return the logits, and what backward needs; options holds those of the blocks that are written, by name."""
    x = source = embedding(params["embedding"]["table"], tokens)  # (L2)
    blocks = []
    for name in (name for name in params if name.startswith("block")):
        block = params[name]
        n, of_norm = rms_norm.forward(block["attention_norm"]["gain"], x, np)
        a, of_attention = attention.forward(block["attention"], n, heads, window, np)
        x = x + a
        n, of_mlp_norm = rms_norm.forward(block["mlp_norm"]["gain"], x, np)
        if name in options:
            given = source if from_embeddings else n
            m, of_mlp = in_place_ttt.forward(block["mlp"], n, given, **options[name], np=np)
        else:
            m, of_mlp = gated_mlp.forward(block["mlp"], n, np)
        x = x + m
        blocks.append((name, of_norm, of_attention, of_mlp_norm, of_mlp))
    n, of_norm = rms_norm.forward(params["norm"]["gain"], x, np)
    head = params["head"]["weight"] if "head" in params else params["embedding"]["table"]
    return np.dot(n, head.T), (tokens, blocks, n, of_norm, head)  # (L1)


def backward(
    dlogits: Any, saved: Any, params: dict[str, Any], options: dict[str, Any], from_embeddings: bool = True
) -> dict[str, Any]:  # fmt: skip
    """Return the gradients, shaped like params."""
    tokens, blocks, n, of_norm, head = saved
    # logits = head rms(x)
    dhead, dn = numpy.einsum("tbv,tbd->vd", dlogits, n), dlogits @ head  # (L1)
    dgain, dx = rms_norm.backward(dn, of_norm, params["norm"]["gain"])
    grads: dict[str, Any] = {"norm": {"gain": dgain}}
    dsource = 0 * dx
    for name, of_norm, of_attention, of_mlp_norm, of_mlp in reversed(blocks):
        block, of_block = params[name], dict[str, Any]()
        # x ← x + mlp(rms(x))
        if name in options:
            of_block["mlp"], dn, ds = in_place_ttt.backward(dx, of_mlp, block["mlp"], **options[name])
            del of_block["mlp"]["rate"]
            dn, dsource = (dn, dsource + ds) if from_embeddings else (dn + ds, dsource)
        else:
            of_block["mlp"], dn = gated_mlp.backward(dx, of_mlp, block["mlp"])
        dgain, dm = rms_norm.backward(dn, of_mlp_norm, block["mlp_norm"]["gain"])
        dx, of_block["mlp_norm"] = dx + dm, {"gain": dgain}
        # x ← x + attention(rms(x))
        of_block["attention"], dn = attention.backward(dx, of_attention, block["attention"])
        dgain, da = rms_norm.backward(dn, of_norm, block["attention_norm"]["gain"])
        dx, of_block["attention_norm"] = dx + da, {"gain": dgain}
        grads[name] = of_block
    # x = table[tokens],   the source of the targets
    dtable = embedding_backward(dx + dsource, tokens, len(head))  # (L2)
    if "head" in params:
        return grads | {"embedding": {"table": dtable}, "head": {"weight": dhead}}
    return grads | {"embedding": {"table": dtable + dhead}}
