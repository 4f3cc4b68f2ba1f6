"""IRNN, LSTM and associative LSTM as their users meet them. Their gradients are the audit's business."""

from __future__ import annotations

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import associative_lstm, irnn, lstm, ops, parallel

T, B, I, H = 5, 3, 4, 6  # noqa: E741
LAYERS = [irnn, lstm, associative_lstm]
BESIDE = {irnn: {}, lstm: {"c0": (B, H)}, associative_lstm: {"c0": (B, 4, H)}}  # initial states beside h0


def made(layer, dtype="float64", **options):
    rng = numpy.random.default_rng(0)
    params = layer.init(rng, I, H, dtype=dtype, **options)
    x, dh = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    states = {"h0": rng.standard_normal((B, H))}
    states |= {name: rng.standard_normal(shape) for name, shape in BESIDE[layer].items()}
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


def test_init_follows_its_documentation():
    rng = numpy.random.default_rng(0)
    numpy.testing.assert_array_equal(irnn.init(rng, 9, 4)["W"], 0.5 * numpy.eye(4, dtype="float32"))
    numpy.testing.assert_array_equal(irnn.init(rng, 9, 4, recurrent_scale=1.0)["W"], numpy.eye(4, dtype="float32"))
    gates = lstm.init(rng, 9, 4, forget_bias=2.0)
    numpy.testing.assert_array_equal(gates["b"], [[0] * 4, [2] * 4, [0] * 4, [0] * 4])
    assert abs(gates["W"]).max() <= 0.5
    assert abs(gates["C"]).max() <= 1 / 3
    assert associative_lstm.init(rng, 9, 4, heads=2)["W"].shape == (15, 2, 4)
    normalized = lstm.init(rng, 9, 4, layer_norm=True)
    numpy.testing.assert_array_equal(normalized["bias"][1], numpy.ones(4))
    assert not normalized["b"].any()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_shapes_are_kept_everywhere(layer, dtype):
    params, x, dh, states = made(layer, dtype)
    h, cache = layer.forward(params, x, **states)
    grads, dx, dh0 = layer.backward(dh, cache, also=tuple(BESIDE[layer]))
    h_t, state = layer.step(params, x[0], layer.initial_state(params, B))
    for array in (h, dx, dh0, *grads.values(), h_t, *state):
        assert array.dtype == dtype
    shapes = {name: value.shape for name, value in params.items()} | BESIDE[layer]
    assert {name: grad.shape for name, grad in grads.items()} == shapes
    assert (h.shape, dx.shape, dh0.shape) == (dh.shape, x.shape, states["h0"].shape)


@pytest.mark.parametrize("layer", LAYERS)
def test_float32_agrees_with_float64(layer):
    params, x, _, states = made(layer)
    single = {name: value.astype("float32") for name, value in params.items()}
    states_single = {name: value.astype("float32") for name, value in states.items()}
    h, _ = layer.forward(single, x.astype("float32"), **states_single)
    numpy.testing.assert_allclose(h, layer.forward(params, x, **states)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_going_on_from_the_final_state_is_going_on(layer):
    params, x, _, states = made(layer)
    whole, _ = layer.forward(params, x, **states)
    first, cache = layer.forward(params, x[:2], **states)
    state = layer.final_state(cache)
    names = ["h0", *BESIDE[layer]]
    second, _ = layer.forward(params, x[2:], **dict(zip(names, state, strict=True)))
    numpy.testing.assert_allclose(numpy.concatenate([first, second]), whole, atol=1e-14)


@pytest.mark.parametrize("layer", LAYERS)
def test_tokens_are_an_input_too(layer):
    params, _, dh, _ = made(layer)
    rng = numpy.random.default_rng(1)
    table, tokens = rng.standard_normal((7, I)), rng.integers(0, 7, (T, B))
    h, cache = layer.forward(params, ops.embedding(table, tokens))
    expected, expected_cache = layer.forward(params, table[tokens])
    numpy.testing.assert_allclose(h, expected, atol=1e-14)
    (grads, dtable, _), (wanted, dx, _) = layer.backward(dh, cache), layer.backward(dh, expected_cache)
    numpy.testing.assert_allclose(dtable, ops.embedding_backward(dx, tokens, 7), atol=1e-13)
    for name in params:
        numpy.testing.assert_allclose(grads[name], wanted[name], atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_workspace_changes_nothing_and_an_overwritten_one_raises(layer):
    params, x, dh, states = made(layer)
    expected = layer.backward(dh, layer.forward(params, x, **states)[1])
    workspace = fw.Workspace()
    for _ in range(2):
        h, cache = layer.forward(params, x, **states, workspace=workspace)
        h[...] = 0  # what was returned is no view of a buffer
    for _ in range(2):  # backward leaves its cache as it was
        got = layer.backward(dh, cache)
        for name in params:
            numpy.testing.assert_array_equal(got[0][name], expected[0][name])
        numpy.testing.assert_array_equal(got[1], expected[1])
    layer.forward(params, x[:1], workspace=workspace)
    with pytest.raises(RuntimeError, match="overwritten by a later forward"):
        layer.backward(dh, cache)


@pytest.mark.parametrize("layer", LAYERS)
def test_step_leaves_the_state_that_it_was_given(layer):
    params, x, _, states = made(layer)
    state = layer.initial_state(params, B, **states)
    before = [array.copy() for array in state]
    layer.step(params, x[0], state)
    for array, kept in zip(state, before, strict=True):
        numpy.testing.assert_array_equal(array, kept)
    for name, given in states.items():
        assert not numpy.shares_memory(state[list(states).index(name)], given)


@pytest.mark.parametrize("layer", LAYERS)
def test_sequences_of_a_batch_do_not_see_one_another(layer):
    params, x, _, states = made(layer)
    whole, _ = layer.forward(params, x, **states)
    alone, _ = layer.forward(params, x[:, 1:2], **{name: value[1:2] for name, value in states.items()})
    numpy.testing.assert_allclose(alone[:, 0], whole[:, 1], atol=1e-14)


@pytest.mark.parametrize("layer", LAYERS)
def test_several_processes_give_the_same(layer):
    params, x, dh, states = made(layer)
    expected_h, cache = layer.forward(params, x, **states)
    expected, *_ = layer.backward(dh, cache, also=tuple(BESIDE[layer]))
    with parallel.Layer(layer, processes=2) as shared:
        h, cache = shared.forward(params, x, **states)
        grads, _, _ = shared.backward(dh, cache, also=tuple(BESIDE[layer]))
    numpy.testing.assert_allclose(h, expected_h, atol=1e-13)
    assert grads.keys() == expected.keys()
    for name, value in expected.items():
        numpy.testing.assert_allclose(grads[name], value, atol=1e-12, err_msg=name)


def test_an_irnn_is_the_fast_weight_layer_without_fast_weights():
    params, x, dh, _ = made(irnn, layer_norm=True)
    options = {"inner_steps": 0, "normalize_preliminary": True}
    h, cache = fw.fast_weights.forward(params, x, **options)
    numpy.testing.assert_allclose(irnn.forward(params, x)[0], h, atol=1e-15)
    ours, theirs = irnn.backward(dh, irnn.forward(params, x)[1])[0], fw.fast_weights.backward(dh, cache)[0]
    for name, value in theirs.items():
        numpy.testing.assert_allclose(ours[name], value, atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_large_inputs_overflow_nowhere(layer):
    """Neither σ nor bound may: warnings are errors here."""
    params, x, dh, _ = made(layer, "float32")
    h, cache = layer.forward(params, 1e4 * x)
    grads, dx, _ = layer.backward(dh, cache)
    for array in (h, dx, *grads.values()):
        assert numpy.isfinite(array).all()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": numpy.zeros((T, B))}, ValueError, r"x: expected shape \(T, B, 4\)"),
        ({"x": numpy.zeros((T, B, I), "float32")}, TypeError, "x: expected float64, the dtype of W, got float32"),
        ({"x": numpy.zeros((T, B, I), int)}, TypeError, r"tokens go in as ops.embedding\(table, tokens\)"),
        ({"h0": numpy.zeros((B, H + 1))}, ValueError, r"h0: expected shape \(3, 6\), got \(3, 7\)"),
        ({"params": None}, TypeError, "params: expected a dict"),
        ({"params": {"W": numpy.zeros((4, H, H))}}, ValueError, "params: expected W, C, b; missing C, b"),
    ],
)
def test_bad_arguments_are_named(layer, change, error, message):
    params, x, *_ = made(layer)
    with pytest.raises(error, match=message):
        layer.forward(**{"params": params, "x": x} | change)


@pytest.mark.parametrize("layer", LAYERS)
def test_more_bad_arguments_are_named(layer):
    params, x, dh, _ = made(layer)
    _, cache = layer.forward(params, x)
    with pytest.raises(ValueError, match=r"dh: expected shape \(5, 3, 6\), got \(4, 3, 6\); dh has the shape of h"):
        layer.backward(dh[1:], cache)
    with pytest.raises(TypeError, match="cache: expected a Cache, got ndarray"):
        layer.backward(cache, dh)
    name = layer.__name__.rpartition(".")[2]
    with pytest.raises(TypeError, match=rf"cache: expected a {name}.Cache, got fast_weights.Cache"):
        layer.backward(
            dh, fw.fast_weights.forward(fw.fast_weights.init(numpy.random.default_rng(0), I, H), x.astype("f"))[1]
        )
    with pytest.raises(TypeError, match=r"W: expected a NumPy or CuPy array, got list"):
        layer.forward({key: value.tolist() for key, value in params.items()}, x)
    with pytest.raises(ValueError, match="also: expected"):
        layer.backward(dh, cache, also="decay")
    with pytest.raises(TypeError, match="state: expected a State, got ndarray; make it with initial_state"):
        layer.step(params, x[0], dh)
    with pytest.raises(ValueError, match=r"x: expected shape \(3, 4\), got \(2, 4\)"):
        layer.step(params, x[0, :2], layer.initial_state(params, B))
    with pytest.raises(ValueError, match=r"W: expected shape"):
        layer.forward(params | {"W": params["W"][..., :-1]}, x)
    with pytest.raises(ValueError, match=r"b: expected shape"):
        layer.forward(params | {"b": params["b"][..., :-1]}, x)


def test_bad_layer_options_are_named():
    rng = numpy.random.default_rng(0)
    with pytest.raises(ValueError, match="hidden_size: expected an even number, two for a complex one, got 5"):
        associative_lstm.init(rng, I, 5)
    params, x, _, states = made(associative_lstm)
    with pytest.raises(ValueError, match=r"c0: expected shape \(3, 2, 6\), got \(3, 4, 6\)"):
        associative_lstm.forward(params, x, c0=states["c0"], copies=2)
    with pytest.raises(ValueError, match=r"W: expected shape \(3 \+ 6 heads, H/2, H\), got \(4, 3, 6\)"):
        associative_lstm.forward(params | {"W": params["W"][:4]}, x)
    with pytest.raises(ValueError, match="activation: expected one of relu, tanh; got 'sine'"):
        irnn.forward(made(irnn)[0], x, activation="sine")
    with pytest.raises(ValueError, match="params: expected both gain and bias"):
        lstm.forward(made(lstm)[0] | {"gain": numpy.ones((4, H))}, x)
