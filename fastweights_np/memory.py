"""The memory of the paper, a decaying sum of outer products of states.

    A(n)   = λ A(n-1) + η h(n) h(n)ᵀ                                                                      equation (1)
    A(n)   = λⁿ A(0) + η Σ_{k=1..n} λ^(n-k) h(k) h(k)ᵀ                                                    equation (3)
    A(n) v = λⁿ A(0) v + Σ_{k=1..n} [η λ^(n-k) h(k)ᵀ v] h(k)                                              equation (4)

The brackets are the scores of v: (4) is attention to past states. The gradient G(n) = dL/dA(n) is also such a sum, over
later reads. It is computed backwards, and reading it takes no new scores: DERIVATION.md, "Reading the memory". Equation
numbers are from Ba et al. 2016.

The option `chunk` selects how the sum is stored. The states of the current chunk are stored as vectors and read as
attention, equation (4). At the end of a chunk they are folded into a matrix: equation (1), `chunk` steps at once.

    chunk >= N    attention alone: O(N² H) time, O(N H + N²) memory for each sequence; reading forms no matrix
    chunk = 1     the matrix alone: O(N H²) time, O(N H²) memory (backward needs every matrix)
    between       the blend: O(N H²) time and O(N H) memory for a chunk near H, both linear in N

A matrix is never recovered by inverting (1), A(n-1) = (A(n) - η h hᵀ) / λ, which loses all digits in some hundred
steps. The matrix at the start of each chunk is stored instead.

Vectors have the axes (steps, B, H), scores (steps, B): B sequences, H units. `fold` and `read_matrix` also serve v kᵀ,
with values and keys of different sizes. A whole sequence of them is in key_value_memory.py: its keys do not depend on
what is read, so that it needs no read for each step, which is most of what `Memory` is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy

from .backend import Array, array_module

IN_CACHE = 2**18  # bytes of matrices that are written at once: they stay in a core's cache


def choose_chunk(steps: int, hidden_size: int) -> int:
    """Return the chunk for `chunk=None`, by measurement: attention alone up to T = 3/2 H; beyond, the blend is faster.

    The blend's time hardly depends on the chunk from H/4 to H. Its memory is least where N/chunk matrices are as small
    as the chunk's scores.
    """
    return steps if steps <= max(3 * hidden_size // 2, 32) else max(hidden_size // 2, 16)


def read_matrix(matrix: Array, v: Array) -> Array:
    """Return matrix v (B, H) for each sequence: matrix (B, H, H), v (B, H); or (B, d_v, d_k) and (B, d_k)."""
    if len(v) == 1:
        return matrix[0].dot(v[0])[None]  # takes half the time of matmul
    return (matrix @ v[:, :, None])[:, :, 0]


def blocks(matrices: Array) -> list[slice]:
    """Return slices of matrices (B, H, H) that stay in a core's cache; on a GPU, one slice of all."""
    on_host = isinstance(matrices, numpy.ndarray)
    size = max(1, IN_CACHE // matrices[0].nbytes) if on_host else len(matrices)
    return [slice(start, start + size) for start in range(0, len(matrices), size)]


def fold(matrix: Array | None, decay: Array, left: Array, right: Array, weights: Array) -> Array:
    """Return decay · matrix + Σ_k weights[k] left[k] right[k]ᵀ: equation (1), for one term or for many at once.

    matrix (B, H, H) or None for zero; decay (B, 1, 1) or (1, 1, 1); left and right (K, B, H); weights (K, B)
    or (K, 1). The result is a new array (B, H, H). Values on the left and keys on the right may have different sizes.
    """
    # A(n) = λ A(n-1) + η h(n) h(n)ᵀ                                                                               (1)
    folded = (left * weights[:, :, None]).transpose(1, 2, 0) @ right.swapaxes(0, 1)
    if matrix is not None:
        folded += decay * matrix
    return folded


@dataclass(frozen=True)
class Ages:
    """How many steps old a state is when it is read, for sequences that end early or start anew (spans.py).

    Each array has a column for each sequence, or one for all, and stays on the host. What was written before a sequence
    started anew is not read after it: the two belong to different parts of the sequence.
    """

    of_states: numpy.ndarray  # (N + 1, B)  for each n. It is n, except that it stands still after the sequence's end
    parts: numpy.ndarray  # (N + 1, B)  the number of the part in which h(n) is written
    parts_of_reads: numpy.ndarray  # (reads + 1, B)  the number of the part of each read, and of the final state

    @classmethod
    def steady(cls, states: int, reads: int) -> Ages:
        """Return the ages in sequences that neither end early nor start anew."""
        return cls(numpy.arange(states + 1)[:, None], *(numpy.zeros((n + 1, 1), "int64") for n in (states, reads)))


class Attention(NamedTuple):
    """The operands of one read of K vectors by their scores, for B sequences, as cached views.

    Creating a view takes as long as multiplying some thousand numbers.
    """

    scores: Array  # (K, B)
    column: Array  # the scores as (B, K, 1)
    row: Array  # the scores as (B, 1, K)
    vectors: Array  # (B, K, H)

    @classmethod
    def over(cls, scores: Array, vectors: Array) -> Attention:
        """Return the views of scores (K, B) and vectors (K, B, H)."""
        return cls(scores, scores.T[:, :, None], scores.T[:, None], vectors.swapaxes(0, 1))


class Memory:
    """The fast weights A(n), n = 0 .. N, of B sequences.

    states (N, B, H) holds h(1) .. h(N): `write` puts h(n) in states[n-1]. A(n) is read reads[n] times, n = 0, 1 ..
    len(reads) - 1. All reads are numbered in this order: the caller puts the query of read k in queries[k], and the
    error at its sum in errors[k]. The result of `read` is valid until the next read. An object serves sequences of one
    shape; `start` begins new ones.
    """

    def __init__(self, states: Array, reads: Sequence[int], chunk: int | None = None) -> None:
        xp = self._xp = array_module(states=states)
        _, batch_size, hidden_size = states.shape
        self.states, self.reads = states, list(reads)
        self.places = list(states)  # views are cached: creating one costs as much as multiplying some thousand numbers
        self.first = [0, *accumulate(self.reads)]  # the number of the first read of A(n)
        self.chunk = min(chunk or choose_chunk(len(reads), hidden_size), max(len(reads), 1))
        # Second axis: 0 for the query and 1 for the error of a read; in scores the other way round, because in F6
        # each of the two is weighted by its partner's scores, the products with the chunk's states.
        self.when = [n for n, count in enumerate(self.reads) for _ in range(count)]  # the n of read k
        self.terms = xp.empty((self.first[-1], 2, batch_size, hidden_size), states.dtype)
        self.scores = xp.empty((self.first[-1], 2, self.chunk, batch_size), states.dtype)
        self.queries, self.errors = self.terms[:, 0], self.terms[:, 1]
        self._of_errors, self._of_queries = (
            [self._attention(n, self.scores[k, side]) for k, n in enumerate(self.when)] for side in (0, 1)
        )
        # η λ^(n-k) of the states k in the chunk of A(n), and λ^(n-m) of the matrix A(m) at its start: for each read
        self._weights, self._carries = (xp.empty((self.chunk, size), states.dtype) for size in (batch_size, 1))
        by_recent = [(self._weights[self.chunk - n :], self._carries[n : n + 1]) for n in range(self.chunk)]
        self._steady = [by_recent[n % self.chunk] for n in self.when]
        self._steady_ages = Ages.steady(len(states), self.first[-1])
        self._weighs: tuple[float, float] | None = None
        self._result = xp.empty((batch_size, hidden_size), states.dtype)
        self._result_row = self._result[:, None]

    def start(self, decay: float, rate: float, initial: Array | None = None, ages: Ages | None = None) -> None:
        """Begin with A(0) = initial (B, H, H), or zero. None are steady ages."""
        self.decay, self.rate, self.ages = float(decay), float(rate), ages or self._steady_ages
        self._matrices: dict[int, Array | None] = {0: initial}  # chunk's number -> A at its start
        if ages is not None:
            self._of_reads = [self._weights_of_read(k) for k in range(len(self.when))]
            return
        self._of_reads = self._steady
        if self._weighs != (decay, rate):
            powers = (self.decay ** numpy.arange(self.chunk, dtype="float64"))[:, None]
            self._carries[...] = self._xp.asarray(powers)
            self._weights[...] = self._xp.asarray(rate * powers[::-1])  # the last n of them weight n states
            self._weighs = decay, rate

    def write(self, n: int, h: Array) -> None:
        """Store h (B, H) as h(n), unless it is states[n-1] itself: A(n) = λ A(n-1) + η h hᵀ, equation (1)."""
        if h is not self.places[n - 1]:
            self.places[n - 1][...] = h

    def read(self, n: int, i: int, v: Array) -> Array:
        """Return A(n) v (B, H), equation (4), for the i-th read of A(n): v is in queries[first[n] + i]."""
        return self._read(n, self.first[n] + i, self._of_queries, v, transposed=False)

    def read_transposed(self, n: int, i: int, r: Array) -> Array:
        """Return A(n)ᵀ r (B, H) for the error r of the i-th read of A(n): r is in errors[first[n] + i]."""
        return self._read(n, self.first[n] + i, self._of_errors, r, transposed=True)

    def _read(self, n: int, k: int, operands: list[Attention], v: Array, transposed: bool) -> Array:
        """Return A(n) v or A(n)ᵀ v for read k."""
        past, (weights, carry) = operands[k], self._of_reads[k]
        if n % self.chunk:
            # Σ_k [η λ^(n-k) h(k)ᵀ v] h(k): the brackets, then the sum                                            (4)
            self._xp.matmul(past.vectors, v[:, :, None], out=past.column)
            scores = past.scores
            scores *= weights
            self._xp.matmul(past.row, past.vectors, out=self._result_row)
        else:
            self._result.fill(0)
        if n >= self.chunk or self._matrices[0] is not None:
            matrix: Any = self.chunk_matrix(n)
            from_matrix = read_matrix(matrix.swapaxes(1, 2) if transposed else matrix, v)
            from_matrix *= carry
            self._result += from_matrix
        return self._result

    def attention(self, v: Array, n: int, i: int = 0) -> Array:
        """Return how strongly v attends to each state: the scores η λ^(n-k) [h(k)ᵀ v], (B, n), k = 1 .. n.

        v is the query of the i-th read of A(n). The scores do not depend on the chunk. The term of A(0) is left out.
        """
        scores = (self.states[:n].swapaxes(0, 1) @ v[:, :, None])[:, :, 0]
        return scores * (self.rate * self.left(n, numpy.arange(1, n + 1), self.first[n] + i)).T

    def matrix(self, n: int) -> Array:
        """Return A(n) (B, H, H), a new array, by equation (3) for the current chunk."""
        last = self.first[-1] if n == len(self.states) else None
        return self._folded(self.chunk_matrix(n), self.chunk_start(n), n, last)

    def chunk_start(self, n: int) -> int:
        """Return m, the n of the matrix at the start of the chunk that h(n+1) is written to."""
        return n - n % self.chunk

    def chunk_matrix(self, n: int) -> Array | None:
        """Return A(m), m = chunk_start(n), computed chunk by chunk, equation (1), at its first use. None is zero."""
        number = n // self.chunk
        while number not in self._matrices:
            newest = max(self._matrices)
            m = newest * self.chunk
            self._matrices[newest + 1] = self._folded(self._matrices[newest], m, m + self.chunk)
        return self._matrices[number]

    def _folded(self, matrix: Array | None, m: int, n: int, read: int | None = None) -> Array:
        """Return A(n), a new array, from A(m) and h(m+1) .. h(n); at this read, if one is given."""
        # λ^(n-m) A(m) + η Σ_k λ^(n-k) h(k) h(k)ᵀ                                                                    (3)
        states, weights = self.states[m:n], self.rate * self.left(n, numpy.arange(m + 1, n + 1), read)
        return fold(matrix, self.left(n, numpy.array([m]), read).T[:, :, None], states, states, weights)

    def left(self, n: Any, k: Any, read: Any = None) -> Array:
        """Return how much of h(k) or A(k) is left in A(n): λ^(n-k), and 0 if the sequence started anew in between.

        n and k are whole numbers, at least one of them an array (K,). If the numbers of reads are given, n are the n of
        the A that they read. The result is (K, B), or (K, 1) with steady ages.
        """
        ages = self.ages
        part = ages.parts[n] if read is None else ages.parts_of_reads[read]
        left = self.decay ** (ages.of_states[n] - ages.of_states[k]) * (part == ages.parts[k])
        return self._xp.asarray(left, self.states.dtype)

    def _weights_of_read(self, k: int) -> tuple[Array, Array]:
        """Return the weights (K, B) of the chunk's states in read k, and of the matrix (B, 1) at its start."""
        n, m = self.when[k], self.chunk_start(self.when[k])
        return self.rate * self.left(n, numpy.arange(m + 1, n + 1), k), self.left(n, numpy.array([m]), k).T

    def _attention(self, n: int, scores: Array) -> Attention:
        """Return the views of a read of A(n): the states of its chunk that are written before the read."""
        start = self.chunk_start(n)
        return Attention.over(scores[: n - start], self.states[start:n])
