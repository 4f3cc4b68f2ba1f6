"""The fast-weight layer as its users meet it: sizes, dtypes, options, reuse, and errors."""

from __future__ import annotations

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import fast_weights as layer
from fastweights_np import ops

T, B, I, H = 5, 2, 3, 4  # noqa: E741


def made(dtype="float64", hidden_size=H, **options):
    rng = numpy.random.default_rng(0)
    params = layer.init(rng, I, hidden_size, dtype=dtype, **options)
    return params, rng.standard_normal((T, B, I)).astype(dtype), rng.standard_normal((T, B, hidden_size)).astype(dtype)


def test_the_paper_in_three_lines():
    """Equations (1), (2a), (5) with numbers that can be followed by hand: H = 1, no layer norm."""
    params = {"W": numpy.array([[2.0]]), "C": numpy.array([[1.0]]), "b": numpy.array([0.5])}
    x = numpy.array([[[1.0]], [[1.0]]])
    h, _ = layer.forward(params, x, decay=0.5, rate=0.1, inner_steps=1)
    first = 1 + 0.5  # A(0) = 0
    A = 0.1 * first**2
    boundary = 2 * first + 1 + 0.5
    second = boundary + A * boundary
    numpy.testing.assert_allclose(h.reshape(-1), [first, second])


def test_init_is_the_papers():
    params = layer.init(numpy.random.default_rng(0), 100, 7)
    numpy.testing.assert_array_equal(params["W"], numpy.float32(0.05) * numpy.eye(7, dtype="float32"))
    assert numpy.abs(params["C"]).max() <= 0.1
    assert numpy.abs(params["C"]).max() > 0.09
    assert {name: value.shape for name, value in params.items()} == {
        "W": (7, 7), "C": (7, 100), "b": (7,), "gain": (7,), "bias": (7,),
    }  # fmt: skip
    assert set(layer.init(numpy.random.default_rng(0), 3, 7, layer_norm=False)) == {"W", "C", "b"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept_everywhere(dtype):
    params, x, dh = made(dtype)
    h, cache = layer.forward(params, x, inner_steps=2)
    grads, dx, dh0 = layer.backward(dh, cache, also=("decay", "rate", "A0"))
    h_t, state = layer.step(params, x[0], layer.initial_state(params, B))
    for array in (h, dx, dh0, *grads.values(), h_t, *state):
        assert array.dtype == dtype
    assert {name: grads[name].shape for name in params} == {name: value.shape for name, value in params.items()}


def test_float32_agrees_with_float64():
    params, x, _dh = made()
    exact, _ = layer.forward(params, x)
    single = {name: value.astype("float32") for name, value in params.items()}
    numpy.testing.assert_allclose(layer.forward(single, x.astype("float32"))[0], exact, rtol=2e-5, atol=2e-5)


def test_going_on_from_the_final_state_is_going_on():
    params, x, _ = made()
    whole, _ = layer.forward(params, x, inner_steps=2)
    start, cache = layer.forward(params, x[:2], inner_steps=2)
    state = layer.final_state(cache)
    rest, _ = layer.forward(params, x[2:], state.h, A0=state.A, inner_steps=2)
    numpy.testing.assert_allclose(numpy.concatenate([start, rest]), whole, atol=1e-14)
    for x_t, h_t in zip(x[2:], whole[2:], strict=True):
        h, state = layer.step(params, x_t, state, inner_steps=2)
        numpy.testing.assert_allclose(h, h_t, atol=1e-14)


def test_no_inner_steps_or_no_rate_is_a_plain_recurrent_network():
    params, x, _ = made(layer_norm=False)
    expected, h = [], numpy.zeros((B, H))
    for x_t in x:
        h = numpy.maximum(h @ params["W"].T + x_t @ params["C"].T + params["b"], 0)
        expected.append(h)
    numpy.testing.assert_allclose(layer.forward(params, x, inner_steps=0)[0], expected, atol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1), (1, B), (T, 1)])
@pytest.mark.parametrize("hidden_size", [1, H])
@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_smallest_sizes_work(shape, hidden_size, inner_steps):
    params, x, dh = made(hidden_size=hidden_size)
    x, dh = x[: shape[0], : shape[1]], dh[: shape[0], : shape[1]]  # B = 1 is not contiguous here
    h, cache = layer.forward(params, x, inner_steps=inner_steps)
    grads, dx, dh0 = layer.backward(dh, cache)
    assert h.shape == dh.shape
    assert dx.shape == x.shape
    assert all(numpy.isfinite(array).all() for array in (h, dx, dh0, *grads.values()))


def test_layout_of_the_inputs_does_not_matter():
    params, x, dh = made()
    h, cache = layer.forward(params, x)
    expected = layer.backward(dh, cache)
    odd_params = {name: numpy.asfortranarray(value) for name, value in params.items()}
    odd_x = numpy.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1)
    odd_dh = numpy.repeat(dh, 2, axis=2)[:, :, ::2]
    odd_h, cache = layer.forward(odd_params, odd_x)
    grads, dx, _dh0 = layer.backward(odd_dh, cache)
    numpy.testing.assert_allclose(odd_h, h, atol=1e-14)
    numpy.testing.assert_allclose(dx, expected[1], atol=1e-13)
    for name in params:
        numpy.testing.assert_allclose(grads[name], expected[0][name], atol=1e-13)


def test_sequences_of_a_batch_do_not_see_one_another():
    params, x, _ = made()
    together, _ = layer.forward(params, x)
    for b in range(B):
        numpy.testing.assert_allclose(layer.forward(params, x[:, b : b + 1])[0], together[:, b : b + 1], atol=1e-14)


def test_attention_is_what_the_query_reads():
    """η λ^age h[τ]·h_0[t], for one unit by hand: the last step attends to h[0] with age 1 and to h[1] with age 0."""
    params = {"W": numpy.zeros((1, 1)), "C": numpy.ones((1, 1)), "b": numpy.zeros(1)}
    x = numpy.array([2.0, 0.0, 3.0]).reshape(3, 1, 1)
    _, cache = layer.forward(params, x, decay=0.5, rate=0.1)
    numpy.testing.assert_allclose(layer.attention(cache), [[0.1 * 0.5 * 2 * 3, 0.0]])
    assert layer.attention(cache, 0).shape == (1, 0)
    with pytest.raises(ValueError, match="t: expected a step from -3 to 2, got 3"):
        layer.attention(cache, 3)


# ----------------------------------------------------------------------------------------------------------- workspaces


def test_a_workspace_changes_nothing_and_is_reused():
    params, x, dh = made()
    workspace = fw.Workspace()
    expected_h, cache = layer.forward(params, x)
    expected = layer.backward(dh, cache)
    for _ in range(2):
        h, cache = layer.forward(params, x, workspace=workspace)
        grads, dx, _ = layer.backward(dh, cache)
    tape = cache.tape
    numpy.testing.assert_array_equal(h, expected_h)
    numpy.testing.assert_array_equal(dx, expected[1])
    numpy.testing.assert_array_equal(grads["W"], expected[0]["W"])
    kept = h.copy(), dx.copy()
    _, later = layer.forward(params, 2 * x, workspace=workspace)
    assert later.tape is tape
    numpy.testing.assert_array_equal((h, dx)[0], kept[0])
    numpy.testing.assert_array_equal((h, dx)[1], kept[1])


def test_backward_after_its_workspace_was_overwritten_raises():
    params, x, dh = made()
    workspace = fw.Workspace()
    _, cache = layer.forward(params, x, workspace=workspace)
    layer.forward(params, x, workspace=workspace)
    with pytest.raises(RuntimeError, match="overwritten by a later forward"):
        layer.backward(dh, cache)
    with pytest.raises(RuntimeError, match="overwritten by a later forward"):
        layer.attention(cache)


def test_backward_twice_gives_the_same_and_changing_h_spoils_nothing():
    params, x, dh = made()
    h, cache = layer.forward(params, x)
    h[...] = numpy.nan
    first, second = layer.backward(dh, cache), layer.backward(dh, cache)
    numpy.testing.assert_array_equal(first[1], second[1])
    assert numpy.isfinite(first[1]).all()


def test_step_leaves_the_state_that_it_was_given():
    params, x, _ = made()
    state = layer.initial_state(params, B)
    layer.step(params, x[0], state)
    assert not state.h.any()
    assert not state.A.any()
    h, after = layer.step(params, x[0], state)
    h[...] = numpy.nan
    assert numpy.isfinite(after.h).all()


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=numpy.zeros((T, I))), ValueError, r"x: expected shape \(T, B, 3\).*got \(5, 3\)"),
        (dict(x=numpy.zeros((T, B, I + 1))), ValueError, r"x: expected shape \(T, B, 3\).*got \(5, 2, 4\)"),
        (dict(x=numpy.zeros((0, B, I))), ValueError, r"x: .*at least 1, got \(0, 2, 3\)"),
        (dict(x=numpy.zeros((T, 0, I))), ValueError, r"x: .*at least 1, got \(5, 0, 3\)"),
        (
            dict(x=numpy.zeros((T, B, I), int)),
            TypeError,
            "x: expected float32 or float64, got int64; tokens go in as ops.embedding",
        ),
        (dict(x=numpy.zeros((T, B, I), "float32")), TypeError, "x: expected float64, the dtype of W, got float32"),
        (dict(x=[[[0.0] * I]]), TypeError, "x: expected a NumPy or CuPy array, got list"),
        (dict(h0=numpy.zeros((B, H + 1))), ValueError, r"h0: expected shape \(2, 4\), got \(2, 5\)"),
        (dict(A0=numpy.zeros((B, H))), ValueError, r"A0: expected shape \(2, 4, 4\), got \(2, 4\)"),
        (dict(decay=1.01), ValueError, "decay: expected a number from 0 to 1, got 1.01"),
        (dict(decay=-0.1), ValueError, "decay: expected a number from 0 to 1"),
        (dict(decay=float("nan")), ValueError, "decay: expected a number from 0 to 1, got nan"),
        (dict(decay=numpy.ones(3)), TypeError, "decay: expected a number, got ndarray"),
        (dict(rate=-1.0), ValueError, "rate: expected a finite number of at least 0, got -1.0"),
        (dict(rate=float("inf")), ValueError, "rate: expected a finite number"),
        (dict(inner_steps=-1), ValueError, "inner_steps: expected at least 0, got -1"),
        (dict(inner_steps=1.0), TypeError, "inner_steps: expected a whole number, got 1.0"),
        (dict(inner_steps=True), TypeError, "inner_steps: expected a whole number, got True"),
        (dict(activation="gelu"), ValueError, "activation: expected one of relu, tanh; got 'gelu'"),
        (dict(activation=["tanh"]), ValueError, "activation: expected one of relu, tanh"),
        (dict(sustained_boundary="no"), TypeError, "sustained_boundary: expected a bool, got str; pass True or False"),
        (dict(chunk=0), ValueError, "chunk: expected at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    params, x, _ = made()
    with pytest.raises(error, match=message):
        layer.forward(params, **{"x": x, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(W=numpy.zeros((H, H + 1))), ValueError, r"W: expected shape \(4, 4\), got \(4, 5\)"),
        (dict(b=numpy.zeros(1)), ValueError, r"b: expected shape \(4,\), got \(1,\)"),
        (dict(gain=numpy.zeros(H, "float32")), TypeError, "gain: expected float64, the dtype of W, got float32"),
        (dict(V=numpy.zeros(H)), ValueError, "params: .*unknown V"),
    ],
)
def test_bad_parameters_are_named(change, error, message):
    params, x, _ = made()
    with pytest.raises(error, match=message):
        layer.forward(params | change, x)


def test_tokens_are_an_input_too():
    rng = numpy.random.default_rng(1)
    params, _, dh = made()
    table, tokens = rng.standard_normal((6, I)), rng.integers(0, 6, (T, B))
    h, cache = layer.forward(params, ops.embedding(table, tokens))
    grads, dtable, _ = layer.backward(dh, cache)
    expected_h, cache = layer.forward(params, table[tokens])
    expected, dx, _ = layer.backward(dh, cache)
    numpy.testing.assert_allclose(h, expected_h, atol=1e-14)
    numpy.testing.assert_allclose(grads["C"], expected["C"], atol=1e-12)
    numpy.testing.assert_allclose(dtable, ops.embedding_backward(dx, tokens, 6), atol=1e-12)
    with pytest.raises(ValueError, match="tokens: expected values from 0 to 5, got 6"):
        layer.forward(params, ops.Embedded(table, tokens + 6 * (tokens == 0)))


def test_missing_parameters_are_named():
    params, x, _ = made()
    for missing, message in (("W", "params: .*missing W"), ("gain", "expected both gain and bias")):
        with pytest.raises(ValueError, match=message):
            layer.forward({name: value for name, value in params.items() if name != missing}, x)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((T, B, H + 1), "float64", ValueError, r"dh: expected shape \(5, 2, 4\), got \(5, 2, 5\)"),
        ((T - 1, B, H), "float64", ValueError, r"dh: expected shape \(5, 2, 4\), got \(4, 2, 4\)"),
        ((H,), "float64", ValueError, "dh: expected shape"),
        ((B + 1, H), "float64", ValueError, r"dh: expected shape \(2, 4\), got \(3, 4\)"),
        ((T, B, H), "float32", TypeError, "dh: expected float64, the dtype of h, got float32"),
    ],
)
def test_bad_dh_is_named(shape, dtype, error, message):
    params, x, _ = made()
    _, cache = layer.forward(params, x)
    with pytest.raises(error, match=message):
        layer.backward(numpy.zeros(shape, dtype), cache)


def test_swapped_arguments_are_named():
    params, x, dh = made()
    _, cache = layer.forward(params, x)
    with pytest.raises(TypeError, match="cache: expected a Cache, got ndarray; forward returns it"):
        layer.backward(cache, dh)
    with pytest.raises(TypeError, match=r"params: expected a dict, got ndarray; make it with init\(\)"):
        layer.forward(x, params)


def test_gradients_that_cannot_be_had_are_refused():
    params, x, dh = made()
    _, cache = layer.forward(params, x, decay=0.0)
    with pytest.raises(ValueError, match="the gradient of decay needs decay > 0"):
        layer.backward(dh, cache, also=("decay",))
    layer.backward(dh, cache, also=("rate",))
    _, without_rate = layer.forward(params, x, rate=0.0)
    with pytest.raises(ValueError, match="the gradient of rate needs rate > 0"):
        layer.backward(dh, without_rate, also=("rate",))
    with pytest.raises(ValueError, match="also: expected one of A0, decay, rate; got 'λ'"):
        layer.backward(dh, cache, also=("λ",))


def test_a_state_of_other_sizes_is_refused():
    params, x, _ = made()
    with pytest.raises(ValueError, match=r"x: expected shape \(3, 3\), got \(2, 3\)"):
        layer.step(params, x[0], layer.initial_state(params, B + 1))
    with pytest.raises(TypeError, match="state: expected a State, got tuple; make it with initial_state"):
        layer.step(params, x[0], tuple(layer.initial_state(params, B)))
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        layer.initial_state(params, 0)
