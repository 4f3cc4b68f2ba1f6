"""Draw sequences whose pairs of a key and a value are asked for far behind them, among fillers.

    . k v . . k v .   |  . . . . . . . .  |  . k ? v . . k ? v        stored part, gap, queries

Where a queried key stands, its value is the label, and the next token. Variants:

    plain    k v
    delay    k x v is stored, with a filler x, and k v is queried
    bigram   a b v. Each a has two partners b, and each b two partners a, so that one token leaves two values
    rebind   the stored part has each key twice, with two values in two halves. The label is the later one

Keys differ within a sequence. Values are drawn with replacement, independent of all else: a pair that is not remembered
is answered right with probability 1 / VALUES at most.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy

from fastweights_np.backend import Array, to_device, to_host

FILLERS, KEYS, VALUES = 32, 32, 32  # numbers of tokens: fillers come first, then keys, then values
VOCABULARY = FILLERS + KEYS + VALUES

Variant = Literal["plain", "delay", "bigram", "rebind"]


class Format(NamedTuple):
    """The format of sequences: variant, number of pairs, and number of fillers between stored part and queries."""

    variant: Variant
    pairs: int
    gap: int

    @property
    def stored(self) -> list[int]:
        """Return the length of each stored part: five tokens a pair, or four in each of the two halves."""
        return [4 * self.pairs] * 2 if self.variant == "rebind" else [5 * self.pairs]

    @property
    def length(self) -> int:
        """Return the length of a sequence. The queries take six tokens a pair."""
        return sum(self.stored) + self.gap + 6 * self.pairs


class LongRecalls(NamedTuple):
    """Sequences: tokens (T, N), steps of the queries (N, K), labels (N, K). They stay on the host.

    keys     (N, K), steps at which the key of each label was stored: the last token of a bigram
    values   (N, K), steps at which the label was stored
    device   where the arrays of a batch go
    """

    tokens: numpy.ndarray
    steps: numpy.ndarray
    labels: numpy.ndarray
    keys: numpy.ndarray
    values: numpy.ndarray
    device: str = "cpu"

    def batch(self, chosen: Any) -> tuple[Any, Array]:
        """Return ((tokens (T, B), steps (n,), columns (n,)), labels (n,)) of the chosen sequences' n = B K queries."""
        chosen = to_host(chosen)
        labels = self.labels[chosen]
        columns = numpy.repeat(numpy.arange(len(labels)), labels.shape[1])
        tokens, steps, columns, labels = to_device(
            (self.tokens[:, chosen], self.steps[chosen].ravel(), columns, labels.ravel()), self.device
        )
        return (tokens, steps, columns), labels

    def augmented(self, rng: numpy.random.Generator) -> LongRecalls:
        """Return the sequences unchanged."""
        return self

    def is_cut(self, chunk: int) -> numpy.ndarray:
        """Return (N, K), whether a chunk ends between the key and the value as they were stored."""
        return self.keys // chunk != self.values // chunk

    def is_in_its_chunk(self, chunk: int) -> numpy.ndarray:
        """Return (N, K), whether the query stands in the chunk in which its key was stored."""
        return self.keys // chunk == self.steps // chunk


def generate(rng: numpy.random.Generator, count: int, form: Format) -> LongRecalls:
    """Return `count` sequences of this format."""
    pairs = form.pairs
    keys = FILLERS + rng.permuted(numpy.tile(numpy.arange(KEYS), (count, 1)), axis=1)[:, :pairs, None]
    if form.variant == "bigram":
        first, second = keys[:, : pairs // 2], keys[:, pairs // 2 :]
        # a_i b_i and a_i b_(i+1): each token is in two bigrams
        partners = numpy.concatenate([second, numpy.roll(second, -1, axis=1)], axis=1)
        keys = numpy.concatenate([numpy.tile(first, (1, 2, 1)), partners], axis=2)
    values, before = FILLERS + KEYS + rng.integers(0, VALUES, (2, count, pairs, 1))
    stored, asked = numpy.concatenate([keys, values], axis=2), numpy.concatenate([keys, values], axis=2)
    if form.variant == "delay":
        stored = numpy.concatenate([keys, rng.integers(0, FILLERS, (count, pairs, 1)), values], axis=2)
    parts = [stored, asked]
    if form.variant == "rebind":
        parts.insert(0, numpy.concatenate([keys, before], axis=2))

    tokens = rng.integers(0, FILLERS, (form.length, count)).astype("int32")
    lengths, start, places = [*form.stored, 6 * pairs], 0, []
    for part, length in zip(parts, lengths, strict=True):
        start += form.gap * (part is parts[-1])
        places.append(start + _starts(rng, count, pairs, part.shape[2], length))
        for n in range(part.shape[2]):
            tokens[places[-1] + n, numpy.arange(count)[:, None]] = part[:, :, n]
        start += length
    last = keys.shape[2] - 1  # of a key's tokens
    return LongRecalls(
        tokens, steps=places[-1] + last, labels=values[:, :, 0].astype("int32"), keys=places[-2] + last,
        values=places[-2] + stored.shape[2] - 1,
    )  # fmt: skip


def _starts(rng: numpy.random.Generator, count: int, units: int, size: int, length: int) -> numpy.ndarray:
    """Return where the units start, (count, units), in a random order of them and of single fillers.

    size: tokens of a unit. length: tokens of units and fillers together.
    """
    fillers = length - units * size
    order = rng.permuted(numpy.tile(numpy.arange(units + fillers), (count, 1)), axis=1)
    ends = numpy.where(order < units, size, 1).cumsum(axis=1)
    starts = numpy.empty_like(order)
    numpy.put_along_axis(starts, order, ends - numpy.where(order < units, size, 1), axis=1)
    return starts[:, :units]
