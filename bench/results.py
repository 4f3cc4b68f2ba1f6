"""The store of measured runs: one JSON file a run, bench/results/TASK/LAYER-R50-seed0.json, as the task wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

STORE = Path(__file__).parent / "results"


def add(folder: Path) -> Path:
    """Stores the result of a finished run; returns the file. Raises FileNotFoundError if the run did not finish."""
    source = folder / "result.json"
    if not source.exists():
        raise FileNotFoundError(
            f"folders: expected the output folder of a finished run, found no result.json in {folder}"
        )
    result = json.loads(source.read_text())
    settings = result["settings"]
    target = STORE / result["task"] / f"{settings['layer']}-R{settings['hidden_size']}-seed{settings['seed']}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def load(task: str) -> list[dict[str, Any]]:
    """All stored runs of a task, by seed."""
    runs = [json.loads(path.read_text()) for path in sorted((STORE / task).glob("*.json"))]
    return sorted(runs, key=lambda run: run["settings"]["seed"])
