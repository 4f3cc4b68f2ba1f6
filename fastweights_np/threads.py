"""Threads that share the work of one call. NumPy's products and loops release Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def of_each(function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    """Return function(part) for each part, one thread each."""
    if len(parts) == 1:
        return [function(parts[0])]
    from concurrent.futures import ThreadPoolExecutor  # few need it, and it slows down importing the package

    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(function, parts))
