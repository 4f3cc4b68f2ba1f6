"""Load the network of a run: its settings and its best parameters, checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from fastweights_np import checkpoint
from fastweights_np.parts import Tree

from . import checkpoints, runs, typed


class Trained(NamedTuple):
    """The settings of a run, its network, the best parameters so far, and a note if the run is not finished."""

    settings: Any
    network: Any
    params: Tree
    note: str


def load(run: Path, option: str, kind: type[runs.RunSettings], make: Callable[[Any], Any]) -> Trained:
    """Return the network of a run. Raise OSError or ValueError if it cannot be used.

    run: the output folder, or its checkpoint.npz.
    option: the option that names the run, for the messages.
    kind: the settings of the task.
    make: a function that returns the network from the settings. The network has `init`.
    """
    path, remedy = run / checkpoints.NAME if run.is_dir() else run, "name another run"
    groups, info_types = kind.checkpoint
    best = "best_params" if "best_params" in groups else "params"
    arrays, info = checkpoint.load(path)
    expected = f"{option}: expected a run of {kind.task}, got {path}"
    if not isinstance(arrays, dict) or best not in arrays:
        raise ValueError(f"{expected}, which has no {best}; {remedy}")
    try:
        settings, _ = runs.settings_and_notes(info.get("settings"), kind, path)
        if "curve" in info_types.__annotations__:
            curve = typed.checked(info_types, {"curve": info.get("curve")})["curve"]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}: {error}") from error
    network, params, note = make(settings), arrays[best], ""
    checkpoints.check_arrays(path, params, network.init(numpy.random.default_rng(0), settings.dtype), remedy)
    checkpoints.check_finite(path, params, remedy)
    if "curve" in info_types.__annotations__ and len(curve) < (whole := getattr(settings, kind.length)):
        progress = f"epoch {len(curve)} of {whole}"
        note = f"{path}: the run is not finished ({progress}); its best parameters so far answer"
    return Trained(settings, network, params, note)
