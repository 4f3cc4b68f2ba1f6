"""Recall over a long range: its sequences, the arms, and what a run reports."""

from __future__ import annotations

import json
import re

import numpy
import pytest

from tasks import longrecall
from tasks.__main__ import main
from tasks.language import reading
from tasks.language.settings import without_writes
from tasks.longrecall import Settings
from tasks.recall.long_range import FILLERS, KEYS, VOCABULARY, Format, generate
from tests.small import options

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


# ----------------------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize(
    ("layer", "learned", "taps"),
    [
        ("next_token", set(), (1,)),
        ("learned", {"kernel", "target"}, (-2, -1, 0, 1, 2)),
        ("convolution", {"kernel"}, (-2, -1, 0, 1, 2)),
        ("matrix", {"target"}, (1,)),
        ("reconstruction", set(), (0,)),
        ("window", set(), None),
        ("full", set(), None),
    ],
)
def test_a_layer_is_a_target_of_the_last_block_or_attention_alone(layer, learned, taps):
    net = Settings(layer=layer, hidden_size=8).network(VOCABULARY)
    params = net.init(rng())
    assert set(params["block2"]["mlp"]) - {"gate", "up", "down"} == learned
    assert set(params["block1"]["mlp"]) == {"gate", "up", "down"}
    assert net.written == ((2,) if taps else ())
    assert net.options.get("taps") == taps
    assert net.window == (None if layer == "full" else 16)


def test_options_of_the_fast_weights_reach_the_network():
    settings = Settings(layer="learned", written="all", decay=0.5, rate=2, chunk=8, across=True, window=4)
    net = settings.network(VOCABULARY)
    expected = {"decay": 0.5, "rate": 2, "chunk": 8, "taps": (-2, -1, 0, 1, 2), "across": True}
    assert (net.written, net.window, net.options) == ((1, 2), 4, expected)
    assert without_writes(net).options == expected | {"rate": 0}


def test_the_learning_rate_grows_in_the_first_updates():
    settings = Settings(learning_rate=1, warmup=4)
    assert [settings.rate_at(update, 10) for update in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_contributions_are_what_the_memory_returns():
    net = Settings(layer="next_token", hidden_size=8, chunk=1, across=True, decay=0.5).network(VOCABULARY)
    params, tokens = net.init(rng(), "float64"), rng().integers(0, VOCABULARY, (5, 2))
    found = reading.contributions(net, params, tokens)
    z, written = reading.memory(net.forward(params, tokens)[1])
    first = written[:, 0, 0, :, None] * z[:, 0, None]  # the outer product of the first step
    for t, decay in ((1, 1), (2, 0.5), (4, 0.125)):
        read = decay * numpy.einsum("bdf,bf->bd", first, z[:, t])
        numpy.testing.assert_allclose(abs(found[:, t, 0]), numpy.linalg.norm(read, axis=1))
    assert not numpy.triu(found).any(), "a step reads what earlier chunks have written"


# --------------------------------------------------------------------------------------------------------------- report


def test_accuracies_are_reported_by_cut_chunk_and_distance():
    settings = Settings(gap=8, chunk=64)
    data = generate(rng(), 200, settings.format)
    right = ~data.is_in_its_chunk(64)
    found = longrecall.written(settings, data, right)
    assert found["accuracy_of"] == {"not_cut": right.mean(), "in_chunk": 0, "beyond_chunk": 1}
    assert found["ceiling"] == 1
    found = longrecall.by_distance(data, right)
    distances = data.steps - data.keys
    assert sum(found["queries"]) == right.size
    for start, accuracy in zip(found["from"], found["accuracy"], strict=True):
        inside = (distances >= start) & (distances < start + longrecall.BIN)
        assert accuracy == pytest.approx(right[inside].mean())
    cut = data.is_cut(8)
    found = longrecall.written(Settings(chunk=8), data, ~cut)
    assert found["ceiling"] == pytest.approx(1 - cut.mean() * 31 / 32)
    assert found["accuracy_of"]["cut"] == 0


@pytest.mark.parametrize(
    ("chunk", "reported"), [(1, "100.00% of all, accuracy .*%; others -;"), (64, "0.00% of all, accuracy -;")]
)
def test_a_kind_of_pair_that_no_test_sequence_has_is_reported_without_an_accuracy(chunk, reported, tmp_path, capsys):
    words = [*options("longrecall", tmp_path), "--epochs", "1", "--learning-rate", "0", "--chunk", str(chunk)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert re.search(reported, capsys.readouterr().out)


def test_levels_are_reached_above_them_or_never():
    curve = [{"update": 25 * n, "validation_error": error} for n, error in ((1, 0.9), (2, 0.5), (3, 0.05), (4, 0.2))]
    assert longrecall.updates_to(curve) == {"10": 50, "50": 75, "90": 75}
    assert longrecall.updates_to(curve[:2]) == {"10": 50, "50": None, "90": None}


@pytest.mark.parametrize("layer", ["learned", "window"])
def test_a_run_reports_what_it_recalls_without_fast_weights(layer, tmp_path, capsys):
    words = options("longrecall", tmp_path)
    assert main([*words, "--layer", layer, "--learning-rate", "0.03", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert ("test_error_without_writes" in result) == ("ceiling" in result) == (layer == "learned")
    assert ("with η = 0" in capsys.readouterr().out) == (layer == "learned")
    pictures = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {"learning_curve.png", "distance.png", *(["writes.png"] if layer == "learned" else [])}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pairs 33", "pairs: expected at most 32, the number of keys, got 33"),
        ("--variant bigram --pairs 7", "pairs: expected an even number of at least 4 for bigram, got 7"),
        ("--gap -1", "gap: expected at least 0, got -1"),
        ("--hidden-size 20", "hidden_size: expected a multiple of 8, got 20"),
        ("--decay 0", "decay: expected a number above 0, got 0.0; pass --rate 0 for no memory"),
        ("--layer window --chunk 8", "chunk: the layer window does not use it"),
        ("--layer full --window 8", "window: the layer full does not use it"),
        ("--layer reconstruction --across", "across: the layer reconstruction does not use it"),
        ("--rate 0 --chunk 8", "chunk: a layer with rate 0 does not use it"),
    ],
)
def test_settings_that_cannot_be_used_are_named(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["longrecall", *words.split(), "--out", str(tmp_path / "run")])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
