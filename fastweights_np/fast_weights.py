"""The fast-weight recurrent layer: equations (1) to (5) of Ba, Hinton, Mnih, Leibo, Ionescu 2016 (arXiv 1610.06258).

    A(t)       = λ A(t-1) + η h(t) h(t)ᵀ                                                                           (1)
    h_0(t+1)   = f(a),   a = W h(t) + C x(t) + b,   or f(LN[a]) as an option                                      (2a)
    h_s+1(t+1) = f(LN[A(t) h_s(t+1) + a]),   s = 0 .. S-1,   h(t+1) = h_S(t+1)                                (2), (5)

The computation of h(t+1) reads A(t), which holds h(t) and not yet the new state. The query is h_s(t+1).

Comments use the paper's t, in round brackets. Code counts from 0, in square brackets. Its step t goes from t to t+1:

    x[t] is x(t)     states[t] is h(t+1)     A.read(t, ..) is A(t) v       G.read(t+1) is η (G(t+1) + G(t+1)ᵀ) h(t+1)

G(t) is the gradient of the loss with respect to A(t). T steps, B sequences, I inputs, H units, S inner steps. Time is
the first axis, as in x (T, B, I). Numbers such as (F3) are in DERIVATION.md. plain/fast_weights.py has the same
equations in plain lines.
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
from .fast_weights_inference import forward_only
from .fast_weights_stepper import MemoryStepper
from .inference import StatesOnly, without
from .inner_loop import InnerLoop, Options, checked_options
from .memory import Memory, blocks, read_matrix
from .memory_gradient import MemoryGradient
from .recurrent import (
    BaseCache,
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
from .workspace import Workspace, exclusive, keep_freed_memory

__all__ = [
    "Cache",
    "State",
    "Stepper",
    "attention",
    "backward",
    "final_state",
    "forward",
    "init",
    "initial_state",
    "step",
]


IN_ONE = 2**20  # bytes of fast weights up to which a step writes them in one piece, by measurement


class State(NamedTuple):
    """The state between steps: h (B, H), the hidden state, and A (B, H, H), the fast weights that already hold h."""

    h: Array
    A: Array


class StepViews(NamedTuple):
    """The views of one time step into the buffers. Views are cached: creating one costs about a microsecond."""

    a: Array  # (B, H)  W h(t) + C x(t) + b, and in backward its gradient
    saved: list[Saved]  # s = 0 .. S
    errors: list[Array]  # r_s, s = 0 .. S-1


class Buffers:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, options: Options, layer_norm: bool,
        chunk: int | None,
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        self.h = xp.empty((steps + 1, batch_size, hidden_size), dtype)  # h[0] is h0; forward returns a copy of the rest
        self.states = self.h[1:]
        self.A = Memory(self.states, [options.inner_steps] * steps, chunk)
        self.loop = InnerLoop(self.h[0], options, layer_norm)
        self.a = xp.empty(shape, dtype)
        self.G = MemoryGradient(self.A)
        in_steps = (steps, options.inner_steps, batch_size, hidden_size)
        queries, self.errors = self.A.queries.reshape(in_steps), self.A.errors.reshape(in_steps)
        self.saved = [
            Saved.of_all_steps(state, activation.norm is not None)
            for state, activation in zip([*queries.swapaxes(0, 1), self.states], self.loop.activations, strict=True)
        ]
        self.steps = [
            StepViews(
                self.a[t],
                [*(saved.at(t) for saved in self.saved[:-1]), self.saved[-1].at(t)._replace(state=self.A.places[t])],
                list(self.errors[t]),
            )
            for t in range(steps)
        ]


@dataclass
class Cache(BaseCache):
    """All that `backward` depends on, and nothing else. Valid until the next forward with the same workspace."""

    buffers: Buffers
    options: Options


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, layer_norm: bool = True,
    recurrent_scale: float = 0.05, dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return new parameters: W = recurrent_scale · identity (H, H), C (H, I) uniform in ±1/√I, b = 0 (H,).

    Layer norm adds gain = 1 and bias = 0 (H,), shared by all inner steps. A layer whose parameters have neither has no
    layer norm. Parameters are drawn on the host: the same seed gives the same weights for any device.
    """
    return identity_params(rng, input_size, hidden_size, recurrent_scale, layer_norm, dtype)


@exclusive
def forward(
    params: Params, x: ops.Input, h0: Array | None = None,
    decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    A0: Array | None = None, activation: str = "relu", sustained_boundary: bool = True,
    normalize_preliminary: bool = False, lengths: Array | None = None, resets: Array | None = None,
    gradients: bool = True, chunk: int | None = None, workspace: Workspace | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """Return h (T, B, H) for whole sequences x (T, B, I), and the cache that `backward` needs.

    The first axis is time, the second the batch (PyTorch: batch_first=False). x may also be
    ops.embedding(table, tokens), with a table (V, I) and tokens (T, B); dx is then the table's gradient. For agents, x
    may be an ops.ClosedLoop.

    h0 (B, H)           the state before the first step; zero if None. It acts through W alone: it is not written to A
    A0 (B, H, H)        the fast weights that the first step reads; zero if None
    decay, rate         λ in [0, 1] and η >= 0 of equation (1)
    inner_steps         S >= 0 of equation (2); with S = 0 the fast weights are never read
    activation          f: "relu" or "tanh"
    sustained_boundary  True: W h + C x + b acts on every inner step (appendix B, method 1); False: on the preliminary
                        state alone, and the identity is added to A (method 2)
    normalize_preliminary  whether layer norm, if there is any, also acts in (2a). The paper leaves it open. Associative
                        retrieval is learned far sooner without it (docs/results/retrieval.md)
    lengths, resets     for padded batches, (B,), and for several documents in one sequence, (T, B): see spans.py
    gradients           False keeps nothing for `backward`: memory then grows by h alone, and the cache is only for
                        final_state
    chunk               how the fast weights are stored (memory.py). None selects a chunk size. Results agree up to
                        rounding error for every chunk size
    workspace           reuses buffers from one forward to the next

    All arrays share one dtype and one device, and must not be changed before backward has been called.
    Raises ValueError or TypeError that names the argument at fault.
    """
    options = checked_options(decay, rate, inner_steps, activation, sustained_boundary, normalize_preliminary)
    check_once(lambda: check_forward(params, x, h0, A0), f"{__name__}.forward", tuple, params, x, (h0, A0))
    if chunk is not None:
        checks.count("chunk", chunk, least=1)
    shape, dtype, layer_norm = (*x.shape[:2], len(params["W"])), params["W"].dtype, "gain" in params
    h0 = initial("h0", None, shape[1:], params["W"]) if h0 is None else h0
    workspace = workspace or Workspace()
    if without(gradients):
        h, final = forward_only(params, x, h0, A0, lengths, resets, options, chunk, workspace)
        return h, StatesOnly(lambda: State(*final()))
    spans = Spans(x, lengths, resets)
    x = spans.clear(x)
    ticket, xp = workspace.begin(), array_module(h0=h0)
    key = (xp, shape, dtype, options.structure, layer_norm, chunk)
    buffers = workspace.buffers(key, lambda: Buffers(xp, shape, dtype, options, layer_norm, chunk))
    A, loop = buffers.A, buffers.loop
    A.start(decay, rate, initial=A0, ages=spans.ages(range(x.shape[0]), A.when))  # step t reads A(t)
    loop.load(params)
    feed = input_sums(x, params, buffers.a)
    buffers.h[0] = h = h0
    W_h, W_transposed = xp.empty_like(h0), params["W"].T

    for t, (a, saved, _) in enumerate(buffers.steps):
        h = spans.begin(t, h)
        feed(t, h)  # a = C x(t) + b
        a += xp.matmul(h, W_transposed, out=W_h)
        h = loop.forward(a, A, t, saved)  # h(t+1), (2) and (5)
        spans.end(t, h)
        A.write(t + 1, h)  # A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ, (1)

    again = partial(
        forward, params, ops.made(x), h0, A0=A0, lengths=lengths, resets=resets, chunk=chunk, **vars(options)
    )
    return buffers.states.copy(), Cache(params, x, spans, workspace, ticket, again, buffers, options)


def check_forward(
    params: Params, x: ops.Input, h0: Array | None, A0: Array | None, maps: tuple[str, ...] = ("W",)
) -> None:  # fmt: skip
    """Raise ValueError or TypeError unless the arguments of `forward` fit; `maps` lead from state to state."""
    check_params(params, (), {"x": ops.input_array(x)} | checks.given(h0=h0, A0=A0), maps=maps)
    check_sequences(params, x)
    batch_size, hidden_size = x.shape[1], len(params["W"])
    if h0 is not None:
        checks.shape("h0", h0, (batch_size, hidden_size), "one for each sequence of the batch")
    if A0 is not None:
        checks.shape("A0", A0, (batch_size, hidden_size, hidden_size), "one matrix for each sequence of x")


@exclusive
@renamed(also="extra")
def backward(
    dh: Array, cache: Cache, extra: Sequence[str] = (), dstate: State | None = None
) -> tuple[Params, Array, Array]:  # fmt: skip
    """Return the gradients of `forward`, (grads, dx, dh0), from dh, the gradient of the loss with respect to h.

    dh      (T, B, H), or (B, H) for the last step of each sequence alone
    extra   names of further gradients: "decay" (dλ) and "rate" (dη), 0-d arrays, and "A0" (B, H, H)
    dstate  the gradient of the state that final_state returns, if the loss depends on it; None is zero
    grads   has the keys of params, and the names in `extra`; dx (T, B, I); dh0 (B, H)

    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    check_cache(cache, Cache)
    params, x, buffers, spans = cache.params, cache.x, cache.buffers, cache.spans
    states, A, G, loop = buffers.states, buffers.A, buffers.G, buffers.loop
    xp, of_h = array_module(h=states), states.shape[1:]
    dh_last, dA_last = gradient_of_state(dstate, State, states, of_h, (*of_h, of_h[-1]))
    dhs = spans.gradients(dh, states, dh_last)
    extra = requested(extra, ("decay", "rate", "A0"))
    da_all = buffers.a  # forward's a is not needed again
    loop.slopes(buffers.saved, buffers.errors.swapaxes(0, 1), da_all)
    dnorm = xp.zeros((2, 1, states.shape[-1]), dh.dtype)  # gradients of gain and bias
    dh_next = xp.zeros(of_h, dh.dtype)  # gradient of h(t+1) through W, from later steps
    G.start(extra, final=dA_last)

    for t in reversed(range(len(states))):
        da, saved, errors = buffers.steps[t]
        # A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ                                                                      (F6)
        dh_t = G.read(t + 1)
        dh_t += dh_next
        if dhs[t] is not None:
            dh_t += dhs[t]
        # h(t+1) from a and A(t), by (2) and (5)                                                (F1) to (F4), and (F5)
        loop.backward(dh_t, A, t, saved, errors, da, dnorm)
        # a = W h(t) + C x(t) + b                                                                                 (F7)
        xp.matmul(da, params["W"], out=dh_next)  # finally dh0                                                    (F8)
        spans.begin_backward(t, dh_next)

    # the rest of (F7), for all steps at once
    grads, dx = affine_backward(da_all, params, x, spans.begin_all(buffers.h[:-1]))
    if "gain" in params:
        grads["gain"], grads["bias"] = dnorm[:, 0]
    return grads | G.extra(extra), dx, dh_next  # dλ, dη, dA(0)                                       (F8), (F9), (F10)


@exclusive
def attention(cache: Cache, t: int = -1) -> Array:
    """Return how strongly step t attends to each earlier step, with its preliminary state as query: equation (4).

    The result (B, t) is η λ^(t-1-τ) h[τ]ᵀ h_0[t] for τ = 0 .. t-1. The term of A0 is left out.
    """
    check_cache(cache, Cache)
    steps = cache.x.shape[0]
    if not isinstance(t, int | numpy.integer) or not -steps <= t < steps:
        raise ValueError(f"t: expected a step from {-steps} to {steps - 1}, got {t!r}")
    t %= steps
    return cache.buffers.A.attention(cache.buffers.saved[0].state[t], t)


@exclusive
def final_state(cache: Cache | StatesOnly) -> State:
    """Return the state after the last step. Pass its h and A to the next forward as h0 and A0 to continue."""
    if isinstance(cache, StatesOnly):
        return cache.final_state()
    check_cache(cache, Cache)
    return State(cache.spans.last(cache.buffers.states), cache.buffers.A.matrix(cache.x.shape[0]))


def initial_state(params: Params, batch_size: int, h0: Array | None = None, A0: Array | None = None) -> State:
    """Return the state before the first step, zero unless h0 (B, H) and A0 (B, H, H) are given; see `forward`."""
    check_params(params, (), checks.given(h0=h0, A0=A0))
    checks.count("batch_size", batch_size, least=1)
    keep_freed_memory()  # each step makes a new A
    W, hidden_size = params["W"], len(params["W"])
    h = initial("h0", h0, (batch_size, hidden_size), W)
    A = initial("A0", A0, (batch_size, hidden_size, hidden_size), W)
    return State(h.copy(), A.copy())


def step(
    params: Params, x: Array, state: State, decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    activation: str = "relu", sustained_boundary: bool = True, normalize_preliminary: bool = False,
) -> tuple[Array, State]:  # fmt: skip
    """Return h (B, H) and the next state, from x (B, I) and a state. Options as in `forward`.

    Equals `forward` on the same inputs up to rounding error. Costs O(B H²), for any number of earlier steps. The given
    state is not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    options = checked_options(decay, rate, inner_steps, activation, sustained_boundary, normalize_preliminary)
    check_once(lambda: check_step(params, x, state), __name__, State, params, x, state)
    h = next_state(params, x, state, options)  # (2), (5)
    return h, State(h.copy(), write(state.A, h, options))


def check_step(params: Params, x: Array, state: State, maps: tuple[str, ...] = ("W",)) -> None:
    """Raise ValueError or TypeError unless x (B, I), state and params fit; `maps` lead from state to state."""
    checks.instance("state", state, State, "make it with initial_state")
    check_params(params, (), {"x": x, "state.h": state.h, "state.A": state.A}, maps=maps)
    batch_size, hidden_size = len(state.h), len(params["W"])
    checks.shape("x", x, (batch_size, params["C"].shape[1]), "x is (sequences, inputs) for the sequences of state")
    checks.shape("state.h", state.h, ("B", hidden_size), "make it with initial_state")
    checks.shape("state.A", state.A, (batch_size, hidden_size, hidden_size), "make it with initial_state")


def next_state(params: Params, x: Array, state: State, options: Options) -> Array:
    """Return h(t+1) (B, H), a new array, from x (B, I) and the state before, by (2) and (5)."""
    f = options.activation
    a = state.h.dot(params["W"].T)  # W h(t) + C x(t) + b
    a += x.dot(params["C"].T)
    a += params["b"]
    h = norm_activation(a, params, f, options.normalize_preliminary)  # (2a)
    for _ in range(options.inner_steps):
        z = read_matrix(state.A, h)
        z += a if options.sustained_boundary else h  # (2)
        h = norm_activation(z, params, f)  # (5)
    return h


def write(A: Array, h: Array, options: Options) -> Array:
    """Return λ A + η h hᵀ (B, H, H), a new array: equation (1)."""
    decay, rate = float(options.decay), float(options.rate)
    column, row = (rate * h)[:, :, None], h[:, None]
    if A.nbytes <= IN_ONE:
        written = decay * A
        written += column[0].dot(h) if len(h) == 1 else column * row  # dot takes half the time
        return written
    xp = array_module(h=h)
    written = xp.empty_like(A)
    for block in blocks(A):
        part = xp.multiply(column[block], row[block], out=written[block])
        part += decay * A[block]
    return written


class Stepper(MemoryStepper):
    """Advance the layer by one time step per call, in place and several times faster than `step`.

    h = stepper(x) takes x (B, I) and returns h (B, H), a new array:

        stepper = fast_weights.Stepper(params, batch_size=8)
        for x in stream:
            h = stepper(x)

    The options are as in `forward`. The parameters are read once: a change of params has no effect on a stepper.
    `stepper.state` returns the state, and `stepper.reset(rows, state)` begins anew. One call at a time: a stepper
    belongs to one thread. A step costs O(B H²), for any number of steps before. Every K-th step takes longer, by
    the time of a product (H, K) times (K, H) for each sequence; chunk is K.
    """

    State = State

    def __init__(
        self, params: Params, batch_size: int = 1, decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
        activation: str = "relu", sustained_boundary: bool = True, normalize_preliminary: bool = False,
        h0: Array | None = None, A0: Array | None = None, chunk: int | None = None,
    ) -> None:  # fmt: skip
        options = Options(decay, rate, inner_steps, activation, sustained_boundary, normalize_preliminary)
        check_params(params, (), checks.given(h0=h0, A0=A0))
        super().__init__(params, batch_size, options, h0, A0, chunk, **vars(options))
