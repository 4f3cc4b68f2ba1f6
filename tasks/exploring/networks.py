"""Ask the trained network of a run: one trial with a string, an image or a game, with other λ, η or S if wanted."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from fastweights_np.network import Model

from .. import asking, catch, retrieval
from ..games.catch_game import ACTIONS
from ..running import runs, trained
from ..vision import glimpses, images
from .trace import Trace

LAYERS = ("fast_weights", "multilevel")
SHIPPED = Path(__file__).parents[2] / "examples" / "models" / "retrieval-R50"


@dataclass(frozen=True)
class Trial:
    """One sequence in a network: what each step reads, what the layer computed, and the answers."""

    inputs: list[str] | numpy.ndarray  # a character a step, or grey images (T, rows, columns) from 0 to 1
    trace: Trace
    probabilities: numpy.ndarray  # (classes,), or (T, classes) for an answer after each step
    label: int | None  # the right answer
    outcome: str = ""  # of a game

    def probabilities_at(self, t: int) -> numpy.ndarray:
        """Return the probabilities (classes,) to show for step t."""
        return self.probabilities if self.probabilities.ndim == 1 else self.probabilities[t]


class Network:
    """The trained network of a run. A subclass for each kind of task answers its questions."""

    classes: tuple[str, ...]  # of answers
    first: Any  # question

    def __init__(self, run: Path, found: trained.Trained) -> None:
        self.run, self.settings, self.params, self.note = run, found.settings, found.params, found.note
        self._network = found.network
        self.options: dict[str, Any] = {
            name: getattr(self.settings, name) for name in ("decay", "rate", "inner_steps")
        }  # fmt: skip

    def steps(self, question: Any) -> int:
        """Return the number of steps of a trial. Raise ValueError for a question that the task does not allow."""
        raise NotImplementedError

    def trial(self, question: Any, **options: Any) -> Trial:
        """Return the trial of a question; options are decay, rate and inner_steps, by default as trained."""
        raise NotImplementedError

    def another(self, seed: int) -> Any:
        """Return a random question."""
        raise NotImplementedError


class Retrieval(Network):
    """A network that answers c9k8j3f1??c with 9. A question is such a string."""

    classes = tuple("0123456789")
    first = "c9k8j3f1??c"

    def steps(self, question: str) -> int:
        return len(asking.tokens_of(question))

    def trial(self, question: str, **options: Any) -> Trial:
        tokens, net = asking.tokens_of(question), with_options(self._network, options)
        logits, cache = net.forward(self.params, tokens)
        label = int(question[question.index(question[-1]) + 1])
        return Trial(list(question), Trace(cache.layers["layer"][0]), asking.softmax(logits)[0], label)

    def another(self, seed: int) -> str:
        tokens, _ = retrieval.generate(numpy.random.default_rng(seed), 1, self.settings.pairs)
        return retrieval.text(tokens[:, 0])


class Images(Network):
    """A classifier of digits or faces from glimpses. A question is a class, and the number of a test image of it."""

    def __init__(self, run: Path, found: trained.Trained, data: images.Data) -> None:
        super().__init__(run, found)
        self.classes, self._images = data.classes, data.test
        self.first = next(iter(self.counts)), 1
        self.places = glimpses.places(glimpses.layout(data.test.pixels.shape[-1], self.settings.patch))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Return the number of test images of each class."""
        counts = numpy.bincount(self._images.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True) if count}

    def _index(self, question: tuple[str, int]) -> int:
        name, number = question
        if name not in self.counts:
            raise ValueError(f"class: expected one of {', '.join(self.counts)}, got {name!r}")
        if not 1 <= number <= self.counts[name]:
            raise ValueError(f"number: expected 1 to {self.counts[name]}, the test images of {name}, got {number}")
        return int(numpy.flatnonzero(self._images.labels == self.classes.index(name))[number - 1])

    def image(self, question: tuple[str, int]) -> numpy.ndarray:
        """Return the image (side, side) from 0 to 1."""
        shown: numpy.ndarray = self._images.pixels[self._index(question)] / 255
        return shown

    def steps(self, question: tuple[str, int]) -> int:
        self._index(question)
        return len(self.places)

    def trial(self, question: tuple[str, int], **options: Any) -> Trial:
        n, net = self._index(question), with_options(self._network, options)
        inputs, labels = self._images.batch(slice(n, n + 1))
        logits, cache = net.forward(self.params, inputs)
        seen, _ = glimpses.shown(self._images.pixels[n], self.settings.patch)
        return Trial(seen / 255, Trace(cache.layers["layer"][0]), asking.softmax(logits)[0], int(labels[0]))

    def another(self, seed: int) -> tuple[str, int]:
        labels = self._images.labels
        n = int(numpy.random.default_rng(seed).integers(len(labels)))
        return self.classes[labels[n]], int((labels[: n + 1] == labels[n]).sum())


class Catch(Network):
    """An agent that plays Catch. A question is the seed of a game. It takes the most probable action."""

    classes, first = ACTIONS, 0
    HIDDEN = 0.35  # brightness of what the agent does not see

    def steps(self, question: int) -> int:
        steps: int = self.settings.rules().decisions
        return steps

    def trial(self, question: int, **options: Any) -> Trial:
        config = self.settings.a3c_config()
        config = replace(config, agent=with_options(self._network, options))
        rng = numpy.random.default_rng(question)
        played = catch.play(self.settings, config, self.params, 0.0, 1, rng)
        frames = numpy.maximum(played.seen, self.HIDDEN * played.screens)[: config.decisions]
        outcome = "caught the ball" if played.rewards[0] > 0 else "missed the ball"
        return Trial(frames, Trace(played.cache), asking.softmax(played.logits), None, outcome)

    def another(self, seed: int) -> int:
        return seed


def with_options(network: Any, options: dict[str, Any]) -> Any:
    """Return the network with other options of its layer's forward."""
    return replace(network, options=network.options | options)


def load(run: Path) -> Network:
    """Return the network of a run. Raise OSError or ValueError if it cannot be shown.

    The test images of a run of mnist or faces are read again, from the folder that the run used.
    """
    try:
        stored = runs.read_json(run / "settings.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"run: expected the output folder of a run, with settings.json, got {run}: {error}") from error
    if (layer := stored.get("layer")) not in LAYERS:
        raise ValueError(f"run: expected a layer with fast weights, {' or '.join(LAYERS)}, got {layer!r} in {run}")
    task = stored.get("task")
    if task == "retrieval":
        return Retrieval(run, trained.load(run, "run", retrieval.Settings, retrieval.network))
    if task == "catch":
        return Catch(run, trained.load(run, "run", catch.Settings, lambda settings: settings.a3c_config().agent))
    if task in ("mnist", "faces"):
        return _images(run, importlib.import_module(f"tasks.{task}"), stored.get("data_dir"))
    raise ValueError(f"run: expected a run of retrieval, mnist, faces or catch, got task {task!r} in {run}")


def _images(run: Path, task: Any, data_dir: str | None) -> Images:
    data: list[images.Data] = []

    def make(settings: images.ImageSettings) -> Model:
        data.append(task.load(replace(settings, data_dir=None if data_dir is None else Path(data_dir))))
        return images.model(settings, data[0].test.pixels.shape[-1], len(data[0].classes))

    found = trained.load(run, "run", task.Settings, make)
    return Images(run, found, data[0])
