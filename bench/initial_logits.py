"""Measure Theorem 1 of In-Place TTT at initialization: python -m bench logits. Nothing is trained.

The theorem: in an induction setting with near-orthogonal embeddings, writing the next token raises the logit of the
right answer, writing the token itself does not, and other logits change little. Its condition is that the MLP's hidden
units z are aligned for the same key, and not for others. It is longrecall's network, with the table as head, as
in the theorem; its queries are asked, and the logits are compared with those for η = 0.
"""

from __future__ import annotations

from typing import Any

import numpy

from fastweights_np.transformer import Transformer
from tasks.language import reading
from tasks.language.settings import BLOCKS, FACTOR, HEADS, TARGETS, without_writes
from tasks.recall import long_range
from tasks.recall.long_range import FILLERS, VOCABULARY, Format

from .report import markdown, store

RATE, SIZE, SEQUENCES, INITS = 0.1, 64, 50, 5
FORMAT = Format("plain", 8, 40)


def run() -> None:
    """Measure both targets with and without gating. Store initial-logits.json and initial-logits.md."""
    rows = [measured(target, gated) for target in ("next_token", "reconstruction") for gated in (True, False)]
    names = {"next_token": "next token", "reconstruction": "reconstruction"}
    lines = [
        [
            names[row["target"]], "yes" if row["gated"] else "no", f"{row['right']:+.2f}", f"{row['others']:+.2f}",
            f"{100 * row['accuracy']:.1f} %", *(f"{row[name]:.3f}" for name in ("same", "other_keys", "fillers")),
        ]
        for row in rows
    ]  # fmt: skip
    header = [
        "target", "gated MLP", "change of the right logit", "mean change of the other logits", "accuracy, untrained",
        "cos z, same key", "cos z, other keys", "cos z, fillers",
    ]  # fmt: skip
    settings = {"rate": RATE, "size": SIZE, "sequences": SEQUENCES, "initializations": INITS}
    store("initial-logits", settings | {"rows": rows}, markdown(header, lines), "fast_weights")


def measured(target: str, gated: bool) -> dict[str, Any]:
    """Return the means over initializations and queries: changes of logits, accuracy, and cosines of z."""
    learned, taps = TARGETS[target]
    net = Transformer(
        VOCABULARY, SIZE, BLOCKS, HEADS, FACTOR * SIZE, gated=gated, tied=True, written=(BLOCKS,),
        init_options=learned, options={"rate": RATE, "taps": taps},
    )  # fmt: skip
    found: dict[str, list[float]] = {
        name: [] for name in ("right", "others", "accuracy", "same", "other_keys", "fillers")
    }
    for seed in range(INITS):
        rng = numpy.random.default_rng(seed)
        params = net.init(rng)
        data = long_range.generate(rng, SEQUENCES, FORMAT)
        uncut = ~data.is_cut(16).ravel()
        inputs, labels = data.batch(slice(None))
        logits, cache = net.forward(params, inputs)
        change = logits - without_writes(net).forward(params, inputs)[0]
        right = change[numpy.arange(len(labels)), labels]
        found["right"].append(float(right[uncut].mean()))
        found["others"].append(float(((change.sum(axis=1) - right) / (VOCABULARY - 1))[uncut].mean()))
        found["accuracy"].append(float((logits.argmax(axis=1) == labels).mean()))
        for name, value in cosines(reading.memory(cache)[0], data).items():
            found[name].append(value)
    return {"target": target, "gated": gated} | {name: float(numpy.mean(each)) for name, each in found.items()}


def cosines(z: numpy.ndarray, data: long_range.LongRecalls) -> dict[str, float]:
    """Return the mean cosine of z (B, T, F) at queries and at their stored keys, at other stored keys, at fillers."""
    unit = z / numpy.linalg.norm(z, axis=-1, keepdims=True)
    rows = numpy.arange(len(z))[:, None]
    products = unit[rows, data.steps] @ unit[rows, data.keys].swapaxes(1, 2)  # (B, K, K)
    same = numpy.eye(products.shape[1], dtype=bool)
    fillers = data.tokens.T[:, : sum(FORMAT.stored)] < FILLERS
    of_fillers = unit[rows, data.steps] @ unit[:, : sum(FORMAT.stored)].swapaxes(1, 2)
    weights = numpy.broadcast_to(fillers[:, None], of_fillers.shape)
    return {
        "same": float(products[:, same].mean()), "other_keys": float(products[:, ~same].mean()),
        "fillers": float(of_fillers[weights].mean()),
    }  # fmt: skip
