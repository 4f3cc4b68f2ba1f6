"""The store of measured runs: bench/results/TASK/LAYER-R50-seed0.json, a file a run, as the task wrote it.

Retrieval's names tell K too, fast_weights-K4-R50-seed0.json, and catch's N.
"""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

STORE = Path(__file__).parent / "results"
# which picture of a run is stored, too; none of faces, whose pixels belong to others
PICTURED = {"retrieval": "attention.png", "mnist": "attention.png", "catch": "episode.png"}
SIZES = {"pairs": "K", "size": "N"}  # what names tell beside R, where a task has it
MAY_DIFFER = ("seed", "test_curve")  # between runs that count as one: test_curve changes no number of a run


def add(folder: Path, group: str = "", replace: bool = False) -> Path:
    """Stores the result of a finished run, or of a search, and its picture; returns the result's file.

    A group, such as "ablation", has a folder of its own, bench/results/TASK-GROUP, and stays out of the paper's tables.

    Raises FileNotFoundError if the run did not finish, FileExistsError if its place is taken and `replace` is not set,
    ValueError if its settings, but for the seed, are not those of its fellow seeds.
    """
    if (folder / "search.json").exists():
        found = json.loads((folder / "search.json").read_text())
        if "best" not in found or found.get("left"):
            raise FileNotFoundError(f"folders: expected a search that is complete, found trials left in {folder}")
        target = STORE / (f"search-{group}" if group else "search") / f"{folder.name}.json"
        return _store(folder / "search.json", folder / "search.png", target, replace)
    source = folder / "result.json"
    if not source.exists():
        raise FileNotFoundError(
            f"folders: expected the output folder of a finished run, found no result.json in {folder}"
        )
    result = json.loads(source.read_text())
    settings = result["settings"]
    store = STORE / (f"{result['task']}-{group}" if group else result["task"])
    size = next((f"-{letter}{settings[key]}" for key, letter in SIZES.items() if key in settings), "")
    name = f"{settings['layer']}{size}-R{settings['hidden_size']}-seed"
    target = store / f"{name}{settings['seed']}.json"
    for fellow in sorted(set(store.glob(f"{name}*.json")) - {target}):
        # settings that are younger than a stored run had what is now their default
        theirs = _defaults(result["task"]) | json.loads(fellow.read_text())["settings"]
        odd = [key for key in settings if key not in MAY_DIFFER and theirs.get(key) != settings[key]]
        if odd:
            raise ValueError(
                f"folders: expected the settings of {fellow.relative_to(STORE)}, but for the seed; {folder} differs in "
                f"{', '.join(odd)}; keep it apart with --group NAME"
            )
    pictured = PICTURED.get(result["task"])
    return _store(source, folder / pictured if pictured else None, target, replace)


def _defaults(task: str) -> dict[str, Any]:
    return importlib.import_module(f"tasks.{task}").Settings().as_json()


def _store(source: Path, picture: Path | None, target: Path, replace: bool) -> Path:
    if target.exists() and not replace:
        raise FileExistsError(
            f"folders: expected no stored run in the place of {source.parent}, found {target.relative_to(STORE)}; "
            "keep the new one apart with --group NAME, or put it in that place with --replace"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if picture is not None and picture.exists():
        shutil.copyfile(picture, target.with_suffix(".png"))
    return target


def load(task: str) -> list[dict[str, Any]]:
    """All stored runs of a task, or of a group of its runs, by seed; of "search", all searches."""
    runs = [json.loads(path.read_text()) for path in sorted((STORE / task).glob("*.json"))]
    return sorted(runs, key=lambda run: run.get("settings", {}).get("seed", 0))
