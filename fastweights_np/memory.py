"""The memory of the paper: a decaying sum of outer products, written a rank-one term at a time and read with a vector.

    M(n) = λ M(n-1) + scale Σ_s left_s(n) right_s(n)ᵀ                                                     equation (1)
         = λⁿ M(0) + scale Σ_{k=1..n} λ^(n-k) Σ_s left_s(k) right_s(k)ᵀ                                   equation (3)
    M(n) v = λⁿ M(0) v + scale Σ_{k=1..n} λ^(n-k) Σ_s left_s(k) [right_s(k)ᵀ v]                           equation (4)

The fast weights A(t) are such a memory (left = right = h(t)), and so is their gradient, which runs backwards in time
(left: the errors, right: what was read with; see DERIVATION.md). Equation numbers are those of Ba et al. 2016.

One knob, `chunk`, says how the sum is kept. The terms of the chunk being written are kept as vectors and read as
attention, equation (4); where a chunk ends they are folded into a matrix, equation (1) taken `chunk` steps at once.

    chunk >= T    attention alone: O(T² H) time, O(T H) memory for each sequence; the matrix is never formed
    chunk = 1     the matrix alone: O(T H²) time, O(T H²) memory (backward needs every matrix)
    chunk ≈ H     the blend: O(T H²) time, O(T H) memory, both linear in T

A matrix is never recovered by running (1) backwards, M(n-1) = (M(n) - h hᵀ) / λ, which loses all digits in some
hundred steps; the matrix at each chunk's start is kept instead.
"""

from __future__ import annotations

from types import ModuleType

from .backend import Array
from .workspace import Workspace


def choose_chunk(steps: int, hidden_size: int) -> int:
    """The chunk for `chunk=None`: attention alone up to T = 2 H, where it is the cheapest; else the blend."""
    return steps if steps <= max(2 * hidden_size, 32) else max(hidden_size, 16)


def read_matrix(matrix: Array, v: Array) -> Array:
    """matrix v for each sequence: matrix (B, H, H), v (B, H), result (B, H)."""
    return (matrix @ v[:, :, None])[:, :, 0]


def fold(matrix: Array | None, decay: float, left: Array, right: Array, weights: Array) -> Array:
    """decay · matrix + Σ_k weights_k left_k right_kᵀ: equation (1), for one term or for many at once.

    matrix (B, H, H) or None for zero; left and right (B, K, H); weights (K, 1). Returns a new (B, H, H).
    """
    folded = (left * weights).swapaxes(1, 2) @ right
    if matrix is not None:
        folded += decay * matrix
    return folded


class Memory:
    """M(n) for n = 0 .. steps, for B sequences side by side. It can be read at every n that has been written.

    decay is λ, scale the factor of each term (η for the fast weights), width the number of terms s = 1 .. S a step.
    initial is M(0) (B, H, H), or None for zero. Left and right are one buffer if `symmetric`. If not `revisit`, only
    the latest matrix is kept, and n may not go back past a chunk's start. Vectors are laid out (B, terms, H), so that
    reading all sequences is one batched product.
    """

    def __init__(
        self, xp: ModuleType, dtype: object, batch_size: int, steps: int, hidden_size: int, *, name: str,
        workspace: Workspace, decay: float, scale: float = 1.0, width: int = 1, chunk: int | None = None,
        initial: Array | None = None, symmetric: bool = False, revisit: bool = True,
    ) -> None:  # fmt: skip
        self._xp, self.decay, self.scale, self.width, self.revisit = xp, float(decay), float(scale), width, revisit
        self.chunk = min(chunk or choose_chunk(steps, hidden_size), max(steps, 1))
        self.written = 0
        self._matrices: dict[int, Array | None] = {0: initial}  # chunk number -> M at its start
        # left and right vectors take turns: (B, terms, 2, H)
        shape = (batch_size, steps * width, 1 if symmetric else 2, hidden_size)
        self._pairs = workspace.empty(xp, name, shape, dtype)
        self._left, self._right = self._pairs[:, :, 0], self._pairs[:, :, -1]
        # scale times λ^(chunk-1) .. λ, 1, each repeated for the terms of its step: the last n of them weigh n steps
        ages = xp.repeat(xp.arange(self.chunk - 1, -1, -1), width)[:, None]
        self._weights = (scale * self.decay**ages).astype(dtype)

    def write(self, left: list[Array], right: list[Array] | None = None) -> None:
        """Takes the next step's `width` pairs of vectors (B, H), `right` None if symmetric; reading weighs them."""
        for s, vector in enumerate(left):
            self._left[:, self.written * self.width + s] = vector
        for s, vector in enumerate(right or ()):
            self._right[:, self.written * self.width + s] = vector
        self.written += 1

    def read(self, v: Array, n: int, transposed: bool = False) -> Array:
        """M(n) v, or M(n)ᵀ v if `transposed`, by equation (4) for the running chunk; v (B, H), result (B, H)."""
        chunk_number, recent = divmod(n, self.chunk)
        left, right = self._terms(n - recent, n)
        if transposed:
            left, right = right, left
        scores = right @ v[:, :, None]
        scores *= self._recent_weights(recent)
        result = (scores.swapaxes(1, 2) @ left)[:, 0]
        matrix = self._matrix(chunk_number)
        if matrix is not None:
            result += self.decay**recent * read_matrix(matrix.swapaxes(1, 2) if transposed else matrix, v)
        return result

    def read_symmetric(self, v: Array, n: int) -> Array:
        """(M(n) + M(n)ᵀ) v, the gradient of vᵀ M(n) v, for less than the price of two reads; v (B, H)."""
        chunk_number, recent = divmod(n, self.chunk)
        pairs = self._pairs[:, (n - recent) * self.width : n * self.width]
        batch_size, terms, sides, hidden_size = pairs.shape
        pairs = pairs.reshape(batch_size, terms * sides, hidden_size)
        scores = (pairs @ v[:, :, None]).reshape(batch_size, terms, sides)
        # left [rightᵀ v] + right [leftᵀ v]: each vector is weighted by its partner's score
        scores = scores[:, :, ::-1] * self._recent_weights(recent)
        result = (scores.reshape(batch_size, 1, terms * sides) @ pairs)[:, 0]
        matrix = self._matrix(chunk_number)
        if matrix is not None:
            result += self.decay**recent * (read_matrix(matrix, v) + read_matrix(matrix.swapaxes(1, 2), v))
        return result

    def attention(self, v: Array, n: int) -> Array:
        """How strongly each written step is attended to by v at n: scale λ^(n-k) [right(k)ᵀ v], (B, n), k = 1 .. n.

        Of a memory with one term a step, whatever the chunk; the part of M(0) is left out.
        """
        ages = self._xp.arange(n - 1, -1, -1)
        weights = (self.scale * self.decay**ages).astype(v.dtype)
        return (self._right[:, :n] @ v[:, :, None])[:, :, 0] * weights

    def matrix(self, n: int) -> Array:
        """M(n) itself, (B, H, H), a new array, by equation (3) for the running chunk."""
        chunk_number, recent = divmod(n, self.chunk)
        left, right = self._terms(n - recent, n)
        return fold(self._matrix(chunk_number), self.decay**recent, left, right, self._recent_weights(recent))

    def _recent_weights(self, recent: int) -> Array:
        """scale λ^age of the terms of the last `recent` steps, (terms, 1)."""
        return self._weights[len(self._weights) - recent * self.width :]

    def _terms(self, first: int, last: int) -> tuple[Array, Array]:
        """The left and right vectors written after step `first` up to step `last`, (B, terms, H)."""
        terms = slice(first * self.width, last * self.width)
        return self._left[:, terms], self._right[:, terms]

    def _matrix(self, chunk_number: int) -> Array | None:
        """M at the start of this chunk, by equation (1) from chunk to chunk, when it is first asked for."""
        while chunk_number not in self._matrices:
            newest = max(self._matrices)
            left, right = self._terms(newest * self.chunk, (newest + 1) * self.chunk)
            previous = self._matrices[newest] if self.revisit else self._matrices.pop(newest)
            self._matrices[newest + 1] = fold(previous, self.decay**self.chunk, left, right, self._weights)
        return self._matrices[chunk_number]
