"""python -m fastweights_np.audit: proves the math on this machine, link by link, in float64.

    1  plain forward, matrix, equation (1)    =  attention, equation (4); a batch = its sequences one by one
    2  fast forward                           =  plain forward, for every option and chunk size; ops = SciPy
    3  plain and fast backward                =  autograd through the plain forward             to 1e-12
    4  hand-derived backward                  =  finite differences (SciPy) of the fast forward to 1e-7
    5  one step at a time                     =  whole sequences
    6  GPU                                    =  host, where there is a GPU

Every parameter, input, initial state and learnable scalar is compared, under random cotangents. An error is relative to
the largest entry of the two arrays compared (to 1e-3 where both are smaller, since a gradient can be zero). Needs
autograd and SciPy; exits with 1 if any link fails, with 2 if it cannot run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

import numpy

from . import actor_critic, associative_lstm, convnet, fast_weights, multilevel, network, ops
from .backend import to_device, to_host
from .convnet import Convolution
from .plain import convnet as plain_convnet
from .plain import losses
from .plain import ops as plain_ops
from .plain.fast_weights import attend
from .trees import flatten, map_leaves, unflatten

Arrays = dict[str, Any]
SMALL = 1e-3
PLAIN = {name: import_module(f"{__package__}.plain.{name}") for name in network.LAYERS}


@dataclass
class Link:
    """One row of the table: the worst of all comparisons made under one link for one subject."""

    number: int
    title: str
    subject: str
    tolerance: float
    cases: int = 0
    worst: float = 0.0
    where: str = ""

    @property
    def passed(self) -> bool:
        return self.cases > 0 and self.worst <= self.tolerance

    def compare(self, case: str, got: Arrays, expected: Arrays) -> None:
        """Takes one case into the row: each expected array against the one got under the same name."""
        self.cases += 1
        for name, wanted in expected.items():
            error, index = relative_error(numpy.asarray(to_host(got[name])), numpy.asarray(wanted))
            if not error <= self.worst:  # also true for NaN
                self.worst, self.where = error, f"{name}{list(index)} [{case}]"


def relative_error(got: numpy.ndarray, expected: numpy.ndarray) -> tuple[float, tuple[int, ...]]:
    """max |got - expected| over the largest magnitude in either array (at least SMALL), and the maximum's index."""
    if got.shape != expected.shape:
        return float("inf"), ()
    if got.size == 0:
        return 0.0, ()
    difference = numpy.abs(got - expected)
    difference = numpy.where(numpy.isfinite(difference), difference, numpy.inf)
    flat = int(difference.argmax())
    scale = max(float(numpy.abs(got).max()), float(numpy.abs(expected).max()), SMALL)
    error = float(difference.reshape(-1)[flat]) / scale if numpy.isfinite(scale) else float("inf")
    return error, tuple(int(i) for i in numpy.unravel_index(flat, difference.shape))


@dataclass(frozen=True)
class Case:
    """Sizes and options of one recurrent layer, with random data that the seed fixes."""

    layer: str = "fast_weights"
    steps: int = 5
    batch_size: int = 2
    input_size: int = 3
    hidden_size: int = 4
    seed: int = 0
    initial: bool = True  # whether the initial state is random (A0 not symmetric) or zero
    init: dict[str, Any] = field(default_factory=dict)  # options of the layer's init
    options: dict[str, Any] = field(default_factory=dict)  # options of its forward

    def __str__(self) -> str:
        sizes = f"T{self.steps} B{self.batch_size} I{self.input_size} H{self.hidden_size}"
        return " ".join([sizes, *(f"{name}={value}" for name, value in (self.init | self.options).items())])

    @property
    def module(self) -> Any:
        """The layer's module."""
        return network.LAYERS[self.layer]

    @property
    def has_memory(self) -> bool:
        """Whether the layer has fast weights."""
        return self.layer in ("fast_weights", "multilevel")

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The initial states that the layer takes, by name."""
        batch_size, hidden_size = self.batch_size, self.hidden_size
        beside_h0: dict[str, dict[str, tuple[int, ...]]] = {
            "fast_weights": {"A0": (batch_size, hidden_size, hidden_size)},
            "multilevel": {"A0": (batch_size, hidden_size, hidden_size)},
            "irnn": {},
            "lstm": {"c0": (batch_size, hidden_size)},
            "associative_lstm": {"c0": (batch_size, self.options.get("copies", 4), hidden_size)},
        }
        return {"h0": (batch_size, hidden_size), **beside_h0[self.layer]}

    def arrays(self) -> tuple[Arrays, Arrays, numpy.ndarray]:
        """(params, {x, h0 and what else is a state}, the cotangent dh)."""
        rng = numpy.random.default_rng(self.seed)
        params = self.module.init(rng, self.input_size, self.hidden_size, dtype="float64", **self.init)
        params = {name: value + 0.4 * rng.standard_normal(value.shape) for name, value in params.items()}
        sequence = (self.steps, self.batch_size)
        given = {"x": rng.standard_normal((*sequence, self.input_size))}
        for name, shape in self.state_shapes().items():
            given[name] = self.initial * (0.3 if name == "A0" else 1.0) * rng.standard_normal(shape)
        return params, given, rng.standard_normal((*sequence, self.hidden_size))

    def ways(self) -> list[dict[str, Any]]:
        """All ways to compute the same.

        With fast weights, every way to keep them: matrix, blends that divide T and that do not, attention, default.
        """
        if not self.has_memory:
            return [{}]
        return [{"chunk": chunk} for chunk in [*sorted({1, 2, 3, self.steps}), None]]

    def scalars(self) -> dict[str, Any]:
        """The options that are numbers and have gradients."""
        if not self.has_memory:
            return {}
        return {name: self.options.get(name, getattr(fast_weights.Options, name)) for name in ("decay", "rate")}

    def extra(self) -> tuple[str, ...]:
        """The gradients to ask for besides those of params, x and h0."""
        return (*self.scalars(), *(name for name in self.state_shapes() if name != "h0"))

    def fixed(self) -> dict[str, Any]:
        """Return the options that have no gradient, as the plain layer takes them."""
        options = {name: value for name, value in self.options.items() if name not in ("decay", "rate", "copies")}
        if self.layer == "associative_lstm":
            copies = self.options.get("copies", 4)
            options["permutations"] = associative_lstm.permutations(copies, self.hidden_size // 2)
        return options

    def plain(self, params: Arrays, given: Arrays, np: Any = numpy) -> Any:
        """Return what the plain forward does: h (T, B, H) first, what backward needs last; given may hold λ and η."""
        return PLAIN[self.layer].forward(params, **self.scalars() | given, **self.fixed(), np=np)

    def plain_gradients(self, params: Arrays, saved: Any, dh: numpy.ndarray) -> Arrays:
        """Return all gradients by the plain backward."""
        backward = PLAIN[self.layer].backward
        options = {
            name: value for name, value in (self.scalars() | self.fixed()).items()
            if name in signature(backward).parameters
        }  # fmt: skip
        grads, dx, dh0 = backward(dh, saved, params, **options)
        return grads | {"x": dx, "h0": dh0}


ENDS = (("decay", 0.0), ("decay", 1.0), ("rate", 0.0))  # beyond which an option cannot be moved by a difference


def controls(*steps: str) -> multilevel.Controls:
    """The control signals of each step by their first letters: store, wipe, read, integrate."""
    return multilevel.Controls(*([letter in step for step in steps] for letter in "swri"))


ALL_SIGNALS = controls("s", "sw", "r", "", "sri", "rw", "i", "sr", "r")
QUADRANTS = controls(*(["sw", "", "", "", "", "ri"] * 2))  # as the paper uses them
QUICK = (
    Case(seed=1, options={"inner_steps": 2, "normalize_preliminary": True, "decay": 0.8, "rate": 0.6}),
    Case(seed=2, options={"inner_steps": 1, "sustained_boundary": False, "activation": "tanh"}),
    Case(seed=3, init={"layer_norm": False}, options={"inner_steps": 2, "decay": 0.7, "rate": 0.1}),
    Case(seed=4, options={"inner_steps": 2, "decay": 0.9}),
    Case("multilevel", 9, seed=44, options={"inner_steps": 2, "decay": 0.8, "rate": 0.6, "controls": ALL_SIGNALS}),
    Case("irnn", seed=40, init={"layer_norm": True}),
    Case("lstm", seed=41),
    Case("lstm", seed=42, init={"layer_norm": True}),
    Case("associative_lstm", 3, 1, 1, 6, seed=43, init={"heads": 2}, options={"copies": 3}),
)
FULL = (
    *QUICK,
    Case(seed=5, options={"inner_steps": 0}),
    Case(seed=6, options={"inner_steps": 3, "activation": "tanh", "decay": 0.5, "rate": 1.0}),
    Case(seed=7, steps=1, options={"inner_steps": 1}),
    Case(seed=8, batch_size=1, hidden_size=1, options={"inner_steps": 1}),
    Case(seed=9, batch_size=1, hidden_size=1, init={"layer_norm": False}, options={"inner_steps": 2, "rate": 0.2}),
    Case(seed=30, steps=11, hidden_size=7, options={"inner_steps": 1, "decay": 0.9, "rate": 0.5}),
    Case(seed=11, steps=9, initial=False, options={"inner_steps": 1, "decay": 0.95}),
    Case(seed=12, options={"inner_steps": 2, "decay": 1.0, "rate": 0.3}),
    Case(seed=13, options={"inner_steps": 2, "sustained_boundary": False, "normalize_preliminary": True}),
    Case(
        seed=14, init={"layer_norm": False},
        options={"inner_steps": 1, "activation": "tanh", "sustained_boundary": False},
    ),
    Case(seed=15, steps=3, batch_size=3, input_size=1, hidden_size=3, options={"inner_steps": 4, "decay": 0.6}),
    Case(seed=17, options={"decay": 0.0, "inner_steps": 2}),
    Case(seed=18, options={"rate": 0.0, "inner_steps": 2}),
    Case("multilevel", 9, seed=63, options={"decay": 0.0, "controls": ALL_SIGNALS}),
    Case(seed=16, options={"inner_steps": 0, "normalize_preliminary": True, "activation": "tanh"}),
    Case("multilevel", 12, seed=59, options={"controls": QUADRANTS}),
    Case("multilevel", 9, seed=60, init={"layer_norm": False}, options={"rate": 0.1, "controls": ALL_SIGNALS}),
    Case(
        "multilevel", 9, 1, 1, 3, seed=61, initial=False,
        options={"activation": "tanh", "normalize_preliminary": True, "decay": 1.0, "controls": ALL_SIGNALS},
    ),
    Case("multilevel", 4, seed=62, options={"controls": controls("", "r", "rwi", "")}),  # nothing is stored
    Case("irnn", seed=50),
    Case("irnn", seed=51, steps=1, batch_size=1, hidden_size=1, initial=False),
    Case("irnn", seed=52, init={"layer_norm": True}, options={"activation": "tanh"}),
    Case("lstm", seed=53, steps=1, batch_size=1, hidden_size=1, initial=False),
    Case("lstm", seed=54, steps=9, batch_size=3, input_size=1, init={"forget_bias": -1.0}),
    Case("associative_lstm", seed=55, hidden_size=4),
    Case("associative_lstm", seed=56, steps=1, batch_size=1, hidden_size=2, initial=False, init={"heads": 1}),
    Case("associative_lstm", seed=57, steps=7, hidden_size=6, init={"heads": 1}, options={"copies": 1}),
    Case("associative_lstm", seed=58, hidden_size=6, init={"heads": 2}, options={"copies": 3}),
)  # fmt: skip


def run(device: str = "cpu", quick: bool = False, layers: Sequence[str] = tuple(network.LAYERS)) -> list[Link]:
    """Run the chain and return its rows. Raise ImportError if autograd or SciPy is absent.

    quick: a quarter of the cases, without link 4, whose finite differences take most of the time.
    """
    move = (lambda tree: tree) if device == "cpu" else (lambda tree: to_device(tree, device))
    cases = tuple(case for case in (QUICK if quick else FULL) if case.layer in layers)
    links = [
        *(link for layer in layers for link in _layer_links([c for c in cases if c.layer == layer], quick, move)),
        *_convnet_links(quick, move),
        *_operation_links(move),
        _network_link(layers, move),
        *_actor_critic_links(layers, quick, move),
    ]
    if device != "cpu":
        links.append(_device_link(cases, move))
    return sorted(links, key=lambda link: link.number)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fastweights_np.audit", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the fast code runs")
    parser.add_argument("--quick", action="store_true", help="a quarter of the cases, without link 4")
    chosen = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        links = run(chosen.device, chosen.quick)
    except ImportError as error:
        print(f"audit: {error}; it needs autograd and scipy: pip install autograd scipy", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    print(_table(links))
    failed = sum(not link.passed for link in links)
    verdict = "every link holds" if not failed else f"{failed} of {len(links)} rows FAIL"
    print(f"\n{verdict} ({chosen.device}, float64, {time.perf_counter() - started:.1f} s)")
    return 1 if failed else 0


# ---------------------------------------------------------------------------------------------------- recurrent layers


def _layer_links(cases: list[Case], quick: bool, move: Callable[[Any], Any]) -> list[Link]:
    layer = cases[0].layer
    forms = Link(1, "matrix form = attention form", layer, 1e-12)
    alone = Link(1, "batch = its sequences", layer, 1e-12)
    fast = Link(2, "forward = plain forward", layer, 1e-12)
    plain = Link(3, "plain backward = autograd", layer, 1e-12)
    by_autograd = Link(3, "backward = autograd", layer, 1e-12)
    by_differences = Link(4, "backward = finite differences", layer, 1e-7)
    stepped = Link(5, "step by step = forward", layer, 1e-12)
    for case in cases:
        params, given, dh = case.arrays()
        h, *memory, saved = case.plain(params, given)
        expected = {"h": h} | ({"A(T)": memory[0]} if memory else {})
        if layer == "fast_weights":
            forms.compare(str(case), *_reads_by_matrix_and_attention(case, given["A0"], h, memory[0], saved))
        for b in range(case.batch_size):
            one = {name: value[:, b : b + 1] if name == "x" else value[b : b + 1] for name, value in given.items()}
            alone.compare(f"{case} sequence {b}", {"h": case.plain(params, one)[0]}, {"h": h[:, b : b + 1]})
        stepped.compare(str(case), *_stepped_and_whole(case, params, given, move))
        from_autograd = _autograd_gradients(case, params, given, dh)
        plain.compare(str(case), case.plain_gradients(params, saved, dh), from_autograd)
        for way in case.ways():
            name = " ".join([str(case), *(f"{option}={value}" for option, value in way.items())])
            h, cache = case.module.forward(move(params), **move(given), **case.options, **way)
            state = case.module.final_state(cache)
            fast.compare(name, {"h": h} | ({"A(T)": state.A} if memory else {}), expected)
            by_autograd.compare(name, _hand_gradients(case, cache, move(dh)), from_autograd)
        # the last step alone: as a whole dh whose other steps are zero
        only_last = numpy.zeros_like(dh)
        only_last[-1] = dh[-1]
        gradients = _autograd_gradients(case, params, given, only_last)
        by_autograd.compare(f"{case} dh of the last step", _hand_gradients(case, cache, move(dh[-1])), gradients)
        if not quick:
            gradients = _difference_gradients(case, params, given, dh)
            by_differences.compare(str(case), _hand_gradients(case, cache, move(dh)), gradients)
    first, last = [forms] if layer == "fast_weights" else [], [] if quick else [by_differences]
    return [*first, alone, fast, plain, by_autograd, stepped, *last]


def _reads_by_matrix_and_attention(case: Case, A0: Any, h: Any, A_last: Any, saved: Any) -> tuple[Arrays, Arrays]:
    """Return A(t) v of all reads of the plain forward, and of A(T) h(T), by equations (1) and (4)."""
    reads = [(t, A, v) for t, (_, _, A, _, (_, queries, _)) in enumerate(saved) for v in queries]
    reads.append((case.steps, A_last, h[-1]))
    by_matrix = {f"read {n}": plain_ops.times(A, v) for n, (_, A, v) in enumerate(reads)}
    return by_matrix, {f"read {n}": attend(v, h[:t], A0, **case.scalars()) for n, (t, _, v) in enumerate(reads)}


def _hand_gradients(case: Case, cache: Any, dh: Any) -> Arrays:
    grads, dx, dh0 = case.module.backward(dh, cache, extra=case.extra())
    return grads | {"x": dx, "h0": dh0}


def _autograd_gradients(case: Case, params: Arrays, given: Arrays, dh: numpy.ndarray) -> Arrays:
    import autograd
    import autograd.numpy

    def loss(everything: Arrays) -> Any:
        h, *_ = case.plain(*_divided(everything, params), np=autograd.numpy)
        return autograd.numpy.sum(h * dh)

    return autograd.grad(loss)({**params, **given, **case.scalars()})


def _difference_gradients(case: Case, params: Arrays, given: Arrays, dh: numpy.ndarray) -> Arrays:
    at = {**params, **given} | {name: numpy.array(value) for name, value in case.scalars().items()}

    def loss(everything: Arrays) -> float:
        weights, others = _divided(everything, params)
        options = case.options | {name: float(others.pop(name)) for name in case.scalars()}
        return float((case.module.forward(weights, **others, **options)[0] * dh).sum())

    return {name: _differentiate(loss, at, name) for name in at if (name, float(at[name].flat[0])) not in ENDS}


def _divided(everything: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
    """The parameters, and all the rest."""
    names = set(everything) - set(params)
    return {name: everything[name] for name in params}, {name: everything[name] for name in names}


def _differentiate(loss: Callable[[Arrays], float], at: Arrays, name: str) -> numpy.ndarray:
    """The derivative of loss with respect to each entry of at[name], by SciPy's central differences of order 4."""
    from scipy.differentiate import derivative

    shape = at[name].shape

    def moved(distance: float, entry: float) -> float:
        array = at[name].copy().reshape(-1)
        array[int(entry)] += distance
        return loss({**at, name: array.reshape(shape)})

    entries = numpy.arange(at[name].size, dtype=float)
    found = derivative(
        numpy.vectorize(moved, otypes=[float]), numpy.zeros_like(entries), args=(entries,),
        initial_step=1e-4, order=4, maxiter=1,
    )  # fmt: skip
    return found.df.reshape(shape)


def _stepped_and_whole(case: Case, params: Arrays, given: Arrays, move: Callable[[Any], Any]) -> tuple[Arrays, Arrays]:
    params, given = move(params), move(given)
    h, cache = case.module.forward(params, **given, **case.options)
    states = {name: given[name] for name in case.state_shapes()}
    of_state = {name: value for name, value in case.options.items() if name == "copies"}
    of_step = {name: value for name, value in case.options.items() if name not in ("copies", "controls")}
    state = case.module.initial_state(params, case.batch_size, **states, **of_state)
    signals = vars(case.options["controls"]) if "controls" in case.options else {}
    steps = []
    for t, x_t in enumerate(given["x"]):
        at_t = {name: signal[t] for name, signal in signals.items()}
        h_t, state = case.module.step(params, x_t, state, **of_step, **at_t)
        steps.append(to_host(h_t))
    last, whole = to_host(state)._asdict(), to_host(case.module.final_state(cache))._asdict()
    return {"all h": numpy.stack(steps)} | last, {"all h": to_host(h)} | whole


# -------------------------------------------------------------------------------------------------------------- convnet


CONVNETS = (  # channels, rows and columns of the images; layers
    ((1, 9, 9), (Convolution(3, 4, pool=2), Convolution(4, 3))),
    ((2, 8, 7), (Convolution(2, 3, stride=2),)),
    ((1, 12, 11), (Convolution(2, 2, stride=2, pool=2), Convolution(3, 2, pool=1))),
    ((1, 10, 10), (Convolution(2, 3), Convolution(2, 2, stride=3, pool=2))),
)


def _convnet_links(quick: bool, move: Callable[[Any], Any]) -> Iterator[Link]:
    import autograd
    import autograd.numpy

    fast = Link(2, "forward = plain forward", "convnet", 1e-12)
    plain = Link(3, "plain backward = autograd", "convnet", 1e-12)
    by_autograd = Link(3, "backward = autograd", "convnet", 1e-12)
    by_differences = Link(4, "backward = finite differences", "convnet", 1e-7)
    rng = numpy.random.default_rng(22)
    for shape, layers in CONVNETS:
        case = f"{shape}, {'; '.join(str(layer) for layer in layers)}"
        params = convnet.init(rng, layers, shape[0], dtype="float64")
        params = {name: value + 0.2 * rng.standard_normal(value.shape) for name, value in params.items()}
        everything = params | {"images": rng.standard_normal((2, *shape))}
        expected, saved = plain_convnet.forward(params, everything["images"], layers)
        cotangent = rng.standard_normal(expected.shape)

        def plain_loss(at: Arrays, layers: Any = layers, cotangent: Any = cotangent) -> Any:
            features, _ = plain_convnet.forward(at, at["images"], layers, autograd.numpy)
            return autograd.numpy.sum(features * cotangent)

        def fast_loss(at: Arrays, layers: Any = layers, cotangent: Any = cotangent) -> float:
            weights = {name: value for name, value in at.items() if name != "images"}
            return float((convnet.forward(weights, at["images"], layers)[0] * cotangent).sum())

        from_autograd = autograd.grad(plain_loss)(everything)
        grads, dimages = plain_convnet.backward(cotangent, saved, params, layers)
        plain.compare(case, grads | {"images": dimages}, from_autograd)
        for block, threads in ((1, 1), (convnet.BLOCK, 2)):
            features, cache = convnet.forward(
                move(params), move(everything["images"]), layers, block=block, threads=threads
            )
            fast.compare(f"{case} block={block}", {"features": features}, {"features": expected})
            grads, dimages = convnet.backward(move(cotangent), cache)
            by_autograd.compare(f"{case} block={block}", grads | {"images": dimages}, from_autograd)
        if not quick:
            differences = {name: _differentiate(fast_loss, everything, name) for name in everything}
            by_differences.compare(case, grads | {"images": dimages}, differences)
    yield from (fast, plain, by_autograd, *([] if quick else [by_differences]))


# ----------------------------------------------------------------------------------------------- operations and network


def _operation_links(move: Callable[[Any], Any]) -> Iterator[Link]:
    import autograd
    import autograd.numpy as np
    import scipy.special
    import scipy.stats

    rng = numpy.random.default_rng(20)
    z, dy = rng.standard_normal((2, 6, 5)) * 3
    gain, bias = rng.standard_normal((2, 5))
    weight, weight_bias, d_linear = (rng.standard_normal(shape) for shape in ((4, 5), (4,), (6, 4)))
    labels, tokens = rng.integers(0, 5, 6), rng.integers(0, 3, (2, 3))  # six tokens of three: some come twice
    d_row, d_embedding, table = rng.standard_normal(6), rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 4))
    z_, dy_, gain_, bias_, weight_ = (move(array) for array in (z, dy, gain, bias, weight))

    oracle = Link(2, "forward = SciPy", "ops", 1e-12)
    nll, probabilities = ops.softmax_cross_entropy(move(z * 50), move(labels))
    H, log_pi = ops.entropy(move(z * 50))
    wanted = {"H": scipy.stats.entropy(scipy.special.softmax(z * 50, axis=1), axis=1),
              "log pi": scipy.special.log_softmax(z * 50, axis=1)}  # fmt: skip
    oracle.compare("entropy", {"H": H, "log pi": log_pi}, wanted)
    oracle.compare(
        "softmax_cross_entropy", {"nll": nll, "probabilities": probabilities},
        {"nll": -scipy.special.log_softmax(z * 50, axis=1)[numpy.arange(6), labels],
         "probabilities": scipy.special.softmax(z * 50, axis=1)},
    )  # fmt: skip
    yield oracle

    link = Link(3, "backward = autograd", "ops", 1e-12)

    def gradients(function: Callable[..., Any], cotangent: Any, **arguments: Any) -> Arrays:
        return autograd.grad(lambda given: np.sum(function(**given) * cotangent))(arguments)

    got = dict(zip(("x", "weight", "bias"), ops.linear_backward(move(d_linear), z_, weight_), strict=True))
    product = lambda x, weight, bias: np.dot(x, weight.T) + bias  # noqa: E731
    expected = gradients(product, d_linear, x=z, weight=weight, bias=weight_bias)
    link.compare("linear", got, expected)

    got = {"table": ops.embedding_backward(move(d_embedding), move(tokens), 3)}
    expected = gradients(lambda table: plain_ops.embedding(table, tokens), d_embedding, table=table)
    link.compare("embedding", got, expected)
    plain = Link(3, "plain backward = autograd", "what has no time", 1e-12)
    plain.compare("embedding", {"table": plain_ops.embedding_backward(d_embedding, tokens, 3)}, expected)

    norm = ops.LayerNorm(z_)
    norm.load(gain_, bias_)
    _, normalized, inverse_std = norm.forward(z_)
    dparams = move(numpy.zeros((2, 1, 5)))
    norm.dy[...] = dy_
    got = {"z": norm.backward(normalized, inverse_std, dparams, out=z_.copy())}
    got |= {"gain": dparams[0, 0], "bias": dparams[1, 0]}
    rows = lambda z, gain, bias: plain_ops.layer_norm(z, gain, bias, np)[0]  # noqa: E731
    link.compare("layer_norm", got, gradients(rows, dy, z=z, gain=gain, bias=bias))

    for name, f in ops.ACTIVATIONS.items():
        expected = gradients(lambda z, n=name: plain_ops.activate(z, n, np), dy, z=z)
        link.compare(name, {"z": dy_ * f(z_).slope(f(z_).forward(z_))}, expected)

    _, probabilities = ops.softmax_cross_entropy(z_, move(labels))
    got = {"logits": ops.softmax_cross_entropy_backward(move(d_row), probabilities, move(labels))}
    expected = gradients(lambda logits: losses.cross_entropy(logits, labels, np), d_row, logits=z)
    link.compare("softmax_cross_entropy", got, expected)
    plain.compare("cross_entropy", {"logits": losses.cross_entropy_backward(d_row, z, labels)}, expected)

    H, log_pi = ops.entropy(z_)
    expected = gradients(lambda logits: losses.entropy(logits, np), d_row, logits=z)
    link.compare("entropy", {"logits": ops.entropy_backward(move(d_row), H, log_pi)}, expected)
    plain.compare("entropy", {"logits": losses.entropy_backward(d_row, z)}, expected)

    values, targets = gain, bias
    expected = gradients(lambda values: losses.squared_error(values, targets), d_row[:5], values=values)
    got = {"values": ops.squared_error_backward(move(d_row[:5]), move(values), move(targets))}
    link.compare("squared_error", got, expected)
    plain.compare("squared_error", {"values": losses.squared_error_backward(d_row[:5], values, targets)}, expected)

    given = {"actions": labels, "targets": z[:, 0], "advantages": z[:, 1], "value_weight": 0.7, "entropy_weight": 0.3}
    expected = gradients(lambda **at: losses.actor_critic(**at, **given, np=np), 1.0, logits=dy, values=d_row)
    got = dict(zip(("logits", "values"), losses.actor_critic_backward(dy, d_row, **given), strict=True))
    plain.compare("actor_critic", got, expected)
    yield from (link, plain)


def _network_link(layers: Sequence[str], move: Callable[[Any], Any]) -> Link:
    import autograd
    import autograd.numpy

    link = Link(3, "backward = autograd", "network", 1e-12)
    for layer in layers:
        options: dict[str, Any] = {"controls": QUADRANTS} if layer == "multilevel" else {}
        steps = len(QUADRANTS)
        case = Case(layer, steps, batch_size=3, hidden_size=4, options=options, initial=False)
        rng = numpy.random.default_rng(21)
        net = network.Network(network.TokenEncoder(6, 4, 5), network.Classifier(3, 5), 4, layer, options=options)
        params = net.init(rng, "float64")
        tokens, labels = rng.integers(0, 6, (steps, 3)), rng.integers(0, 3, 3)
        loss, grads = net.loss_and_gradients(move(params), move(tokens), move(labels))

        recurrent = partial(_states_of, case, autograd.numpy)

        def mean_loss(tree: Arrays, of: Any = recurrent, tokens: Any = tokens, labels: Any = labels) -> Any:
            return losses.loss_of_network(tree, tokens, labels, of, autograd.numpy)

        expected_loss, expected = autograd.value_and_grad(mean_loss)(params)
        link.compare(layer, flatten(grads) | {"loss": loss}, flatten(expected) | {"loss": expected_loss})
    _compare_networks_of_images(link, move)
    return link


def _states_of(case: Case, np: Any, params: Arrays, x: Any) -> Any:
    """Return h (T, B, H) of the plain layer, from initial states of zero."""
    return case.plain(params, {"x": x} | {n: numpy.zeros(shape) for n, shape in case.state_shapes().items()}, np)[0]


def _compare_networks_of_images(link: Link, move: Callable[[Any], Any]) -> None:
    """Patches to a recurrent layer, and images to a ConvNet."""
    import autograd
    import autograd.numpy

    rng = numpy.random.default_rng(23)
    case = Case("irnn", 3, 2, 5, 4, initial=False)
    layers = CONVNETS[0][1]
    patches, images, labels = rng.random((3, 2, 6)), rng.random((2, 9, 9)), rng.integers(0, 3, 2)

    def recurrent(tree: Arrays) -> Any:
        x = losses.relu_layer(tree["encoder"], patches, "weight", "bias", autograd.numpy)
        h = _states_of(case, autograd.numpy, tree["layer"], x)
        return losses.loss_of_classifier(tree["readout"], h[-1], labels, autograd.numpy)

    def convolutional(tree: Arrays) -> Any:
        features, _ = plain_convnet.forward(tree["layer"], images[:, None], layers, autograd.numpy)
        return losses.loss_of_classifier(tree["readout"], features, labels, autograd.numpy)

    readout = network.Classifier(3, 5)
    models: tuple[tuple[str, network.Model, Any, Any], ...] = (
        ("patches", network.Network(network.PatchEncoder(6, 5), readout, 4, "irnn"), patches, recurrent),
        ("convnet", network.ConvolutionalNetwork(layers, readout, 9), images, convolutional),
    )
    for name, model, inputs, mean_loss in models:
        params = model.init(rng, "float64")
        loss, grads = model.loss_and_gradients(move(params), move(inputs), move(labels))
        expected_loss, expected = autograd.value_and_grad(mean_loss)(params)
        link.compare(name, flatten(grads) | {"loss": loss}, flatten(expected) | {"loss": expected_loss})


def _actor_critic_links(layers: Sequence[str], quick: bool, move: Callable[[Any], Any]) -> Iterator[Link]:
    """Whole episodes of an agent in a closed loop, whose next look depends on its last policy."""
    import autograd
    import autograd.numpy

    by_autograd = Link(3, "backward = autograd", "actor_critic", 1e-12)
    by_differences = Link(4, "backward = finite differences", "actor_critic", 1e-7)
    closed = Link(5, "closed loop = what was seen again", "actor_critic", 1e-12)
    steps, games, inputs, encoded_size, hidden_size = 4, 2, 3, 3, 3
    inits: dict[str, Arrays] = {"fast_weights": {}, "irnn": {"layer_norm": True}, "lstm": {}}
    for seed, (layer, init) in enumerate(inits.items(), 70):
        if layer not in layers:
            continue
        rng = numpy.random.default_rng(seed)
        agent = actor_critic.ActorCritic(inputs, 3, hidden_size, layer, init, encoded_size=encoded_size)
        params = map_leaves(lambda leaf: leaf + 0.4 * rng.standard_normal(leaf.shape), agent.init(rng, "float64"))  # noqa: B023
        noise, mixing = rng.standard_normal((steps, games, inputs)), rng.standard_normal((3, inputs))
        actions, rewards = rng.integers(0, 3, (steps, games)), rng.standard_normal((steps, games))
        seen = noise.copy()

        def see(t: int, logits: Any, seen: Any = seen, mixing: Any = mixing) -> Any:
            if t:
                seen[t] += to_host(logits) @ mixing
            return move(seen[t])

        logits, values, cache = agent.forward(move(params), see, steps, games)
        targets = actor_critic.returns(move(rewards), 0.9, values[-1])
        weights = {"value_weight": 0.7, "entropy_weight": 0.3}
        _, dlogits, dvalues = actor_critic.loss_and_gradients(logits, values, move(actions), targets, **weights)
        grads = flatten(agent.backward(dlogits, dvalues, cache))
        given = to_host({"actions": actions, "targets": targets, "advantages": targets - values}) | weights
        case = Case(layer, steps, games, encoded_size, hidden_size, initial=False, init=init)

        def loss(tree: Arrays, np: Any, case: Case = case, seen: Any = seen, given: Arrays = given) -> Any:
            recurrent = partial(_states_of, case, np)
            return losses.loss_of_agent(tree, seen, **given, layer=recurrent, np=np)

        by_autograd.compare(layer, grads, flatten(autograd.grad(loss)(params, autograd.numpy)))
        if not quick:
            flat = flatten(params)
            differences = {name: _differentiate(lambda at: loss(unflatten(at), numpy), flat, name) for name in flat}
            by_differences.compare(layer, grads, differences)

        def look(t: int, _: Any, seen: Any = seen) -> Any:
            return move(seen[t])

        expected = to_host({"logits": logits, "values": values})
        again_logits, again_values, _ = agent.forward(move(params), look, steps, games)
        closed.compare(layer, {"logits": again_logits, "values": again_values}, expected)
        # in two parts, and the value of what comes between them
        _, _, first = agent.forward(move(params), look, 2, games)
        state = agent.final_state(first)
        rest, _, _ = agent.forward(move(params), partial(look, seen=seen[2:]), steps - 2, games, state)
        following = agent.next_values(move(params), look(2, None), state)
        closed.compare(
            f"{layer}, in two parts", {"logits": rest, "values": following},
            {"logits": expected["logits"][2:], "values": expected["values"][2]},
        )  # fmt: skip
    yield from (link for link in (by_autograd, by_differences, closed) if link.cases)


def _device_link(cases: tuple[Case, ...], move: Callable[[Any], Any]) -> Link:
    link = Link(6, "GPU = host", "all layers", 1e-11)
    for case in cases:
        params, given, dh = case.arrays()
        h, cache = case.module.forward(params, **given, **case.options)
        h_device, cache_device = case.module.forward(move(params), **move(given), **case.options)
        host = {"h": h} | _hand_gradients(case, cache, dh)
        link.compare(f"{case.layer} {case}", {"h": h_device} | _hand_gradients(case, cache_device, move(dh)), host)
    return link


def _table(links: list[Link]) -> str:
    header = ("link", "subject", "cases", "worst error", "tolerance", "verdict", "where")
    rows = [header] + [
        (f"{link.number} {link.title}", link.subject, str(link.cases), f"{link.worst:.1e}", f"{link.tolerance:.0e}",
         "holds" if link.passed else "FAILS", link.where)
        for link in links
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
