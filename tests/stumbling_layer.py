"""An IRNN that fails on request, in whichever process has the share with the request: for the tests of parallel.Layer.

A request is a number that no other test uses, in h0 for forward, in dh for backward.
"""

from __future__ import annotations

import os
from typing import Any

from fastweights_np import irnn

RAISE, RAISE_UNPICKLABLE, DIE = 1e6, 2e6, 3e6
init, initial_state, step, final_state = irnn.init, irnn.initial_state, irnn.step, irnn.final_state
State = irnn.State


class UnpicklableError(Exception):
    """Cannot be sent to another process."""

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


def forward(params, x, h0=None, **options):
    stumble(h0)
    return irnn.forward(params, x, h0, **options)


def backward(dh, cache, extra=(), dstate=None):
    stumble(dh)
    return irnn.backward(dh, cache, extra, dstate)


def stumble(array):
    if (array == RAISE).any():
        raise ArithmeticError(f"asked to, of {array.shape[-2]} sequences")
    if (array == RAISE_UNPICKLABLE).any():
        raise UnpicklableError("asked to")
    if (array == DIE).any():
        os._exit(1)
