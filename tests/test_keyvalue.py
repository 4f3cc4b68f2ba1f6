"""Synthetic retrieval: its sequences, the read of each write rule, and the published code's evaluation and end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import autograd
import autograd.numpy as anp
import numpy
import pytest

from fastweights_np import checkpoint
from fastweights_np.network import Model
from fastweights_np.transformer import Transformer
from fastweights_np.trees import flatten
from tasks import keyvalue
from tasks.__main__ import main
from tasks.recall import attention, pairs, reading
from tasks.recall.mixing import MixingNetwork
from tasks.recall.retriever import MemoryRetriever, OneHotReadout, PairEncoder
from tasks.running import runs
from tests.small import options

LAYERS = ("sum", "decay", "delta", "gated_delta", "softmax", "fast_weights")


def rng(seed: int = 0) -> numpy.random.Generator:
    return numpy.random.default_rng(seed)


# ----------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("repeat", [False, True])
def test_the_label_is_the_value_of_the_last_pair_with_the_queried_key(repeat):
    inputs, labels = pairs.generate(rng(), 200, 7, repeat)
    assert inputs.shape == (15 if repeat else 8, 200, 2)
    for n, label in enumerate(labels):
        *sequence, (query, _) = inputs[:, n].tolist()
        assert dict(map(tuple, sequence))[query] == label, "a dict keeps the last value"
        if not repeat:
            keys, values = zip(*sequence, strict=True)
            assert sorted(keys) == sorted(values) == list(range(7))
    of_sequences = {tuple(map(tuple, inputs[:-1, n].tolist())) for n in range(200)}
    assert len(of_sequences) == 200


def test_a_queried_key_is_that_of_a_pair_drawn_uniformly():
    """So that with repeated keys, a key that stands twice is queried twice as often."""
    inputs, _ = pairs.generate(rng(), 40_000, 2, True)
    keys, queries = inputs[:-1, :, 0], inputs[-1, :, 0]
    once = (keys == 0).sum(axis=0) == 1  # of four pairs
    assert (queries[once] == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert inputs[:-1].mean() == pytest.approx(0.5, abs=0.01)
    inputs, _ = pairs.generate(rng(), 20_000, 5, False)
    places = (inputs[:-1, :, 0] == inputs[-1, :, 0]).argmax(axis=0)
    numpy.testing.assert_allclose(numpy.bincount(places) / 20_000, 0.2, atol=0.01)


def test_questions_ask_for_every_key_of_a_sequence_once():
    found = pairs.questions(rng(), 30, 9, 9, True)
    for sequence, queries, labels in found:
        assert sequence.shape == (9, 2)
        assert queries.tolist() == sorted(set(sequence[:, 0].tolist()))
        assert [dict(map(tuple, sequence.tolist()))[query] for query in queries] == labels.tolist()
    assert {len(each.queries) for each in found} > {9 - 3}
    assert len(pairs.questions(rng(), 1, 300, 300, False)[0].queries) == pairs.MOST_QUERIES


# ---------------------------------------------------------------------------------------------------------------- reads


def read(rule, k, q, gates, decay, values):
    """Return what queries read of the memory itself, written pair by pair: the definition, for autograd."""
    S = z = 0.0
    for t in range(k.shape[1]):
        k_t, v_t = k[:, t], values[:, t]
        if rule in reading.GATES:
            S = S * (gates[:, t, 1, None, None] if rule == "gated_delta" else 1)
            e = v_t - (anp.einsum("bvp,bp->bv", S, k_t) if t else 0)
            S = S + gates[:, t, 0, None, None] * e[:, :, None] * k_t[:, None]
        else:
            S, z = decay * S + v_t[:, :, None] * k_t[:, None], decay * z + k_t
    y = anp.einsum("bvp,bnp->bnv", S, q)
    return y if rule in reading.GATES else y / (anp.einsum("bp,bnp->bn", z, q)[..., None] + reading.EPSILON)


@pytest.mark.parametrize("rule", [rule for rule in reading.RULES if rule != "softmax"])
def test_the_weights_and_their_gradients_are_those_of_the_written_memory(rule):
    draw, (B, T, N, p) = rng(), (3, 6, 2, 5)
    k, q = draw.random((B, T, p)), draw.random((B, N, p))
    logits = draw.normal(size=(B, T, reading.GATES.get(rule, 0)))
    values, dy, decay = draw.normal(size=(B, T, 4)), draw.normal(size=(B, N, 4)), 0.8

    def loss(k, q, logits, decay):
        return anp.sum(dy * read(rule, k, q, 1 / (1 + anp.exp(-logits)), decay, values))

    w, cache = reading.forward(rule, k, q, logits, decay)
    assert (dy * (w @ values)).sum() == pytest.approx(loss(k, q, logits, decay), rel=1e-12)
    found = reading.backward(dy @ values.swapaxes(1, 2), cache)
    used = 4 if rule not in reading.GATES else 3
    for n in range(used):
        if n == 2 and rule not in reading.GATES:
            continue
        expected = autograd.grad(loss, n)(k, q, logits, decay)
        numpy.testing.assert_allclose(found[n], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradient_are_those_of_softmax(causal):
    draw = rng()
    k, q, dw = draw.normal(size=(2, 4, 3)), draw.normal(size=(2, 4, 3)), draw.normal(size=(2, 4, 4))
    mask = numpy.where(numpy.triu(numpy.ones((4, 4)), 1) * causal, -1e9, 0.0)

    def loss(k, q):
        scores = anp.exp(anp.einsum("bnp,btp->bnt", q, k) / 3**0.5 + mask)
        return anp.sum(dw * scores / anp.sum(scores, axis=-1, keepdims=True))

    w, cache = attention.weights(k, q, causal)
    assert (dw * w).sum() == pytest.approx(loss(k, q), rel=1e-12)
    for n, found in enumerate(attention.weights_backward(dw, cache)):
        numpy.testing.assert_allclose(found, autograd.grad(loss, n)(k, q), rtol=1e-10, atol=1e-12)


def assert_gradients(model: Model, params, inputs, labels, few: int = 4) -> None:
    """Compare the gradients with finite differences, at a few entries of each parameter."""
    flat, draw = flatten(params), rng(1)
    _, grads = model.loss_and_gradients(params, inputs, labels)
    found = flatten(grads)
    assert found.keys() == flat.keys()
    for name, array in flat.items():
        for _ in range(few):
            place = tuple(draw.integers(0, array.shape))
            before, losses = array[place], []
            for shift in (1e-6, -1e-6):
                array[place] = before + shift
                losses.append(float(model.loss_and_gradients(params, inputs, labels)[0]))
            array[place] = before
            assert found[name][place] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("feature_map", ["elu", "dpfp-2"])
def test_the_gradients_of_a_model_are_those_of_its_loss(layer, feature_map):
    own = {} if layer in ("softmax", "fast_weights") else {"feature_map": feature_map}
    model = keyvalue.model(keyvalue.Settings(layer=layer, keys=5, hidden_size=4, **own))
    params = model.init(rng(), "float64")
    assert_gradients(model, params, *pairs.generate(rng(), 3, 5, True))


def test_the_loss_is_half_the_squared_error_of_a_one_hot_vector():
    values = rng().normal(size=(3, 5))
    labels = numpy.array([4, 0, 2])
    loss, dvalues = OneHotReadout(5).loss(values, labels)
    assert loss == pytest.approx(0.5 * ((values - numpy.eye(5)[labels]) ** 2).sum(axis=1).mean())
    numpy.testing.assert_allclose(dvalues, (values - numpy.eye(5)[labels]) / 3)


def test_weights_start_as_in_the_published_code():
    params = PairEncoder(50, 16, extra=1).init(rng())
    assert params["table"].shape == (50, 110)
    assert params["table"].std() == pytest.approx(1, abs=0.03)
    for name, fan in (("pairs", 160), ("queries", 110)):
        assert abs(params[name]["weight"][:16]).max() == pytest.approx(1 / 4, rel=0.02)
        assert abs(params[name]["bias"]).max() < fan**-0.5
    assert abs(params["pairs"]["weight"][16]).max() == pytest.approx(160**-0.5, rel=0.05)
    gated = MemoryRetriever(50, 16, "gated_delta").init(rng())["encoder"]["pairs"]["bias"]
    forgetting = MemoryRetriever(50, 16, "decay").init(rng())["gate_bias"]
    assert [gated[-1], forgetting] == pytest.approx(2 * [numpy.log(31)]), "γ and λ start at 1 - 1/32"
    xavier = PairEncoder(50, 16, xavier=True).init(rng())
    assert abs(xavier["pairs"]["weight"]).max() == pytest.approx((6 / 176) ** 0.5, rel=0.02)
    assert abs(xavier["queries"]["weight"]).max() == pytest.approx((6 / 126) ** 0.5, rel=0.02)


def test_gates_that_keep_everything_make_the_gated_rule_the_delta_rule():
    k, q, strength = rng().random((2, 5, 3)), rng(1).random((2, 1, 3)), rng(2).normal(size=(2, 5, 1))
    gated = numpy.concatenate([strength, numpy.full_like(strength, 50)], axis=-1)
    first, second = reading.forward("delta", k, q, strength)[0], reading.forward("gated_delta", k, q, gated)[0]
    numpy.testing.assert_allclose(first, second, rtol=1e-12)


# ----------------------------------------------------------------------------------------------- evaluation and the end


@pytest.mark.parametrize("layer", ["delta", "fast_weights"])
def test_the_evaluation_loss_is_the_mean_of_the_means_of_32_queries(layer):
    settings = keyvalue.Settings(layer=layer, keys=40, hidden_size=4)
    model = keyvalue.model(settings)
    params = model.init(rng())
    asked = pairs.questions(rng(), 2, 40, 40, False)
    means, wrong = [], 0
    for sequence, queries, labels in asked:
        question = numpy.stack([queries, 0 * queries], axis=-1)[None]
        repeated = numpy.broadcast_to(sequence[:, None], (40, 40, 2))
        y, _ = model.forward(params, numpy.concatenate([repeated, question]))
        losses = 0.5 * ((y - numpy.eye(40)[labels]) ** 2).sum(axis=1)
        means += [losses[:32].mean(), losses[32:].mean()]
        wrong += (y.argmax(axis=1) != labels).sum()
    loss, error = keyvalue.evaluate(model, params, asked)
    assert loss == pytest.approx(numpy.mean(means), rel=1e-5)
    assert error == wrong / 80


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([], False),
        ([0.5, 0.001], True),
        ([0.5, 0.0011], False),
        ([0.3] + 10 * [0.4], False),
        ([0.3] + 11 * [0.4], True),
        ([0.3] + 11 * [0.3], True),  # an equal loss is no progress
        ([0.3] + 10 * [0.4] + [0.2], False),
    ],
)
def test_training_ends_when_solved_or_after_eleven_evaluations_without_progress(losses, stops):
    assert keyvalue.Settings().stops([{"validation_loss": loss} for loss in losses]) == stops


def test_a_small_task_is_solved_and_training_ends_there(tmp_path, capsys):
    assert main(["keyvalue", "--keys", "4", "--hidden-size", "16", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["validation_loss"] <= keyvalue.SOLVED
    assert result["updates"] == 100 * len(result["curve"]) < 5000
    assert result["test_error"] == 0
    assert result["test_loss"] < 2e-3
    assert "least evaluation loss 0.000" in capsys.readouterr().out


def test_repeated_keys_are_also_tested_as_they_were_trained(tmp_path):
    words = ["--layer", "decay", "--repeat", "--keys", "4", "--hidden-size", "4", "--epochs", "1"]
    assert main(["keyvalue", *words, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < result["test_loss_of_longer"] != result["test_loss"]
    assert result["decay"] == pytest.approx(1 - 2**-5, abs=0.02)


def test_every_evaluation_draws_new_sequences_of_s_pairs(tmp_path, monkeypatch):
    evaluate, given = keyvalue.evaluate, []

    def noting(network, params, questions, device):
        given.append(questions)
        return evaluate(network, params, questions, device)

    monkeypatch.setattr(keyvalue, "evaluate", noting)
    words = ["--repeat", "--keys", "5", "--hidden-size", "2", "--epochs", "2", "--out", str(tmp_path / "run")]
    assert main(["keyvalue", *words]) == 0
    assert [(len(each), len(each[0].pairs)) for each in given] == [(20, 5), (20, 5), (200, 5), (200, 10)]
    sequences = [numpy.stack([question.pairs for question in each[:20]]) for each in given[:3]]
    for n, one in enumerate(sequences):
        for other in sequences[:n]:
            assert not numpy.array_equal(one, other)


@pytest.mark.parametrize("task", ["keyvalue", "mqar", "longrecall", "text"])
def test_an_interrupted_run_ends_in_the_same_bits(task, tmp_path, monkeypatch):
    """Sequences and dropout of the rest of the epoch are drawn again."""
    words = options(task, tmp_path)
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    kind: Any = {"keyvalue": MemoryRetriever, "mqar": MixingNetwork}.get(task, Transformer)
    name, count = "loss_and_gradients" if kind is Transformer else "forward", 0
    original = getattr(kind, name)

    def interrupted(self, *arguments, **options):
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, **options)

    monkeypatch.setattr(kind, name, interrupted)
    assert main([*words, "--out", str(tmp_path / "run")]) == runs.INTERRUPTED
    assert main([task, "--resume", str(tmp_path / "run")]) == 0
    one, other = (checkpoint.load(tmp_path / name / "checkpoint.npz")[0] for name in ("whole", "run"))
    for (name, first), second in zip(flatten(one).items(), flatten(other).values(), strict=True):
        numpy.testing.assert_array_equal(first, second, err_msg=name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--keys 1", "keys: expected at least 2, got 1"),
        ("--layer softmax --feature-map dpfp-1", "feature_map: the layer softmax does not use it"),
        ("--hidden-size 1 --feature-map dpfp-3", "feature_map: expected a ν of at most 2, twice the size of keys, got"),
        ("--layer delta --decay 0.5", "decay: the layer delta does not use it"),
    ],
)
def test_settings_that_cannot_be_used_are_named(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["keyvalue", *words.split(), "--out", str(tmp_path / "run")])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not Path(tmp_path / "run").exists()
