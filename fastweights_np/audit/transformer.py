"""The links of the transformer, and of the MLP that is written in place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy

from .. import in_place_ttt as layer
from .. import transformer as fast
from ..backend import to_host
from ..plain import in_place_ttt as plain_layer
from ..plain import transformer as plain
from ..trees import flatten, map_leaves, unflatten
from . import layers
from .documents import DOCUMENTS
from .layers import differentiate
from .links import Arrays, Link, Move

NAME, LAYER = "transformer", "in_place_ttt"
EXACT = 0.0
DIRECTIONS = 4  # in which each case is differentiated
SPREAD = 0.3  # of the noise that is added to the parameters, many of which start at 0 or 1


@dataclass(frozen=True)
class Case:
    """A transformer, and random data that the seed fixes."""

    seed: int
    written: tuple[int, ...] = (1, 2)
    window: int | None = 3
    gated: bool = True
    tied: bool = False
    source: str = "embeddings"
    kernel: bool = True
    target: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 11
    batch_size: int = 2
    heads: int = 2
    only_some: bool = False  # whether the loss depends on some outputs alone
    threads: int = 1

    def __str__(self) -> str:
        given = ((field, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{field.name}={value}" for field, value in given if value != field.default)

    def model(self) -> fast.Transformer:
        """Return the fast model."""
        return fast.Transformer(
            5, 8, 2, self.heads, 6, self.window, self.gated, self.tied, self.written, self.source,  # type: ignore[arg-type]
            {"kernel": self.kernel, "target": self.target}, self.options, self.threads,
        )  # fmt: skip

    def of_blocks(self) -> dict[str, Any]:
        """Return the options of the plain blocks that are written."""
        return {f"block{n}": self.options for n in self.written}

    def arrays(self) -> tuple[Arrays, Any, Any]:
        """Return the parameters by their paths, tokens (T, B), and the cotangents of the logits (T, B, V)."""
        rng = numpy.random.default_rng(self.seed)
        params = flatten(self.model().init(rng, "float64"))
        params = {name: value + SPREAD * rng.standard_normal(value.shape) for name, value in params.items()}
        tokens = rng.integers(0, 5, (self.steps, self.batch_size))
        dlogits = rng.standard_normal((*tokens.shape, 5))
        if self.only_some:
            dlogits *= (rng.random(tokens.shape) < 0.4)[..., None]
        return params, tokens, dlogits

    def plain(self, params: Arrays, tokens: Any, np: Any = numpy) -> Any:
        """Return the logits, and what the plain backward needs."""
        from_embeddings = self.source == "embeddings"
        return plain.forward(
            unflatten(params), tokens, self.heads, self.window, self.of_blocks(), from_embeddings, np
        )  # fmt: skip

    def gradients(self, params: Arrays, tokens: Any, dlogits: Any, move: Move, **how: Any) -> Arrays:
        """Return the logits and all gradients of the fast model."""
        model = self.model()
        tree, steps = move(unflatten(params)), None
        if self.only_some:
            steps, columns = dlogits.any(axis=-1).nonzero()
            logits, cache = model.forward(tree, (move(tokens), move(steps), move(columns)), **how)
            grads = model.backward(move(dlogits[steps, columns]), cache)
            return to_host(flatten(grads))
        logits, cache = model.forward(tree, move(tokens), **how)
        grads = model.backward(move(dlogits), cache)
        return to_host({"logits": logits} | flatten(grads))


next_token = {"chunk": 3, "taps": (1,)}
QUICK = (
    Case(1, options={"chunk": 4, "rate": 0.5}, steps=19),  # two blocks of attention
    Case(2, (2,), None, tied=True, options={"chunk": 4, "across": True, "decay": 0.7}),
    Case(3, (1,), source="input", gated=False, kernel=False, options=next_token, only_some=True, threads=2),
)
FULL = (
    *QUICK,
    Case(4, ()),
    Case(5, (), None, gated=False, tied=True),
    Case(6, (2,), target=False, options={"chunk": 3, "taps": (-1, 1), "across": True}),
    Case(7, (2,), 17, kernel=False, target=False, options=next_token | {"across": True}, steps=20, batch_size=1),
    Case(8, (1, 2), 2, source="input", target=False, options={"chunk": 1, "decay": 0.5, "rate": 0.1}),
    Case(9, (1, 2), 4, kernel=False, options={"chunk": 5, "taps": (0,), "rate": 0.0}, heads=4),
    Case(10, (2,), options={"chunk": 16}),
    Case(11, (2,), 2, options={"chunk": 2, "taps": (3, -3)}, steps=2),
    Case(12, (1,), 5, source="input", options={"chunk": 4, "across": True}, steps=40, batch_size=1),
)


def transformer_links(quick: bool, few: bool, move: Move, only: Collection[str] = ()) -> list[Link]:
    """Return the links; `only` these titles, if there are any. The gradient checks are always run."""
    forms = Link(1, "sequential = cumulative sums = masked form", LAYER, 1e-12)
    fast_layer = Link(2, "forward = plain forward", LAYER, 1e-12)
    plain_of_layer = Link(3, "plain backward = autograd", LAYER, 1e-12)
    of_layer = Link(3, "backward = autograd", LAYER, 1e-12)
    forward = Link(2, "forward = plain forward", NAME, 1e-12)
    by_plain = Link(3, "plain backward = autograd", NAME, 1e-12)
    by_autograd = Link(3, "backward = autograd", NAME, 1e-12)
    by_differences = Link(4, "backward = finite differences", NAME, 1e-7)
    stepped = Link(5, "step by step = forward", NAME, 1e-12)
    of_documents = Link(5, DOCUMENTS, NAME, 1e-12)
    nothing = Link(5, "no write = the MLP alone, exactly", NAME, EXACT)
    causal = Link(5, "no output depends on a later token, exactly", NAME, EXACT)
    in_float32 = Link(7, "float32 = float64", NAME, 1e-4)

    def wanted(link: Link) -> bool:
        return not only or link.title in only

    for case in QUICK if quick or few else FULL:
        name, (params, tokens, dlogits) = str(case), case.arrays()
        logits, saved = case.plain(params, tokens)
        references = _autograd_gradients(case, params, tokens, dlogits)
        by_plain.compare(name, _plain_gradients(case, params, saved, dlogits), references)
        got = case.gradients(params, tokens, dlogits, move)
        by_autograd.compare(name, got, references)
        if case.written:
            _compare_layer(case, params, tokens, move, fast_layer, plain_of_layer, of_layer)
        if wanted(forward):
            got = {"logits": case.model().forward(move(unflatten(params)), move(tokens))[0]}
            forward.compare(name, got, {"logits": logits})
        if wanted(forms) and case.written:
            _compare_forms(forms, case, params, tokens)
        if wanted(stepped):
            stepped.compare(name, {"logits": _stepped(case, params, tokens, move)}, {"logits": logits})
        if wanted(of_documents):
            _compare_documents(of_documents, case, params, tokens, dlogits, move)
        if wanted(nothing) and case.written:
            _compare_without_writes(nothing, case, params, tokens, move)
        if wanted(causal):
            later = tokens.copy()
            later[case.steps // 2 :] = (later[case.steps // 2 :] + 1) % 5
            both = [case.model().forward(move(unflatten(params)), move(each))[0] for each in (tokens, later)]
            before, after = ({"logits": to_host(each)[: case.steps // 2]} for each in both)
            causal.compare(name, after, before)
        if not quick:
            _compare_differences(by_differences, case, params, tokens, dlogits, references)
            small = map_leaves(lambda leaf: leaf.astype("float32"), params)
            in_float32.compare(name, case.gradients(small, tokens, dlogits.astype("float32"), move), references)
    links = [
        forms, fast_layer, plain_of_layer, of_layer, forward, by_plain, by_autograd, by_differences, stepped,
        of_documents, nothing, causal, in_float32,
    ]  # fmt: skip
    return [link for link in links if link.cases]


def _plain_gradients(case: Case, params: Arrays, saved: Any, dlogits: Any) -> Arrays:
    from_embeddings = case.source == "embeddings"
    return flatten(plain.backward(dlogits, saved, unflatten(params), case.of_blocks(), from_embeddings))


def _autograd(key: tuple[Any, ...], loss: Any, arrays: Arrays) -> Arrays:
    import autograd

    key = (*key, *(numpy.asarray(value).tobytes() for value in arrays.values()))
    if key not in layers.REFERENCES:
        layers.REFERENCES[key] = autograd.grad(loss)(arrays)
    return layers.REFERENCES[key]


def _autograd_gradients(case: Case, params: Arrays, tokens: Any, dlogits: Any) -> Arrays:
    import autograd.numpy

    def loss(weights: Arrays) -> Any:
        return autograd.numpy.sum(case.plain(weights, tokens, autograd.numpy)[0] * dlogits)

    return _autograd((NAME, repr(case)), loss, params)


def _compare_differences(link: Link, case: Case, params: Arrays, tokens: Any, dlogits: Any, references: Arrays) -> None:
    """Compare the derivatives in random directions of all parameters together."""
    rng = numpy.random.default_rng(case.seed)
    for n in range(DIRECTIONS):
        direction = {name: rng.standard_normal(value.shape) for name, value in params.items()}

        def loss(at: Arrays, direction: Arrays = direction) -> float:
            moved = {name: value + at["distance"][0] * direction[name] for name, value in params.items()}
            return float((case.model().forward(unflatten(moved), tokens)[0] * dlogits).sum())

        found = differentiate(loss, {"distance": numpy.zeros(1)}, "distance")
        expected = numpy.array([sum((references[name] * direction[name]).sum() for name in params)])
        link.compare(f"{case} direction {n}", {"all parameters": found}, {"all parameters": expected})


def _of_layer(case: Case, params: Arrays, tokens: Any) -> tuple[Arrays, Arrays, Any]:
    """Return the parameters of the first MLP that is written, its random inputs, and the cotangents of y."""
    rng, mlp = numpy.random.default_rng(case.seed), f"block{case.written[0]}/mlp/"
    own = {name.removeprefix(mlp): value for name, value in params.items() if name.startswith(mlp)}
    x, source, dy = rng.standard_normal((3, *tokens.shape, 8))
    return own, {"x": x, "source": source, "rate": numpy.array(case.options.get("rate", 1.0))}, dy


def _compare_layer(
    case: Case, params: Arrays, tokens: Any, move: Move, forward: Link, by_plain: Link, by_hand: Link
) -> None:  # fmt: skip
    """Compare y and all gradients of the layer alone, among them dη."""
    import autograd.numpy

    name, (own, given, dy) = str(case), _of_layer(case, params, tokens)
    options = {name: value for name, value in case.options.items() if name != "rate"}

    def loss(everything: Arrays) -> Any:
        weights = {name: everything[name] for name in own}
        inputs = [everything[name] for name in ("x", "source")]
        y, _ = plain_layer.forward(weights, *inputs, rate=everything["rate"], **options, np=autograd.numpy)
        return autograd.numpy.sum(y * dy)

    references = _autograd((LAYER, repr(case)), loss, own | given)
    rate = float(given["rate"])
    y, saved = plain_layer.forward(own, given["x"], given["source"], rate=rate, **options)
    grads, dx, dsource = plain_layer.backward(dy, saved, own, rate=rate, **options)
    by_plain.compare(name, grads | {"x": dx, "source": dsource}, references)
    got, cache = layer.forward(move(own), move(given["x"]), move(given["source"]), rate=rate, **options)
    forward.compare(name, {"y": got}, {"y": y})
    grads, dx, dsource = layer.backward(move(dy), cache, ("rate",))
    by_hand.compare(name, to_host(grads | {"x": dx, "source": dsource}), references)


def _compare_forms(link: Link, case: Case, params: Arrays, tokens: Any) -> None:
    own, given, _ = _of_layer(case, params, tokens)
    y, (*_, z, _, _, u, _) = plain_layer.forward(own, given["x"], given["source"], **case.options)
    chunk, decay = case.options.get("chunk", 16), case.options.get("decay", 1.0)
    for b in range(case.batch_size):
        operands = (z[:, b], u[:, b], own["down"], chunk, decay)
        both = {"sums": plain_layer.accumulate(*operands), "masked": plain_layer.attend(*operands)}
        link.compare(f"{case} sequence {b}", both, dict.fromkeys(both, y[:, b]))


def _stepped(case: Case, params: Arrays, tokens: Any, move: Move) -> Any:
    """Return the logits of all steps: the first half by `forward`, the others one by one."""
    model, tree, half = case.model(), move(unflatten(params)), case.steps // 2
    logits, state = [], model.initial_state(tree, case.batch_size)
    if half:
        of_half, cache = model.forward(tree, move(tokens[:half]))
        logits, state = list(to_host(of_half)), model.final_state(cache)
    for each in tokens[half:]:
        of_step, state = model.step(tree, move(each), state)
        logits.append(to_host(of_step))
    return numpy.stack(logits)


def _compare_documents(link: Link, case: Case, params: Arrays, tokens: Any, dlogits: Any, move: Move) -> None:
    """Compare logits and gradients of two documents, the second one from a chunk's edge on, with each alone."""
    chunk = case.options.get("chunk", 16)
    edge = min(chunk * max(1, case.steps // 2 // chunk), case.steps)
    resets = numpy.zeros(tokens.shape, bool)
    resets[edge:][:1] = True
    got = case.gradients(params, tokens, dlogits, move, resets=resets)
    documents = [slice(edge), slice(edge, None)] if edge < case.steps else [slice(edge)]
    alone = [case.gradients(params, tokens[part], dlogits[part], lambda tree: tree) for part in documents]
    expected = {name: sum(each[name] for each in alone) for name in params}
    if not case.only_some:
        expected["logits"] = numpy.concatenate([each["logits"] for each in alone])
    link.compare(str(case), got, expected)
    # two documents of different tokens, the second one from anywhere: it does not depend on the first one
    edge, t = case.steps // 2, numpy.arange(case.steps)[:, None]
    resets = numpy.broadcast_to(t == edge, tokens.shape)
    first, other = (numpy.where(t < edge, (tokens + n) % 2, 2 + tokens % 3) for n in (0, 1))
    later = dlogits * (t >= edge)[..., None]
    one, two = (case.gradients(params, each, later, move, resets=resets) for each in (first, other))
    if not case.only_some:
        link.compare(f"{case} apart", {"logits": two["logits"][edge:]}, {"logits": one["logits"][edge:]})
    if not case.tied:
        link.compare(f"{case} apart", {"rows": one["embedding/table"][:2]}, {"rows": numpy.zeros((2, 8))})


def _compare_without_writes(link: Link, case: Case, params: Arrays, tokens: Any, move: Move) -> None:
    """Compare η = 0, and a kernel of zeros, with the same transformer without targets."""
    model, tree = case.model(), move(unflatten(params))
    plain_tree = {
        name: value for name, value in params.items() if not name.endswith(("mlp/kernel", "mlp/target"))
    }  # fmt: skip
    alone, _ = replace(model, written=()).forward(move(unflatten(plain_tree)), move(tokens))
    got = {"rate 0": replace(model, options=case.options | {"rate": 0.0}).forward(tree, move(tokens))[0]}
    if case.kernel:
        zero = {name: 0 * value if name.endswith("kernel") else value for name, value in params.items()}
        got["kernel 0"] = model.forward(move(unflatten(zero)), move(tokens))[0]
    link.compare(str(case), got, {name: to_host(alone) for name in got})
