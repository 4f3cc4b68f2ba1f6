"""Faces and their expressions: CMU Multi-PIE and FER-2013, in their own layouts, as 48 x 48 grey images.

Multi-PIE (licensed; Gross, Matthews, Cohn, Kanade, Baker 2010): image files anywhere under a folder, whose names say
what they show, SUBJECT_SESSION_RECORDING_CAMERA_ILLUMINATION.png, as 001_01_02_051_07.png. Only the three central
cameras are taken, 05_1, 05_0 and 14_0, at 0 and ±15 degrees. Recording and session give the expression. A CSV file
beside them, landmarks.csv, gives the points that the faces are aligned by. Training and test set share no person.

FER-2013 (Goodfellow et al. 2013, 1307.0414): folders train/CLASS and test/CLASS of images, or fer2013.csv with columns
emotion, pixels, Usage. It does not say who is shown; its own test split is kept.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from fastweights_np import checks

SIDE = 48
FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # in the order of fer2013.csv
FER_USAGES = {"Training": False, "PublicTest": True, "PrivateTest": True}  # whether it belongs to the test set
PIE_CLASSES = ("neutral", "smile", "surprise", "squint", "disgust", "scream")
# (session, recording) to expression
PIE_EXPRESSIONS = {
    (1, 1): "neutral", (1, 2): "smile",
    (2, 1): "neutral", (2, 2): "surprise", (2, 3): "squint",
    (3, 1): "neutral", (3, 2): "smile", (3, 3): "disgust",
    (4, 1): "neutral", (4, 2): "scream", (4, 3): "neutral",
}  # fmt: skip
PIE_CAMERAS = ("051", "050", "140")
PIE_TEST_PEOPLE = 20
LANDMARKS = ("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y", "nose_x", "nose_y")
# where both eyes and the tip of the nose go, (x, y) in an aligned image
ALIGNED = numpy.array([[15.0, 18.0], [33.0, 18.0], [24.0, 29.0]])


class Faces(NamedTuple):
    """Grey images (N, 48, 48), bytes; their labels (N,), int64; and who is shown (N,), int64, or None if not known."""

    pixels: numpy.ndarray
    labels: numpy.ndarray
    people: numpy.ndarray | None


class Expressions(NamedTuple):
    """A data set of faces."""

    name: str
    classes: tuple[str, ...]
    training: Faces
    test: Faces


def load(data_dir: Path) -> Expressions:
    """Reads whichever of the layouts above is in the folder.

    Raises FileNotFoundError if none is, ValueError, naming the file or the row, for what cannot be read.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir: expected a folder of faces, found none at {data_dir}")
    if (data_dir / "fer2013.csv").is_file():
        return fer_2013_table(data_dir / "fer2013.csv")
    if (data_dir / "train").is_dir():
        return fer_2013_folders(data_dir)
    if (data_dir / "landmarks.csv").is_file():
        return multi_pie(data_dir)
    raise FileNotFoundError(
        "data_dir: expected FER-2013, as fer2013.csv or as folders train/CLASS and test/CLASS of images, or Multi-PIE, "
        f"as image files with landmarks.csv; found none of them in {data_dir}"
    )


# ------------------------------------------------------------------------------------------------------------- FER-2013


def fer_2013_folders(folder: Path) -> Expressions:
    """FER-2013 from images in train/CLASS and test/CLASS."""
    return Expressions("FER-2013", FER_CLASSES, *(_folder_of_classes(folder / split) for split in ("train", "test")))


def _folder_of_classes(folder: Path) -> Faces:
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(
            f"{folder}: expected a folder for each expression, {', '.join(FER_CLASSES)}; found none"
        )
    unknown = [name for name in found if name not in FER_CLASSES]
    if unknown:
        raise ValueError(f"{folder}: expected folders named {', '.join(FER_CLASSES)}; got {', '.join(unknown)}")
    files = [(path, FER_CLASSES.index(name)) for name in found for path in sorted((folder / name).iterdir())]
    if not files:
        raise FileNotFoundError(f"{folder}: expected images in its folders, found none")
    pixels = numpy.empty((len(files), SIDE, SIDE), numpy.uint8)
    for n, (path, _) in enumerate(
        tqdm(files, desc=f"reading {folder.name}", unit=" images", disable=None, leave=False)
    ):
        pixels[n] = _grey(path)
    return Faces(pixels, numpy.array([label for _, label in files]), None)


def fer_2013_table(path: Path) -> Expressions:
    """FER-2013 from fer2013.csv; PublicTest and PrivateTest are the test set."""
    pixels, labels, in_test = [], [], []
    for row, values in _table(path, ("emotion", "pixels", "Usage")):
        try:
            label, usage = int(values["emotion"]), values["Usage"]
            image = numpy.array(values["pixels"].split(), numpy.uint8)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}, row {row}: expected an emotion and pixels from 0 to 255: {error}") from error
        if not 0 <= label < len(FER_CLASSES):
            raise ValueError(f"{path}, row {row}: expected an emotion from 0 to {len(FER_CLASSES) - 1}, got {label}")
        if usage not in FER_USAGES:
            raise ValueError(f"{path}, row {row}: expected a usage among {', '.join(FER_USAGES)}, got {usage!r}")
        if image.size != SIDE * SIDE:
            raise ValueError(f"{path}, row {row}: expected {SIDE * SIDE} pixels, got {image.size}")
        pixels.append(image.reshape(SIDE, SIDE))
        labels.append(label)
        in_test.append(FER_USAGES[usage])
    whole = Faces(numpy.array(pixels), numpy.array(labels), None)
    return Expressions("FER-2013", FER_CLASSES, *_parted(whole, numpy.array(in_test), path))


# ------------------------------------------------------------------------------------------------------------ Multi-PIE


def multi_pie(folder: Path) -> Expressions:
    """Multi-PIE from image files under the folder, aligned by its landmarks.csv: columns file, left_eye_x, left_eye_y,
    right_eye_x, right_eye_y, nose_x, nose_y, in pixels, left and right as they are seen. Files without a row there are
    left out. The last 20 people are the test set, as many as in the paper.
    """
    points = {}
    for row, values in _table(folder / "landmarks.csv", ("file", *LANDMARKS)):
        try:
            points[Path(values["file"]).name] = numpy.array([float(values[name]) for name in LANDMARKS]).reshape(3, 2)
        except ValueError as error:
            raise ValueError(f"{folder / 'landmarks.csv'}, row {row}: expected numbers of pixels: {error}") from error
    pixels, labels, people = [], [], []
    for path in sorted(folder.rglob("*.png")):
        subject, session, recording, camera = multi_pie_name(path)
        expression = PIE_EXPRESSIONS.get((session, recording))
        if path.name in points and camera in PIE_CAMERAS and expression is not None:
            pixels.append(_grey(path, points[path.name]))
            labels.append(PIE_CLASSES.index(expression))
            people.append(subject)
    if not pixels:
        wanted = f"images of the cameras {', '.join(PIE_CAMERAS)} with a row in landmarks.csv"
        raise FileNotFoundError(f"{folder}: expected {wanted}, found none")
    whole = Faces(numpy.array(pixels), numpy.array(labels), numpy.array(people))
    known = numpy.unique(people)
    in_test = numpy.isin(people, known[-min(PIE_TEST_PEOPLE, len(known) // 2) :] if len(known) > 1 else [])
    return Expressions("Multi-PIE", PIE_CLASSES, *_parted(whole, in_test, folder))


def multi_pie_name(path: Path) -> tuple[int, int, int, str]:
    """Subject, session, recording and camera from a file name. Raises ValueError for one of another form."""
    parts = path.stem.split("_")
    if len(parts) != 5 or not all(part.isdigit() for part in parts):
        raise ValueError(
            f"{path}: expected a name such as 001_01_02_051_07.png: subject, session, recording, camera, illumination"
        )
    return int(parts[0]), int(parts[1]), int(parts[2]), parts[3]


def alignment(points: numpy.ndarray) -> tuple[float, ...]:
    """The map from aligned to original pixels that takes ALIGNED to the points (3, 2) best, in the least squares sense:
    (a, b, c, d, e, f) with x = a x' + b y' + c, y = d x' + e y' + f; a turn, a scale and a shift (Umeyama 1991).
    """
    source, target = ALIGNED - ALIGNED.mean(axis=0), points - points.mean(axis=0)
    # as complex numbers: target = factor · source. Pixel n lies at n + 1/2, as the transform counts
    source_c, target_c = (side[:, 0] + 1j * side[:, 1] for side in (source, target))
    factor = (source_c.conj() @ target_c) / (source_c.conj() @ source_c).real
    turn = numpy.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    shift = points.mean(axis=0) + 0.5 - turn @ (ALIGNED.mean(axis=0) + 0.5)
    return (*turn[0], shift[0], *turn[1], shift[1])


# --------------------------------------------------------------------------------------------------------------- shared


def _grey(path: Path, points: numpy.ndarray | None = None) -> numpy.ndarray:
    """The image as (48, 48) bytes: aligned by its points if they are given, else scaled."""
    try:
        with Image.open(path) as image:
            grey = image.convert("L")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: expected an image, which it cannot be read as: {error}") from error
    if points is not None:
        grey = grey.transform((SIDE, SIDE), Image.Transform.AFFINE, alignment(points), Image.Resampling.BILINEAR)
    elif grey.size != (SIDE, SIDE):
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return numpy.asarray(grey)


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file by their number, that of the line after the header being 2. Raises ValueError if a column
    is missing or a row is cut short.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: expected the columns {', '.join(columns)}; missing {', '.join(missing)}")
        for row, values in enumerate(reader, 2):
            if any(values[name] is None for name in columns):
                raise ValueError(f"{path}, row {row}: expected {len(columns)} values, the row is cut short")
            yield row, values


def _parted(whole: Faces, in_test: numpy.ndarray, path: Path) -> tuple[Faces, Faces]:
    if in_test.all() or not in_test.any():
        raise ValueError(f"{path}: expected faces to train on and faces to test on, got one of both alone")
    parts = (numpy.flatnonzero(in_test == side) for side in (False, True))
    return tuple(take(whole, part) for part in parts)  # type: ignore[return-value]


def take(faces: Faces, chosen: numpy.ndarray) -> Faces:
    """Those of these numbers."""
    return Faces(faces.pixels[chosen], faces.labels[chosen], None if faces.people is None else faces.people[chosen])


def hold_out(faces: Faces, count: int, rng: numpy.random.Generator) -> tuple[Faces, Faces]:
    """(the rest, about `count` of the faces to validate on): whole people where they are known, else any faces."""
    checks.count("count", count, least=1)
    if count >= len(faces.labels):
        raise ValueError(f"validation_size: expected less than the {len(faces.labels)} images to train on, got {count}")
    order = rng.permutation(len(faces.labels))
    if faces.people is None:
        return take(faces, numpy.sort(order[count:])), take(faces, numpy.sort(order[:count]))
    people = rng.permutation(numpy.unique(faces.people))
    numbers = numpy.cumsum([numpy.sum(faces.people == person) for person in people])
    held = people[: max(1, min(int(numpy.searchsorted(numbers, count, "right")), len(people) - 1))]
    is_held = numpy.isin(faces.people, held)
    return take(faces, numpy.flatnonzero(~is_held)), take(faces, numpy.flatnonzero(is_held))
