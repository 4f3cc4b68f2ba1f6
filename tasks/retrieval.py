"""Associative retrieval (section 4.1, table 1): the answer to c9k8j3f1??c is 9, the digit that followed the letter c.

A sequence has K different letters, each followed by a digit, then ??, then one of the letters. The label is the digit
of that letter. The key-blind floor is the lowest error of a model that knows the digits, but not the queried letter. An
error near it means that the model does not retrieve.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, factorial, log
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy
from numpy.polynomial.polynomial import polypow

from fastweights_np import checks, distributed, fast_weights, to_device, to_host
from fastweights_np.network import Classifier, Network, TokenEncoder

from .running import runs, training
from .running.layers import LayerSettings
from .running.training import Split, TrainingSettings

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = LETTERS + "0123456789?"
SEPARATORS = 2  # question marks between the pairs and the queried letter
# other formats that a trained network is tested on, and the number of sequences of each
OTHER_PAIRS, OTHER_SEPARATORS, OTHER_SIZE = (2, 4, 6, 8, 12, 16, 20, 26), (2, 4, 8, 16, 32, 64), 5_000


@dataclass(frozen=True)
class Settings(LayerSettings, TrainingSettings):
    """Train a recurrent network to retrieve the digit that followed a letter. By default, R = 50 as in the paper.

    With --ask TEXT --from RUN, a trained network answers instead.
    """

    task: ClassVar[str] = "retrieval"

    layer: Literal["fast_weights", "irnn", "lstm", "associative_lstm"] = "fast_weights"
    """Recurrent layer."""
    pairs: int = 4
    """K, the number of letter-digit pairs in a sequence, 1 to 26. A sequence has 2 K + 3 characters."""
    training_size: int = 100_000
    """Number of training sequences."""
    validation_size: int = 10_000
    """Number of validation sequences, which select the best epoch."""
    test_size: int = 20_000
    """Number of test sequences. The best parameters are tested once."""
    test_curve: bool = False
    """Also evaluate the test set after each epoch, as in figure 2. It selects nothing."""
    generalize: bool = False
    """Also test the best parameters on other numbers of pairs, and with more separators than in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pairs(self.pairs)
        for name in ("training_size", "validation_size", "test_size"):
            checks.count(name, getattr(self, name), least=1)
        if self.batch_size > self.training_size:
            sizes = f"at most training_size, {self.training_size}, got {self.batch_size}"
            raise ValueError(f"batch_size: expected {sizes}; lower one or raise the other")


def check_pairs(pairs: int) -> None:
    """Raise ValueError or TypeError unless 1 <= pairs <= 26."""
    checks.count("pairs", pairs, least=1)
    if pairs > len(LETTERS):
        raise ValueError(f"pairs: expected at most {len(LETTERS)}, one for each letter, got {pairs}")


def generate(rng: numpy.random.Generator, count: int, pairs: int, separators: int = SEPARATORS) -> Split:
    """Return `count` sequences of K = pairs: tokens (2 K + separators + 1, count), and the queried digits (count,).

    Both are int64. Letters are drawn without replacement, digits with replacement. Every letter of a sequence is
    queried with equal probability.
    """
    checks.count("count", count, least=1)
    checks.count("separators", separators, least=0)
    check_pairs(pairs)
    letters = numpy.argsort(rng.random((len(LETTERS), count)), axis=0)[:pairs]
    digits = rng.integers(0, 10, (pairs, count))
    asked = rng.integers(0, pairs, count)
    everyone = numpy.arange(count)
    tokens = numpy.full((2 * pairs + separators + 1, count), TOKENS.index("?"))
    tokens[0 : 2 * pairs : 2] = letters
    tokens[1 : 2 * pairs : 2] = digits + TOKENS.index("0")
    tokens[-1] = letters[asked, everyone]
    return Split(tokens, digits[asked, everyone])


def load(settings: Settings) -> tuple[Split, Split, Split]:
    """Return training, validation and test data, each from its own generator."""
    sizes = settings.training_size, settings.validation_size, settings.test_size
    streams = settings.streams(5)[2:]  # the first two draw the weights and the order
    training_set, validation_set, test_set = (
        generate(rng, size, settings.pairs) for rng, size in zip(streams, sizes, strict=True)
    )
    return training_set, validation_set, test_set


def key_blind_floor(pairs: int) -> tuple[float, float]:
    """Return (error, negative log likelihood in nats) of the best model that knows the K digits, but not the query.

    Its probability of a digit is n/K, where n of the K pairs have that digit. For K = 4: 61.65 % and 1.187 nats. Exact.
    """
    check_pairs(pairs)
    # n of one digit is binomial(K, 1/10), and all ten digits have the same distribution
    nats = 0.0
    for n in range(1, pairs + 1):
        nats -= 10 * comb(pairs, n) * 0.1**n * 0.9 ** (pairs - n) * (n / pairs) * log(n / pairs)

    def most_common_at_most(m: int) -> float:
        """Return the probability that no digit occurs more than m times, by exponential generating functions."""
        one_digit = [1 / factorial(n) for n in range(m + 1)]
        ten_digits = polypow(one_digit, 10)
        return ten_digits[pairs] * factorial(pairs) / 10**pairs if pairs < len(ten_digits) else 0.0

    expected_maximum = 1 + sum(1 - most_common_at_most(m) for m in range(1, pairs))
    return 1 - expected_maximum / pairs, nats


def network(settings: Settings) -> Network:
    """Return the network: token, 50-d embedding, 100-d code, R recurrent units; last state, 100 ReLU units, softmax."""
    return Network(
        encoder=TokenEncoder(len(TOKENS)),
        readout=Classifier(classes=10),
        **settings.of_layer(),
    )


def run(settings: Settings, folder: Path, data: tuple[Split, Split, Split]) -> dict[str, Any]:
    """Train, test the parameters that were best on the validation set, store the result and draw the pictures."""
    splits = to_device(data, settings.device)
    test_set = splits[-1]
    watched = {"test": test_set} if settings.test_curve else {}
    net = network(settings)
    outcome = training.train(net, settings, folder, splits, watched)
    nll, error = training.evaluate(net, outcome.params, test_set)
    floor_error, floor_nll = key_blind_floor(settings.pairs)
    result: dict[str, Any] = {
        "test_error": error,
        "test_nll": nll,
        "key_blind_floor": {"error": floor_error, "nll": floor_nll},
        **outcome.as_result(),
    }
    if settings.generalize:
        result["generalization"] = generalization(net, outcome.params, settings)
    if distributed.ranks().rank:
        return result
    runs.store_result(folder, settings, result)
    chosen = f"epoch {outcome.best['epoch']}, the best on the validation set"
    print(f"\ntest error {error:.3%}, negative log likelihood {nll:.5f} nats ({chosen})")
    print(f"key-blind floor {floor_error:.2%}, {floor_nll:.3f} nats: the best that a model without retrieval can reach")
    if error > 0.95 * floor_error:
        print("this run did not learn to retrieve: use more epochs, more training data or other settings")
    print(f"{outcome.updates} updates in {outcome.seconds:.0f} s\n")
    _show_examples(net, outcome.params, test_set)

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    figures.learning_curve(folder / "learning_curve.png", settings, outcome.curve, floor_nll, floor_error)
    if settings.layer == "fast_weights" and settings.inner_steps:
        _draw_attention(net, outcome.params, test_set, settings, folder / "attention.png")
    return result


def generalization(net: Network, params: Any, settings: Settings) -> dict[str, dict[int, float]]:
    """Return the error rate by the number of pairs, and by the number of separators, without training on them."""
    rng = settings.streams(6)[5]  # the first five draw the weights, the order and the run's own data

    def error(pairs: int, separators: int) -> float:
        split = generate(rng, OTHER_SIZE, pairs, separators)
        return training.evaluate(net, params, to_device(split, settings.device))[1]

    return {
        "pairs": {pairs: error(pairs, SEPARATORS) for pairs in OTHER_PAIRS},
        "separators": {separators: error(settings.pairs, separators) for separators in OTHER_SEPARATORS},
    }


def text(tokens: numpy.ndarray) -> str:
    """Return the characters of one sequence of tokens."""
    return "".join(TOKENS[token] for token in tokens)


def _show_examples(net: Network, params: Any, split: Split, count: int = 10) -> None:
    inputs, labels = split.batch(slice(0, count))
    logits, _ = net.forward(params, inputs)
    inputs, labels, answers = to_host((inputs, labels, logits.argmax(axis=1)))
    for n, (answer, label) in enumerate(zip(answers, labels, strict=True)):
        print(f"{text(inputs[:, n])} -> {answer}" + ("" if answer == label else f"   wrong, the label is {label}"))


def _draw_attention(net: Network, params: Any, split: Split, settings: Settings, path: Path, count: int = 6) -> None:
    from . import figures

    inputs, labels = split.batch(slice(0, count))
    logits, cache = net.forward(params, inputs)
    layer_cache, _ = cache.layers["layer"]
    answers, strengths = logits.argmax(axis=1), fast_weights.attention(layer_cache)
    inputs, labels, answers, strengths = to_host((inputs, labels, answers, strengths))
    strings = [text(sequence) for sequence in inputs.T]
    captions = [
        f"answer {answer}" + ("" if answer == label else f" (label {label})")
        for answer, label in zip(answers, labels, strict=True)
    ]
    figures.attention(path, settings, strings, captions, strengths)
