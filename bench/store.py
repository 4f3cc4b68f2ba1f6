"""Store measured runs in bench/results, and load them.

    runs.jsonl        one line for each run: its name, provenance, settings and results; sorted by name
    searches.jsonl    one line for each search, with its trials
    TASK.jsonl        one line for each run of the task: its curve, column by column, and its wrong test answers
    pictures/         pictures of runs that a page shows

A run's name is GROUP/LAYER-R50-seed0. The group is the task, or TASK-NAME for runs outside the paper's tables. Names of
retrieval, mqar and longrecall also have K, names of catch N, and names of keyvalue S, its number of keys.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastweights_np.files import write_text
from tasks.__main__ import TASKS
from tasks.running.runs import read_json

STORE = Path(__file__).parent / "results"
SCRATCH = Path("runs") / "bench"  # the folder of measurements, tables and figures without --store
RUNS, SEARCHES = "runs.jsonl", "searches.jsonl"
LONG = ("curve", "confusion", "wrong_answers")  # entries of a run that are stored in TASK.jsonl
NEEDED = {RUNS: ("run", "task", "settings", "seconds"), SEARCHES: ("search", "task", "trials")}  # in each line
SIZES = {"pairs": "K", "size": "N", "keys": "S"}  # part of the name, before R, if a task has it
# between runs of one cell: they do not change its results, or name a run of the same seed
MAY_DIFFER = ("seed", "test_curve", "generalize", "initial")
ABSOLUTE = re.compile(r"""(?:^|(?<=[\s='"]))/[^\s'"]+""")  # paths in a command

Run = dict[str, Any]


def add(folder: Path, group: str = "", replace: bool = False) -> str:
    """Store the result of a finished run, or of a search, and return its name.

    A group, such as "ablation", keeps a run out of the paper's tables.

    Raise FileNotFoundError if the run did not finish, FileExistsError if its name is taken and `replace` is not set,
    ValueError if settings except the seed differ from the runs with other seeds.
    """
    if not re.fullmatch(r"[\w.-]*", group):
        raise ValueError(f"group: expected letters, digits, '.', '_' and '-', got {group!r}")
    if (folder / "search.json").exists():
        return _add_search(folder, group, replace)
    path = folder / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"folders: expected the folder of a finished run, found no result.json in {folder}")
    try:
        result = read_json(path)
        settings, task, curve = result["settings"], result["task"], _columns(result["curve"])
        name = name_of(f"{task}-{group}" if group else task, settings)
        _check(RUNS, {"run": name} | result)
        if task not in TASKS:
            raise ValueError(f"its task is {task!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"folders: expected the result of a finished run in {path}: {error!r}; leave it out"
        ) from error
    read(f"{task}.jsonl")  # raises before a file is changed
    of_seeds = name.removesuffix(str(settings["seed"]))
    for fellow in read(RUNS):
        if fellow["run"].startswith(of_seeds) and fellow["run"] != name:
            theirs = before_options(task) | fellow["settings"]
            odd = [key for key in settings if key not in MAY_DIFFER and theirs.get(key) != settings[key]]
            if odd:
                raise ValueError(
                    f"folders: expected the settings of {fellow['run']}, except the seed; {folder} differs in "
                    f"{', '.join(odd)}; keep it apart with --group NAME"
                )
    for begun, key in ((settings, "initial"), (result.get("origin") or {}, "run")):
        if begun.get(key):
            begun[key] = _in_a_checkout(Path(begun[key]))
    _leave_out_the_folders_of_this_machine(result)
    short = {key: value for key, value in result.items() if key not in LONG}
    long = {key: value for key, value in result.items() if key in LONG} | {"curve": curve}
    _put(RUNS, {"run": name} | short, replace, folder)
    _put(f"{task}.jsonl", {"run": name} | long, True, folder)
    return name


def _in_a_checkout(path: Path) -> str:
    """Return a run's folder without the folders of this machine: from the current folder on, or its last two names."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else Path(*path.parts[-2:]))


def _leave_out_the_folders_of_this_machine(found: Run) -> None:
    """Shorten the absolute paths in the command of a run or search, and in the options of a search."""

    def shorter(text: str) -> str:
        return ABSOLUTE.sub(lambda path: _in_a_checkout(Path(path[0])), text)

    if "command" in found:
        found["command"] = shorter(found["command"])
    if "options" in found:
        found["options"] = [shorter(option) for option in found["options"]]


def name_of(group: str, settings: Run) -> str:
    """Return the name of a run with these settings in this group."""
    size = next((f"-{letter}{settings[key]}" for key, letter in SIZES.items() if key in settings), "")
    return f"{group}/{settings['layer']}{size}-R{settings['hidden_size']}-seed{settings['seed']}"


def _add_search(folder: Path, group: str, replace: bool) -> str:
    found = read_json(folder / "search.json")
    if "best" not in found or found.get("left"):
        raise FileNotFoundError(f"folders: expected a complete search, found unfinished trials in {folder}")
    _leave_out_the_folders_of_this_machine(found)
    name = f"search-{group}/{folder.name}" if group else f"search/{folder.name}"
    _put(SEARCHES, {"search": name} | found, replace, folder)
    return name


def load(group: str) -> list[Run]:
    """Return all stored runs of a task or group, with their curves, by seed. For "search" return all searches."""
    if group.startswith("search"):
        return [found for found in read(SEARCHES) if found["search"].startswith(f"{group}/")]
    runs = [run for run in read(RUNS) if run["run"].startswith(f"{group}/")]
    long = {run["run"]: run for task in {run["task"] for run in runs} for run in read(f"{task}.jsonl")}
    for run in runs:
        if run["run"] not in long:
            path, name = STORE / f"{run['task']}.jsonl", run["run"]
            raise ValueError(
                f"{path}: expected a line of {name}, as in {RUNS}, found none; restore it, or add it with --replace"
            )
    whole = [run | long[run["run"]] | {"curve": _rows(long[run["run"]]["curve"])} for run in runs]
    return sorted(whole, key=lambda run: run["settings"]["seed"])


def read(file: str) -> list[Run]:
    """Return the lines of one of the store's files; none if there is no file.

    Raise ValueError for an invalid line, and for a name that is in two lines.
    """
    path = STORE / file
    return [dict(line) for line in _parsed(path, path.read_bytes() if path.exists() else b"")]


@lru_cache(maxsize=8)  # tables read the same files for each of their cells
def _parsed(path: Path, content: bytes) -> list[Run]:
    """Return the lines of a file with this content."""
    found = dict[str, Run]()
    # lines of bytes: JSON may hold characters at which splitlines of text would split
    for number, line in enumerate(content.splitlines(), 1):
        try:
            stored = json.loads(line)
            _check(path.name, stored)
            if _name(stored) in found:
                raise ValueError(f"{_name(stored)} is in an earlier line, too")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: expected what bench add stores: {error}; restore it") from error
        found[_name(stored)] = stored
    return list(found.values())


def _check(file: str, line: Any) -> None:
    """Raise ValueError unless a line of one of the store's files has a name and all that is needed."""
    if not isinstance(line, dict):
        raise ValueError(f"it holds a {type(line).__name__} instead of an object")
    needed = NEEDED.get(file, ("run", "curve"))
    if missing := [key for key in needed if key not in line]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if not isinstance(line[needed[0]], str):
        raise ValueError(f"its name is no text: {line[needed[0]]!r}")


def write(file: str, lines: Iterable[Run]) -> None:
    """Write one of the store's files, sorted by name."""
    STORE.mkdir(parents=True, exist_ok=True)
    text = "".join(
        json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in sorted(lines, key=_name)
    )
    write_text(STORE / file, text)


def _put(file: str, line: Run, replace: bool, folder: Path) -> None:
    """Add a line to one of the store's files, or replace it."""
    stored = read(file)
    others = [other for other in stored if _name(other) != _name(line)]
    if not replace and len(others) < len(stored):
        raise FileExistsError(
            f"folders: expected no stored run by the name of {folder}, found {_name(line)}; "
            "keep the new one apart with --group NAME, or replace the stored one with --replace"
        )
    write(file, [*others, line])


def _name(line: Run) -> str:
    return str(line.get("run") or line["search"])


def _columns(rows: list[Run]) -> dict[str, list[Any]]:
    """Return the curve's lines as one list for each name."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _rows(columns: dict[str, list[Any]]) -> list[Run]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def before_options(task: str) -> Run:
    """Return the value that each setting had in runs older than the option: its default, with few exceptions."""
    kind = importlib.import_module(f"tasks.{task}").Settings
    return kind().as_json() | dict(kind.earlier)
