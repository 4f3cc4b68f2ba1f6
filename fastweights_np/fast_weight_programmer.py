"""The fast weight programmer: keys, values and queries from x, and one memory that is written by one of several rules.

    k(t) = φ(K x(t)),   q(t) = φ(Q x(t)),   v(t) = V x(t),   y(t) = S(t) q(t)

    rule         update of S (d_v, d_k), for each head                           parameters besides K, V, Q
    sum          S ← λ S + v kᵀ                                                  none
    decay        S ← γ S + v kᵀ,   γ = σ(gate_bias)                              gate_bias
    gated        S ← γ(t) S + v kᵀ,   γ(t) = σ(gate x(t) + gate_bias)            gate, gate_bias
    delta        S ← S + β(t) (v - S k) kᵀ,   β(t) = σ(beta x(t) + beta_bias)    beta, beta_bias
    gated_delta  S ← γ(t) S (I - β(t) k kᵀ) + β(t) v kᵀ                          all four

λ is the option `decay`, 1 by default. It also applies to the delta rule, S ← λ S + β(t) (v - λ S k) kᵀ. The parameters
select the rule, so `forward` does not ask for it. y(t) reads what step t has written.

Sources:
    sum          linear attention, Katharopoulos et al. 2020, arXiv 2006.16236, with elu and attention normalization
    decay        RetNet, Sun et al. 2023, arXiv 2307.08621, which has a fixed γ: rule="sum", decay=γ
    gated        Mamba-2, Dao and Gu 2024, arXiv 2405.21060, which also scales v by the step size that makes γ(t); gated
                 linear attention, Yang et al. 2023, arXiv 2312.06635, has a γ(t) for each entry of a key instead
    delta        Schlag, Irie, Schmidhuber 2021, arXiv 2102.11174, with dpfp and sum normalization; with l2
                 normalization, a chunk at a time, Yang et al. 2024, arXiv 2406.06484
    gated_delta  Yang, Kautz, Hatamizadeh 2024, arXiv 2412.06464

What these models have around the memory is not here: short convolutions, rotations, norms and gates of the output.

T steps, B sequences, I inputs, N heads. Numbers such as (P5) are in DERIVATION.md. plain/fast_weight_programmer.py has
the same equations in plain lines; key_value_memory.py computes them for all steps of a chunk at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import numpy

from . import checks, key_value_memory, ops
from .backend import Array, array_module
from .features import Saved, count, divided, divided_backward, features, features_backward, with_ones
from .features import check as check_features
from .inference import StatesOnly, without
from .memory import fold, read_matrix
from .projections import Projected, project, project_backward
from .projections import check as check_params
from .recurrent import Params, check_kind, gradient_of_state, uniform
from .spans import Spans

__all__ = ["RULES", "Cache", "State", "backward", "final_state", "forward", "init", "initial_state", "step"]

RULES: dict[str, tuple[str, ...]] = {
    "sum": (), "decay": ("gate_bias",), "gated": ("gate", "gate_bias"), "delta": ("beta", "beta_bias"),
    "gated_delta": ("beta", "beta_bias", "gate", "gate_bias"),
}  # fmt: skip
PART = 1024  # steps at once without gradients


class State(NamedTuple):
    """The state between steps: S (B, N, d_v, d_k), or with attention normalization (B, N, d_v + 1, d_k).

    d_k is the number of features of a key. The further row is z, the sum of keys.
    """

    S: Array


class Options(NamedTuple):
    """The options of `forward` that `step` has, too."""

    decay: float
    feature_map: str
    normalization: str
    attention_normalization: bool


def init(
    rng: numpy.random.Generator, input_size: int, key_size: int, value_size: int, heads: int = 1, rule: str = "delta",
    *, dtype: str = "float32",
) -> Params:  # fmt: skip
    """Return new parameters: K and Q (N, key_size, I), V (N, value_size, I) uniform in ±1/√I, and those of the rule.

    beta and gate (N, I) are drawn likewise, beta_bias (N,) is 0. gate_bias (N,) makes γ = 1 - 2^(-5-n) for head n = 0,
    1, .., as in RetNet. Parameters are drawn on the host: the same seed gives the same weights for any device.
    """
    checks.generator("rng", rng)
    sizes = {"input_size": input_size, "key_size": key_size, "value_size": value_size, "heads": heads}
    for name, size in sizes.items():
        checks.count(name, size, least=1)
    checks.choice("rule", rule, RULES)
    checks.choice("dtype", dtype, checks.FLOATS)
    params = {name: uniform(rng, heads, size, input_size) for name, size in (("K", key_size), ("V", value_size))}
    params["Q"] = uniform(rng, heads, key_size, input_size)
    params |= {name: uniform(rng, heads, input_size) for name in ("beta", "gate") if name in RULES[rule]}
    biases = {"beta_bias": numpy.zeros(heads), "gate_bias": numpy.log(2.0 ** (5 + numpy.arange(heads)) - 1)}
    params |= {name: bias for name, bias in biases.items() if name in RULES[rule]}
    return {name: value.astype(dtype) for name, value in params.items()}


@dataclass
class Cache:
    """All that `backward` depends on."""

    params: Params
    x: Any
    spans: Spans
    options: Options
    of_keys: Saved
    of_queries: Saved
    projected: Projected
    memory: key_value_memory.Cache
    o: Array  # (T, B, N, .)  S q, before the attention normalization
    y: Array  # (T, B, N d_v)  what forward returns, for its shape


def forward(
    params: Params, x: ops.Input, state: State | None = None, decay: float = 1.0, *, feature_map: str = "identity",
    normalization: str | None = None, attention_normalization: bool = False, writes: Array | None = None,
    lengths: Array | None = None, resets: Array | None = None, gradients: bool = True, chunk: int | None = None,
    threads: int = 1,
) -> tuple[Array, Any]:  # fmt: skip
    """Return y (T, B, N · d_v), the heads one after another, for x (T, B, I), and the cache that `backward` needs.

    x may also be ops.embedding(table, tokens), with a table (V, I) and tokens (T, B).

    state           the State before the first step; zero if None
    decay           λ in (0, 1], for params without a gate_bias. It has no gradient: a rule with a gate_bias learns one
    feature_map     φ of keys and queries: "identity", "elu", "dpfp-1", "dpfp-2", ...: see features.py
    normalization   of φ: "none", "l2" or "sum". None selects l2 for the delta rule, else none. The delta rule needs
                    β |k|² <= 2, else S grows without bound; l2 and sum guarantee it
    attention_normalization  whether y is divided by z·q + ε, z the sum of keys, which decays like S. For a φ >= 0, and
                    not for the delta rule
    writes          booleans (T, B) on the host: False where a step only reads, and S does not change; None is True
    lengths, resets for padded batches, (B,), and for several documents in one sequence, (T, B): see spans.py
    gradients       False keeps nothing for `backward`: memory then grows by y alone, and the cache is only for
                    final_state
    chunk           steps that are computed at once (key_value_memory.py). None selects it
    threads         how many share the memories of all sequences and heads, here and in `backward`. Results agree up to
                    rounding error for every chunk and number of threads

    All arrays share one dtype and one device, and must not be changed before backward has been called.
    Raises ValueError or TypeError that names the argument at fault.
    """
    options = _checked(params, decay, feature_map, normalization, attention_normalization)
    check_params(params, x=ops.input_array(x))
    ops.refuse_closed_loop(x, "the fast weight programmer; use step")
    checks.shape("x", x, ("T", "B", params["K"].shape[-1]), "x is (steps, sequences, inputs)")
    if chunk is not None:
        checks.count("chunk", chunk, least=1)
    checks.count("threads", threads, least=1)
    S = initial_state(params, x.shape[1], state, **_of_state(options)).S
    spans = Spans(x, lengths, resets)
    x, written, parts = spans.clear(x), _written(writes, spans, x), spans.parts()
    how = {"chunk": chunk, "threads": threads}
    if without(gradients):
        return _without_gradients(params, x, S, options, spans, written, parts, how)
    y, cache = _run(params, x, S, options, spans, written, parts, how)
    return spans.clear(y), cache  # backward needs no more of y than its shape


def _run(
    params: Params, x: Any, S: Array, options: Options, spans: Spans, written: Any, parts: Any, how: dict[str, Any]
) -> tuple[Array, Cache]:  # fmt: skip
    """Return what `forward` does, from arguments that have been checked."""
    z = project(x, params)
    K, of_keys = features(z.keys, options.feature_map, options.normalization)
    Q, of_queries = features(z.queries, options.feature_map, options.normalization)
    V = with_ones(z.values) if options.attention_normalization else z.values
    log_decay = log(options.decay) if z.log_decay is None else z.log_decay
    o, memory = key_value_memory.forward(
        Q, K, V, S, z.beta, log_decay, delta=z.beta is not None, writes=written, parts=parts, **how
    )
    y = divided(o) if options.attention_normalization else o
    y = y.reshape(*o.shape[:2], -1)
    return y, Cache(params, x, spans, options, of_keys, of_queries, z, memory, o, y)


def _without_gradients(
    params: Params, x: Any, S: Array, options: Options, spans: Spans, written: Any, parts: Any, how: dict[str, Any]
) -> tuple[Array, StatesOnly]:  # fmt: skip
    """Return what `forward` does, from parts of PART steps."""
    ys = []
    for start in range(0, x.shape[0], PART):
        part = slice(start, start + PART)
        of_part = ops.Embedded(x.table, x.tokens[part]) if isinstance(x, ops.Embedded) else x[part]
        numbers = None if parts is None else parts[part] - (parts[start - 1] if start else 0)
        y, cache = _run(params, of_part, S, options, spans, None if written is None else written[part], numbers, how)
        ys.append(y)
        S = final_state(cache).S
    return spans.clear(array_module(S=S).concatenate(ys)), StatesOnly(lambda: State(S.copy()))


def backward(dy: Array, cache: Cache, dstate: State | None = None) -> tuple[Params, Array, State]:
    """Return the gradients of `forward`, (grads, dx, dstate0), from dy, the gradient of the loss with respect to y.

    dy       (T, B, N · d_v), or (B, N · d_v) for the last step of each sequence alone
    dstate   the gradient of the state that final_state returns, if the loss depends on it; None is zero
    grads    has the keys of params; dx (T, B, I); dstate0 is the gradient of the state before the first step

    Raises ValueError for a dy of another shape.
    """
    check_kind(cache, Cache)
    params, options, memory = cache.params, cache.options, cache.memory
    (dS,) = gradient_of_state(dstate, State, cache.y, (*cache.o.shape[1:], cache.of_keys.y.shape[-1]))
    do: Array = cache.spans.whole_gradient(dy, cache.y).reshape(*cache.o.shape[:3], -1)
    if options.attention_normalization:
        do = divided_backward(do, cache.o)
    # o = S q,   S = α S(t-1) + β e kᵀ                                                                     (P5) to (P8)
    grads = key_value_memory.backward(do, memory, dS)
    # k = φ(K x),   q = φ(Q x)                                                                             (P1) to (P3)
    of_input = Projected(
        features_backward(grads.keys, cache.of_keys, options.feature_map, options.normalization),
        grads.values[..., : params["V"].shape[1]],
        features_backward(grads.queries, cache.of_queries, options.feature_map, options.normalization),
        grads.beta, grads.log_decay,
    )  # fmt: skip
    of_params, dx = project_backward(of_input, cache.projected, params, cache.x)
    return of_params, dx, State(grads.state)


def final_state(cache: Cache | StatesOnly) -> State:
    """Return the state after the last step of each sequence. Pass it to the next forward to continue."""
    if isinstance(cache, StatesOnly):
        return cache.final_state()
    check_kind(cache, Cache)
    return State(key_value_memory.final_state(cache.memory))


def initial_state(
    params: Params, batch_size: int, state: State | None = None, *, feature_map: str = "identity",
    attention_normalization: bool = False,
) -> State:  # fmt: skip
    """Return the state before the first step, zero unless a state is given, for these options of `forward`."""
    _checked(params, 1.0, feature_map, None, attention_normalization)
    checks.count("batch_size", batch_size, least=1)
    heads, key_size, _ = params["K"].shape
    rows = params["V"].shape[1] + attention_normalization
    shape = (batch_size, heads, rows, count(feature_map, key_size))
    if state is None:
        return State(array_module(K=params["K"]).zeros(shape, params["K"].dtype))
    checks.instance("state", state, State, "pass a State, such as final_state(cache)")
    check_params(params, **{"state.S": state.S})
    of_axes = "(sequences, heads, size of values, one more with attention_normalization, features of keys)"
    checks.shape("state.S", state.S, shape, f"{of_axes}; pass the options it was made with")
    return State(state.S.copy())


def step(
    params: Params, x: Array, state: State, decay: float = 1.0, *, feature_map: str = "identity",
    normalization: str | None = None, attention_normalization: bool = False,
) -> tuple[Array, State]:  # fmt: skip
    """Return y (B, N · d_v) and the next state, from x (B, I) and a state. Options as in `forward`.

    Equals `forward` on the same inputs up to rounding error. The given state is not changed. Raises ValueError or
    TypeError that names the argument at fault.
    """
    options = _checked(params, decay, feature_map, normalization, attention_normalization)
    check_params(params, x=ops.input_array(x))
    checks.shape("x", x, ("B", params["K"].shape[-1]), "x is (sequences, inputs)")
    checks.instance("state", state, State, "pass one made by initial_state or final_state")
    xp, S = array_module(x=x), initial_state(params, len(x), state, **_of_state(options)).S
    z = project(x[None], params)
    k, q = (features(each[0], feature_map, options.normalization)[0] for each in (z.keys, z.queries))
    v = (with_ones(z.values) if attention_normalization else z.values)[0]
    alpha = xp.full((1, 1), decay, S.dtype) if z.log_decay is None else xp.exp(z.log_decay[0])
    # α S(t-1)                                                                                                      (P8)
    S *= alpha[:, :, None, None]
    S, k, q, v = (each.reshape(-1, *each.shape[2:]) for each in (S, k, q, v))  # the heads of all sequences
    one = xp.ones((1, 1, 1), S.dtype)
    # e = v, or v - α S(t-1) k;   S = α S(t-1) + β e kᵀ;   o = S q                                         (P5) to (P8)
    e = v if z.beta is None else v - read_matrix(S, k)
    S = fold(S, one, e[None], k[None], one[0] if z.beta is None else z.beta.reshape(1, -1))
    o = read_matrix(S, q).reshape(1, len(x), -1, v.shape[-1])
    y = divided(o) if attention_normalization else o
    return y.reshape(len(x), -1), State(S.reshape(state.S.shape))


def _checked(
    params: Params, decay: float, feature_map: str, normalization: str | None, attention_normalization: bool
) -> Options:  # fmt: skip
    """Return the options. Raise ValueError or TypeError for one that does not fit the others or the parameters."""
    check_params(params)
    delta = "beta_bias" in params
    if normalization is None:
        normalization = "l2" if delta else "none"
    check_features(feature_map, normalization)
    checks.boolean("attention_normalization", attention_normalization)
    if attention_normalization and (delta or feature_map == "identity"):
        got = "the delta rule" if delta else "identity"
        raise ValueError(
            f"attention_normalization: expected a rule that adds, and the feature map elu or dpfp, got {got}; omit it"
        )
    checks.number("decay", decay)
    if not 0 < decay <= 1:
        raise ValueError(f"decay: expected a number above 0, and at most 1, got {decay}")
    if "gate_bias" in params and decay != 1:
        raise ValueError(f"decay: expected 1, because these params learn their decay, got {decay}; leave it out")
    return Options(float(decay), feature_map, normalization, bool(attention_normalization))


def _of_state(options: Options) -> dict[str, Any]:
    """Return the options that the shape of the state depends on."""
    return {"feature_map": options.feature_map, "attention_normalization": options.attention_normalization}


def _written(writes: Any, spans: Spans, x: Any) -> numpy.ndarray | None:
    """Return which steps write, (T, B), on the host: those of `writes`, before each sequence's end. None is all."""
    if writes is not None:
        checks.on_host("writes", writes, "booleans")
        if writes.dtype != bool:
            raise TypeError(f"writes: expected booleans, got {writes.dtype}; convert it with .astype(bool)")
        checks.shape("writes", writes, x.shape[:2], "one for each step and sequence of x")
    if not spans.ended:
        return writes
    # the padding writes nothing, and S does not decay there                                                        (S2)
    return spans.active() if writes is None else writes & spans.active()
