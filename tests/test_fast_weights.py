"""The fast-weight layer as its users meet it: sizes, dtypes, options, reuse, and errors."""

from __future__ import annotations

import numpy
import pytest

from fastweights_np import fast_weights as layer

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


def test_attention_is_what_the_query_reads():
    """η λ^age h[τ]·h_0[t], for one unit by hand: the last step attends to h[0] with age 1 and to h[1] with age 0."""
    params = {"W": numpy.zeros((1, 1)), "C": numpy.ones((1, 1)), "b": numpy.zeros(1)}
    x = numpy.array([2.0, 0.0, 3.0]).reshape(3, 1, 1)
    _, cache = layer.forward(params, x, decay=0.5, rate=0.1)
    numpy.testing.assert_allclose(layer.attention(cache), [[0.1 * 0.5 * 2 * 3, 0.0]])
    assert layer.attention(cache, 0).shape == (1, 0)
    with pytest.raises(ValueError, match="t: expected a step from -3 to 2, got 3"):
        layer.attention(cache, 3)


@pytest.mark.parametrize("decay", [0.0, 0.001, 0.95])
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_the_gradients_of_decay_and_rate_keep_their_digits_in_float32(decay, chunk):
    """A division by λ would keep only two digits at λ = 0.001."""
    for seed in range(3):
        rng, found = numpy.random.default_rng(seed), {}
        params = layer.init(rng, 5, 8, dtype="float64")
        x, dh = rng.standard_normal((100, 2, 5)), rng.standard_normal((100, 2, 8))
        for dtype in ("float64", "float32"):
            cast = {name: value.astype(dtype) for name, value in params.items()}
            _, cache = layer.forward(cast, x.astype(dtype), decay=decay, rate=0.1, chunk=chunk)
            found[dtype] = layer.backward(dh.astype(dtype), cache, extra=("decay", "rate"))[0]
        for name in ("decay", "rate"):
            numpy.testing.assert_allclose(found["float32"][name], found["float64"][name], rtol=1e-4, err_msg=name)


def test_gradients_with_nothing_written_and_unknown_ones():
    params, x, dh = made()
    _, cache = layer.forward(params, x, rate=0.0)
    grads, *_ = layer.backward(dh, cache, extra=("decay", "rate"))
    assert not grads["decay"], "nothing is written"
    assert grads["rate"], "something could be"
    with pytest.raises(ValueError, match="extra: expected one of A0, decay, rate; got 'λ'"):
        layer.backward(dh, cache, extra=("λ",))
