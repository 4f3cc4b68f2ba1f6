"""Recall over a long range: its sequences, the arms, and what a run reports."""

from __future__ import annotations

import numpy
import pytest

from tasks.recall.long_range import FILLERS, KEYS, VOCABULARY, Format, generate

VARIANTS = ("plain", "delay", "bigram", "rebind")


def rng(seed: int = 0) -> numpy.random.Generator:
    return numpy.random.default_rng(seed)


# ----------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_query_is_answered_by_the_value_that_was_stored_last_with_its_key(variant):
    form = Format(variant, 8, 40)
    data = generate(rng(), 50, form)
    assert data.tokens.shape == (form.length, 50)
    assert data.tokens.min() >= 0
    assert data.tokens.max() < VOCABULARY
    width = 2 if variant == "bigram" else 1
    stored = sum(form.stored)
    for tokens, *places in zip(data.tokens.T, data.steps, data.labels, data.keys, data.values, strict=True):
        queried = set()
        for step, label, key, value in zip(*places, strict=True):
            asked = tuple(tokens[step - width + 1 : step + 1])
            assert asked == tuple(tokens[key - width + 1 : key + 1])
            assert tokens[step + 1] == tokens[value] == label >= FILLERS + KEYS
            assert value - key == (2 if variant == "delay" else 1)
            assert key < value < stored < stored + form.gap <= step - width + 1
            ends = [n for n in range(width - 1, stored) if tuple(tokens[n - width + 1 : n + 1]) == asked]
            assert ends[-1] == key, "the last one counts"
            assert len(ends) == (2 if variant == "rebind" else 1)
            queried.add(asked)
        assert len(queried) == 8
        assert (tokens[stored : stored + form.gap] < FILLERS).all()


def test_a_token_of_a_bigram_leaves_two_values():
    data = generate(rng(), 20, Format("bigram", 8, 40))
    for tokens, keys in zip(data.tokens.T, data.keys, strict=True):
        for part in (tokens[keys - 1], tokens[keys]):
            assert sorted(numpy.unique(part, return_counts=True)[1]) == 4 * [2]


def test_both_halves_of_rebound_keys_have_every_key():
    data = generate(rng(), 20, Format("rebind", 8, 40))
    for half in (data.tokens[:32], data.tokens[32:64]):
        of_keys = numpy.where((half >= FILLERS) & (half < FILLERS + KEYS), half, 0)
        assert all(len(set(column)) == 9 for column in of_keys.T.tolist())
    assert data.keys.min() >= 32


def test_places_of_pairs_are_random_and_a_chunk_cuts_as_many_as_predicted():
    """A pair starts at each of 39 places with about the same probability. Chunks of 8 cut it at 4 of these."""
    data = generate(rng(), 20_000, Format("plain", 8, 40))
    shares = numpy.bincount(data.keys.ravel(), minlength=39) / data.keys.size
    assert len(shares) == 39
    assert shares[1:-1] == pytest.approx(1 / 39, abs=2e-3)
    assert data.is_cut(8).mean() == pytest.approx(shares[7:39:8].sum())
    assert not data.is_in_its_chunk(16).any()
    near = generate(rng(), 500, Format("plain", 8, 8))
    inside = near.is_in_its_chunk(64)
    assert (near.steps[inside] < 64).all()
    assert (near.steps[~inside] >= 64).all()


def test_a_batch_has_the_queries_of_its_sequences():
    data = generate(rng(), 5, Format("plain", 8, 40))
    (tokens, steps, columns), labels = data.batch(numpy.array([3, 0]))
    numpy.testing.assert_array_equal(tokens, data.tokens[:, [3, 0]])
    assert columns.tolist() == 8 * [0] + 8 * [1]
    numpy.testing.assert_array_equal(tokens[steps + 1, columns], labels)
