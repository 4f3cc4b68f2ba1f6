"""Faces that occur more than once are left out and counted, for every reader; an option keeps them."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy
import pytest
from PIL import Image

from bench import store
from tasks import faces
from tasks.__main__ import main
from tasks.vision import duplicates, expressions
from tasks.vision.expressions import Expressions, Faces
from tests.small import NETWORK
from tests.test_expressions import fer_folders, fer_table, multi_pie, row, save


def part(*images):
    """Return faces of (grey value, label)."""
    values, labels = (numpy.array(column, int) for column in zip(*images, strict=True))
    pixels = numpy.broadcast_to(values[:, None, None], (len(values), 48, 48)).astype("uint8")
    return Faces(pixels, labels, numpy.arange(len(values)))


def cleaned(training, test):
    data = Expressions("made up", ("a", "b", "c"), part(*training), part(*test), "nowhere")
    clean, counts = duplicates.without_duplicates(data)
    left = [list(zip(each.pixels[:, 0, 0], each.labels, strict=True)) for each in (clean.training, clean.test)]
    return left, list(counts.values()), clean


@pytest.mark.parametrize(
    ("training", "test", "left", "counts"),
    [
        ([(1, 0), (2, 1)], [(3, 0)], ([(1, 0), (2, 1)], [(3, 0)]), [0, 0, 0]),
        ([(1, 0), (2, 1)], [(3, 0), (2, 1), (2, 1)], ([(1, 0), (2, 1)], [(3, 0)]), [2, 0, 0]),
        ([(1, 0), (2, 1), (1, 0)], [(3, 0), (3, 0)], ([(1, 0), (2, 1)], [(3, 0)]), [0, 0, 2]),
        ([(1, 0), (2, 1), (1, 2)], [(3, 0)], ([(2, 1)], [(3, 0)]), [0, 2, 0]),
        ([(2, 1)], [(3, 0), (4, 1), (3, 2)], ([(2, 1)], [(4, 1)]), [0, 2, 0]),
        # a label of the test set contradicts one of the training set: both copies are left out
        ([(1, 0), (2, 1)], [(1, 2), (3, 0)], ([(2, 1)], [(3, 0)]), [1, 1, 0]),
    ],
)
def test_each_kind_of_duplicate_is_left_out_and_counted(training, test, left, counts):
    found, found_counts, _ = cleaned(training, test)
    assert (found, found_counts) == (list(left), counts)


def test_the_first_copy_is_kept_with_its_person():
    _, _, clean = cleaned([(1, 0), (2, 1), (1, 0), (3, 2)], [(4, 0)])
    assert clean.training.people.tolist() == [0, 1, 3]


def test_a_difference_of_one_pixel_is_no_duplicate():
    data = Expressions("made up", ("a",), part((1, 0), (1, 0)), part((1, 0)), "nowhere")
    data.training.pixels[0, 5, 6] += 1
    data.test.pixels[0, 5, 7] += 1
    assert list(duplicates.without_duplicates(data)[1].values()) == [0, 0, 0]


def test_a_set_of_duplicates_alone_is_refused():
    with pytest.raises(ValueError, match=r"expected test images .* none among 1: 1 test .* --keep-duplicates keeps th"):
        cleaned([(1, 0)], [(1, 0)])


def of_a_table(folder):
    rows = [row(n, value=n) for n in range(4)] + [row(n, value=n, usage="PublicTest") for n in (1, 5)]
    return fer_table(folder, *rows, row(0, value=0), row(6, value=3))  # a repeat, and another label


def of_two_tables(folder):
    for name, images in {"train": [(0, 0), (1, 1), (2, 2), (0, 0), (3, 3), (6, 3)], "test": [(1, 1), (5, 5)]}.items():
        rows = [row(label, value=value).rpartition(",")[0] for label, value in images]
        (folder / f"{name}.csv").write_text("\n".join(["emotion,pixels", *rows]))
    return folder


def of_folders(folder):
    fer_folders(folder)
    shutil.copy(folder / "train" / "sad" / "0.png", folder / "train" / "sad" / "9.png")
    shutil.copy(folder / "train" / "happy" / "0.png", folder / "test" / "happy" / "9.png")
    shutil.copy(folder / "train" / "sad" / "1.png", folder / "train" / "angry" / "9.png")
    return folder


def of_multi_pie(folder):
    multi_pie(folder)
    images = {path.name: path for path in folder.rglob("*.png")}
    for shade, path in enumerate(images.values()):
        save(path, numpy.maximum(numpy.asarray(Image.open(path)), shade))  # spots alone might be equal
    lines = (folder / "landmarks.csv").read_text().splitlines()
    places = {line.split(",")[0]: line.partition(",")[2] for line in lines[1:]}

    def copy(name, other):
        shutil.copy(images[name], images[other])
        places[other] = places[name]

    copy("001_01_01_051_07.png", "003_01_01_051_07.png")  # in the test set
    copy("001_01_01_050_07.png", "002_01_01_050_07.png")  # within the training set
    copy("001_01_02_050_07.png", "002_01_01_140_07.png")  # a smile that is neutral
    (folder / "landmarks.csv").write_text("\n".join([lines[0], *(",".join(each) for each in places.items())]))
    return folder


@pytest.mark.parametrize(
    ("made", "counts"),
    [(of_a_table, [1, 2, 1]), (of_two_tables, [1, 2, 1]), (of_folders, [1, 2, 1]), (of_multi_pie, [1, 2, 1])],
)
def test_every_reader_leaves_them_out_unless_asked_to_keep_them(made, counts, tmp_path, capsys):
    folder = made(tmp_path)
    whole = expressions.load(folder)
    sizes = [len(whole.training.labels), len(whole.test.labels)]
    settings = {"data_dir": folder, "validation_size": 1, "batch_size": 1}
    kept, clean = (faces.load(faces.Settings(keep_duplicates=keep, **settings)) for keep in (True, False))
    assert [len(kept.training.labels) + len(kept.validation.labels), len(kept.test.labels)] == sizes
    assert "left_out" not in kept.about
    assert list(clean.about["left_out"].values()) == counts
    left = [len(clean.training.labels) + len(clean.validation.labels), len(clean.test.labels)]
    assert left == [sizes[0] - counts[1] - counts[2], sizes[1] - counts[0]]
    said = capsys.readouterr().out
    assert said.count("faces: left out") == 1
    assert f"faces: left out {counts[0]} test images that are also training images, {counts[1]} other images" in said


def test_a_run_from_before_the_option_is_resumed_with_its_duplicates(tmp_path, capsys):
    """Such runs, which name no such option, used all images."""
    out = tmp_path / "run"
    options = [
        "faces",
        *NETWORK,
        "--validation-size",
        "2",
        "--epochs",
        "1",
        "--data-dir",
        str(of_folders(tmp_path / "a")),
    ]
    assert main([*options, "--keep-duplicates", "--out", str(out)]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("keep_duplicates") is True
    (out / "settings.json").write_text(json.dumps(settings))
    (out / "result.json").unlink()
    capsys.readouterr()
    assert main(["faces", "--resume", str(out)]) == 0
    said = capsys.readouterr()
    assert "settings.json: keep_duplicates is taken as True: the file is older than this option" in said.err
    assert "left out" not in said.out
    assert json.loads((out / "result.json").read_text())["settings"]["keep_duplicates"] is True
    assert store.before_options("faces")["keep_duplicates"] is True


FER = os.environ.get("FER2013")


@pytest.mark.skipif(not FER, reason="FER2013 names no archive of the published folders train/CLASS and test/CLASS")
def test_numbers_of_duplicates_in_fer_2013(tmp_path):
    with tarfile.open(Path(FER or "")) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = {path.parent for path in tmp_path.rglob("train") if path.is_dir()}
    data, counts = duplicates.without_duplicates(expressions.load(folder))
    assert counts == {duplicates.IN_TRAINING: 568, duplicates.CONFLICTING: 131, duplicates.REPEATED: 1211}
    assert (len(data.training.labels), len(data.test.labels)) == (27418, 6559)
