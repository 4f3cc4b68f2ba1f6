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
from .memory import blocks, fold
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
    A caller that fills `vectors` without `write` must set `recent` itself. It must `fold` before recent exceeds chunk.
    """

    def __init__(
        self, like: Array, decay: float, rate: float, chunk: int | None = None, *, identity: bool = False
    ) -> None:  # fmt: skip
        """Begin with A = 0 for states of the shape (B, H) of `like`. identity: the term of a read is its query."""
        xp = self._xp = array_module(like=like)
        batch_size, hidden_size = like.shape
        K = self.chunk = chunk or choose_chunk(hidden_size)
        # the rows that a read adds up: M q, the term, and the recent states, the oldest first
        self._rows = xp.zeros((K + 2, batch_size, hidden_size), like.dtype)
        self.term, self.vectors = self._rows[1], self._rows[2:]
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
        self._weighted = xp.empty_like(self.vectors)
        self._reads: list[list[list[Call]]] = [[[] for _ in range(K)] for _ in range(2)]  # without M and with it, for r
        self._start(has_matrix=False)

    def _start(self, has_matrix: bool) -> None:
        """Begin without recent states. Without a matrix, M is zero and is not read."""
        self.recent, self.has_matrix = 0, has_matrix

    def read(self) -> Array:
        """Return A query + term (B, H)."""
        for call in self._reads[self.has_matrix][self.recent] or self.read_calls(self.recent):
            call()
        return self.result

    def read_calls(self, r: int) -> list[Call]:
        """Return the calls that put A query + term in `result`, after r recent states; made once for each r."""
        reads = self._reads[self.has_matrix]
        reads[r] = reads[r] or self._bind(r, self.has_matrix)
        return reads[r]

    def _bind(self, r: int, has_matrix: bool) -> list[Call]:
        """Return the calls of a read of M, or of none, and r recent states."""
        xp, calls = self._xp, []
        if not r and not has_matrix:
            return [partial(self.result.__setitem__, ..., self.term)]  # A = 0
        vectors, first = self._rows.swapaxes(0, 1), 0 if has_matrix else 1
        if has_matrix:
            calls.append(product(xp, self.query[:, None], self._matrix, self._rows[0][:, None]))
        if r:
            calls.append(product(xp, vectors[:, 2 : r + 2], self.query[:, :, None], self._products[:, 2 : r + 2, None]))
        # λ^r M q + term + Σ_k [η λ^(n-k) h(k)ᵀ q] h(k)                                                            (4)
        weights = xp.repeat(self._weights[r : r + 1], len(self.query), axis=0)  # NumPy multiplies equal shapes faster
        calls.append(partial(xp.multiply, self._products, weights, self._scores))
        scores = self._scores[:, None, first : r + 2]
        calls.append(product(xp, scores, vectors[:, first : r + 2], self.result[:, None]))
        return calls

    def write(self, h: Array) -> None:
        """Add a state h (B, H): A = λ A + η h hᵀ, equation (1)."""
        self.vectors[self.recent][...] = h
        self.recent += 1
        if self.recent == self.chunk:
            self.fold()

    def fold(self) -> None:
        """Make M the present A, with no recent states."""
        self._put(self._matrix)
        self._start(has_matrix=True)

    def _put(self, out: Array) -> None:
        """Put A, transposed, in out (B, H, H), which may be M's buffer."""
        xp, r = self._xp, self.recent
        if not r and not self.has_matrix:
            out.fill(0)
            return
        # λ^r M + Σ_k η λ^(n-k) h(k) h(k)ᵀ                                                                         (1)
        # the weighted states are a copy, because NumPy multiplies an array by its own transpose at half the speed
        weighted = xp.multiply(self.vectors[:r], self._weights[r, 2 : r + 2, None, None], out=self._weighted[:r])
        left, right = weighted.transpose(1, 2, 0), self.vectors[:r].swapaxes(0, 1)
        for block in self._blocks:
            written = out[block]
            if self.has_matrix:
                xp.multiply(self._matrix[block], self._decays[r], out=written)
                written += xp.matmul(left[block], right[block], out=self._terms[: len(written)]) if r else 0
            else:
                xp.matmul(left[block], right[block], out=written)

    def value(self) -> Array:
        """Return A (B, H, H), a new array."""
        A = self._xp.empty_like(self._matrix)
        self._put(A)
        return A.swapaxes(1, 2).copy()

    def value_after(self, rows: numpy.ndarray, recent: numpy.ndarray) -> Array:
        """Return A (n, H, H) of these sequences, a new array, the i-th one after its first recent[i] recent states."""
        rows, weights = self._xp.asarray(rows), self._weights[self._xp.asarray(recent)]
        vectors, matrix = self.vectors[: self.recent, rows], self._matrix[rows] if self.has_matrix else None
        return fold(matrix, weights[:, :1, None], vectors, vectors, weights[:, 2 : self.recent + 2].T).swapaxes(1, 2)

    def reset(self, rows: Any, A: Array | None) -> None:
        """Begin anew with A (B, H, H), or zero, in the sequences that `rows` selects; see `assign`."""
        if rows is None:
            self._start(has_matrix=A is not None)
        else:
            if A is not None and (self.recent or not self.has_matrix):
                self.fold()  # A enters with weight 1, which only M without recent states has
            assign(self.vectors, rows, None, axis=1)
        if self.has_matrix:
            assign(self._matrix, rows, None if A is None else A.swapaxes(1, 2))

    def snapshot(self) -> Snapshot:
        """Return a copy of the fast weights as they are stored, for `restore`."""
        return Snapshot(self.vectors[: self.recent].copy(), self._matrix.copy() if self.has_matrix else None)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of a memory of the same sizes."""
        self._start(has_matrix=snapshot.matrix is not None)
        self.recent = len(snapshot.vectors)
        self.vectors[: self.recent] = snapshot.vectors
        if snapshot.matrix is not None:
            self._matrix[...] = snapshot.matrix
