"""The link of the optimizers."""

from __future__ import annotations

import numpy

from .. import optim
from ..plain.optim import adam, rmsprop
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
