"""The links of the optimizers and of layers on several processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from .. import optim, parallel
from ..plain.optim import adam, rmsprop
from .cases import QUICK
from .layers import hand_gradients
from .links import Link, Move


def optimizer_link(move: Move) -> Link:
    """Return the link of ten updates by Adam, with weight decay, and by RMSProp."""
    link = Link(2, "update = plain update", "optim", 1e-12)
    rng = numpy.random.default_rng(24)
    start = {"W": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}
    grads = [{name: rng.standard_normal(value.shape) for name, value in start.items()} for _ in range(10)]
    for kind in (optim.Adam, optim.RMSProp):
        params, expected = move({name: value.copy() for name, value in start.items()}), {}
        optimizer = optim.Adam(params, weight_decay=0.1) if kind is optim.Adam else optim.RMSProp(params)
        for each in grads:
            optimizer.step(params, move(each), 0.01)
        for name, theta in start.items():
            m, v = 0 * theta, 0 * theta
            for t, each in enumerate(grads, 1):
                if kind is optim.Adam:
                    theta, m, v = adam(theta, m, v, each[name], t, 0.01, decay=0.1 if name == "W" else 0.0)
                else:
                    theta, v = rmsprop(theta, v, each[name], 0.01)
            expected[name] = theta
        link.compare(kind.__name__, params, expected)
    return link


def parallel_link(layers: Sequence[str]) -> Link:
    """Return the link that compares each layer on two processes with the layer itself."""
    link = Link(5, "two processes = one", "parallel", 1e-12)
    for case in (case for case in QUICK if case.layer in layers and case.batch_size > 1):
        params, given, dh = case.arrays()
        with parallel.Layer(case.module, processes=2) as layer:
            h, cache = layer.forward(params, **given, **case.options)
            grads, dx, dh0 = layer.backward(dh, cache, case.extra())
            state = layer.final_state(cache)
        expected_h, cache = case.module.forward(params, **given, **case.options)
        expected = {"h": expected_h, **hand_gradients(case, cache, dh)}
        expected |= {f"final {name}": value for name, value in case.module.final_state(cache)._asdict().items()}
        got = {"h": h, "x": dx, "h0": dh0} | grads
        link.compare(f"{case.layer} {case}", got | {f"final {n}": v for n, v in state._asdict().items()}, expected)
    return link
