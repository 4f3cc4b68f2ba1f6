"""python -m tasks search TASK: tries settings, judged on the validation set, by a grid or at random, as the paper did.

    python -m tasks search retrieval --grid learning_rate=5e-4,1e-3,2e-3 layer=lstm,irnn --epochs 10
    python -m tasks search retrieval --random 30 --over learning_rate=1e-4..1e-2:log rate=0.02..0.5:log

All other options are the task's own, and hold for every trial. A trial is a run of the task in a process and a folder
of its own, and is judged by its best negative log likelihood on the validation set; what it finds on the test set is
not looked at. Trials are kept in an Optuna study, in a file in the search's folder, or anywhere by --storage URL, from
which several machines can work at the same study. The same command again, with --out FOLDER, goes on where it stopped.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from threading import Lock, current_thread, main_thread
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from . import figures
from .provenance import provenance
from .training import TrainingSettings, settings_asked_for, write_json

INTERRUPTED = 130  # the exit code of a task that was told to stop
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

    task: str
    kind: type[TrainingSettings]
    options: list[str]
    space: dict[str, Any]  # name to a list of values (grid) or a Range (random)
    random: int | None  # the number of trials; None: the whole grid
    folder: Path
    prune: bool

    def settings(self, chosen: dict[str, Any]) -> TrainingSettings:
        """The task's settings with the chosen ones in their places. Exits with a message for bad ones, as tasks do."""
        return settings_asked_for(self.kind, self.arguments(chosen), f"python -m tasks {self.task}")

    def arguments(self, chosen: dict[str, Any]) -> list[str]:
        """The task's command line."""
        varied = [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return [*self.options, *varied]

    def description(self) -> dict[str, Any]:
        """What has to be the same when a study is gone on with."""
        return {"task": self.task, "options": self.options, "space": json.loads(json.dumps(self.space))}


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
        search.folder.mkdir(parents=True, exist_ok=True)
        study = _study(search, chosen.storage or f"sqlite:///{search.folder.resolve()}/study.db", chosen.study)
    except (ValueError, OSError) as error:
        print(f"tasks: {error}", file=sys.stderr)
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


def _search(chosen: argparse.Namespace, options: list[str], kind: type[TrainingSettings]) -> Search:
    """Raises ValueError for what does not make a search."""
    if bool(chosen.grid) == (chosen.random is not None):
        raise ValueError("search: expected either --grid NAME=V,V ... or --random N --over NAME=LOW..HIGH ...")
    if (chosen.random is not None) != bool(chosen.over):
        raise ValueError("over: expected with --random N, and only there: --over NAME=LOW..HIGH[:log]")
    for name, value in (("jobs", chosen.jobs), ("random", chosen.random)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    folder = chosen.out or Path("runs") / time.strftime(f"search-{kind.task}-%Y%m%d-%H%M%S")
    search = Search(chosen.task, kind, options, {}, chosen.random, folder, chosen.prune)
    if search.settings({}).resume is not None:
        raise ValueError("resume: expected none, for each trial is a run of its own; --out goes on with a search")
    known = [field.name for field in fields(kind)]
    for word in [*chosen.grid, *chosen.over]:
        name, equals, values = word.partition("=")
        name = name.replace("-", "_")
        if not equals or not values or name not in known:
            raise ValueError(f"search: expected NAME=VALUES with one of {', '.join(known)}; got {word!r}")
        search.space[name] = _values(search, name, values, ranges=chosen.random is not None)
    return search


def _values(search: Search, name: str, text: str, ranges: bool) -> Any:
    """The values of one setting, each parsed and checked as the task itself would."""

    def parsed(value: str) -> Any:
        return getattr(search.settings({name: value}), name)

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
        storage=url, study_name=name or f"search-{search.task}", load_if_exists=True, direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4) if search.prune else optuna.pruners.NopPruner(),
    )  # fmt: skip
    # a study gone on with must not draw again what it drew before
    study.sampler = optuna.samplers.RandomSampler(seed=len(study.trials))
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
    if search.random is None:
        names = list(search.space)
        for values in product(*search.space.values()):  # each machine takes the next that waits
            chosen = dict(zip(names, values, strict=True))
            if not any(_params(trial) == chosen for trial in study.get_trials(deepcopy=False)):
                _enqueue(study, chosen)
    return study


def _was_cut_off(trial: FrozenTrial) -> bool:
    """Whether a trial was stopped before its end, or its process on this machine is no more."""
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("interrupted", False)
    host, process = trial.user_attrs.get("process", ("", 0))
    return trial.state == TrialState.RUNNING and host == platform.node() and not Path(f"/proc/{process}").exists()


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
                for work in [pool.submit(self._work) for _ in range(jobs)]:
                    work.result()
            finally:
                self.end()

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
        trial.set_user_attr("process", (platform.node(), os.getpid()))
        chosen = {
            name: trial.suggest_categorical(name, values) if isinstance(values, list) else values.suggest(trial, name)
            for name, values in search.space.items()
        }
        # named by what is tried, so that the trial which takes up a stopped one finds its checkpoint
        folder = search.folder / ",".join(f"{name}={value}" for name, value in chosen.items())
        result = folder / "result.json"
        if not result.exists():
            again = ["--resume", str(folder)] if (folder / "settings.json").exists() else None
            command = [sys.executable, "-m", "tasks", search.task]
            command += again or [*search.arguments(chosen), "--out", str(folder)]
            log = folder.with_name(folder.name + ".log")
            with open(log, "a") as file:
                # Ctrl-C is for the search alone, which tells its trials: a run told twice ends without a checkpoint
                process = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
                )
            self._running.add(process)
            code = self._watch(process, trial, folder)
            self._running.discard(process)
            if code in (INTERRUPTED, -2, -15):
                trial.set_user_attr("interrupted", True)
                raise InterruptedError
            if code == 1:  # not finite: as bad as can be
                return math.inf
            if code:
                raise ValueError(f"{folder.name}: its run ended with code {code}: {log.read_text()[-500:]}")
        best = json.loads(result.read_text())["best_on_validation"]
        trial.set_user_attr("best_on_validation", best)
        print(
            f"{folder.name}: validation {best['validation_nll']:.5f} nats, {best['validation_error']:.3%}", flush=True
        )
        return best["validation_nll"]

    def _watch(self, process: subprocess.Popen, trial: optuna.Trial, folder: Path) -> int:
        """Reports each epoch to the study until the process ends; returns its code. Raises TrialPruned."""
        metrics, seen = folder / "metrics.jsonl", 0
        while True:
            code = process.poll()
            lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []  # whole ones
            for line in lines[seen:]:
                epoch = json.loads(line)
                trial.report(epoch["validation_nll"], epoch["epoch"])
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
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.params]
    rows = [
        {"state": trial.state.name, **trial.params, "validation_nll": trial.value}
        | {"epoch": trial.user_attrs.get("best_on_validation", {}).get("epoch")}
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and math.isfinite(_value(trial))]
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    found: dict[str, Any] = provenance() | finished | search.description() | {"trials": rows}
    if complete:
        best = min(complete, key=_value)
        settings = search.settings(best.params)
        write_json(search.folder / "best.json", {"task": search.kind.task} | settings.as_json())
        found["best"] = best.params | {"validation_nll": best.value}
        figures.search(search.folder / "search.png", rows, search.space)
        print(f"\nthe best of {len(complete)}: {best.params}, validation {best.value:.5f} nats")
        print(f"train with it: python -m tasks {search.task} --settings {search.folder / 'best.json'}")
    write_json(search.folder / "search.json", found)


def _value(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value


def _without(arguments: list[str], option: str) -> list[str]:
    """The arguments without this option and its value."""
    if option not in arguments:
        return arguments
    at = arguments.index(option)
    return arguments[:at] + arguments[at + 2 :]
