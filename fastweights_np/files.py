"""Write a file completely or not at all: a process killed at any moment leaves the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".writing-"  # between a file's name and a random suffix, while it is being written


@contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file in the folder of `path`, which replaces `path` when the block ends without an error.

    The temporary name is random and created exclusively: two writers never share it, and an existing link is not
    followed. The content reaches the disk before the rename. After an error the temporary file is removed.

    Raises OSError, which names the path, if the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}{UNFINISHED}{os.urandom(4).hex()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:  # the caller does not know the temporary name
        error.filename = str(path if path.parent.is_dir() else path.parent)
        raise
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(unfinished)
        if isinstance(error, OSError) and error.filename is None:  # the error of a write has no file name
            error.filename = str(path)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, completely or not at all. Raises OSError as `whole` does."""
    with whole(path) as file:
        file.write(text.encode())


def remove_unfinished(folder: str | Path) -> None:
    """Remove the temporary files of killed writers from the folder. No other process may be writing there."""
    for left in Path(folder).glob(f"*{UNFINISHED}*"):
        left.unlink(missing_ok=True)
