"""Count this machine's cores, and check that threads and actors do not exceed them by far."""

from __future__ import annotations

import os
from typing import Any

MOST = 16  # threads or actors for each core; more only wait for one another and use memory


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(settings: Any) -> None:
    """Raise ValueError for more than MOST threads or actors for each core."""
    most = MOST * cores()
    for name in ("threads", "actors"):
        if (value := getattr(settings, name, None)) is not None and value > most:
            raise ValueError(
                f"{name}: expected at most {most}, {MOST} for each of the {cores()} cores, got {value}; lower --{name}"
            )
