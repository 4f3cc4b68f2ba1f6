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
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastweights_np.files import remove_unfinished, whole
from tasks.__main__ import TASKS
from tasks.running.locks import FolderInUse, locked
from tasks.running.runs import read_json

STORE = Path(__file__).parent / "results"
SCRATCH = Path("runs") / "bench"  # the folder of measurements, tables and figures without --store
RUNS, SEARCHES = "runs.jsonl", "searches.jsonl"
LONG = ("curve", "confusion", "wrong_answers")  # entries of a run that are stored in TASK.jsonl
# entries of each line, with their types; the first one is the name
NEEDED: dict[str, dict[str, type | tuple[type, ...]]] = {
    RUNS: {"run": str, "task": str, "settings": dict, "seconds": (int, float)},
    SEARCHES: {"search": str, "task": str, "trials": list, "best": dict},
}
NEEDED_OF_TASK = {"run": str, "curve": dict}
NAME = re.compile(r"[\w.-]+/\w[\w.-]*-R\d+-seed\d+")  # of a run
WAIT = 0.05  # seconds until the lock of another process is tried again
SIZES = {"pairs": "K", "size": "N", "keys": "S"}  # part of the name, before R, if a task has it
# between runs of one cell: they do not change its results, or name a run of the same seed
MAY_DIFFER = ("seed", "test_curve", "generalize", "initial")
ABSOLUTE = re.compile(r"""(?:^|(?<=[\s='"]))/[^\s'"]+""")  # paths in a command

Run = dict[str, Any]


def add(folder: Path, group: str = "", replace: bool = False) -> str:
    """Store the result of a finished run, or of a search, and return its name.

    A group, such as "ablation", keeps a run out of the paper's tables.

    Raise FileNotFoundError if the run did not finish, FileExistsError if its name is taken and `replace` is not set,
    ValueError if settings except the seed, or the test set, differ from the runs with other seeds.
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
        if task not in TASKS:
            raise ValueError(f"its task is {task!r}")
        for begun, key in ((settings, "initial"), (result.get("origin") or {}, "run")):
            if begun.get(key):
                begun[key] = _in_a_checkout(Path(begun[key]))
        _leave_out_the_folders_of_this_machine(result)
        short = {"run": name} | {key: value for key, value in result.items() if key not in (*LONG, "run")}
        long = {"run": name} | {key: value for key, value in result.items() if key in LONG} | {"curve": curve}
        _check(RUNS, short)
        _check(f"{task}.jsonl", long)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"folders: expected the result of a finished run in {path}: {error!r}; leave it out"
        ) from error
    of_seeds = name.removesuffix(str(settings["seed"]))
    with _locked():
        for fellow in read(RUNS):
            if fellow["run"].startswith(of_seeds) and fellow["run"] != name:
                theirs = before_options(task) | fellow["settings"]
                odd = [key for key in settings if key not in MAY_DIFFER and theirs.get(key) != settings[key]]
                if not same_test_set(fellow, result):
                    odd.append("its test set")
                if odd:
                    raise ValueError(
                        f"folders: expected the settings of {fellow['run']}, except the seed; {folder} differs in "
                        f"{', '.join(odd)}; keep it apart with --group NAME"
                    )
        _put({RUNS: short, f"{task}.jsonl": long}, replace, folder)
    return name


def same_test_set(first: Run, second: Run) -> bool:
    """Return whether two runs have the same test examples in the same order, as far as their results show this."""
    data, other = first.get("data", {}), second.get("data", {})
    known = data.keys() & other.keys() & {"name", "test_sha256"}  # older runs have no SHA-256
    sizes = [each.get("sizes", ())[2:] for each in (data, other)]  # of the test set, which is the third
    return sizes[0] == sizes[1] and all(data[key] == other[key] for key in known)


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
    path = folder / "search.json"
    try:
        found = read_json(path)
        if "best" not in found or found.get("left"):
            raise FileNotFoundError(f"folders: expected a complete search, found unfinished trials in {folder}")
        _leave_out_the_folders_of_this_machine(found)
        name = f"search-{group}/{folder.resolve().name}" if group else f"search/{folder.resolve().name}"
        line = {"search": name} | {key: value for key, value in found.items() if key != "search"}
        _check(SEARCHES, line)
    except (ValueError, TypeError) as error:
        raise ValueError(f"folders: expected a complete search in {path}: {error}; leave it out") from error
    with _locked():
        _put({SEARCHES: line}, replace, folder)
    return name


def load(group: str) -> list[Run]:
    """Return the stored runs of a task or group, with their curves, by seed. For "search" return all searches.

    Runs that are marked as wrong are left out.
    """
    if group.startswith("search"):
        return [found for found in read(SEARCHES) if found["search"].startswith(f"{group}/")]
    runs = [run for run in read(RUNS) if run["run"].startswith(f"{group}/") and "wrong" not in run]
    long = {run["run"]: run for task in {run["task"] for run in runs} for run in read(f"{task}.jsonl")}
    for run in runs:
        if run["run"] not in long:
            path, name = STORE / f"{run['task']}.jsonl", run["run"]
            raise ValueError(
                f"{path}: expected a line of {name}, as in {RUNS}, found none; restore it, or add it with --replace"
            )
    runs = [run | long[run["run"]] | {"curve": _rows(long[run["run"]]["curve"])} for run in runs]
    return sorted(runs, key=lambda run: run["settings"]["seed"])


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
            if name_in(stored) in found:
                raise ValueError(f"{name_in(stored)} is in an earlier line, too")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: expected what bench add stores: {error}; restore it") from error
        found[name_in(stored)] = stored
    return list(found.values())


def _check(file: str, line: Any) -> None:
    """Raise ValueError unless a line of one of the store's files has a name and all that is needed."""
    if not isinstance(line, dict):
        raise ValueError(f"it holds a {type(line).__name__} instead of an object")
    needed = NEEDED.get(file, NEEDED_OF_TASK)
    if missing := [key for key in needed if key not in line]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for key, kind in needed.items():
        if not isinstance(line[key], kind):
            raise ValueError(f"its {key} is {line[key]!r}")
    if not line[name := next(iter(needed))] or (name == "run" and not NAME.fullmatch(line[name])):
        raise ValueError(f"its name is {line[name]!r}")
    if "settings" in needed and "seed" not in line["settings"]:
        raise ValueError("its settings have no seed")
    if "curve" in needed:
        lengths = {len(column) if isinstance(column, list) else 0 for column in line["curve"].values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("its curve is empty, or its columns have different lengths")


def write(file: str, lines: Iterable[Run]) -> None:
    """Write one of the store's files, sorted by name."""
    _write({file: lines})


def _write(files: dict[str, Iterable[Run]]) -> None:
    """Write files of the store, all or none: each replaces the old one when all have been written."""
    STORE.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # the last one opened is replaced first: a run without a curve cannot be loaded, a curve without a run is unread
        for file, lines in files.items():
            into = stack.enter_context(whole(STORE / file))
            for line in sorted(lines, key=name_in):
                text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
                into.write(f"{text}\n".encode())
            into.flush()


@contextmanager
def _locked() -> Iterator[None]:
    """Wait for the lock of the store and hold it within the block. Remove unfinished files of killed processes."""
    STORE.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(STORE))
                break
            except FolderInUse:
                time.sleep(WAIT)
        remove_unfinished(STORE)
        yield


def _put(lines: dict[str, Run], replace: bool, folder: Path) -> None:
    """Add a line to each of these files of the store, or replace it. The first file decides if it is there."""
    before = {file: read(file) for file in lines}
    others = {file: [each for each in before[file] if name_in(each) != name_in(line)] for file, line in lines.items()}
    first = next(iter(lines))
    if not replace and len(others[first]) < len(before[first]):
        raise FileExistsError(
            f"folders: expected no stored run by the name of {folder}, found {name_in(lines[first])}; "
            "keep the new one apart with --group NAME, or replace the stored one with --replace"
        )
    _write({file: [*others[file], line] for file, line in lines.items()})


def name_in(line: Run) -> str:
    """Return the name of the run or search in a line."""
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
