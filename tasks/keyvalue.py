"""Synthetic retrieval of Schlag, Irie, Schmidhuber 2021 (arXiv 2102.11174, section 6.1): the value of a key.

A sequence has pairs of a key and a value, then one key. The answer is the value of this key's last pair, a one-hot
vector y. The loss is ½|ŷ - y|², so that an answer of zeros has 0.5. Data, models and training are the published code's,
ischlag/fast-weight-transformers at ebe13ea, synthetic/main.py:

    training     100 updates between two evaluations, each on 32 new sequences, by Adam at 0.001
    evaluation   20 new sequences, with a query for each key in them, 200 at most
    end          at an evaluation loss of 0.001, after 11 evaluations in a row without progress, at 100,000 updates

Where keys repeat, training sequences have 2S pairs, and evaluation sequences S. Both are drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy

from fastweights_np import checks, distributed, features, to_device
from fastweights_np.backend import array_module
from fastweights_np.network import Model, Network

from .recall import pairs
from .recall.retriever import MemoryRetriever, OneHotReadout, PairEncoder, one_hot
from .running import runs, training
from .running.drawn import Drawn
from .running.layers import LayerSettings
from .running.runs import Objective
from .running.training import Split, TrainingSettings

UPDATES = 100  # between two evaluations
EVALUATED, TESTED = 20, 200  # sequences of an evaluation, and of the test at the end
SOLVED = 1e-3  # training ends at this loss
BATCH = 32  # queries whose losses are averaged first: the published evaluation loss is the mean of these means


@dataclass(frozen=True)
class Settings(LayerSettings, TrainingSettings):
    """Train a memory to retrieve the value of a key: Schlag, Irie, Schmidhuber 2021, synthetic retrieval.

    An epoch is 100 updates and an evaluation. Training ends at a loss of 0.001, or by --patience.
    """

    task: ClassVar[str] = "keyvalue"
    metrics: ClassVar[tuple[str, str]] = ("validation_loss", "validation_error")
    objective: ClassVar[Objective] = Objective("validation_loss", "evaluation loss", maximize=False)

    layer: Literal["sum", "decay", "delta", "gated_delta", "softmax", "fast_weights"] = "sum"
    """Write rule of the memory, or softmax attention to the pairs, or the recurrent layer of Ba et al. 2016."""
    feature_map: Literal["elu", "dpfp-1", "dpfp-2", "dpfp-3"] = "elu"
    """Feature map of keys and queries: elu(x) + 1, or DPFP."""
    keys: int = 20
    """Number of different keys, and of different values: S in the paper. A sequence has as many pairs."""
    repeat: bool = False
    """Draw keys and values with replacement. A training sequence then has twice as many pairs."""
    hidden_size: int = 64
    """R, the number of units of fast_weights. For other layers, the size of keys and queries before the feature map."""
    decay: float = 1.0
    """λ, the decay rate of the fast weights, from 0 to 1. The layer decay learns it."""
    epochs: int = 1000
    """Most evaluations, one after each 100 updates."""
    patience: int = 10
    """Training ends after more evaluations than this in a row without progress."""
    batch_size: int = 32
    """Sequences in each update."""
    schedule: Literal["linear", "constant", "cosine"] = "constant"
    """Learning-rate schedule. linear, cosine: constant for the fraction --hold of the updates, then decay to zero."""
    clip_norm: float = 1e9
    """Clip gradients to this global norm. The default never clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("keys", self.keys, least=2)
        features.count(self.feature_map, self.hidden_size)  # raises for more features than the keys have
        checks.count("patience", self.patience, least=0)

    def stops(self, curve: Sequence[Mapping[str, float]]) -> bool:
        """Return whether the last evaluation solved the task, or more than `patience` in a row made no progress."""
        losses = [line["validation_loss"] for line in curve]
        if not losses:
            return False
        return losses[-1] <= SOLVED or len(losses) - 1 - losses.index(min(losses)) > self.patience


def load(settings: Settings) -> Drawn:
    """Return the training data. Evaluations and the test draw their own."""

    def draw(rng: numpy.random.Generator) -> Split:
        split = pairs.generate(rng, UPDATES * settings.batch_size, settings.keys, settings.repeat)
        drawn: Split = to_device(split, settings.device)
        return drawn

    return Drawn(draw(settings.streams(3)[2]), draw)


def model(settings: Settings) -> Model:
    """Return the network: a memory with what it holds as answer, or Ba et al.'s layer with a linear readout."""
    if settings.layer != "fast_weights":
        sizes = settings.keys, settings.hidden_size
        return MemoryRetriever(*sizes, settings.layer, settings.feature_map, settings.decay)
    encoder: Any = PairEncoder(settings.keys, settings.hidden_size)
    return Network(encoder=encoder, readout=OneHotReadout(settings.keys), **settings.of_layer())


def evaluate(network: Model, params: Any, questions: list[pairs.Questions], device: str = "cpu") -> tuple[float, float]:
    """Return (loss, error rate) of these sequences, the loss as the published code averages it: see BATCH."""
    means, wrong, count = list[float](), 0, 0
    for question in questions:
        sequence, queries, labels = to_device(question, device)
        y = answers(network, params, sequence, queries)
        losses = 0.5 * ((y - one_hot(labels, y)) ** 2).sum(axis=1)
        means += [float(losses[start : start + BATCH].mean()) for start in range(0, len(labels), BATCH)]
        wrong += int((y.argmax(axis=1) != labels).sum())
        count += len(labels)
    return fmean(means), wrong / count


def answers(network: Model, params: Any, sequence: Any, queries: Any) -> Any:
    """Return the values (n, S) for queries (n,) after one sequence of pairs (T, 2)."""
    if isinstance(network, MemoryRetriever):
        return network.read(params, sequence[:, None], queries[:, None])[0][0]
    # a recurrent layer reads the sequence once for each query
    xp, shape = array_module(queries=queries), (len(sequence), len(queries), 2)
    question = xp.stack([queries, xp.zeros_like(queries)], axis=-1)[None]
    return network.forward(params, xp.concatenate([xp.broadcast_to(sequence[:, None], shape), question]))[0]


def run(settings: Settings, folder: Path, data: Drawn) -> dict[str, Any]:
    """Train, test the parameters of the least evaluation loss, store the result and draw the learning curve."""
    network, device = model(settings), settings.device

    def drawn(count: int, length: int, *key: int) -> list[pairs.Questions]:
        rng = numpy.random.default_rng(numpy.random.SeedSequence(settings.seed, spawn_key=key))
        return pairs.questions(rng, count, settings.keys, length, settings.repeat)

    def measure(params: Any, epoch: int) -> dict[str, float]:
        measured = evaluate(network, params, drawn(EVALUATED, settings.keys, 3, epoch), device)
        return dict(zip(settings.metrics, measured, strict=True))

    outcome = training.train(network, settings, folder, [data], measure=measure)
    loss, error = evaluate(network, outcome.params, drawn(TESTED, settings.keys, 4), device)
    result: dict[str, Any] = {
        "validation_loss": outcome.best["validation_loss"],
        "test_loss": loss,
        "test_error": error,
        **outcome.as_result(),
    }
    if settings.repeat:
        longer = evaluate(network, outcome.params, drawn(TESTED, 2 * settings.keys, 5), device)
        result["test_loss_of_longer"], result["test_error_of_longer"] = longer
    if settings.layer == "decay":
        result["decay"] = MemoryRetriever.learned_decay(outcome.params)
    if distributed.ranks().rank:
        return result
    runs.store_result(folder, settings, result)
    print(f"\nleast evaluation loss {outcome.best['validation_loss']:.5f} after {outcome.best['update']:.0f} updates")
    print(f"of these parameters, on {TESTED} new sequences: loss {loss:.5f}, error {error:.2%}")
    print(f"{outcome.updates} updates in {outcome.seconds:.0f} s")

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    figures.learning_curve(
        folder / "learning_curve.png", settings, outcome.curve, metrics=settings.metrics, loss_name="loss ½|ŷ - y|²"
    )
    return result
