"""Write checkpoints only if all numbers are finite, and read them only if they fit the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from fastweights_np import checkpoint, checks, distributed, to_host
from fastweights_np.structures import difference
from fastweights_np.trees import flatten

from . import typed
from .runs import NOT_FINITE, RunSettings, settings_of

NAME = "checkpoint.npz"
ANEW = "start anew with another --out"


class Initial(NamedTuple):
    """The best parameters of the run that --initial names, the updates that made them, and the identity of its data."""

    params: dict[str, Any]
    updates: int
    identity: dict[str, Any]


def save(folder: Path, arrays: dict[str, Any], info: dict[str, Any], when: str) -> None:
    """Write the run's checkpoint. Raise FloatingPointError if a number is not finite; the previous one is kept."""
    arrays = to_host(arrays)
    for name, array in flatten(arrays).items():
        if not numpy.isfinite(array).all():
            raise FloatingPointError(f"{name}: expected finite numbers, got others at {when}; {NOT_FINITE}")
    try:
        json.dumps(info, allow_nan=False)
    except ValueError as error:
        raise FloatingPointError(f"metrics: expected finite numbers, got others at {when}; {NOT_FINITE}") from error
    checkpoint.save(folder / NAME, arrays, info)


def load(folder: Path, settings: RunSettings) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return (arrays, info) of the run's checkpoint, or None if the run was stopped before its first one.

    The caller compares shapes and counters with the run. Raise FileNotFoundError if the checkpoint is lost, and
    ValueError if it is damaged, not finite, or belongs to other settings.
    """
    path, (groups, info_types) = folder / NAME, settings.checkpoint
    if not path.exists() and not (folder / "metrics.jsonl").exists():
        return None
    arrays, info = _read(path)
    info = {"ranks": 1} | info  # older checkpoints are of one process
    names = [name for name in (*groups, *info_types.__annotations__) if name not in settings.since]
    remedy = f"{path} is not of this task; {ANEW}"
    checks.keys("checkpoint", arrays | info, names, settings.since, remedy)
    try:
        info = typed.checked(info_types, info)
    except (ValueError, TypeError) as error:
        raise unfit(path, error) from error
    for name, least in (("seconds", 0), ("ranks", 1)):
        if info[name] < least:
            raise unfit(path, f"{name}: expected at least {least}, got {info[name]}")
    settings.check_resumed(info["settings"], path)
    return arrays, info


def note_ranks(before: int) -> None:
    """Print that a run resumes with another number of ranks, if it does."""
    now = distributed.ranks().size
    if now != before:
        print(
            f"ranks: {now} resume what {before} began: results agree with an uninterrupted run up to rounding error, "
            "not bit for bit",
            flush=True,
        )


def load_for_longer(settings: RunSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the checkpoint of the run that these settings continue, adapted to the longer run. Raise as `load`."""
    run, length = settings.continues, settings.length
    assert run is not None
    before = settings_of(run, type(settings))
    stored = load(run, replace(settings, **{length: getattr(before, length)}))
    if stored is None:
        raise ValueError(f"resume: expected a run with a checkpoint, found none in {run}; resume it as it is first")
    arrays, info = stored
    return settings.longer(arrays, getattr(before, length)), info | {"settings": settings.as_json()}


def initial_params(run: Path) -> Initial:
    """Return the best parameters of a run, with what describes them. Raise OSError or ValueError."""
    path = run / NAME
    if not path.is_file():
        raise FileNotFoundError(f"initial: expected the folder of a run with a checkpoint, found none in {run}")
    arrays, info = _read(path)
    best = arrays.get("best_params", arrays.get("params"))
    try:
        updates = updates_made(arrays, info.get("best") or info)
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(path, f"expected the updates of a run, got none ({error})", "name another run") from error
    if not isinstance(best, dict):
        raise unfit(path, "params: expected the parameters of a run, found none", "name another run")
    return Initial(best, updates, info.get("identity", {}))


def updates_made(arrays: dict[str, Any], info: dict[str, Any]) -> int:
    """Return the number of updates behind a checkpoint: supervised tasks store the total, catch stores each actor's."""
    return int(info["update"]) if "update" in info else int(numpy.sum(arrays["counts"]["updates"]))


def check_arrays(path: Path, found: dict[str, Any], expected: dict[str, Any], remedy: str = "") -> None:
    """Raise ValueError unless the arrays of a checkpoint have these names, shapes and dtypes."""
    if misfit := difference("arrays", found, expected):
        raise unfit(path, f"{misfit}, which does not fit its settings", remedy)


def check_finite(path: Path, arrays: Any, remedy: str = "") -> None:
    """Raise ValueError unless a checkpoint holds nested dicts of arrays of finite numbers."""
    try:
        flat = flatten(arrays)
    except (TypeError, ValueError) as error:
        raise unfit(path, error, remedy) from error
    for name, array in flat.items():
        if not isinstance(array, numpy.ndarray) or array.dtype.kind not in "fiu" or not numpy.isfinite(array).all():
            raise unfit(path, f"{name}: expected an array of finite numbers, got others", remedy)


def unfit(path: Path, why: object, remedy: str = "") -> ValueError:
    """Return the error for a checkpoint that does not fit the run."""
    return ValueError(f"checkpoint {path}: {why}; {remedy or ANEW}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays, info = checkpoint.load(path)
    check_finite(path, arrays)
    return arrays, info
