"""Shared parts of the recurrent layers: z(t+1) = W h(t) + C x(t) + b, the activation h = f(LN[z]), argument checks.

W (H, H), C (H, I), b (H,). A layer with N such maps stacks them, W (N, H, H) and so on: an LSTM has four.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from math import sqrt
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy

from . import checks, ops
from .backend import Array, array_module
from .inference import StatesOnly
from .ops import LayerNorm, Relu, Tanh
from .spans import Spans
from .workspace import Workspace

Params = dict[str, Array]
Function = TypeVar("Function", bound=Callable[..., Any])


# ------------------------------------------------------------------------------------------------------------ arguments


def check_init(rng: numpy.random.Generator, input_size: int, hidden_size: int, dtype: str) -> None:
    """Raise ValueError or TypeError for a wrong argument of a layer's `init`."""
    checks.generator("rng", rng)
    checks.count("input_size", input_size, least=1)
    checks.count("hidden_size", hidden_size, least=1)
    checks.choice("dtype", dtype, checks.FLOATS)


def uniform(rng: numpy.random.Generator, *shape: int) -> Array:
    """Return weights of this shape, uniform in ±1/√fan; fan, the number of inputs, is the size of the last axis."""
    bound = 1 / sqrt(shape[-1])
    return rng.uniform(-bound, bound, shape)


def identity_params(
    rng: numpy.random.Generator, input_size: int, hidden_size: int, recurrent_scale: float, layer_norm: bool, dtype: str
) -> Params:  # fmt: skip
    """Return W = recurrent_scale · identity, C uniform in ±1/√I, b = 0, and for layer norm gain = 1 and bias = 0."""
    check_init(rng, input_size, hidden_size, dtype)
    checks.finite("recurrent_scale", recurrent_scale, dtype)
    checks.boolean("layer_norm", layer_norm)
    params = {
        "W": recurrent_scale * numpy.eye(hidden_size),
        "C": uniform(rng, hidden_size, input_size),
        "b": numpy.zeros(hidden_size),
    }
    if layer_norm:
        params |= {"gain": numpy.ones(hidden_size), "bias": numpy.zeros(hidden_size)}
    return {name: value.astype(dtype) for name, value in params.items()}


def check_params(
    params: Params, blocks: tuple[int, ...], arrays: Mapping[str, Array], *, parts: int = 1,
    maps: tuple[str, ...] = ("W",),
) -> ModuleType:  # fmt: skip
    """Check a layer's parameters, and that all arrays share module and dtype; return the module.

    `blocks` are the leading axes of each parameter: () for one map, (4,) for an LSTM's gates. A map has H rows, or H /
    parts rows if there are several parts; two parts are the real and the imaginary one. `maps` are the names of the
    maps from state to state.
    """
    checks.instance("params", params, dict, "make it with init()")
    checks.keys("params", params, (*maps, "C", "b"), ("gain", "bias"))
    xp = array_module(**params, **arrays)
    checks.floating(**params, **arrays)
    checks.shape("C", params["C"], (*blocks, "H" if parts == 1 else f"H/{parts}", "I"))
    rows = params["C"].shape[-2]
    for name in maps:
        remedy = "" if blocks else f"{name} is (H, H) for C (H, I)"
        checks.shape(name, params[name], (*blocks, rows, parts * rows), remedy)
    for name in ("b", "gain", "bias"):
        if name in params:
            checks.shape(name, params[name], (*blocks, rows))
    if ("gain" in params) != ("bias" in params):
        raise ValueError("params: expected both gain and bias, or neither for a layer without layer norm")
    return xp


_passed: set[Any] = set()  # what check_once has let pass


def check_once(check: Callable[[], Any], layer: str, kind: type, params: Params, x: ops.Input, state: Any) -> None:
    """Call `check`, unless it has passed for the same names, shapes and dtypes, on which alone it depends.

    layer is the name of the layer's module, or of its function, kind its State, or a tuple of arrays, None where one is
    not given. Arrays that are not plain ones of the host are checked at every call.
    """
    if type(params) is not dict or type(state) is not kind:
        return check()
    key: list[Any] = [layer, *params]
    for array in [*params.values(), x, *state]:  # type: ignore[misc]
        if type(array) is numpy.ndarray:
            key += array.shape, array.dtype
        elif array is None:
            key.append(None)
        else:
            return check()
    if (known := tuple(key)) not in _passed:
        check()
        if len(_passed) > 1000:
            _passed.clear()
        _passed.add(known)


def check_sequences(params: Params, x: ops.Input) -> None:
    """Raise ValueError unless x is (T, B, I)."""
    checks.shape("x", x, ("T", "B", params["C"].shape[-1]), "x is (steps, sequences, inputs)")


def initial(name: str, given: Array | None, shape: tuple[int, ...], like: Array) -> Array:
    """Return an initial state of this shape: the given one, or zero. Raises ValueError for another shape."""
    if given is None:
        return array_module(like=like).zeros(shape, like.dtype)
    checks.shape(name, given, shape, "one for each sequence of the batch")
    return given


def gradient_of_state(
    dstate: Any, kind: Any, like: Array, *shapes: tuple[int, ...]
) -> tuple[Any, ...]:  # fmt: skip
    """Return the gradient of each array of the final state, of these shapes; None is zero.

    Raises TypeError or ValueError unless dstate is None, or a state of this kind with the module and dtype of `like`.
    """
    if dstate is None:
        return (None,) * len(shapes)
    checks.instance("dstate", dstate, kind, "pass a State with the gradient of each array of final_state(cache)")
    for name, gradient, shape in zip(kind._fields, dstate, shapes, strict=True):
        arrays = {"the outputs": like, f"dstate.{name}": gradient}
        array_module(**arrays)
        checks.floating(**arrays)
        checks.shape(f"dstate.{name}", gradient, shape, f"it has the shape of the final {name}")
    return tuple(dstate)


def requested(extra: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names in `extra`, of further gradients. Raises ValueError for an unknown name."""
    if not isinstance(extra, Sequence):
        raise TypeError(f"extra: expected a list of names, got {type(extra).__name__}")
    names = (extra,) if isinstance(extra, str) else tuple(extra)
    for name in names:
        if not known:
            raise ValueError(f"extra: expected none, for this layer has no other gradients, got {name!r}")
        checks.choice("extra", name, known)
    return names


def renamed(**names: str) -> Callable[[Function], Function]:
    """Make a function accept a former argument name, with a DeprecationWarning: renamed(old="new")."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            for old, new in names.items():
                if old in options:
                    warnings.warn(f"{old}: this argument is now called {new}", DeprecationWarning, stacklevel=3)
                    options[new] = options.pop(old)
            return function(*arguments, **options)

        return call  # type: ignore[return-value]

    return decorate


@dataclass
class BaseCache:
    """The part of a cache that all layers share. A layer's own Cache adds its buffers.

    Copying or pickling it runs the forward pass again, in a workspace of its own: buffers hold views of one another,
    which a copy would break. Raises RuntimeError if the workspace has been overwritten.
    """

    params: Params
    x: ops.Input  # (T, B, I)
    spans: Spans
    workspace: Workspace
    ticket: int
    again: Callable[[], tuple[Array, Any]]  # the same forward pass, in a workspace of its own

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Callable[[], tuple[Array, Any]]]]:
        self.workspace.check(self.ticket)
        return _run_again, (self.again,)


def check_cache(cache: BaseCache, kind: type[BaseCache]) -> None:
    """Raise TypeError unless the cache is of this kind, RuntimeError if its workspace has been overwritten."""
    check_kind(cache, kind)
    cache.workspace.check(cache.ticket)


def check_kind(cache: Any, kind: type) -> None:
    """Raise TypeError unless the cache is of this kind, ValueError for one of a forward without gradients."""
    if isinstance(cache, StatesOnly):
        raise ValueError(
            "cache: expected one with all that backward needs, got one of forward(..., gradients=False); "
            "call forward without it"
        )
    checks.instance("cache", cache, kind, "forward returns it, as its second result")


def _run_again(forward: Callable[[], tuple[Array, Any]]) -> Any:
    return forward()[1]


# ----------------------------------------------------------------------------------------------------- W h + C x + b


def input_sums(x: ops.Input, params: Params, out: Array) -> Callable[[int, Array], None]:
    """Put C x(t) + b of all steps into out (..., T, B, H). Return feed(t, h), to be called at each step t.

    h is the state before, h(t) (B, H). For a ClosedLoop, feed makes x(t) and fills step t of out; else it does nothing.
    """
    if not isinstance(x, ops.ClosedLoop):
        ops.linear(x, params["C"], params["b"], out=out)
        return lambda t, h: None

    def feed(t: int, h: Array) -> None:
        made = x.make(t, h)
        name = f"what make({t}, h) returned"
        array_module(**{name: made})
        checks.shape(name, made, x.shape[1:], "it is (sequences, inputs)")
        checks.floating(x=x.array, **{name: made})
        x.array[t] = made
        out[..., t, :, :] = ops.linear(x.array[t], params["C"], params["b"])

    return feed


def affine_backward(
    dz: Array, params: Params, x: ops.Input, h_before: Array
) -> tuple[Params, Array]:  # fmt: skip
    """Return the gradients of W, C, b, and dx, for all steps at once, from dz (..., T, B, H) and h(t) (T, B, H).

    Each layer's loop computes the gradient of h(t) itself, dz(t+1) W.
    """
    # z(t+1) = W h(t) + C x(t) + b                                                                          (F7), (L1)
    dx, dC, db = ops.linear_backward(dz, x, params["C"])
    return {"W": transition_backward(dz, h_before), "C": dC, "b": db}, dx


def transition_backward(dz: Array, h_before: Array) -> Array:
    """Return dW from dz(t+1) (..., T, B, H) and h(t) (T, B, H)."""
    rows = dz.reshape(*dz.shape[:-3], -1, dz.shape[-1])
    return rows.swapaxes(-2, -1) @ h_before.reshape(-1, h_before.shape[-1])


# --------------------------------------------------------------------------------------------------------- h = f(LN[z])


class Saved(NamedTuple):
    """The arrays that the gradient of h = f(LN[z]) needs, for one step (..., B, H) or for all (..., T, B, H)."""

    state: Any = None  # h
    normalized: Any = None  # z, normalized, before gain and bias; None without layer norm
    inverse_std: Any = None  # (..., 1); None without layer norm

    @classmethod
    def of_all_steps(cls, state: Array, layer_norm: bool) -> Saved:
        """Return a Saved for all states (..., T, B, H), with new buffers for layer norm, if there is one."""
        if not layer_norm:
            return cls(state)
        xp = array_module(state=state)
        return cls(state, xp.empty(state.shape, state.dtype), xp.empty((*state.shape[:-1], 1), state.dtype))

    def at(self, t: int) -> Saved:
        """Return the views of step t alone."""
        return Saved(*(None if array is None else array[..., t, :, :] for array in self))


def norm_activation(z: Array, params: Params, activation: str, layer_norm: bool = True) -> Array:
    """Return h = f(LN[z]), a new array, or f(z) if there is no layer norm; NormActivation without buffers."""
    if layer_norm and "gain" in params:
        z = ops.layer_norm(z, params["gain"], params["bias"])
    xp = array_module(z=z)
    return xp.maximum(z, 0) if activation == "relu" else xp.tanh(z)


class NormActivation:
    """h = f(LN[z]), or f(z) without layer norm, and its gradient. An object serves all z of the shape of `like`."""

    def __init__(self, like: Array, f: Relu | Tanh, norm: LayerNorm | None) -> None:
        self.f, self.norm, self._xp = f, norm, array_module(like=like)

    def load(self, params: Params) -> None:
        """Load the current values of gain and bias, if there is layer norm."""
        if self.norm is not None:
            self.norm.load(params["gain"], params["bias"])

    def forward(self, z: Array, saved: Saved) -> Array:
        """Return h (B, H) from z (B, H), which it may overwrite. Fill saved."""
        if self.norm is not None:
            z, _, _ = self.norm.forward(z, saved.normalized, saved.inverse_std)
        return self.f.forward(z, out=saved.state)

    def backward(self, dh: Array, saved: Saved, dz: Array, dnorm: Array) -> Array:
        """Turn the slopes f'(.) in dz (B, H) into dz, from dh (B, H), and return it.

        The gradients of gain and bias are added to the rows of dnorm (2, 1, H).
        """
        # h = f(y), and dz has f'(y)                                                                             (F1)
        if self.norm is None:
            dz *= dh
            return dz
        self._xp.multiply(dz, dh, out=self.norm.dy)
        # y = LN[z]                                                                                              (F2)
        return self.norm.backward(saved.normalized, saved.inverse_std, dnorm, out=dz)
