"""The fast weights of a stream, one time step after another without end, in buffers of fixed size.

    A(n)   = λ A(n-1) + η h(n) h(n)ᵀ                                                                      equation (1)
    A(n) q = λ^r M q + Σ_{k=m+1..n} [η λ^(n-k) h(k)ᵀ q] h(k),   M = A(m),   r = n - m                     equation (4)

The last r states are vectors, read as attention. Every K steps they are folded into the matrix M by one product:
equation (1), K steps at once. M is thus read once a step and written once in K steps; the step that folds is slow.
memory.py stores whole sequences in the same way. B sequences, H units. Equation numbers are from Ba et al. 2016.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy

from .backend import Array, array_module
from .memory import blocks
from .stepper import Call, assign, product


def choose_chunk(hidden_size: int) -> int:
    """Return K for `chunk=None`, by measurement; the time hardly depends on it from half to twice this size."""
    return 32 if hidden_size >= 256 else 16


class Snapshot(NamedTuple):
    """A copy of the fast weights as they are stored."""

    vectors: Array  # (r, B, H)
    matrix: Array | None  # (B, H, H), M transposed; None is zero


class StreamMemory:
    """The fast weights A of B sequences. A step fills `query` and `term` (B, H), and calls `read` and `write`.

    query, term and what `read` returns are buffers of this object. The result of `read` is valid until the next read.
    """

    def __init__(
        self, like: Array, decay: float, rate: float, chunk: int | None = None, *, identity: bool = False
    ) -> None:  # fmt: skip
        """Begin with A = 0 for states of the shape (B, H) of `like`. identity: the term of a read is its query."""
        xp = self._xp = array_module(like=like)
        batch_size, hidden_size = like.shape
        K = self._chunk = chunk or choose_chunk(hidden_size)
        # the rows that a read adds up: M q, the term, and the recent states, the oldest first
        self._rows = xp.zeros((K + 2, batch_size, hidden_size), like.dtype)
        self.term, self._vectors = self._rows[1], self._rows[2:]
        self.query, self.result = self.term if identity else xp.zeros_like(like), xp.zeros_like(like)
        # their scores are the products with q, or 1, times row r of the weights: λ^r, 1, η λ^(r-1), .., η
        self._products, self._scores = (xp.ones((batch_size, K + 2), like.dtype) for _ in range(2))
        r, k = numpy.arange(K + 1)[:, None], numpy.arange(K)
        powers = numpy.hstack([float(decay) ** r, r**0, rate * float(decay) ** (r - 1 - k).clip(0) * (k < r)])
        self._weights = xp.asarray(powers.astype(like.dtype))
        self._decays = [float(decay) ** age for age in range(K + 1)]
        # M is stored transposed: a row times a matrix is a tenth faster than a matrix times a column
        self.shape = batch_size, hidden_size, hidden_size
        self._matrix = xp.empty(self.shape, like.dtype)
        self._blocks = blocks(self._matrix)
        self._terms = xp.empty_like(self._matrix[self._blocks[0]])
        self._weighted = xp.empty_like(self._vectors)
        self._start(has_matrix=False)

    def _start(self, has_matrix: bool) -> None:
        """Begin without recent states. Without a matrix, M is zero and is not read."""
        self._recent, self._has_matrix = 0, has_matrix
        self._reads: list[list[Call] | None] = [None] * self._chunk

    def read(self) -> Array:
        """Return A query + term (B, H)."""
        for call in self._reads[self._recent] or self._bind():
            call()
        return self.result

    def _bind(self) -> list[Call]:
        """Return the calls of a read of M and r recent states. They are made once for each r."""
        xp, r, calls = self._xp, self._recent, []
        vectors, first = self._rows.swapaxes(0, 1), 0 if self._has_matrix else 1
        if self._has_matrix:
            calls.append(product(xp, self.query[:, None], self._matrix, self._rows[0][:, None]))
        if r:
            calls.append(product(xp, vectors[:, 2 : r + 2], self.query[:, :, None], self._products[:, 2 : r + 2, None]))
        # λ^r M q + term + Σ_k [η λ^(n-k) h(k)ᵀ q] h(k)                                                            (4)
        calls.append(partial(xp.multiply, self._products, self._weights[r : r + 1], self._scores))
        scores = self._scores[:, None, first : r + 2]
        calls.append(product(xp, scores, vectors[:, first : r + 2], self.result[:, None]))
        self._reads[r] = calls
        return calls

    def write(self, h: Array) -> None:
        """Add a state h (B, H): A = λ A + η h hᵀ, equation (1)."""
        self._vectors[self._recent][...] = h
        self._recent += 1
        if self._recent == self._chunk:
            self._fold()

    def _fold(self) -> None:
        """Make M the present A, with no recent states."""
        self._put(self._matrix)
        if not self._has_matrix:
            self._start(has_matrix=True)
        self._recent = 0

    def _put(self, out: Array) -> None:
        """Put A, transposed, in out (B, H, H), which may be M's buffer."""
        xp, r = self._xp, self._recent
        if not r and not self._has_matrix:
            out.fill(0)
            return
        # λ^r M + Σ_k η λ^(n-k) h(k) h(k)ᵀ                                                                         (1)
        # the weighted states are a copy, because NumPy multiplies an array by its own transpose at half the speed
        weighted = xp.multiply(self._vectors[:r], self._weights[r, 2 : r + 2, None, None], out=self._weighted[:r])
        left, right = weighted.transpose(1, 2, 0), self._vectors[:r].swapaxes(0, 1)
        for block in self._blocks:
            written = out[block]
            if self._has_matrix:
                xp.multiply(self._matrix[block], self._decays[r], out=written)
                written += xp.matmul(left[block], right[block], out=self._terms[: len(written)]) if r else 0
            else:
                xp.matmul(left[block], right[block], out=written)

    def value(self) -> Array:
        """Return A (B, H, H), a new array."""
        A = self._xp.empty_like(self._matrix)
        self._put(A)
        return A.swapaxes(1, 2).copy()

    def reset(self, rows: Any, A: Array | None) -> None:
        """Begin anew with A (B, H, H), or zero, in the sequences that `rows` selects; see `assign`."""
        if rows is None and A is None:
            self._start(has_matrix=False)
            return
        if A is not None and (self._recent or not self._has_matrix):
            self._fold()  # A enters with weight 1, which only M without recent states has
        assign(self._vectors, rows, None, axis=1)
        if self._has_matrix:
            assign(self._matrix, rows, None if A is None else A.swapaxes(1, 2))

    def snapshot(self) -> Snapshot:
        """Return a copy of the fast weights as they are stored, for `restore`."""
        return Snapshot(self._vectors[: self._recent].copy(), self._matrix.copy() if self._has_matrix else None)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of a memory of the same sizes."""
        self._start(has_matrix=snapshot.matrix is not None)
        self._recent = len(snapshot.vectors)
        self._vectors[: self._recent] = snapshot.vectors
        if snapshot.matrix is not None:
            self._matrix[...] = snapshot.matrix
