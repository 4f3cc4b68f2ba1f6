"""Classify MNIST digits from glimpses (section 4.2, table 2): a sequence of patches, quadrant by quadrant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy

from fastweights_np import checks
from fastweights_np.convnet import Convolution

from .vision import digits, images
from .vision.images import Data, ImageSettings


@dataclass(frozen=True)
class Settings(ImageSettings):
    """Train a network to classify digits or clothing from 24 glimpses of 7 x 7 pixels, or from whole images."""

    task: ClassVar[str] = "mnist"

    data: Literal["mnist", "fashion"] = "mnist"
    """Data set: MNIST or Fashion-MNIST. Without --data-dir it is downloaded once, into the user's cache."""
    epochs: int = 60
    """Number of passes over the training set."""
    learning_rate: float = 4e-3
    """Learning rate of Adam before the schedule is applied."""
    shift: int = 2
    """Augment training images by random shifts of up to this many pixels, vertically and horizontally."""
    rate: float = 0.16
    """η, the learning rate of the fast weights. About 8 / R balances the fast weights' term with the input: after layer
    norm, h·h grows with R."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("data", self.data, digits.SOURCES)

    def layers_of_convnet(self) -> tuple[Convolution, ...]:
        """Return three layers: the first has 7 x 7 kernels, the size of a glimpse, the last has R features."""
        R = self.hidden_size
        return (
            Convolution(max(R // 4, 1), self.patch, pool=2), Convolution(max(R // 2, 1), 4, pool=2), Convolution(R, 4),
        )  # fmt: skip


def load(settings: Settings) -> Data:
    """Return the checked images, with validation images held out of the training set. Raise OSError or ValueError."""
    training, test = digits.load(settings.data, settings.data_dir)
    count = len(training.labels)
    if settings.validation_size >= count:
        most = f"less than the {count} images to train on"
        raise ValueError(f"validation_size: expected {most}, got {settings.validation_size}; lower it")
    order = settings.streams(3)[2].permutation(count)  # the first two draw the weights and the order
    kept, held_out = numpy.sort(order[settings.validation_size :]), numpy.sort(order[: settings.validation_size])
    parts = [(training.pixels[part], training.labels[part]) for part in (kept, held_out)]
    return images.data(
        settings.data, digits.SOURCES[settings.data].classes, [*parts, test], settings, standardize=False
    )


run = images.run
