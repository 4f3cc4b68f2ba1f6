"""The fast-weight recurrent layer: equations (1) to (5) of Ba, Hinton, Mnih, Leibo, Ionescu 2016 (arXiv 1610.06258).

    A(t)       = λ A(t-1) + η h(t) h(t)ᵀ                                                                           (1)
    h_0(t+1)   = f(W h(t) + C x(t) + b), or f(LN[W h(t) + C x(t) + b]) as an option                               (2a)
    h_s+1(t+1) = f(LN[W h(t) + C x(t) + b + A(t) h_s(t+1)]),   s = 0 .. S-1,   h(t+1) = h_S(t+1)              (2), (5)

The A that is read on the way to h(t+1) is A(t): it holds h(t), and not yet the new state. The query is h_s(t+1).
W h + C x + b, which acts on every inner step, is the paper's sustained boundary condition, here `boundary`.

Comments have the paper's t, in round brackets; code counts from 0, in square ones. Step t of code goes from t to t+1:

    x[t] is x(t)     h[t] is h(t+1)     A.read(v, t) is A(t) v     G.read(v, T-1-t) is G(t+1) v, the gradient of A(t+1)

Letters of shapes: T steps, B sequences, I inputs, H units, S inner steps. Time comes first, as x (T, B, I).
Numbers such as (F3) point into DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import NamedTuple

import numpy

from . import checks, memory, ops
from .backend import Array, array_module
from .memory import Memory
from .ops import LayerNorm
from .workspace import Workspace

Params = dict[str, Array]


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
            checks.instance(name, getattr(self, name), bool, "pass True or False")

    def normalizes(self, s: int) -> bool:
        """Whether layer norm, if there is any, acts on the way to h_s."""
        return s > 0 or self.normalize_preliminary


class State(NamedTuple):
    """Between two steps: h (B, H), the hidden state, and A (B, H, H), the fast weights that already hold it."""

    h: Array
    A: Array


@dataclass
class Trace:
    """What settling leaves for its gradient. The first axis is s = 0 .. S; views of whole-sequence arrays."""

    states: Array  # (S+1, ..., H)  h_s
    normalized: Array  # (S+1, ..., H)  what layer norm made, before gain and bias; None without layer norm
    inverse_std: Array  # (S+1, ..., 1); None without layer norm

    def at(self, t: int) -> Trace:
        """The trace of one time step."""
        if self.normalized is None:
            return Trace(self.states[:, t], None, None)
        return Trace(self.states[:, t], self.normalized[:, t], self.inverse_std[:, t])


@dataclass
class Cache:
    """What `backward` depends on, and nothing else. Good until the next forward with the same workspace."""

    params: Params
    norm: LayerNorm | None
    x: Array | ops.Embedded  # (T, B, I)
    h0: Array  # (B, H)
    memory: Memory  # A(0) .. A(T)
    trace: Trace  # its arrays (S+1, T, B, ...)
    options: Options
    workspace: Workspace
    ticket: int


# --------------------------------------------------------------------------------------- one time step: settling (2, 5)


def settle(
    boundary: Array,
    read: Callable[[Array], Array],
    norm: LayerNorm | None,
    options: Options,
    trace: Trace | None = None,
) -> Array:
    """h(t+1) = h_S(t+1) from the boundary W h(t) + C x(t) + b (B, H), where read(v) is A(t) v. Fills `trace`."""
    h = _respond(boundary, 0, norm, options, trace)  # (2a)
    for s in range(options.inner_steps):
        z = read(h)  # (4)
        z += boundary if options.sustained_boundary else h  # (2), appendix B's method 1; or its method 2, A + identity
        h = _respond(z, s + 1, norm, options, trace)  # (5)
    return h


def settle_backward(
    dh: Array,
    read_transposed: Callable[[Array], Array],
    norm: LayerNorm | None,
    options: Options,
    trace: Trace,
    dy: Array,
) -> tuple[Array, list[Array], list[Array]]:
    """The gradient of `settle`: dboundary (B, H) from dh (B, H), where read_transposed(r) is A(t)ᵀ r.

    Returns with it the errors r_s at the S sums, whose outer products with h_s are the gradient of A(t), and A(t)ᵀ r_s.
    `dy` (S+1, B, H) comes with the slopes f'(.) and leaves with the errors in front of f, dy_s = f'(.) ⊙ dh_s, from
    which gain and bias get their gradients.
    """
    errors: list[Array] = []
    reads: list[Array] = []
    dboundary = None
    for s in reversed(range(options.inner_steps)):
        r = _respond_backward(dh, s + 1, norm, options, trace, dy)
        # z = A h_s + boundary (method 1), z = A h_s + h_s (method 2)                                             (F3)
        dh = read_transposed(r)
        errors.insert(0, r)
        reads.insert(0, dh)
        if not options.sustained_boundary:
            dh = dh + r
        else:
            dboundary = r if dboundary is None else dboundary + r
    # h_0 = f(boundary), or f(LN[boundary])                                                                       (F4)
    dz = _respond_backward(dh, 0, norm, options, trace, dy)
    return dz if dboundary is None else dboundary + dz, errors, reads


def _respond(z: Array, s: int, norm: LayerNorm | None, options: Options, trace: Trace | None) -> Array:
    """h_s = f(LN[z])."""
    f = ops.ACTIVATIONS[options.activation].forward
    if norm is not None and options.normalizes(s):
        z, _, inverse_std = norm.forward(z, None if trace is None else trace.normalized[s])
        if trace is not None:
            trace.inverse_std[s] = inverse_std
    return f(z, out=None if trace is None else trace.states[s])


def _respond_backward(dh: Array, s: int, norm: LayerNorm | None, options: Options, trace: Trace, dy: Array) -> Array:
    """dz of `_respond`."""
    # h_s = f(y)                                                                                                  (F1)
    dy[s] *= dh
    if norm is None or not options.normalizes(s):
        return dy[s]
    # y = LN[z]                                                                                                   (F2)
    return norm.backward(dy[s], trace.normalized[s], trace.inverse_std[s])


# ------------------------------------------------------------------------------------------------------ whole sequences


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, layer_norm: bool = True,
    recurrent_scale: float = 0.05, dtype: str = "float32",
) -> Params:  # fmt: skip
    """New parameters: W = recurrent_scale · identity (H, H), C (H, I) uniform in ±1/√I, b = 0 (H,).

    With layer norm also gain = 1 and bias = 0 (H,), shared by all inner steps; a layer whose parameters have neither
    has no layer norm. Drawn on the host: the same seed gives the same weights for any device.
    """
    checks.generator("rng", rng)
    checks.count("input_size", input_size, least=1)
    checks.count("hidden_size", hidden_size, least=1)
    checks.number("recurrent_scale", recurrent_scale)
    checks.choice("dtype", dtype, checks.FLOATS)
    bound = 1 / sqrt(input_size)
    params = {
        "W": recurrent_scale * numpy.eye(hidden_size),
        "C": rng.uniform(-bound, bound, (hidden_size, input_size)),
        "b": numpy.zeros(hidden_size),
    }
    if layer_norm:
        params |= {"gain": numpy.ones(hidden_size), "bias": numpy.zeros(hidden_size)}
    return {name: value.astype(dtype) for name, value in params.items()}


def forward(
    params: Params, x: Array | ops.Embedded, h0: Array | None = None,
    decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    A0: Array | None = None, activation: str = "relu", sustained_boundary: bool = True,
    normalize_preliminary: bool = False, chunk: int | None = None, workspace: Workspace | None = None,
) -> tuple[Array, Cache]:  # fmt: skip
    """Runs the layer over whole sequences: x (T, B, I) to h (T, B, H), and the cache that `backward` needs.

    Time comes first, then the sequences of the batch. x may also be ops.embedding(table, tokens), a table (V, I) and
    tokens (T, B): dx is then the table's gradient.

    h0 (B, H)           the state before the first step; zero if None. It acts through W alone: it is not written to A
    A0 (B, H, H)        the fast weights that the first step reads; zero if None
    decay, rate         λ in [0, 1] and η >= 0 of equation (1)
    inner_steps         S >= 0 of equation (2); with S = 0 the fast weights are never read
    activation          f: "relu" or "tanh"
    sustained_boundary  True: W h + C x + b acts on every inner step (appendix B, method 1); False: on the preliminary
                        state alone, and the identity is added to A (method 2)
    normalize_preliminary  whether layer norm, if there is any, also acts in (2a). The paper leaves it open; by
                        measurement associative retrieval is learned far sooner without (README)
    chunk               how the fast weights are kept (memory.py); None chooses. The result does not depend on it
    workspace           reuses buffers from one forward to the next

    All arrays share one dtype and one device, and must not be changed before backward has been called.
    Raises ValueError or TypeError that names the argument at fault.
    """
    options = Options(decay, rate, inner_steps, activation, sustained_boundary, normalize_preliminary)
    xp = _check(params, x=ops.input_array(x), h0=h0, A0=A0)
    checks.shape("x", x, ("T", "B", params["C"].shape[1]), "x is (steps, sequences, inputs)")
    (steps, batch_size, _), hidden_size, dtype = x.shape, params["W"].shape[0], params["W"].dtype
    if chunk is not None:
        checks.count("chunk", chunk, least=1)
    if h0 is None:
        h0 = xp.zeros((batch_size, hidden_size), dtype)
    checks.shape("h0", h0, (batch_size, hidden_size), "one state for each sequence of x")
    if A0 is not None:
        checks.shape("A0", A0, (batch_size, hidden_size, hidden_size), "one matrix for each sequence of x")

    workspace = workspace or Workspace()
    ticket = workspace.begin()
    A = Memory(
        xp, dtype, batch_size, steps, hidden_size, name="A", workspace=workspace,
        decay=decay, scale=rate, chunk=chunk, initial=A0, symmetric=True,
    )  # fmt: skip
    shape = (inner_steps + 1, steps, batch_size, hidden_size)
    trace = Trace(workspace.empty(xp, "states", shape, dtype), None, None)
    if "gain" in params:
        trace.normalized = workspace.empty(xp, "normalized", shape, dtype)
        trace.inverse_std = workspace.empty(xp, "inverse_std", (*shape[:-1], 1), dtype)

    norm = _norm(params, batch_size)
    from_input = ops.linear(x, params["C"], params["b"])
    h = h0
    for t in range(steps):
        boundary = h @ params["W"].T
        boundary += from_input[t]
        h = settle(boundary, partial(A.read, n=t), norm, options, trace.at(t))  # (2), (5)
        A.write([h])  # (1)
    return trace.states[-1].copy(), Cache(params, norm, x, h0, A, trace, options, workspace, ticket)


def backward(dh: Array, cache: Cache, also: Sequence[str] = ()) -> tuple[Params, Array, Array]:
    """The gradients of `forward`: (grads, dx, dh0) from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step alone. grads has the keys of params; dx (T, B, I); dh0 (B, H).
    `also` asks for more keys in grads: "decay" (dλ) and "rate" (dη), 0-d arrays, and "A0" (B, H, H).
    dλ is found by a division by λ (DERIVATION.md, F10): it is refused for λ = 0, and loses digits for small λ, all but
    two of float32's at λ = 0.001.

    Raises ValueError for a dh of another shape, RuntimeError if the cache's workspace has been overwritten.
    """
    checks.instance("cache", cache, Cache, "forward returns it: h, cache = forward(...)")
    params, x, A, options = cache.params, cache.x, cache.memory, cache.options
    cache.workspace.check(cache.ticket)
    xp = array_module(h=cache.h0, dh=dh)
    checks.floating(h=cache.h0, dh=dh)
    if isinstance(also, str):
        also = (also,)
    for name in also:
        checks.choice("also", name, ("decay", "rate", "A0"))
    if "decay" in also and options.decay == 0:
        raise ValueError("also: the gradient of decay needs decay > 0; pass a small positive decay to forward")
    states = cache.trace.states
    _, steps, batch_size, hidden_size = states.shape
    last_only = dh.ndim == 2
    expected = (batch_size, hidden_size) if last_only else (steps, batch_size, hidden_size)
    checks.shape("dh", dh, expected, "dh has the shape of h, or of h[-1]")

    # G(t) = dL/dA(t) is a memory that runs backwards:  G(t) = λ G(t+1) + Σ_s r_s(t+1) h_s(t+1)ᵀ                    (F5)
    G = Memory(
        xp, dh.dtype, batch_size, steps, hidden_size, name="G", workspace=cache.workspace,
        decay=options.decay, width=options.inner_steps, chunk=A.chunk, revisit=False,
    )  # fmt: skip
    dboundary = cache.workspace.empty(xp, "dboundary", states.shape[1:], dh.dtype)
    dy = cache.workspace.empty(xp, "dy", states.shape, dh.dtype)
    ops.ACTIVATIONS[options.activation].slope(states, out=dy)
    ddecay, drate, G_dot_A = (xp.zeros((), dh.dtype) for _ in range(3))
    dh_next = xp.zeros((batch_size, hidden_size), dh.dtype)  # from the steps after t, through W

    for t in reversed(range(steps)):
        later = steps - 1 - t  # how many steps follow, each with its term in G(t+1)
        h = states[-1, t]  # h(t+1)
        # A(t+1) = λ A(t) + η h hᵀ                                                                                (F6)
        dh_t = G.read_symmetric(h, later)  # (G + Gᵀ) h, not yet times η
        if also:
            # dη = Σ hᵀ G h;  dλ = Σ <G(t+1), A(t)>, from <G(t+1), A(t+1)> carried along                    (F9), (F10)
            h_G_h = (h * dh_t).sum() / 2
            drate += h_G_h
            G_dot_A -= options.rate * h_G_h
            if "decay" in also:
                ddecay += G_dot_A / options.decay
        dh_t *= options.rate
        dh_t += dh_next
        if not last_only:
            dh_t += dh[t]
        elif later == 0:
            dh_t += dh
        dboundary[t], errors, reads = settle_backward(
            dh_t, partial(A.read, n=t, transposed=True), cache.norm, options, cache.trace.at(t), dy[:, t]
        )
        G.write(errors, [states[s, t] for s in range(options.inner_steps)])
        if also:
            for s, read in enumerate(reads):
                G_dot_A += (states[s, t] * read).sum()
        # boundary = W h(t) + C x(t) + b                                                                          (F7)
        dh_next = dboundary[t] @ params["W"]  # at last that of h0                                                (F8)

    dx, dC, db = ops.linear_backward(dboundary, x, params["C"])  # the rest of (F7), for all steps at once
    dW = dboundary[0].T @ cache.h0
    dW += dboundary[1:].reshape(-1, hidden_size).T @ states[-1, :-1].reshape(-1, hidden_size)
    grads = {"W": dW, "C": dC, "b": db}
    if "gain" in params:
        first = 0 if options.normalize_preliminary else 1
        grads["gain"], grads["bias"] = ops.layer_norm_parameters_backward(dy[first:], cache.trace.normalized[first:])
    extras = {"decay": ddecay, "rate": drate}
    if "A0" in also:
        extras["A0"] = G.matrix(steps)  # dL/dA(0)                                                                (F8)
    return grads | {name: extras[name] for name in also}, dx, dh_next


def attention(cache: Cache, t: int = -1) -> Array:
    """How strongly step t attends to each step before it, when its preliminary state is the query: equation (4).

    Returns η λ^(t-1-τ) h[τ]ᵀ h_0[t] for τ = 0 .. t-1, an array (B, t); the part of A0 is left out.
    """
    cache.workspace.check(cache.ticket)
    steps = cache.x.shape[0]
    if not isinstance(t, int | numpy.integer) or not -steps <= t < steps:
        raise ValueError(f"t: expected a step from {-steps} to {steps - 1}, got {t!r}")
    t %= steps
    return cache.memory.attention(cache.trace.states[0, t], t)


def final_state(cache: Cache) -> State:
    """The state after the last step of `forward`: give its h and A to the next forward as h0 and A0 to go on."""
    cache.workspace.check(cache.ticket)
    return State(cache.trace.states[-1, -1].copy(), cache.memory.matrix(cache.x.shape[0]))


# --------------------------------------------------------------------------------------------------- one step at a time


def initial_state(params: Params, batch_size: int, h0: Array | None = None, A0: Array | None = None) -> State:
    """The state before the first step, zero unless h0 (B, H) and A0 (B, H, H) are given; see `forward`."""
    xp = _check(params, h0=h0, A0=A0)
    checks.count("batch_size", batch_size, least=1)
    hidden_size, dtype = params["W"].shape[0], params["W"].dtype
    shapes = (batch_size, hidden_size), (batch_size, hidden_size, hidden_size)
    for name, value, shape in (("h0", h0, shapes[0]), ("A0", A0, shapes[1])):
        if value is not None:
            checks.shape(name, value, shape)
    return State(*(xp.zeros(s, dtype) if v is None else v.copy() for v, s in zip((h0, A0), shapes, strict=True)))


def step(
    params: Params, x: Array, state: State, decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    activation: str = "relu", sustained_boundary: bool = True, normalize_preliminary: bool = False,
) -> tuple[Array, State]:  # fmt: skip
    """One step: x (B, I) and the state before it to h (B, H) and the state after it. Options as in `forward`.

    Equals `forward` on the same inputs to rounding. Costs O(B H²) a step, however many came before. The state given is
    not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    options = Options(decay, rate, inner_steps, activation, sustained_boundary, normalize_preliminary)
    checks.instance("state", state, State, "make it with initial_state")
    _check(params, x=x, **{"state.h": state.h, "state.A": state.A})
    batch_size, hidden_size = state.h.shape[0], params["W"].shape[0]
    checks.shape("x", x, (batch_size, params["C"].shape[1]), "x is (sequences, inputs) for the sequences of state")
    checks.shape("state.h", state.h, ("B", hidden_size), "make it with initial_state")
    checks.shape("state.A", state.A, (batch_size, hidden_size, hidden_size), "make it with initial_state")
    boundary = state.h @ params["W"].T
    boundary += ops.linear(x, params["C"], params["b"])
    h = settle(boundary, partial(memory.read_matrix, state.A), _norm(params, batch_size), options)  # (2), (5)
    weight = array_module(h=h).full((1, 1), rate, h.dtype)
    return h, State(h.copy(), memory.fold(state.A, decay, h[:, None], h[:, None], weight))  # (1)


def _norm(params: Params, batch_size: int) -> LayerNorm | None:
    """The layer's layer norm, for states (B, H)."""
    return LayerNorm(params["gain"], params["bias"], batch_size) if "gain" in params else None


def _check(params: Params, **arrays: Array | None):
    """Checks the parameters, and that all arrays share module and dtype; returns the module."""
    checks.instance("params", params, dict, "make it with init()")
    checks.keys("params", params, ("W", "C", "b"), ("gain", "bias"))
    xp = array_module(**params, **arrays)
    checks.floating(**params, **arrays)
    checks.shape("C", params["C"], ("H", "I"))
    hidden_size = params["C"].shape[0]
    checks.shape("W", params["W"], (hidden_size, hidden_size), "W is (H, H) for C (H, I)")
    for name in ("b", "gain", "bias"):
        if name in params:
            checks.shape(name, params[name], (hidden_size,))
    if ("gain" in params) != ("bias" in params):
        raise ValueError("params: expected both gain and bias, or neither for a layer without layer norm")
    return xp
