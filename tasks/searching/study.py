"""Keep the trials of a search in an Optuna study: waiting, running and finished trials, and their objectives.

The folder of a trial is named by its number. A trial that was stopped, or whose run failed or was killed, waits to be
resumed under the same number. Searches that share a storage send heartbeats. If they stop, for example because the
machine was switched off, other searches run the same settings anew under another number. Trials in the state FAIL were
never run, or are those that were replaced in this way.
"""

from __future__ import annotations

import json
import platform
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool

from ..running.locks import FolderInUse, locked
from ..running.runs import RunSettings
from .space import Range, Space, combinations

DRAWS = 10_000  # after this many samples in a row without new settings, the space counts as exhausted
HEARTBEAT, GRACE = 30, 120  # seconds between two signs of life of a shared trial, and until it counts as dead
NO_BEATS: dict[str, Any] = {}  # a search whose storage is its own: the folder's lock says whether it lives
SQLITE: dict[str, Any] = {"timeout": 60.0, "isolation_level": None}  # seconds; `_storage` begins transactions
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Search:
    """The definition of a search: a task, its fixed options, and the values or the range of each searched setting."""

    base: RunSettings  # the settings of every trial, except the searched ones
    options: list[str]  # the task's options on the command line
    space: Space
    random: int | None  # the number of different settings to draw; None: the whole grid
    folder: Path
    prune: bool

    def description(self) -> dict[str, Any]:
        """Return the task, space and settings, which must be the same when a study is resumed."""
        space = json.loads(json.dumps(self.space))
        return {"task": self.base.task, "space": space, "settings": self.base.as_json()}

    def place(self, trial: int) -> Path:
        """Return the folder of the trial with this number."""
        return self.folder / f"trial-{trial:04}"


def _storage(url: str | None, folder: Path) -> RDBStorage:
    """Open the database at the URL, by default study.db in the folder."""
    if url is None:
        path = folder.resolve() / "study.db"
        # SQLite gets the path itself: in a URL, some characters of a path have another meaning
        options = {"creator": lambda: sqlite3.connect(path, check_same_thread=False, **SQLITE), "poolclass": QueuePool}
        opened = _created("sqlite://", options)
    else:
        beats = {
            "heartbeat_interval": HEARTBEAT, "grace_period": GRACE, "heartbeat_stale_trial_callback": _run_anew,
        }  # fmt: skip
        opened = _created(url, {"connect_args": SQLITE} if url.startswith("sqlite") else {}, beats)
    if opened.engine.dialect.name == "sqlite":
        # To take a trial, Optuna reads its state (waiting) and writes the new one (running). By default SQLite lets
        # another search write between the two.
        event.listen(opened.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return opened


def _created(url: str, options: dict[str, Any], beats: dict[str, Any] = NO_BEATS) -> RDBStorage:
    """Open the database, and create its tables if it is new. Retry, because two searches may create them at once."""
    with _heartbeats_allowed():
        for _ in range(4):
            with suppress(DatabaseError):
                return RDBStorage(url, options, **beats)
            time.sleep(0.2)
        return RDBStorage(url, options, **beats)


def _run_anew(study: optuna.Study, dead: FrozenTrial) -> None:
    """Add a waiting trial with the settings of a trial whose machine is dead."""
    print(f"trial-{dead.number:04}: no sign of life for {GRACE} s; its settings are run anew", flush=True)
    study.add_trial(create_trial(state=TrialState.WAITING, params=dead.params, distributions=dead.distributions))


@contextmanager
def _heartbeats_allowed() -> Iterator[None]:
    """Use Optuna's heartbeats without its warnings: they are experimental, and Study.optimize would send them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used", UserWarning)
        yield


class Study:
    """The trials of a search, new or resumed. Other searches may take trials from the same study at the same time."""

    def __init__(self, search: Search, url: str | None, name: str | None) -> None:
        """Open the study. Stopped trials and the remaining trials of a grid wait in it.

        url: the storage, which searches in other folders can share; None: study.db in the search's folder.

        Raise ValueError if the study has another task, space or settings, or another data_dir if the url is None.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.exhausted, self._shared = search, False, url is not None
        self._sampler = optuna.samplers.RandomSampler()  # no seed: each search draws different settings
        self._distributions = {name: _distribution(values) for name, values in search.space.items()}
        self._owner = [platform.node(), str(search.folder.resolve())]
        self._asking = Lock()
        self._seen_without_owner = set[int]()  # numbers of trials that were given a heartbeat
        self._left_out = dict[frozenset[Any], str]()  # samples that cannot be run, each with the invalid setting
        self._storage = _storage(url, search.folder)
        try:
            self._study = optuna.create_study(
                storage=self._storage, study_name=name or f"search-{search.base.task}", load_if_exists=True,
                direction="maximize" if search.base.objective.maximize else "minimize",
                pruner=_patient_pruner(search.base.reports) if search.prune else optuna.pruners.NopPruner(),
            )  # fmt: skip
            self._check()
            self._let_wait()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        name, wanted = self._study.study_name, self.search.description()
        if not self._shared:  # other machines may have the same data in other folders
            wanted["settings"] |= self.search.base.kept_places()
        before = self._study.user_attrs.get("search")
        if before is None:
            if (self.search.folder / "search.json").exists():
                raise ValueError(
                    f"out: expected a new folder for the new study {name!r}, got {self.search.folder}, which holds "
                    "another search; choose another --out, or the --storage and --study of that search"
                )
            self._study.set_user_attr("search", wanted)
            return
        if before["task"] != wanted["task"]:
            raise ValueError(
                f"task: expected {before['task']}, the task of the study {name!r}, got {wanted['task']}; "
                "choose another --study"
            )
        for kind in ("space", "settings"):
            old, new = before[kind], wanted[kind]
            for setting in old | new:
                if old.get(setting) != new.get(setting):
                    raise ValueError(
                        f"{setting}: expected {old.get(setting, 'none')}, with which the study {name!r} was begun, "
                        f"got {new.get(setting, 'none')}; begin a new one with another --out or --study"
                    )

    def _let_wait(self) -> None:
        """Set the trials of ended searches to waiting, and add the missing combinations of the grid."""
        for trial in self.trials(TrialState.RUNNING):
            if not self._shared or self._is_dead(trial):  # this search holds the folder's lock
                self.wait_again(trial.number)
        if self.search.random is None:
            tried = {_key(trial.params) for trial in self.trials()}
            for chosen in combinations(self.search.space):
                if _key(chosen) not in tried:
                    self._add(chosen)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Return whether the search that ran this trial has ended. On another machine this is unknown: False."""
        owner = trial.user_attrs.get("owner")
        if owner == self._owner:
            return True
        if owner is None or owner[0] != platform.node():
            return False
        try:
            with suppress(OSError), locked(Path(owner[1])):
                pass
        except FolderInUse:
            return False
        return True

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states; by default all except failed ones."""
        wanted = states or (*FINISHED, TrialState.RUNNING, TrialState.WAITING)
        return self._study.get_trials(deepcopy=False, states=wanted)

    def next(self) -> optuna.Trial | None:
        """Return the next trial to run: a waiting one, else one with new settings. None if there is none."""
        with self._asking:
            if self._shared:
                self._beat_for_trials_without_owner()
                with _heartbeats_allowed():
                    fail_stale_trials(self._study)
            while True:
                trials = self.trials()
                if not any(trial.state == TrialState.WAITING for trial in trials):
                    chosen = self._draw({_key(trial.params) for trial in trials})
                    if chosen is None:
                        return None
                    self._add(chosen)
                with _heartbeats_allowed():
                    trial = self._study.ask()
                same = [other.number for other in self.trials() if _key(other.params) == _key(trial.params)]
                if trial.params and min(same) == trial.number:
                    self.beat(trial.number)
                    trial.set_user_attr("owner", self._owner)  # after the first heartbeat: a trial with owner has one
                    return trial
                # another search took the waiting trial, or added the same settings at the same time
                self._study.tell(trial, state=TrialState.FAIL)

    def _beat_for_trials_without_owner(self) -> None:
        """Send one heartbeat for each started trial that has no owner yet. Its search may have been killed before that.

        A trial without a heartbeat would never count as dead, and other searches would wait for it forever.
        """
        for trial in self.trials(TrialState.RUNNING):
            if "owner" not in trial.user_attrs and trial.number not in self._seen_without_owner:
                self._seen_without_owner.add(trial.number)
                self.beat(trial.number)

    def _draw(self, tried: set[frozenset[Any]]) -> dict[str, Any] | None:
        """Return random settings that were not tried. None if enough were tried, or if there are no others."""
        if self.search.random is None or len(tried) >= self.search.random:
            return None
        for _ in range(DRAWS):
            chosen = {
                name: self._sampler.sample_independent(
                    self._study, create_trial(state=TrialState.WAITING), name, distribution
                )
                for name, distribution in self._distributions.items()
            }
            if _key(chosen) not in tried and self._can_be_run(chosen):
                return chosen
        if not self.exhausted:
            print(f"search: {DRAWS} samples gave no new settings; all {len(tried)} existing settings were tried")
        self.exhausted = True
        return None

    def _can_be_run(self, chosen: dict[str, Any]) -> bool:
        if _key(chosen) in self._left_out:
            return False
        try:
            replace(self.search.base, **chosen)
        except ValueError as error:
            name = str(error).partition(":")[0]
            if name not in self._left_out.values():
                print(f"search: settings like these are skipped: {error}", flush=True)
            self._left_out[_key(chosen)] = name
            return False
        return True

    def _add(self, chosen: dict[str, Any]) -> None:
        """Add a waiting trial with these settings."""
        self._study.add_trial(create_trial(state=TrialState.WAITING, params=chosen, distributions=self._distributions))

    def report(self, trial: optuna.Trial, step: int, value: float) -> bool:
        """Report the objective after this many lines of metrics. Return whether to prune the trial."""
        if (
            step not in self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        ):  # else it was reported before the trial was stopped
            try:
                trial.report(value, step)
            except UpdateFinishedTrialError:  # this search stood still, and another one runs the settings anew
                return True
        return trial.should_prune()

    def finish(self, trial: optuna.Trial, value: float | None) -> None:
        """Store the objective of a finished trial; None for a pruned one."""
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._study.tell(trial, value, state=state, skip_if_finished=True)

    def beat(self, number: int) -> None:
        """Send a heartbeat for a trial that this search runs. Call it more often than once in GRACE seconds."""
        if self._shared:
            self._storage.record_heartbeat(self._id(number))

    def run_elsewhere(self) -> list[int]:
        """Return the numbers of the trials that other searches run now."""
        running = self.trials(TrialState.RUNNING) if self._shared else []
        return [trial.number for trial in running if trial.user_attrs.get("owner") != self._owner]

    def wait_again(self, number: int) -> None:
        """Set a started trial to waiting, so that it is resumed."""
        with suppress(UpdateFinishedTrialError):  # another search has finished it
            self._storage.set_trial_state_values(self._id(number), TrialState.WAITING)

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def leave(self) -> None:
        """Release the connection of the calling thread. Each thread that used the study has one."""
        self._storage.remove_session()

    def close(self) -> None:
        """Close the connections to the storage."""
        self.leave()
        self._storage.engine.dispose()

    def left(self) -> int:
        """Return the number of different settings that are not finished."""
        if self.exhausted:
            wanted = len(_distinct(self.trials()))
        elif self.search.random is not None:
            wanted = self.search.random
        else:
            wanted = len(combinations(self.search.space))
        return max(wanted - len(_distinct(self.trials(*FINISHED))), 0)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of finished trials: number, state, settings, objective, recorded entries and folder."""
        return [self._row(trial) for trial in self.trials(*FINISHED)]

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        own, (host, folder) = self.search.place(trial.number), trial.user_attrs.get("owner", ("", ""))
        ended_well = trial.state == TrialState.COMPLETE and trial.value is not None and isfinite(trial.value)
        return {
            "number": trial.number,
            "state": trial.state.name,
            **trial.params,
            self.search.base.objective.name: trial.value if ended_well else None,
            **trial.user_attrs.get("recorded", {}),
            "folder": own.name if own.is_dir() else f"{host}:{folder}/{own.name}",
        }

    def best(self) -> list[FrozenTrial]:
        """Return the complete trials with a finite objective, best first, one for each combination of settings."""
        complete = [trial for trial in self.trials(TrialState.COMPLETE) if isfinite(_value(trial))]
        return sorted(_distinct(complete), key=_value, reverse=self.search.base.objective.maximize)


def _distinct(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the first trial of each combination of settings."""
    first: dict[frozenset[Any], FrozenTrial] = {}
    for trial in trials:
        first.setdefault(_key(trial.params), trial)
    return list(first.values())


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _key(chosen: dict[str, Any]) -> frozenset[Any]:
    return frozenset(chosen.items())


def _distribution(values: list[Any] | Range) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _patient_pruner(reports: int) -> optuna.pruners.BasePruner:
    """Return a pruner that skips the first quarter of a trial, where small learning rates usually look worse."""
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=reports // 4)
