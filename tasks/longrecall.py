"""Recall over a long range: the value of a key that stands farther back than two layers of sliding windows reach.

    stored part: . k v . . k v    gap: . . . . . . .    queries: . k ? . . k ?

Two layers with windows of 16 steps see 30 steps back. A query's key is at least 42 steps back. Only the fast weights,
or attention to all steps, can answer. tasks/recall/long_range.py has the variants. The method is In-Place Test-Time
Training (arXiv 2604.06169), and the task is ours. The loss is that of the queries alone.

An epoch is 25 updates on new sequences, and an evaluation. Every run is also tested with η = 0, which reads no fast
weights. It also reports the accuracy of pairs that the end of a chunk cuts: their target does not contain the value, so
that an accuracy of 1 - cut (1 - 1/32) is the most that a target without the next chunk allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy

from fastweights_np import checks, distributed, ops
from fastweights_np.backend import to_host
from fastweights_np.transformer import Transformer

from .language import reading
from .language.settings import TransformerSettings, without_writes
from .recall import long_range
from .recall.long_range import FILLERS, KEYS, VALUES, VOCABULARY, Format, LongRecalls
from .running import runs, training
from .running.drawn import Drawn

UPDATES = 25  # of an epoch
AT_ONCE = 64  # sequences that are evaluated at once
LEVELS = (10, 50, 90)  # percent
BIN = 16  # steps: the width of the bins of distances


@dataclass(frozen=True)
class Settings(TransformerSettings):
    """Train a two-layer transformer to recall values from beyond its windows, by In-Place Test-Time Training.

    An epoch is 25 updates and an evaluation. The test is repeated without fast weights.
    """

    task: ClassVar[str] = "longrecall"

    variant: Literal["plain", "delay", "bigram", "rebind"] = "plain"
    """delay: a filler stands between the stored key and its value. bigram: a key is two tokens. rebind: each key is
    stored twice, and the later value counts."""
    pairs: int = 8
    """K, the number of key-value pairs in a sequence. Each key is queried once."""
    gap: int = 40
    """Number of fillers between the stored pairs and the queries. With a small one, windows may reach the pairs."""
    validation_size: int = 128
    """Number of validation sequences, which select the best epoch."""
    test_size: int = 1000
    """Number of test sequences. The best parameters are tested once, with and without fast weights."""
    epochs: int = 6
    """Number of evaluations, one after each 25 updates."""
    batch_size: int = 32
    """Sequences in each update."""
    schedule: Literal["linear", "constant", "cosine"] = "constant"
    """Learning-rate schedule. linear, cosine: constant for the fraction --hold of the updates, then decay to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pairs", "validation_size", "test_size"):
            checks.count(name, getattr(self, name), least=1)
        checks.count("gap", self.gap, least=0)
        if self.pairs > KEYS:
            raise ValueError(f"pairs: expected at most {KEYS}, the number of keys, got {self.pairs}")
        if self.variant == "bigram" and (self.pairs % 2 or self.pairs < 4):
            raise ValueError(f"pairs: expected an even number of at least 4 for bigram, got {self.pairs}")

    @property
    def format(self) -> Format:
        """Return the format of the sequences."""
        return Format(self.variant, self.pairs, self.gap)


def load(settings: Settings) -> tuple[Drawn, LongRecalls, LongRecalls]:
    """Return training, validation and test data, each from its own generator."""

    def draw(rng: numpy.random.Generator, count: int = UPDATES * settings.batch_size) -> LongRecalls:
        return long_range.generate(rng, count, settings.format)._replace(device=settings.device)

    # the first two streams draw the weights and the order
    training_rng, *held_out = settings.streams(5)[2:]
    sizes = settings.validation_size, settings.test_size
    validation, test = (draw(rng, size) for rng, size in zip(held_out, sizes, strict=True))
    return Drawn(draw(training_rng), draw), validation, test


def run(settings: Settings, folder: Path, data: tuple[Drawn, LongRecalls, LongRecalls]) -> dict[str, Any]:
    """Train, test the best parameters with and without fast weights, store the result and draw the pictures."""
    net, (_, validation, test) = settings.network(VOCABULARY), data

    def measure(params: Any, epoch: int) -> dict[str, float]:
        measured = training.evaluate(net, params, validation, at_once=AT_ONCE)
        return dict(zip(settings.metrics, measured, strict=True))

    outcome = training.train(net, settings, folder, data, measure=measure)
    nll, right = answered(net, outcome.params, test)
    result: dict[str, Any] = {
        "test_error": 1 - float(right.mean()),
        "test_nll": nll,
        "updates_to": updates_to(outcome.curve),
        "by_distance": by_distance(test, right),
        **outcome.as_result(),
    }
    without = None
    if settings.writes:
        _, without = answered(without_writes(net), outcome.params, test)
        result |= written(settings, test, right) | {"test_error_without_writes": 1 - float(without.mean())}
    if distributed.ranks().rank:
        return result
    runs.store_result(folder, settings, result)
    _report(settings, result)

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    figures.learning_curve(folder / "learning_curve.png", settings, outcome.curve, floor_error=1 - 1 / VALUES)
    figures.accuracy_by_distance(
        folder / "distance.png", settings, result["by_distance"],
        None if without is None else by_distance(test, without), 1 / VALUES, BIN,
    )  # fmt: skip
    if settings.writes:
        (tokens, *_), _ = test.batch(slice(0, 1))
        figures.writes(
            folder / "writes.png", settings, reading.contributions(net, outcome.params, tokens)[0][test.steps[0]],
            [spelled(token) for token in test.tokens[:, 0]], test.steps[0].tolist(), settings.chunk,
        )  # fmt: skip
    return result


def answered(net: Transformer, params: Any, data: LongRecalls) -> tuple[float, numpy.ndarray]:
    """Return the mean negative log likelihood in nats, and whether each query is answered right (N, K)."""
    nll, right = 0.0, list[numpy.ndarray]()
    for start in range(0, len(data.labels), AT_ONCE):
        inputs, labels = data.batch(slice(start, start + AT_ONCE))
        logits, _ = net.forward(params, inputs)
        nll += float(ops.softmax_cross_entropy(logits, labels)[0].sum(dtype="float64"))
        right.append(to_host(logits.argmax(axis=1) == labels))
    return nll / data.labels.size, numpy.concatenate(right).reshape(data.labels.shape)


def updates_to(curve: Sequence[Mapping[str, float]]) -> dict[str, int | None]:
    """Return the first evaluated update at which the validation accuracy is above each level; None for never."""
    return {
        str(level): next((int(line["update"]) for line in curve if 1 - line["validation_error"] > level / 100), None)
        for level in LEVELS
    }


def by_distance(data: LongRecalls, right: numpy.ndarray) -> dict[str, list[float]]:
    """Return the accuracy by the distance from a query to its stored key, in bins from BIN n to BIN (n + 1) - 1."""
    bins, right = ((data.steps - data.keys) // BIN).ravel(), right.ravel()
    found = [int(each) for each in numpy.unique(bins)]
    return {
        "from": [BIN * each for each in found],
        "accuracy": [float(right[bins == each].mean()) for each in found],
        "queries": [int((bins == each).sum()) for each in found],
    }


def written(settings: Settings, data: LongRecalls, right: numpy.ndarray) -> dict[str, Any]:
    """Return the accuracies of pairs by the chunks in which they were stored and queried, and the predicted ceiling.

    cut          a chunk ends between key and value, so that the target does not contain the value
    in_chunk     the query stands in the chunk of its key, which was not yet written
    """
    cut, inside = data.is_cut(settings.chunk), data.is_in_its_chunk(settings.chunk)
    parts = {"cut": cut, "not_cut": ~cut, "in_chunk": inside, "beyond_chunk": ~inside}
    return {
        "accuracy_of": {name: float(right[part].mean()) for name, part in parts.items() if part.any()},
        "share_of": {name: float(part.mean()) for name, part in parts.items()},
        "ceiling": 1 - float(cut.mean()) * (1 - 1 / VALUES),
    }


def spelled(token: int) -> str:
    """Return a token as text: a dot for a filler, k or v and a number for a key or a value."""
    if token < FILLERS:
        return "."
    return f"k{token - FILLERS}" if token < FILLERS + KEYS else f"v{token - FILLERS - KEYS}"


def _report(settings: Settings, result: Mapping[str, Any]) -> None:
    best, reached = result["best_on_validation"], result["updates_to"]
    print(
        f"\ntest accuracy {1 - result['test_error']:.2%} (update {best['update']:.0f}, the best on the validation set)"
    )
    print(f"chance {1 / VALUES:.2%}; any stored value {1 / settings.pairs:.2%}")
    if settings.writes:
        of = {name: f"{accuracy:.2%}" for name, accuracy in result["accuracy_of"].items()}
        print(f"with η = 0: {1 - result['test_error_without_writes']:.2%}")
        print(
            f"pairs that the end of a chunk cuts: {result['share_of']['cut']:.2%} of all, accuracy "
            f"{of.get('cut', '-')}; others {of.get('not_cut', '-')}; ceiling {result['ceiling']:.2%}"
        )
    text = ", ".join(f"{level} % {update or 'never'}" for level, update in reached.items())
    print(f"updates to a validation accuracy above: {text}")
    print(f"{result['updates']} updates in {result['seconds']:.0f} s")
