"""The LSTM with a forget gate and no peepholes (Hochreiter, Schmidhuber 1997; Gers, Schmidhuber, Cummins 2000).

    z_n(t+1)   = W_n h(t) + C_n x(t) + b_n   for each of n = i, f, g, o
    i, f, g, o = σ(z_i), σ(z_f), tanh(z_g), σ(z_o)
    c(t+1)     = f ⊙ c(t) + i ⊙ g
    h(t+1)     = o ⊙ tanh(c(t+1))

The four maps are stacked in this order: W (4, H, H), C (4, H, I), b (4, H). So are z and the gates, (4, T, B, H).
Layer norm is an option. It normalizes each z_n over its H units, with its own gain and bias: σ(LN[z_i]) and so on, as
in equation (5) of Ba, Hinton et al. 2016. It does not normalize c. (Ba, Kiros, Hinton 2016 normalize W h and C x
separately, and c.)

Code counts from 0: x[t] is x(t), and the returned h[t] is h(t+1). T steps, B sequences, I inputs, H units. Numbers such
as (M1) are in DERIVATION.md.
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
    Params,
    Saved,
    affine_backward,
    check_cache,
    check_init,
    check_once,
    check_params,
    check_sequences,
    gradient_of_state,
    initial,
    input_sums,
    renamed,
    requested,
    uniform,
)  # fmt: skip
from .spans import Spans
from .stepper import BaseStepper, Held, norm_of
from .workspace import Workspace, exclusive, unlocked

__all__ = ["Cache", "State", "Stepper", "backward", "final_state", "forward", "init", "initial_state", "step"]

GATES = (4,)  # i, f, g, o
I, F, G, O = range(4)  # noqa: E741
IN_CACHE = 2**18  # bytes of gates that backward processes at once: they stay in a core's cache


class State(NamedTuple):
    """The state between two steps: h (B, H), the hidden state, and c (B, H), the cells."""

    h: Array
    c: Array


class Gates:
    """The gates i, f, g, o, computed from z (4, B, H) in place, and their gradient. An object serves one shape of z."""

    def __init__(self, like: Array, layer_norm: bool) -> None:
        self._xp = xp = array_module(like=like)
        self.norm = ops.LayerNorm(like) if layer_norm else None  # for all four gates
        # σ(z) = (1 + tanh(z/2)) / 2: one tanh serves all four, and does not overflow as exp does
        self._scale = xp.asarray([0.5, 0.5, 1.0, 0.5], like.dtype)[:, None, None]
        self._shift = 1 - self._scale

    def load(self, params: Params) -> None:
        """Load the current values of gain and bias, if the layer has them."""
        if self.norm is not None:
            self.norm.load(params["gain"], params["bias"])

    def forward(self, z: Array, saved: Saved) -> None:
        """Replace z by the gates, in place. Fill saved if there is layer norm."""
        if self.norm is not None:
            z[...], _, _ = self.norm.forward(z, saved.normalized, saved.inverse_std)
        z *= self._scale
        self._xp.tanh(z, out=z)
        z *= self._scale
        z += self._shift

    def slopes(self, gates: Array, out: Array) -> None:
        """Put the slopes of σ and tanh into out, from the gates (4, ..., B, H) alone."""
        xp = self._xp
        # i, f, o = σ(z): σ' = y - y²;  g = tanh(z): tanh' = 1 - y²                                              (M3)
        square = xp.multiply(gates, gates, out=out)
        xp.subtract(gates[: F + 1], square[: F + 1], out=out[: F + 1])
        xp.subtract(1, square[G], out=out[G])
        xp.subtract(gates[O], square[O], out=out[O])

    def backward(self, dz: Array, saved: Saved, dnorm: Array) -> None:
        """Turn the gradient of LN[z] in dz (4, B, H) into dz, if there is layer norm; add to dnorm (2, 4, 1, H)."""
        if self.norm is not None:
            # y = LN[z]                                                                                     (F2), (M4)
            self.norm.dy[...] = dz
            self.norm.backward(saved.normalized, saved.inverse_std, dnorm, out=dz)


class StepViews(NamedTuple):
    """The views of one time step into the buffers, cached."""

    z: Array  # (4, B, H): W h + C x + b, then the gates
    gates: Sequence[Array]  # i, f, g, o, (B, H) each
    saved: Saved  # from layer norm
    c_before: Array  # (B, H), as are the next three
    c: Array
    tanh_c: Array
    h: Array
    dz: Array  # (4, B, H)
    dz_ifg: Array  # (3, B, H), within dz
    dz_o: Array  # (B, H), within dz
    dh_dc: Array  # (B, H)


class Buffers:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, layer_norm: bool) -> None:
        steps, batch_size, hidden_size = shape
        self.h, self.c = (xp.empty((steps + 1, batch_size, hidden_size), dtype) for _ in range(2))  # [0]: h0 and c0
        self.z, self.dz = (xp.empty((*GATES, *shape), dtype) for _ in range(2))
        self.tanh_c, self.dh_dc = (xp.empty(shape, dtype) for _ in range(2))
        self.gates = Gates(self.z[:, 0], layer_norm)
        saved = Saved.of_all_steps(self.z, layer_norm)
        self.steps = [
            StepViews(
                self.z[:, t], list(self.z[:, t]), saved.at(t), self.c[t], self.c[t + 1],
                self.tanh_c[t], self.h[t + 1], self.dz[:, t], self.dz[:O, t], self.dz[O, t], self.dh_dc[t],
            )
            for t in range(steps)
        ]  # fmt: skip
        self.steps_in_cache = max(1, IN_CACHE // max(4 * self.c[0].nbytes, 1))

    def factors(self, steps: slice) -> None:
        """Compute, for some steps at once, the factors that take dh and dc to dz and dc. Put them in dz and dh_dc."""
        gates, dz, tanh_c, dh_dc = self.z[:, steps], self.dz[:, steps], self.tanh_c[steps], self.dh_dc[steps]
        self.gates.slopes(gates, out=dz)
        # h(t+1) = o ⊙ tanh(c(t+1))                                                                               (M1)
        dz[O] *= tanh_c
        xp = array_module(c=self.c)
        xp.subtract(1, xp.multiply(tanh_c, tanh_c, out=dh_dc), out=dh_dc)
        dh_dc *= gates[O]
        # c(t+1) = f ⊙ c(t) + i ⊙ g                                                                               (M2)
        dz[I] *= gates[G]
        dz[F] *= self.c[steps]
        dz[G] *= gates[I]


@dataclass
class Cache(BaseCache):
    """All that `backward` depends on, and nothing else. Valid until the next forward with the same workspace."""

    buffers: Buffers


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, forget_bias: float = 1.0,
    layer_norm: bool = False, dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return W (4, H, H) uniform in ±1/√H, C (4, H, I) in ±1/√I, and b (4, H), zero except forget_bias for f.

    Layer norm adds gain = 1 and bias (4, H). forget_bias is then in bias, and b is zero.
    """
    check_init(rng, input_size, hidden_size, dtype)
    checks.finite("forget_bias", forget_bias, dtype)
    checks.boolean("layer_norm", layer_norm)
    zero, bias = numpy.zeros((2, 4, hidden_size))
    bias[F] = forget_bias
    params = {
        "W": uniform(rng, 4, hidden_size, hidden_size),
        "C": uniform(rng, 4, hidden_size, input_size),
        "b": zero if layer_norm else bias,
    }
    if layer_norm:
        params |= {"gain": 1 + zero, "bias": bias}
    return {name: value.astype(dtype) for name, value in params.items()}


@exclusive
def forward(
    params: Params, x: ops.Input, h0: Array | None = None, *, c0: Array | None = None, lengths: Array | None = None,
    resets: Array | None = None, gradients: bool = True, workspace: Workspace | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """Return h (T, B, H) for whole sequences x (T, B, I), and the cache that `backward` needs.

    x may also be ops.embedding(table, tokens), with a table (V, I) and tokens (T, B); dx is then the table's gradient.
    For agents, x may be an ops.ClosedLoop.
    h0 and c0 (B, H) are the hidden state and the cells before the first step, zero if None. lengths (B,) and resets
    (T, B) are for padded batches and for several documents in one sequence: spans.py. gradients=False keeps nothing for
    backward: the cache is then for final_state alone. A workspace reuses buffers from one forward to the next. All
    arrays share one dtype and one device, and must not be changed before backward has been called. Raises ValueError or
    TypeError that names the argument at fault.
    """
    xp = check_params(params, GATES, {"x": ops.input_array(x)} | checks.given(h0=h0, c0=c0))
    check_sequences(params, x)
    W, shape, layer_norm = params["W"], (*x.shape[:2], params["W"].shape[-1]), "gain" in params
    h0, c0 = (initial(name, given, shape[1:], W) for name, given in (("h0", h0), ("c0", c0)))
    spans = Spans(x, lengths, resets)
    workspace = workspace or Workspace()
    if without(gradients):
        part = partial(unlocked(forward), params, workspace=workspace)
        return in_parts(part, unlocked(final_state), x, {"h0": h0, "c0": c0}, lengths, resets)
    x = spans.clear(x)

    ticket = workspace.begin()
    buffers = workspace.buffers((xp, shape, W.dtype, layer_norm), lambda: Buffers(xp, shape, W.dtype, layer_norm))
    buffers.gates.load(params)

    feed = input_sums(x, params, buffers.z)
    buffers.h[0], buffers.c[0] = h0, c0
    h, W_transposed = h0, W.swapaxes(1, 2)
    from_state, written = xp.empty((*GATES, *h0.shape), W.dtype), xp.empty_like(c0)
    for t, at in enumerate(buffers.steps):
        h = spans.begin(t, h)
        feed(t, h)
        z, (i, f, g, o) = at.z, at.gates
        z += xp.matmul(h, W_transposed, out=from_state)
        buffers.gates.forward(z, at.saved)
        if (rows := spans.restarted.get(t)) is not None:
            f[rows] = 0  # c(t) is not used
        if (rows := spans.ended.get(t)) is not None:
            i[rows], f[rows], o[rows] = 0, 1, 0  # c(t+1) = c(t), h(t+1) = 0
        c = xp.multiply(f, at.c_before, out=at.c)
        c += xp.multiply(i, g, out=written)
        h = xp.multiply(o, xp.tanh(c, out=at.tanh_c), out=at.h)
    again = partial(forward, params, ops.made(x), h0, c0=c0, lengths=lengths, resets=resets)
    return buffers.h[1:].copy(), Cache(params, x, spans, workspace, ticket, again, buffers)


@exclusive
@renamed(also="extra")
def backward(
    dh: Array, cache: Cache, extra: Sequence[str] = (), dstate: State | None = None
) -> tuple[Params, Array, Array]:  # fmt: skip
    """Return the gradients of `forward`, (grads, dx, dh0), from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step of each sequence alone. grads has the keys of params; dx (T, B, I);
    dh0 (B, H). `extra` may name one more key of grads: "c0" (B, H).
    dstate is the gradient of the state that final_state returns, if the loss depends on it; None is zero.

    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    check_cache(cache, Cache)
    extra = requested(extra, ("c0",))
    params, buffers, gates, spans = cache.params, cache.buffers, cache.buffers.gates, cache.spans
    states, xp = buffers.h[1:], array_module(h=buffers.h)
    dh_last, dc_last = gradient_of_state(dstate, State, states, states.shape[1:], states.shape[1:])
    dhs = spans.gradients(dh, states, dh_last)
    W, steps = params["W"], len(buffers.steps)
    dnorm = xp.zeros((2, *GATES, 1, W.shape[-1]), dh.dtype)  # gradients of gain and bias, for each gate
    dh_next, dc, scratch = (xp.zeros(buffers.h.shape[1:], dh.dtype) for _ in range(3))  # from the steps after t
    if dc_last is not None:
        dc += dc_last
    from_gates = xp.empty((*GATES, *dc.shape), dh.dtype)

    for stop in range(steps, 0, -buffers.steps_in_cache):
        start = max(stop - buffers.steps_in_cache, 0)
        buffers.factors(slice(start, stop))
        for t in reversed(range(start, stop)):
            at = buffers.steps[t]
            if dhs[t] is not None:
                dh_next += dhs[t]
            # h(t+1) = o ⊙ tanh(c(t+1))                                                                           (M1)
            xp.multiply(at.dz_o, dh_next, out=at.dz_o)
            dc += xp.multiply(at.dh_dc, dh_next, out=scratch)
            # c(t+1) = f ⊙ c(t) + i ⊙ g                                                                           (M2)
            xp.multiply(at.dz_ifg, dc, out=at.dz_ifg)
            dc *= at.gates[F]
            gates.backward(at.dz, at.saved, dnorm)
            # z_n(t+1) = W_n h(t) + C_n x(t) + b_n                                                                (M4)
            xp.matmul(at.dz, W, out=from_gates).sum(axis=0, out=dh_next)
            spans.begin_backward(t, dh_next)

    grads, dx = affine_backward(buffers.dz, params, cache.x, spans.begin_all(buffers.h[:-1]))
    if "gain" in params:
        grads["gain"], grads["bias"] = dnorm[:, :, 0]
    return grads | ({"c0": dc} if extra else {}), dx, dh_next


@exclusive
def final_state(cache: Cache | StatesOnly) -> State:
    """Return the state after the last step. Pass its h and c to the next forward as h0 and c0 to continue."""
    if isinstance(cache, StatesOnly):
        return cache.final_state()
    check_cache(cache, Cache)
    return State(cache.spans.last(cache.buffers.h[1:]), cache.buffers.c[-1].copy())


def initial_state(params: Params, batch_size: int, h0: Array | None = None, c0: Array | None = None) -> State:
    """Return the state before the first step, zero unless h0 and c0 (B, H) are given."""
    check_params(params, GATES, checks.given(h0=h0, c0=c0))
    checks.count("batch_size", batch_size, least=1)
    W = params["W"]
    shape = (batch_size, W.shape[-1])
    return State(*(initial(name, given, shape, W).copy() for name, given in (("h0", h0), ("c0", c0))))


def step(params: Params, x: Array, state: State) -> tuple[Array, State]:
    """Return h (B, H) and the next state, from x (B, I) and a state. Equals `forward` up to rounding error.

    The given state is not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    check_once(lambda: _check_step(params, x, state), __name__, State, params, x, state)
    W, xp = params["W"], array_module(x=x)
    z = state.h @ W.swapaxes(1, 2)
    z += x @ params["C"].swapaxes(1, 2)
    z += params["b"][:, None]
    if "gain" in params:
        z = ops.layer_norm(z, params["gain"], params["bias"])
    Gates(z, layer_norm=False).forward(z, Saved())
    i, f, g, o = z
    c = f * state.c + i * g
    h = o * xp.tanh(c)
    return h, State(h.copy(), c)


def _check_step(params: Params, x: Array, state: State) -> None:
    checks.instance("state", state, State, "make it with initial_state")
    check_params(params, GATES, {"x": x, "state.h": state.h, "state.c": state.c})
    W, batch_size = params["W"], len(state.h)
    checks.shape("state.h", state.h, ("B", W.shape[-1]), "make it with initial_state")
    checks.shape("state.c", state.c, state.h.shape, "make it with initial_state")
    checks.shape("x", x, (batch_size, params["C"].shape[-1]), "x is (sequences, inputs) for the sequences of state")


class Stepper(BaseStepper):
    """Advance the layer by one time step per call, as fast_weights.Stepper does, with the states of this layer."""

    State = State

    def __init__(
        self, params: Params, batch_size: int = 1, *, h0: Array | None = None, c0: Array | None = None
    ) -> None:  # fmt: skip
        check_params(params, GATES, checks.given(h0=h0, c0=c0))
        super().__init__(params, batch_size)
        xp, shape = self._xp, self._h.shape
        c, written, tanh_c = (xp.zeros(shape, self._dtype) for _ in range(3))
        self._parts = Held(self._h), Held(c)
        self._start(h0=h0, c0=c0)
        z, scale = (xp.empty((shape[0], 4, shape[1]), self._dtype) for _ in range(2))
        scale[...] = xp.asarray([0.5, 0.5, 1.0, 0.5], self._dtype)[:, None]
        gates = xp.empty((4, *shape), self._dtype)
        i, f, g, o = gates
        norm = norm_of(z, params)  # in place
        self._calls = [
            self._affine(z.reshape(shape[0], -1)), *(norm.calls(z) if norm else []),
            # σ(y) = (1 + tanh(y/2)) / 2, and tanh(y), as in Gates
            partial(xp.multiply, z, scale, z), partial(xp.tanh, z, z), partial(xp.multiply, z, scale, z),
            partial(xp.add, z, 1 - scale, gates.swapaxes(0, 1)),
            # c(t+1) = f ⊙ c(t) + i ⊙ g,   h(t+1) = o ⊙ tanh(c(t+1))
            partial(xp.multiply, f, c, c), partial(xp.multiply, i, g, written), partial(xp.add, c, written, c),
            partial(xp.tanh, c, tanh_c), partial(xp.multiply, o, tanh_c),
        ]  # fmt: skip
