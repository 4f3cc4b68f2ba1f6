"""The fast-weight recurrent layer: equations (1) to (5) of Ba, Hinton, Mnih, Leibo, Ionescu 2016 (arXiv 1610.06258).

    A(t)       = λ A(t-1) + η h(t) h(t)ᵀ                                                                           (1)
    h_0(t+1)   = f(W h(t) + C x(t) + b), or f(LN[W h(t) + C x(t) + b]) as an option                               (2a)
    h_s+1(t+1) = f(LN[W h(t) + C x(t) + b + A(t) h_s(t+1)]),   s = 0 .. S-1,   h(t+1) = h_S(t+1)              (2), (5)

The A that is read on the way to h(t+1) is A(t): it holds h(t), and not yet the new state. The query is h_s(t+1).
W h + C x + b, which acts on every inner step, is the paper's sustained boundary condition, here `boundary`.

Comments have the paper's t, in round brackets; code counts from 0, in square ones. Step t of code goes from t to t+1:

    x[t] is x(t)     states[t] is h(t+1)     A.read(v, ..) is A(t) v       G.read(t+1) is η (G(t+1) + G(t+1)ᵀ) h(t+1)

G(t) is the gradient of the loss with respect to A(t).

Letters of shapes: T steps, B sequences, I inputs, H units, S inner steps. Time comes first, as x (T, B, I).
Numbers such as (F3) point into DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy

from . import checks, ops
from .backend import Array, array_module
from .memory import Memory, MemoryGradient, fold, read_matrix
from .ops import LayerNorm
from .recurrent import (
    BaseCache,
    Params,
    Record,
    Response,
    affine_backward,
    check_cache,
    check_params,
    check_sequences,
    gradients_of_steps,
    identity_params,
    initial,
    input_sums,
    requested,
)  # fmt: skip
from .workspace import Workspace, exclusive


@dataclass(frozen=True)
class Options:
    """What stays the same over all steps; `forward` describes each. Raises ValueError or TypeError if one is wrong."""

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


class State(NamedTuple):
    """Between two steps: h (B, H), the hidden state, and A (B, H, H), the fast weights that already hold it."""

    h: Array
    A: Array


# --------------------------------------------------------------------------------------- one time step: settling (2, 5)


class Settling:
    """From the boundary a = W h(t) + C x(t) + b to the next state, and back.

    h_0 = f(a), or f(LN[a])                                             (2a)
    h_s+1 = f(LN[A(t) h_s + a]), s = 0 .. S-1; h(t+1) = h_S         (2), (5)

    Made once for all states of one shape (B, H), that of `like`.
    """

    def __init__(self, like: Array, options: Options, layer_norm: bool) -> None:
        self.inner_steps, self.sustained_boundary = options.inner_steps, options.sustained_boundary
        f, norm = ops.ACTIVATIONS[options.activation](like), LayerNorm(like) if layer_norm else None
        preliminary = Response(like, f, norm if options.normalize_preliminary else None)
        self.responses = [preliminary] + [Response(like, f, norm)] * self.inner_steps  # on the way to h_s, s = 0 .. S

    def load(self, params: Params) -> None:
        """Takes gain and bias, if the layer has them, as they are now."""
        for norm in {response.norm for response in self.responses}:
            if norm is not None:
                norm.load(params["gain"], params["bias"])

    def forward(self, boundary: Array, read: Callable[[Array, int], Array], records: Sequence[Record]) -> Array:
        """h(t+1) (B, H) from the boundary (B, H), where read(h_s, s) is A(t) h_s. Fills the records."""
        h = self.responses[0].forward(boundary, records[0])  # (2a)
        for s in range(self.inner_steps):
            z = read(h, s)  # (4)
            z += boundary if self.sustained_boundary else h  # (2): appendix B's method 1, or 2, A + identity
            h = self.responses[s + 1].forward(z, records[s + 1])  # (5)
        return h

    def slopes(self, records: Sequence[Record], errors: Array, dboundary: Array) -> None:
        """Puts the slopes f'(.) of one step, or of all at once, where `backward` wants them: those of h_1 .. h_S in
        errors (S, ...), that of h_0 in dboundary."""
        self.responses[0].f.slope(records[0].state, out=dboundary)
        for s in range(self.inner_steps):
            self.responses[s + 1].f.slope(records[s + 1].state, out=errors[s])

    def backward(
        self, dh: Array, read_transposed: Callable[[Array, int], Array], records: Sequence[Record],
        errors: Array, dparams: Array, dboundary: Array,
    ) -> None:  # fmt: skip
        """The gradient of `forward`, left in dboundary (B, H), from dh (B, H), where read_transposed(r, s) is A(t)ᵀ r.

        errors (S, B, H) and dboundary come with the slopes f'(.) of h_1 .. h_S and of h_0. Errors leave with the errors
        r_s at the S sums, whose outer products with h_s are the gradient of A(t). The gradients of gain and bias are
        added to the rows of dparams (2, 1, H).
        """
        for s in reversed(range(self.inner_steps)):
            r = self.responses[s + 1].backward(dh, records[s + 1], errors[s], dparams)
            # z = A h_s + a (method 1), z = A h_s + h_s (method 2)                                                (F3)
            dh = read_transposed(r, s)
            if not self.sustained_boundary:
                dh += r
        # h_0 = f(a), or f(LN[a])                                                                                (F4)
        self.responses[0].backward(dh, records[0], dboundary, dparams)
        if self.sustained_boundary:
            for r in errors:
                dboundary += r


class ScalarGradients:
    """dλ and dη, added up while a backward pass goes back through the steps. Does nothing unless they are asked for.

    Raises ValueError for λ or η of zero.
    """

    def __init__(self, options: Options, also: Sequence[str], like: Array) -> None:
        for name, value in (("decay", options.decay), ("rate", options.rate)):
            if name in also and value == 0:
                raise ValueError(
                    f"also: the gradient of {name} needs {name} > 0; pass a small positive {name} to forward"
                )
        self._options, self._of_rate, self._of_decay = options, "rate" in also, "decay" in also
        xp = array_module(like=like)
        self._rate, self._decay, self._G_dot_A = (xp.zeros((), like.dtype) for _ in range(3))

    def written(self, h: Array, dh: Array) -> None:
        """At A(t+1) = λ A(t) + η h hᵀ, h = h(t+1): dh = η (G(t+1) + G(t+1)ᵀ) h is what h receives by way of A."""
        if not (self._of_rate or self._of_decay):
            return
        h_G_h = (h * dh).sum() / 2  # η h(t+1)ᵀ G(t+1) h(t+1)
        if self._of_rate:
            self._rate += h_G_h / self._options.rate  # dη = Σ hᵀ G h                                             (F9)
        if self._of_decay:
            self._G_dot_A -= h_G_h  # dλ = Σ <G(t+1), A(t)>, from <G(t+1), A(t+1)> carried along                 (F10)
            self._decay += self._G_dot_A / self._options.decay

    def read(self, queries: Sequence[Array], errors: Sequence[Array], read: Callable[[Array, int], Array]) -> None:
        """At the reads of A(t) by a step: queries h_s, errors r_s, s = 0 .. S-1, and read(h_s, s) is A(t) h_s."""
        if self._of_decay:
            for s, (query, error) in enumerate(zip(queries, errors, strict=True)):
                self._G_dot_A += (error * read(query, s)).sum()

    def asked_for(self) -> Params:
        """The gradients asked for, 0-d arrays by name."""
        found = (("decay", self._of_decay, self._decay), ("rate", self._of_rate, self._rate))
        return {name: value for name, wanted, value in found if wanted}


# ------------------------------------------------------------------------------------------------------ whole sequences


class Moment(NamedTuple):
    """One time step's places in the arrays of a tape: views, made once: each takes as long as a small sum."""

    boundary: Array  # (B, H)  W h(t) + C x(t) + b; backward puts its gradient here
    read: Callable[[Array, int], Array]  # (h_s, s) to A(t) h_s
    read_transposed: Callable[[Array, int], Array]  # (r_s, s) to A(t)ᵀ r_s
    records: list[Record]  # s = 0 .. S
    errors: list[Array]  # r_s, s = 0 .. S-1


class Tape:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, options: Options, layer_norm: bool,
        chunk: int | None,
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        self.h = xp.empty((steps + 1, batch_size, hidden_size), dtype)  # h[0] is h0; forward returns a copy of the rest
        self.states = self.h[1:]
        self.boundaries = xp.empty(shape, dtype)
        self.A = Memory(self.states, [options.inner_steps] * steps, chunk)
        self.G = MemoryGradient(self.A)
        in_steps = (steps, options.inner_steps, batch_size, hidden_size)
        self.queries, self.errors = self.A.queries.reshape(in_steps), self.A.errors.reshape(in_steps)
        self.settling = Settling(self.h[0], options, layer_norm)
        states = [*self.queries.swapaxes(0, 1), self.states]  # h_s, s = 0 .. S
        self.records = [
            Record.of_all_steps(state, response.norm is not None)
            for state, response in zip(states, self.settling.responses, strict=True)
        ]
        self.moments = [
            Moment(
                self.boundaries[t],
                partial(self.A.read, first=self.A.first[t]),
                partial(self.A.read_transposed, first=self.A.first[t]),
                [record.at(t) for record in self.records],
                list(self.errors[t]),
            )
            for t in range(steps)
        ]


@dataclass
class Cache(BaseCache):
    """What `backward` depends on, and nothing else. Good until the next forward with the same workspace."""

    tape: Tape
    options: Options


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, layer_norm: bool = True,
    recurrent_scale: float = 0.05, dtype: str = "float32",
) -> Params:  # fmt: skip
    """New parameters: W = recurrent_scale · identity (H, H), C (H, I) uniform in ±1/√I, b = 0 (H,).

    With layer norm also gain = 1 and bias = 0 (H,), shared by all inner steps; a layer whose parameters have neither
    has no layer norm. Drawn on the host: the same seed gives the same weights for any device.
    """
    return identity_params(rng, input_size, hidden_size, recurrent_scale, layer_norm, dtype)


@exclusive
def forward(
    params: Params, x: ops.Input, h0: Array | None = None,
    decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    A0: Array | None = None, activation: str = "relu", sustained_boundary: bool = True,
    normalize_preliminary: bool = False, chunk: int | None = None, workspace: Workspace | None = None,
) -> tuple[Array, Cache]:  # fmt: skip
    """Runs the layer over whole sequences: x (T, B, I) to h (T, B, H), and the cache that `backward` needs.

    Time comes first, then the sequences of the batch. x may also be ops.embedding(table, tokens), a table (V, I) and
    tokens (T, B): dx is then the table's gradient; or an ops.ClosedLoop, for agents.

    h0 (B, H)           the state before the first step; zero if None. It acts through W alone: it is not written to A
    A0 (B, H, H)        the fast weights that the first step reads; zero if None
    decay, rate         λ in [0, 1] and η >= 0 of equation (1)
    inner_steps         S >= 0 of equation (2); with S = 0 the fast weights are never read
    activation          f: "relu" or "tanh"
    sustained_boundary  True: W h + C x + b acts on every inner step (appendix B, method 1); False: on the preliminary
                        state alone, and the identity is added to A (method 2)
    normalize_preliminary  whether layer norm, if there is any, also acts in (2a). The paper leaves it open; by
                        measurement associative retrieval is learned far sooner without (README)
    chunk               how the fast weights are kept (memory.py); None chooses. But for rounding, all results are alike
    workspace           reuses buffers from one forward to the next

    All arrays share one dtype and one device, and must not be changed before backward has been called.
    Raises ValueError or TypeError that names the argument at fault.
    """
    options = Options(decay, rate, inner_steps, activation, sustained_boundary, normalize_preliminary)
    xp, h0 = check_forward(params, x, h0, A0, chunk)
    (steps, batch_size, _), hidden_size, dtype = x.shape, params["W"].shape[0], params["W"].dtype

    workspace = workspace or Workspace()
    ticket = workspace.begin()
    sequence, layer_norm = (steps, batch_size, hidden_size), "gain" in params
    flags = (inner_steps, activation, sustained_boundary, normalize_preliminary, layer_norm, chunk)
    key = (xp, sequence, dtype, flags)
    tape = workspace.buffers(key, lambda: Tape(xp, sequence, dtype, options, layer_norm, chunk))
    tape.A.start(decay, rate, initial=A0)
    tape.settling.load(params)

    look = input_sums(x, params, tape.boundaries)
    tape.h[0] = h = h0
    from_state, W_transposed = xp.empty_like(h0), params["W"].T
    for t, moment in enumerate(tape.moments):
        look(t, h)
        boundary = moment.boundary  # C x(t) + b, so far
        boundary += xp.matmul(h, W_transposed, out=from_state)
        # (2), (5); h is left in tape.states, where A holds it from now on, (1)
        h = tape.settling.forward(boundary, moment.read, moment.records)
    again = partial(forward, params, ops.made(x), h0, A0=A0, chunk=chunk, **vars(options))
    return tape.states.copy(), Cache(params, x, workspace, ticket, again, tape, options)


def check_forward(
    params: Params, x: ops.Input, h0: Array | None, A0: Array | None, chunk: int | None,
    maps: tuple[str, ...] = ("W",),
) -> tuple[ModuleType, Array]:  # fmt: skip
    """Raises ValueError or TypeError unless the arguments of `forward` fit; returns their module, and h0 or zero."""
    xp = check_params(params, (), maps=maps, x=ops.input_array(x), **checks.given(h0=h0, A0=A0))
    check_sequences(params, x)
    if chunk is not None:
        checks.count("chunk", chunk, least=1)
    batch_size, hidden_size = x.shape[1], len(params["W"])
    if A0 is not None:
        checks.shape("A0", A0, (batch_size, hidden_size, hidden_size), "one matrix for each sequence of x")
    return xp, initial("h0", h0, (batch_size, hidden_size), params["W"])


@exclusive
def backward(dh: Array, cache: Cache, also: Sequence[str] = ()) -> tuple[Params, Array, Array]:
    """The gradients of `forward`: (grads, dx, dh0) from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step alone. grads has the keys of params; dx (T, B, I); dh0 (B, H).
    `also` asks for more keys in grads: "decay" (dλ) and "rate" (dη), 0-d arrays, and "A0" (B, H, H).
    dη is refused for η = 0. dλ is found by a division by λ (DERIVATION.md, F10): it is refused for λ = 0, and loses
    digits for small λ, all but two of float32's at λ = 0.001.

    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    check_cache(cache, Cache)
    params, x, options, tape = cache.params, cache.x, cache.options, cache.tape
    h0, states, G = tape.h[0], tape.states, tape.G
    xp, dhs = array_module(h=h0), gradients_of_steps(dh, states)
    also = requested(also, ("decay", "rate", "A0"))
    scalars = ScalarGradients(options, also, h0)
    steps, batch_size, hidden_size = states.shape

    G.start()  # G(t) = dL/dA(t)                                                                                  (F5)
    dboundaries = tape.boundaries  # forward's are not needed again
    tape.settling.slopes(tape.records, tape.errors.swapaxes(0, 1), dboundaries)
    dnorm = xp.zeros((2, 1, hidden_size), dh.dtype)  # of gain and bias
    dh_next = xp.zeros((batch_size, hidden_size), dh.dtype)  # from the steps after t, through W

    for t in reversed(range(steps)):
        moment = tape.moments[t]
        # A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ                                                                      (F6)
        dh_t = G.read(t + 1)
        scalars.written(states[t], dh_t)
        dh_t += dh_next
        if dhs[t] is not None:
            dh_t += dhs[t]
        tape.settling.backward(dh_t, moment.read_transposed, moment.records, moment.errors, dnorm, moment.boundary)
        scalars.read(tape.queries[t], moment.errors, moment.read)
        # boundary = W h(t) + C x(t) + b                                                                          (F7)
        xp.matmul(moment.boundary, params["W"], out=dh_next)  # at last that of h0                                  (F8)

    grads, dx = affine_backward(dboundaries, params, x, tape.h[:-1])  # the rest of (F7), for all steps at once
    if "gain" in params:
        grads["gain"], grads["bias"] = dnorm[:, 0]
    grads |= scalars.asked_for()
    if "A0" in also:
        grads["A0"] = G.initial()  # dL/dA(0)                                                                     (F8)
    return grads, dx, dh_next


@exclusive
def attention(cache: Cache, t: int = -1) -> Array:
    """How strongly step t attends to each step before it, when its preliminary state is the query: equation (4).

    Returns η λ^(t-1-τ) h[τ]ᵀ h_0[t] for τ = 0 .. t-1, an array (B, t); the part of A0 is left out.
    """
    check_cache(cache, Cache)
    steps = cache.x.shape[0]
    if not isinstance(t, int | numpy.integer) or not -steps <= t < steps:
        raise ValueError(f"t: expected a step from {-steps} to {steps - 1}, got {t!r}")
    t %= steps
    return cache.tape.A.attention(cache.tape.records[0].state[t], t)


@exclusive
def final_state(cache: Cache) -> State:
    """The state after the last step of `forward`: give its h and A to the next forward as h0 and A0 to go on."""
    check_cache(cache, Cache)
    return State(cache.tape.states[-1].copy(), cache.tape.A.matrix(cache.x.shape[0]))


# --------------------------------------------------------------------------------------------------- one step at a time


def initial_state(params: Params, batch_size: int, h0: Array | None = None, A0: Array | None = None) -> State:
    """The state before the first step, zero unless h0 (B, H) and A0 (B, H, H) are given; see `forward`."""
    check_params(params, (), **checks.given(h0=h0, A0=A0))
    checks.count("batch_size", batch_size, least=1)
    W, hidden_size = params["W"], len(params["W"])
    h = initial("h0", h0, (batch_size, hidden_size), W)
    A = initial("A0", A0, (batch_size, hidden_size, hidden_size), W)
    return State(h.copy(), A.copy())


def step(
    params: Params, x: Array, state: State, decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    activation: str = "relu", sustained_boundary: bool = True, normalize_preliminary: bool = False,
) -> tuple[Array, State]:  # fmt: skip
    """One step: x (B, I) and the state before it to h (B, H) and the state after it. Options as in `forward`.

    Equals `forward` on the same inputs to rounding. Costs O(B H²) a step, however many came before. The state given is
    not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    options = Options(decay, rate, inner_steps, activation, sustained_boundary, normalize_preliminary)
    check_step(params, x, state)
    h = settle(params, x, state, options)  # (2), (5)
    return h, State(h.copy(), write(state.A, h, options))


def check_step(params: Params, x: Array, state: State, maps: tuple[str, ...] = ("W",)) -> None:
    """Raises ValueError or TypeError unless x (B, I), state and params, with these maps from state to state, fit."""
    checks.instance("state", state, State, "make it with initial_state")
    check_params(params, (), maps=maps, x=x, **{"state.h": state.h, "state.A": state.A})
    batch_size, hidden_size = len(state.h), len(params["W"])
    checks.shape("x", x, (batch_size, params["C"].shape[1]), "x is (sequences, inputs) for the sequences of state")
    checks.shape("state.h", state.h, ("B", hidden_size), "make it with initial_state")
    checks.shape("state.A", state.A, (batch_size, hidden_size, hidden_size), "make it with initial_state")


def settle(params: Params, x: Array, state: State, options: Options) -> Array:
    """h(t+1) (B, H), a new array, from x (B, I) and the state before it, by (2) and (5)."""
    boundary = state.h @ params["W"].T
    boundary += ops.linear(x, params["C"], params["b"])
    settling = Settling(boundary, options, "gain" in params)
    settling.load(params)
    return settling.forward(boundary, lambda v, s: read_matrix(state.A, v), [Record()] * (options.inner_steps + 1))


def write(A: Array, h: Array, options: Options) -> Array:
    """λ A + η h hᵀ (B, H, H), a new array: equation (1)."""
    weight = array_module(h=h).full((1, 1), options.rate, h.dtype)
    return fold(A, options.decay, h[None], h[None], weight)
