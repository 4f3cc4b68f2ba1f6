"""Provide what all tasks share: settings and their sources, interruption, and the result.

An output folder holds settings.json (the settings of the run), metrics.jsonl (a line for each evaluation),
checkpoint.npz (everything that resuming needs) and, at the end, result.json with the run's results and provenance.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy
import tyro

from fastweights_np import checks, distributed, files, optim

from . import typed
from .provenance import provenance

# settings for folders and devices: they may change when a run is resumed
PLACES = ("out", "resume", "continues", "settings", "device", "data_dir")
KEPT = ("data_dir",)  # the places that resuming needs
ABOUT = ("task", "command", "origin")  # entries of settings.json in addition to the settings
NOT_FINITE = "lower --learning-rate or --clip-norm, or --rate if the layer is fast_weights"  # remedy in error messages
LARGEST = 10_000_000  # bytes of a settings file
FAILED, DIVERGED, INTERRUPTED = 1, 3, 130  # exit codes: a process failed; not finite; Ctrl-C or SIGTERM


class Objective(NamedTuple):
    """The objective of a search: its name in each line of the metrics, its title, and whether it is maximized."""

    name: str
    title: str
    maximize: bool

    def best(self, values: Iterable[float]) -> float:
        """Return the best of these values."""
        return max(values) if self.maximize else min(values)

    @property
    def worst(self) -> float:
        """Return the objective of a run whose loss was not finite."""
        return -inf if self.maximize else inf

    def of(self, result: dict[str, Any]) -> float:
        """Return the objective of a run: the entry of this name in its result, else the best value of its curve."""
        return result[self.name] if self.name in result else self.best(line[self.name] for line in result["curve"])


@dataclass(frozen=True)
class RunSettings:
    """The options that every task has."""

    task: ClassVar[str]
    objective: ClassVar[Objective] = Objective("validation_nll", "validation loss (nats)", maximize=False)
    recorded: ClassVar[tuple[str, ...]] = ()  # entries of a result that a search lists next to the objective
    length: ClassVar[str]  # the setting for the length of a run
    checkpoint: ClassVar[tuple[tuple[str, ...], type]]  # its groups of arrays, and the types of its other entries
    since: ClassVar[tuple[str, ...]] = ()  # groups and entries that older checkpoints lack
    earlier: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # settings of runs that are older than the option

    seed: int = 0
    """Random seed of data, initial weights and batch order. On the CPU of one machine, runs with the same seed and
    number of ranks are bit-identical."""
    learning_rate: float = 1e-3
    """Learning rate of the optimizer before the schedule is applied."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """Learning-rate schedule. linear, cosine: constant for the fraction --hold of the updates, then decay to zero."""
    hold: float = 0.5
    """Fraction of the updates before the decay of the learning rate begins."""
    clip_norm: float = 5.0
    """Clip gradients to this global norm."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type of parameters and hidden states."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu: NumPy; cuda: CuPy on the current GPU."""
    threads: int = 1
    """BLAS threads. The matrix products are small, so several threads usually slow the run down."""
    out: Path | None = None
    """Output folder, new or empty. None: runs/TASK-DATE-TIME."""
    resume: Path | None = None
    """Resume the run in this output folder with its settings. More epochs or frames start a longer run in a new folder,
    from the last checkpoint. The learning-rate schedule then covers the new length."""
    initial: Path | None = None
    """Output folder of a run whose best parameters become the initial weights. Names, shapes and dtypes must match."""
    settings: Path | None = None
    """Settings file: settings.json or result.json of a run, or best.json of a search. Command-line options override
    it."""
    continues: Annotated[Path | None, tyro.conf.Suppress] = None
    """Output folder of the run that this longer run continues; --resume named it."""

    def __post_init__(self) -> None:
        for name, value in typed.checked(type(self), vars(self)).items():
            object.__setattr__(self, name, value)
        for name, (default, user) in self.ignored(vars(self)).items():
            value = getattr(self, name)
            (given,), (remedy,) = typed.words(type(self), {name: value}), typed.words(type(self), {name: default})
            raise ValueError(
                f"{name}: {user} does not use it; expected its default, {default!r}, got {value!r}; leave {given} out, "
                f"or pass {remedy}"
            )
        for name, value in vars(self).items():
            if isinstance(value, Path) and name not in PLACES:
                object.__setattr__(self, name, value.absolute())  # a run is resumed from any folder
        checks.count("seed", self.seed, least=0)
        checks.count("threads", self.threads, least=1)
        checks.not_negative("learning_rate", self.learning_rate)
        checks.positive("clip_norm", self.clip_norm)
        checks.fraction("hold", self.hold)

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError unless this number of ranks can share the run."""

    @property
    def reports(self) -> int:
        """Return the number of lines of metrics that a whole run writes."""
        raise NotImplementedError

    @property
    def blas_threads(self) -> int:
        """Return the number of BLAS threads."""
        return self.threads

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        return {"hold": "the constant schedule"} if values["schedule"] == "constant" else {}

    @classmethod
    def ignored(cls, values: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        """Return the options that are set but have no effect, each with its default and the reason."""
        defaults = {field.name: field.default for field in fields(cls)}
        unused = cls.unused(defaults | dict(values))
        return {
            name: (defaults[name], user) for name, user in unused.items()
            if values.get(name, defaults[name]) != defaults[name]
        }  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Return every setting that affects the result: all except PLACES."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items() if name not in PLACES
        }  # fmt: skip

    def kept_places(self) -> dict[str, str]:
        """Return the absolute paths that a file of settings names, because resuming needs them."""
        return {name: str(place.resolve()) for name in KEPT if (place := getattr(self, name, None)) is not None}

    def longer(self, arrays: dict[str, Any], length: int) -> dict[str, Any]:
        """Return the arrays of a checkpoint of a run of `length`, adapted to this longer run."""
        return arrays

    def streams(self, count: int) -> list[numpy.random.Generator]:
        """Return independent generators, all seeded by the seed."""
        return [numpy.random.default_rng(s) for s in numpy.random.SeedSequence(self.seed).spawn(count)]

    def rate_at(self, update: int, updates: int) -> float:
        """Return the learning rate of this update, counted from 0."""
        return self.learning_rate * optim.SCHEDULES[self.schedule](update, updates, self.hold)

    def check_resumed(self, stored: Mapping[str, Any], path: Path) -> None:
        """Raise ValueError unless these settings equal the stored ones, with which the file at `path` was made."""
        try:
            before = settings_and_notes(stored, type(self), path)[0].as_json()
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}; start anew with another --out") from error
        wanted = self.as_json()
        for name, value in wanted.items():
            if value != before[name]:
                raise ValueError(
                    f"{name}: expected {before[name]!r}, with which {path} was made, got {value!r}; "
                    "resume without that option, or start anew with another --out"
                )


def settings_from(path: Path, kind: type[RunSettings], **places: Any) -> RunSettings:
    """Return the settings in a file, such as a run's settings.json, and the given places.

    Options that have no effect are set to their defaults, with a note on standard error: older versions had other
    defaults. Raise OSError or ValueError.
    """
    place = next(iter(places))
    try:
        stored = read_json(path)
        if stored.get("task") != kind.task:
            raise ValueError(f"it belongs to task {stored.get('task')!r}")
        settings, notes = settings_and_notes(
            stored.get("settings", stored), kind, path
        )  # result.json, or settings.json
        settings = replace(settings, **places)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{place}: expected the settings of a {kind.task} run in {path}: {error}; "
            f"mend the file, or leave --{place} out"
        ) from error
    for note in notes:
        print(f"tasks: {note}", file=sys.stderr)
    return settings


def settings_and_notes(stored: Any, kind: type[RunSettings], path: Path) -> tuple[RunSettings, list[str]]:
    """Return the settings that were stored in `path`, and notes for the user."""
    if not isinstance(stored, Mapping):
        raise ValueError(f"settings: expected named values, got {stored!r}")
    known = {field.name for field in fields(kind)} - {"out", "resume", "continues", "settings"}
    if unknown := stored.keys() - known - set(ABOUT):
        raise ValueError(f"unknown setting {', '.join(sorted(unknown))}")
    older = {name: value for name, value in kind.earlier.items() if name not in stored}
    values = typed.checked(kind, older | {name: value for name, value in stored.items() if name not in ABOUT})
    ignored = kind.ignored(values)
    notes = [f"{path}: {name} is taken as {value}: the file is older than this option" for name, value in older.items()]
    notes += [
        f"{path}: {name} {values[name]} is ignored: {user} does not use it" for name, (_, user) in ignored.items()
    ]
    return kind(**{name: value for name, value in values.items() if name not in ignored}), notes


def settings_of(folder: Path, kind: type[RunSettings]) -> RunSettings:
    """Return the settings that the run in `folder` was started with. Raise FileNotFoundError or ValueError."""
    path = folder / "settings.json"
    if not path.is_file():
        raise FileNotFoundError(f"resume: expected a folder that holds settings.json, found none in {folder}")
    return settings_from(path, kind, resume=folder)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raise OSError, or ValueError for a large file, a repeated key or no object."""
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} instead of an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it holds {name!r} more than once")
    return value


class RunFailed(RuntimeError):
    """A process of the run failed, but not because of its settings. The checkpoint has been written."""


class Interruption(Exception):
    """The run was interrupted by Ctrl-C or SIGTERM. The checkpoint has been written."""


_noted: list[int] | None = None  # the list of the outermost interrupts_noted()


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Append Ctrl-C and SIGTERM to the list within the block, instead of stopping in the middle of an update.

    Nested blocks share the list. The second signal raises KeyboardInterrupt. The first raises nothing, because C code's
    callbacks, such as threadpoolctl's, ignore exceptions.
    """
    global _noted
    if _noted is not None:
        yield _noted
        return
    _noted = noted = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals go elsewhere
        previous = {}
    try:
        yield noted
    finally:
        _noted = None
        for number, handler in previous.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------------------- result


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    files.write_text(path, json.dumps(value, indent=1) + "\n")


def store_result(folder: Path, settings: RunSettings, result: dict[str, Any]) -> None:
    """Write result.json: the settings, the provenance and the result."""
    made_by: dict[str, Any] = {"task": settings.task, "settings": settings.as_json(), "device": settings.device}
    made_by |= {"ranks": distributed.ranks().size} | provenance()
    started = read_json(folder / "settings.json")
    made_by |= {name: started[name] for name in ("command", "origin") if name in started}  # of the first session
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(folder / "result.json", made_by | finished | result)
