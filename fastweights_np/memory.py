"""The memory of the paper, a decaying sum of outer products of states, and its gradient.

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

Vectors have the axes (steps, B, H), scores (steps, B): B sequences, H units.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy

from .backend import Array, array_module

SCALARS = ("decay", "rate")  # λ and η
IN_CACHE = 2**18  # bytes of matrices that are written at once: they stay in a core's cache


def choose_chunk(steps: int, hidden_size: int) -> int:
    """Return the chunk for `chunk=None`, by measurement: attention alone up to T = 3/2 H; beyond, the blend is faster.

    The blend's time hardly depends on the chunk from H/4 to H. Its memory is least where N/chunk matrices are as small
    as the chunk's scores.
    """
    return steps if steps <= max(3 * hidden_size // 2, 32) else max(hidden_size // 2, 16)


def read_matrix(matrix: Array, v: Array) -> Array:
    """Return matrix v (B, H) for each sequence: matrix (B, H, H), v (B, H)."""
    return (matrix @ v[:, :, None])[:, :, 0]


def blocks(matrices: Array) -> list[slice]:
    """Return slices of matrices (B, H, H) that stay in a core's cache; on a GPU, one slice of all."""
    on_host = isinstance(matrices, numpy.ndarray)
    size = max(1, IN_CACHE // matrices[0].nbytes) if on_host else len(matrices)
    return [slice(start, start + size) for start in range(0, len(matrices), size)]


def fold(matrix: Array | None, decay: float, left: Array, right: Array, weights: Array) -> Array:
    """Return decay · matrix + Σ_k weights[k] left[k] right[k]ᵀ: equation (1), for one term or for many at once.

    matrix (B, H, H) or None for zero; left and right (K, B, H); weights (K, 1). The result is a new array (B, H, H).
    """
    # A(n) = λ A(n-1) + η h(n) h(n)ᵀ                                                                               (1)
    folded = (left * weights[:, :, None]).transpose(1, 2, 0) @ right.swapaxes(0, 1)
    if matrix is not None:
        folded += decay * matrix
    return folded


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


class Matrix:
    """The matrix A (B, H, H) with the `read` of a Memory, for one step at a time."""

    def __init__(self, matrix: Array) -> None:
        self._matrix = matrix

    def read(self, n: int, i: int, v: Array) -> Array:
        """Return A v (B, H)."""
        return read_matrix(self._matrix, v)


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
        self.terms = xp.empty((self.first[-1], 2, batch_size, hidden_size), states.dtype)
        self.scores = xp.empty((self.first[-1], 2, self.chunk, batch_size), states.dtype)
        self.queries, self.errors = self.terms[:, 0], self.terms[:, 1]
        self.when = [n for n, count in enumerate(self.reads) for _ in range(count)]  # the n of read k
        self._of_errors, self._of_queries = (
            [self._attention(n, self.scores[k, side]) for k, n in enumerate(self.when)] for side in (0, 1)
        )
        self._weights = xp.empty((self.chunk, batch_size), states.dtype)
        self._recent_weights = [self._weights[self.chunk - recent :] for recent in range(self.chunk)]
        self._weighs: tuple[float, float] | None = None
        self._result = xp.empty((batch_size, hidden_size), states.dtype)
        self._result_row = self._result[:, None]

    def start(self, decay: float, rate: float, initial: Array | None = None) -> None:
        """Begin with A(0) = initial (B, H, H), or zero."""
        self.decay, self.rate = float(decay), float(rate)
        if self._weighs != (decay, rate):
            self._weights[...] = rate * self.powers(range(self.chunk - 1, -1, -1))  # the last n of them weight n states
            self._weighs = decay, rate
        self._matrices: dict[int, Array | None] = {0: initial}  # chunk's number -> A at its start

    def write(self, n: int, h: Array) -> None:
        """Store h (B, H) as h(n), unless it is states[n-1] itself: A(n) = λ A(n-1) + η h hᵀ, equation (1)."""
        if h is not self.places[n - 1]:
            self.places[n - 1][...] = h

    def read(self, n: int, i: int, v: Array) -> Array:
        """Return A(n) v (B, H), equation (4), for the i-th read of A(n): v is in queries[first[n] + i]."""
        return self._read(n, self._of_queries[self.first[n] + i], v, transposed=False)

    def read_transposed(self, n: int, i: int, r: Array) -> Array:
        """Return A(n)ᵀ r (B, H) for the error r of the i-th read of A(n): r is in errors[first[n] + i]."""
        return self._read(n, self._of_errors[self.first[n] + i], r, transposed=True)

    def _read(self, n: int, past: Attention, v: Array, transposed: bool) -> Array:
        recent = n % self.chunk
        if recent:
            # Σ_k [η λ^(n-k) h(k)ᵀ v] h(k): the brackets, then the sum                                            (4)
            self._xp.matmul(past.vectors, v[:, :, None], out=past.column)
            scores = past.scores
            scores *= self._recent_weights[recent]
            self._xp.matmul(past.row, past.vectors, out=self._result_row)
        else:
            self._result.fill(0)
        if n >= self.chunk or self._matrices[0] is not None:
            matrix: Any = self.chunk_matrix(n)
            from_matrix = read_matrix(matrix.swapaxes(1, 2) if transposed else matrix, v)
            from_matrix *= self.decay**recent
            self._result += from_matrix
        return self._result

    def attention(self, v: Array, n: int) -> Array:
        """Return how strongly v attends to each state: the scores η λ^(n-k) [h(k)ᵀ v], (B, n), k = 1 .. n.

        They do not depend on the chunk. The term of A(0) is left out.
        """
        scores = (self.states[:n].swapaxes(0, 1) @ v[:, :, None])[:, :, 0]
        return scores * (self.rate * self.powers(range(n - 1, -1, -1))).T

    def matrix(self, n: int) -> Array:
        """Return A(n) (B, H, H), a new array, by equation (3) for the current chunk."""
        recent = n % self.chunk
        # λ^(n-m) A(m) + η Σ_k λ^(n-k) h(k) h(k)ᵀ                                                                    (3)
        states, weights = self.states[n - recent : n], self._weights[self.chunk - recent :, :1]
        return fold(self.chunk_matrix(n), self.decay**recent, states, states, weights)

    def chunk_start(self, n: int) -> int:
        """Return m, the n of the matrix at the start of the chunk that h(n+1) is written to."""
        return n - n % self.chunk

    def chunk_matrix(self, n: int) -> Array | None:
        """Return A(m), m = chunk_start(n), computed chunk by chunk, equation (1), at its first use. None is zero."""
        number = n // self.chunk
        while number not in self._matrices:
            newest = max(self._matrices)
            states = self.states[newest * self.chunk : (newest + 1) * self.chunk]
            decay = self.decay**self.chunk
            self._matrices[newest + 1] = fold(self._matrices[newest], decay, states, states, self._weights[:, :1])
        return self._matrices[number]

    def powers(self, ages: range) -> Array:
        """Return λ^age, (ages, 1)."""
        return (self.decay ** self._xp.array(ages, "float64")).astype(self.states.dtype)[:, None]

    def _attention(self, n: int, scores: Array) -> Attention:
        """Return the views of a read of A(n): the states of its chunk that are written before the read."""
        start = self.chunk_start(n)
        return Attention.over(scores[: n - start], self.states[start:n])


class MemoryGradient:
    """G(n) = dL/dA(n), computed from the errors at a memory's reads, backwards from the last A that is read: (F5)

    G(n) = λ G(n+1) + Σ_k r_k query_kᵀ, over the reads of A(n); 0 after the last read.

    It also computes dλ and dη on request. An object serves one memory; `start` begins a new backward pass.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory, steps, end = memory, len(memory.states), len(memory.reads)
        # h(n) was read as a vector only within its chunk, by A(n) .. A(end-1)
        self._ends = [min(memory.chunk_start(n - 1) + memory.chunk, end) for n in range(1, steps + 1)]
        self._later = [self._attention(n, end) for n, end in enumerate(self._ends, 1)]
        self._xp = memory._xp
        self._result = memory._xp.empty(memory.states.shape[1:], memory.states.dtype)
        self._result_row = self._result[:, None]

    def start(self, names: Sequence[str] = (), final: Array | None = None) -> None:
        """Begin with `final`, the gradient of A(N) except through its reads, or 0. `extra` will return these names."""
        self._end = len(self._memory.reads)  # reads of A(end) and later ones are in the matrix
        self._matrix, self._at = final, len(self._memory.states)  # a part of G(at); None is zero
        self._scalars = {name: self._xp.zeros((), self._result.dtype) for name in SCALARS if name in names}
        self._symmetric = None if final is None else final + final.swapaxes(1, 2)  # the matrix and its transpose

    def read(self, n: int) -> Array:
        """Return η (G(n) + G(n)ᵀ) h(n) (B, H): the gradient of h(n) through A(n), (F6). Valid until the next read.

        Call it for n = N, N-1, .. 1, when the errors at all reads of A(n) and at later reads are in place.
        """
        memory, end, later = self._memory, self._ends[n - 1], self._later[n - 1]
        while end < self._end:
            self._fold()
        if n < end:
            # Σ [η λ^(n'-n) h(n)ᵀ query] r + [η λ^(n'-n) h(n)ᵀ r] query over the reads n'                    (F5), (F6)
            # the brackets are scores that the reads have left
            self._xp.matmul(later.row, later.vectors, out=self._result_row)
        else:
            self._result.fill(0)
        if self._symmetric is not None:
            # η λ^(M-n) (G(M) + G(M)ᵀ) h(n), M = at                                                                (F6)
            from_matrix = read_matrix(self._symmetric, memory.states[n - 1])
            from_matrix *= memory.rate * memory.decay ** (self._at - n)
            self._result += from_matrix
        return self._result

    def extra(self, names: Sequence[str]) -> dict[str, Array]:
        """Return the named gradients: "decay" (dλ) and "rate" (dη), 0-d, and "A0" (B, H, H), dL/dA(0) = G(0).

        Call it after all reads, when the errors are in place.
        """
        while names and self._end > 0:
            self._fold()
        return self._scalars | ({"A0": self._matrix} if "A0" in names else {})

    def _attention(self, n: int, end: int) -> Attention:
        """Return the views of the queries and errors at A(n) .. A(end-1), each with its partner's score of h(n)."""
        memory = self._memory
        reads = slice(memory.first[n], memory.first[max(n, end)])
        scores, terms = memory.scores[reads, :, (n - 1) % memory.chunk], memory.terms[reads]
        return Attention.over(scores.reshape(-1, scores.shape[-1]), terms.reshape(-1, *terms.shape[-2:]))

    def _fold(self) -> None:
        """Move the matrix one chunk back: (F5) for all steps of the chunk at once."""
        if self._scalars:
            self._add_scalars()
        # G(n) = λ G(n+1) + Σ_k r_k query_kᵀ                                                                     (F5)
        memory, end = self._memory, self._end
        start = memory.chunk_start(end - 1)
        errors, queries = (side[memory.first[start] : memory.first[end]] for side in (memory.errors, memory.queries))
        weights = self._xp.repeat(memory.powers(range(end - start)), memory.reads[start:end], axis=0)
        self._matrix = fold(self._matrix, memory.decay ** (self._at - start), errors, queries, weights)
        self._symmetric = self._matrix + self._matrix.swapaxes(1, 2)
        self._end = self._at = start

    def _add_scalars(self) -> None:
        """Add the terms of the chunk before `end` to dλ and dη, before it is folded into the matrix."""
        # A(n) = λ^(n-m) A(m) + η Σ_k λ^(n-k) h(k) h(k)ᵀ,   k = m+1 .. n
        memory, m, end = self._memory, self._memory.chunk_start(self._end - 1), self._end
        reads, states = slice(memory.first[m], memory.first[end]), memory.states[m:end]
        queries, errors, G, at = memory.queries[reads], memory.errors[reads], self._matrix, self._at
        n = numpy.array(memory.when[reads])
        # rᵀ ∂A(n) query for each read of A(n), m <= n < end                                                (F9), (F10)
        h_q, h_r = (side.swapaxes(0, 1) @ states.transpose(1, 2, 0) for side in (queries, errors))  # (B, reads, k)
        self._add(n[:, None] - numpy.arange(m + 1, m + 1 + len(states)), (h_q * h_r).sum(axis=0), has_rate=True)
        if (A := memory.chunk_matrix(m)) is not None:
            A_q = (A @ queries.transpose(1, 2, 0)).transpose(2, 0, 1)
            self._add(n - m, (errors * A_q).sum(axis=(1, 2)), has_rate=False)
        # ⟨G(at), ∂A(at)⟩                                                                                   (F9), (F10)
        if G is not None:
            G_h = (G @ states.transpose(1, 2, 0)).transpose(2, 0, 1)
            self._add(at - numpy.arange(m + 1, m + 1 + len(states)), (states * G_h).sum(axis=(1, 2)), has_rate=True)
            if A is not None:
                self._add(numpy.array(at - m), (G * A).sum(), has_rate=False)

    def _add(self, ages: Any, products: Any, has_rate: bool) -> None:
        """Add Σ p ∂weight/∂λ to dλ and Σ p ∂weight/∂η to dη, over the products p of ages >= 0, shaped as ages.

        has_rate: the weight is η λ^age, of a written state; else it is λ^age, of A(m).
        """
        memory, past = self._memory, ages >= 0
        if "decay" in self._scalars:
            # Σ p ∂weight/∂λ                                                                                       (F10)
            slopes = past * ages * memory.decay ** (ages - 1).clip(0)  # age 0 has slope 0, and no λ^-1 is formed
            weights = self._xp.asarray((memory.rate if has_rate else 1) * slopes, products.dtype)
            self._scalars["decay"] += (weights * products).sum()
        if "rate" in self._scalars and has_rate:
            # Σ p ∂weight/∂η                                                                                        (F9)
            weights = self._xp.asarray(past * memory.decay ** ages.clip(0), products.dtype)
            self._scalars["rate"] += (weights * products).sum()
