"""Draw the sequences of synthetic retrieval: key-value pairs, then queries for the value of a key.

Source: Schlag, Irie, Schmidhuber 2021, arXiv 2102.11174, section 6.1, and their code, ischlag/fast-weight-transformers
at ebe13ea, synthetic/.

With unique keys, a sequence has S pairs: every key once, and every value once. With repeated keys, a training sequence
has 2S pairs, whose keys and values are drawn with replacement. The answer is the value of the key's last pair.
Evaluation sequences always have S pairs, as in the published code, also where training sequences have 2S.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy

from ..running.training import Split

MOST_QUERIES = 200  # of one evaluation sequence


class Questions(NamedTuple):
    """One sequence and its queries: pairs (T, 2), each a key and its value; queries (n,); labels (n,), the values."""

    pairs: numpy.ndarray
    queries: numpy.ndarray
    labels: numpy.ndarray


def draw_pairs(rng: numpy.random.Generator, count: int, keys: int, length: int, repeat: bool) -> numpy.ndarray:
    """Return the pairs (length, count, 2) of `count` sequences, int64; without repeat, length is `keys`."""
    if repeat:
        return rng.integers(0, keys, (length, count, 2))
    shuffled = rng.permuted(numpy.broadcast_to(numpy.arange(keys), (2, count, keys)), axis=2)
    return numpy.ascontiguousarray(shuffled.T)


def generate(rng: numpy.random.Generator, count: int, keys: int, repeat: bool) -> Split:
    """Return `count` training sequences: inputs (T + 1, count, 2), int64, and labels (count,).

    A sequence is T pairs and a query, whose second number is 0. T is `keys`, or 2 `keys` if keys repeat. The query is
    the key of a pair that is drawn uniformly. The label is the value of the last pair with this key.
    """
    pairs = draw_pairs(rng, count, keys, 2 * keys if repeat else keys, repeat)
    everyone = numpy.arange(count)
    queries = pairs[rng.integers(0, len(pairs), count), everyone, 0]
    last = len(pairs) - 1 - (pairs[::-1, :, 0] == queries).argmax(axis=0)
    question = numpy.stack([queries, numpy.zeros_like(queries)], axis=-1)
    return Split(numpy.concatenate([pairs, question[None]]), pairs[last, everyone, 1])


def questions(rng: numpy.random.Generator, count: int, keys: int, length: int, repeat: bool) -> list[Questions]:
    """Return `count` sequences, each with one query for every key in it, in the keys' order, MOST_QUERIES at most."""
    found = []
    for sequence in draw_pairs(rng, count, keys, length, repeat).swapaxes(0, 1):
        queries, first_from_the_end = numpy.unique(sequence[::-1, 0], return_index=True)
        labels = sequence[len(sequence) - 1 - first_from_the_end, 1]
        found.append(Questions(sequence, queries[:MOST_QUERIES], labels[:MOST_QUERIES]))
    return found
