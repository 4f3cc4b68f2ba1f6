"""Multi-query associative recall (Zoology, arXiv 2312.04927): the value of each key that is queried.

    key value key value 0 0 key 0 0 0 0 0 key 0

The settings are Zoology's, HazyResearch/zoology at d88d6f5: figure 2 of the paper (64 tokens and 4 pairs, 128 and 8,
256 and 16), and the newer mixture of formats with --mix. The network differs from theirs in one point: a block has one
layer norm and one residual. Theirs has a second layer norm where the MLP stood, and adds its result to the residual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from fastweights_np import checks, distributed, features

from .recall.mixing import MixingNetwork
from .recall.multi_query import Recalls, Segment, generate, joined
from .running import runs, training
from .running.layers import LayerSettings
from .running.training import TrainingSettings

SOLVED = 0.99  # accuracy at which training ends
AT_ONCE = 1024  # queries that are evaluated at once
SHARE = 5  # each of the mixture's longer formats has one training sequence for this many of the first format
MIX = ((128, 8), (256, 16), (256, 32), (256, 64))  # (length, pairs) of the mixture's longer formats
MIX_TESTS = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256))


@dataclass(frozen=True)
class Settings(LayerSettings, TrainingSettings):
    """Train two blocks without an MLP on multi-query associative recall: Zoology, Arora et al. 2023.

    Training ends at an accuracy of 99 % on the validation set.
    """

    task: ClassVar[str] = "mqar"

    layer: Literal["sum", "decay", "gated", "delta", "gated_delta", "softmax"] = "delta"
    """Write rule of the memory, or softmax attention with learned positions."""
    feature_map: Literal["identity", "elu", "dpfp-1", "dpfp-2", "dpfp-3"] = "identity"
    """Feature map of keys and queries. With elu or DPFP, rules without delta divide by the sum of their keys."""
    decay: float = 1.0
    """λ, the decay rate of the fast weights, above 0 and up to 1. The layer decay learns it."""
    convolution: int = 0
    """Steps of the short convolution before each memory, the current one included. 0: none."""
    tokens: int = 64
    """Number of tokens of a sequence. Even, and at least four for each pair."""
    pairs: int = 4
    """K, the number of key-value pairs in a sequence. Each key is queried once."""
    mix: bool = False
    """Add longer formats: 128 tokens with 8 pairs, and 256 with 16, 32 and 64, each a fifth of --training-size. Test on
    7 formats, up to 1,024 tokens with 256 pairs."""
    vocabulary: int = 8192
    """Number of tokens. The lower half are keys, the upper half values."""
    training_size: int = 100_000
    """Number of training sequences."""
    validation_size: int = 3000
    """Number of validation sequences, which select the best epoch."""
    test_size: int = 3000
    """Number of test sequences. The best parameters are tested once."""
    hidden_size: int = 64
    """R, the size of embeddings, keys, queries and values."""
    dropout: float = 0.1
    """Fraction of the embeddings' numbers that are set to 0 in training."""
    epochs: int = 64
    """Most passes over the training set."""
    batch_size: int = 512
    """Examples in each update. The last, smaller batch of an epoch is dropped."""
    weight_decay: float = 0.1
    """Decoupled weight decay (AdamW). Applied to weight matrices and tables, not to biases and gains."""
    schedule: Literal["linear", "constant", "cosine"] = "cosine"
    """Learning-rate schedule. linear, cosine: constant for the fraction --hold of the updates, then decay to zero."""
    hold: float = 0.0
    """Fraction of the updates before the decay of the learning rate begins."""
    clip_norm: float = 1e9
    """Clip gradients to this global norm. The default never clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pairs", "training_size", "validation_size", "test_size"):
            checks.count(name, getattr(self, name), least=1)
        features.count(self.feature_map, self.hidden_size)  # raises for more features than the keys have
        if not self.decay:
            raise ValueError(f"decay: expected a number above 0, got {self.decay}; raise it, or leave it out")
        checks.count("convolution", self.convolution, least=0)
        if self.tokens < 4 * self.pairs:
            wanted = f"at least 4 for each of the {self.pairs} pairs, {4 * self.pairs}"
            raise ValueError(f"tokens: expected {wanted}, got {self.tokens}; raise it, or lower pairs")
        if self.tokens % 2:
            raise ValueError(f"tokens: expected an even number, got {self.tokens}")
        most = max([self.pairs] + [pairs for _, pairs in (*MIX, *MIX_TESTS) if self.mix])
        if self.vocabulary < 2 * (most + 1):
            wanted = f"at least {2 * (most + 1)}, for sequences with {most} pairs"
            raise ValueError(f"vocabulary: expected {wanted}, got {self.vocabulary}; raise it")
        checks.fraction("dropout", self.dropout)
        if self.dropout == 1:
            raise ValueError("dropout: expected a number below 1, got 1: no embedding would be left")
        if self.batch_size > self.training_size:
            sizes = f"at most training_size, {self.training_size}, got {self.batch_size}"
            raise ValueError(f"batch_size: expected {sizes}; lower one or raise the other")

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        own = {"tokens": "the mixture", "pairs": "the mixture"} if values["mix"] else {}
        return super().unused(values) | own

    def stops(self, curve: Sequence[Mapping[str, float]]) -> bool:
        """Return whether the last epoch solved the task."""
        return bool(curve) and curve[-1]["validation_error"] < 1 - SOLVED

    @property
    def formats(self) -> tuple[list[Segment], list[Segment], list[Segment]]:
        """Return the segments of training, validation and test data."""
        tests = MIX_TESTS if self.mix else ((self.tokens, self.pairs),)
        longer = [Segment(*each, max(1, self.training_size // SHARE)) for each in MIX if self.mix]
        of_tests = ([Segment(*each, max(1, size // len(tests))) for each in tests] for size in self._held_out)
        validation, test = of_tests
        return [Segment(self.tokens, self.pairs, self.training_size), *longer], validation, test

    @property
    def _held_out(self) -> tuple[int, int]:
        return self.validation_size, self.test_size


class Data(NamedTuple):
    """Training sequences, and held-out sequences of each format."""

    training: Recalls
    validation: list[Recalls]
    test: list[Recalls]


def load(settings: Settings) -> Data:
    """Return training, validation and test data, each from its own generator."""
    drawn = [
        [generate(rng, segment, settings.vocabulary)._replace(device=settings.device) for segment in segments]
        for rng, segments in zip(settings.streams(5)[2:], settings.formats, strict=True)
    ]  # the first two streams draw the weights and the order
    return Data(joined(drawn[0])._replace(device=settings.device), *drawn[1:])


def network(settings: Settings) -> MixingNetwork:
    """Return the network: embedding, two blocks, layer norm, and the embedding's table as output weights."""
    options: dict[str, Any] = {}
    if settings.layer != "softmax":
        adds = settings.layer not in ("delta", "gated_delta")
        options = {
            "decay": settings.decay, "feature_map": settings.feature_map,
            "attention_normalization": adds and settings.feature_map != "identity",
        }  # fmt: skip
    longest = max(segment.length for segments in settings.formats for segment in segments)
    return MixingNetwork(
        settings.vocabulary, settings.hidden_size, settings.layer, options, convolution=settings.convolution,
        positions=longest if settings.layer == "softmax" else 0, dropout=settings.dropout,
    )  # fmt: skip


def evaluate(net: MixingNetwork, params: Any, parts: list[Recalls]) -> list[tuple[float, float]]:
    """Return (mean negative log likelihood in nats, error rate) for the queries of each format."""
    return [
        training.evaluate(net, params, part, at_once=max(1, AT_ONCE // part.labels.shape[1])) for part in parts
    ]  # fmt: skip


def run(settings: Settings, folder: Path, data: Data) -> dict[str, Any]:
    """Train, test the parameters that were best on the validation set, store the result and draw the learning curve."""
    net = network(settings)

    def mean(measured: list[tuple[float, float]]) -> dict[str, float]:
        return {name: sum(each) / len(each) for name, *each in zip(settings.metrics, *measured, strict=True)}

    outcome = training.train(
        net, settings, folder, [data.training, *data.validation, *data.test],
        measure=lambda params, epoch: mean(evaluate(net, params, data.validation)),
    )  # fmt: skip
    tested = evaluate(net, outcome.params, data.test)
    nll, error = mean(tested).values()
    formats = [f"{segment.length}/{segment.pairs}" for segment in settings.formats[2]]
    result: dict[str, Any] = {
        "test_error": error,
        "test_nll": nll,
        "test_error_by_format": {name: each for name, (_, each) in zip(formats, tested, strict=True)},
        **outcome.as_result(),
    }
    if distributed.ranks().rank:
        return result
    runs.store_result(folder, settings, result)
    chosen = f"epoch {outcome.best['epoch']:.0f}, the best on the validation set"
    print(f"\ntest accuracy {1 - error:.2%}, negative log likelihood {nll:.4f} nats ({chosen})")
    for name, (_, each) in zip(formats, tested, strict=True):
        print(f"  {name} (tokens/pairs): accuracy {1 - each:.2%}")
    print(f"{outcome.updates} updates in {outcome.seconds:.0f} s")

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    figures.learning_curve(folder / "learning_curve.png", settings, outcome.curve)
    return result
