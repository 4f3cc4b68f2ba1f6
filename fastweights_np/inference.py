"""The forward pass of a layer without gradients: part by part, so that no buffer grows with the number of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from . import checks, ops
from .backend import Array, array_module

PART = 32  # steps in a part


def without(gradients: bool) -> bool:
    """Return whether `gradients` is False. Raises TypeError for what is not a bool."""
    checks.boolean("gradients", gradients)
    return not gradients


@dataclass
class StatesOnly:
    """What forward(..., gradients=False) returns for `final_state`. Nothing else can be computed from it."""

    final_state: Callable[[], Any]  # raises RuntimeError if the workspace was overwritten


def in_parts(
    forward: Callable[..., tuple[Array, Any]], final_state: Callable[[Any], Any], x: ops.Input,
    initial: dict[str, Any], lengths: Array | None, resets: Array | None,
    of_steps: Callable[[slice], dict[str, Any]] = lambda steps: {},
) -> tuple[Array, StatesOnly]:  # fmt: skip
    """Return h (T, B, H) of a layer, from parts of PART steps, and what its final_state needs.

    forward(x, **states, lengths, resets) runs one part, final_state returns its State. initial are the states before
    the first step, by name. of_steps returns the arguments that differ from part to part. A part computes only the
    sequences that have not ended.
    """
    ops.refuse_closed_loop(x, "a forward without gradients; use a Stepper")
    steps, batch_size = x.shape[0], x.shape[1]
    xp = array_module(x=ops.input_array(x))
    if steps <= PART:
        h, cache = forward(x, **initial, lengths=lengths, resets=resets, **of_steps(slice(0, steps)))
        return h, StatesOnly(lambda: final_state(cache))
    ends = numpy.full(batch_size, steps) if lengths is None else lengths
    h = xp.zeros((steps, *initial["h0"].shape), ops.input_array(x).dtype)
    rows, states, final = numpy.arange(batch_size), initial, None  # rows of the sequences that have not ended
    for start in range(0, steps, PART):
        part = slice(start, min(start + PART, steps))
        going = ends[rows] > start
        if not going.all():
            kept = xp.asarray(numpy.flatnonzero(going))
            states, rows = {name: state[kept] for name, state in states.items() if state is not None}, rows[going]
        if not len(rows):
            break
        of_part = None if lengths is None else (ends[rows] - start).clip(max=part.stop - start)
        h_part, cache = forward(
            _selected(x, part, rows), **states, lengths=of_part, **of_steps(part),
            resets=None if resets is None else numpy.ascontiguousarray(resets[part][:, rows]),
        )  # fmt: skip
        places = xp.asarray(rows)
        h[part, places] = h_part
        if part.stop < steps or lengths is not None:
            state = final_state(cache)
            states = {f"{name}0": value for name, value in state._asdict().items()}
        if lengths is not None:
            if final is None:
                final = type(state)(*(xp.empty((batch_size, *value.shape[1:]), value.dtype) for value in state))
            for whole, value in zip(final, state, strict=True):
                whole[places] = value
    return h, StatesOnly((lambda: final_state(cache)) if final is None else lambda: final)


def _selected(x: Any, part: slice, rows: numpy.ndarray) -> Any:
    """Return the steps of a part, of these sequences; x is an array or embedded tokens."""
    if isinstance(x, ops.Embedded):
        return ops.Embedded(x.table, _selected(x.tokens, part, rows))
    return x[part] if len(rows) == x.shape[1] else x[part][:, array_module(x=x).asarray(rows)]
