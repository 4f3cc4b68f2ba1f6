"""Draw the sequences of multi-query associative recall: pairs of a key and a value, then queries among fillers.

    key value key value 0 0 key 0 0 0 0 0 key 0        the labels stand at the queries: the values of these keys

Keys are tokens of the lower half of the vocabulary, except 0, the filler. Values are of the upper half. Both are drawn
without replacement. The gap between the pairs and a query is 2 g tokens, where g is drawn without replacement from
0 .. (T - 2K) / 2 - 1 with probabilities in proportion to (g + 1)^(a - 1), a = 0.01.

Source: Arora et al. 2023, arXiv 2312.04927, and their code, HazyResearch/zoology at d88d6f5, data/multiquery_ar.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from fastweights_np.backend import Array, to_device, to_host

POWER = 0.01  # a


class Segment(NamedTuple):
    """A number of sequences of one format: their length T, and the number of pairs K, each of which is queried once."""

    length: int
    pairs: int
    sequences: int


class Recalls(NamedTuple):
    """Sequences: tokens (T, N), steps of the queries (N, K), labels (N, K), which are -1 where there is no query.

    They stay on the host.

    device  where the arrays of a batch go
    seed    with it, a sequence has a seed for the dropout of its embeddings; None for evaluation
    """

    tokens: numpy.ndarray
    steps: numpy.ndarray
    labels: numpy.ndarray
    device: str = "cpu"
    seed: int | None = None

    def batch(self, chosen: Any) -> tuple[Any, Array]:
        """Return ((tokens (T, B), steps (n,), columns (n,), seeds), labels (n,)) of the chosen sequences' n queries."""
        chosen = to_host(chosen)
        labels = self.labels[chosen]
        columns, places = numpy.nonzero(labels >= 0)
        seeds = None if self.seed is None else [(self.seed, each) for each in chosen.tolist()]
        arrays = self.tokens[:, chosen], self.steps[chosen][columns, places], columns, labels[columns, places]
        tokens, steps, columns, labels = to_device(arrays, self.device)
        return (tokens, steps, columns, seeds), labels

    def augmented(self, rng: numpy.random.Generator) -> Recalls:
        """Return the sequences with a new seed of the dropout."""
        return self._replace(seed=int(rng.integers(2**62)))


def generate(rng: numpy.random.Generator, segment: Segment, vocabulary: int) -> Recalls:
    """Return the sequences of a segment."""
    length, pairs, count = segment
    half = vocabulary // 2
    keys, values = _distinct(rng, count, pairs, 1, half), _distinct(rng, count, pairs, half, vocabulary)
    places = (length - 2 * pairs) // 2
    # drawing without replacement: the largest log p + Gumbel noise comes first
    log_p = (POWER - 1) * numpy.log(numpy.arange(1, places + 1))
    gaps = numpy.argsort(-(log_p + rng.gumbel(size=(count, places))), axis=1)[:, :pairs]
    steps, everyone = 2 * pairs + 2 * gaps, numpy.arange(count)[:, None]
    tokens = numpy.zeros((length, count), "int32")
    tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2] = keys.T, values.T
    tokens[steps, everyone] = keys
    return Recalls(tokens, steps.astype("int32"), values.astype("int32"))


def joined(parts: Sequence[Recalls]) -> Recalls:
    """Return all sequences, filled up at the end to the length and to the number of queries of the longest."""
    length, most = max(len(part.tokens) for part in parts), max(part.labels.shape[1] for part in parts)

    def filled(array: numpy.ndarray, rows: int, columns: int, filler: int) -> numpy.ndarray:
        below, right = rows - array.shape[0], columns - array.shape[1]
        return numpy.pad(array, ((0, below), (0, right)), constant_values=filler)

    tokens = [filled(part.tokens, length, part.tokens.shape[1], 0) for part in parts]
    steps, labels = (
        numpy.concatenate([filled(array, len(array), most, filler) for array in arrays])
        for arrays, filler in (([part.steps for part in parts], 0), ([part.labels for part in parts], -1))
    )
    return Recalls(numpy.concatenate(tokens, axis=1), steps, labels)


def _distinct(rng: numpy.random.Generator, count: int, size: int, low: int, high: int) -> numpy.ndarray:
    """Return (count, size) integers from low to high - 1 that differ within a row. All such rows are equally likely."""
    found = rng.integers(low, high, (count, size))
    rows = numpy.arange(count)
    while len(rows):
        # numbers that stand before in their row are drawn anew. No number is preferred, so that all rows are as likely
        order = numpy.argsort(found[rows], axis=1, kind="stable")
        ordered = numpy.take_along_axis(found[rows], order, axis=1)
        which, places = (ordered[:, 1:] == ordered[:, :-1]).nonzero()
        found[rows[which], order[which, places + 1]] = rng.integers(low, high, len(which))
        rows = rows[numpy.unique(which)]
    return found
