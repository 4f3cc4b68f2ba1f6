"""Train the networks of all supervised tasks: the training loop and its checkpoints."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypedDict

import numpy
from tqdm import tqdm

from fastweights_np import Workspace, checks, distributed, files, ops, optim
from fastweights_np.backend import Array, to_device, to_host
from fastweights_np.network import Model, train_step
from fastweights_np.trees import map_leaves

from . import checkpoints, typed
from .runs import NOT_FINITE, Interruption, RunSettings, interrupts_noted

LINE = ("update", "epoch", "train_loss", "learning_rate", "seconds")  # of metrics, next to the validation metrics
REPORT_EVERY = 50  # updates between two reports of the loss; each report waits for a GPU


class Progress(TypedDict):
    """The contents of a checkpoint in addition to arrays."""

    settings: dict
    data: str
    identity: dict  # further facts about the data, by name; a resumed run must have the same
    update: int
    random_state: dict
    epoch_loss: float
    best: dict
    curve: list
    seconds: float
    ranks: int


@dataclass(frozen=True)
class TrainingSettings(RunSettings):
    """The options that every supervised task has."""

    length: ClassVar[str] = "epochs"
    checkpoint: ClassVar[tuple[tuple[str, ...], type]] = (("params", "best_params", "optimizer"), Progress)
    metrics: ClassVar[tuple[str, str]] = ("validation_nll", "validation_error")  # loss and error of each line
    since: ClassVar[tuple[str, ...]] = ("identity",)
    beta2: ClassVar[float] = 0.999  # of Adam

    epochs: int = 20
    """Number of passes over the training set."""
    batch_size: int = 128
    """Examples in each update. The last, smaller batch of an epoch is dropped."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW). Applied to weight matrices, not to biases and gains."""
    best_by: Literal["loss", "error"] = "loss"
    """Validation metric that selects the best epoch. For error, the loss breaks ties."""
    threads: int = 1
    """BLAS threads. The matrix products are small, so several threads usually slow the run down. The ConvNet splits
    each batch among its threads, which speeds it up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("epochs", self.epochs, least=1)
        checks.count("batch_size", self.batch_size, least=1)
        checks.not_negative("weight_decay", self.weight_decay)
        if self.weight_decay * self.learning_rate > 1:
            raise ValueError(
                f"weight_decay: expected at most 1 / learning_rate, {1 / self.learning_rate:g}, got "
                f"{self.weight_decay}: weights would change their sign; lower one of them"
            )

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError unless this number of ranks can share a batch."""
        if ranks > self.batch_size:
            raise ValueError(
                f"batch_size: expected at least an example for each of the {ranks} ranks, got {self.batch_size}; raise "
                "it, or start fewer ranks"
            )

    @property
    def reports(self) -> int:
        """Return the number of lines of metrics that a whole run writes: one for each epoch."""
        return self.epochs

    @property
    def selected_by(self) -> tuple[str, ...]:
        """Return the validation metrics that select the best epoch, the second one for ties."""
        loss, error = self.metrics
        return (loss,) if self.best_by == "loss" else (error, loss)

    def filled(self, stored: Any, own: dict[str, Any]) -> Any:
        """Return the stored parameters of --initial, with those of this run's `own` that a run may start without."""
        return stored

    def check_initial(self, run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise ValueError unless the data of the run that --initial names fit this run's. before, now: identities."""

    def stops(self, curve: Sequence[Mapping[str, float]]) -> bool:
        """Return whether training ends after these epochs, before the last one."""
        return False


class Examples(Protocol):
    """A set of N examples: labels (N,), and batches of inputs."""

    @property
    def labels(self) -> Array:
        """Return the labels (N,)."""

    def batch(self, chosen: Any) -> tuple[Array, Array]:
        """Return (inputs, labels) of the chosen examples, a slice or an array of indices."""

    def augmented(self, rng: numpy.random.Generator) -> Examples:
        """Return the examples for one epoch of training, with random data augmentation if the set has one."""


class Split(NamedTuple):
    """Sequences and their labels: inputs (T, N, ...), labels (N,)."""

    inputs: Array
    labels: Array

    def batch(self, chosen: Any) -> tuple[Array, Array]:
        """Return (inputs, labels) of the chosen sequences, a slice or an array of indices."""
        return self.inputs[:, chosen], self.labels[chosen]

    def augmented(self, rng: numpy.random.Generator) -> Split:
        """Return the sequences unchanged."""
        return self


def fingerprint(*splits: Examples) -> str:
    """Return a SHA-256 of all labels and the first 1000 inputs of each split. A resumed run checks it."""
    digest = hashlib.sha256()
    for split in splits:
        inputs, _ = split.batch(slice(0, 1000))
        arrays = inputs if isinstance(inputs, tuple) else (inputs,)
        for array in to_host((split.labels, *(each for each in arrays if hasattr(each, "dtype")))):
            digest.update(numpy.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


Measure = Callable[[Any, int], dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of training: the best parameters on the validation set, and the learning curve."""

    params: dict[str, Any]
    best: dict[str, float]  # the metrics line of those parameters
    curve: list[dict[str, float]]
    updates: int
    seconds: float

    def as_result(self) -> dict[str, Any]:
        """Return the entries that every supervised task has in its result."""
        return {
            "best_on_validation": self.best,
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
            "updates_per_second": round(self.updates / self.seconds, 1),
            "curve": self.curve,
        }


def evaluate(
    network: Model, params: Any, split: Examples, workspace: Workspace | None = None,
    answers: list[Array] | None = None, at_once: int = 1000,
) -> tuple[float, float]:  # fmt: skip
    """Return (mean negative log likelihood in nats, error rate) over a split. Append the answers to `answers`.

    at_once: number of examples that are evaluated at once. Several ranks share the split, and all must call this.
    """
    ranks, own = distributed.ranks(), list[Array]()
    count, nll, wrong = 0, 0.0, 0.0
    mine = ranks.share(len(split.labels))
    for start in range(mine.start, mine.stop, at_once):
        inputs, labels = split.batch(slice(start, min(start + at_once, mine.stop)))
        count += len(labels)
        logits, _ = network.forward(params, inputs, workspace)
        nll += ops.softmax_cross_entropy(logits, labels)[0].sum(dtype="float64")
        answered = logits.argmax(axis=1)
        wrong += (answered != labels).sum()
        own.append(answered)
    if answers is not None:
        answers += [each for of_rank in ranks.gather(to_host(own)) for each in of_rank]
    sums = numpy.array([float(nll), float(wrong), count])
    nll, wrong, count = ranks.add_up({"sums": sums})["sums"].tolist()
    return nll / count, wrong / count


def train(
    network: Model, settings: TrainingSettings, folder: Path, splits: Sequence[Examples],
    watched: Mapping[str, Examples] = MappingProxyType({}), measure: Measure | None = None,
    identity: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:  # fmt: skip
    """Train for the settings' number of epochs, from the folder's checkpoint if there is one.

    splits: training, validation and test data. The test data are not evaluated, but a resumed run must have the same.
    watched: further splits that are evaluated after each epoch. They do not select the best parameters.
    measure: a function of parameters and epoch that returns the validation metrics; None evaluates the validation data.
    identity: facts about the data that the splits do not show. A resumed run must have the same.

    Evaluate and write a checkpoint after each epoch. Raise Interruption on Ctrl-C, after a
    checkpoint; FloatingPointError, naming the update, if a loss, a gradient or a parameter is not finite; ValueError if
    the checkpoint belongs to other settings.

    Several ranks share each batch. All of them call this function and return the same outcome; rank 0 writes.
    """
    ranks, data = distributed.ranks(), fingerprint(*splits)
    ranks.check_same({"data": f"SHA-256 {data}"} | dict(identity))
    run = _Run(network, settings, folder, splits[0], data, dict(identity))
    with interrupts_noted() as interrupted:
        run.restore()
        bar = tqdm(total=run.updates, initial=run.update, disable=None, unit=" updates", dynamic_ncols=True)
        with bar:
            while run.update < run.updates and not settings.stops(run.curve):
                for _ in run.rest_of_epoch():
                    if run.update % REPORT_EVERY == 0:
                        loss = run.report()
                        bar.set_postfix({"loss": f"{loss:.4f}", "validation error": run.latest_error()}, refresh=False)
                        bar.update(run.update - bar.n)
                    if ranks.any(bool(interrupted)) and run.update % run.batches:
                        run.report()
                        run.save()
                        ranks.any(False)  # the others wait until rank 0 has saved
                        raise Interruption
                run.report()
                run.finish_epoch(measure or run.evaluation_of(splits[1]), watched)
                if bar.disable:  # no terminal
                    print(run.epoch_line(), flush=True)
                if ranks.any(bool(interrupted)):
                    raise Interruption
            bar.update(run.update - bar.n)
    return Outcome(run.best_params, run.best, run.curve, run.update, run.seconds())


class _Run:
    """The state of one training run, which a checkpoint stores, and the methods that advance it."""

    def __init__(
        self, network: Model, settings: TrainingSettings, folder: Path, training: Examples, data: str,
        identity: dict[str, str],
    ) -> None:  # fmt: skip
        weights, self._order = settings.streams(2)
        self.network, self.settings, self.folder, self.training = network, settings, folder, training
        self._data, self._identity = data, identity
        self.params = to_device(self._initial(network.init(weights, settings.dtype)), settings.device)
        self.optimizer = optim.Adam(self.params, beta2=settings.beta2, weight_decay=settings.weight_decay)
        self.batches = len(training.labels) // settings.batch_size
        self.update, self.updates = 0, self.batches * settings.epochs
        self._ranks = distributed.ranks()
        self._mine = self._ranks.share(settings.batch_size)
        self.best_params, self.best = self.params, dict[str, float]()
        self.curve: list[dict[str, float]] = []
        self._workspace, self._evaluation = Workspace(), Workspace()
        self._epoch_start = dict(self._order.bit_generator.state)  # before the current epoch's order was drawn
        self._unreported: list[Array] = []  # losses since the last report
        self._epoch_loss = 0.0
        self._before, self._started = 0.0, time.perf_counter()

    def _initial(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the best parameters of the run that settings.initial names, or `params` if it names none."""
        run = self.settings.initial
        if run is None or distributed.ranks().first((self.folder / checkpoints.NAME).exists):
            return params
        initial = distributed.ranks().first(lambda: checkpoints.initial_params(run))
        self.settings.check_initial(run, initial.identity, self._identity)
        best = self.settings.filled(initial.params, params)
        checkpoints.check_arrays(run / checkpoints.NAME, best, params, "name a run of the same network by --initial")
        return best

    def rest_of_epoch(self) -> Iterator[None]:
        """Make the remaining updates of this epoch, and yield after each."""
        self._epoch_start = dict(self._order.bit_generator.state)
        order = to_device(self._order.permutation(len(self.training.labels)), self.settings.device)
        training = self.training.augmented(self._order)
        done, size = self.update % self.batches, self.settings.batch_size
        for start in range(done * size, self.batches * size, size):
            inputs, labels = training.batch(order[start : start + size][self._mine])
            try:
                loss = train_step(
                    self.network, self.params, self.optimizer, inputs, labels,
                    self.settings.rate_at(self.update, self.updates), clip_norm=self.settings.clip_norm,
                    workspace=self._workspace, ranks=self._ranks, weight=self._ranks.fraction(labels.size),
                )  # fmt: skip
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}; it was update {self.update + 1}; {NOT_FINITE}") from error
            self.update += 1
            self._unreported.append(loss)
            yield

    def report(self) -> float:
        """Copy the losses since the last report to the host, check that they are finite, and return their mean."""
        losses = [float(loss) for loss in self._unreported]
        for update, loss in enumerate(losses, self.update - len(losses) + 1):
            _check_finite("loss", loss, update)
        self._unreported.clear()
        self._epoch_loss += sum(losses)
        return sum(losses) / max(len(losses), 1)

    def evaluation_of(self, validation: Examples) -> Measure:
        """Return the function that evaluates the validation data."""

        def measure(params: Any, epoch: int) -> dict[str, float]:
            measured = evaluate(self.network, params, validation, self._evaluation)
            return dict(zip(self.settings.metrics, measured, strict=True))

        return measure

    def finish_epoch(self, measure: Measure, watched: Mapping[str, Examples]) -> None:
        """Evaluate, keep the parameters if they are the best so far, save, and add a line to the metrics."""
        epoch = self.update // self.batches
        measured = self._ranks.broadcast(measure(self.params, epoch))  # ranks must not decide differently
        _check_finite("validation loss", measured[self.settings.metrics[0]], self.update)
        line = {
            "update": self.update,
            "epoch": epoch,
            "train_loss": self._epoch_loss / self.batches,
            **measured,
            **self._watch(watched),
            "learning_rate": self.settings.rate_at(self.update - 1, self.updates),
            "seconds": round(self.seconds(), 2),
        }
        self._epoch_loss = 0.0
        self._epoch_start = dict(self._order.bit_generator.state)
        metrics = self.settings.selected_by
        if not self.best or [line[name] for name in metrics] < [self.best[name] for name in metrics]:
            self.best, self.best_params = line, map_leaves(lambda array: array.copy(), self.params)
        self.curve.append(line)
        self._ranks.check_equal(self.params)
        self.save()  # before the metrics, which resuming rewrites from the checkpoint
        self._write_metrics()

    def _write_metrics(self) -> None:
        if self._ranks.rank:
            return
        lines = "".join(json.dumps(line) + "\n" for line in self.curve)
        files.write_text(self.folder / "metrics.jsonl", lines)

    def _watch(self, watched: Mapping[str, Examples]) -> dict[str, float]:
        line: dict[str, float] = {}
        for name, split in watched.items():
            line[f"{name}_nll"], line[f"{name}_error"] = evaluate(self.network, self.params, split, self._evaluation)
            _check_finite(f"{name} loss", line[f"{name}_nll"], self.update)
        return line

    def epoch_line(self) -> str:
        """Return one line with the metrics of the last epoch."""
        line = self.curve[-1]
        loss, error = (line[name] for name in self.settings.metrics)
        return (
            f"epoch {line['epoch']} of {self.settings.epochs}: training loss {line['train_loss']:.4f}, validation loss "
            f"{loss:.4f}, validation error {error:.2%}, {self.seconds():.0f} s"
        )

    def latest_error(self) -> str:
        return f"{self.curve[-1][self.settings.metrics[1]]:.2%}" if self.curve else "-"

    def seconds(self) -> float:
        """Return the training time so far, over all sessions."""
        return self._before + time.perf_counter() - self._started

    def save(self) -> None:
        """Write a checkpoint. Raise FloatingPointError if a number is not finite; the previous checkpoint is kept."""
        if self._ranks.rank:
            return
        arrays = {"params": self.params, "best_params": self.best_params, "optimizer": self._moments()}
        info: Progress = {
            "settings": self.settings.as_json(),
            "data": self._data,
            "identity": self._identity,
            "update": self.update,
            "random_state": self._epoch_start,
            "epoch_loss": self._epoch_loss,
            "best": self.best,
            "curve": self.curve,
            "seconds": self.seconds(),
            "ranks": self._ranks.size,
        }
        checkpoints.save(self.folder, arrays, dict(info), f"update {self.update}")

    def restore(self) -> None:
        """Resume from the folder's checkpoint, if there is one. Raise ValueError if it does not fit the run."""
        stored = self._ranks.first(lambda: checkpoints.load(self.folder, self.settings))
        if stored is None:
            return  # a new run, or one stopped in the first epoch
        arrays, info = stored
        path = self.folder / checkpoints.NAME
        ours = {"params": self.params, "best_params": self.params, "optimizer": self._moments()}
        checkpoints.check_arrays(path, arrays, ours)
        identity = info.get("identity", self._identity)  # older checkpoints have none
        if (info["data"], identity) != (self._data, self._identity):
            remedy = "name their folder by --data-dir" if hasattr(self.settings, "data_dir") else "restore them"
            raise ValueError(
                f"data: expected those that {path} was made with, got others (their SHA-256 differs); {remedy}, or "
                f"{checkpoints.ANEW}"
            )
        self._check_progress(path, info)
        checkpoints.note_ranks(info["ranks"])
        arrays = to_device(arrays, self.settings.device)
        self.params, self.best_params = arrays["params"], arrays["best_params"]
        self.update, self.best, self.curve = info["update"], info["best"], info["curve"]
        self.optimizer.load_state(arrays["optimizer"] | {"updates": self.update})
        self._epoch_start = info["random_state"]
        self._epoch_loss, self._before = info["epoch_loss"], info["seconds"]
        self._write_metrics()  # drops lines after the checkpoint: their updates are repeated
        if self.settings.continues is not None:
            rate = self.settings.rate_at(self.update, self.updates)
            print(
                f"continues {self.settings.continues} after {self.update} updates, as a run of {self.updates} updates "
                f"({self.settings.epochs} epochs): the learning rate resumes at {rate:.3g}, the value of the longer "
                f"run's {self.settings.schedule} schedule at this update",
                flush=True,
            )

    def _moments(self) -> dict[str, Array]:
        state = self.optimizer.state()
        return {name: state[name] for name in self.optimizer.moments}

    def _check_progress(self, path: Path, info: dict[str, Any]) -> None:
        """Restore the random state of the order. Raise ValueError unless the counters and the curve fit the run."""
        epochs, curve = info["update"] // self.batches, info["curve"]
        if not 0 <= info["update"] <= self.updates:
            raise checkpoints.unfit(path, f"update: expected 0 to {self.updates}, got {info['update']}")
        for epoch, line in enumerate(curve, 1):
            whole = isinstance(line, dict) and line.keys() == curve[0].keys()
            whole = whole and {*LINE, *self.settings.metrics} <= line.keys()
            if (
                not whole
                or not all(typed.fits(value, float) for value in line.values())
                or line["epoch"] != epoch
                or line["update"] != epoch * self.batches
            ):
                raise checkpoints.unfit(path, f"curve: expected the metrics of epoch {epoch}, got {line!r}")
        if len(curve) != epochs or (info["best"] not in curve if curve else info["best"]):
            raise checkpoints.unfit(path, f"curve: expected {epochs} epochs and the best of them, got {len(curve)}")
        try:
            self._order.bit_generator.state = info["random_state"]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise checkpoints.unfit(path, f"random_state: expected a generator's state ({error})") from error
        if self._order.bit_generator.state != info["random_state"]:
            raise checkpoints.unfit(path, "random_state: expected a generator's state, got other numbers")


def _check_finite(what: str, value: float, update: int) -> None:
    if not isfinite(value):
        raise FloatingPointError(f"{what}: expected a finite number, got {value} at update {update}; {NOT_FINITE}")
