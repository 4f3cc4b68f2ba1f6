"""Test the tasks' readers with damaged data: make one input, read it, and check the outcome.

READERS has a pair of functions for each reader: `make(folder, rng)` writes one input into an empty folder,
`read(folder)` reads it and checks the data. `attack` calls both. An input must either be read and pass the checks, or
be refused with a ValueError or OSError that names the file. Everything else raises `Wrong`.
"""

from __future__ import annotations

import gzip
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.random import Generator
from PIL import Image

from tasks.vision import digits, expressions, tables
from tasks.vision.idx_files import TYPES, read_idx
from tasks.vision.image_files import read_grey

SECONDS = 20  # a reader that takes longer counts as hanging; the slowest input takes less than one second


class Wrong(AssertionError):
    """A reader returned data that fail the checks, or raised an undocumented exception."""


class Hanging(BaseException):
    """A reader took too long. It is a BaseException, so that no reader catches it."""


class Reader(NamedTuple):
    """The functions that make one input in an empty folder, and that read and check it."""

    make: Callable[[Path, Generator], None]
    read: Callable[[Path], Any]


def attack(name: str, folder: Path, rng: Generator) -> str:
    """Make one input in an empty folder and read it. Return "read" or "refused". Raise Wrong for anything else."""
    reader = READERS[name]
    reader.make(folder, rng)
    try:
        with _not_longer_than(SECONDS):
            reader.read(folder)
    except Wrong:
        raise
    except (ValueError, OSError) as error:
        if str(folder) not in str(error):
            raise Wrong(f"{name}: {type(error).__name__} names no file: {error}") from error
        return "refused"
    except (Exception, Hanging) as error:
        raise Wrong(f"{name}: {type(error).__name__}: {error}") from error
    return "read"


@contextmanager
def _not_longer_than(seconds: float) -> Iterator[None]:
    """Raise Hanging in the block after this time. Do nothing without signals or outside the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Hanging(f"expected an answer within {seconds} s, got none")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(fits: Any, what: str) -> None:
    """Raise Wrong unless `fits` is true."""
    if not fits:
        raise Wrong(f"read, but {what}")


# ------------------------------------------------------------------------------------------------------------- mutators


def pick(rng: Generator, values: Any) -> Any:
    """Return one of the values."""
    return values[int(rng.integers(len(values)))]


def damaged(content: bytes, rng: Generator) -> bytes:
    """Return the bytes with one to three kinds of damage: flipped bits, cuts, copies, extremes, insertions."""
    for _ in range(int(rng.integers(1, 4))):
        damage = pick(rng, (_flip, _truncate, _splice, _extreme, _insert, _remove))
        content = damage(bytearray(content), rng) if content else bytes(rng.bytes(int(rng.integers(1, 40))))
    return content


def _place(content: bytearray, rng: Generator) -> tuple[int, int]:
    """Return start and end of a short piece, half the time in the header (the first 40 bytes), else anywhere."""
    within = min(len(content), 40) if rng.random() < 0.5 else len(content)
    start = int(rng.integers(within))
    return start, min(start + int(rng.integers(1, 17)), len(content))


def _flip(content: bytearray, rng: Generator) -> bytes:
    for _ in range(int(rng.integers(1, 5))):
        content[_place(content, rng)[0]] ^= 1 << int(rng.integers(8))
    return bytes(content)


def _truncate(content: bytearray, rng: Generator) -> bytes:
    return bytes(content[: int(rng.integers(len(content)))])


def _splice(content: bytearray, rng: Generator) -> bytes:
    (start, end), (to, _) = _place(content, rng), _place(content, rng)
    return bytes(content[:to] + content[start:end] + content[to:])


def _extreme(content: bytearray, rng: Generator) -> bytes:
    start, end = _place(content, rng)
    content[start:end] = bytes([pick(rng, (0, 1, 0x7F, 0x80, 0xFF))]) * (end - start)
    return bytes(content)


def _insert(content: bytearray, rng: Generator) -> bytes:
    start, _ = _place(content, rng)
    return bytes(content[:start] + rng.bytes(int(rng.integers(1, 17))) + content[start:])


def _remove(content: bytearray, rng: Generator) -> bytes:
    start, end = _place(content, rng)
    return bytes(content[:start] + content[end:])


# ------------------------------------------------------------------------------------------------------------------ IDX


def idx(rng: Generator, shape: tuple[int, ...], below: int) -> bytes:
    """Return an IDX file of whole numbers below a limit, of a random type, with an invalid value in 10 % of cases."""
    code = pick(rng, (0x08, 0x08, 0x08, *TYPES))
    values = rng.integers(0, below, shape).astype(TYPES[code])
    if rng.random() < 0.1:
        with numpy.errstate(invalid="ignore"):
            bad = numpy.array(pick(rng, (-1.0, 0.5, 300.0, numpy.nan))).astype(TYPES[code])
        values.flat[rng.integers(values.size)] = bad
    return bytes([0, 0, code, len(shape)]) + numpy.array(shape, ">u4").tobytes() + values.tobytes()


def _maybe_compressed(content: bytes, rng: Generator) -> bytes:
    """Return the bytes, compressed in half of the cases, and sometimes damaged before or after that."""
    before, after = rng.random(2) < 0.25
    content = damaged(content, rng) if before else content
    content = gzip.compress(content, 1) if rng.random() < 0.5 else content
    return damaged(content, rng) if after else content


def make_idx(folder: Path, rng: Generator) -> None:
    """Write one IDX file."""
    shape = tuple(int(size) for size in rng.integers(1, 6, int(rng.integers(1, 5))))
    (folder / "values").write_bytes(_maybe_compressed(idx(rng, shape, 10), rng))


def read_one_idx(folder: Path) -> None:
    """Read one IDX file."""
    values = read_idx(folder / "values")
    check(1 <= values.ndim <= 4 and values.size, f"shape {values.shape}")


def make_mnist(folder: Path, rng: Generator) -> None:
    """Write the four files of a small MNIST under random names, some of them damaged, missing or of another shape."""
    for file in digits.FILES:
        count, side = (6 if file.startswith("train") else 2) + (rng.random() < 0.03), 4
        shapes = [(count, side, side), (count, side * side), (count, 1, side, side)] if "images" in file else [(count,)]
        if rng.random() < 0.1:
            shapes = [
                (count, 1),
                (1, count),
                (count, 2),
                (count, side, side + 1),
                (count, side, side, 3),
                (count, 1, 9),
            ]
        content = idx(rng, pick(rng, shapes), 256 if "images" in file else 10)
        name = pick(rng, (file, file, file.replace("-idx", ".idx"))) + pick(rng, ("", ".gz"))
        path = pick(rng, (folder / name, folder / name, folder / file / name))
        if rng.random() < 0.02:
            path.mkdir(parents=True)
        elif rng.random() > 0.02:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(_maybe_compressed(content, rng) if rng.random() < 0.4 else content)


def read_mnist(folder: Path) -> None:
    """Read and check both sets."""
    training, test = digits.load("mnist", folder)
    for pixels, labels in (training, test):
        check(pixels.dtype == "uint8" and pixels.ndim == 3 and pixels.size, f"pixels {pixels.dtype} {pixels.shape}")
        check(pixels.shape[1] == pixels.shape[2] == training.pixels.shape[1], f"sizes {pixels.shape}")
        check(labels.dtype == "int64" and labels.shape == pixels.shape[:1], f"labels {labels.dtype} {labels.shape}")
        check(((labels >= 0) & (labels < 10)).all(), f"labels {labels}")


# --------------------------------------------------------------------------------------------------------------- images


@cache
def whole_images() -> tuple[bytes, ...]:
    """Return small images of every supported format and mode, and of some unsupported ones."""
    grey = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (16, 16), "uint8"))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        *((mode, "PNG", {}) for mode in ("L", "RGB", "P", "1", "LA", "RGBA", "I;16")),
        *((mode, "JPEG", {}) for mode in ("L", "RGB", "CMYK")),
        *((mode, "BMP", {}) for mode in ("L", "RGB", "P", "1", "RGBA")),
        *((mode, "PPM", {}) for mode in ("L", "RGB", "1", "RGBA")),
        ("L", "PNG", {"exif": exif}), ("L", "JPEG", {"exif": exif}), ("RGB", "JPEG", {"progressive": True}),
        ("P", "PNG", {"transparency": 3}), ("L", "PNG", {"save_all": True, "append_images": [grey.rotate(90)]}),
        ("L", "GIF", {}), ("L", "TIFF", {}), ("L", "EPS", {}), ("RGB", "ICO", {}),
    ]  # fmt: skip
    contents = []
    for mode, kind, options in kinds:
        file = io.BytesIO()
        grey.convert(mode).save(file, kind, **options)
        contents.append(file.getvalue())
    return (
        *contents,
        b"P5 100000 100000 255\n" + bytes(99),
        b"P2 3 3 9\n1 2 3 4 5 6 7 8 9\n",
        b"Pf 2 2 -1.0\n" + bytes(16),
    )


def make_image(folder: Path, rng: Generator) -> None:
    """Write one image, in 95 % of cases a damaged one."""
    content = pick(rng, whole_images())
    name = pick(rng, ("x.png", "x.jpg", "x.eps", "x.gif", "x"))
    (folder / name).write_bytes(damaged(content, rng) if rng.random() < 0.95 else content)


def read_image(folder: Path) -> None:
    """Read one image both ways."""
    (path,) = folder.iterdir()
    for in_stored_pixels in (False, True):
        grey = read_grey(path, in_stored_pixels)
        check(grey.mode == "L" and min(grey.size) > 0, f"mode {grey.mode}, {grey.size}")


# --------------------------------------------------------------------------------------------------------------- tables


CELLS = (
    "", " ", "0", "3", "3.0", "6", "7", "-1", "nan", "inf", "1e999", "Training", "PublicTest", "PrivateTest", "angry",
    "emotion", "pixels", "Usage", "file", '"', '""', '"a', 'a"b', "'", "\0", "é", "\ufeff", "٣", "1_0", "\r", "\n",
    "\t", "9" * 500, "," * 5, ";", "a\tb", "=1+1", "\\", "//", "001_01_01_051_07.png",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")


def _written(path: Path, text: str, rng: Generator) -> None:
    """Write a table, sometimes in another encoding than UTF-8, sometimes damaged."""
    content = text.encode(pick(rng, ENCODINGS) if rng.random() < 0.1 else "utf-8", "replace")
    path.write_bytes(damaged(content, rng) if rng.random() < 0.15 else content)


def _end(rng: Generator) -> str:
    return pick(rng, ("\n", "\r\n")) if rng.random() < 0.97 else "\r"


def make_table(folder: Path, rng: Generator) -> None:
    """Write a CSV file of random cells."""
    lines = ["a,b", *(",".join(pick(rng, CELLS) for _ in range(rng.integers(1, 4))) for _ in range(rng.integers(6)))]
    if rng.random() < 0.1:
        lines.append('"' + "x" * int(rng.integers(2 << 20)))
    _written(folder / "x.csv", _end(rng).join(lines), rng)


def read_table(folder: Path) -> None:
    """Read all rows."""
    for row, values in tables.rows(folder / "x.csv", ("a", "b")):
        check(
            row > 1 and set(values) == {"a", "b"} and all(type(value) is str for value in values.values()), str(values)
        )


def _fer_row(rng: Generator, order: list[str]) -> str:
    cells = {
        "emotion": str(rng.integers(0, 7)),
        "pixels": " ".join([str(rng.integers(0, 256))] * 48 * 48),
        "Usage": pick(rng, ("Training", "PublicTest", "PrivateTest")),
    }
    if rng.random() < 0.05:
        cells[pick(rng, list(cells))] = pick(rng, CELLS)
    return ",".join(cells[name] for name in order)


def make_fer_table(folder: Path, rng: Generator) -> None:
    """Write FER-2013 as one or two tables, with usual or unusual names and headers."""
    for name in pick(
        rng, (["fer2013.csv"], ["icml_face_data.csv"], ["FER2013.csv"], ["train.csv", "test.csv"], ["test.csv"])
    ):
        order = [str(column) for column in rng.permutation(["emotion", "pixels", "Usage"])]
        if name in ("train.csv", "test.csv") and rng.random() < 0.8:
            order.remove("Usage")
        header = pick(rng, (",", ", ", " ,", ";") if rng.random() < 0.2 else (",",)).join(order)
        rows = [_fer_row(rng, order) for _ in range(rng.integers(0, 8))]
        _written(folder / name, _end(rng).join([header, *rows]), rng)


def read_faces(folder: Path) -> None:
    """Read the data set of faces in the folder, and check it."""
    data = expressions.load(folder)
    for pixels, labels, people in (data.training, data.test):
        check(
            pixels.dtype == "uint8" and pixels.shape == (len(labels), 48, 48) and pixels.size, f"pixels {pixels.shape}"
        )
        check(labels.dtype == "int64" and ((labels >= 0) & (labels < len(data.classes))).all(), f"labels {labels}")
        check(people is None or people.shape == labels.shape, "people of another shape")
    if data.training.people is not None and data.test.people is not None:
        check(not set(data.training.people) & set(data.test.people), "training and test set share a person")


# --------------------------------------------------------------------------------------------------------- folder trees


SPLITS = ("train", "test", "Training", "PublicTest", "PrivateTest", "validation", "testing", "TEST")
CLASSES = ("happy", "Happiness", "sad", "sadness", "ANGRY", "anger", "0", "1", "contempt", "neutral")
STRAYS = (".DS_Store", "Thumbs.db", "._x.png", "desktop.ini", "__MACOSX", ".ipynb_checkpoints", "notes.txt", "x.gif")


def _image(path: Path, rng: Generator) -> None:
    """Write an image, rarely a damaged one, or rarely something else under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = rng.random()
    if os.path.lexists(path):  # writing into a pipe would block for ever
        return
    if chance < 0.01:
        path.mkdir()
    elif chance < 0.02:
        path.symlink_to(pick(rng, ("nowhere", ".", "..", path.name)))
    elif chance < 0.03 and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    else:
        content = pick(rng, whole_images()) if chance < 0.05 else whole_images()[0]
        path.write_bytes(damaged(content, rng) if chance > 0.97 else content)


def _stray(folder: Path, rng: Generator) -> None:
    """Add a stray file or folder somewhere in the tree."""
    place = pick(
        rng, [folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir() and not path.is_symlink())]
    )
    path = place / pick(rng, STRAYS)
    if not path.exists():
        path.write_bytes(bytes(20)) if rng.random() < 0.7 else path.mkdir()


def make_fer_folders(folder: Path, rng: Generator) -> None:
    """Write folders of images with names that are right, nearly right or wrong."""
    usual = rng.random() < 0.6
    for split in ("train", "test") if usual else rng.permutation(SPLITS)[: rng.integers(1, 4)]:
        names = ("happy", "sad") if rng.random() < 0.8 else rng.permutation(CLASSES)[: rng.integers(1, 4)]
        for name in names if rng.random() < 0.97 else [str(label) for label in range(7)]:
            for number in range(rng.integers(1, 3)):
                _image(folder / str(split) / str(name) / f"{number}.{pick(rng, ('png', 'jpg', 'txt'))}", rng)
    if rng.random() < 0.4:
        _stray(folder, rng)


def make_multi_pie(folder: Path, rng: Generator) -> None:
    """Write images with valid or invalid Multi-PIE names, and a table of plausible or implausible landmarks."""
    lines = [
        ", ".join(["file", *expressions.LANDMARKS])
        if rng.random() < 0.2
        else ",".join(["file", *expressions.LANDMARKS])
    ]
    for person in range(1, int(rng.integers(2, 7))):
        session, recording = pick(rng, (1, 1, 1, 4, 5)), pick(rng, (1, 2))
        camera = pick(rng, ("051", "050", "140", "051", "080"))
        name = f"{person:03}_{session:02}_{recording:02}_{camera}_07.png"
        if rng.random() < 0.03:
            name = pick(
                rng, ("holiday.png", "1_1_1_1_1.png", f"{person:03}_01_01_051_07.PNG", "001_01_01_051_07 (1).png")
            )
        for place in pick(rng, (["."], ["a"], ["a", "b"]) if rng.random() < 0.1 else (["a"],)):
            _image(folder / place / name, rng)
        numbers = [str(value) for value in rng.integers(0, 3, 6) + numpy.array([4, 5, 12, 5, 8, 10])]
        if rng.random() < 0.1:
            numbers[rng.integers(6)] = pick(rng, (*CELLS, "1e300", "-0.0", "16", "17", "5"))
        for _ in range(pick(rng, (1, 1, 1, 1, 1, 0, 2))):
            lines.append(",".join([pick(rng, ("", "", "", "a\\", "x/")) + name, *numbers]))
    _written(folder / "landmarks.csv", _end(rng).join(lines), rng) if rng.random() < 0.97 else None
    if rng.random() < 0.3:
        _stray(folder, rng)


READERS = {
    "idx": Reader(make_idx, read_one_idx),
    "mnist": Reader(make_mnist, read_mnist),
    "image": Reader(make_image, read_image),
    "table": Reader(make_table, read_table),
    "fer_table": Reader(make_fer_table, read_faces),
    "fer_folders": Reader(make_fer_folders, read_faces),
    "multi_pie": Reader(make_multi_pie, read_faces),
}
