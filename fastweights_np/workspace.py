"""Buffers that successive calls of one layer share, so that training does not allocate (and fault in) them anew."""

from __future__ import annotations

from types import ModuleType

from .backend import Array


class Workspace:
    """Named buffers, kept between calls and handed out again when shape, dtype and module are the same.

    Give one to a layer's `forward` and the arrays that its cache needs are reused at the next call. One forward's
    cache is therefore good until the next forward with the same workspace: `backward` then raises RuntimeError.
    Arrays that are returned to the caller never come from here.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}
        self._uses = 0

    def begin(self) -> int:
        """Starts a new use, which ends the one before; returns its ticket for `check`."""
        self._uses += 1
        return self._uses

    def check(self, ticket: int) -> None:
        """Raises RuntimeError if another use has begun since `ticket` was given."""
        if ticket != self._uses:
            raise RuntimeError(
                "cache: its workspace has been overwritten by a later forward; "
                "call backward before the next forward, or give each forward its own workspace"
            )

    def empty(self, xp: ModuleType, name: str, shape: tuple[int, ...], dtype: object) -> Array:
        """An uninitialised array of this shape and dtype: the buffer of that name if it fits, else a new one."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != shape or buffer.dtype != dtype or type(buffer) is not xp.ndarray:
            buffer = self._buffers[name] = xp.empty(shape, dtype)
        return buffer
