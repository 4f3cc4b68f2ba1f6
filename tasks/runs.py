"""What all runs of a task share: settings and where they come from, the output folder, and being told to stop.

An output folder holds settings.json (what was asked for), metrics.jsonl (a line for each evaluation), checkpoint.npz
(everything that resuming needs) and, at the end, result.json with the figures of the run and where they come from.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy
import tyro

from fastweights_np import checks, optim

from .provenance import provenance

# settings that say where, not what: they may change when a run is resumed
PLACES = ("out", "resume", "settings", "device", "processes", "data_dir")
KEPT = ("data_dir",)  # of these, what resuming needs to know
FAILED, DIVERGED, INTERRUPTED = 1, 3, 130  # exit codes: a part of the run died; the loss was not finite; told to stop


class Measure(NamedTuple):
    """What runs are compared by in a search: its name in each line of the metrics, what it is, and whether more of it
    is better.
    """

    name: str
    title: str
    maximize: bool

    def best(self, values: Iterable[float]) -> float:
        """The best of these values."""
        return max(values) if self.maximize else min(values)

    @property
    def worst(self) -> float:
        """What a run is worth whose loss was not finite."""
        return -inf if self.maximize else inf

    def of(self, result: dict[str, Any]) -> float:
        """What a run is worth: its result's own figure of this name, else the best in its curve."""
        return result[self.name] if self.name in result else self.best(line[self.name] for line in result["curve"])


@dataclass(frozen=True)
class RunSettings:
    """The options that every task has."""

    task: ClassVar[str]
    measure: ClassVar[Measure] = Measure("validation_nll", "validation loss (nats)", maximize=False)

    seed: int = 0
    """Fixes data, weights and order: on the CPU of one machine, the same seed gives the same run, bit for bit."""
    learning_rate: float = 1e-3
    """The optimizer's step size before the schedule."""
    schedule: Literal["linear", "constant"] = "linear"
    """linear: held for --hold of the updates, then linearly down to zero; constant: held throughout."""
    hold: float = 0.5
    """The fraction of the updates before the linear schedule begins to fall."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this joint norm if theirs is larger."""
    dtype: Literal["float32", "float64"] = "float32"
    """The floating-point type of parameters and states."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu: NumPy; cuda: CuPy on the current GPU."""
    threads: int = 1
    """BLAS threads. The products are small: more threads than one usually slow the run down."""
    out: Path | None = None
    """The output folder; by default runs/TASK-DATE-TIME."""
    resume: Path | None = None
    """An output folder whose run to go on with; its settings are taken from there, and cannot be changed."""

    settings: Path | None = None
    """A file of settings, settings.json of a run or best.json of a search; options given beside it go before."""

    def __post_init__(self) -> None:
        checks.count("seed", self.seed, least=0)
        checks.count("threads", self.threads, least=1)
        checks.not_negative("learning_rate", self.learning_rate)
        checks.not_negative("clip_norm", self.clip_norm)
        checks.fraction("hold", self.hold)
        checks.choice("schedule", self.schedule, optim.SCHEDULES)
        checks.choice("dtype", self.dtype, checks.FLOATS)

    @property
    def reports(self) -> int:
        """How many lines of metrics a whole run writes."""
        raise NotImplementedError

    @property
    def blas_threads(self) -> int:
        """How many threads BLAS is to use."""
        return self.threads

    def as_json(self) -> dict[str, Any]:
        """Every setting that decides what is computed."""
        return {name: value for name, value in asdict(self).items() if name not in PLACES}

    def streams(self, count: int) -> list[numpy.random.Generator]:
        """Independent generators, all fixed by the seed."""
        return [numpy.random.default_rng(s) for s in numpy.random.SeedSequence(self.seed).spawn(count)]

    def rate_at(self, update: int, updates: int) -> float:
        """The learning rate of this update, counted from 0."""
        return self.learning_rate * optim.SCHEDULES[self.schedule](update, updates, self.hold)

    def check_resumed(self, stored: dict[str, Any], path: Path) -> None:
        """Raises ValueError unless these are the settings with which the checkpoint at `path` was made."""
        wanted = self.as_json()
        for name in wanted | stored:
            if wanted.get(name) != stored.get(name):
                raise ValueError(
                    f"{name}: expected {stored.get(name)!r}, with which {path} was made, got {wanted.get(name)!r}; "
                    "resume without that option, or start anew with another --out"
                )


def settings_asked_for(kind: type[RunSettings], arguments: list[str], program: str) -> RunSettings:
    """The settings that a command line means, with those that --resume or --settings point to for its defaults.

    Exits with a message for what is not in the command line's form; raises OSError or ValueError for a bad file.
    """
    asked = tyro.cli(kind, args=arguments, prog=program)
    if asked.resume is not None:
        return tyro.cli(kind, args=arguments, prog=program, default=settings_of(asked.resume, kind))
    if asked.settings is not None:
        if not asked.settings.is_file():
            raise FileNotFoundError(
                f"settings: expected a file of settings, such as best.json; none at {asked.settings}"
            )
        stored = settings_from(asked.settings, kind, settings=asked.settings)
        return tyro.cli(kind, args=arguments, prog=program, default=stored)
    return asked


def settings_from(path: Path, kind: type[RunSettings], **places: Any) -> RunSettings:
    """The settings in a file, such as a run's settings.json, and the given places. Raises OSError or ValueError."""
    try:
        stored = dict(json.loads(path.read_text()))
        task, _ = stored.pop("task", None), stored.pop("command", None)
        if task != kind.task:
            raise ValueError(f"it belongs to task {task!r}")
        return kind(**stored, **places)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{next(iter(places))}: expected {path} to hold the settings of a {kind.task} run of this version: "
            f"{error}; start anew without that option"
        ) from error


def settings_of(folder: Path, kind: type[RunSettings]) -> RunSettings:
    """The settings that the run in `folder` was started with. Raises FileNotFoundError or ValueError."""
    path = folder / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"resume: expected a folder that holds settings.json, found none in {folder}")
    return settings_from(path, kind, resume=folder)


class RunFailed(RuntimeError):
    """A part of the run has died, through no fault of its settings: the checkpoint has been written."""


class Interruption(Exception):
    """Ctrl-C, or a request to end: the checkpoint has been written."""


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Within, Ctrl-C and SIGTERM are put on the list instead of stopping the program in the middle of an update."""
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        if noted:  # asked twice: at once
            raise KeyboardInterrupt
        noted.append(number)

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals go elsewhere
        previous = {}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# -------------------------------------------------------------------------------------------------------- output folder


def open_folder(settings: RunSettings) -> Path:
    """The run's output folder, made, found writable, and with settings.json in it.

    Raises FileExistsError if another run is in it, OSError if it cannot be written, ValueError for out with resume.
    """
    if settings.resume is not None and settings.out is not None:
        raise ValueError(
            "out: expected none with --resume, which goes on in the folder that it names; leave --out away"
        )
    folder = settings.resume or settings.out or Path("runs") / time.strftime(f"{settings.task}-%Y%m%d-%H%M%S")
    if settings.resume is None and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"out: expected an empty or a new folder, got {folder}, which holds files; "
            f"go on with that run by --resume {folder}, or choose another --out"
        )
    origin = provenance()  # now: the checkout can change while the run goes on
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if settings.resume is None:
            command = {"task": settings.task, "command": origin["command"]}
            kept = {name: str(place) for name in KEPT if (place := getattr(settings, name, None)) is not None}
            write_json(folder / "settings.json", command | kept | settings.as_json())
        elif not os.access(folder, os.W_OK):
            raise PermissionError("it is read-only")
    except OSError as error:
        message = f"out: expected a folder that can be written, got {folder}: {error}; choose another --out"
        raise OSError(message) from error
    return folder


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    beside = path.with_name(path.name + ".writing")
    beside.write_text(text)
    os.replace(beside, path)


def store_result(folder: Path, settings: RunSettings, result: dict[str, Any]) -> None:
    """Writes result.json: the result, after the settings and where it comes from."""
    made_by: dict[str, Any] = {"task": settings.task, "settings": settings.as_json(), "device": settings.device}
    made_by |= {"processes": getattr(settings, "processes", 1)} | provenance()
    made_by["command"] = json.loads((folder / "settings.json").read_text())["command"]  # not that of resuming
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(folder / "result.json", made_by | finished | result)
