"""The store of measured runs: bench/results/TASK/LAYER-K4-R50-seed0.json, a file a run, as the task wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

STORE = Path(__file__).parent / "results"


def add(folder: Path, group: str = "") -> Path:
    """Stores the result of a finished run, and its picture of the attention; returns the result's file.

    A group, such as "ablation", has a folder of its own, bench/results/TASK-GROUP, and stays out of the paper's tables.

    Raises FileNotFoundError if the run did not finish, FileExistsError if a run with other settings has that name.
    """
    source = folder / "result.json"
    if not source.exists():
        raise FileNotFoundError(
            f"folders: expected the output folder of a finished run, found no result.json in {folder}"
        )
    result = json.loads(source.read_text())
    settings = result["settings"]
    name = f"{settings['layer']}-K{settings['pairs']}-R{settings['hidden_size']}-seed{settings['seed']}"
    target = STORE / (f"{result['task']}-{group}" if group else result["task"]) / f"{name}.json"
    if target.exists() and json.loads(target.read_text())["settings"] != settings:
        raise FileExistsError(
            f"folders: expected the settings of {target}, which {folder} would replace, got others; "
            "remove that file first if the new run is to stand in its place"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if (folder / "attention.png").exists():
        shutil.copyfile(folder / "attention.png", target.with_suffix(".png"))
    return target


def load(task: str) -> list[dict[str, Any]]:
    """All stored runs of a task, by seed."""
    runs = [json.loads(path.read_text()) for path in sorted((STORE / task).glob("*.json"))]
    return sorted(runs, key=lambda run: run["settings"]["seed"])
