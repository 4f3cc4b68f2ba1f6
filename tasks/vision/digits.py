"""Read and check MNIST and Fashion-MNIST: four IDX files in a folder, or downloaded once into a cache."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy

from fastweights_np import checks

from .fetching import CACHE, FILES, SOURCES, fetch
from .idx_files import read_idx
from .listing import listing, visible


class Images(NamedTuple):
    """Grey images (N, side, side), bytes, and their labels (N,), int64."""

    pixels: numpy.ndarray
    labels: numpy.ndarray


def load(name: str, data_dir: Path | None = None) -> tuple[Images, Images]:
    """Return the checked (training set, test set).

    name: "mnist" or "fashion".
    data_dir: a folder with the four IDX files, plain or compressed. A file name has a hyphen or a dot
        (train-images-idx3-ubyte, train-images.idx3-ubyte), with or without .gz. A file may be in a folder of its name.
        None: the files are downloaded into the cache, unless it holds them.

    Raise FileNotFoundError if a file is missing, ValueError, naming the file and the index, for bad content, and
    ConnectionError, naming the alternatives, if the download fails.
    """
    checks.choice("name", name, SOURCES)
    if data_dir is None:
        paths = fetch(name, CACHE)
    elif Path(data_dir).is_dir():
        paths = [find(Path(data_dir), file) for file in FILES]
    else:
        found = f"the file {data_dir}; name its folder" if Path(data_dir).exists() else f"none at {data_dir}"
        raise FileNotFoundError(f"data_dir: expected a folder with the files {', '.join(FILES)}, found {found}")
    classes = len(SOURCES[name].classes)
    training, test = (_images(paths[part], paths[part + 1], classes) for part in (0, 2))
    if training.pixels.shape[1:] != test.pixels.shape[1:]:
        wanted, got = ("{} x {}".format(*part.pixels.shape[1:]) for part in (training, test))
        raise ValueError(f"{paths[2]}: expected images of {wanted}, as in {paths[0]}, got {got}")
    return training, test


def find(folder: Path, file: str) -> Path:
    """Return the path of one of the four files, under any of its names.

    Raise FileNotFoundError, with the folder's content, if there is none; ValueError if several of them differ.
    """
    stem, kind = file.split("-idx")
    names = {f"{stem}{mark}idx{kind}{end}" for mark in "-." for end in ("", ".gz")}
    named = [path for path in visible(folder) if path.name.casefold() in names]
    inside = [path for each in named if each.is_dir() for path in visible(each) if path.name.casefold() in names]
    found = [path for path in named + inside if path.is_file()]
    if not found:
        there = listing(path.name + "/" * path.is_dir() for path in visible(folder))
        raise FileNotFoundError(
            f"data_dir: expected the four files {', '.join(FILES)} (or with .gz, or with a dot before idx), "
            f"found no {file} in {folder}, which holds {there}"
        )
    first, *others = found
    for other in others:
        if not numpy.array_equal(read_idx(first), read_idx(other)):
            raise ValueError(f"{first}: expected one file, found {other} too, with other values; remove one of them")
    return first


def _images(images: Path, labels: Path, classes: int) -> Images:
    pixels = _pixels(images)
    return Images(pixels, _labels(labels, len(pixels), images, classes))


@numpy.errstate(invalid="ignore")  # a signalling nan warns in comparisons
def _pixels(path: Path) -> numpy.ndarray:
    """Return the images as bytes (N, side, side), from (N, side, side), (N, side²), or with an axis of one channel."""
    values = read_idx(path)
    shape = values.shape
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        shape = (shape[0], *(shape[2:] if shape[1] == 1 else shape[1:3]))
    elif len(shape) == 2 and isqrt(shape[1]) ** 2 == shape[1]:
        shape = (shape[0], isqrt(shape[1]), isqrt(shape[1]))
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"{path}: expected square images, (N, side, side), (N, side²) or (N, 1, side, side), got {values.shape}; "
            "are images and labels in each other's place?"
        )
    if values.dtype != "u1":
        low, high = values.min(), values.max()  # nan fails the comparison
        if not (low >= 0 and 1 < high <= 255 and (values == numpy.floor(values)).all()):
            raise ValueError(
                f"{path}: expected whole numbers from 0 to 255, got {values.dtype.name} from {low} to {high}; "
                "store the images as unsigned bytes"
            )
    return values.reshape(shape).astype("u1", copy=False)


@numpy.errstate(invalid="ignore")  # a signalling nan warns in comparisons
def _labels(path: Path, count: int, images: Path, classes: int) -> numpy.ndarray:
    """Return the labels (N,) as int64, from whole numbers of any type, with optional axes of size 1."""
    values = read_idx(path)
    if values.size != max(values.shape):
        raise ValueError(f"{path}: expected labels, (N,) or (N, 1), got {values.shape}")
    if values.size != count:
        raise ValueError(f"{path}: expected {count} labels, one for each image of {images}, got {values.size}")
    values = values.reshape(-1)
    fits = (values >= 0) & (values < classes) & (values == numpy.floor(values))
    if not fits.all():
        first = int(numpy.argmin(fits))
        raise ValueError(
            f"{path}: expected labels from 0 to {classes - 1}, got {values[first]} at index {first}"
            f" (and {count - int(fits.sum()) - 1} more)"
        )
    return values.astype("int64")
