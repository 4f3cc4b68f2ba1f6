"""The links of the fast weight programmer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy

from .. import fast_weight_programmer as layer
from ..backend import to_host
from ..features import count
from ..plain import fast_weight_programmer as plain
from ..plain import ops as plain_ops
from ..trees import map_leaves
from .documents import DOCUMENTS, documents
from .layers import differentiate, reference
from .links import ALONE, Arrays, Link, Move

NAME = "fast_weight_programmer"
SIZES = ("steps", "batch_size", "input_size", "key_size", "value_size", "heads", "seed", "rule", "only_reads")


@dataclass(frozen=True)
class Case:
    """A rule, sizes and options, with random data that the seed fixes."""

    rule: str
    seed: int
    decay: float = 1.0
    feature_map: str = "identity"
    normalization: str = "none"
    attention_normalization: bool = False
    only_reads: bool = False  # whether some steps do not write
    steps: int = 7
    batch_size: int = 2
    input_size: int = 3
    key_size: int = 4
    value_size: int = 3
    heads: int = 2

    def __str__(self) -> str:
        given = ((field, getattr(self, field.name)) for field in fields(self)[1:])
        return " ".join([self.rule, *(f"{field.name}={value}" for field, value in given if value != field.default)])

    def options(self) -> dict[str, Any]:
        """Return the options of forward."""
        return {name: value for name, value in asdict(self).items() if name not in SIZES}

    def of_backward(self) -> dict[str, Any]:
        """Return the options of the plain backward."""
        return {name: value for name, value in self.options().items() if name != "decay"}

    def arrays(self) -> tuple[Arrays, Arrays, Arrays]:
        """Return (params, {x, S0}, the cotangents {dy, dS})."""
        rng = numpy.random.default_rng(self.seed)
        sizes = (self.input_size, self.key_size, self.value_size, self.heads)
        params = layer.init(rng, *sizes, rule=self.rule, dtype="float64")
        params = {name: value + 0.4 * rng.standard_normal(value.shape) for name, value in params.items()}
        if "gate_bias" in params:
            params["gate_bias"] = rng.standard_normal(self.heads)  # decays far from 1
        sequence = (self.steps, self.batch_size)
        state = (self.batch_size, self.heads, self.value_size + self.attention_normalization)
        S0 = rng.standard_normal((*state, count(self.feature_map, self.key_size)))
        given = {"x": rng.standard_normal((*sequence, self.input_size)), "S0": S0}
        if self.attention_normalization:
            S0[:, :, -1] = 1 + abs(S0[:, :, -1])  # a sum of positive keys
        dy = rng.standard_normal((*sequence, self.heads, self.value_size))
        return params, given, {"dy": dy, "dS": rng.standard_normal(S0.shape)}

    def writes(self) -> Any:
        """Return which steps write, (T, B); None is all."""
        return (
            numpy.random.default_rng(self.seed).random((self.steps, self.batch_size)) < 0.7 if self.only_reads else None
        )

    def plain(self, params: Arrays, given: Arrays, np: Any = numpy) -> Any:
        """Return y (T, B, N, d_v), S(T), and what the plain backward needs."""
        return plain.forward(params, given["x"], given["S0"], **self.options(), writes=self.writes(), np=np)

    def forward(self, params: Arrays, given: Arrays, move: Move, **how: Any) -> tuple[Any, Any]:
        """Return y (T, B, N d_v) and the cache of the fast forward."""
        how = {"state": layer.State(move(given["S0"])), "writes": self.writes()} | how
        return layer.forward(move(params), move(given["x"]), **self.options(), **how)


linear_attention = partial(Case, feature_map="elu", attention_normalization=True)
QUICK = (
    linear_attention("sum", 1),
    Case("sum", 2, decay=0.7, only_reads=True),
    Case("gated", 3, feature_map="dpfp-2", normalization="l2"),
    Case("delta", 4, normalization="l2"),
    Case("gated_delta", 5, feature_map="elu", normalization="sum", only_reads=True),
    Case("gated_delta", 6, normalization="l2", steps=5, heads=1),
)
FULL = (
    *QUICK,
    Case("sum", 10),
    Case("sum", 21, feature_map="dpfp-3", attention_normalization=True, only_reads=True),
    linear_attention("decay", 12),
    Case("decay", 13, normalization="l2", only_reads=True),
    linear_attention("gated", 14),
    Case("gated", 15, steps=1, batch_size=1, key_size=1, value_size=1, heads=1, input_size=1),
    Case("delta", 16, feature_map="dpfp-1", normalization="sum"),
    Case("delta", 17, decay=0.6, normalization="l2", only_reads=True, steps=11),
    Case("delta", 18, feature_map="elu", normalization="l2", batch_size=1, steps=9),
    Case("gated_delta", 19, feature_map="dpfp-2", normalization="sum", steps=9, heads=3),
    Case("sum", 20, decay=0.01),
)


def programmer_links(
    cases: Sequence[Case], quick: bool, few: bool, move: Move, only: Collection[str] = ()
) -> list[Link]:  # fmt: skip
    """Return the links; `only` these titles, if there are any. The gradient checks are always run."""
    forms = Link(1, "matrix form = attention form", NAME, 1e-12)
    fast = Link(2, "forward = plain forward", NAME, 1e-12)
    by_plain = Link(3, "plain backward = autograd", NAME, 1e-12)
    by_autograd = Link(3, "backward = autograd", NAME, 1e-12)
    by_differences = Link(4, "backward = finite differences", NAME, 1e-7)
    stepped = Link(5, "step by step = forward", NAME, 1e-12)
    only_forward = Link(5, ALONE, NAME, 1e-12)
    parts = Link(5, "two parts = the whole", NAME, 1e-12)
    of_documents = Link(5, DOCUMENTS, NAME, 1e-12)
    in_float32 = Link(7, "float32 = float64", NAME, 1e-4)

    def wanted(link: Link) -> bool:
        return not only or link.title in only

    for case in cases:
        name, (params, given, cotangents) = str(case), case.arrays()
        y, S, saved = case.plain(params, given)
        expected = {"y": y.reshape(*y.shape[:2], -1), "S(T)": S}
        references = _autograd_gradients(case, params, given, cotangents)
        by_plain.compare(name, _plain_gradients(case, params, saved, cotangents), references)
        if wanted(forms):
            forms.compare(name, *_outputs_by_matrix_and_attention(case, given["S0"], saved))
        for chunk in (*range(1, case.steps + 1), None):
            y, cache = case.forward(params, given, move, chunk=chunk)
            fast.compare(f"{name} chunk={chunk}", {"y": y, "S(T)": layer.final_state(cache).S}, expected)
            by_autograd.compare(f"{name} chunk={chunk}", hand_gradients(cache, cotangents, move), references)
        last = cotangents | {"dy": cotangents["dy"] * (numpy.arange(case.steps) == case.steps - 1)[:, None, None, None]}
        got = hand_gradients(cache, cotangents | {"dy": cotangents["dy"][-1]}, move)
        by_autograd.compare(f"{name} dy of the last step", got, _autograd_gradients(case, params, given, last))
        if wanted(stepped) and not case.only_reads:
            stepped.compare(name, _stepped(case, params, given, move), expected)
        if wanted(only_forward):
            y, states_only = case.forward(params, given, move, gradients=False, chunk=2)
            only_forward.compare(name, {"y": y, "S(T)": layer.final_state(states_only).S}, expected)
        if wanted(parts) and case.steps > 1:
            parts.compare(name, _in_two_parts(case, params, given, cotangents, move), references)
        if wanted(of_documents):
            _compare_documents(of_documents, case, params, given, cotangents, move)
        if not quick:
            if not few or case in QUICK:
                by_differences.compare(name, references, _differences(case, params, given, cotangents))
            params, given, cotangents = map_leaves(lambda leaf: leaf.astype("float32"), (params, given, cotangents))
            y, cache = case.forward(params, given, move)
            got = {"y": y} | hand_gradients(cache, cotangents, move)
            in_float32.compare(name, got, {"y": expected["y"]} | references)
    links = [
        forms, fast, by_plain, by_autograd, by_differences, stepped, only_forward, parts, of_documents, in_float32
    ]  # fmt: skip
    return [link for link in links if link.cases]


def hand_gradients(cache: Any, cotangents: Arrays, move: Move) -> Arrays:
    """Return all gradients by the fast backward, by name, from the cotangents of y and S."""
    dy, dS = cotangents["dy"], cotangents["dS"]
    grads, dx, dstate0 = layer.backward(move(dy.reshape(*dy.shape[:-2], -1)), cache, layer.State(move(dS)))
    return to_host(grads | {"x": dx, "S0": dstate0.S})


def _plain_gradients(case: Case, params: Arrays, saved: Any, cotangents: Arrays) -> Arrays:
    grads, dx, dS0 = plain.backward(cotangents["dy"], saved, params, **case.of_backward(), dS=cotangents["dS"])
    return grads | {"x": dx, "S0": dS0}


def _autograd_gradients(case: Case, params: Arrays, given: Arrays, cotangents: Arrays) -> Arrays:
    import autograd
    import autograd.numpy

    def loss(everything: Arrays) -> Any:
        weights = {name: everything[name] for name in params}
        y, S, _ = case.plain(weights, {name: everything[name] for name in given}, autograd.numpy)
        return autograd.numpy.sum(y * cotangents["dy"]) + autograd.numpy.sum(S * cotangents["dS"])

    everything = params | given
    return reference(repr(case), everything | cotangents, lambda: autograd.grad(loss)(everything))


def _differences(case: Case, params: Arrays, given: Arrays, cotangents: Arrays) -> Arrays:
    def loss(everything: Arrays) -> float:
        weights = {name: everything[name] for name in params}
        y, cache = case.forward(weights, {name: everything[name] for name in given}, lambda tree: tree)
        of_y = (y.reshape(cotangents["dy"].shape) * cotangents["dy"]).sum()
        return float(of_y + (layer.final_state(cache).S * cotangents["dS"]).sum())

    everything = params | given
    return {name: differentiate(loss, everything, name) for name in everything}


def _outputs_by_matrix_and_attention(case: Case, S0: Any, saved: Any) -> tuple[Arrays, Arrays]:
    """Return S q of all steps, for each head of each sequence, by the plain forward and by its masked attention."""
    delta, by_matrix, by_attention = "delta" in case.rule, {}, {}
    for b, n in numpy.ndindex(case.batch_size, case.heads):
        operands = []
        for _, _, (k, _), (q, _), _, alpha, beta, _, decayed, e, _, o, _ in saved:
            v = e + plain_ops.times(decayed, k) if delta else e
            operands.append([each[b, n] for each in (k, v, q, alpha, beta, o)])
        k, v, q, alphas, betas, by_matrix[f"head {b, n}"] = map(numpy.stack, zip(*operands, strict=True))
        by_attention[f"head {b, n}"] = plain.attend(k, v, q, alphas, betas, S0[b, n], delta)
    return by_matrix, by_attention


def _stepped(case: Case, params: Arrays, given: Arrays, move: Move) -> Arrays:
    of_state = {name: case.options()[name] for name in ("feature_map", "attention_normalization")}
    params, state = move(params), layer.State(move(given["S0"]))
    state, ys = layer.initial_state(params, case.batch_size, state, **of_state), []
    for x in move(given["x"]):
        y, state = layer.step(params, x, state, **case.options())
        ys.append(to_host(y))
    return {"y": numpy.stack(ys), "S(T)": state.S}


def _in_two_parts(case: Case, params: Arrays, given: Arrays, cotangents: Arrays, move: Move) -> Arrays:
    """Return all gradients of the sequence in two parts, the state's gradient handed back."""
    cut, writes = (case.steps + 1) // 2, case.writes()
    pieces, state, caches = (slice(cut), slice(cut, None)), layer.State(move(given["S0"])), []
    for piece in pieces:
        how = {"state": state, "writes": None if writes is None else writes[piece]}
        _, cache = case.forward(params, given | {"x": given["x"][piece]}, move, **how)
        state = layer.final_state(cache)
        caches.append(cache)
    later = hand_gradients(caches[1], cotangents | {"dy": cotangents["dy"][pieces[1]]}, move)
    handed = {"dy": cotangents["dy"][pieces[0]], "dS": later["S0"]}
    earlier = hand_gradients(caches[0], handed, move)
    got = {name: earlier[name] + later[name] for name in params}
    return got | {"x": numpy.concatenate([earlier["x"], later["x"]]), "S0": earlier["S0"]}


def _compare_documents(
    link: Link, case: Case, params: Arrays, given: Arrays, cotangents: Arrays, move: Move
) -> None:  # fmt: skip
    """Compare y, the final S and all gradients. The padding of x and dy is NaN."""
    rng, steps, writes = numpy.random.default_rng(case.seed), case.steps, case.writes()
    lengths, resets = rng.integers(1, steps + 1, case.batch_size), rng.random((steps, case.batch_size)) < 0.3
    padding = numpy.arange(steps)[:, None] >= lengths
    expected = {"y": numpy.zeros((*padding.shape, case.heads * case.value_size)), "S(T)": 0 * given["S0"]}
    expected |= {name: 0 * value for name, value in (params | given).items()}
    for row, part, first, last in documents(lengths, resets):
        one = slice(row, row + 1)
        of_part = {"x": given["x"][part, one], "S0": given["S0"][one] * first}
        y, cache = case.forward(
            params, of_part, lambda tree: tree, writes=None if writes is None else writes[part, one]
        )
        of_loss = {"dy": cotangents["dy"][part, one], "dS": cotangents["dS"][one] * last}
        gradients = hand_gradients(cache, of_loss, lambda tree: tree)
        expected["y"][part, one], expected["x"][part, one] = y, gradients["x"]
        expected["S0"][one] += first * gradients["S0"]
        expected["S(T)"][one] += last * layer.final_state(cache).S
        for name in params:
            expected[name] = expected[name] + gradients[name]
    x, dy = given["x"].copy(), cotangents["dy"].copy()
    x[padding], dy[padding] = numpy.nan, numpy.nan
    for chunk in (None, 1, 3):
        for how in ({}, {"gradients": False}):
            y, cache = case.forward(
                params, given | {"x": x}, move, lengths=lengths, resets=resets, chunk=chunk, **how
            )  # fmt: skip
            got = {"y": y, "S(T)": layer.final_state(cache).S}
            whole = got if how else got | hand_gradients(cache, cotangents | {"dy": dy}, move)
            link.compare(f"{case} chunk={chunk}", whole, {name: expected[name] for name in whole})
