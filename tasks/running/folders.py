"""Make, lock and check the output folder of a run. One run creates it, and one process at a time writes to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fastweights_np import checkpoint, files

from . import checkpoints, locks
from .provenance import provenance
from .runs import RunSettings, write_json


@contextmanager
def open_folder(settings: RunSettings) -> Iterator[Path]:
    """Open the run's output folder for the block: new or resumed, locked, writable, with settings.json in it.

    The default runs/TASK-DATE-TIME gets a suffix, -2 and so on, if that folder exists. A run that continues another one
    gets a copy of its checkpoint. Unfinished files of killed writers are removed. A new folder is removed if the block
    raises ValueError or TypeError before the first result.

    Raise FileExistsError if the folder holds files, locks.FolderInUse if another process writes to it, and OSError if
    it cannot be written. Raise ValueError for out with resume, and for an initial run that does not fit.
    """
    if settings.resume is not None and settings.out is not None:
        raise ValueError("out: expected none with --resume, which writes to the folder that it names; leave --out out")
    about: dict[str, Any] = {"task": settings.task, "command": provenance()["command"]}
    start = checkpoints.load_for_longer(settings) if settings.continues is not None else None
    if start is not None:
        about["origin"] = _origin(settings.continues, "everything", checkpoints.updates_made(*start))
    elif settings.initial is not None and settings.resume is None:
        updates = checkpoints.initial_params(settings.initial).updates
        about["origin"] = _origin(settings.initial, "best parameters", updates)
    about |= settings.kept_places()
    with ExitStack() as stack:
        with _explained(settings):
            folder = settings.resume or _new_folder(settings, stack)
            stack.enter_context(locks.locked(folder))
            if settings.resume is not None and not os.access(folder, os.W_OK):
                raise PermissionError("it is read-only")
        if settings.resume is None:
            _check_empty(folder)
        with _explained(settings):
            files.remove_unfinished(folder)
            if start is not None:
                checkpoint.save(folder / checkpoints.NAME, *start)
            if settings.resume is None:
                write_json(folder / "settings.json", about | settings.as_json())
        try:
            yield folder
        except (ValueError, TypeError):
            if settings.resume is None and not (folder / "metrics.jsonl").exists():
                _remove_own_files(folder)  # no result yet: the same --out can be used again
            raise


def _origin(run: Path | None, taken: str, updates: int) -> dict[str, Any]:
    return {"run": str(Path(run or "").resolve()), "taken": taken, "updates": updates}


def _new_folder(settings: RunSettings, stack: ExitStack) -> Path:
    """Return the folder that --out names, or a new default one. A new folder is removed if it stays empty."""
    folder = wanted = settings.out or Path("runs") / time.strftime(f"{settings.task}-%Y%m%d-%H%M%S")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            folder.mkdir()
            stack.callback(_remove_if_empty, folder)
            return folder
        except FileExistsError:
            if settings.out is not None:
                folder.mkdir(exist_ok=True)  # raises for a file
                return folder
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _remove_own_files(folder: Path) -> None:
    with suppress(OSError):
        for name in ("settings.json", checkpoints.NAME):
            (folder / name).unlink(missing_ok=True)


def _check_empty(folder: Path) -> None:
    """Raise FileExistsError if the folder holds files."""
    for entry in folder.iterdir():
        if entry.name != locks.NAME and files.UNFINISHED not in entry.name:
            raise FileExistsError(
                f"out: expected an empty or a new folder, got {folder}, which holds files; "
                f"resume the run in it by --resume {folder}, or choose another --out"
            )


@contextmanager
def _explained(settings: RunSettings) -> Iterator[None]:
    """Add the option and the remedy to an error about the folder."""
    option = "out" if settings.resume is None else "resume"
    try:
        yield
    except locks.FolderInUse as error:
        other = "or choose another --out" if settings.resume is None else "then resume it"
        raise locks.FolderInUse(f"{option}: {error}; wait until that ends, or stop it, {other}") from None
    except OSError as error:
        folder = settings.resume or settings.out or "runs"
        message = f"{option}: expected a folder that can be written, got {folder}: {error}; choose another --out"
        explained = OSError(message)
        explained.errno = error.errno
        raise explained from error
