"""Make and store the missing runs of tables and figures, and rebuild them: python -m bench reproduce NAME ...

A plan's searches are made first: runs take their best settings. An interrupted run or search is resumed. After Ctrl-C,
repeat the command to resume: nothing is lost. A name is a plan, or the beginning of names of runs, as in the store.
With --again stored runs are made once more, and both figures are printed. The store keeps the first. A finished run
that is stored as wrong, or was made again before, is renamed: its name gets a number.
"""

from __future__ import annotations

import importlib
import shlex
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tasks.running import typed
from tasks.running.runs import RunSettings, read_json, settings_and_notes
from tasks.searching import space
from tasks.searching.trial import end, start

from . import store
from .plans import PLANS
from .plans.cells import Cell, Search

FOLDER = Path("runs") / "reproduce"  # the folder of the runs; those that are made again are in "again", next to it
SPEEDS = ("seconds", "updates_per_second")  # entries of a result that depend on the machine
POLL = 0.2  # seconds between two checks of a run


class Planned(NamedTuple):
    """One run or search of a plan."""

    name: str  # in the store
    cell: Cell | Search
    seed: int = 0  # of a run
    again: bool = False  # it is stored

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return (FOLDER.with_name("again") if self.again else FOLDER) / self.name

    def arguments(self, data_dir: Path | None) -> list[str]:
        """Return the arguments of `python -m tasks` that start or resume it.

        Raise ValueError if the folder holds a run with other settings.
        """
        cell, out = self.cell, ["--out", str(self.folder)]
        data = ["--data-dir", str(data_dir)] if self.needs_data_dir else []
        if isinstance(cell, Search):
            return ["search", cell.task, "--grid", *cell.grid.split(), *cell.options.split(), *out, *data]
        if (self.folder / "settings.json").exists():
            self._check_settings(cell, self.folder / "settings.json")
            return [cell.task, "--resume", str(self.folder), *data]
        words = [*cell.options.split(), *best_of(cell.search), "--seed", str(self.seed), *out]
        if self.initial is not None:
            self.check_initial()
            words += ["--initial", str(self.initial)]
        return [cell.task, *words, *data]

    def _check_settings(self, cell: Cell, path: Path) -> None:
        """Raise ValueError unless the settings in this file are the planned ones."""
        planned = _settings(cell.task, " ".join([cell.options, *best_of(cell.search)])) | {"seed": self.seed}
        found = settings_and_notes(read_json(path), _kind(cell.task), path)[0].as_json()
        odd = [name for name in planned if name != "initial" and planned[name] != found[name]]
        if Path(found["initial"] or "").resolve() != Path(self.initial or "").resolve():
            odd.append("initial")
        if odd:
            raise ValueError(
                f"{self.name}: expected in {self.folder} a run with the planned settings, found one that differs in "
                f"{', '.join(odd)}; move the folder away"
            )

    @property
    def stage(self) -> int:
        """Return 0 for a search, 1 for a run, 2 for a run that starts from another one: what is made first."""
        return isinstance(self.cell, Cell) + (self.initial is not None)

    @property
    def finished(self) -> bool:
        """Return whether the folder holds a finished run; a search ends at once if it is complete."""
        return isinstance(self.cell, Cell) and (self.folder / "result.json").exists()

    def set_aside_an_earlier_one(self) -> None:
        """Rename the folder if it holds what must be made anew: the run that is stored as wrong, or made again."""
        path = self.folder / ("search.json" if isinstance(self.cell, Search) else "result.json")
        if not path.exists():
            return
        found = read_json(path)
        wrong = any(store.name_in(each) == self.name and each["finished"] == found.get("finished") for each in _wrong())
        if wrong or (self.again and not found.get("left")):
            number = next(n for n in count(1) if not self.folder.with_name(f"{self.folder.name}-{n}").exists())
            self.folder.rename(self.folder.with_name(f"{self.folder.name}-{number}"))

    @property
    def initial(self) -> Path | None:
        """Return the folder of the run that this one starts from; None if it starts anew."""
        start = self.cell.start
        return None if start is None else FOLDER / _name(start, self.seed)

    def check_initial(self) -> None:
        """Raise ValueError unless the run that this one starts from, if any, is finished."""
        folder, start = self.initial, self.cell.start
        if folder is not None and start is not None and not (folder / "result.json").exists():
            raise ValueError(
                f"reproduce: expected a finished run in {folder}, from which {self.name} starts, found none; make it: "
                f"python -m tasks {start.task} {start.options} --seed {self.seed} --out {folder}"
            )

    @property
    def needs_data_dir(self) -> bool:
        """Return whether the run needs a data set that cannot be fetched."""
        return self.cell.task == "faces" and "--data synthetic" not in self.cell.options

    def __str__(self) -> str:
        cell = self.cell
        if isinstance(cell, Search):
            return f"{self.name}: python -m tasks search {cell.task} --grid {cell.grid} {cell.options}"
        best = f" and the best of search/{cell.search}" if cell.search else ""
        best += f", from {_name(cell.start, self.seed)}" if cell.start else ""
        return f"{self.name}: python -m tasks {cell.task} {cell.options} --seed {self.seed}{best}"


def best_of(search: str) -> list[str]:
    """Return the best settings of a stored search as options; none for no name. Raise ValueError for an unknown one."""
    if not search:
        return []
    for found in store.read(store.SEARCHES):
        if found["search"] == f"search/{search}" and "wrong" not in found:
            return typed.words(_kind(found["task"]), {name: found["best"][name] for name in found["space"]})
    raise ValueError(
        f"reproduce: expected search/{search} in the store, found none; make it first: python -m bench "
        f"reproduce search/{search}"
    )


def _kind(task: str) -> Any:
    """Return the class of a task's settings."""
    return importlib.import_module(f"tasks.{task}").Settings


@cache
def _settings(task: str, options: str) -> dict[str, Any]:
    """Return the settings of a run with these options. Reading hundreds of command lines takes ten seconds instead."""
    kind, given, name = _kind(task), dict[str, str](), ""
    for word in options.split():
        if not word.startswith("--"):
            given[name] = word
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:  # the next word is the value, unless this is --wipe or --no-wipe
            name, value = name.removeprefix("no-"), str(not name.startswith("no-"))
        given[name] = value
    read = space.parse([f"{name}={value}" for name, value in given.items()], kind(), ranges=False)
    settings: RunSettings = kind(**{name: values[0] for name, values in read.items()})
    return settings.as_json()


def _name(cell: Cell, seed: int) -> str:
    """Return the name of a cell's run in the store."""
    return store.name_of(cell.group, _settings(cell.task, cell.options) | {"seed": seed})


def planned(names: list[str]) -> Iterator[Planned]:
    """Yield each search and each run once that the names ask for: all runs of a plan, or those whose names begin so.

    Raise ValueError for a name that asks for nothing.
    """
    runs = dict[str, Planned]()
    for name in names or PLANS:
        plans = [name] if name in PLANS else PLANS
        chosen = [run for plan in plans for run in _of(plan) if name in PLANS or run.name.startswith(name)]
        if not chosen or not name:
            raise ValueError(
                f"reproduce: expected a plan, which are {', '.join(PLANS)}; or how names of planned runs or searches "
                f"begin, such as retrieval/lstm-K4-R50 or search/table1; got {name!r}"
            )
        for run in chosen:
            runs.setdefault(run.name, run)
    yield from runs.values()


def _of(plan: str) -> Iterator[Planned]:
    for cell in PLANS[plan]:
        if isinstance(cell, Search):
            yield Planned(f"search/{cell.name}", cell)
        else:
            yield from (Planned(_name(cell, seed), cell, seed) for seed in cell.seeds)


def stored() -> dict[str, dict[str, Any]]:
    """Return the stored runs and searches by name, except those that are stored as wrong."""
    return {store.name_in(each): each for each in _all_stored() if "wrong" not in each}


def _wrong() -> list[dict[str, Any]]:
    return [each for each in _all_stored() if "wrong" in each]


def _all_stored() -> list[dict[str, Any]]:
    return [*store.read(store.RUNS), *store.read(store.SEARCHES)]


def missing(names: list[str]) -> list[Planned]:
    """Return the planned searches and runs that are not stored, or are stored as wrong."""
    found = stored()
    return [run for run in planned(names) if run.name not in found]


def expected_seconds(run: Planned) -> float | None:
    """Return the median seconds of the stored runs that differ only in the seed; None if there are none."""
    of_seeds = run.name.removesuffix(str(run.seed))
    times = [each["seconds"] for each in store.read(store.RUNS) if each["run"].startswith(of_seeds)]
    return median(times) if times else None


def reproduce(names: list[str], jobs: int, dry_run: bool, data_dir: Path | None, again: bool = False) -> None:
    """Make the missing runs, or the stored ones again. Raise RuntimeError if one fails, ValueError for wrong names."""
    if not names and not dry_run:
        raise ValueError(
            f"reproduce: expected a name among {', '.join(PLANS)}; got none; --dry-run lists all "
            f"{'stored' if again else 'missing'} runs"
        )
    runs = missing(names)
    if again:
        absent = {run.name for run in runs}
        runs = [run._replace(again=True) for run in planned(names) if run.name not in absent]
    times = [expected_seconds(run) for run in runs]
    known = [time for time in times if time is not None]
    what = "stored and to make again" if again else "missing"
    print(f"{', '.join(names or PLANS)}: {_count(list(planned(names)))} planned, {_count(runs)} {what}", end="")
    estimate = [f"about {sum(known) / 3600:.1f} h on one core, estimated from stored runs"] if known else []
    unknown = [f"{len(times) - len(known)} of unknown duration"] if len(known) < len(times) else []
    print("".join(f", {text}" for text in [*estimate, *unknown]))
    for run, time in zip(runs, times, strict=True):
        about = "" if time is None else f"   # {time:.0f} s"
        print(f"  {run}{about}")
    if dry_run or not runs:
        return
    if data_dir is None and any(run.needs_data_dir for run in runs):
        raise ValueError("data_dir: expected the folder of the faces, which cannot be fetched; name it by --data-dir")
    if data_dir is not None and not any(run.needs_data_dir for run in runs):
        raise ValueError(f"data_dir: expected none, because these runs fetch their data; got {data_dir}; leave it out")
    to_be_made = set() if again else {run.folder for run in runs}
    for run in runs:
        if run.initial not in to_be_made:
            run.check_initial()
    for stage in range(3):
        _make([run for run in runs if run.stage == stage], jobs, data_dir)


def _compared(run: Planned) -> str:
    """Return the figures of a run that was made again, or the best settings of a search, next to the stored ones."""
    kept = stored()[run.name]
    if isinstance(run.cell, Search):
        made, kept = read_json(run.folder / "search.json")["best"], kept["best"]
        names = [*made]
    else:
        made = read_json(run.folder / "result.json")
        names = [name for name, value in made.items() if isinstance(value, float) and name not in SPEEDS]
    return f"{run.name}: " + ", ".join(f"{name} {made[name]}, stored {kept.get(name)}" for name in names)


def _count(runs: list[Planned]) -> str:
    """Return the number of runs and of searches in words."""
    searches = sum(isinstance(run.cell, Search) for run in runs)
    counts = ((len(runs) - searches, "run", "runs"), (searches, "search", "searches"))
    return " and ".join(f"{n} {one if n == 1 else more}" for n, one, more in counts if n) or "nothing"


def _make(runs: list[Planned], jobs: int, data_dir: Path | None) -> None:
    """Make the runs, `jobs` in parallel. If this process ends or is killed, they end with a checkpoint."""
    stopped = threading.Event()

    def make(run: Planned) -> None:
        if stopped.is_set():
            return
        run.set_aside_an_earlier_one()
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        arguments, log = run.arguments(data_dir), run.folder.with_name(f"{run.folder.name}.log")
        code: int | None = None
        if not run.finished:  # else it was stopped before it was stored
            with start(arguments, log) as process:
                while (code := process.poll()) is None:
                    if stopped.wait(POLL):
                        end(process)
        if stopped.is_set():
            return
        if code:
            raise RuntimeError(f"{run.name}: exit code {code} of python -m tasks {shlex.join(arguments)}; see {log}")
        if run.again:
            print(_compared(run), flush=True)
            return
        group = run.cell.group.removeprefix(run.cell.task).removeprefix("-")
        print(f"stored {store.add(run.folder, group, replace=True)}", flush=True)

    def make_or_stop(run: Planned) -> None:
        try:
            make(run)
        except BaseException:
            stopped.set()
            raise

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled like Ctrl-C
    try:
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for made in [pool.submit(make_or_stop, run) for run in runs]:
                    made.result()
            finally:
                stopped.set()
    finally:
        signal.signal(signal.SIGTERM, before)
