"""The multi-level layer of Figure 3 of Ba et al. 2016: fast weights that store one computation while another one runs.

Each step has four control signals, which are given and not learned:

    store      whether h(t+1) is written to A, and A decays
    wipe       whether the next step starts from 0 instead of h(t+1)
    read       whether h(t+1) depends on A
    integrate  whether the state before enters through V, the integration transition weights, instead of W

    a(t+1) = U h'(t) + C x(t) + b,   U = V where integrate(t), else W
    h(t+1) follows from a(t+1) and A(t) by the inner loop, (2) and (5), where read(t); elsewhere it is
             f(LN[a(t+1)]), which is the same with A = 0
    A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ where store(t); A(t) elsewhere
    h'(t+1) = 0 where wipe(t); h(t+1) elsewhere

The paper stores and wipes after a coarse view, then views the details, then reads and integrates at the coarse view
again. This pushes a state and pops it, but nothing leaves A except by decay, in the steps that store. With store and
read in every step, and neither wipe nor integrate, the layer equals fast_weights.py with its sustained boundary. It
uses that layer's functions of one step.

Code counts from 0: x[t] is x(t), and the returned h[t] is h(t+1), before it is wiped. T steps, B sequences, I inputs,
H units, S inner steps, N stored states. Numbers such as (V1) are in DERIVATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from . import checks, fast_weights, ops
from .backend import Array, array_module
from .fast_weights import State, check_forward, check_step, next_state, write
from .fast_weights_stepper import MemoryStepper
from .inference import StatesOnly, in_parts, without
from .inner_loop import InnerLoop, Options, checked_options
from .memory import Memory
from .memory_gradient import MemoryGradient
from .recurrent import (
    BaseCache,
    Params,
    Saved,
    check_cache,
    check_once,
    check_params,
    gradient_of_state,
    identity_params,
    initial,
    input_sums,
    renamed,
    requested,
    transition_backward,
)  # fmt: skip
from .spans import Spans
from .stepper import activation_calls
from .workspace import Workspace, exclusive, unlocked

__all__ = [
    "Cache", "Controls", "State", "Stepper", "attention", "backward", "final_state", "forward", "init", "initial_state",
    "quadrants", "step",
]  # fmt: skip

TRANSITIONS = ("W", "V")


@dataclass(frozen=True)
class Controls:
    """The four signals of every step, T booleans each. Raises ValueError or TypeError for other values."""

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
        """Return the first letters of each step's signals, such as sw - - ri."""
        return " ".join(
            "".join(name[0] for name, signal in vars(self).items() if signal[t]) or "-" for t in range(len(self))
        )


def quadrants(count: int, fine: int = 4) -> Controls:
    """Return the signals of figure 3 for `count` quadrants of an image, each seen in fine + 2 steps.

    A coarse glimpse, after which the step stores and wipes; `fine` glimpses; the coarse one again, whose step reads and
    integrates.
    """
    first, last = [True, *[False] * fine, False] * count, [False, *[False] * fine, True] * count
    return Controls(store=first, wipe=first, read=last, integrate=last)


class StepViews(NamedTuple):
    """The signals of one time step, and its views into the buffers, cached: creating one costs a microsecond."""

    a: Array  # (B, H)  U h'(t) + C x(t) + b, and in backward its gradient
    transition: str | None  # U by its name; None where the state before was wiped
    saved: list[Saved]  # s = 0 .. S where A is read, else for h(t+1) alone
    errors: list[Array]  # r_s, s = 0 .. S-1; none where A is not read
    n: int  # the number of states stored by earlier steps
    first: int  # the number of reads of A(n) by earlier steps
    read: bool
    store: bool


class Buffers:
    """All arrays that `forward` fills for `backward`, for sequences of one shape (T, B, H)."""

    def __init__(
        self, xp: ModuleType, shape: tuple[int, int, int], dtype: object, options: Options, layer_norm: bool,
        chunk: int | None, controls: Controls,
    ) -> None:  # fmt: skip
        steps, batch_size, hidden_size = shape
        self.h = xp.empty((steps + 1, batch_size, hidden_size), dtype)  # h[0] is h0; forward returns a copy of the rest
        self.states = self.h[1:]
        self.a = xp.empty(shape, dtype)
        reads = [0] * (sum(controls.store) + 1)  # for each n, how often A(n) is read
        for t, read in enumerate(controls.read):
            reads[sum(controls.store[:t])] += options.inner_steps * read
        self.A = Memory(xp.empty((sum(controls.store), batch_size, hidden_size), dtype), reads, chunk)
        self.G = MemoryGradient(self.A)
        self.loop = InnerLoop(self.h[0], options, layer_norm)
        self.unread = self.loop.activations[-1]  # h = f(LN[a])
        last = Saved.of_all_steps(self.states, layer_norm)
        self.steps = []
        n = start = 0  # states stored, and reads made, by earlier steps
        for t, (store, _, read, integrate) in enumerate(zip(*astuple(controls), strict=True)):
            reads_of_t = slice(start, start + options.inner_steps * read)
            before = [
                Saved.of_all_steps(query, activation.norm is not None)
                for query, activation in zip(self.A.queries[reads_of_t], self.loop.activations, strict=False)
            ]
            transition = None if t and controls.wipe[t - 1] else TRANSITIONS[integrate]
            errors = list(self.A.errors[reads_of_t])
            self.steps.append(
                StepViews(
                    self.a[t], transition, [*before, last.at(t)], errors, n, start - self.A.first[n], read, store
                )
            )  # fmt: skip
            n, start = n + store, reads_of_t.stop
        self.steps_through = {
            name: xp.asarray([t for t, step in enumerate(self.steps) if step.transition == name], "int64")
            for name in TRANSITIONS
        }


@dataclass
class Cache(BaseCache):
    """All that `backward` depends on, and nothing else. Valid until the next forward with the same workspace."""

    buffers: Buffers
    options: Options
    controls: Controls


def init(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, *, layer_norm: bool = True,
    recurrent_scale: float = 0.05, dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return the parameters of fast_weights.init, and V = recurrent_scale · identity (H, H)."""
    params = identity_params(rng, input_size, hidden_size, recurrent_scale, layer_norm, dtype)
    return params | {"V": params["W"].copy()}


@exclusive
def forward(
    params: Params, x: ops.Input, h0: Array | None = None,
    decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *, controls: Controls,
    A0: Array | None = None, activation: str = "relu", normalize_preliminary: bool = False,
    lengths: Array | None = None, resets: Array | None = None, gradients: bool = True, chunk: int | None = None,
    workspace: Workspace | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """Return h (T, B, H) for whole sequences x (T, B, I), and the cache that `backward` needs.

    controls are the signals of the T steps, the same for all sequences of the batch. S >= 1. The other arguments are as
    in fast_weights.forward, except that chunk counts stored states.
    Raises ValueError or TypeError that names the argument at fault.
    """
    options = _options(decay, rate, inner_steps, activation, normalize_preliminary)
    check_forward(params, x, h0, A0, TRANSITIONS)
    if chunk is not None:
        checks.count("chunk", chunk, least=1)
    (steps, batch_size, _), hidden_size, dtype = x.shape, params["W"].shape[0], params["W"].dtype
    xp, h0 = array_module(W=params["W"]), initial("h0", h0, (batch_size, hidden_size), params["W"])
    checks.instance("controls", controls, Controls, "make them with Controls(store, wipe, read, integrate)")
    if len(controls) != steps:
        raise ValueError(f"controls: expected {steps} steps, the length of x, got {len(controls)}")
    spans = Spans(x, lengths, resets)
    workspace = workspace or Workspace()
    if without(gradients):
        part = partial(
            unlocked(forward), params, decay=decay, rate=rate, inner_steps=inner_steps, activation=activation,
            normalize_preliminary=normalize_preliminary, chunk=chunk, workspace=workspace,
        )  # fmt: skip
        return in_parts(
            part, unlocked(final_state), x, {"h0": h0, "A0": A0}, lengths, resets,
            lambda steps: {"controls": Controls(*(signal[steps] for signal in vars(controls).values()))},
        )  # fmt: skip
    x = spans.clear(x)

    ticket = workspace.begin()
    shape, layer_norm = (steps, batch_size, hidden_size), "gain" in params
    key = (xp, shape, dtype, options.structure, layer_norm, chunk, controls)
    buffers = workspace.buffers(key, lambda: Buffers(xp, shape, dtype, options, layer_norm, chunk, controls))
    A, loop = buffers.A, buffers.loop
    A.start(decay, rate, initial=A0, ages=spans.ages(*_steps_of_memory(controls, inner_steps)))
    loop.load(params)
    feed = input_sums(x, params, buffers.a)
    buffers.h[0] = h = h0
    U_h, transposed = xp.empty_like(h0), {name: params[name].T for name in TRANSITIONS}

    for t, (a, U, saved, _, n, first, read, store) in enumerate(buffers.steps):
        h = spans.begin(t, h)
        feed(t, h)  # a = C x(t) + b
        if U is not None:
            a += xp.matmul(h, transposed[U], out=U_h)
        h = loop.forward(a, A, n, saved, first) if read else buffers.unread.forward(a, saved[0])  # (2), (5)
        spans.end(t, h)
        if store:
            A.write(n + 1, h)  # A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ, (1)

    again = partial(
        forward, params, ops.made(x), h0, decay, rate, inner_steps, controls=controls, A0=A0, activation=activation,
        normalize_preliminary=normalize_preliminary, lengths=lengths, resets=resets, chunk=chunk,
    )  # fmt: skip
    return buffers.states.copy(), Cache(params, x, spans, workspace, ticket, again, buffers, options, controls)


@exclusive
@renamed(also="extra")
def backward(
    dh: Array, cache: Cache, extra: Sequence[str] = (), dstate: State | None = None
) -> tuple[Params, Array, Array]:  # fmt: skip
    """Return the gradients of `forward`, (grads, dx, dh0), from dh, the gradient of the loss with respect to h.

    dh (T, B, H), or (B, H) for the last step of each sequence alone; `extra`, `dstate` and errors as in
    fast_weights.backward.
    """
    check_cache(cache, Cache)
    params, x, buffers, spans = cache.params, cache.x, cache.buffers, cache.spans
    states, A, G, loop = buffers.states, buffers.A, buffers.G, buffers.loop
    xp, of_h = array_module(h=states), states.shape[1:]
    dh_last, dA_last = gradient_of_state(dstate, State, states, of_h, (*of_h, of_h[-1]))
    dhs = spans.gradients(dh, states, None if dh_last is None else _wiped_at_end(dh_last, cache))
    extra = requested(extra, ("decay", "rate", "A0"))
    da_all = buffers.a  # forward's a is not needed again
    buffers.unread.f.slope(states, out=da_all)
    dnorm = xp.zeros((2, 1, states.shape[-1]), dh.dtype)  # gradients of gain and bias
    dh_next = xp.zeros(of_h, dh.dtype)  # gradient of h(t+1) through U, from later steps
    G.start(extra, final=dA_last)  # G(t) = dL/dA(t)                                                              (V1)

    for t in reversed(range(len(states))):
        da, U, saved, errors, n, first, read, store = buffers.steps[t]
        dh_t = dh_next
        if dhs[t] is not None:
            dh_t += dhs[t]
        if store:
            # A(t+1) = λ A(t) + η h(t+1) h(t+1)ᵀ                                                            (V1), (F6)
            dh_t += G.read(n + 1)
        if read:
            # h(t+1) from a and A(t), by (2) and (5)                                            (F1) to (F4), and (F5)
            loop.slopes(saved, errors, da)
            loop.backward(dh_t, A, n, saved, errors, da, dnorm, first)
        else:
            # h(t+1) = f(LN[a])                                                                                   (V2)
            buffers.unread.backward(dh_t, saved[0], da, dnorm)
        # a = U h'(t) + C x(t) + b, where h'(t) is h(t) or 0                                                      (V3)
        if U is not None:
            xp.matmul(da, params[U], out=dh_next)
        else:
            dh_next.fill(0)
        spans.begin_backward(t, dh_next)

    dx, dC, db = ops.linear_backward(da_all, x, params["C"])
    grads, h_before = {"C": dC, "b": db}, spans.begin_all(buffers.h[:-1])
    for name, steps in buffers.steps_through.items():
        grads[name] = transition_backward(da_all[steps], h_before[steps])  # the rest of (V3)
    if "gain" in params:
        grads["gain"], grads["bias"] = dnorm[:, 0]
    return grads | G.extra(extra), dx, dh_next


@exclusive
def attention(cache: Cache, t: int = -1) -> Array:
    """Return how strongly step t attends to each state stored before it, with its preliminary state as query.

    The result (B, n) is η λ^(n-1-k) h[k]ᵀ h_0[t], equation (4), where h[k], k = 0 .. n-1, is the k-th stored state.
    The term of A0 is left out. Raises ValueError for a step that does not read.
    """
    check_cache(cache, Cache)
    steps = [t for t, read in enumerate(cache.controls.read) if read]
    count = len(cache.controls)
    if not isinstance(t, int | numpy.integer) or t % count not in steps or not -count <= t < count:
        raise ValueError(f"t: expected a step that reads, one of {steps}, got {t!r}")
    t %= count
    step = cache.buffers.steps[t]
    return cache.buffers.A.attention(step.saved[0].state, step.n, step.first)


@exclusive
def final_state(cache: Cache | StatesOnly) -> State:
    """Return the state after the last step. Pass its h and A to the next forward as h0 and A0 to continue."""
    if isinstance(cache, StatesOnly):
        return cache.final_state()
    check_cache(cache, Cache)
    h = _wiped_at_end(cache.spans.last(cache.buffers.states), cache)
    return State(h, cache.buffers.A.matrix(sum(cache.controls.store)))


def initial_state(params: Params, batch_size: int, h0: Array | None = None, A0: Array | None = None) -> State:
    """Return the state before the first step, zero unless h0 (B, H) and A0 (B, H, H) are given; see `forward`."""
    check_params(params, (), {}, maps=TRANSITIONS)
    return fast_weights.initial_state(_with_transition(params, "W"), batch_size, h0, A0)


def step(
    params: Params, x: Array, state: State, decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
    store: bool, wipe: bool, read: bool, integrate: bool, activation: str = "relu", normalize_preliminary: bool = False,
) -> tuple[Array, State]:  # fmt: skip
    """Return h (B, H) and the next state, from x (B, I), a state and the four signals of this step.

    Equals `forward` on the same inputs up to rounding error. The returned h is not wiped. The given state is not
    changed. Raises ValueError or TypeError that names the argument at fault.
    """
    options = _options(decay, rate, inner_steps, activation, normalize_preliminary)
    if not type(store) is type(wipe) is type(read) is type(integrate) is bool:
        Controls([store], [wipe], [read], [integrate])  # raises for a signal that is not a boolean
    check_once(lambda: check_step(params, x, state, TRANSITIONS), __name__, State, params, x, state)
    A = _wiped(state.A, not read)
    h = next_state(_with_transition(params, TRANSITIONS[integrate]), x, State(state.h, A), options)
    return h, State(_wiped(h, wipe), write(state.A, h, options) if store else state.A.copy())


class Stepper(MemoryStepper):
    """Advance the layer by one time step per call, as fast_weights.Stepper does, with four signals for each step.

    h = stepper(x, store=True, wipe=False, read=True, integrate=False) returns h (B, H), a new array, from x (B, I).
    """

    State = State

    def __init__(
        self, params: Params, batch_size: int = 1, decay: float = 0.95, rate: float = 0.5, inner_steps: int = 1, *,
        activation: str = "relu", normalize_preliminary: bool = False, h0: Array | None = None,
        A0: Array | None = None, chunk: int | None = None,
    ) -> None:  # fmt: skip
        options = _options(decay, rate, inner_steps, activation, normalize_preliminary)
        check_params(params, (), checks.given(h0=h0, A0=A0), maps=TRANSITIONS)
        given = {name: value for name, value in vars(options).items() if name != "sustained_boundary"}
        super().__init__(params, batch_size, options, h0, A0, chunk, **given)
        self._through = {name: self._affine(self._a, name) for name in TRANSITIONS}
        self._unread = activation_calls(self._f, self._norm, self._a)  # h = f(LN[a])

    def __call__(  # type: ignore[override]
        self, x: Array, *, store: bool, wipe: bool, read: bool, integrate: bool
    ) -> Array:  # fmt: skip
        """Return h (B, H), a new array, before it is wiped, from x (B, I) and the signals; take the step."""
        for name, value in (("store", store), ("wipe", wipe), ("read", read), ("integrate", integrate)):
            checks.boolean(name, value)
        self._take(x)
        self._through[TRANSITIONS[integrate]]()  # a = U h'(t) + C x(t) + b
        h = self._run_calls(self._inner_loop if read else self._unread)
        if store:
            self._A.write(h)
        if wipe:
            self._h[...] = 0
        return h


def _wiped(array: Array, wipe: bool) -> Array:
    """Return a copy, or if `wipe` a new array of zeros, even where the array is not finite."""
    return array_module(array=array).zeros_like(array) if wipe else array.copy()


def _wiped_at_end(h: Array, cache: Cache) -> Array:
    """Return h (B, H), zero for the sequences whose last step wipes."""
    xp = array_module(h=h)
    wiped = xp.asarray(numpy.array(cache.controls.wipe)[cache.spans.lasts()])
    return xp.where(wiped[:, None], xp.zeros((), h.dtype), h)


def _steps_of_memory(controls: Controls, inner_steps: int) -> tuple[list[int], list[int]]:
    """Return the steps that store a state, and the step of each read."""
    steps = range(len(controls))
    reads = [t for t in steps if controls.read[t] for _ in range(inner_steps)]
    return [t for t in steps if controls.store[t]], reads


def _with_transition(params: Params, name: str) -> Params:
    """Return the parameters of fast_weights, with the transition of this name as W."""
    return {key: value for key, value in params.items() if key != "V"} | {"W": params[name]}


def _options(
    decay: float, rate: float, inner_steps: int, activation: str, normalize_preliminary: bool
) -> Options:  # fmt: skip
    checks.count("inner_steps", inner_steps, least=1)
    return checked_options(decay, rate, inner_steps, activation, True, normalize_preliminary)
