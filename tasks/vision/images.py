"""Provide what both image tasks share: settings, inputs, models, results and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy

from fastweights_np import checks, convnet, distributed, multilevel, to_device, to_host
from fastweights_np.backend import Array
from fastweights_np.convnet import Convolution
from fastweights_np.network import Classifier, ConvolutionalNetwork, Model, Network, PatchEncoder

from ..running import runs, training
from ..running.layers import LayerSettings
from ..running.training import TrainingSettings
from . import glimpses


@dataclass(frozen=True)
class ImageSettings(LayerSettings, TrainingSettings):
    """The options of an image task."""

    layer: Literal["multilevel", "fast_weights", "irnn", "lstm", "associative_lstm", "convnet"] = "multilevel"
    """multilevel: fast weights with the control signals of figure 3. fast_weights: fast weights that store and read at
    every glimpse. irnn, lstm, associative_lstm: baselines on the same glimpses. convnet: baseline on whole images."""
    data_dir: Path | None = None
    """Folder of the data set."""
    validation_size: int = 5000
    """Number of training images held out as the validation set, which selects the best epoch."""
    best_by: Literal["loss", "error"] = "error"
    """Validation metric that selects the best epoch. For error, the loss breaks ties. The loss can rise, because errors
    become overconfident, while the error rate still falls."""
    patch: int = 7
    """Width in pixels of a glimpse, or of the kernels of the ConvNet's first layer."""
    shift: int = 0
    """Augment training images by random shifts of up to this many pixels, vertically and horizontally."""
    mirror: bool = False
    """Augment training images by random horizontal flips."""
    glimpse_type: bool = False
    """Append the type of each glimpse to its pixels, as a one-hot vector: the first coarse glimpse of a quadrant, a
    fine one, the second coarse one. A control: multilevel gets these types through its control signals."""
    wipe: bool = True
    """Let multilevel restart from a zero state after the first coarse glimpse of a quadrant, which it stores."""
    integrate: bool = True
    """Let multilevel use the weights V in place of W at the second coarse glimpse of a quadrant."""

    @property
    def blas_threads(self) -> int:
        """Return the number of BLAS threads: one for the ConvNet, which has its own threads."""
        return 1 if self.layer == "convnet" else self.threads

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        of_glimpses = ("glimpse_type",) if values["layer"] == "convnet" else ()
        of_controls = () if values["layer"] == "multilevel" else ("wipe", "integrate")
        reason = f"the layer {values['layer']}"
        return super().unused(values) | dict.fromkeys([*of_glimpses, *of_controls], reason)

    def layers_of_convnet(self) -> tuple[Convolution, ...]:
        """Return the ConvNet's layers."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("validation_size", self.validation_size, least=1)
        checks.count("patch", self.patch, least=1)
        checks.count("shift", self.shift, least=0)


class Images:
    """Grey images (N, side, side), bytes, and their labels (N,). `batch` converts them to glimpses or float images.

    standardize: whether each image is scaled to mean 0 and a deviation just below 1, instead of pixels from 0 to 1.
    places: two arrays (N, side): the index of each row's start in the flattened `pixels`, and the column within the
        row. None: the images are not augmented.
    """

    def __init__(
        self, pixels: Array, labels: Array, settings: ImageSettings, standardize: bool,
        places: tuple[Array, Array] | None = None,
    ) -> None:  # fmt: skip
        self.pixels, self.labels = to_device((pixels, labels), settings.device)
        self._settings, self._standardize, self._places = settings, standardize, places
        self.device = settings.device

    def augmented(self, rng: numpy.random.Generator) -> Images:
        """Return the images with random shifts and flips. Pixels beyond the border repeat the border."""
        settings, (count, side) = self._settings, self.pixels.shape[:2]
        if not settings.shift and not settings.mirror:
            return self
        down, across = rng.integers(-settings.shift, settings.shift + 1, (2, count, 1))
        columns = numpy.arange(side) + across
        if settings.mirror:
            columns = numpy.where(rng.integers(2, size=(count, 1)), columns, columns[:, ::-1])
        rows = (numpy.arange(side) + down).clip(0, side - 1) + side * numpy.arange(count)[:, None]
        places = to_device((rows * side, columns.clip(0, side - 1)), settings.device)
        return Images(self.pixels, self.labels, settings, self._standardize, places)

    def batch(self, chosen: Any) -> tuple[Array, Array]:
        """Return (inputs, labels) of a slice or an array of indices: glimpses (T, B, patch²), or images."""
        images = self._pixels(chosen).astype(self._settings.dtype)
        if self._standardize:
            images -= images.mean(axis=(1, 2), keepdims=True)
            images /= (images * images).mean(axis=(1, 2), keepdims=True) ** 0.5 + 1
        else:
            images *= 1 / 255
        if self._settings.layer != "convnet":
            glimpsed = glimpses.layout(images.shape[-1], self._settings.patch)
            images = glimpses.glimpses(images, self._settings.patch)
            if self._settings.glimpse_type:
                images = glimpses.with_types(images, glimpsed)
        return images, self.labels[chosen]

    def sha256(self) -> str:
        """Return the SHA-256 of all images and labels, in their order."""
        digest = hashlib.sha256(to_host(self.pixels).tobytes())
        digest.update(to_host(self.labels).astype("int64").tobytes())
        return digest.hexdigest()

    def _pixels(self, chosen: Any) -> Array:
        if self._places is None:
            return self.pixels[chosen]
        rows, columns = (places[chosen] for places in self._places)
        return self.pixels.reshape(-1).take(rows[:, :, None] + columns[:, None, :])


class Data(NamedTuple):
    """A data set with training, validation and test images. about: further entries of "data" in the result."""

    name: str
    classes: tuple[str, ...]
    training: Images
    validation: Images
    test: Images
    about: Mapping[str, Any]


def data(
    name: str, classes: tuple[str, ...], parts: Sequence[tuple[Array, Array]], settings: ImageSettings,
    standardize: bool, about: Mapping[str, Any] = MappingProxyType({}),
) -> Data:  # fmt: skip
    """Return the data set with these parts: training, validation and test, each (pixels, labels).

    All parts are checked on the host: on a GPU an index out of range wraps silently. Raise ValueError or TypeError if
    images, labels, classes and settings do not fit together.
    """
    side = parts[0][0].shape[-1]
    for part, (pixels, labels) in zip(("training", "validation", "test"), parts, strict=True):
        checks.shape(f"{part} images", pixels, ("N", side, side))
        checks.shape(f"{part} labels", labels, (len(pixels),))
        checks.indices(f"{part} labels", labels, len(classes))
    if settings.layer == "convnet":
        try:
            convnet.feature_count(settings.layers_of_convnet(), side)
        except ValueError as error:
            expected = f"one with which the ConvNet's kernels fit the {side} x {side} images, got {settings.patch}"
            raise ValueError(f"patch: expected {expected}; pass another --patch ({error})") from error
    else:
        glimpses.layout(side, settings.patch)  # raises if patches do not tile the images
    if settings.shift >= side:
        raise ValueError(f"shift: expected less than the {side} pixels of an image, got {settings.shift}; lower it")
    training, validation, test = (Images(pixels, labels, settings, standardize) for pixels, labels in parts)
    if settings.batch_size > len(training.labels):
        most = f"at most the {len(training.labels)} images to train on"
        raise ValueError(f"batch_size: expected {most}, got {settings.batch_size}; lower it")
    return Data(name, classes, training, validation, test, about)


def model(settings: ImageSettings, side: int, classes: int) -> Model:
    """Return the model: patch, 100-d embedding, R recurrent units; or two or three convolutions with R features.

    Then 100 ReLU units and softmax.
    """
    readout = Classifier(classes)
    if settings.layer == "convnet":
        return ConvolutionalNetwork(settings.layers_of_convnet(), readout, side, settings.threads)
    of_layer = settings.of_layer()
    if settings.layer == "multilevel":
        glimpsed = glimpses.layout(side, settings.patch)
        of_layer["options"] |= {"controls": glimpses.controls(glimpsed, settings.wipe, settings.integrate)}
    inputs = settings.patch**2 + glimpses.TYPES * settings.glimpse_type
    return Network(PatchEncoder(inputs), readout, **of_layer)


def run(settings: ImageSettings, folder: Path, data: Data) -> dict[str, Any]:
    """Train, test the parameters that were best on the validation set, store the result and draw the pictures."""
    side, classes = data.test.pixels.shape[-1], data.classes
    net = model(settings, side, len(classes))
    outcome = training.train(net, settings, folder, (data.training, data.validation, data.test))
    nll, error, answers = test(net, outcome.params, data.test)
    if distributed.ranks().rank:
        return {}
    labels, confusion = to_host(data.test.labels), numpy.zeros((len(classes), len(classes)), int)
    numpy.add.at(confusion, (labels, answers), 1)
    recall = recall_by_class(confusion, classes)
    result: dict[str, Any] = {
        "data": {
            "name": data.name,
            "sizes": [len(part.labels) for part in (data.training, data.validation, data.test)],
            "test_sha256": data.test.sha256(),
            **data.about,
        },
        "test_error": error,
        "test_nll": nll,
        "recall": recall,
        "confusion": {"classes": list(classes), "counts": confusion.tolist()},
        "wrong_answers": {int(n): int(answers[n]) for n in numpy.flatnonzero(answers != labels)},
        **outcome.as_result(),
    }
    runs.store_result(folder, settings, result)
    chosen = f"epoch {outcome.best['epoch']}, the best on the validation set"
    print(f"\ntest error {error:.2%}, accuracy {1 - error:.2%}, negative log likelihood {nll:.4f} nats ({chosen})")
    print("recall by class: " + ", ".join(f"{name} {_percent(value)}" for name, value in recall.items()))
    print(f"{outcome.updates} updates in {outcome.seconds:.0f} s")

    from .. import figures  # imports Matplotlib, which takes as long as all the rest

    figures.learning_curve(folder / "learning_curve.png", settings, outcome.curve)
    if settings.layer != "convnet":
        heading = f"{figures.title(settings)}: the glimpses of the first test image"
        image = to_host(data.test.pixels[:1])[0]
        figures.glimpses(folder / "glimpses.png", heading, image, *glimpses.shown(image, settings.patch))
    figures.confusion(folder / "confusion.png", settings, confusion, classes)
    if settings.layer == "multilevel" and settings.rate:
        _draw_attention(net, outcome.params, data.test, classes, settings, folder / "attention.png")
    return result


def recall_by_class(confusion: numpy.ndarray, classes: Sequence[str]) -> dict[str, float | None]:
    """Return the fraction of each class's images that were answered correctly; None for a class without images.

    confusion: counts (label, answer).
    """
    counts = confusion.sum(axis=1)
    return {
        name: float(confusion[n, n] / counts[n]) if counts[n] else None for n, name in enumerate(classes)
    }  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def test(net: Model, params: Any, split: Images) -> tuple[float, float, numpy.ndarray]:
    """Return (mean negative log likelihood in nats, error rate, answers (N,)) over a split."""
    answers: list[Array] = []
    nll, error = training.evaluate(net, params, split, answers=answers)
    return nll, error, numpy.concatenate(to_host(answers))


def _draw_attention(
    net: Model, params: Any, split: Images, classes: tuple[str, ...], settings: ImageSettings, path: Path,
    count: int = 6,
) -> None:  # fmt: skip
    """Draw how the steps that read attend to the coarse glimpses stored before, for the first image of each class."""
    from .. import figures

    of_classes = to_host(split.labels)
    first = [numpy.flatnonzero(of_classes == each)[:1] for each in range(len(classes))]
    chosen = to_device(numpy.concatenate(first)[:count], split.device)
    inputs, labels = split.batch(chosen)
    logits, cache = net.forward(params, inputs)
    layer_cache, _ = cache.layers["layer"]
    steps = [t for t, reads in enumerate(layer_cache.controls.read) if reads]
    strengths = [multilevel.attention(layer_cache, t) for t in steps]
    images, labels, answers, strengths = to_host((split.pixels[chosen], labels, logits.argmax(axis=1), strengths))
    captions = [
        f"answer {classes[answer]}" + ("" if answer == label else f" (label {classes[label]})")
        for answer, label in zip(answers, labels, strict=True)
    ]
    stored = [t for t, stores in enumerate(layer_cache.controls.store) if stores]
    where = glimpses.places(glimpses.layout(images.shape[-1], settings.patch))
    figures.attention_to_places(path, settings, images, captions, strengths, [where[t] for t in stored])
