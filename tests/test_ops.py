"""Operations without time: values and errors (their gradients are in the audit)."""

from __future__ import annotations

import numpy
import pytest

from fastweights_np import backend, ops


def test_cross_entropy_survives_large_logits():
    nll, probabilities = ops.softmax_cross_entropy(numpy.array([[1e4, 0.0], [-1e4, 1e4]]), numpy.array([0, 0]))
    numpy.testing.assert_allclose(nll, [0.0, 2e4])
    numpy.testing.assert_allclose(probabilities, [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (numpy.array([0, 3]), ValueError, r"labels: expected values from 0 to 2, got 3 at index \(1,\)"),
        (numpy.array([-1, 0]), ValueError, r"labels: expected values from 0 to 2, got -1 at index \(0,\)"),
        (numpy.array([0.0, 1.0]), TypeError, "labels: expected integers, got float64"),
        (numpy.array([0]), ValueError, r"labels: expected shape \(2,\), got \(1,\); one label for each row"),
    ],
)
def test_bad_labels_are_named(labels, error, message):
    with pytest.raises(error, match=message):
        ops.softmax_cross_entropy(numpy.zeros((2, 3)), labels)


def test_bad_tokens_are_named():
    table = numpy.zeros((5, 2))
    with pytest.raises(ValueError, match=r"tokens: expected values from 0 to 4, got 5 at index \(0, 1\)"):
        ops.embedding(table, numpy.array([[0, 5]]))
    with pytest.raises(TypeError, match="tokens: expected integers, got bool"):
        ops.embedding(table, numpy.array([True]))
    with pytest.raises(TypeError, match="tokens: expected a NumPy or CuPy array, got list"):
        ops.embedding(table, [[0]])


@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("small_sum", [0, backend.SMALL_SUM])
def test_scatter_add_adds_duplicates_up(monkeypatch, small_sum, leading):
    monkeypatch.setattr(backend, "SMALL_SUM", small_sum)
    rng = numpy.random.default_rng(0)
    index = numpy.concatenate([rng.integers(0, 9, 50), numpy.full(3 * backend.FREQUENT, 2)])
    values, expected = rng.standard_normal((*leading, len(index), 3)), rng.standard_normal((*leading, 11, 3))
    target = expected.copy()
    numpy.add.at(expected, (..., index, slice(None)), values)
    for dtype in ("uint8", "uint64"):
        added = target.copy()
        backend.scatter_add(added, index.astype(dtype), values)
        numpy.testing.assert_allclose(added, expected, atol=1e-13)
    values[..., 0, :] = numpy.inf
    with numpy.errstate(invalid="ignore"):
        backend.scatter_add(added, index, values)
    assert (~numpy.isfinite(added).any(axis=-1) == (numpy.arange(11) == index[0])).all(), "other rows stay finite"
    added[..., index[0], :] = expected[..., index[0], :]
    expected = added.copy()
    backend.scatter_add(added, index[:0], values[..., :0, :])
    numpy.testing.assert_allclose(added, expected, atol=1e-13)


def test_layer_norm_of_a_constant_row_is_the_bias():
    norm = ops.LayerNorm(numpy.empty((2, 3)))
    norm.load(numpy.ones(3), numpy.arange(3.0))
    y, _, _ = norm.forward(numpy.full((2, 3), 7.0))
    numpy.testing.assert_allclose(y, [[0, 1, 2]] * 2, atol=1e-12)


def test_relu_lets_nan_through():
    assert numpy.isnan(ops.Relu(numpy.zeros(1)).forward(numpy.array([numpy.nan]))).all(), (
        "a broken state must not look like a dead unit"
    )


def test_linear_puts_its_result_where_told_or_says_that_it_cannot():
    x, weight = numpy.ones((2, 3, 4)), numpy.ones((5, 4))
    out = numpy.empty((2, 3, 5))
    assert ops.linear(x, weight, out=out) is out
    numpy.testing.assert_array_equal(out, 4)
    with pytest.raises(ValueError, match=r"out: expected a contiguous array, got one of shape \(2, 3, 5\)"):
        ops.linear(x, weight, out=numpy.empty((3, 2, 5)).swapaxes(0, 1))
