"""Read CMU Multi-PIE (licensed; Gross, Matthews, Cohn, Kanade, Baker 2010): image files and a table of landmarks.

Image files can be anywhere under a folder. Their names are SUBJECT_SESSION_RECORDING_CAMERA_ILLUMINATION, such as
001_01_02_051_07.png. Only the three central cameras are used: 05_1, 05_0 and 14_0, at 0 and ±15 degrees. Session and
recording determine the expression. Faces are aligned by the landmarks in the CSV file landmarks.csv.
"""

from __future__ import annotations

import re
from math import hypot
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy
from PIL import Image

from . import tables
from .face_sets import SIDE, Expressions, Faces, split
from .image_files import ENDINGS, read_grey
from .listing import files_under

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
TABLE = "landmarks.csv"
LANDMARKS = ("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y", "nose_x", "nose_y")
MOST_PIXELS = 100_000  # across an image
LEAST_EYES = 4.0  # pixels from eye to eye; a smaller distance shows no face
# the positions (x, y) of both eyes and the tip of the nose in an aligned image
ALIGNED = numpy.array([[15.0, 18.0], [33.0, 18.0], [24.0, 29.0]])


class Landmarks(NamedTuple):
    """The positions (x, y) in pixels of both eyes and the tip of the nose, (3, 2), and their row in the table."""

    points: numpy.ndarray
    row: int


def multi_pie(table: Path) -> Expressions:
    """Read Multi-PIE: landmarks.csv and the images under its folder. Align the images by their landmarks.

    Columns of the table: file, left_eye_x, left_eye_y, right_eye_x, right_eye_y, nose_x, nose_y, in pixels. Left and
    right are as seen in the image. A row belongs to the image with the same file name, without folder and ending.
    Images without a row are left out. The last 20 people are the test set, as many as in the paper. With fewer than 40
    people, the last half is the test set.

    Raise FileNotFoundError or ValueError, naming the file and the row, for missing, damaged or implausible input.
    """
    folder = table.parent
    known = landmarks(table)
    taken: dict[str, tuple[Path, int, int]] = {}
    left_out = 0
    for path in files_under(folder):
        if path.suffix.casefold() not in ENDINGS:
            continue
        subject, session, recording, camera = multi_pie_name(path)
        expression = PIE_EXPRESSIONS.get((session, recording))
        if path.stem not in known or camera not in PIE_CAMERAS or expression is None:
            left_out += 1
            continue
        if path.stem in taken:
            raise ValueError(f"{path}: expected one file of each name, found {taken[path.stem][0]} too; remove one")
        taken[path.stem] = path, PIE_CLASSES.index(expression), subject
    if not taken:
        raise FileNotFoundError(
            f"{folder}: expected images of the cameras {', '.join(PIE_CAMERAS)} with a row in {TABLE}, found none; "
            f"found {left_out} other images, and {len(known)} rows"
        )
    pixels = numpy.array([_aligned(path, known[name], table) for name, (path, _, _) in taken.items()])
    labels, people = (numpy.array([each[column] for each in taken.values()]) for column in (1, 2))
    everybody = numpy.unique(people)
    in_test = numpy.isin(people, everybody[len(everybody) - min(PIE_TEST_PEOPLE, len(everybody) // 2) :])
    source = (
        f"{folder}; left out: {left_out} images without a row in {TABLE} or of other cameras or expressions, "
        f"{len(known) - len(taken)} rows without one of the images that are taken"
    )
    return Expressions("Multi-PIE", PIE_CLASSES, *split(Faces(pixels, labels, people), in_test, folder), source)


def multi_pie_name(path: Path) -> tuple[int, int, int, str]:
    """Return subject, session, recording and camera from a file name. Raise ValueError for a name of another form."""
    parts = re.fullmatch(r"([0-9]{3})_([0-9]{2})_([0-9]{2})_([0-9]{3})_[0-9]{2}", path.stem)
    if parts is None:
        raise ValueError(
            f"{path}: expected a name such as 001_01_02_051_07.png: subject, session, recording, camera, illumination"
        )
    subject, session, recording, camera = parts.groups()
    return int(subject), int(session), int(recording), camera


def landmarks(path: Path) -> dict[str, Landmarks]:
    """Return the landmarks of each image in a table, by the name of its file without folder and ending.

    Raise ValueError, which names the file and the row, for numbers that are not finite or not in an image, for points
    that no upright face has, and for two rows that contradict each other.
    """
    known: dict[str, Landmarks] = {}
    for row, values in tables.rows(path, ("file", *LANDMARKS)):
        name = PureWindowsPath(values["file"]).stem  # separates at both / and \
        try:
            points = _points([values[each] for each in LANDMARKS])
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from None
        if name in known and not numpy.array_equal(known[name].points, points):
            raise ValueError(
                f"{path}, row {row}: expected one row for each file, got {values['file'][:80]}, "
                f"which row {known[name].row} has with other points"
            )
        known.setdefault(name, Landmarks(points, row))
    return known


def _points(values: list[str]) -> numpy.ndarray:
    """Return the points (3, 2) of six numbers. Raise ValueError unless an upright face can have them."""
    numbers = []
    for name, text in zip(LANDMARKS, values, strict=True):
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"expected numbers of pixels, got {name} {text[:40]!r}") from None
        if not 0 <= number <= MOST_PIXELS:  # nan too
            raise ValueError(f"expected numbers of pixels from 0 to {MOST_PIXELS}, got {name} {text[:40]}")
        numbers.append(number)
    left, right, nose = (complex(*numbers[n : n + 2]) for n in (0, 2, 4))
    eyes = right - left
    if hypot(eyes.real, eyes.imag) < LEAST_EYES:
        raise ValueError(f"expected eyes at least {LEAST_EYES:g} pixels apart, got {abs(eyes):g}")
    # position along the eyes and down the face, in units of the eyes' distance: an aligned face has 0 and 0.61
    place = (nose - (left + right) / 2) / eyes
    if eyes.real <= 0 or not (abs(place.real) <= 1 and 0.1 <= place.imag <= 2):
        raise ValueError(
            "expected an upright face, the left eye, as it is seen, left of the right one and the nose below them, "
            f"got eyes {_at(left)} and {_at(right)}, nose {_at(nose)}"
        )
    return numpy.array(numbers).reshape(3, 2)


def _at(point: complex) -> str:
    return f"({point.real:g}, {point.imag:g})"


def _aligned(path: Path, known: Landmarks, table: Path) -> numpy.ndarray:
    """Return the image (48, 48), bytes, rotated, scaled and shifted so that its landmarks are at ALIGNED."""
    grey = read_grey(path, in_stored_pixels=True)
    if (known.points > grey.size).any():
        raise ValueError(
            f"{table}, row {known.row}: expected points in the image {path} of {grey.size[0]} x {grey.size[1]} pixels, "
            f"got {', '.join(_at(complex(*point)) for point in known.points)}"
        )
    shape = (SIDE, SIDE)
    return numpy.asarray(
        grey.transform(shape, Image.Transform.AFFINE, alignment(known.points), Image.Resampling.BILINEAR)
    )


def alignment(points: numpy.ndarray) -> tuple[float, ...]:
    """Return the least-squares map from aligned to original pixels, which maps ALIGNED to the points (3, 2).

    It is (a, b, c, d, e, f) with x = a x' + b y' + c, y = d x' + e y' + f: a rotation, a scale and a shift
    (Umeyama 1991).
    """
    source, target = ALIGNED - ALIGNED.mean(axis=0), points - points.mean(axis=0)
    # as complex numbers: target = factor · source. The transform places pixel n at n + 1/2
    source_c, target_c = (side[:, 0] + 1j * side[:, 1] for side in (source, target))
    factor = (source_c.conj() @ target_c) / (source_c.conj() @ source_c).real
    turn = numpy.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    shift = points.mean(axis=0) + 0.5 - turn @ (ALIGNED.mean(axis=0) + 0.5)
    return (*turn[0], shift[0], *turn[1], shift[1])
