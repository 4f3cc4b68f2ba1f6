"""Measure what eight write rules hold and forget, without training: python -m bench rules.

Keys and values are random directions. After all pairs have been written, each key is a query. The answer is the stored
value with the largest product with what is read. Gates are set by hand: γ = 0 where a new document begins, else 1. A
fixed decay is 0.95. The delta rules have β = 1, and delta also β = 0.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from fastweights_np import key_value_memory
from fastweights_np.features import features

from .report import markdown, store

LAYER = "fast_weight_programmer"
SIZE, SEQUENCES = 64, 50  # of keys and values; sequences, all from one seed
DECAY = 0.95
PAIRS = (16, 32, 64, 128)
FEW, AGED, EARLIER = 16, 128, 256  # pairs: bound anew, or after a border; in the table of ages; before the border
SHUT = -50.0  # log γ where a document begins


class Rule(NamedTuple):
    """A write rule of the memory, and how its keys are made."""

    name: str
    decay: float = 1.0
    gated: bool = False
    delta: bool = False
    beta: float = 1.0
    kind: str = "plain"  # or "state" (h hᵀ), "elu" (elu + 1; to divide by z·q > 0 changes no answer), "softmax"


RULES = (
    Rule("fast weights, h hᵀ with decay", decay=DECAY, kind="state"),
    Rule("sum"),
    Rule("sum, elu + 1", kind="elu"),
    Rule("fixed decay", decay=DECAY),
    Rule("gated", gated=True),
    Rule("delta", delta=True),
    Rule("delta, β = 0.1", delta=True, beta=0.1),
    Rule("gated delta", gated=True, delta=True),
    Rule("softmax attention", kind="softmax"),
)


def run() -> None:
    """Measure every rule. Store rules.json and rules.md."""
    rows = [measured(rule) for rule in RULES]
    store("rules", rows, table(rows), LAYER, sequences=SEQUENCES, size=SIZE)


def measured(rule: Rule) -> dict[str, Any]:
    """Return the wrong answers in %: for numbers of pairs, by age, for keys bound anew, and after another document."""
    row: dict[str, Any] = {"rule": rule.name}
    for pairs in PAIRS:
        keys, values = directions(rule, pairs)
        row[f"{pairs} pairs"] = 100 * wrong(rule, keys, values).mean()
    keys, values = directions(rule, AGED)
    by_age = 100 * wrong(rule, keys, values).mean(axis=1)
    row |= {"newest": by_age[-FEW:].mean(), "oldest": by_age[:FEW].mean()}
    keys, values = directions(rule, 2 * FEW)
    keys[FEW:] = keys[:FEW]  # each key once more, with another value
    row["rebound"] = 100 * wrong(rule, keys, values)[FEW:].mean()
    keys, values = directions(rule, EARLIER + FEW)
    row["document"] = 100 * wrong(rule, keys, values, border=EARLIER)[EARLIER:].mean()
    return {name: value if isinstance(value, str) else round(float(value), 2) for name, value in row.items()}


def directions(rule: Rule, pairs: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return keys and values (T, B, 1, d) of length 1, the same for every rule; d is half for h = [k, v]."""
    size = SIZE // 2 if rule.kind == "state" else SIZE
    both = numpy.random.default_rng(0).standard_normal((2, pairs, SEQUENCES, 1, size))
    keys, values = both / numpy.linalg.norm(both, axis=-1, keepdims=True)
    return keys, values


def wrong(rule: Rule, keys: numpy.ndarray, values: numpy.ndarray, border: int | None = None) -> numpy.ndarray:
    """Return whether the answer to each key is another value than its own (T, B). border: where a document begins."""
    found = read(rule, keys, values, border)
    products = numpy.einsum("tbnd,sbnd->tbs", found, values)
    return products.argmax(axis=-1) != numpy.arange(len(keys))[:, None]


def read(rule: Rule, keys: numpy.ndarray, values: numpy.ndarray, border: int | None) -> numpy.ndarray:
    """Return what each key reads after all pairs have been written (T, B, 1, d)."""
    if rule.kind == "softmax":
        scores = numpy.exp(SIZE**0.5 * numpy.einsum("tbnd,sbnd->tbs", keys, keys))
        return numpy.einsum("tbs,sbnd->tbnd", scores / scores.sum(axis=-1, keepdims=True), values)
    queries = keys
    if rule.kind == "state":
        keys, queries = (numpy.concatenate([keys, each], axis=-1) for each in (values, 0 * values))
        values = keys
    elif rule.kind == "elu":
        keys, queries = (features(SIZE**0.5 * each, "elu", "none")[0] for each in (keys, queries))
    log_decay = numpy.full(keys.shape[:3], numpy.log(rule.decay))
    if rule.gated and border is not None:
        log_decay[border] = SHUT
    beta = numpy.full(keys.shape[:3], rule.beta)
    _, cache = key_value_memory.forward(queries, keys, values, None, beta, log_decay, delta=rule.delta)
    found = numpy.einsum("bnvk,tbnk->tbnv", key_value_memory.final_state(cache), queries)
    return found[..., SIZE // 2 :] if rule.kind == "state" else found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the wrong answers of every rule."""
    header = ["wrong answers", *(f"{pairs} pairs" for pairs in PAIRS), f"newest {FEW} of {AGED}"]
    header += [f"oldest {FEW} of {AGED}", f"{FEW} keys bound anew", f"{FEW} pairs after {EARLIER} of another document"]
    names = [name for name in rows[0] if name != "rule"]
    return markdown(header, [[row["rule"], *(f"{row[name]:.1f} %" for name in names)] for row in rows])
