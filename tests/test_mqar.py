"""Multi-query associative recall: its sequences, and the network of blocks without an MLP."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy
import pytest

from tasks import mqar
from tasks.__main__ import main
from tasks.recall import mixing, multi_query
from tasks.recall.multi_query import Segment
from tests.small import options
from tests.test_keyvalue import assert_gradients, rng

LAYERS = ("sum", "decay", "gated", "delta", "gated_delta", "softmax")
SMALL = mqar.Settings(tokens=16, pairs=2, vocabulary=12, training_size=12, batch_size=6, hidden_size=4)


# ----------------------------------------------------------------------------------------------------------------- data


def test_sequences_are_pairs_and_then_queries_among_fillers():
    tokens, steps, labels, *_ = multi_query.generate(rng(), Segment(32, 5, 300), 24)
    assert tokens.shape == (32, 300)
    for sequence, asked, answers in zip(tokens.T, steps, labels, strict=True):
        pairs, rest = sequence[:10], sequence[10:]
        keys, values = pairs[0::2].tolist(), pairs[1::2].tolist()
        assert 1 <= min(keys) <= max(keys) < 12 <= min(values) <= max(values) < 24
        assert len(set(keys)) == len(set(values)) == 5
        assert sorted(rest[rest > 0]) == sorted(keys)
        assert (asked % 2 == 0).all()
        found = zip(sequence[asked].tolist(), answers.tolist(), strict=True)
        assert dict(zip(keys, values, strict=True)) == dict(found)


def test_keys_differ_where_almost_all_keys_are_needed():
    tokens, *_ = multi_query.generate(rng(), Segment(32, 8, 2000), 18)
    keys = tokens[0:16:2]
    assert (numpy.sort(keys, axis=0) == numpy.arange(1, 9)[:, None]).all()
    for place in keys:
        assert abs(numpy.bincount(place)[1:] / 250 - 1).max() < 0.25, "each key is as likely in each place"


def test_keys_values_and_gaps_are_drawn_as_published():
    tokens, steps, *_ = multi_query.generate(rng(), Segment(16, 3, 40_000), 12)
    counts = numpy.bincount(tokens[:6].ravel(), minlength=12)
    for half in (counts[1:6], counts[6:]):
        assert abs(half / half.mean() - 1).max() < 0.03
    p = numpy.arange(1, 6) ** (multi_query.POWER - 1)
    first = numpy.bincount((steps[:, 0] - 6) // 2, minlength=5) / 40_000
    numpy.testing.assert_allclose(first, p / p.sum(), atol=0.01)
    theirs = [numpy.random.default_rng(seed).choice(5, 3, replace=False, p=p / p.sum()) for seed in range(4000)]
    ours = (steps[:, 2] - 6) // 2  # the last of the three, which depends on the others
    numpy.testing.assert_allclose(
        numpy.bincount(ours, minlength=5) / 40_000,
        numpy.bincount([each[2] for each in theirs], minlength=5) / 4000, atol=0.03,
    )  # fmt: skip


def test_formats_are_joined_by_fillers_and_missing_queries():
    parts = [multi_query.generate(rng(), Segment(8, 1, 2), 12), multi_query.generate(rng(), Segment(16, 3, 2), 12)]
    data = multi_query.joined(parts)
    assert data.tokens.shape == (16, 4)
    assert not data.tokens[8:, :2].any()
    (tokens, steps, columns, seeds), labels = data.batch(numpy.array([3, 0]))
    assert columns.tolist() == [0, 0, 0, 1]
    assert seeds is None
    numpy.testing.assert_array_equal(labels, [*parts[1].labels[1], *parts[0].labels[0]])
    numpy.testing.assert_array_equal(steps, [*parts[1].steps[1], *parts[0].steps[0]])
    numpy.testing.assert_array_equal(tokens[:, 0], parts[1].tokens[:, 1])


# -------------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("convolution", [0, 3])
def test_the_gradients_of_the_network_are_those_of_its_loss(layer, convolution):
    own = {} if layer == "softmax" else {"feature_map": "elu"}
    net = mqar.network(replace(SMALL, layer=layer, convolution=convolution, **own))
    params = net.init(rng(), "float64")
    for block in ("block1", "block2"):  # small at first, so that their gradients would be, too
        params[block]["output"]["weight"] *= 30
    data = multi_query.joined([multi_query.generate(rng(), Segment(*each, 3), 12) for each in ((16, 2), (8, 1))])
    assert_gradients(net, params, *data._replace(seed=7).batch(numpy.arange(6)))


@pytest.mark.parametrize("layer", ["gated_delta", "softmax"])
def test_no_logit_depends_on_a_later_token(layer):
    net = mqar.network(replace(SMALL, layer=layer, feature_map="identity", convolution=2))
    params = net.init(rng(), "float64")
    tokens = rng().integers(0, 12, (16, 1))
    where = numpy.array([9]), numpy.array([0])
    first, _ = net.forward(params, (tokens, *where, None))
    for step, same in ((10, True), (9, False), (8, False)):
        changed = tokens.copy()
        changed[step] = (changed[step] + 1) % 12
        second, _ = net.forward(params, (changed, *where, None))
        assert numpy.array_equal(first, second) == same


def test_dropout_depends_on_the_sequence_alone_and_keeps_the_mean():
    net = mixing.MixingNetwork(12, 64, "sum", dropout=0.25)
    params = net.init(rng())
    data = multi_query.generate(rng(), Segment(16, 2, 8), 12)
    seeded = data.augmented(rng())
    inputs, _ = seeded.batch(numpy.arange(8))
    again, _ = seeded.batch(numpy.arange(8))
    other, _ = seeded.batch(numpy.arange(7, -1, -1))
    kept, too, different = (net.forward(params, each)[1][4] for each in (inputs, again, other))
    numpy.testing.assert_array_equal(kept, too)
    numpy.testing.assert_array_equal(kept, different[:, ::-1])
    assert not numpy.array_equal(kept[:, 0], kept[:, 1]), "each sequence has its own"
    later, _ = data.augmented(rng(1)).batch(numpy.arange(8))
    assert not numpy.array_equal(kept, net.forward(params, later)[1][4]), "each epoch has its own"
    assert set(numpy.unique(kept)) == {0, numpy.float32(4 / 3)}
    assert kept.mean() == pytest.approx(1, abs=0.05)
    assert net.forward(params, data.batch(numpy.arange(8))[0])[1][4] is None


def test_the_short_convolution_weighs_the_last_steps():
    u, weight = rng().normal(size=(5, 2, 3)), rng(1).normal(size=(3, 3))
    padded = numpy.concatenate([numpy.zeros((2, 2, 3)), u])
    expected = sum(weight[j] * padded[2 - j : 7 - j] for j in range(3))
    numpy.testing.assert_allclose(mixing.convolved(u, weight), expected)
    assert mixing.convolved(u[:1], weight).shape == (1, 2, 3), "shorter than the convolution"


# ------------------------------------------------------------------------------------------------------------------ run


@pytest.mark.parametrize(("accuracy", "stops"), [(0.99, False), (0.9901, True)])
def test_training_ends_above_99_percent(accuracy, stops):
    assert mqar.Settings().stops([{"validation_error": 0.0}, {"validation_error": 1 - accuracy}]) == stops
    assert not mqar.Settings().stops([])


def test_the_mixture_is_zoologys():
    training, validation, test = mqar.Settings(mix=True, training_size=100_000, test_size=7000).formats
    assert training == [(64, 4, 100_000), (128, 8, 20_000), (256, 16, 20_000), (256, 32, 20_000), (256, 64, 20_000)]
    assert [each[:2] for each in validation] == [each[:2] for each in test]
    assert test[-1] == (1024, 256, 1000)


def test_a_run_of_the_mixture_reports_each_format(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mqar, "MIX", ((20, 3),))
    monkeypatch.setattr(mqar, "MIX_TESTS", ((16, 2), (24, 4)))
    words = [*options("mqar", tmp_path), "--mix", "--layer", "softmax", "--epochs", "1", "--out", str(tmp_path / "run")]
    words = [word for word in words if word not in ("--tokens", "16")]
    assert main(words) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["test_error_by_format"]) == ["16/2", "24/4"]
    assert result["test_error"] == pytest.approx(numpy.mean(list(result["test_error_by_format"].values())))
    assert "24/4 (tokens/pairs): accuracy" in capsys.readouterr().out


def test_a_small_task_is_learned(tmp_path):
    words = "--tokens 8 --pairs 1 --vocabulary 8 --training-size 512 --batch-size 16 --hidden-size 16 --dropout 0"
    more = "--epochs 30 --validation-size 64 --test-size 64 --learning-rate 0.01 --layer gated_delta --convolution 2"
    assert main(["mqar", *words.split(), *more.split(), "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test_error"] < 0.05
    assert len(result["curve"]) < 30, "training ends above 99 %"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tokens 15 --pairs 2", "tokens: expected an even number, got 15"),
        ("--tokens 64 --pairs 17", "tokens: expected at least 4 for each of the 17 pairs, 68, got 64"),
        ("--vocabulary 8", "vocabulary: expected at least 10, for sequences with 4 pairs, got 8"),
        ("--mix --pairs 8", "pairs: the mixture does not use it"),
        ("--dropout 1", "dropout: expected a number below 1, got 1"),
        ("--training-size 100", "batch_size: expected at most training_size, 100, got 512"),
        ("--layer sum --decay 0", "decay: expected a number above 0, got 0.0; raise it"),
        ("--hidden-size 1 --feature-map dpfp-3", "feature_map: expected a ν of at most 2, twice the size of keys, got"),
        ("--layer gated --decay 0.9", "decay: the layer gated does not use it"),
    ],
)
def test_settings_that_cannot_be_used_are_named(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["mqar", *words.split(), "--out", str(tmp_path / "run")])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
