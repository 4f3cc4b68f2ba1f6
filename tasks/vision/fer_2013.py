"""Read FER-2013 (Goodfellow et al. 2013, 1307.0414): folders of images or CSV tables, under their usual names.

The data set does not identify people. Its test split is kept: PublicTest and PrivateTest together.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy
from PIL import Image
from tqdm import tqdm

from . import tables
from .face_sets import SIDE, Expressions, Faces, split
from .image_files import read_grey
from .listing import listing, visible

FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # in the order of fer2013.csv
OTHER_NAMES = {
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "sadness": "sad",
    "surprised": "surprise",
}  # fmt: skip
NUMBERS = tuple(str(label) for label in range(len(FER_CLASSES)))
FER_USAGES = {"training": False, "publictest": True, "privatetest": True}  # whether the usage is the test set
TABLES = ("fer2013.csv", "icml_face_data.csv")  # with a column Usage
TRAINING_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "privatetest", "publictest")  # the last two may occur together
VALIDATION_FOLDERS = ("val", "valid", "validation")
LEAST_SIDE = SIDE // 4  # a smaller image shows no face
BYTES = {str(value): value for value in range(256)}


# -------------------------------------------------------------------------------------------------------------- folders


def fer_2013_folders(folder: Path) -> Expressions:
    """Read images from a training and a test folder, each with a folder for each expression.

    Raise FileNotFoundError or ValueError, with the content, if these are missing, empty or ambiguous.
    """
    places = [path for path in visible(folder) if path.is_dir()]
    got = listing(path.name for path in places)
    training, test, validation = (
        [path for path in places if path.name.casefold() in names]
        for names in (TRAINING_FOLDERS, TEST_FOLDERS, VALIDATION_FOLDERS)
    )
    if validation:
        raise ValueError(
            f"{folder}: expected a folder train and a folder test, found {got}; images to validate on are held out of "
            "the training set by --validation-size: move them there, or rename the folder if it is the test set"
        )
    listed = [[_images_of_classes(path) for path in part] for part in (training, test)]
    both_usages = sorted(path.name.casefold() for path in test) == list(TEST_FOLDERS[2:])
    if len(training) != 1 or not (len(test) == 1 or both_usages):
        raise FileNotFoundError(
            f"{folder}: expected one folder train and one folder test (or PublicTest, PrivateTest, or both), "
            f"found {got}"
        )
    files = [[file for part in each for file in part] for each in listed]
    have = [{label for _, label in each} for each in files]
    if have[0] != have[1]:
        one, other = (", ".join(FER_CLASSES[label] for label in sorted(labels)) for labels in have)
        raise ValueError(f"{folder}: expected the same expressions to train on and to test on, got {one} and {other}")
    source = f"{folder}: {', '.join(path.name for path in (*training, *test))}"
    if any(path.parent.name in NUMBERS for path, _ in (*files[0], *files[1])):
        source += f"; folders 0 to 6 are taken for {', '.join(FER_CLASSES)}, the order of fer2013.csv"
    return Expressions("FER-2013", FER_CLASSES, _read(files[0]), _read(files[1]), source)


def is_split(name: str) -> bool:
    """Return whether a folder of this name can be a part of FER-2013."""
    return name.casefold() in (*TRAINING_FOLDERS, *TEST_FOLDERS, *VALIDATION_FOLDERS)


def _images_of_classes(folder: Path) -> list[tuple[Path, int]]:
    """Return (path, label) of all images in a folder of folders, by label and name."""
    inside = visible(folder)
    wanted = f"{folder}: expected a folder for each expression, {', '.join(FER_CLASSES)}"
    if not inside:
        raise FileNotFoundError(f"{wanted}; found none")
    names = [path.name for path in inside]
    numbered = sorted(names) == list(NUMBERS)
    labels = [_label(name, numbered) for name in names]
    unknown = [name for name, label in zip(names, labels, strict=True) if label is None]
    if unknown:
        numbers = "" if numbered or not set(names) & set(NUMBERS) else "; numbers only if all of 0 to 6 are there"
        raise ValueError(f"{folder}: expected folders named {', '.join(FER_CLASSES)}; got {listing(unknown)}{numbers}")
    twice = [name for name, label in zip(names, labels, strict=True) if labels.count(label) > 1]
    if twice:
        raise ValueError(f"{folder}: expected one folder for each expression, got {listing(twice)} for the same")
    files: list[tuple[Path, int]] = []
    for label, path in sorted((FER_CLASSES[label or 0], path) for label, path in zip(labels, inside, strict=True)):
        if not path.is_dir():
            raise ValueError(f"{path}: expected a folder of images, got a file")
        images = visible(path)
        if not images:
            raise FileNotFoundError(f"{path}: expected images, found none")
        files += [(image, FER_CLASSES.index(label)) for image in images]
    return files


def _label(name: str, numbered: bool) -> int | None:
    """Return the label of an expression by its name, or by its number if `numbered`; None if unknown."""
    name = name.strip().casefold()
    name = OTHER_NAMES.get(name, name)
    if numbered and name in NUMBERS:
        return int(name)
    return FER_CLASSES.index(name) if name in FER_CLASSES else None


def _read(files: list[tuple[Path, int]]) -> Faces:
    """Read the images, and scale them to 48 x 48 if they have another size."""
    pixels = numpy.empty((len(files), SIDE, SIDE), numpy.uint8)
    where = files[0][0].parents[1].name
    for n, (path, _) in enumerate(tqdm(files, desc=f"reading {where}", unit=" images", disable=None, leave=False)):
        grey = read_grey(path)
        if min(grey.size) < LEAST_SIDE:
            raise ValueError(f"{path}: expected at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got {grey.size}")
        if grey.size != (SIDE, SIDE):
            grey = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels[n] = numpy.asarray(grey)
    return Faces(pixels, numpy.array([label for _, label in files]), None)


# --------------------------------------------------------------------------------------------------------------- tables


def fer_2013_table(path: Path) -> Expressions:
    """Read a table with the columns emotion, pixels and Usage, in any order, as fer2013.csv or icml_face_data.csv."""
    faces, in_test = _faces(path, has_usage=True)
    return Expressions("FER-2013", FER_CLASSES, *split(faces, numpy.array(in_test, bool), path), str(path))


def fer_2013_two_tables(training: Path, test: Path) -> Expressions:
    """Read two tables with the columns emotion and pixels. Raise ValueError if one has no rows or no emotions."""
    parts = [_faces(path, has_usage=False)[0] for path in (training, test)]
    for path, faces in zip((training, test), parts, strict=True):
        if not len(faces.labels):
            raise ValueError(f"{path}: expected rows with an emotion and pixels, got none")
    return Expressions("FER-2013", FER_CLASSES, parts[0], parts[1], f"{training} and {test}")


def _faces(path: Path, has_usage: bool) -> tuple[Faces, list[bool]]:
    pixels, labels, in_test = bytearray(), [], []
    for row, values in tables.rows(path, ("emotion", "pixels", *["Usage"] * has_usage)):
        # pandas writes 3.0 for a whole number in a column with gaps
        label = _label(re.sub(r"^([0-9])\.0+$", r"\1", values["emotion"]), numbered=True)
        if label is None:
            last = len(FER_CLASSES) - 1
            raise ValueError(f"{path}, row {row}: expected an emotion from 0 to {last}, got {values['emotion'][:40]!r}")
        if has_usage:
            usage = values["Usage"].casefold()
            if usage not in FER_USAGES:
                wanted = "Training, PublicTest, PrivateTest"
                raise ValueError(f"{path}, row {row}: expected a usage among {wanted}, got {values['Usage'][:40]!r}")
            in_test.append(FER_USAGES[usage])
        try:
            image = bytes(map(BYTES.__getitem__, values["pixels"].split()))
        except KeyError as error:
            raise ValueError(f"{path}, row {row}: expected pixels from 0 to 255, got {error.args[0][:40]!r}") from None
        if len(image) != SIDE * SIDE:
            raise ValueError(f"{path}, row {row}: expected {SIDE * SIDE} pixels, got {len(image)}")
        pixels += image
        labels.append(label)
    return Faces(numpy.frombuffer(pixels, "u1").reshape(-1, SIDE, SIDE), numpy.array(labels, "int64"), None), in_test
