"""The decaying memory and its gradient against dense matrices, written out by equations (1) and (F5)."""

from __future__ import annotations

import numpy
import pytest

from fastweights_np.memory import Memory, choose_chunk
from fastweights_np.memory_gradient import MemoryGradient

B, T, H, DECAY, RATE = 2, 7, 3, 0.8, 0.3
CHUNKS = (1, 2, 3, 4, T, None)
READS = ([1] * T, [2] * T, [0, 2, 1, 0, 0, 3, 1, 2])  # of A(0), A(1) ..; the last reads A(T) too


def filled(chunk, reads=READS[0], initial=None):
    """A memory whose T states, queries and errors are random, and the matrices A(0) .. A(T) that it should hold."""
    rng = numpy.random.default_rng(0)
    given = list(reads)
    memory = Memory(rng.standard_normal((T, B, H)), given, chunk)
    given.clear()  # the memory has its own
    memory.terms[...] = rng.standard_normal(memory.terms.shape)
    memory.start(DECAY, RATE, initial)
    matrices = [numpy.zeros((B, H, H)) if initial is None else initial]
    for h in memory.states:
        matrices.append(DECAY * matrices[-1] + RATE * numpy.einsum("bi,bj->bij", h, h))
    return memory, matrices


def times(matrix, v):
    return numpy.einsum("bij,bj->bi", matrix, v)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("reads", READS)
def test_reads_what_was_written_at_every_time(chunk, reads):
    memory, matrices = filled(chunk, reads, initial=numpy.random.default_rng(1).standard_normal((B, H, H)))
    for n in [*range(len(reads)), 0, T - 1, 3]:  # and back again
        for i in range(reads[n]):
            query, error = memory.queries[sum(reads[:n]) + i], memory.errors[sum(reads[:n]) + i]
            numpy.testing.assert_allclose(memory.read(n, i, query), times(matrices[n], query), atol=1e-13)
            expected = times(matrices[n].swapaxes(1, 2), error)
            numpy.testing.assert_allclose(memory.read_transposed(n, i, error), expected, atol=1e-13)
    for n in [*range(T + 1), 0]:
        numpy.testing.assert_allclose(memory.matrix(n), matrices[n], atol=1e-13)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("reads", [[0] * T, *READS])
def test_the_gradient_reads_the_later_errors(chunk, reads):
    memory, _ = filled(chunk, reads)
    gradient = MemoryGradient(memory)
    for _ in range(2):  # begun anew, it forgets
        gradient.start(["A0"])
        G = numpy.zeros((B, H, H))
        for n in range(T, -1, -1):
            if n < T:
                G = DECAY * G  # from A(n+1)
            for i in range(reads[n] if n < len(reads) else 0):  # and what is read here
                k = sum(reads[:n]) + i
                memory.read(n, i, memory.queries[k])
                memory.read_transposed(n, i, memory.errors[k])
                G += numpy.einsum("bi,bj->bij", memory.errors[k], memory.queries[k])
            if n > 0:
                h = memory.states[n - 1]
                numpy.testing.assert_allclose(gradient.read(n), RATE * times(G + G.swapaxes(1, 2), h), atol=1e-13)
        numpy.testing.assert_allclose(gradient.extra(["A0"])["A0"], G, atol=1e-13)


def test_a_state_is_written_where_it_is_read():
    memory, _ = filled(2)
    h = numpy.ones((B, H))
    memory.write(3, h)
    numpy.testing.assert_array_equal(memory.states[2], h)
    memory.write(3, memory.places[2])  # it stands there already
    numpy.testing.assert_array_equal(memory.states[2], h)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_attention_adds_up_to_the_read(chunk):
    memory, matrices = filled(chunk)
    v = numpy.random.default_rng(2).standard_normal((B, H))
    for n in (1, 4, T):
        read = numpy.einsum("bn,nbh->bh", memory.attention(v, n), memory.states[:n])
        numpy.testing.assert_allclose(read, times(matrices[n], v), atol=1e-13)


def test_an_empty_memory_reads_zero():
    memory, _ = filled(2)
    assert not memory.read(0, 0, memory.queries[0]).any()
    assert not memory.matrix(0).any()


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_forgets_all_or_nothing(decay):
    memory = Memory(numpy.full((3, 1, 2), [[[1.0]], [[2.0]], [[3.0]]]), [1] * 3, chunk=2)
    memory.start(decay, 1.0)
    expected = 9.0 if decay == 0 else 1.0 + 4.0 + 9.0
    numpy.testing.assert_array_equal(memory.matrix(3), numpy.full((1, 2, 2), expected))


def test_float32_stays_accurate_over_a_thousand_steps():
    """Folding forwards keeps its digits, where running equation (1) backwards loses them all within some hundred."""
    states = numpy.random.default_rng(3).standard_normal((1000, 1, 8)).astype("float32")
    memory = Memory(states, [1] * 1000, chunk=16)
    memory.start(0.95, 1.0)
    exact = numpy.zeros((8, 8))
    for h in states[:, 0].astype("float64"):
        exact = 0.95 * exact + numpy.outer(h, h)
    assert numpy.abs(memory.matrix(1000)[0] - exact).max() < 1e-5 * numpy.abs(exact).max()


def test_default_chunk_is_attention_for_short_and_linear_for_long_sequences():
    assert choose_chunk(11, 20) == 11
    assert choose_chunk(75, 50) == 75
    assert choose_chunk(76, 50) == 25
    assert choose_chunk(32, 1) == 32
    assert choose_chunk(33, 1) == 16
    assert choose_chunk(1000, 50) == 25
    assert choose_chunk(1000, 1) == 16
