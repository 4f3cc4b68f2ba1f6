"""python -m tasks search TASK: tries settings, judged on validation data, by a grid or at random, as the paper did.

    python -m tasks search retrieval --grid learning_rate=5e-4,1e-3,2e-3 layer=lstm,irnn --epochs 10
    python -m tasks search retrieval --random 30 --over learning_rate=1e-4..1e-2:log rate=0.02..0.5:log

All other options are the task's own, and hold for every trial. A trial is a run of the task in a process and a folder
of its own, and is judged by its best negative log likelihood on the validation set; what it finds on the test set is
not looked at. Agents are judged by their mean reward in the last tenth of the run. Trials are kept in an Optuna study,
in a file in the search's folder, or anywhere by --storage URL, from which several machines can work at the same study.
The same command again, with --out FOLDER, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from threading import Lock, current_thread, main_thread
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from . import figures
from .provenance import provenance
from .runs import DIVERGED, INTERRUPTED, PLACES, RunSettings, settings_asked_for, write_json

TOP = 5  # of the best trials the mean is told, as the paper averages them for its agents
POLL = 0.3  # seconds between two looks at a trial's metrics


class Range(NamedTuple):
    """The numbers from low to high, evenly or in their logarithms; whole ones if both ends are."""

    low: float
    high: float
    log: bool

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Search:
    """What is searched: the task, its fixed options, and the values or the range of each setting that varies."""

    base: RunSettings  # of every trial, but for what varies
    options: list[str]  # as they were given
    space: dict[str, Any]  # name to a list of values (grid) or a Range (random)
    random: int | None  # the number of trials; None: the whole grid
    folder: Path
    prune: bool

    def grid(self) -> list[dict[str, Any]]:
        """All combinations, if it is a grid."""
        if self.random is not None:
            return []
        return [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]

    def description(self) -> dict[str, Any]:
        """What has to be the same when a study is gone on with."""
        space = json.loads(json.dumps(self.space))
        return {"task": self.base.task, "options": self.options, "space": space, "settings": self.base.as_json()}


def main(arguments: list[str], tasks: dict[str, Any]) -> int:
    """Returns the exit code: 0 done, 2 bad arguments, 130 interrupted, 1 a trial could not be run."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=tasks)
    parser.add_argument(
        "--grid", nargs="+", metavar="NAME=V,V", default=[], help="try all combinations of these values"
    )
    parser.add_argument("--random", type=int, metavar="N", help="try N settings drawn from --over")
    parser.add_argument(
        "--over", nargs="+", metavar="NAME=LOW..HIGH[:log]", default=[], help="what --random draws; NAME=V,V too"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    parser.add_argument("--out", type=Path, help="the search's folder; by default runs/search-TASK-DATE-TIME")
    parser.add_argument(
        "--storage", help="where the study is kept, as an Optuna URL; by default study.db in the folder"
    )
    parser.add_argument("--study", help="the study's name in the storage; by default search-TASK")
    parser.add_argument(
        "--prune", action="store_true", help="stop trials that are worse than the median at the same epoch"
    )
    chosen, options = parser.parse_known_args(arguments)
    try:
        search = _search(chosen, options, tasks[chosen.task])
        url = chosen.storage or f"sqlite:///{search.folder.resolve()}/study.db"
        search.folder.mkdir(parents=True, exist_ok=True)
        study = _study(search, url, chosen.study)
    except (ValueError, OSError) as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
    except SQLAlchemyError as error:
        print(f"tasks: storage: expected a database that Optuna can use, got {url}: {error}", file=sys.stderr)
        return 2
    print(f"search: writing to {search.folder}", flush=True)
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a request to end is taken as Ctrl-C is
    try:
        _Trials(search, study).run(chosen.jobs)
    except (KeyboardInterrupt, InterruptedError):
        again = shlex.join(
            ["python", "-m", "tasks", "search", *_without(arguments, "--out"), "--out", str(search.folder)]
        )
        print(f"\ninterrupted; go on with: {again}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 1
    finally:
        _store(search, study)
    return 0


def _search(chosen: argparse.Namespace, options: list[str], kind: type[RunSettings]) -> Search:
    """Raises ValueError for what does not make a search."""
    if bool(chosen.grid) == (chosen.random is not None):
        raise ValueError("search: expected either --grid NAME=V,V ... or --random N --over NAME=LOW..HIGH ...")
    if (chosen.random is not None) != bool(chosen.over):
        raise ValueError("over: expected with --random N, and only there: --over NAME=LOW..HIGH[:log]")
    for name, value in (("jobs", chosen.jobs), ("random", chosen.random)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    folder = chosen.out or Path("runs") / time.strftime(f"search-{kind.task}-%Y%m%d-%H%M%S")
    base = settings_asked_for(kind, options, f"python -m tasks {kind.task}")
    if base.resume is not None:
        raise ValueError("resume: expected none, for each trial is a run of its own; --out goes on with a search")
    search = Search(base, options, {}, chosen.random, folder, chosen.prune)
    known = [field.name for field in fields(kind) if field.name not in PLACES]
    for word in [*chosen.grid, *chosen.over]:
        name, equals, values = word.partition("=")
        name = name.replace("-", "_")
        if not equals or not values or name not in known or name in search.space:
            raise ValueError(f"search: expected NAME=VALUES, once each, with one of {', '.join(known)}; got {word!r}")
        search.space[name] = _values(kind, options, name, values, ranges=chosen.random is not None)
    for combination in search.grid():
        replace(base, **combination)  # raises for one that cannot be run, before any is
    return search


def _words(kind: type[RunSettings], name: str, value: Any) -> list[str]:
    """A setting on the task's command line."""
    option = name.replace("_", "-")
    if any(field.name == name and field.type == "bool" for field in fields(kind)):
        return [f"--{option}" if str(value) == "True" else f"--no-{option}"]
    return [f"--{option}", str(value)]


def _values(kind: type[RunSettings], options: list[str], name: str, text: str, ranges: bool) -> Any:
    """The values of one setting, each parsed and checked as the task itself would."""

    def parsed(value: str) -> Any:
        asked = settings_asked_for(kind, [*options, *_words(kind, name, value)], f"python -m tasks {kind.task}")
        return getattr(asked, name)

    if ".." not in text:
        return [parsed(value) for value in text.split(",")]
    if not ranges:
        raise ValueError(f"grid: expected {name}=V,V,..., got the range {text!r}; ranges are for --random N --over")
    ends, _, scale = text.partition(":")
    low, high = (parsed(value) for value in ends.split("..", 1))
    if scale not in ("", "log") or not low < high or (scale and low <= 0):
        raise ValueError(f"over: expected {name}=LOW..HIGH or LOW..HIGH:log, got {text!r}")
    return Range(low, high, scale == "log")


def _study(search: Search, url: str, name: str | None) -> optuna.Study:
    """The study, new or gone on with, with what is still to be tried waiting in it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=url, study_name=name or f"search-{search.base.task}", load_if_exists=True,
        direction="maximize" if search.base.measure.maximize else "minimize",
        pruner=_patient_pruner(search.base.reports) if search.prune else optuna.pruners.NopPruner(),
    )  # fmt: skip
    study.sampler = optuna.samplers.RandomSampler()  # no seed: each machine, and each start, draws numbers of its own
    before = study.user_attrs.get("search")
    if before is not None and before != search.description():
        raise ValueError(
            f"search: expected what the study {study.study_name!r} was begun with, {before}, "
            f"got {search.description()}; "
            "begin a new one with another --out or --study"
        )
    study.set_user_attr("search", search.description())
    trials = study.get_trials()
    for trial in filter(_was_cut_off, trials):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if not any(_params(later) == _params(trial) for later in trials[trial.number + 1 :]):
            _enqueue(study, _params(trial))
    for chosen in search.grid():  # each machine takes the next that waits
        if not any(_params(trial) == chosen for trial in study.get_trials(deepcopy=False)):
            _enqueue(study, chosen)
    return study


def _patient_pruner(reports: int) -> optuna.pruners.BasePruner:
    """Leaves a trial alone for a quarter of its time: small learning rates are behind at first, as a rule."""
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=reports // 4)


def _was_cut_off(trial: FrozenTrial) -> bool:
    """Whether a trial failed or was stopped before its end, or its processes on this machine are no more."""
    host, *processes = trial.user_attrs.get("processes", ("",))
    ended = trial.state == TrialState.RUNNING and host == platform.node() and not any(map(_lives, processes))
    return trial.state == TrialState.FAIL or ended


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)  # does nothing to it
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's settings; those of one that waits stand elsewhere."""
    return trial.params or trial.user_attrs.get("waited", {})


def _enqueue(study: optuna.Study, chosen: dict[str, Any]) -> None:
    study.enqueue_trial(chosen, user_attrs={"waited": chosen})


class _Trials:
    """Runs the trials, each in a process of its own."""

    def __init__(self, search: Search, study: optuna.Study) -> None:
        self._search, self._study = search, study
        self._running = set[subprocess.Popen]()
        self._asking, self._stopped = Lock(), False

    def run(self, jobs: int) -> None:
        """All that is left to do. Raises ValueError if a trial cannot be run, InterruptedError if one is stopped."""
        with ThreadPoolExecutor(jobs) as pool:
            try:
                finished, _ = wait([pool.submit(self._work) for _ in range(jobs)])
            finally:
                self.end()
        errors = [error for work in finished if (error := work.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, InterruptedError)):
            raise error  # what went wrong, rather than what was stopped for it

    def end(self) -> None:
        """Begins no more trials and stops those that run, which then write their checkpoints."""
        self._stopped = True
        for process in set(self._running):
            process.terminate()

    def _work(self) -> None:
        """One trial after another, until none is left."""
        while (trial := self._next()) is not None:
            try:
                self._study.tell(trial, self._try(trial))
            except optuna.TrialPruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            except BaseException:
                self._study.tell(trial, state=TrialState.FAIL)
                self.end()
                raise

    def _next(self) -> optuna.Trial | None:
        """The next trial to run, one that waits before a new one. None if all have been begun."""
        with self._asking:  # two at once could be given the same one that waits
            trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            wanted = 0 if self._search.random is None else self._search.random
            return None if self._stopped or not (waiting or len(trials) < wanted) else self._study.ask()

    def _try(self, trial: optuna.Trial) -> float:
        search = self._search
        if search.random is None and "waited" not in trial.user_attrs:
            raise optuna.TrialPruned("another machine took the last of the grid")
        trial.set_user_attr("processes", (platform.node(), os.getpid()))
        chosen = {
            name: trial.suggest_categorical(name, values) if isinstance(values, list) else values.suggest(trial, name)
            for name, values in search.space.items()
        }
        # named by what is tried, so that the trial which takes up a stopped one finds its checkpoint
        folder = search.folder / ",".join(f"{name}={value}" for name, value in chosen.items())
        result = folder / "result.json"
        if not result.exists():
            again = ["--resume", str(folder)] if (folder / "settings.json").exists() else None
            command = [sys.executable, "-m", "tasks", search.base.task]
            varied = [word for name, value in chosen.items() for word in _words(type(search.base), name, value)]
            command += again or [*search.options, *varied, "--out", str(folder)]
            log = folder.with_name(folder.name + ".log")
            with open(log, "a") as file:
                # Ctrl-C is for the search alone, which tells its trials: a run told twice ends without a checkpoint
                process = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
                )
            self._running.add(process)
            try:
                if self._stopped:  # while it was being started
                    process.terminate()
                trial.set_user_attr("processes", (platform.node(), os.getpid(), process.pid))
                code = self._watch(process, trial, folder)
            finally:
                self._running.discard(process)
            if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
                raise InterruptedError
            if code == DIVERGED:
                print(f"{folder.name}: the loss was not finite: as bad as can be", flush=True)
                return search.base.measure.worst
            if code:
                raise ValueError(f"{folder.name}: its run ended with code {code}: {log.read_text()[-500:]}")
        # by the loss, also where the task takes the parameters with the fewest errors: it tells finer differences
        value = search.base.measure.of(json.loads(result.read_text()))
        print(f"{folder.name}: {search.base.measure.title} {value:.5f}", flush=True)
        return value

    def _watch(self, process: subprocess.Popen, trial: optuna.Trial, folder: Path) -> int:
        """Reports each line of metrics to the study until the process ends; returns its code. Raises TrialPruned."""
        metrics, seen = folder / "metrics.jsonl", 0
        while True:
            code = process.poll()
            lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []  # whole ones
            for number, line in enumerate(lines[seen:], seen + 1):
                trial.report(json.loads(line)[self._search.base.measure.name], number)
                if code is None and trial.should_prune():
                    process.terminate()
                    process.wait()
                    raise optuna.TrialPruned
            seen = len(lines)
            if code is not None:
                return code
            time.sleep(POLL)


def _store(search: Search, study: optuna.Study) -> None:
    """Writes search.json, and, once a trial is complete, best.json and search.png; prints the best."""
    trials, measure = [trial for trial in study.get_trials(deepcopy=False) if trial.params], search.base.measure
    rows = [
        {"state": trial.state.name, **trial.params, measure.name: trial.value if _ended_well(trial) else None}
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    wanted = len(search.grid()) if search.random is None else search.random
    left = {"left": max(wanted - len(rows), 0)}  # trials that are still to be made, or were stopped
    found: dict[str, Any] = provenance() | finished | search.description() | left | {"trials": rows}
    complete = [trial for trial in trials if _ended_well(trial)]
    if complete:
        complete.sort(key=_value, reverse=measure.maximize)
        best, top = complete[0], [_value(trial) for trial in complete[:TOP]]
        found["best"] = best.params | {measure.name: best.value}
        found[f"mean of the best {len(top)}"] = fmean(top)
        settings = replace(search.base, **best.params)
        write_json(search.folder / "best.json", {"task": settings.task} | settings.as_json())
    write_json(search.folder / "search.json", found)
    if complete:
        figures.search(search.folder / "search.png", rows, search.space, measure)
        print(f"\nthe best of {len(complete)}: {best.params}, {measure.title} {best.value:.5f}")
        print(f"mean of the best {len(top)}: {fmean(top):.5f}")
        print(f"train with it: python -m tasks {search.base.task} --settings {search.folder / 'best.json'}")


def _ended_well(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and math.isfinite(_value(trial))


def _value(trial: FrozenTrial) -> float:
    return math.nan if trial.value is None else trial.value


def _without(arguments: list[str], option: str) -> list[str]:
    """The arguments without this option and its value."""
    if option not in arguments:
        return arguments
    at = arguments.index(option)
    return arguments[:at] + arguments[at + 2 :]
