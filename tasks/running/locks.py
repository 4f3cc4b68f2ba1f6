"""Lock a folder so that only one process writes to it. The kernel releases the lock when the process ends or is killed.

The lock is `flock` on a file in the folder, which also names the process. Windows has no `flock`, and some network file
systems do not support it. There nothing prevents a second process; on such a file system a warning is printed.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"  # the file is removed with the lock; a killed process leaves it behind, unlocked
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[int] = set()  # descriptors; a forked child closes its copies, else the lock would outlive the parent


class FolderInUse(RuntimeError):
    """Another process holds the lock; the message names it."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock within the block. Raise FolderInUse if another process holds it, OSError as `open`."""
    path, descriptor = folder / NAME, None
    if fcntl is not None:
        try:
            descriptor = _lock(path)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            print(f"tasks: {folder} cannot be locked ({error}): do not start a second run in it", file=sys.stderr)
    try:
        yield
    finally:
        if descriptor is not None and descriptor in _held:  # not in a forked child
            with suppress(OSError):  # the folder is gone
                if _is_at(path, descriptor):
                    path.unlink()
            _held.remove(descriptor)
            os.close(descriptor)


def _lock(path: Path) -> int:
    """Return the descriptor that holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # else the previous holder has removed it
                with suppress(OSError):  # on a full disk the lock works, but names no process
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} on {platform.node()}".encode())
                _held.add(descriptor)
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "that has just started"
            raise FolderInUse(f"{path.parent} is in use by process {holder}") from None
        finally:
            if descriptor not in _held:
                os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
