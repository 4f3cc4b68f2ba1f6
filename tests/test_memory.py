"""The decaying memory against dense matrices, written out by equation (1)."""

from __future__ import annotations

import numpy
import pytest

from fastweights_np import Workspace
from fastweights_np.memory import Memory, choose_chunk

B, T, H, DECAY, SCALE = 2, 7, 3, 0.8, 0.3
CHUNKS = (1, 2, 3, 4, T, None)


def filled(chunk, width=1, initial=None, **how):
    """A memory with T steps of random terms in it, and the matrices M(0) .. M(T) that it should hold."""
    rng = numpy.random.default_rng(0)
    memory = Memory(
        numpy, "float64", B, T, H, name="M", workspace=Workspace(),
        decay=DECAY, scale=SCALE, width=width, chunk=chunk, initial=initial, **how,
    )  # fmt: skip
    matrices = [numpy.zeros((B, H, H)) if initial is None else initial]
    for _ in range(T):
        left, right = rng.standard_normal((2, width, B, H))
        memory.write(list(left), list(right))
        matrices.append(DECAY * matrices[-1] + SCALE * numpy.einsum("sbi,sbj->bij", left, right))
    return memory, matrices


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("width", [1, 2])
def test_reads_what_was_written_at_every_time(chunk, width):
    rng = numpy.random.default_rng(1)
    memory, matrices = filled(chunk, width, initial=rng.standard_normal((B, H, H)))
    v = rng.standard_normal((B, H))
    for n in [*range(T + 1), 0, T, 3]:  # and back again
        M = matrices[n]
        numpy.testing.assert_allclose(memory.read(v, n), numpy.einsum("bij,bj->bi", M, v), atol=1e-13)
        numpy.testing.assert_allclose(memory.read(v, n, transposed=True), numpy.einsum("bji,bj->bi", M, v), atol=1e-13)
        both = numpy.einsum("bij,bj->bi", M + M.swapaxes(1, 2), v)
        numpy.testing.assert_allclose(memory.read_symmetric(v, n), both, atol=1e-13)
        numpy.testing.assert_allclose(memory.matrix(n), M, atol=1e-13)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_attention_adds_up_to_the_read(chunk):
    memory, matrices = filled(chunk)
    v = numpy.random.default_rng(2).standard_normal((B, H))
    for n in (1, 4, T):
        strengths = memory.attention(v, n)
        read = numpy.einsum("bn,bnh->bh", strengths, memory._left[:, :n])
        numpy.testing.assert_allclose(read, numpy.einsum("bij,bj->bi", matrices[n], v), atol=1e-13)


def test_an_empty_memory_reads_zero():
    memory, _ = filled(2)
    assert not memory.read(numpy.ones((B, H)), 0).any()
    assert not memory.matrix(0).any()


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_forgets_all_or_nothing(decay):
    memory = Memory(numpy, "float64", 1, 3, 2, name="M", workspace=Workspace(), decay=decay, chunk=2, symmetric=True)
    for k in range(3):
        memory.write([numpy.full((1, 2), k + 1.0)])
    expected = 9.0 if decay == 0 else 1.0 + 4.0 + 9.0
    numpy.testing.assert_array_equal(memory.matrix(3), numpy.full((1, 2, 2), expected))


def test_without_revisiting_only_the_latest_matrix_is_kept():
    memory, matrices = filled(2, revisit=False)
    for n in range(T + 1):
        numpy.testing.assert_allclose(memory.matrix(n), matrices[n], atol=1e-13)
    assert len(memory._matrices) == 1


def test_float32_stays_accurate_over_a_thousand_steps():
    """Folding forwards keeps its digits, where running equation (1) backwards loses them all within some hundred."""
    rng = numpy.random.default_rng(3)
    vectors = rng.standard_normal((1000, 1, 8)).astype("float32")
    memory = Memory(numpy, "float32", 1, 1000, 8, name="M", workspace=Workspace(), decay=0.95, chunk=16, symmetric=True)
    exact = numpy.zeros((8, 8))
    for v in vectors:
        memory.write([v])
        exact = 0.95 * exact + numpy.outer(v[0].astype("float64"), v[0])
    assert numpy.abs(memory.matrix(1000)[0] - exact).max() < 1e-5 * numpy.abs(exact).max()


def test_default_chunk_is_attention_for_short_and_linear_for_long_sequences():
    assert choose_chunk(11, 20) == 11
    assert choose_chunk(100, 50) == 100
    assert choose_chunk(1000, 50) == 50
    assert choose_chunk(1000, 1) == 16
