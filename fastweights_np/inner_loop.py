"""The inner loop of Ba et al. 2016, from a = W h(t) + C x(t) + b and A(t) to h(t+1), forward and backward.

    h_0   = f(a), or f(LN[a])                                           (2a)
    h_s+1 = f(LN[A(t) h_s + a]),   s = 0 .. S-1,   h(t+1) = h_S     (2), (5)

a is the paper's sustained boundary condition: it acts on every inner step. B sequences, H units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import checks, ops
from .backend import Array
from .ops import LayerNorm
from .recurrent import NormActivation, Params, Saved


@dataclass(frozen=True)
class Options:
    """The options of all time steps; fast_weights.forward describes them.

    Raises ValueError or TypeError that names the option at fault.
    """

    decay: float = 0.95
    rate: float = 0.5
    inner_steps: int = 1
    activation: str = "relu"
    sustained_boundary: bool = True
    normalize_preliminary: bool = False

    def __post_init__(self) -> None:
        checks.fraction("decay", self.decay)
        checks.not_negative("rate", self.rate)
        checks.count("inner_steps", self.inner_steps, least=0)
        checks.choice("activation", self.activation, ops.ACTIVATIONS)
        for name in ("sustained_boundary", "normalize_preliminary"):
            checks.boolean(name, getattr(self, name))

    @property
    def structure(self) -> tuple[Any, ...]:
        """Return the options that buffers depend on: all except λ and η."""
        return self.inner_steps, self.activation, self.sustained_boundary, self.normalize_preliminary


@lru_cache(typed=True)
def _options(*values: Any) -> Options:
    return Options(*values)


def checked_options(*values: Any) -> Options:
    """Return Options(*values), checked once for the same values."""
    try:
        return _options(*values)
    except TypeError:  # a value that is wrong, or that cannot be hashed
        pass
    return Options(*values)


class InnerLoop:
    """The inner loop for states of one shape (B, H), the shape of `like`.

    A is a Memory, or another object with `read` and `read_transposed`. Several time steps may read A(n): `first` is the
    number of reads of A(n) by earlier steps.
    """

    def __init__(self, like: Array, options: Options, layer_norm: bool) -> None:
        self.inner_steps, self.sustained_boundary = options.inner_steps, options.sustained_boundary
        f, norm = ops.ACTIVATIONS[options.activation](like), LayerNorm(like) if layer_norm else None
        preliminary = NormActivation(like, f, norm if options.normalize_preliminary else None)
        self.activations = [preliminary] + [NormActivation(like, f, norm)] * self.inner_steps  # of h_s, s = 0 .. S

    def load(self, params: Params) -> None:
        """Load the current values of gain and bias, if the layer has them."""
        self.activations[-1].load(params)  # it shares its layer norm with the others

    def forward(self, a: Array, A: Any, n: int, saved: Sequence[Saved], first: int = 0) -> Array:
        """Return h(t+1) (B, H) from a (B, H) and A(n); fill saved[s] for each h_s."""
        h = self.activations[0].forward(a, saved[0])  # (2a)
        for s in range(self.inner_steps):
            z = A.read(n, first + s, h)  # (4)
            z += a if self.sustained_boundary else h  # (2): appendix B's method 1, or 2, A + identity
            h = self.activations[s + 1].forward(z, saved[s + 1])  # (5)
        return h

    def slopes(self, saved: Sequence[Saved], errors: Array | Sequence[Array], da: Array) -> None:
        """Put the slopes f'(.) of h_1 .. h_S into errors (S, ..., B, H), of h_0 into da; for one step or for all."""
        # f'(.), known from h_s alone                                                                      (F1), (F4)
        f = self.activations[0].f
        for s in range(self.inner_steps):
            f.slope(saved[s + 1].state, out=errors[s])
        f.slope(saved[0].state, out=da)

    def backward(
        self, dh: Array, A: Any, n: int, saved: Sequence[Saved], errors: Sequence[Array], da: Array, dnorm: Array,
        first: int = 0,
    ) -> None:  # fmt: skip
        """Replace the slopes in da (B, H) by da, and the slopes in errors (S, B, H) by the errors r_s, from dh (B, H).

        The gradient of A(n) is Σ_s r_s h_sᵀ: errors are views of A.errors, which MemoryGradient adds up. The gradients
        of gain and bias are added to dnorm (2, 1, H).
        """
        for s in reversed(range(self.inner_steps)):
            # h_s+1 = f(LN[z])                                                                             (F1), (F2)
            r = self.activations[s + 1].backward(dh, saved[s + 1], errors[s], dnorm)
            # z = A h_s + a (method 1), z = A h_s + h_s (method 2)                                                (F3)
            dh = A.read_transposed(n, first + s, r)
            if not self.sustained_boundary:
                dh += r
        # h_0 = f(a), or f(LN[a])                                                                                (F4)
        self.activations[0].backward(dh, saved[0], da, dnorm)
        if self.sustained_boundary:
            # z = A h_s + a for all s                                                                            (F3)
            for r in errors:
                da += r
