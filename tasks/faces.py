"""Facial expressions by glimpses (section 4.3, table 3): Multi-PIE, or FER-2013."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastweights_np.convnet import Convolution

from .vision import expressions, images
from .vision.images import Data, ImageSettings


@dataclass(frozen=True)
class Settings(ImageSettings):
    """Train a network to recognize expressions from 24 glimpses of 12 x 12 pixels, or from the whole face."""

    task: ClassVar[str] = "faces"

    hidden_size: int = 200
    """R, the units of the recurrent layer, or the ConvNet's features."""
    epochs: int = 40
    """Passes over the training set."""
    shift: int = 3
    """Training images are augmented by random shifts of up to this many pixels down and across."""
    mirror: bool = True
    """Whether training images are augmented by mirroring them left to right at random."""
    rate: float = 0.04
    """η of the fast weights. About 8 / R keeps what is read in balance with the input."""
    patch: int = 12
    """Pixels across a glimpse."""
    validation_size: int = 3000
    """Training images held out, on which the best parameters are chosen; whole people where they are known."""

    def layers_of_convnet(self) -> tuple[Convolution, ...]:
        """Return two layers with 12 x 12 receptive fields, the last with R features."""
        R = self.hidden_size
        return (Convolution(max(R // 4, 1), self.patch, stride=2), Convolution(R, self.patch, stride=2, pool=4))


def load(settings: Settings) -> Data:
    """Return the faces, checked, with validation faces held out of the training set. Raises OSError or ValueError."""
    if settings.data_dir is None:
        raise ValueError(
            "data_dir: expected the folder of Multi-PIE or FER-2013, which cannot be fetched for you: "
            "get it from its own distributor and name it by --data-dir"
        )
    data = expressions.load(settings.data_dir)
    sizes = f"{len(data.training.labels)} faces to train on and {len(data.test.labels)} to test on"
    print(f"faces: {data.name}, {sizes}, read from {data.source}", flush=True)
    held_out = expressions.hold_out(data.training, settings.validation_size, settings.streams(3)[2])
    parts = [(part.pixels, part.labels) for part in (*held_out, data.test)]
    return images.data(data.name, data.classes, parts, settings, standardize=True)


run = images.run
