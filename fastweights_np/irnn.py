"""The IRNN: a plain recurrent layer whose W starts as a multiple of the identity (Le, Jaitly, Hinton 2015, 1504.00941).

    h(t+1) = f(W h(t) + C x(t) + b), or f(LN[W h(t) + C x(t) + b]) as an option;   f is ReLU, or tanh

It is the fast-weight layer without fast weights, and its baseline in section 4.1 of Ba et al. 2016. Code counts from 0:
x[t] is x(t), and the returned h[t] is h(t+1). T steps, B sequences, I inputs, H units. Numbers such as (I1) are in
DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module
from .inference import StatesOnly, in_parts, without
from .recurrent import (
    BaseCache,
    NormActivation,
    Params,
    Saved,
    affine_backward,
    check_cache,
    check_once,
    check_params,
    check_sequences,
    gradient_of_state,
    identity_params,
    initial,
    input_sums,
    norm_activation,
    renamed,
    requested,
)  # fmt: skip
from .spans import Spans
from .stepper import BaseStepper, Held, activation_calls, norm_of
from .workspace import Workspace, exclusive, unlocked

__all__ = ["Cache", "State", "Stepper", "backward", "final_state", "forward", "init", "initial_state", "step"]


class State(NamedTuple):
    """The state between two steps: h (B, H), the hidden state."""

    h: Array


class Buffers:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, activation: str, layer_norm: bool
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        self.h = xp.empty((steps + 1, batch_size, hidden_size), dtype)  # h[0] is h0; forward returns a copy of the rest
        self.z = xp.empty(shape, dtype)  # W h + C x + b; backward puts its gradient here
        like = self.h[0]
        norm = ops.LayerNorm(like) if layer_norm else None
        self.activation = NormActivation(like, ops.ACTIVATIONS[activation](like), norm)
        self.saved = Saved.of_all_steps(self.h[1:], layer_norm)
        self.steps = [(self.z[t], self.saved.at(t)) for t in range(steps)]  # the cached views of each step


@dataclass
class Cache(BaseCache):
    """All that `backward` depends on, and nothing else. Valid until the next forward with the same workspace."""

    buffers: Buffers


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, recurrent_scale: float = 0.5,
    layer_norm: bool = False, dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return new parameters: W = recurrent_scale · identity (H, H), C (H, I) uniform in ±1/√I, b = 0 (H,).

    The scale is 1 in Le et al. and 0.5 in Ba et al. Layer norm adds gain = 1 and bias = 0 (H,).
    """
    return identity_params(rng, input_size, hidden_size, recurrent_scale, layer_norm, dtype)


@exclusive
def forward(
    params: Params, x: ops.Input, h0: Array | None = None, *, activation: str = "relu", lengths: Array | None = None,
    resets: Array | None = None, gradients: bool = True, workspace: Workspace | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """Return h (T, B, H) for whole sequences x (T, B, I), and the cache that `backward` needs.

    x may also be ops.embedding(table, tokens), with a table (V, I) and tokens (T, B); dx is then the table's gradient.
    For agents, x may be an ops.ClosedLoop.
    h0 (B, H) is the state before the first step, zero if None. activation is f, "relu" or "tanh". lengths (B,) and
    resets (T, B) are for padded batches and for several documents in one sequence: spans.py. gradients=False keeps
    nothing for backward: the cache is then for final_state alone. A workspace reuses buffers from one forward to the
    next. All arrays share one dtype and one device, and must not be changed before backward has been called. Raises
    ValueError or TypeError that names the argument at fault.
    """
    xp = check_params(params, (), {"x": ops.input_array(x)} | checks.given(h0=h0))
    check_sequences(params, x)
    checks.choice("activation", activation, ops.ACTIVATIONS)
    W, shape, layer_norm = params["W"], (*x.shape[:2], len(params["W"])), "gain" in params
    h0 = initial("h0", h0, shape[1:], W)
    spans = Spans(x, lengths, resets)
    workspace = workspace or Workspace()
    if without(gradients):
        part = partial(unlocked(forward), params, activation=activation, workspace=workspace)
        return in_parts(part, unlocked(final_state), x, {"h0": h0}, lengths, resets)
    x = spans.clear(x)

    ticket = workspace.begin()
    key = (xp, shape, W.dtype, activation, layer_norm)
    buffers = workspace.buffers(key, lambda: Buffers(xp, shape, W.dtype, activation, layer_norm))
    buffers.activation.load(params)

    feed = input_sums(x, params, buffers.z)
    buffers.h[0] = h = h0
    from_state, W_transposed = xp.empty_like(h0), W.T
    for t, (z, saved) in enumerate(buffers.steps):
        h = spans.begin(t, h)
        feed(t, h)
        z += xp.matmul(h, W_transposed, out=from_state)
        h = buffers.activation.forward(z, saved)
        spans.end(t, h)
    again = partial(forward, params, ops.made(x), h0, activation=activation, lengths=lengths, resets=resets)
    return buffers.h[1:].copy(), Cache(params, x, spans, workspace, ticket, again, buffers)


@exclusive
@renamed(also="extra")
def backward(
    dh: Array, cache: Cache, extra: Sequence[str] = (), dstate: State | None = None
) -> tuple[Params, Array, Array]:  # fmt: skip
    """Return the gradients of `forward`, (grads, dx, dh0), from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step of each sequence alone. grads has the keys of params; dx (T, B, I);
    dh0 (B, H). `extra` must be empty; it exists because the other layers have it.
    dstate is the gradient of the state that final_state returns, if the loss depends on it; None is zero.

    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    check_cache(cache, Cache)
    requested(extra, ())
    params, buffers, spans = cache.params, cache.buffers, cache.spans
    states, xp = buffers.h[1:], array_module(h=buffers.h)
    (dh_last,) = gradient_of_state(dstate, State, states, states.shape[1:])
    dhs = spans.gradients(dh, states, dh_last)
    W, steps = params["W"], len(buffers.steps)
    dnorm = xp.zeros((2, 1, len(W)), dh.dtype)  # gradients of gain and bias
    dh_next = xp.zeros(states.shape[1:], dh.dtype)  # from the steps after t, through W

    buffers.activation.f.slope(buffers.h[1:], out=buffers.z)  # f'(.) of all steps                    (I1)
    for t in reversed(range(steps)):
        dz, saved = buffers.steps[t]
        if dhs[t] is not None:
            dh_next += dhs[t]
        # h(t+1) = f(LN[z])                                                                                       (I1)
        buffers.activation.backward(dh_next, saved, dz, dnorm)
        # z = W h(t) + C x(t) + b                                                                                 (I2)
        xp.matmul(dz, W, out=dh_next)
        spans.begin_backward(t, dh_next)

    grads, dx = affine_backward(buffers.z, params, cache.x, spans.begin_all(buffers.h[:-1]))
    if "gain" in params:
        grads["gain"], grads["bias"] = dnorm[:, 0]
    return grads, dx, dh_next


@exclusive
def final_state(cache: Cache | StatesOnly) -> State:
    """Return the state after the last step. Pass its h to the next forward as h0 to continue."""
    if isinstance(cache, StatesOnly):
        return cache.final_state()
    check_cache(cache, Cache)
    return State(cache.spans.last(cache.buffers.h[1:]))


def initial_state(params: Params, batch_size: int, h0: Array | None = None) -> State:
    """Return the state before the first step, zero unless h0 (B, H) is given."""
    check_params(params, (), checks.given(h0=h0))
    checks.count("batch_size", batch_size, least=1)
    return State(initial("h0", h0, (batch_size, len(params["W"])), params["W"]).copy())


def step(params: Params, x: Array, state: State, *, activation: str = "relu") -> tuple[Array, State]:
    """Return h (B, H) and the next state, from x (B, I) and a state. Equals `forward` up to rounding error.

    The given state is not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    check_once(lambda: _check_step(params, x, state), __name__, State, params, x, state)
    checks.choice("activation", activation, ops.ACTIVATIONS)
    z = state.h.dot(params["W"].T)
    z += x.dot(params["C"].T)
    z += params["b"]
    h = norm_activation(z, params, activation)
    return h, State(h.copy())


def _check_step(params: Params, x: Array, state: State) -> None:
    checks.instance("state", state, State, "make it with initial_state")
    check_params(params, (), {"x": x, "state.h": state.h})
    checks.shape("state.h", state.h, ("B", len(params["W"])), "make it with initial_state")
    batch_size = len(state.h)
    checks.shape("x", x, (batch_size, params["C"].shape[1]), "x is (sequences, inputs) for the sequences of state")


class Stepper(BaseStepper):
    """Advance the layer by one time step per call, as fast_weights.Stepper does, with the options of this layer."""

    State = State

    def __init__(
        self, params: Params, batch_size: int = 1, *, activation: str = "relu", h0: Array | None = None
    ) -> None:  # fmt: skip
        check_params(params, (), checks.given(h0=h0))
        checks.choice("activation", activation, ops.ACTIVATIONS)
        super().__init__(params, batch_size, activation=activation)
        self._parts = (Held(self._h),)
        self._start(h0=h0)
        z = self._xp.empty(self._h.shape, self._dtype)
        f = ops.ACTIVATIONS[activation](z)
        self._calls = [self._affine(z), *activation_calls(f, norm_of(z, self._params), z)]
