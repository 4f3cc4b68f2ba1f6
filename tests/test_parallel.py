"""A layer shared out among processes gives what the layer gives, and says what is wrong."""

from __future__ import annotations

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import ops, parallel

T, B, INPUTS, H = 4, 5, 3, 6


@pytest.fixture(scope="module")
def shared():
    with parallel.Layer(fw.fast_weights, processes=3) as layer:
        yield layer


def made(batch_size=B, seed=0):
    rng = numpy.random.default_rng(seed)
    params = fw.fast_weights.init(rng, INPUTS, H, dtype="float64")
    x = rng.standard_normal((T, batch_size, INPUTS))
    given = {"h0": rng.standard_normal((batch_size, H)), "A0": rng.standard_normal((batch_size, H, H))}
    return params, x, given, rng.standard_normal((T, batch_size, H))


def compare(shared, params, x, dh, also=(), **options):
    h, cache = shared.forward(params, x, **options)
    expected_h, expected_cache = fw.fast_weights.forward(params, x, **options)
    numpy.testing.assert_allclose(h, expected_h, atol=1e-13)
    grads, *others = shared.backward(dh, cache, also)
    expected, *expected_others = fw.fast_weights.backward(dh, expected_cache, also)
    assert grads.keys() == expected.keys()
    for name, value in expected.items():
        numpy.testing.assert_allclose(grads[name], value, atol=1e-11, err_msg=name)
    for got, wanted in zip(others, expected_others, strict=True):
        numpy.testing.assert_allclose(got, wanted, atol=1e-12)


def test_equals_the_layer_with_everything_given(shared):
    params, x, given, dh = made()
    compare(shared, params, x, dh, also=("decay", "rate", "A0"), **given, decay=0.8, inner_steps=2, chunk=2)
    compare(shared, params, x, dh, also="rate")
    compare(shared, params, x, dh, also="A0")  # zero, and yet it has a gradient


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_any_batch_may_follow_any_other(shared, batch_size):
    params, x, _, dh = made(batch_size)
    compare(shared, params, x, dh)
    compare(shared, params, x, dh[-1])


def test_tokens_share_their_table(shared):
    params, _, _, dh = made()
    rng = numpy.random.default_rng(1)
    compare(shared, params, ops.embedding(rng.standard_normal((7, INPUTS)), rng.integers(0, 7, (T, B))), dh)


def test_the_same_bits_each_time_and_no_views_of_shared_memory(shared):
    params, x, _, dh = made()

    def once():
        h, cache = shared.forward(params, x)
        grads, dx, dh0 = shared.backward(dh, cache)
        return h, dx, dh0, *grads.values()

    first = once()
    kept = [array.copy() for array in first]
    for again in (first, once()):
        for a, b in zip(again, kept, strict=True):
            numpy.testing.assert_array_equal(a, b)


def test_what_goes_wrong_is_told_and_the_next_call_works(shared):
    params, x, given, dh = made()
    with pytest.raises(ValueError, match="decay: expected a number from 0 to 1"):
        shared.forward(params, x, decay=2.0)
    with pytest.raises(ValueError, match=r"h0: expected a row for each of the 5 sequences, got \(4, 6\)"):
        shared.forward(params, x, given["h0"][:4])
    with pytest.raises(TypeError, match=r"x: expected float32 or float64, got int64; tokens go in as ops.embedding"):
        shared.forward(params, numpy.zeros((T, B, INPUTS), int))
    with pytest.raises(TypeError, match="h0: expected a NumPy or CuPy array, got list"):
        shared.forward(params, x, given["h0"].tolist())
    h, cache = shared.forward(params, x)
    with parallel.Layer(fw.fast_weights, processes=1) as other, pytest.raises(ValueError, match="got another layer's"):
        other.backward(dh, cache)
    with pytest.raises(ValueError, match="dh: expected the shape of h, or of h"):
        shared.backward(dh[:, :4], cache)
    with pytest.raises(ValueError, match="also: expected one of A0, decay, rate"):
        shared.backward(dh, cache, also=("λ",))
    shared.forward(params, 2 * x)
    with pytest.raises(RuntimeError, match="overwritten by a later forward"):
        shared.backward(dh, cache)
    numpy.testing.assert_array_equal(shared.forward(params, x)[0], h)


def test_a_dead_helper_is_reported_not_waited_for():
    params, x, _, dh = made()
    layer = parallel.Layer(fw.fast_weights, processes=2)
    _, cache = layer.forward(params, x)
    process = layer._helpers[0]._process
    process.kill()
    process.wait()
    with pytest.raises(RuntimeError, match="a helper process has ended"):
        layer.backward(dh, cache)
    layer.close()


def test_closing_ends_the_helpers():
    layer = parallel.Layer(fw.fast_weights, processes=2)
    process = layer._helpers[0]._process
    assert process.poll() is None
    layer.close()
    assert process.poll() == 0
    params, x, _, _ = made()
    with pytest.raises(RuntimeError, match="got one that has been closed"):
        layer.forward(params, x)


def test_ctrl_c_while_a_helper_is_waited_for_does_not_leave_its_answer_to_the_next_call(monkeypatch):
    params, x, _, _ = made()
    with parallel.Layer(fw.fast_weights, processes=2) as layer:
        layer.forward(params, x)

        def interrupted(pipe):
            assert pipe.poll(30), "the answer is there, but has not been read"
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(parallel, "_receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                layer.forward(params, 2 * x)
        with pytest.raises(RuntimeError, match="a helper process has ended"):
            layer.forward(params, x)


def test_a_network_may_use_it(shared):
    rng = numpy.random.default_rng(0)
    tokens, labels = rng.integers(0, 9, (T, B)), rng.integers(0, 3, B)
    encoder, readout = fw.network.TokenEncoder(9), fw.network.Classifier(3)
    alone = fw.network.Network(encoder, readout, hidden_size=H)
    params = alone.init(rng, dtype="float64")
    several = fw.network.Network(encoder, readout, hidden_size=H, processes=2)
    loss, grads = several.loss_and_gradients(params, tokens, labels)
    expected_loss, expected = alone.loss_and_gradients(params, tokens, labels)
    numpy.testing.assert_allclose(loss, expected_loss)
    for part, tree in expected.items():
        for name, value in tree.items():
            numpy.testing.assert_allclose(grads[part][name], value, atol=1e-13, err_msg=f"{part}/{name}")
    several.close()
