"""The links of the recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy

from ..backend import to_host
from ..plain import ops as plain_ops
from ..plain.fast_weights import attend
from ..trees import map_leaves
from .cases import ENDS, QUICK, Case
from .documents import DOCUMENTS, compare_documents
from .links import ALONE, STEPPER, Arrays, Link, Move

# gradients by autograd through the plain files, by case and arrays; mutants of other files use them again
REFERENCES: dict[tuple[Any, ...], Any] = {}


def layer_links(cases: list[Case], quick: bool, few: bool, move: Move, only: Collection[str] = ()) -> list[Link]:
    """Return the links of one layer; `only` these titles, if there are any. The gradient checks are always run."""
    layer = cases[0].layer

    def wanted(link: Link) -> bool:
        return not only or link.title in only

    forms = Link(1, "matrix form = attention form", layer, 1e-12)
    alone = Link(1, "batch = its sequences", layer, 1e-12)
    fast = Link(2, "forward = plain forward", layer, 1e-12)
    plain = Link(3, "plain backward = autograd", layer, 1e-12)
    by_autograd = Link(3, "backward = autograd", layer, 1e-12)
    by_differences = Link(4, "backward = finite differences", layer, 1e-7)
    stepped = Link(5, "step by step = forward", layer, 1e-12)
    stream = Link(5, STEPPER, layer, 1e-12)
    only_forward = Link(5, ALONE, layer, 1e-12)
    parts = Link(5, "two parts = the whole", layer, 1e-12)
    documents = Link(5, DOCUMENTS, layer, 1e-12)
    in_float32 = Link(7, "float32 = float64", layer, 1e-4)
    for case in cases:
        params, given, dh = case.arrays()
        h, *memory, saved = case.plain(params, given)
        expected = {"h": h} | ({"A(T)": memory[0]} if memory else {})
        if layer == "fast_weights" and wanted(forms):
            forms.compare(str(case), *_reads_by_matrix_and_attention(case, given["A0"], h, memory[0], saved))
        for b in range(case.batch_size if wanted(alone) else 0):
            one = {name: value[:, b : b + 1] if name == "x" else value[b : b + 1] for name, value in given.items()}
            alone.compare(f"{case} sequence {b}", {"h": case.plain(params, one)[0]}, {"h": h[:, b : b + 1]})
        if wanted(stepped):
            stepped.compare(str(case), *_stepped_and_whole(case, params, given, move))
        if wanted(stream):
            stream.compare(str(case), *_streamed_and_whole(case, params, given, move))
        if wanted(only_forward):
            only_forward.compare(str(case), *_without_and_with_gradients(case, params, given, move))
        if case.steps > 1 and wanted(parts):
            parts.compare(str(case), *_parts_and_whole(case, params, given, dh, move))
        if wanted(documents):
            compare_documents(documents, case, params, given, dh, move)
        from_autograd = _autograd_gradients(case, params, given, dh)
        plain.compare(str(case), case.plain_gradients(params, saved, dh), from_autograd)
        for way in case.ways():
            name = " ".join([str(case), *(f"{option}={value}" for option, value in way.items())])
            h, cache = case.module.forward(move(params), **move(given), **case.options, **way)
            state = case.module.final_state(cache)
            fast.compare(name, {"h": h} | ({"A(T)": state.A} if memory else {}), expected)
            by_autograd.compare(name, hand_gradients(case, cache, move(dh)), from_autograd)
        # dh of the last step alone must equal a whole dh whose other steps are zero
        only_last = numpy.zeros_like(dh)
        only_last[-1] = dh[-1]
        gradients = _autograd_gradients(case, params, given, only_last)
        by_autograd.compare(f"{case} dh of the last step", hand_gradients(case, cache, move(dh[-1])), gradients)
        if not quick:
            from_hand = hand_gradients(case, cache, move(dh))
            if not few or case in QUICK:
                by_differences.compare(str(case), from_hand, _difference_gradients(case, params, given, dh))
            cast = map_leaves(lambda leaf: leaf.astype("float32"), (params, given, dh))
            h32, cache = case.module.forward(move(cast[0]), **move(cast[1]), **case.options)
            in_float32.compare(str(case), {"h": h32} | hand_gradients(case, cache, move(cast[2])), {"h": h} | from_hand)
    links = [
        forms, alone, fast, plain, by_autograd, stepped, stream, only_forward, parts, documents, by_differences,
        in_float32,
    ]  # fmt: skip
    return [link for link in links if link.cases]


def _reads_by_matrix_and_attention(case: Case, A0: Any, h: Any, A_last: Any, saved: Any) -> tuple[Arrays, Arrays]:
    """Return A(t) v for all reads of the plain forward, and A(T) h(T), by equations (1) and (4)."""
    reads = [(t, A, v) for t, (_, _, A, _, (_, queries, _)) in enumerate(saved) for v in queries]
    reads.append((case.steps, A_last, h[-1]))
    by_matrix = {f"read {n}": plain_ops.times(A, v) for n, (_, A, v) in enumerate(reads)}
    return by_matrix, {f"read {n}": attend(v, h[:t], A0, **case.scalars()) for n, (t, _, v) in enumerate(reads)}


def hand_gradients(case: Case, cache: Any, dh: Any) -> Arrays:
    """Return all gradients by the fast backward, by name, from dh."""
    grads, dx, dh0 = case.module.backward(dh, cache, extra=case.extra())
    return grads | {"x": dx, "h0": dh0}


def _autograd_gradients(case: Case, params: Arrays, given: Arrays, dh: numpy.ndarray) -> Arrays:
    import autograd
    import autograd.numpy

    def loss(everything: Arrays) -> Any:
        h, *_ = case.plain(*_divided(everything, params), np=autograd.numpy)
        return autograd.numpy.sum(h * dh)

    everything = {**params, **given, **case.scalars()}
    return reference(repr(case), everything | {"dh": dh}, lambda: autograd.grad(loss)(everything))


def reference(case: str, arrays: Arrays, compute: Callable[[], Any]) -> Any:
    """Return what autograd computes for a case from these arrays, which is computed once."""
    key = (case, *(numpy.asarray(value).tobytes() for value in arrays.values()))
    if key not in REFERENCES:
        REFERENCES[key] = compute()
    return REFERENCES[key]


def _difference_gradients(case: Case, params: Arrays, given: Arrays, dh: numpy.ndarray) -> Arrays:
    at = {**params, **given} | {name: numpy.array(value) for name, value in case.scalars().items()}

    def loss(everything: Arrays) -> float:
        weights, others = _divided(everything, params)
        options = case.options | {name: float(others.pop(name)) for name in case.scalars()}
        return float((case.module.forward(weights, **others, **options)[0] * dh).sum())

    return {name: differentiate(loss, at, name) for name in at if (name, float(at[name].flat[0])) not in ENDS}


def _divided(everything: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
    """Return the parameters, and all other arrays."""
    names = set(everything) - set(params)
    return {name: everything[name] for name in params}, {name: everything[name] for name in names}


def differentiate(loss: Callable[[Arrays], float], at: Arrays, name: str) -> numpy.ndarray:
    """Return the derivative of loss in each entry of at[name], by SciPy's central differences of order 4."""
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


def _parts_and_whole(
    case: Case, params: Arrays, given: Arrays, dh: numpy.ndarray, move: Move
) -> tuple[Arrays, Arrays]:  # fmt: skip
    """Return all gradients of the sequence in two parts, the state's gradient handed back, and of the whole."""
    module, cut = case.module, (case.steps + 1) // 2
    states = {name: move(given[name]) for name in case.state_shapes()}
    params, x, dh = move(params), move(given["x"]), move(dh)

    def of(steps: slice) -> Arrays:
        signals = case.options.get("controls")
        ours = {} if signals is None else {"controls": type(signals)(*(each[steps] for each in vars(signals).values()))}
        return case.options | ours

    _, first = module.forward(params, x[:cut], **states, **of(slice(cut)))
    middle = {f"{name}0": value for name, value in module.final_state(first)._asdict().items()}
    _, second = module.forward(params, x[cut:], **middle, **of(slice(cut, None)))
    later, dx_later, dh0 = module.backward(dh[cut:], second, case.extra())
    dstate = module.State(dh0, *(later.pop(name) for name in states if name != "h0"))
    earlier, dx_earlier, dh0 = module.backward(dh[:cut], first, case.extra(), dstate)
    got = {name: to_host(value + later.get(name, 0)) for name, value in earlier.items()}
    got |= {"h0": to_host(dh0), "x": numpy.concatenate([to_host(dx_earlier), to_host(dx_later)])}
    _, cache = module.forward(params, x, **states, **case.options)
    return got, to_host(hand_gradients(case, cache, dh))


def _stepped_and_whole(case: Case, params: Arrays, given: Arrays, move: Move) -> tuple[Arrays, Arrays]:
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


def _streamed_and_whole(case: Case, params: Arrays, given: Arrays, move: Move) -> tuple[Arrays, Arrays]:
    """Return all states, and the final one, by a stepper that folds every second state, and by forward."""
    params, given = move(params), move(given)
    h, cache = case.module.forward(params, **given, **case.options)
    options = {name: value for name, value in case.options.items() if name != "controls"}
    options |= {name: given[name] for name in case.state_shapes()} | ({"chunk": 2} if case.has_memory else {})
    stepper = case.module.Stepper(params, case.batch_size, **options)
    signals = vars(case.options["controls"]) if "controls" in case.options else {}
    steps = [stepper(x, **{name: each[t] for name, each in signals.items()}) for t, x in enumerate(given["x"])]
    last, whole = to_host(stepper.state)._asdict(), to_host(case.module.final_state(cache))._asdict()
    return {"all h": numpy.stack(to_host(steps))} | last, {"all h": to_host(h)} | whole


def _without_and_with_gradients(case: Case, params: Arrays, given: Arrays, move: Move) -> tuple[Arrays, Arrays]:
    """Return the states, and the final one, by both forms of forward, of sequences that end and start anew.

    A starts at zero.
    """
    params, given = move(params), move({name: value for name, value in given.items() if name != "A0"})
    t, b = numpy.arange(case.steps)[:, None], numpy.arange(case.batch_size)
    options = case.options | {"lengths": case.steps - 2 * b % case.steps, "resets": (t + b) % 4 == 2}
    found = []
    for way in ({"gradients": False} | ({"chunk": 2} if case.has_memory else {}), {}):
        h, cache = case.module.forward(params, **given, **options | way)
        found.append(to_host({"all h": h} | case.module.final_state(cache)._asdict()))
    return found[0], found[1]


def device_link(cases: tuple[Case, ...], move: Move) -> Link:
    """Return the link that compares every layer on the device with the host."""
    link = Link(6, "GPU = host", "all layers", 1e-11)
    for case in cases:
        params, given, dh = case.arrays()
        h, cache = case.module.forward(params, **given, **case.options)
        h_device, cache_device = case.module.forward(move(params), **move(given), **case.options)
        host = {"h": h} | hand_gradients(case, cache, dh)
        link.compare(f"{case.layer} {case}", {"h": h_device} | hand_gradients(case, cache_device, move(dh)), host)
    return link
