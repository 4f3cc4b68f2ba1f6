"""The gradient of the memory of fast weights: G(n) = dL/dA(n), a decaying sum of outer products, computed backwards.

    G(n) = λ G(n+1) + Σ_k r_k query_kᵀ, over the reads k of A(n); r_k is the error at the result of read k     (F5)
    dL/dh(n) through A(n) is η (G(n) + G(n)ᵀ) h(n)                                                             (F6)

Reading it takes no new scores: DERIVATION.md, "Reading the memory". The chunks are the chunks of memory.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from .backend import Array
from .memory import Attention, Memory, fold, read_matrix

SCALARS = ("decay", "rate")  # λ and η


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
        memory, n = self._memory, len(self._memory.states)
        self._end = len(memory.reads)  # reads of A(end) and later ones are in the matrix
        self._scalars = {name: self._xp.zeros((), self._result.dtype) for name in SCALARS if name in names}
        self._matrix: Array | None = None  # a part of G(at); None is zero
        self._symmetric: Array | None = None  # the matrix and its transpose
        self._at = n
        if final is not None:
            self._move(final * memory.left(n, numpy.array([n]), memory.first[-1]).T[:, :, None], n)

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
            from_matrix *= self._weights[n - self._at - 1]
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
        numbers = numpy.arange(memory.first[start], memory.first[end])
        weights = memory.left(numpy.array(memory.when, "int64")[numbers], start, numbers)
        decay = memory.left(self._at, numpy.array([start])).T[:, :, None]
        self._end = start
        self._move(fold(self._matrix, decay, errors, queries, weights), start)

    def _move(self, matrix: Array, at: int) -> None:
        """Make `matrix` a part of G(at), at = `at`."""
        memory, self._matrix, self._at = self._memory, matrix, at
        self._symmetric = matrix + matrix.swapaxes(1, 2)
        # of the states n = .. at-1, at that read the matrix                                                  (F5), (F6)
        states = numpy.arange(memory.chunk_start(max(at - 1, 0)) + 1, at + 1)
        self._weights = memory.rate * memory.left(at, states)[:, :, None]

    def _add_scalars(self) -> None:
        """Add the terms of the chunk before `end` to dλ and dη, before it is folded into the matrix."""
        # A(n) = λ^(n-m) A(m) + η Σ_k λ^(n-k) h(k) h(k)ᵀ,   k = m+1 .. n
        memory, m, end, ages = self._memory, self._memory.chunk_start(self._end - 1), self._end, self._memory.ages
        reads, states = slice(memory.first[m], memory.first[end]), memory.states[m:end]
        queries, errors, G, at = memory.queries[reads], memory.errors[reads], self._matrix, self._at
        k, of_reads = slice(m + 1, m + 1 + len(states)), ages.parts_of_reads[reads]
        n = ages.of_states[numpy.array(memory.when[reads], "int64")]
        # rᵀ ∂A(n) query for each read of A(n), m <= n < end                                                (F9), (F10)
        h_q, h_r = (side.swapaxes(0, 1) @ states.transpose(1, 2, 0) for side in (queries, errors))  # (B, reads, k)
        same = of_reads[:, None] == ages.parts[k]
        self._add(n[:, None] - ages.of_states[k], same, (h_q * h_r).transpose(1, 2, 0), has_rate=True)
        if (A := memory.chunk_matrix(m)) is not None:
            A_q = (A @ queries.transpose(1, 2, 0)).transpose(2, 0, 1)
            same = of_reads == ages.parts[m]
            self._add(n - ages.of_states[m], same, (errors * A_q).sum(axis=2), has_rate=False)
        # ⟨G(at), ∂A(at)⟩                                                                                   (F9), (F10)
        if G is not None:
            G_h, same = (G @ states.transpose(1, 2, 0)).transpose(2, 0, 1), ages.parts[at] == ages.parts[k]
            self._add(ages.of_states[at] - ages.of_states[k], same, (states * G_h).sum(axis=2), has_rate=True)
            if A is not None:
                same = ages.parts[at] == ages.parts[m]
                self._add(ages.of_states[at] - ages.of_states[m], same, (G * A).sum(axis=(1, 2)), has_rate=False)

    def _add(self, ages: Any, same: Any, products: Any, has_rate: bool) -> None:
        """Add Σ p ∂weight/∂λ to dλ and Σ p ∂weight/∂η to dη, over the products p (..., B) of ages >= 0 of `same` parts.

        has_rate: the weight is η λ^age, of a written state; else it is λ^age, of A(m).
        """
        memory, past = self._memory, same & (ages >= 0)
        if "decay" in self._scalars:
            # Σ p ∂weight/∂λ                                                                                       (F10)
            slopes = past * ages * memory.decay ** (ages - 1).clip(0)  # age 0 has slope 0, and no λ^-1 is formed
            weights = self._xp.asarray((memory.rate if has_rate else 1) * slopes, products.dtype)
            self._scalars["decay"] += (weights * products).sum()
        if "rate" in self._scalars and has_rate:
            # Σ p ∂weight/∂η                                                                                        (F9)
            weights = self._xp.asarray(past * memory.decay ** ages.clip(0), products.dtype)
            self._scalars["rate"] += (weights * products).sum()
