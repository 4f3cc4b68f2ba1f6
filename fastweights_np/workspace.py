"""Buffers that successive calls of one layer share, so that training does not allocate (and fault in) them anew."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from inspect import signature
from threading import Lock
from typing import Any, ParamSpec, TypeVar

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, of malloc.h
KEPT = 2**30  # bytes
LARGEST = 2**25  # bytes of an array on the heap, the most that glibc allows: the pages of larger ones are always new

Buffers = TypeVar("Buffers")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Workspace:
    """A layer's buffers, kept between calls and reused by a call with sequences of the same shape.

    Pass one to a layer's `forward`, and the arrays of its cache are reused at the next call. A cache is therefore valid
    until the next forward with the same workspace; `backward` raises RuntimeError after it. Arrays that are returned to
    the caller are never buffers of a workspace.

    Only one call may use a workspace at a time. A second call, in another thread or in the function of an
    ops.ClosedLoop, raises RuntimeError. A copy of a workspace, by copy or pickle, is a new, empty one.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._buffers: object = None
        self._parts: dict[str, Workspace] = {}
        self._uses = 0
        self._in_call = Lock()
        keep_freed_memory()

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()

    def __enter__(self) -> None:
        """Begin a call, during which no other call may use this workspace. Raises RuntimeError if one does."""
        if not self._in_call.acquire(blocking=False):
            raise RuntimeError(
                "workspace: expected one that no other call is using, got one in the middle of a call; "
                "give each thread a Workspace of its own"
            )

    def __exit__(self, *_: object) -> None:
        self._in_call.release()

    def part(self, name: str) -> Workspace:
        """Return the workspace of this name, for another layer of the same network; it lives as long as this one."""
        if name not in self._parts:
            self._parts[name] = Workspace()
        return self._parts[name]

    def begin(self) -> int:
        """Begin a new use, which ends the one before; return its ticket for `check`."""
        self._uses += 1
        return self._uses

    def check(self, ticket: int) -> None:
        """Raise RuntimeError if another use has begun since `begin` returned `ticket`."""
        if ticket != self._uses:
            raise RuntimeError(
                "cache: its workspace has been overwritten by a later forward; "
                "call backward before the next forward, or give each forward its own workspace"
            )

    def buffers(self, key: tuple[Any, ...], build: Callable[[], Buffers]) -> Buffers:
        """Return the last result of build(), if it was for the same key; otherwise call build() again.

        key[1] is the shape (T, B, H) of the sequences. Raises MemoryError, with these sizes, if there is no room.
        """
        if key != self._key:
            self._key, self._buffers = None, None  # so that old and new need not fit in memory together
            try:
                self._buffers = build()
            except MemoryError as error:
                steps, batch_size, units = key[1]
                raise MemoryError(
                    f"no room for the arrays of {steps} steps of {batch_size} sequences and {units} units: {error}; "
                    "lower one of them"
                ) from error
            self._key = key
        return self._buffers  # type: ignore[return-value]


@lru_cache
def keep_freed_memory() -> None:
    """Make the C library keep up to KEPT bytes of freed memory for the next arrays, from now on.

    glibc returns freed memory to the system, and each page of it costs a page fault at the next call. They are a tenth
    of the time of a forward pass at T 24, B 128, H 100, half of a step at B 16, H 128, and a quarter of forward and
    backward of keys and values at T 1024, B 8. Other C libraries have no such setting, and are left as they are.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl have no mallopt, and Windows no CDLL(None)
        return
    set_option(MMAP_THRESHOLD, LARGEST)
    set_option(TRIM_THRESHOLD, KEPT)


def unlocked(function: Callable[..., Any]) -> Any:
    """Return the function without what `exclusive` adds: for calls within a call that holds the workspace."""
    return function.__wrapped__  # type: ignore[attr-defined]


def exclusive(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a layer's function refuse a workspace, its option or its cache's, that another call is using."""
    parameters = list(signature(function).parameters)
    place = parameters.index("cache") if "cache" in parameters else None

    @wraps(function)
    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        workspace = options.get("workspace")
        if place is not None:
            cache = arguments[place] if place < len(arguments) else options.get("cache")
            workspace = getattr(cache, "workspace", None) if hasattr(cache, "ticket") else None  # others are refused
        if workspace is None:
            return function(*arguments, **options)
        if not isinstance(workspace, Workspace):
            raise TypeError(f"workspace: expected a Workspace or None, got {type(workspace).__name__}")
        with workspace:
            return function(*arguments, **options)

    return call
