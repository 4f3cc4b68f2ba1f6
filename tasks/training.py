"""What all supervised tasks share: the training loop, its checkpoints, and the files of an output folder.

An output folder holds settings.json (what was asked for), metrics.jsonl (a line for each evaluation), checkpoint.npz
(everything that resuming needs) and, at the end, result.json with the figures of the run and where they come from.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy
import tyro
from tqdm import tqdm

from fastweights_np import Workspace, checkpoint, checks, ops, optim
from fastweights_np.backend import Array, to_device
from fastweights_np.network import Model
from fastweights_np.trees import map_leaves

from .provenance import provenance

# settings that say where, not what: they may change when a run is resumed
PLACES = ("out", "resume", "settings", "device", "processes", "data_dir")
KEPT = ("data_dir",)  # of these, what resuming needs to know
CHECKPOINT = (
    "params", "best_params", "optimizer", "settings", "update", "random_state", "epoch_loss", "best", "curve", "seconds"
)  # fmt: skip
INTERRUPTED, DIVERGED = 130, 3  # exit codes: told to stop; the loss was not finite
MEASURES = {"loss": ("validation_nll",), "error": ("validation_error", "validation_nll")}  # of the best epoch
REPORT_EVERY = 50  # updates between two looks at the loss; each look makes a GPU wait


@dataclass(frozen=True)
class TrainingSettings:
    """The options that every supervised task has."""

    task: ClassVar[str]

    seed: int = 0
    """Fixes data, weights and order: on the CPU of one machine, the same seed gives the same run, bit for bit."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 128
    """Sequences in an update; the last, smaller batch of an epoch is left out."""
    learning_rate: float = 1e-3
    """Adam's step size before the schedule."""
    schedule: Literal["linear", "constant"] = "linear"
    """linear: held for --hold of the updates, then linearly down to zero; constant: held throughout."""
    hold: float = 0.5
    """The fraction of the updates before the linear schedule begins to fall."""
    weight_decay: float = 0.0
    """By this times the learning rate all weights shrink in each update."""
    best_by: Literal["loss", "error"] = "loss"
    """What on the validation set decides which epoch's parameters are the best; of equal errors, the loss."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this joint norm if theirs is larger."""
    dtype: Literal["float32", "float64"] = "float32"
    """The floating-point type of parameters and states."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu: NumPy; cuda: CuPy on the current GPU."""
    threads: int = 1
    """BLAS threads. The products are small: more threads than one usually slow the run down. With the ConvNet, threads
    that share the images of a batch, which speed it up."""
    processes: int = 1
    """Processes that share each batch in the recurrent layer. Two of them pay from about 100 units on, if two cores are
    free."""
    out: Path | None = None
    """The output folder; by default runs/TASK-DATE-TIME."""
    resume: Path | None = None
    """An output folder whose run to go on with; its settings are taken from there, and cannot be changed."""

    settings: Path | None = None
    """A file of settings, settings.json of a run or best.json of a search; options given beside it go before."""

    def __post_init__(self) -> None:
        checks.count("seed", self.seed, least=0)
        checks.count("epochs", self.epochs, least=1)
        checks.count("batch_size", self.batch_size, least=1)
        checks.count("threads", self.threads, least=1)
        checks.count("processes", self.processes, least=1)
        if self.processes > 1 and self.device != "cpu":
            raise ValueError(f"processes: expected 1 on a GPU, got {self.processes}; leave --processes away")
        checks.not_negative("learning_rate", self.learning_rate)
        checks.not_negative("weight_decay", self.weight_decay)
        checks.not_negative("clip_norm", self.clip_norm)
        checks.fraction("hold", self.hold)
        checks.choice("schedule", self.schedule, optim.SCHEDULES)
        checks.choice("best_by", self.best_by, MEASURES)
        checks.choice("dtype", self.dtype, checks.FLOATS)

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


def settings_asked_for(kind: type[TrainingSettings], arguments: list[str], program: str) -> TrainingSettings:
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


def settings_from(path: Path, kind: type[TrainingSettings], **places: Any) -> TrainingSettings:
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


def settings_of(folder: Path, kind: type[TrainingSettings]) -> TrainingSettings:
    """The settings that the run in `folder` was started with. Raises FileNotFoundError or ValueError."""
    path = folder / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"resume: expected a folder that holds settings.json, found none in {folder}")
    return settings_from(path, kind, resume=folder)


class Examples(Protocol):
    """What can be trained on: labels (N,), and batches of inputs."""

    @property
    def labels(self) -> Array:
        """(N,)."""

    def batch(self, chosen: Any) -> tuple[Array, Array]:
        """(inputs, labels) of the chosen examples, a slice or an array of indices."""

    def varied(self, rng: numpy.random.Generator) -> Examples:
        """The same examples as an epoch of training is to see them, changed at random or as they are."""


class Split(NamedTuple):
    """Sequences and their labels: inputs (T, N, ...), labels (N,)."""

    inputs: Array
    labels: Array

    def batch(self, chosen: Any) -> tuple[Array, Array]:
        """(inputs, labels) of the chosen sequences, a slice or an array of indices."""
        return self.inputs[:, chosen], self.labels[chosen]

    def varied(self, rng: numpy.random.Generator) -> Split:
        """As they are."""
        return self


@dataclass(frozen=True)
class Outcome:
    """What training leaves: the best parameters on the validation set, and the way there."""

    params: dict[str, Any]
    best: dict[str, float]  # the metrics line of those parameters
    curve: list[dict[str, float]]
    updates: int
    seconds: float


class Interruption(Exception):
    """Ctrl-C, or a request to end: the checkpoint has been written."""


def evaluate(network: Model, params: Any, split: Examples, workspace: Workspace | None = None) -> tuple[float, float]:
    """(mean negative log likelihood in nats, error rate) over a split."""
    count, nll, wrong = len(split.labels), 0.0, 0.0
    for start in range(0, count, 1000):
        inputs, labels = split.batch(slice(start, start + 1000))
        logits, _ = network.forward(params, inputs, workspace)
        nll += ops.softmax_cross_entropy(logits, labels)[0].sum(dtype="float64")
        wrong += (logits.argmax(axis=1) != labels).sum()
    return float(nll) / count, float(wrong) / count


def train(
    network: Model, settings: TrainingSettings, folder: Path, training: Examples, validation: Examples,
    watched: Mapping[str, Examples] = MappingProxyType({}),
) -> Outcome:  # fmt: skip
    """Trains to the end of the settings' epochs, from the folder's checkpoint if settings.resume is set.

    Evaluates on the validation set and writes a checkpoint after each epoch. Splits that are watched are evaluated too,
    for the record: the best parameters are chosen on the validation set alone. Raises Interruption on Ctrl-C, after a
    checkpoint; FloatingPointError, naming the update, if the loss is not finite; ValueError if the checkpoint belongs
    to other settings.
    """
    run = _Run(network, settings, folder, training)
    with _interrupts_noted() as interrupted:
        if settings.resume is not None:
            run.restore()
        bar = tqdm(total=run.updates, initial=run.update, disable=None, unit=" updates", dynamic_ncols=True)
        with bar:
            while run.update < run.updates:
                for _ in run.rest_of_epoch():
                    if run.update % REPORT_EVERY == 0:
                        loss = run.report()
                        bar.set_postfix({"loss": f"{loss:.4f}", "validation error": run.latest_error()}, refresh=False)
                        bar.update(run.update - bar.n)
                    if interrupted and run.update % run.batches:
                        run.report()
                        run.save()
                        raise Interruption
                run.report()
                run.finish_epoch(validation, watched)
                if interrupted:
                    raise Interruption
            bar.update(run.update - bar.n)
    return Outcome(run.best_params, run.best, run.curve, run.updates, run.seconds())


class _Run:
    """The state of one training: all that a checkpoint holds, and how it moves on."""

    def __init__(self, network: Model, settings: TrainingSettings, folder: Path, training: Examples) -> None:
        weights, self._order = settings.streams(2)
        self.network, self.settings, self.folder, self.training = network, settings, folder, training
        self.params = to_device(network.init(weights, settings.dtype), settings.device)
        self.optimizer = optim.Adam(self.params, weight_decay=settings.weight_decay)
        self.batches = len(training.labels) // settings.batch_size
        self.update, self.updates = 0, self.batches * settings.epochs
        self.best_params, self.best = self.params, dict[str, float]()
        self.curve: list[dict[str, float]] = []
        self._workspace, self._evaluation = Workspace(), Workspace()
        self._epoch_start = self._order.bit_generator.state  # from which the running epoch's order was drawn
        self._unseen: list[Array] = []  # losses since the last look
        self._epoch_loss = 0.0
        self._before, self._started = 0.0, time.perf_counter()

    def rest_of_epoch(self) -> Iterator[None]:
        """Makes the updates that are left of this epoch, yielding after each."""
        self._epoch_start = self._order.bit_generator.state
        order = self._order.permutation(len(self.training.labels))
        training = self.training.varied(self._order)
        done, size = self.update % self.batches, self.settings.batch_size
        for start in range(done * size, self.batches * size, size):
            inputs, labels = training.batch(order[start : start + size])
            loss, grads = self.network.loss_and_gradients(self.params, inputs, labels, self._workspace)
            optim.clip_by_global_norm(grads, self.settings.clip_norm)
            self.optimizer.step(self.params, grads, self.settings.rate_at(self.update, self.updates))
            self.update += 1
            self._unseen.append(loss)
            yield

    def report(self) -> float:
        """Brings the unseen losses to the host, checks that they are finite, and returns their mean."""
        losses = [float(loss) for loss in self._unseen]
        for update, loss in enumerate(losses, self.update - len(losses) + 1):
            if not isfinite(loss):
                raise self._not_finite("loss", loss, update)
        self._unseen.clear()
        self._epoch_loss += sum(losses)
        return sum(losses) / max(len(losses), 1)

    def finish_epoch(self, validation: Examples, watched: Mapping[str, Examples]) -> None:
        """Evaluates, keeps the parameters if they are the best so far, saves, and adds a line to the metrics."""
        nll, error = evaluate(self.network, self.params, validation, self._evaluation)
        if not isfinite(nll):
            raise self._not_finite("validation loss", nll, self.update)
        line = {
            "update": self.update,
            "epoch": self.update // self.batches,
            "train_loss": self._epoch_loss / self.batches,
            "validation_nll": nll,
            "validation_error": error,
            **self._watch(watched),
            "learning_rate": self.settings.rate_at(self.update - 1, self.updates),
            "seconds": round(self.seconds(), 2),
        }
        self._epoch_loss = 0.0
        self._epoch_start = self._order.bit_generator.state
        measures = MEASURES[self.settings.best_by]
        if not self.best or [line[name] for name in measures] < [self.best[name] for name in measures]:
            self.best, self.best_params = line, map_leaves(lambda array: array.copy(), self.params)
        self.curve.append(line)
        self.save()  # before the line: resuming writes the metrics anew from the checkpoint
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def _watch(self, watched: Mapping[str, Examples]) -> dict[str, float]:
        line: dict[str, float] = {}
        for name, split in watched.items():
            line[f"{name}_nll"], line[f"{name}_error"] = evaluate(self.network, self.params, split, self._evaluation)
        return line

    def _not_finite(self, what: str, value: float, update: int) -> FloatingPointError:
        kept = f"; the checkpoint of epoch {self.curve[-1]['epoch']} is kept" if self.curve else ""
        return FloatingPointError(
            f"{what}: expected a finite number, got {value} at update {update}; "
            f"lower --learning-rate or --clip-norm, or --rate if the layer is fast_weights{kept}"
        )

    def latest_error(self) -> str:
        return f"{self.curve[-1]['validation_error']:.2%}" if self.curve else "-"

    def seconds(self) -> float:
        """Training time so far, in all sessions."""
        return self._before + time.perf_counter() - self._started

    def save(self) -> None:
        state = self.optimizer.state()
        arrays = {"params": self.params, "best_params": self.best_params}
        arrays["optimizer"] = {name: state[name] for name in self.optimizer.moments}
        info = {
            "settings": self.settings.as_json(),
            "update": self.update,
            "random_state": self._epoch_start,
            "epoch_loss": self._epoch_loss,
            "best": self.best,
            "curve": self.curve,
            "seconds": self.seconds(),
        }
        checkpoint.save(self.folder / "checkpoint.npz", arrays, info)

    def restore(self) -> None:
        """Goes on from the folder's checkpoint, if the run got as far as writing one."""
        path = self.folder / "checkpoint.npz"
        if not path.exists() and not (self.folder / "metrics.jsonl").exists():
            return  # stopped within the first epoch
        arrays, info = checkpoint.load(path)
        checks.keys("checkpoint", arrays | info, CHECKPOINT, remedy=f"{path} is not of this task; start anew")
        wanted, stored = self.settings.as_json(), info["settings"]
        for name in wanted | stored:
            if wanted.get(name) != stored.get(name):
                raise ValueError(
                    f"{name}: expected {stored.get(name)!r}, with which {path} was made, got {wanted.get(name)!r}; "
                    "resume without that option, or start anew with another --out"
                )
        arrays = to_device(arrays, self.settings.device)
        self.params, self.best_params = arrays["params"], arrays["best_params"]
        self.update, self.best, self.curve = info["update"], info["best"], info["curve"]
        self.optimizer.load_state(arrays["optimizer"] | {"updates": self.update})
        self._order.bit_generator.state = self._epoch_start = info["random_state"]
        self._epoch_loss, self._before = info["epoch_loss"], info["seconds"]
        # lines written after the checkpoint belong to updates that will be made again
        lines = "".join(json.dumps(line) + "\n" for line in self.curve)
        (self.folder / "metrics.jsonl").write_text(lines)


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
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


def open_folder(settings: TrainingSettings) -> Path:
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
    beside = path.with_name(path.name + ".writing")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(beside, path)


def store_result(folder: Path, settings: TrainingSettings, result: dict[str, Any]) -> None:
    """Writes result.json: the result, after the settings and where it comes from."""
    made_by = {"task": settings.task, "settings": settings.as_json(), "device": settings.device}
    made_by |= {"processes": settings.processes} | provenance()
    made_by["command"] = json.loads((folder / "settings.json").read_text())["command"]  # not that of resuming
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(folder / "result.json", made_by | finished | result)
