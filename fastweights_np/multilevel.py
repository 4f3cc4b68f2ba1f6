"""The multi-level layer of Figure 3 of Ba et al. 2016: fast weights that keep a computation while another one is made.

Four control signals for each step, given and not learned, say what becomes of its state:

    store      whether h(t+1) is written to A, and A decays
    wipe       whether the next step starts from 0 in the place of h(t+1)
    read       whether A acts on the way to h(t+1)
    integrate  whether the state before comes in through V, the integration transition weights, in the place of W

    a(t+1) = U h'(t) + C x(t) + b,   U = V where integrate(t), else W
    h(t+1) settles from a(t+1) with A(t), by (2) and (5) in fast_weights.py, where read(t); elsewhere
             f(LN[a(t+1)]), which is the same with A = 0
    A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ where store(t); A(t) elsewhere
    h'(t+1) = 0 where wipe(t); h(t+1) elsewhere

To store and wipe after a coarse look, to look at the details, and to read and integrate when the coarse look comes
again, is to push a state and to get it back, though nothing leaves A but by decay, in the steps that store. With store
and read in every step, and neither wipe nor integrate, it is the layer of fast_weights.py with its sustained boundary,
of whose per-step functions it is built.

In code, which counts from 0, x[t] is x(t) and the returned h[t] is h(t+1), before it is wiped. T steps, B sequences,
I inputs, H units, S inner steps, N stored states. Numbers such as (V1) point into DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy

from . import checks, fast_weights, ops
from .backend import Array, array_module
from .fast_weights import Options, ScalarGradients, Settling, State, check_forward, check_step, settle, write
from .memory import Memory, MemoryGradient
from .recurrent import (
    BaseCache,
    Params,
    Record,
    check_cache,
    check_params,
    gradients_of_steps,
    identity_params,
    input_sums,
    requested,
    transition_backward,
)  # fmt: skip
from .workspace import Workspace, exclusive

TRANSITIONS = ("W", "V")


@dataclass(frozen=True)
class Controls:
    """The four signals of every step, T booleans each. Raises ValueError or TypeError for others."""

    store: Sequence[bool]
    wipe: Sequence[bool]
    read: Sequence[bool]
    integrate: Sequence[bool]

    def __post_init__(self) -> None:
        for name, signal in vars(self).items():
            if not isinstance(signal, Sequence | numpy.ndarray):
                raise TypeError(f"controls.{name}: expected a sequence of booleans, got {type(signal).__name__}")
            if not all(isinstance(value, bool | numpy.bool_) for value in signal):
                raise TypeError(f"controls.{name}: expected booleans, got {signal!r}")
            if len(signal) != len(self.store):
                raise ValueError(
                    f"controls.{name}: expected one boolean for each step, {len(self.store)} as in controls.store, "
                    f"got {len(signal)}"
                )
            object.__setattr__(self, name, tuple(bool(value) for value in signal))

    def __len__(self) -> int:
        return len(self.store)

    def __str__(self) -> str:
        """The first letters of each step's signals, as sw - - ri."""
        return " ".join(
            "".join(name[0] for name, signal in vars(self).items() if signal[t]) or "-" for t in range(len(self))
        )


class Moment(NamedTuple):
    """What one time step does, and its places in the arrays of a tape."""

    boundary: Array  # (B, H)  U h'(t) + C x(t) + b; backward puts its gradient here
    transition: str | None  # U by its name; None where the state before was wiped
    records: list[Record]  # s = 0 .. S where A is read, else that of h(t+1) alone
    first: int | None  # the number of its first read of A; None where there is none
    stored: int | None  # n, where h(t+1) is the n-th state to be stored


class Tape:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, options: Options, layer_norm: bool,
        chunk: int | None, controls: Controls,
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        self.h = xp.empty((steps + 1, batch_size, hidden_size), dtype)  # h[0] is h0; forward returns a copy of the rest
        self.states = self.h[1:]
        self.boundaries = xp.empty(shape, dtype)
        reads = [0] * (sum(controls.store) + 1)  # of A(n), the memory of n states
        for t, read in enumerate(controls.read):
            reads[sum(controls.store[:t])] += options.inner_steps * read
        self.A = Memory(xp.empty((sum(controls.store), batch_size, hidden_size), dtype), reads, chunk)
        self.G = MemoryGradient(self.A)
        self.settling = Settling(self.h[0], options, layer_norm)
        self.unread = self.settling.responses[-1]  # h = f(LN[a])
        last = Record.of_all_steps(self.states, layer_norm)
        self.moments = []
        first, stored = 0, 0
        for t, (store, _, read, integrate) in enumerate(zip(*astuple(controls), strict=True)):
            queries = self.A.queries[first : first + options.inner_steps] if read else []
            before = [
                Record.of_all_steps(query, response.norm is not None)
                for query, response in zip(queries, self.settling.responses, strict=False)
            ]
            stored += store
            self.moments.append(
                Moment(
                    self.boundaries[t],
                    None if t and controls.wipe[t - 1] else TRANSITIONS[integrate],
                    [*before, last.at(t)],
                    first if read else None,
                    stored if store else None,
                )
            )
            first += len(queries)
        self.steps = {
            name: xp.asarray([t for t, moment in enumerate(self.moments) if moment.transition == name], "int64")
            for name in TRANSITIONS
        }


@dataclass
class Cache(BaseCache):
    """What `backward` depends on, and nothing else. Good until the next forward with the same workspace."""

    tape: Tape
    options: Options
    controls: Controls


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, layer_norm: bool = True,
    recurrent_scale: float = 0.05, dtype: str = "float32",
) -> Params:  # fmt: skip
    """New parameters: those of fast_weights.init, and V = recurrent_scale · identity (H, H)."""
    params = identity_params(rng, input_size, hidden_size, recurrent_scale, layer_norm, dtype)
    return params | {"V": params["W"].copy()}


@exclusive
def forward(
    params: Params, x: ops.Input, h0: Array | None = None,
    decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *, controls: Controls,
    A0: Array | None = None, activation: str = "relu", normalize_preliminary: bool = False,
    chunk: int | None = None, workspace: Workspace | None = None,
) -> tuple[Array, Cache]:  # fmt: skip
    """Runs the layer over whole sequences: x (T, B, I) to h (T, B, H), and the cache that `backward` needs.

    controls are the signals of the T steps, the same for all sequences of the batch. S >= 1; all else as in
    fast_weights.forward, whose chunk counts stored states here.
    Raises ValueError or TypeError that names the argument at fault.
    """
    options = _options(decay, rate, inner_steps, activation, normalize_preliminary)
    xp, h0 = check_forward(params, x, h0, A0, chunk, TRANSITIONS)
    (steps, batch_size, _), hidden_size, dtype = x.shape, params["W"].shape[0], params["W"].dtype
    checks.instance("controls", controls, Controls, "make them with Controls(store, wipe, read, integrate)")
    if len(controls) != steps:
        raise ValueError(f"controls: expected those of {steps} steps, as x has, got {len(controls)}")

    workspace = workspace or Workspace()
    ticket = workspace.begin()
    sequence, layer_norm = (steps, batch_size, hidden_size), "gain" in params
    key = (xp, sequence, dtype, (inner_steps, activation, normalize_preliminary, layer_norm, chunk), controls)
    tape = workspace.buffers(key, lambda: Tape(xp, sequence, dtype, options, layer_norm, chunk, controls))
    tape.A.start(decay, rate, initial=A0)
    tape.settling.load(params)

    look = input_sums(x, params, tape.boundaries)
    tape.h[0] = h = h0
    from_state = xp.empty_like(h0)
    transposed = {name: params[name].T for name in TRANSITIONS}
    for t, (boundary, transition, records, first, stored) in enumerate(tape.moments):
        look(t, h)
        if transition is not None:
            boundary += xp.matmul(h, transposed[transition], out=from_state)
        if first is not None:
            h = tape.settling.forward(boundary, partial(tape.A.read, first=first), records)  # (2), (5)
        else:
            h = tape.unread.forward(boundary, records[0])
        if stored is not None:
            tape.A.states[stored - 1] = h  # A holds it from now on, (1)
    again = partial(
        forward, params, ops.made(x), h0, decay, rate, inner_steps, controls=controls, A0=A0, activation=activation,
        normalize_preliminary=normalize_preliminary, chunk=chunk,
    )  # fmt: skip
    return tape.states.copy(), Cache(params, x, workspace, ticket, again, tape, options, controls)


@exclusive
def backward(dh: Array, cache: Cache, also: Sequence[str] = ()) -> tuple[Params, Array, Array]:
    """The gradients of `forward`: (grads, dx, dh0) from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step alone; `also` and errors as in fast_weights.backward.
    """
    check_cache(cache, Cache)
    params, x, tape = cache.params, cache.x, cache.tape
    A, G = tape.A, tape.G
    xp, dhs = array_module(h=tape.h), gradients_of_steps(dh, tape.states)
    also = requested(also, ("decay", "rate", "A0"))
    scalars = ScalarGradients(cache.options, also, tape.h)

    G.start()  # G(t) = dL/dA(t)                                                                                  (V1)
    dboundaries = tape.boundaries  # forward's are not needed again
    tape.unread.f.slope(tape.states, out=dboundaries)
    dnorm = xp.zeros((2, 1, tape.h.shape[-1]), dh.dtype)  # of gain and bias
    dh_next = xp.zeros(tape.h.shape[1:], dh.dtype)  # from the steps after t, through U

    for t in reversed(range(len(tape.moments))):
        boundary, transition, records, first, stored = tape.moments[t]
        if dhs[t] is not None:
            dh_next += dhs[t]
        if stored is not None:
            # A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ                                                              (V1), (F6)
            dh_by_memory = G.read(stored)
            scalars.written(A.states[stored - 1], dh_by_memory)
            dh_next += dh_by_memory
        if first is not None:
            reads = slice(first, first + len(records) - 1)
            errors, read = A.errors[reads], partial(A.read, first=first)
            read_transposed = partial(A.read_transposed, first=first)
            tape.settling.slopes(records, errors, boundary)
            tape.settling.backward(dh_next, read_transposed, records, errors, dnorm, boundary)
            scalars.read(A.queries[reads], errors, read)
        else:
            # h(t+1) = f(LN[a])                                                                                   (V2)
            tape.unread.backward(dh_next, records[0], boundary, dnorm)
        # a = U h'(t) + C x(t) + b, where h'(t) is h(t) or 0                                                      (V3)
        if transition is not None:
            xp.matmul(boundary, params[transition], out=dh_next)
        else:
            dh_next.fill(0)

    dx, dC, db = ops.linear_backward(dboundaries, x, params["C"])
    grads = {"C": dC, "b": db}
    for name in TRANSITIONS:
        steps = tape.steps[name]
        grads[name] = transition_backward(dboundaries[steps], tape.h[steps])  # the rest of (V3)
    if "gain" in params:
        grads["gain"], grads["bias"] = dnorm[:, 0]
    grads |= scalars.asked_for()
    if "A0" in also:
        grads["A0"] = G.initial()  # dL/dA(0)                                                                     (F8)
    return grads, dx, dh_next


@exclusive
def attention(cache: Cache, t: int = -1) -> Array:
    """How strongly step t attends to each state stored before it, when its preliminary state is the query.

    Returns η λ^(n-1-k) h[k]ᵀ h_0[t] for the n states stored before, k = 0 .. n-1 (h[k] is here the k-th of them), an
    array (B, n), by equation (4); the part of A0 is left out. Raises ValueError for a step that does not read.
    """
    check_cache(cache, Cache)
    steps = [t for t, read in enumerate(cache.controls.read) if read]
    count = len(cache.controls)
    if not isinstance(t, int | numpy.integer) or t % count not in steps or not -count <= t < count:
        raise ValueError(f"t: expected a step that reads, one of {steps}, got {t!r}")
    t %= count
    return cache.tape.A.attention(cache.tape.moments[t].records[0].state, sum(cache.controls.store[:t]))


@exclusive
def final_state(cache: Cache) -> State:
    """The state after the last step of `forward`: give its h and A to the next forward as h0 and A0 to go on."""
    check_cache(cache, Cache)
    tape, controls = cache.tape, cache.controls
    return State(_wiped(tape.h[-1], controls.wipe[-1]), tape.A.matrix(sum(controls.store)))


# --------------------------------------------------------------------------------------------------- one step at a time


def initial_state(params: Params, batch_size: int, h0: Array | None = None, A0: Array | None = None) -> State:
    """The state before the first step, zero unless h0 (B, H) and A0 (B, H, H) are given; see `forward`."""
    check_params(params, (), maps=TRANSITIONS)
    return fast_weights.initial_state(_with_transition(params, "W"), batch_size, h0, A0)


def step(
    params: Params, x: Array, state: State, decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    store: bool, wipe: bool, read: bool, integrate: bool, activation: str = "relu", normalize_preliminary: bool = False,
) -> tuple[Array, State]:  # fmt: skip
    """One step: x (B, I) and the state before it to h (B, H) and the state after it, by the four signals of this step.

    Equals `forward` on the same inputs to rounding. The h returned is the one before it is wiped. The state given is
    not changed. Raises ValueError or TypeError that names the argument at fault.
    """
    options = _options(decay, rate, inner_steps, activation, normalize_preliminary)
    Controls([store], [wipe], [read], [integrate])  # raises on a bad one
    check_step(params, x, state, TRANSITIONS)
    A = _wiped(state.A, not read)
    h = settle(_with_transition(params, TRANSITIONS[integrate]), x, State(state.h, A), options)
    return h, State(_wiped(h, wipe), write(state.A, h, options) if store else state.A.copy())


def _wiped(array: Array, wipe: bool) -> Array:
    """Return a new array: a copy, or zeros even where the array is not finite."""
    return array_module(array=array).zeros_like(array) if wipe else array.copy()


def _with_transition(params: Params, name: str) -> Params:
    """The parameters of fast_weights, with the transition of this name for its W."""
    return {key: value for key, value in params.items() if key != "V"} | {"W": params[name]}


def _options(
    decay: float, rate: float, inner_steps: int, activation: str, normalize_preliminary: bool
) -> Options:  # fmt: skip
    checks.count("inner_steps", inner_steps, least=1)
    return Options(decay, rate, inner_steps, activation, normalize_preliminary=normalize_preliminary)
