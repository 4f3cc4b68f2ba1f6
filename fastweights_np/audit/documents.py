"""Batches with lengths and resets, compared with their documents alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy

from ..backend import to_host
from .cases import Case
from .links import Arrays, Link, Move

DOCUMENTS = "lengths and resets = documents alone"


class Document(NamedTuple):
    """The steps of one document in one sequence of a batch."""

    row: int
    steps: slice
    first: bool  # whether it starts from the initial state, not from zero
    last: bool  # whether the final state is its final state


def compare_documents(link: Link, case: Case, params: Arrays, given: Arrays, dh: numpy.ndarray, move: Move) -> None:
    """Compare states and all gradients. The padding of x and dh is NaN. The loss depends on the final state too."""
    rng = numpy.random.default_rng(case.seed)
    lengths = rng.integers(1, case.steps + 1, case.batch_size)
    resets = rng.random((case.steps, case.batch_size)) < 0.3
    padding = numpy.arange(case.steps)[:, None] >= lengths
    given, dh = given | {"x": given["x"].copy()}, dh.copy()
    given["x"][padding], dh[padding] = numpy.nan, numpy.nan
    dstate = {name: rng.standard_normal(given[name].shape) for name in case.state_shapes()}
    expected = _alone(case, params, given, dh, dstate, lengths, resets)
    for way in case.ways()[::-3]:  # the default chunk, and another one if there is a memory
        name = " ".join([str(case), *(f"{option}={value}" for option, value in way.items())])
        options = case.options | way | {"lengths": lengths, "resets": resets}
        h, cache = case.module.forward(move(params), **move(given), **options)
        state = case.module.final_state(cache)
        final = {f"final {field}": value for field, value in state._asdict().items()}
        link.compare(name, {"h": h} | final | _gradients(case, cache, move(dh), move(dstate)), expected)


def _alone(
    case: Case, params: Arrays, given: Arrays, dh: numpy.ndarray, dstate: Arrays, lengths: Any, resets: Any
) -> Arrays:  # fmt: skip
    """Return what the batch should give: all states, final states and gradients of its documents, one by one."""
    names, extra = case.state_shapes(), (*case.scalars(), *params)
    h, dx = numpy.zeros(dh.shape), numpy.zeros(given["x"].shape)
    sums: Arrays = dict.fromkeys(extra, 0.0)
    of_initial = {name: numpy.zeros(given[name].shape) for name in names}
    final = {f"final {name.removesuffix('0')}": numpy.zeros(given[name].shape) for name in names}
    for row, steps, first, last in documents(lengths, resets):
        one = slice(row, row + 1)
        states = {name: given[name][one] * first for name in names}
        signals = case.options.get("controls")
        ours = {} if signals is None else {"controls": type(signals)(*(each[steps] for each in vars(signals).values()))}
        h[steps, one], cache = case.module.forward(params, given["x"][steps, one], **states, **case.options | ours)
        dlast = {name: dstate[name][one] * last for name in names}
        gradients = _gradients(case, cache, dh[steps, one], dlast)
        dx[steps, one] = gradients["x"]
        for name in extra:
            sums[name] = sums[name] + gradients[name]
        if first:
            for name in names:
                of_initial[name][one] = gradients[name]
        if last:
            for name, value in case.module.final_state(cache)._asdict().items():
                final[f"final {name}"][one] = value
    return {"h": h, "x": dx} | sums | of_initial | final


def documents(lengths: Any, resets: Any) -> list[Document]:
    """Return the documents of all sequences."""
    documents = []
    for row, length in enumerate(lengths):
        starts = [0, *(t for t in range(1, length) if resets[t, row]), int(length)]
        for start, stop in pairwise(starts):
            first = start == 0 and not resets[0, row]
            documents.append(Document(row, slice(start, stop), first, stop == length))
    return documents


def _gradients(case: Case, cache: Any, dh: Any, dstate: Arrays) -> Arrays:
    state = case.module.State(**{name.removesuffix("0"): value for name, value in dstate.items()})
    grads, dx, dh0 = case.module.backward(dh, cache, case.extra(), state)
    return to_host(grads | {"x": dx, "h0": dh0})
