"""Threads that share the work of one call. NumPy's products and loops release Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any


def of_each(function: Callable[[Any], Any], parts: Sequence[Any], threads: int | None = None) -> list[Any]:
    """Return function(part) for each part, on this number of threads; None is one for each part."""
    count = min(threads or len(parts), len(parts))
    if count == 1:
        return [function(part) for part in parts]
    from concurrent.futures import ThreadPoolExecutor  # few need it, and it slows down importing the package

    contexts = [copy_context() for _ in parts]  # numpy.errstate of the caller holds in them, too
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda context, part: context.run(function, part), contexts, parts))
