"""Read the output folders of runs and searches, and check everything that a report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..running import typed
from ..running.runs import RunSettings, read_json, settings_and_notes
from .measures import MEASURES, REWARDED

DRAWN_BY_THE_REPORT = "learning_curve.png"
SUFFIXES, FORMATS = (".png", ".gif"), ("PNG", "GIF")


class Picture(NamedTuple):
    """A picture of an output folder."""

    name: str
    kind: str  # PNG or GIF
    data: bytes
    size: tuple[int, int]


class Run(NamedTuple):
    """The output folder of a run. result: None if the run is not finished."""

    folder: Path
    settings: RunSettings
    about: dict[str, Any]  # the command, and the provenance if the run is finished
    result: dict[str, Any] | None
    curve: list[dict[str, float]]
    pictures: list[Picture]

    @property
    def name(self) -> str:
        """Return the name of the folder and of the folder that holds it."""
        return _name(self.folder)

    @property
    def measured(self) -> float | None:
        """Return the task's main figure, None if the run is not finished."""
        return None if self.result is None else MEASURES[self.settings.task].of(self.result)


class Search(NamedTuple):
    """The output folder of a search. found: the content of search.json."""

    folder: Path
    settings: RunSettings
    found: dict[str, Any]
    pictures: list[Picture]

    @property
    def name(self) -> str:
        """Return the name of the folder and of the folder that holds it."""
        return _name(self.folder)


def read(folder: Path, kinds: Mapping[str, type[RunSettings]]) -> Run | Search:
    """Return the run or search of an output folder. Raise OSError or ValueError if it cannot be used.

    kinds: the settings class of each task.
    """
    expected = f"runs: expected the output folder of a run or a search, got {folder}"
    if not folder.is_dir():
        what = "which is a file; name its folder" if folder.exists() else "which does not exist"
        raise NotADirectoryError(f"{expected}, {what}")
    if (folder / "search.json").is_file():
        return _search(folder, kinds)
    if not (folder / "settings.json").is_file():
        raise FileNotFoundError(f"{expected}, which holds no settings.json; name a folder that python -m tasks wrote")
    settings, stored = _settings(folder / "settings.json", kinds)
    result = _result(folder / "result.json", settings.task) if (folder / "result.json").is_file() else None
    lines = _lines(folder / "metrics.jsonl") if result is None else result["curve"]
    curve = _curve(folder / ("metrics.jsonl" if result is None else "result.json"), lines, settings.task)
    return Run(folder, settings, result or stored, result, curve, _pictures(folder))


def _name(folder: Path) -> str:
    return "/".join(folder.resolve().parts[-2:])


def _settings(path: Path, kinds: Mapping[str, type[RunSettings]]) -> tuple[RunSettings, dict[str, Any]]:
    """Return the settings in settings.json or search.json, and everything else in the file."""
    try:
        stored = read_json(path)
        if stored.get("task") not in kinds:
            raise ValueError(f"task: expected one of {', '.join(kinds)}, got {stored.get('task')!r}")
        given = stored["settings"] if path.name == "search.json" else stored
        return settings_and_notes(given, kinds[stored["task"]], path)[0], stored
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "the settings of a run", error) from error


def _result(path: Path, task: str) -> dict[str, Any]:
    try:
        result = read_json(path)
        if result.get("task") != task:
            raise ValueError(f"task: expected {task}, as in settings.json, got {result.get('task')!r}")
        _check_numbers(result, MEASURES[task].needed)
        if not isinstance(result.get("curve"), list):
            raise ValueError("curve: expected a list, found none")
        if task not in REWARDED:
            _check_numbers(result.get("best_on_validation"), MEASURES[task].curve)
        elif task == "catch" and result.get("frames_to_learn") is not None:  # None: it did not learn
            _check_numbers(result, ("frames_to_learn",))
        if "generalization" in result:
            for name in ("pairs", "separators"):
                errors = result["generalization"][name]
                _check_numbers(errors, [str(int(number)) for number in errors])
        return result
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "the result of a run", error) from error


def _lines(path: Path) -> list[Any]:
    """Return the lines of metrics.jsonl; none if there is no file yet."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise _damaged(path, "a line of JSON for each evaluation", f"line {number}: {error}") from error
    return found


def _curve(path: Path, lines: Sequence[Any], task: str) -> list[dict[str, float]]:
    for number, line in enumerate(lines, 1):
        try:
            _check_numbers(line, MEASURES[task].curve)
        except (TypeError, ValueError) as error:
            raise _damaged(path, "the metrics of each evaluation", f"evaluation {number}: {error}") from error
    return list(lines)


def _search(folder: Path, kinds: Mapping[str, type[RunSettings]]) -> Search:
    path = folder / "search.json"
    settings, found = _settings(path, kinds)
    try:
        space, trials = typed.checked(_SearchFile, {"space": found["space"], "trials": found["trials"]}).values()
        for trial in trials:
            if missing := [key for key in ("number", *space, settings.objective.name) if key not in trial]:
                raise ValueError(f"trials: expected {', '.join(missing)} of each trial, got {trial!r}")
            if trial[settings.objective.name] is not None:
                _check_numbers(trial, (settings.objective.name,))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "the trials of a search", error) from error
    return Search(folder, settings, found, _pictures(folder))


class _SearchFile:
    space: dict
    trials: list


def _pictures(folder: Path) -> list[Picture]:
    """Return the pictures of an output folder by name, except the one that the report draws itself."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name == DRAWN_BY_THE_REPORT or path.name.startswith("."):
            continue
        data = path.read_bytes()
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as picture:
                picture.load()
                found.append(Picture(path.name, str(picture.format), data, picture.size))
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"runs: expected a picture, PNG or GIF, in {path}: {error}; mend or delete the file"
            ) from error
    return found


def _check_numbers(values: Any, names: Sequence[str]) -> None:
    """Raise ValueError unless these are named values with a finite number for each name."""
    if not isinstance(values, Mapping):
        raise ValueError(f"expected named values, got {values!r}")
    for name in names:
        if not typed.fits(values.get(name), float):
            raise ValueError(f"{name}: expected a finite number, got {values.get(name)!r}")


def _damaged(path: Path, expected: str, error: object) -> ValueError:
    return ValueError(f"runs: expected {expected} in {path}: {error}; mend the file, or leave this folder out")
