"""Run the trials of a search, several in parallel, each in its own process and folder."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from ..running import typed
from ..running.locks import FolderInUse, locked
from ..running.runs import DIVERGED, INTERRUPTED, RunFailed, read_json
from .study import HEARTBEAT, Study
from .trial import end, start

POLL = 0.3  # seconds between two reads of a trial's metrics


class Workers:
    """Threads that each run one trial after another."""

    def __init__(self, study: Study, after_each: Callable[[], None]) -> None:
        """Prepare to run the trials of a study.

        after_each: called after every finished trial, by one thread at a time.
        """
        self._study, self._search, self._after_each = study, study.search, after_each
        self._running = set[subprocess.Popen[bytes]]()
        self._stopped, self._finishing = Event(), Lock()
        self._waited_for = list[int]()

    def run(self, jobs: int) -> None:
        """Run all remaining trials, `jobs` in parallel. On any error stop the other trials, each with a checkpoint.

        Raise RunFailed if a trial's run ends with an error, InterruptedError if one is stopped.
        """
        with ThreadPoolExecutor(jobs) as pool:
            try:
                finished, _ = wait([pool.submit(self._work) for _ in range(jobs)])
            finally:
                self._end()
        errors = [error for work in finished if (error := work.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, InterruptedError)):
            raise error  # the cause first, before the trials that were stopped because of it

    def _end(self) -> None:
        self._stopped.set()
        for process in set(self._running):
            end(process)

    def _work(self) -> None:
        try:
            while not self._stopped.is_set():
                if (trial := self._study.next()) is None:
                    if not self._waits_for_others():
                        break
                    continue
                try:
                    value = self._try(trial)
                except BaseException:
                    self._study.wait_again(trial.number)
                    raise
                with self._finishing:
                    self._study.finish(trial, value)
                    self._after_each()
        except BaseException:
            self._end()
            raise
        finally:
            self._study.leave()

    def _waits_for_others(self) -> bool:
        """Wait a while if other searches still run trials, which may have to be run anew. Return whether they do."""
        numbers = self._study.run_elsewhere()
        if numbers and numbers != self._waited_for:
            these = ", ".join(f"trial-{number:04}" for number in numbers)
            print(f"waiting for other searches to finish {these}; Ctrl-C leaves them alone", flush=True)
        self._waited_for = numbers
        if numbers:
            self._stopped.wait(10 * POLL)
        return bool(numbers)

    def _try(self, trial: optuna.Trial) -> float | None:
        """Return the objective of the trial, from its result if it has one. None if it was pruned."""
        folder, objective = self._search.place(trial.number), self._search.base.objective
        arguments, result = self._arguments(trial, folder), folder / "result.json"
        if not result.exists():
            log = folder.with_name(f"{folder.name}.log")
            code = self._run(trial, arguments, folder / "metrics.jsonl", log)
            if code is None:
                print(f"{folder.name}: pruned", flush=True)
                return None
            if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
                raise InterruptedError
            if code == DIVERGED:
                print(f"{folder.name}: the loss was not finite; it counts as the worst trial", flush=True)
                return objective.worst
            if code:
                raise RunFailed(
                    f"{folder.name}: expected its run to end with code 0, {_described(code, log)}; its log is {log}"
                )
        # the loss, even if the task selects its best epoch by the error rate: it resolves finer differences
        with _named(result):
            found = read_json(result)
            value = objective.of(found)
        with suppress(UpdateFinishedTrialError):  # this search stood still, and another one ran the settings anew
            trial.set_user_attr("recorded", {name: found.get(name) for name in self._search.base.recorded})
        print(f"{folder.name}: {trial.params}: {objective.title} {value:.5f}", flush=True)
        return value

    def _arguments(self, trial: optuna.Trial, folder: Path) -> list[str]:
        """Make the trial's folder, and return the command line that starts or resumes its run."""
        base, stored = self._search.base, folder / "settings.json"
        folder.mkdir(exist_ok=True)
        self._wait_for(folder)
        if not stored.exists():  # new, or killed before anything was computed
            return [base.task, *self._search.options, *typed.words(type(base), trial.params), f"--out={folder}"]
        with _named(stored):
            made_with = read_json(stored)
        for name, value in replace(base, **trial.params).as_json().items():
            if made_with.get(name) != value:
                raise ValueError(
                    f"{name}: expected {value} in {stored}, found {made_with.get(name)}: the run of another search; "
                    "choose another --out"
                )
        return [base.task, f"--resume={folder}"]

    def _wait_for(self, folder: Path) -> None:
        """Wait for a process that still writes to the folder, such as a trial whose search was just killed."""
        while not self._stopped.is_set():
            try:
                with locked(folder):
                    return
            except FolderInUse as error:
                print(f"{folder.name}: waiting: {error}", flush=True)
                self._stopped.wait(10 * POLL)
        raise InterruptedError

    def _run(self, trial: optuna.Trial, arguments: list[str], metrics: Path, log: Path) -> int | None:
        """Report each line of metrics to the study until the process ends. Return its code; None if it was pruned."""
        seen, name, beaten = 0, self._search.base.objective.name, time.monotonic()
        with start(arguments, log) as process:
            self._running.add(process)
            try:
                while True:
                    if self._stopped.is_set():
                        end(process)
                    if time.monotonic() > beaten + HEARTBEAT:
                        self._study.beat(trial.number)
                        beaten = time.monotonic()
                    code = process.poll()
                    text = metrics.read_text("utf-8") if metrics.exists() else ""
                    lines = text.split("\n")[:-1]  # the last may be partial
                    for number, line in enumerate(lines[seen:], seen + 1):
                        with _named(metrics):
                            value = json.loads(line)[name]
                        if self._study.report(trial, number, value) and code is None:
                            return None
                    seen = len(lines)
                    if code is not None:
                        return code
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(POLL)
            finally:
                self._running.discard(process)
                end(process)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file's name to an error about its content."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFailed(
            f"{path}: expected what a trial's run wrote, got something else ({type(error).__name__}: {error}); "
            "remove the trial's folder, and the same command runs it again"
        ) from error


def _described(code: int, log: Path) -> str:
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}" + (", perhaps for lack of memory" if code == -9 else "")
    lines = log.read_text("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"got {code}" + (f": {last[-300:]}" if last else "")
