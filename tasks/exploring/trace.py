"""Read from a layer's cache what fast weights stored, what each step read, and how strongly: equations (1) to (4).

Every number comes from the library: states and queries from the cache of `forward`, A and the scores from its Memory.
"""

from __future__ import annotations

import numpy

from fastweights_np import fast_weights, memory, multilevel
from fastweights_np.backend import Array


class Trace:
    """What one forward of a layer with fast weights computed for the first sequence of its batch.

    Step t = 0 .. T-1 reads x(t) and A(n), where n is the number of states that were written before. It computes h_0,
    then h_s+1 from A(n) h_s for s = 0 .. S-1. The last one is h(t+1). H units.
    """

    def __init__(self, cache: fast_weights.Cache | multilevel.Cache) -> None:
        self._steps, self._A = cache.buffers.steps, cache.buffers.A
        self.h: Array = cache.buffers.states[:, 0]  # (T, H)
        self.layer_norm = "gain" in cache.params
        self.decay, self.rate = self._A.decay, self._A.rate
        if isinstance(cache, multilevel.Cache):
            self.written_before = [step.n for step in cache.buffers.steps]  # n of each step
            self._first = [step.first for step in cache.buffers.steps]
            self.stores: tuple[bool, ...] = tuple(map(bool, cache.controls.store))
        else:
            self.written_before = list(range(len(self.h)))
            self._first = [0] * len(self.h)
            self.stores = (True,) * len(self.h)
        self.writers = [t for t, stores in enumerate(self.stores) if stores]  # the step that wrote h(k), k = 1 .. N

    def reads(self, t: int) -> int:
        """Return how often step t reads A: S, or 0."""
        return len(self._steps[t].saved) - 1

    def state(self, t: int, s: int) -> Array:
        """Return h_s(t+1) (H,), s = 0 .. S. For s < S it is the query of a read."""
        return self._steps[t].saved[s].state[0]

    def preactivation(self, t: int) -> Array:
        """Return a = W h(t) + C x(t) + b (H,) of equation (2)."""
        return self._steps[t].a[0]

    def matrix(self, n: int) -> Array:
        """Return A(n) (H, H), equation (1)."""
        return self._A.matrix(n)[0]

    def remembered(self, t: int, s: int) -> Array:
        """Return A(n) h_s(t+1) (H,), which read s of step t adds to a."""
        return memory.read_matrix(self._A.matrix(self.written_before[t]), self._steps[t].saved[s].state)[0]

    def scores(self, t: int, s: int) -> Array:
        """Return the scores (n,) of the query h_s(t+1): η λ^(n-k) h(k)ᵀ h_s(t+1), k = 1 .. n, equation (4)."""
        return self._A.attention(self._steps[t].saved[s].state, self.written_before[t], self._first[t] + s)[0]

    def left(self, n: int, k: int) -> float:
        """Return how much of h(k) h(k)ᵀ is left in A(n), without η: λ^(n-k)."""
        return float(self._A.left(n, numpy.array([k]))[0, 0])

    def term(self, n: int, k: int) -> Array:
        """Return what the k-th write contributes to A(n): η λ^(n-k) h(k) h(k)ᵀ (H, H), equation (3)."""
        states, weight = self._A.states[k - 1 : k], self._A.left(n, numpy.array([k]))
        return memory.fold(None, weight, states, states, self.rate * weight)[0]

    @property
    def largest(self) -> float:
        """Return the largest absolute entry of A over all steps: the end of the pictures' colour scale."""
        return max(float(abs(self.matrix(n)).max()) for n in range(len(self.writers) + 1)) or 1.0
