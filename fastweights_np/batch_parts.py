"""A batch of tokens in parts of some sequences each, which are computed one after another, or by several threads.

The arrays of a part fit in the processor's cache. The outputs of all parts are joined, and their gradients added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy

from . import checks
from .backend import Array, array_module
from .parts import Tree
from .spans import check_resets
from .threads import of_each
from .trees import flatten, unflatten
from .workspace import keep_freed_memory

ROWS = 1024  # tokens in a part, about


class Part(NamedTuple):
    """Some sequences of a batch."""

    tokens: Array  # (T, B)
    places: tuple[Array, Array] | None  # steps and columns of the outputs; None for all
    resets: Array | None  # (T, B)
    outputs: Any  # the index of its outputs among the outputs of the batch


def parts_of(inputs: Any, vocabulary: int, resets: Array | None, threads: int) -> list[Part]:
    """Return the parts of inputs: tokens (T, B), or (tokens, steps (n,), columns (n,)) for outputs at some places.

    On a GPU, there is one. Raises ValueError or TypeError for inputs that do not fit.
    """
    tokens, *places = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(places) not in (0, 2):
        raise ValueError(f"inputs: expected tokens, or (tokens, steps, columns), got {1 + len(places)} arrays")
    xp = array_module(tokens=tokens, **dict(zip(("steps", "columns"), places, strict=False)))
    checks.shape("tokens", tokens, ("T", "B"), "tokens are (steps, sequences)")
    checks.indices("tokens", tokens, vocabulary)
    steps, batch_size = tokens.shape
    if places:
        for name, indices, size in zip(("steps", "columns"), places, tokens.shape, strict=True):
            checks.shape(name, indices, ("n",) if name == "steps" else places[0].shape, "one for each output")
            checks.indices(name, indices, size)
        places = [indices.astype("intp") for indices in places]  # backward multiplies them
    if resets is not None:
        check_resets(resets, steps, batch_size)
    size = min(max(1, ROWS // steps), -(-batch_size // threads)) if xp is numpy else batch_size
    keep_freed_memory()
    parts = []
    for start in range(0, batch_size, size):
        columns, of_part = slice(start, min(start + size, batch_size)), None
        outputs: Any = (slice(None), columns)
        if places:
            of_part, outputs = (places[0], places[1]), slice(None)
            if size < batch_size:
                outputs = numpy.flatnonzero((places[1] >= columns.start) & (places[1] < columns.stop))
                of_part = places[0][outputs], places[1][outputs] - start
        parts.append(Part(tokens[:, columns], of_part, None if resets is None else resets[:, columns], outputs))
    return parts


def of_parts(threads: int, function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """Return function(..) for the arguments of each part, shared by the threads."""
    calls = list(zip(*arguments, strict=True))
    groups = [calls[n::threads] for n in range(min(threads, len(calls)))]
    found: list[Any] = [None] * len(calls)
    for n, of_group in enumerate(of_each(lambda group: [function(*call) for call in group], groups)):
        found[n::threads] = of_group
    return found


def joined(outputs: Sequence[Array], parts: list[Part], inputs: Any) -> Array:
    """Return the outputs (T, B, V), or (n, V), of the batch."""
    if len(parts) == 1:
        return outputs[0]
    vocabulary, dtype = outputs[0].shape[-1], outputs[0].dtype
    if isinstance(inputs, tuple):
        whole = numpy.empty((len(inputs[1]), vocabulary), dtype)
    else:
        whole = numpy.empty((*inputs.shape[::-1], vocabulary), dtype).swapaxes(0, 1)  # (B, T, V) in memory
    for part, of_part in zip(parts, outputs, strict=True):
        whole[part.outputs] = of_part
    return whole


def sum_of(trees: Sequence[Tree]) -> Tree:
    """Return the sum of trees of arrays."""
    first, *others = map(flatten, trees)
    for other in others:
        for name, value in other.items():
            first[name] = first[name] + value
    return unflatten(first)
