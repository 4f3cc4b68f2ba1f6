"""Map the error of a failed run to an exit code and one sentence: the file, what is kept, and the remedy."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Any

from fastweights_np.files import UNFINISHED

from .checkpoints import NAME
from .runs import DIVERGED, FAILED, INTERRUPTED, Interruption, RunFailed

# further exit codes: options, data or folder cannot be used; the disk is full; the folder can no longer be written; out
# of memory
REFUSED, DISK_FULL, FOLDER_LOST, NO_MEMORY = 2, 4, 5, 6
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE}
# settings that determine the memory of a run
SIZES = (
    "batch_size", "games", "hidden_size", "training_size", "validation_size", "test_size", "pairs", "copies", "heads",
    "size", "keys", "tokens", "vocabulary", "actors", "steps", "inner_steps", "gap", "context",
)  # fmt: skip
TOO_LARGE = ("array is too big", "maximum allowed dimension", "maximum allowed size")  # NumPy's words, in lower case


def explained(error: BaseException, settings: Any, folder: Path | None, program: str) -> tuple[int, str]:
    """Return the exit code and the sentence for an error. Raise it again if it is a bug of this program.

    settings: the settings of the run; None if the error came before them.
    folder: the output folder; None if the error came before it was made.
    program: the command without its options.
    """
    resume = f"{program} --resume {shlex.quote(str(folder))}"
    kept = "no folder was made" if folder is None else _kept(folder)
    if isinstance(error, Interruption | KeyboardInterrupt):
        return INTERRUPTED, "interrupted; " + (kept if folder is None else f"{kept}; resume with: {resume}")
    if isinstance(error, FloatingPointError):
        return DIVERGED, f"{error}; {kept}"
    if isinstance(error, RunFailed):
        return FAILED, str(error)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _is_too_large(error):
        return NO_MEMORY, f"out of memory: {error}; lower {_sizes(settings)}"
    if number in NO_ROOM:
        again = "start again" if folder is None else f"resume with: {resume}"
        return DISK_FULL, f"{_described(error)}; {kept}; make room, then {again}"
    if number in NOT_WRITABLE and folder is not None:
        if not folder.exists():
            return FOLDER_LOST, f"{folder}: the folder was deleted during the run, with all files in it; start again"
        return FOLDER_LOST, f"{_described(error)}; {kept}; make the folder writable, then resume with: {resume}"
    if isinstance(error, ValueError | TypeError | OSError | RuntimeError):
        return REFUSED, str(error)
    raise error


def _kept(folder: Path) -> str:
    if (folder / "result.json").exists():
        return f"the result in {folder} is kept"
    there = (folder / NAME).exists()
    return f"the last checkpoint in {folder} is kept" if there else f"{folder} holds no checkpoint yet"


def _described(error: Any) -> str:
    """Return the name of the file and the system's error message."""
    if not error.filename or not error.strerror:
        return str(error)
    return f"{str(error.filename).partition(UNFINISHED)[0]}: {os.strerror(error.errno)}"


def _is_too_large(error: BaseException) -> bool:
    return isinstance(error, OverflowError) or any(text in str(error).lower() for text in TOO_LARGE)


def _sizes(settings: Any) -> str:
    """Return the sizes above their defaults as options; if there are none, the first three sizes."""
    found = {name: value for name in SIZES if (value := getattr(settings, name, None)) is not None}
    raised = {name: value for name, value in found.items() if value > (getattr(type(settings), name) or 1)}
    asked = raised or dict(list(found.items())[:3])
    return " or ".join(f"--{name.replace('_', '-')}, {value}" for name, value in asked.items()) or "the sizes"
