"""Classify facial expressions from glimpses (section 4.3, table 3): Multi-PIE or FER-2013."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastweights_np.convnet import Convolution

from .vision import expressions, images
from .vision.images import Data, ImageSettings


@dataclass(frozen=True)
class Settings(ImageSettings):
    """Train a network to classify facial expressions from 24 glimpses of 12 x 12 pixels, or from whole images."""

    task: ClassVar[str] = "faces"

    hidden_size: int = 200
    """R, the number of units of the recurrent layer, or of features of the ConvNet."""
    epochs: int = 40
    """Number of passes over the training set."""
    shift: int = 3
    """Augment training images by random shifts of up to this many pixels, vertically and horizontally."""
    mirror: bool = True
    """Augment training images by random horizontal flips."""
    rate: float = 0.04
    """η, the learning rate of the fast weights. About 8 / R balances the fast weights' term with the input."""
    patch: int = 12
    """Width of a glimpse in pixels."""
    validation_size: int = 3000
    """Number of training images held out to select the best epoch. All images of a person are held out together, if the
    data set names its people."""

    def layers_of_convnet(self) -> tuple[Convolution, ...]:
        """Return two layers with 12 x 12 receptive fields, the last with R features."""
        R = self.hidden_size
        return (Convolution(max(R // 4, 1), self.patch, stride=2), Convolution(R, self.patch, stride=2, pool=4))


def load(settings: Settings) -> Data:
    """Return the checked faces, with validation faces held out of the training set. Raise OSError or ValueError."""
    if settings.data_dir is None:
        raise ValueError(
            "data_dir: expected the folder of Multi-PIE or FER-2013, which cannot be fetched for you: "
            "get it from its own distributor and name it by --data-dir"
        )
    data = expressions.load(settings.data_dir)
    sizes = f"{len(data.training.labels)} training and {len(data.test.labels)} test faces"
    print(f"faces: {data.name}, {sizes}, read from {data.source}", flush=True)
    held_out = expressions.hold_out(data.training, settings.validation_size, settings.streams(3)[2])
    parts = [(part.pixels, part.labels) for part in (*held_out, data.test)]
    return images.data(data.name, data.classes, parts, settings, standardize=True)


run = images.run
