"""Optimizers, gradient clipping and learning-rate schedules, over nested dicts of parameters.

An optimizer changes the parameter arrays in place. Each moment is one flat vector: an update takes a dozen array
operations for any number of parameters. The caller may pass `moments`: learners that share parameters, in shared
memory, share the moments, too.
"""

from __future__ import annotations

from collections.abc import Collection
from math import cos, inf, isfinite, nan, pi, prod
from typing import Any

import numpy

from . import checks
from .backend import Array, array_module
from .roles import is_weight
from .trees import flatten

__all__ = ["SCHEDULES", "Adam", "RMSProp", "clip_by_global_norm", "constant", "cosine", "linear_decay"]

Tree = dict[str, Any]

TINY = 1e-15  # a norm below it may have lost squares that are too small for float32


def _vector(flat: Tree) -> Array:
    """Return all arrays, end to end, in one new vector. Raises ValueError for none, TypeError as `floating` does."""
    if not flat:
        raise ValueError("tree: expected at least one array, got an empty dict")
    xp = array_module(**flat)
    checks.floating(**flat)
    return xp.concatenate([array.reshape(-1) for array in flat.values()])


def _weights(paths: Collection[str], weights: Collection[str] | None) -> frozenset[str]:
    """Return the paths of the weight matrices: the given ones, or the parameters whose role is weight."""
    if weights is not None:
        chosen = frozenset((weights,) if isinstance(weights, str) else weights)
        for path in chosen.difference(paths):
            raise ValueError(f"weights: expected names among {', '.join(paths)}; got {path!r}")
        return chosen
    try:
        return frozenset(path for path in paths if is_weight(path))
    except KeyError as error:
        raise ValueError(
            f"weights: expected the names of the parameters to decay, because no layer of this package has a "
            f"parameter {error}; pass weights=(...)"
        ) from None


def _check_epsilon(epsilon: float, dtype: numpy.dtype) -> None:
    if not dtype.type(epsilon) > 0:
        raise ValueError(f"epsilon: expected a number above 0 in {dtype}, got {epsilon}: 0 / 0 is NaN; raise it")


def _check_momentum(name: str, value: float) -> None:
    checks.fraction(name, value)
    if value == 1:
        raise ValueError(f"{name}: expected a number below 1, got {value}: the moment would stay zero")


class _Optimizer:
    """The base of Adam and RMSProp: it stores and saves the moments, and applies an update to the parameters."""

    moments: tuple[str, ...]
    weight_decay = 0.0
    _decayed: frozenset[str] = frozenset()

    def __init__(self, params: Tree, moments: Tree | None) -> None:
        flat = flatten(params)
        vector = _vector(flat)
        xp = array_module(params=vector)
        self._shapes, self._dtype = {name: array.shape for name, array in flat.items()}, vector.dtype
        if moments is None:
            moments = {name: xp.zeros_like(vector) for name in self.moments}
        checks.keys("moments", moments, self.moments, remedy="one vector for each")
        self._check_moments("moments", moments, vector)
        checks.writable("moments", moments)
        self._moments = moments
        self.updates = 0

    def _check_moments(self, name: str, moments: Tree, like: Array) -> None:
        """Raise ValueError or TypeError for a moment of another shape or dtype, or with an impossible number."""
        array_module(**{key: moments[key] for key in self.moments})
        for key in self.moments:
            moment, where = moments[key], f"{name}[{key!r}]"
            checks.shape(where, moment, like.shape, "as many numbers as there are parameters")
            if moment.dtype != like.dtype:
                raise TypeError(f"{where}: expected {like.dtype}, as the parameters are, got {moment.dtype}")
            lowest = 0 if key == "v" else -inf
            if isinstance(moment, numpy.ndarray) and not ((moment >= lowest) & (abs(moment) < inf)).all():
                raise ValueError(f"{where}: expected finite numbers of at least {lowest}, got others")

    def step(self, params: Tree, grads: Tree, learning_rate: float) -> None:
        """Update `params` once, in place. The learning rate is an argument, so that a schedule is a function.

        Raises ValueError if params or grads have other names or shapes than the optimizer was made with, or if params
        are read-only or share memory. On the host, raises FloatingPointError for a gradient that is not finite, or
        whose square is not. A GPU is not checked: the host would wait for it. An error leaves everything unchanged.
        """
        checks.not_negative("learning_rate", learning_rate)
        flat_params, flat_grads = flatten(params), flatten(grads)
        if learning_rate * self.weight_decay > 1:
            raise ValueError(
                f"weight_decay: expected at most 1 / learning_rate, {1 / learning_rate:g}, got {self.weight_decay}: "
                "weights would change their sign; lower one of them"
            )
        array_module(**flat_params)
        array_module(**flat_grads)
        checks.writable("params", flat_params)
        for tree_name, flat in (("params", flat_params), ("grads", flat_grads)):
            if set(flat) != set(self._shapes):
                odd = ", ".join(sorted(set(flat) ^ set(self._shapes)))
                raise ValueError(
                    f"{tree_name}: expected the arrays that the optimizer was made with; too many or few: {odd}"
                )
            for name, shape in self._shapes.items():
                checks.shape(f"{tree_name}[{name!r}]", flat[name], shape)
                if flat[name].dtype != self._dtype:
                    raise TypeError(
                        f"{tree_name}[{name!r}]: expected {self._dtype}, as the optimizer was made with, got "
                        f"{flat[name].dtype}; convert it with .astype"
                    )
        gradient = _vector({name: flat_grads[name] for name in self._shapes})
        if isinstance(gradient, numpy.ndarray):
            with numpy.errstate(over="ignore"):
                squares = gradient @ gradient
            if not isfinite(squares):
                self._refuse_overflow(gradient)
        self.updates += 1
        change = self._change(gradient)
        change *= learning_rate
        start = 0
        for name in self._shapes:
            param = flat_params[name]
            if name in self._decayed:
                param *= 1 - learning_rate * self.weight_decay
            param -= change[start : start + param.size].reshape(param.shape)
            start += param.size

    def _refuse_overflow(self, gradient: numpy.ndarray) -> None:
        """Raise FloatingPointError if a number in the gradient is not finite, or too large to be squared."""
        limit, start = float(numpy.finfo(gradient.dtype).max) ** 0.5, 0
        for name, shape in self._shapes.items():
            values = gradient[start : (start := start + prod(shape))]
            bad = values[~(abs(values) < limit)]
            if len(bad):
                raise FloatingPointError(
                    f"grads: expected finite numbers below {limit:.2g}, whose squares fit {gradient.dtype}, got "
                    f"{bad[0]} in {name!r}; parameters and moments are unchanged; scale gradients down by "
                    "clip_by_global_norm, or lower the learning rate"
                )

    def state(self) -> Tree:
        """Return the state that a checkpoint has to hold: the moments (copies) and the number of updates."""
        return {name: moment.copy() for name, moment in self._moments.items()} | {"updates": numpy.array(self.updates)}

    def load_state(self, state: Tree) -> None:
        """Load a state that `state` returned, to resume. Raises ValueError if it is another optimizer's."""
        checks.keys("state", state, (*self.moments, "updates"), remedy="pass what this optimizer's state() gave")
        updates = state["updates"]
        updates = int(updates) if getattr(updates, "shape", None) == () and updates.dtype.kind in "iu" else updates
        checks.count("state['updates']", updates, least=0)
        self._check_moments("state", state, next(iter(self._moments.values())))
        for name, moment in self._moments.items():  # all of them have been checked
            moment[...] = state[name]
        self.updates = updates

    def _change(self, g: Array) -> Array:
        """Return the update direction, a new vector. `step` multiplies it by the learning rate and subtracts it."""
        raise NotImplementedError


class Adam(_Optimizer):
    """m = β1 m + (1-β1) g,  v = β2 v + (1-β2) g²,  θ -= α m̂ / (√v̂ + ε), m̂ and v̂ corrected for their zero start.

    With weight_decay w, weight matrices shrink before that: θ -= α w θ. Biases and gains do not. `weights` names the
    matrices by their paths, such as "layer/W"; None selects them by their role (roles.py).

    Raises ValueError if weight_decay is not 0 and a parameter's role is unknown, or `weights` has an unknown path.

    Source: Kingma, Ba 2015, arXiv 1412.6980, algorithm 1; decoupled weight decay: Loshchilov, Hutter 2019,
    arXiv 1711.05101, algorithm 2.
    """

    moments = ("m", "v")

    def __init__(
        self,
        params: Tree,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        weights: Collection[str] | None = None,
        moments: Tree | None = None,
    ) -> None:
        _check_momentum("beta1", beta1)
        _check_momentum("beta2", beta2)
        checks.not_negative("epsilon", epsilon)
        checks.not_negative("weight_decay", weight_decay)
        super().__init__(params, moments)
        _check_epsilon(epsilon, self._dtype)
        self.beta1, self.beta2, self.epsilon, self.weight_decay = beta1, beta2, epsilon, weight_decay
        if weight_decay or weights is not None:
            self._decayed = _weights(self._shapes, weights)

    def _change(self, g: Array) -> Array:
        m, v = self._moments["m"], self._moments["v"]
        m *= self.beta1
        m += (1 - self.beta1) * g
        g *= g  # g is this step's own copy
        g *= 1 - self.beta2
        v *= self.beta2
        v += g
        denominator = (v / (1 - self.beta2**self.updates)) ** 0.5
        denominator += self.epsilon
        return m / (1 - self.beta1**self.updates) / denominator


class RMSProp(_Optimizer):
    """v = ρ v + (1-ρ) g²,  θ -= α g / √(v + ε): the form of A3C (Mnih et al. 2016, arXiv 1602.01783, equation S3)."""

    moments = ("v",)

    def __init__(
        self, params: Tree, *, rho: float = 0.99, epsilon: float = 1e-8, moments: Tree | None = None
    ) -> None:  # fmt: skip
        _check_momentum("rho", rho)
        checks.not_negative("epsilon", epsilon)
        super().__init__(params, moments)
        _check_epsilon(epsilon, self._dtype)
        self.rho, self.epsilon = rho, epsilon

    def _change(self, g: Array) -> Array:
        v = self._moments["v"]
        v *= self.rho
        v += (1 - self.rho) * (g * g)
        g /= (v + self.epsilon) ** 0.5
        return g


def clip_by_global_norm(grads: Tree, limit: float) -> Array:
    """Scale all of `grads`, in place, to a joint Euclidean norm of at most `limit`; return the norm before (float64).

        g ← g · min(1, limit / norm),   norm = √Σ g²

    If a gradient is not finite, neither is the norm, and all gradients become NaN: no update by them can go unnoticed.
    The norm is a 0-d array and stays on its device. Raises ValueError for a limit that is not finite and above 0, for
    read-only arrays, and for arrays that share memory.

    Source: Pascanu, Mikolov, Bengio 2013, arXiv 1211.5063, algorithm 1.
    """
    checks.positive("limit", limit)
    flat = flatten(grads)
    xp = array_module(**flat)
    checks.floating(**flat)
    checks.writable("grads", flat)
    norm = _joint_norm(flat)
    shrink = xp.where(xp.isfinite(norm), limit / xp.maximum(norm, limit), xp.full_like(norm, nan))
    for grad in flat.values():
        grad *= shrink.astype(grad.dtype)
    return norm


def _joint_norm(flat: Tree) -> Any:
    """Return √Σ g² of all arrays, 0-d float64; it is finite if all arrays are."""
    xp = array_module(**flat)
    if xp is numpy:
        with numpy.errstate(over="ignore", under="ignore"):
            norm = sum((grad * grad).sum() for grad in flat.values()) ** 0.5
        if TINY < norm < inf:
            return numpy.float64(norm)
    # √Σ g² = m √Σ (g / m)², m = max |g|: in float32 a square overflows from 1.8e19 on
    vector: Any = _vector(flat)
    if not vector.size:
        return numpy.float64(0)
    largest = abs(vector).max()
    m = xp.where(xp.isfinite(largest) & (largest > 0), largest, xp.ones_like(largest))
    vector /= m
    vector *= vector
    return m * vector.sum(dtype="float64") ** 0.5


def constant(update: int, updates: int, hold: float = 1.0) -> float:
    """Return 1 at every update: the learning rate is constant, for any `hold`."""
    return 1.0


def linear_decay(update: int, updates: int, hold: float = 0.5) -> float:
    """Return 1 for the first fraction `hold` of `updates`, then decay linearly to 0; update counts from 0."""
    return _left(update, updates, hold)


def cosine(update: int, updates: int, hold: float = 0.0) -> float:
    """Return 1 for the first fraction `hold` of `updates`, then half a cosine from 1 to 0; update counts from 0.

    Source: Loshchilov, Hutter 2017, arXiv 1608.03983, equation (5), without restarts.
    """
    return 0.5 - 0.5 * cos(pi * _left(update, updates, hold))


def _left(update: int, updates: int, hold: float) -> float:
    """Return the fraction of the updates after `hold` that is left, 1 before them."""
    checks.fraction("hold", hold)
    checks.count("updates", updates, least=1)
    checks.count("update", update, least=0)
    if update > updates:
        raise ValueError(f"update: expected at most updates, {updates}, got {update}")
    left = 1 - update / updates
    return min(1.0, left / (1 - hold)) if hold < 1 else 1.0


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear_decay}
