"""IRNN, LSTM and associative LSTM as their users meet them. Their gradients are the audit's business."""

from __future__ import annotations

import re

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import associative_lstm, irnn, lstm

T, B, I, H = 5, 3, 4, 6  # noqa: E741
LAYERS = [irnn, lstm, associative_lstm]
OTHER_STATES = {irnn: {}, lstm: {"c0": (B, H)}, associative_lstm: {"c0": (B, 4, H)}}  # initial states other than h0


def made(layer, dtype="float64", **options):
    rng = numpy.random.default_rng(0)
    params = layer.init(rng, I, H, dtype=dtype, **options)
    x, dh = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    states = {"h0": rng.standard_normal((B, H))}
    states |= {name: rng.standard_normal(shape) for name, shape in OTHER_STATES[layer].items()}
    return params, x.astype(dtype), dh.astype(dtype), {name: value.astype(dtype) for name, value in states.items()}


def test_two_steps_of_an_irnn_by_hand():
    params = {"W": numpy.array([[0.5]]), "C": numpy.array([[2.0]]), "b": numpy.array([-1.0])}
    h, _ = irnn.forward(params, numpy.array([[[3.0]], [[-1.0]]]), numpy.array([[4.0]]))
    numpy.testing.assert_allclose(h.reshape(-1), [0.5 * 4 + 2 * 3 - 1, max(0.5 * 7 - 2 - 1, 0)])


def test_a_step_of_an_lstm_by_hand():
    """Gates held open or shut by their biases, so that the cell can be followed."""
    shut, opened = -50.0, 50.0
    params = {"W": numpy.zeros((4, 1, 1)), "C": numpy.zeros((4, 1, 1)), "b": numpy.zeros((4, 1))}
    for i, f, cell in ((opened, shut, numpy.tanh(0.3)), (shut, opened, 0.7), (opened, opened, 0.7 + numpy.tanh(0.3))):
        params["b"][:, 0] = i, f, 0.3, opened
        h, cache = lstm.forward(params, numpy.zeros((1, 1, 1)), c0=numpy.array([[0.7]]))
        numpy.testing.assert_allclose(lstm.final_state(cache).c, [[cell]])
        numpy.testing.assert_allclose(h, [[[numpy.tanh(cell)]]])


def test_an_associative_lstm_finds_what_it_stored_by_its_key():
    """One pair, written with a key of modulus 1 and read with the conjugate key: every copy gives the value back."""
    size, shut, opened = 3, -50.0, 50.0
    key = numpy.exp(1j * numpy.array([0.3, 2.0, -1.2]))
    value = numpy.array([0.5 + 0.1j, -0.2j, 0.4])
    b = numpy.zeros((9, size))
    f, i, o = slice(0, 1), slice(1, 2), slice(2, 3)
    b[f], b[i], b[o] = shut, opened, opened
    b[3:6], b[6:9] = [key.real, key.real, value.real], [key.imag, -key.imag, value.imag]
    params = {"W": numpy.zeros((9, size, 2 * size)), "C": numpy.zeros((9, size, 1)), "b": b}
    h, _ = associative_lstm.forward(params, numpy.zeros((1, 1, 1)))
    numpy.testing.assert_allclose(h[0, 0], [*value.real, *value.imag], atol=1e-12)


def test_more_copies_retrieve_with_less_noise():
    """What redundancy is for: of ten random pairs each is read with an error that falls as copies are added."""
    size, pairs = 50, 10
    rng = numpy.random.default_rng(0)
    keys, values = numpy.exp(2j * numpy.pi * rng.random((2, pairs, size)))
    errors = []
    for copies in (1, 4, 16):
        order = associative_lstm.permutations(copies, size)
        memory = sum(key[order] * value for key, value in zip(keys, values, strict=True))
        read = [(key.conj()[order] * memory).mean(axis=0) for key in keys]
        errors.append(numpy.abs(numpy.array(read) - values).mean())
    assert errors[0] > 1.5 * errors[1]
    assert errors[1] > 1.5 * errors[2]


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_shared_value_is_the_value_of_every_head(layer_norm):
    params, x, _, states = made(associative_lstm, heads=2, shared_value=True, layer_norm=layer_norm)
    gates, real, imaginary = [0, 1, 2], [3, 4, 5, 6, 7, 7], [8, 9, 10, 11, 12, 12]  # k1, k2, q1, q2, u, u
    repeated = {name: value[gates + real + imaginary] for name, value in params.items()}
    h, _ = associative_lstm.forward(params, x, **states, shared_value=True)
    numpy.testing.assert_allclose(h, associative_lstm.forward(repeated, x, **states)[0], atol=1e-13)


def test_without_a_recurrent_value_weights_of_values_are_neither_read_nor_trained():
    params, x, dh, states = made(associative_lstm, heads=1)
    values = [5, 8]  # real and imaginary part
    results = []
    for filling in (0.0, numpy.nan):
        params["W"][values] = filling
        h, cache = associative_lstm.forward(params, x, **states, recurrent_value=False)
        grads, *others = associative_lstm.backward(dh, cache)
        assert not grads["W"][values].any()
        assert grads["W"].any(axis=(1, 2)).sum() == 7
        results.append([h, *grads.values(), *others])
    assert numpy.isnan(params["W"][values]).all(), "an argument was changed"
    for one, other in zip(*results, strict=True):
        numpy.testing.assert_array_equal(one, other)


def test_init_follows_its_documentation():
    rng = numpy.random.default_rng(0)
    numpy.testing.assert_array_equal(irnn.init(rng, 9, 4)["W"], 0.5 * numpy.eye(4, dtype="float32"))
    numpy.testing.assert_array_equal(irnn.init(rng, 9, 4, recurrent_scale=1.0)["W"], numpy.eye(4, dtype="float32"))
    gates = lstm.init(rng, 9, 4, forget_bias=2.0)
    numpy.testing.assert_array_equal(gates["b"], [[0] * 4, [2] * 4, [0] * 4, [0] * 4])
    assert abs(gates["W"]).max() <= 0.5
    assert abs(gates["C"]).max() <= 1 / 3
    assert associative_lstm.init(rng, 9, 4, heads=2)["W"].shape == (15, 2, 4)
    assert associative_lstm.init(rng, 9, 4, heads=2, shared_value=True)["C"].shape == (13, 2, 9)
    normalized = lstm.init(rng, 9, 4, layer_norm=True)
    numpy.testing.assert_array_equal(normalized["bias"][1], numpy.ones(4))
    assert not normalized["b"].any()


@pytest.mark.parametrize(("batch_size", "hidden_size", "at_once"), [(128, 200, 1), (96, 80, 2)])
def test_an_lstm_of_any_size_has_the_gradients_of_its_sequences(batch_size, hidden_size, at_once):
    """Backward takes as many steps at once as a core's cache holds: of the first size not even one, of the second two.

    Of one sequence alone it takes all steps at once.
    """
    rng, steps = numpy.random.default_rng(0), 5
    params = lstm.init(rng, I, hidden_size)
    x, dh = (rng.standard_normal((steps, batch_size, size)).astype("float32") for size in (I, hidden_size))
    _, cache = lstm.forward(params, x)
    assert cache.buffers.steps_in_cache == at_once
    grads, dx, dh0 = lstm.backward(dh, cache)
    alone = [lstm.backward(dh[:, b : b + 1], lstm.forward(params, x[:, b : b + 1])[1]) for b in range(batch_size)]
    for name in params:
        expected = sum(each[name] for each, _, _ in alone)
        numpy.testing.assert_allclose(grads[name], expected, rtol=1e-3, atol=1e-3 * abs(expected).max(), err_msg=name)
    numpy.testing.assert_allclose(dx, numpy.concatenate([each for _, each, _ in alone], axis=1), rtol=1e-3, atol=1e-5)
    numpy.testing.assert_allclose(dh0, numpy.concatenate([each for _, _, each in alone]), rtol=1e-3, atol=1e-5)


def test_an_irnn_is_the_fast_weight_layer_without_fast_weights():
    params, x, dh, _ = made(irnn, layer_norm=True)
    options = {"inner_steps": 0, "normalize_preliminary": True}
    h, cache = fw.fast_weights.forward(params, x, **options)
    numpy.testing.assert_allclose(irnn.forward(params, x)[0], h, atol=1e-15)
    ours, theirs = irnn.backward(dh, irnn.forward(params, x)[1])[0], fw.fast_weights.backward(dh, cache)[0]
    for name, value in theirs.items():
        numpy.testing.assert_allclose(ours[name], value, atol=1e-12)


@pytest.mark.parametrize("layer", [lstm, associative_lstm])
def test_layer_norm_normalizes_each_map_by_itself(layer):
    """So a shift and a scale of each map change nothing; a real and an imaginary part are two maps."""
    params, x, _, states = made(layer, layer_norm=True)
    h, _ = layer.forward(params, x, **states)
    shifts = numpy.random.default_rng(1).standard_normal((len(params["b"]), 1))
    numpy.testing.assert_allclose(layer.forward(params | {"b": params["b"] + shifts}, x, **states)[0], h, atol=1e-12)
    scaled = {name: (1 + shifts**2).reshape(-1, *[1] * (params[name].ndim - 1)) * params[name] for name in "WCb"}
    numpy.testing.assert_allclose(layer.forward(params | scaled, x, **states)[0], h, atol=1e-3)
    assert abs(layer.forward(params | {"b": params["b"] + numpy.arange(len(params["b"][0]))}, x)[0] - h).max() > 0.1


@pytest.mark.parametrize("layer", LAYERS)
def test_large_inputs_overflow_nowhere(layer):
    """Neither σ nor bound may: warnings are errors here."""
    params, x, dh, _ = made(layer, "float32")
    h, cache = layer.forward(params, 1e4 * x)
    grads, dx, _ = layer.backward(dh, cache)
    for array in (h, dx, *grads.values()):
        assert numpy.isfinite(array).all()


def test_bad_layer_options_are_named():
    rng = numpy.random.default_rng(0)
    with pytest.raises(ValueError, match="hidden_size: expected an even number, two for a complex one, got 5"):
        associative_lstm.init(rng, I, 5)
    params, x, _, states = made(associative_lstm)
    with pytest.raises(ValueError, match=r"c0: expected shape \(3, 2, 6\), got \(3, 4, 6\)"):
        associative_lstm.forward(params, x, c0=states["c0"], copies=2)
    for blocks, shared_value, wanted in ((4, False, "3 + 6"), (13, False, "3 + 6"), (15, True, "5 + 4")):
        wrong = {name: value[:blocks] for name, value in params.items()}
        message = f"W: expected shape ({wanted} heads, H/2, H) for shared_value={shared_value}, got ({blocks}, 3, 6)"
        with pytest.raises(ValueError, match=re.escape(message)):
            associative_lstm.forward(wrong, x, shared_value=shared_value)
    params, x, dh, _ = made(irnn)
    with pytest.raises(ValueError, match="extra: expected none, for this layer has no other gradients, got 'decay'"):
        irnn.backward(dh, irnn.forward(params, x)[1], extra="decay")
    with pytest.raises(ValueError, match="activation: expected one of relu, tanh; got 'sine'"):
        irnn.forward(made(irnn)[0], x, activation="sine")
    with pytest.raises(ValueError, match="params: expected both gain and bias"):
        lstm.forward(made(lstm)[0] | {"gain": numpy.ones((4, H))}, x)
