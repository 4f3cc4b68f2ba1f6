"""Reading faces: made-up trees of the layouts of FER-2013 and Multi-PIE."""

from __future__ import annotations

import os
import shutil

import numpy
import pytest
from PIL import Image

from tasks import faces
from tasks.vision import expressions
from tasks.vision.expressions import ALIGNED, FER_CLASSES, LANDMARKS, hold_out, load


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype("uint8")).save(path)


def fer_folders(folder, per_class=2):
    for split in ("train", "test"):
        for label, name in enumerate(FER_CLASSES):
            for n in range(per_class):
                save(folder / split / name / f"{n}.png", numpy.full((48, 48), 10 * label + n + 5 * (split == "test")))
    return folder


def test_fer_2013_from_folders(tmp_path):
    data = load(fer_folders(tmp_path))
    assert (data.name, data.classes) == ("FER-2013", FER_CLASSES)
    assert data.training.people is None
    for part in (data.training, data.test):
        assert part.pixels.shape == (14, 48, 48)
        numpy.testing.assert_array_equal(part.pixels[:, 0, 0] // 10, part.labels)


def test_images_of_another_size_or_in_colour_are_made_grey_and_48_x_48(tmp_path):
    fer_folders(tmp_path)
    save(tmp_path / "train" / "happy" / "0.png", numpy.full((96, 60, 3), 77))
    data = load(tmp_path)
    numpy.testing.assert_array_equal(data.training.pixels[data.training.labels == 3][0], numpy.full((48, 48), 77))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir: expected a folder of faces, found none"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"data_dir: expected FER-2013, as fer2013.csv, .* found nothing in"):
        load(tmp_path)
    (tmp_path / "archive").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    with pytest.raises(FileNotFoundError, match=r"found archive/, notes.txt in"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data_dir: expected a folder of faces, found the file .*notes.txt"):
        load(tmp_path / "notes.txt")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train: expected a folder for each expression, angry, .* found none"):
        load(tmp_path)
    (tmp_path / "train" / "bored").mkdir()
    with pytest.raises(ValueError, match=r"train: expected folders named angry, .*; got bored"):
        load(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    fer_folders(tmp_path)
    (tmp_path / "train" / "sad" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"sad/1\.png: expected an image"):
        load(tmp_path)
    whole = (tmp_path / "train" / "sad" / "0.png").read_bytes()
    (tmp_path / "train" / "sad" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"sad/1\.png: expected an image"):
        load(tmp_path)


def fer_table(folder, *rows):
    (folder / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    return folder


def row(emotion=3, pixels=48 * 48, value=7, usage="Training"):
    return f"{emotion},{' '.join([str(value)] * pixels)},{usage}"


def test_fer_2013_from_its_table(tmp_path):
    rows = [row(0, value=1), row(6, value=2), row(2, value=3, usage="PublicTest"), row(1, value=4, usage="PrivateTest")]
    data = load(fer_table(tmp_path, *rows))
    assert (data.training.labels.tolist(), data.test.labels.tolist()) == ([0, 6], [2, 1])
    assert (data.training.pixels[:, 5, 5].tolist(), data.test.pixels[:, 5, 5].tolist()) == ([1, 2], [3, 4])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(pixels=100), "row 3: expected 2304 pixels, got 100"),
        (row(emotion=7), "row 3: expected an emotion from 0 to 6, got '7'"),
        (row(emotion="x"), "row 3: expected an emotion from 0 to 6, got 'x'"),
        (row(emotion="3.5"), "row 3: expected an emotion from 0 to 6, got '3.5'"),
        (row(emotion="nan"), "row 3: expected an emotion from 0 to 6, got 'nan'"),
        (row(emotion=""), "row 3: expected an emotion from 0 to 6, got ''"),
        (row(value=300), "row 3: expected pixels from 0 to 255, got '300'"),
        (row(value="1_0"), "row 3: expected pixels from 0 to 255, got '1_0'"),
        (row(value=-1), "row 3: expected pixels from 0 to 255, got '-1'"),
        (row(value=0.5), "row 3: expected pixels from 0 to 255, got '0.5'"),
        (row(usage="Secret"), "row 3: expected a usage among Training, PublicTest, PrivateTest, got 'Secret'"),
        ("3", "row 3: expected 3 values, got 1"),
        (row() + ",more", "row 3: expected 3 values, got 4"),
    ],
)
def test_a_bad_row_is_named(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(fer_table(tmp_path, row(), bad))


def test_a_table_without_its_columns_or_its_test_set_is_refused(tmp_path):
    (tmp_path / "fer2013.csv").write_text("emotion,Usage\n")
    with pytest.raises(
        ValueError, match=r"expected the columns emotion, pixels, Usage; missing pixels; found emotion, Usage"
    ):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"faces to train on and faces to test on, got 1 and 0"):
        load(fer_table(tmp_path, row()))


@pytest.mark.parametrize("file", ["fer2013.csv", "icml_face_data.csv", "FER2013.CSV"])
@pytest.mark.parametrize("header", ["emotion,pixels,Usage", "emotion, pixels, Usage", "Emotion,Pixels,usage"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reads_every_table_that_is_published(file, header, mark, end, tmp_path):
    lines = [
        header,
        row("0.0", value=1),
        row(" 6", value=2),
        "",
        row(2, value=3, usage=" PublicTest"),
        row(1, usage="PrivateTest"),
    ]
    (tmp_path / file).write_bytes(mark + end.join(lines).encode())
    data = load(tmp_path)
    assert (data.training.labels.tolist(), data.test.labels.tolist()) == ([0, 6], [2, 1])
    assert data.training.pixels[:, 5, 5].tolist() == [1, 2]
    assert data.source == str(tmp_path / file)


def test_reads_columns_in_any_order(tmp_path):
    pixels = " ".join(["9"] * 48 * 48)
    lines = ["emotion, Usage, pixels", f"4,Training,{pixels}", f"5,PrivateTest,{pixels}"]
    (tmp_path / "icml_face_data.csv").write_text("\n".join(lines))
    data = load(tmp_path)
    assert (data.training.labels.tolist(), data.test.labels.tolist()) == ([4], [5])


def test_two_tables_without_usage_are_read_and_one_alone_says_what_is_missing(tmp_path):
    two = "\n".join(line.rpartition(",")[0] for line in ("emotion,pixels,Usage", row(1, value=5), row(2, value=6)))
    (tmp_path / "train.csv").write_text(two)
    with pytest.raises(FileNotFoundError, match=r"expected test.csv next to train.csv, .* found train.csv in"):
        load(tmp_path)
    (tmp_path / "test.csv").write_text("pixels\n1 2 3\n")
    with pytest.raises(
        ValueError, match=r"test.csv: expected the columns emotion, pixels; missing emotion; found pixels"
    ):
        load(tmp_path)
    (tmp_path / "test.csv").write_text("emotion,pixels\n")
    with pytest.raises(ValueError, match=r"test.csv: expected rows with an emotion and pixels, got none"):
        load(tmp_path)
    (tmp_path / "test.csv").write_text(two)
    data = load(tmp_path)
    assert (data.training.labels.tolist(), data.test.labels.tolist()) == ([1, 2], [1, 2])
    (tmp_path / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected train.csv next to test.csv"):
        load(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("anger", "disgusted", "fearful", "happiness", "sadness", "surprised", "neutral"),
        ("Angry", "DISGUST", "Fear", "Happy", "Sad", "Surprise", "Neutral"),
        ("0", "1", "2", "3", "4", "5", "6"),
    ],
)
@pytest.mark.parametrize(
    "splits", [("train", "test"), ("Training", "PublicTest"), ("TRAIN", "privatetest"), ("training", "Testing")]
)
def test_reads_folders_by_every_name_that_is_unambiguous(names, splits, tmp_path):
    fer_folders(tmp_path)
    for old, new in zip(("train", "test"), splits, strict=True):
        (tmp_path / old).rename(tmp_path / f"{new}.")
        (tmp_path / f"{new}.").rename(tmp_path / new)
        for label, name in zip(FER_CLASSES, names, strict=True):
            (tmp_path / new / label).rename(tmp_path / new / f"{name}.")
            (tmp_path / new / f"{name}.").rename(tmp_path / new / name)
    data = load(tmp_path)
    for part in (data.training, data.test):
        numpy.testing.assert_array_equal(part.pixels[:, 0, 0] // 10, part.labels)
        assert numpy.bincount(part.labels).tolist() == [2] * 7
    assert ("the order of fer2013.csv" in data.source) == (names[0] == "0")


def test_both_published_test_sets_are_taken_together(tmp_path):
    fer_folders(tmp_path)
    shutil.copytree(tmp_path / "test", tmp_path / "PublicTest")
    (tmp_path / "test").rename(tmp_path / "PrivateTest")
    assert len(load(tmp_path).test.labels) == 28


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("test", "validation"), r"expected a folder train and a folder test, found train, validation; imag"),
        (rename("test", "exam"), r"expected one folder train and one folder test .* found exam, train"),
        (rename("train", "training set"), r"expected one folder train and one folder test .* found test, training set"),
        (lambda folder: shutil.copytree(folder / "test", folder / "Testing"), r"found Testing, test, train"),
        (lambda folder: shutil.copytree(folder / "train", folder / "training"), r"found test, train, training"),
        (rename("test/sad", "test/contempt"), r"test: expected folders named angry, .*; got contempt"),
        (rename("test/sad", "test/4"), r"test: expected folders .*; got 4; numbers only if all of 0 to 6 are there"),
        (lambda folder: (folder / "train" / "Sadness").mkdir(), r"train: expected one folder .* got Sadness, sad "),
        (lambda folder: shutil.rmtree(folder / "test" / "fear"), r"expected the same expressions to train on"),
        (lambda folder: [path.unlink() for path in (folder / "test" / "sad").iterdir()], r"sad: expected images, "),
        (lambda folder: (folder / "test" / "sad" / "list.txt").write_text("a,b"), r"list.txt: expected an image"),
        (lambda folder: (folder / "test" / "sad" / "more").mkdir(), r"more: expected an image, got a folder"),
        (lambda folder: (folder / "test" / "sad" / "gone.png").symlink_to("nowhere"), r"gone.png: .* no regular file"),
        (lambda folder: os.mkfifo(folder / "test" / "sad" / "pipe.png"), r"pipe.png: expected an image, got no"),
        (lambda folder: (folder / "test" / "labels.csv").touch(), r"test: expected folders named .* got labels.csv"),
        (lambda folder: save(folder / "test" / "sad" / "0.png", numpy.zeros((48, 5))), r"0.png: expected at least 12"),
    ],
)  # fmt: skip
def test_folders_that_are_ambiguous_or_hold_something_else_are_refused_with_what_was_found(change, message, tmp_path):
    change(fer_folders(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(tmp_path)


STRAYS = [
    ".DS_Store",
    "._0.png",
    "Thumbs.db",
    "thumbs.db",
    "desktop.ini",
    "Icon\r",
    ".ipynb_checkpoints/a.png",
    "__MACOSX/a",
]


@pytest.mark.parametrize("place", ["", "train", "test/sad"])
@pytest.mark.parametrize("stray", STRAYS)
def test_stray_files_are_passed_over(place, stray, tmp_path):
    path = fer_folders(tmp_path) / place / stray
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(64))
    assert len(load(tmp_path).training.labels) == 14


def test_a_task_checks_the_test_set_before_it_begins(tmp_path):
    settings = faces.Settings(data_dir=fer_folders(tmp_path), validation_size=2, batch_size=2)
    faces.load(settings)
    (tmp_path / "test" / "sad" / "1.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"1.png: expected an image"):
        faces.load(settings)


# ------------------------------------------------------------------------------------------------------------ Multi-PIE


def face(points):
    """An image with a bright spot at each of the points (x, y)."""
    pixels = numpy.zeros((96, 128))
    for x, y in points:
        pixels[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2] = 255
    return pixels


def multi_pie(folder, people=4):
    """Every person in session 1, neutral and smiling, and in session 4, screaming, by three cameras and one more."""
    rows = [",".join(["file", *LANDMARKS])]
    rng = numpy.random.default_rng(0)
    for person in range(1, people + 1):
        for session, recording in ((1, 1), (1, 2), (4, 2)):
            for camera in ("051", "050", "140", "080"):
                angle, scale, shift = rng.uniform(-0.2, 0.2), rng.uniform(1.4, 1.8), rng.uniform(15, 25, 2)
                cos, sin = scale * numpy.cos(angle), scale * numpy.sin(angle)
                turn = numpy.array([[cos, -sin], [sin, cos]])
                points = numpy.round(ALIGNED @ turn.T + shift + [10, 0])
                name = f"{person:03}_0{session}_0{recording}_{camera}_07.png"
                save(folder / f"session0{session}" / "multiview" / f"{person:03}" / name, face(points))
                rows.append(",".join([name, *(f"{value:.0f}" for value in points.reshape(-1))]))
    (folder / "landmarks.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_multi_pie_takes_the_three_central_cameras_and_splits_by_person(tmp_path):
    data = load(multi_pie(tmp_path))
    assert (data.name, data.classes[5]) == ("Multi-PIE", "scream")
    assert (len(data.training.labels), len(data.test.labels)) == (2 * 9, 2 * 9)
    assert set(data.training.people) == {1, 2}
    assert set(data.test.people) == {3, 4}
    assert numpy.bincount(data.test.labels).tolist() == [6, 6, 0, 0, 0, 6]
    assert "left out: 12 images without a row" in data.source
    assert "12 rows without one of the images" in data.source


def test_faces_are_aligned_by_their_points(tmp_path):
    data = load(multi_pie(tmp_path))
    for pixels in data.training.pixels:
        for x, y in ALIGNED.astype(int):
            assert pixels[y, x] > 128, "eyes and nose are where they belong"
        assert pixels.mean() < 10, "and bright spots nowhere else"


def test_alignment_turns_scales_and_shifts():
    turn = numpy.array([[0.0, -2.0], [2.0, 0.0]])  # by 90 degrees, twice the size
    a, b, c, d, e, f = expressions.alignment(ALIGNED @ turn.T + [5, 7])
    numpy.testing.assert_allclose([[a, b], [d, e]], turn, atol=1e-12)
    x, y = ALIGNED[0] + 0.5
    numpy.testing.assert_allclose([a * x + b * y + c, d * x + e * y + f], turn @ ALIGNED[0] + [5.5, 7.5], atol=1e-12)


def test_bad_multi_pie_is_named(tmp_path):
    multi_pie(tmp_path)
    table = (tmp_path / "landmarks.csv").read_text()
    (tmp_path / "landmarks.csv").write_text(table.replace(",", ";", 1))
    with pytest.raises(ValueError, match=r"landmarks.csv: expected the columns file, left_eye_x, .* missing file"):
        load(tmp_path)
    lines = table.splitlines()
    (tmp_path / "landmarks.csv").write_text("\n".join([lines[0], "a.png,1,2,3,4,5,?"]) + "\n")
    with pytest.raises(ValueError, match=r"landmarks.csv, row 2: expected numbers of pixels, got nose_y '\?'"):
        load(tmp_path)
    (tmp_path / "landmarks.csv").write_text(lines[0] + "\n")
    with pytest.raises(FileNotFoundError, match=r"cameras 051, 050, 140 with a row .* found 48 other images, and 0 r"):
        load(tmp_path)
    save(tmp_path / "holiday.png", numpy.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"holiday.png: expected a name such as 001_01_02_051_07.png"):
        load(tmp_path)


GOOD = ("30", "36", "66", "36", "48", "58")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("nan", *GOOD[1:]), "expected numbers of pixels from 0 to 100000, got left_eye_x nan"),
        ((*GOOD[:5], "inf"), "expected numbers of pixels from 0 to 100000, got nose_y inf"),
        ((*GOOD[:3], "-inf", *GOOD[4:]), "expected numbers of pixels from 0 to 100000, got right_eye_y -inf"),
        ((*GOOD[:4], "-3", "58"), "expected numbers of pixels from 0 to 100000, got nose_x -3"),
        ((*GOOD[:5], "1e300"), "expected numbers of pixels from 0 to 100000, got nose_y 1e300"),
        ((*GOOD[:5], ""), "expected numbers of pixels, got nose_y ''"),
        (("40", "40") * 3, "expected eyes at least 4 pixels apart, got 0"),
        (("40", "40", "43", "40", "41", "42"), "expected eyes at least 4 pixels apart, got 3"),
        (
            (*GOOD[2:4], *GOOD[:2], *GOOD[4:]),
            "expected an upright face, the left eye, as it is seen, left of the right",
        ),
        ((*GOOD[:4], "48", "20"), r"expected an upright face, .* got eyes \(30, 36\) and \(66, 36\), nose \(48, 20\)"),
        ((*GOOD[:4], "48", "36"), "expected an upright face"),
        (("66", "58", "30", "58", "48", "36"), "expected an upright face"),
        (("30", "36", "30", "66", "8", "51"), "expected an upright face"),
        ((*GOOD[:4], "48", "158"), "expected an upright face"),
        (("30", "36", "266", "36", "148", "158"), "expected points in the image .* of 128 x 96 pixels, got .30, 36.,"),
    ],
)
def test_landmarks_that_no_face_has_are_named_by_their_row(values, message, tmp_path):
    multi_pie(tmp_path)
    lines = (tmp_path / "landmarks.csv").read_text().splitlines()
    lines[3] = ",".join([lines[3].split(",")[0], *values])
    (tmp_path / "landmarks.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"landmarks.csv, row 4: {message}"):
        load(tmp_path)


def test_multi_pie_is_read_as_people_have_it(tmp_path):
    """Other formats and upper-case endings, paths in the table, a byte-order mark, spaces, a row twice, strays."""
    multi_pie(tmp_path / "plain")
    multi_pie(tmp_path / "faces")
    table = tmp_path / "faces" / "landmarks.csv"
    header, first, *lines = table.read_text().splitlines()
    lines = [first, *(rf" session\faces/{line}" for line in lines), first]
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([header.replace(",", " , "), *lines]).encode())
    images = sorted(tmp_path.glob("faces/**/*.png"))
    images[0].rename(images[0].with_suffix(".PNG"))
    Image.open(images[1]).save(images[1].with_suffix(".bmp"))
    images[1].unlink()
    (tmp_path / "faces" / "__MACOSX").mkdir()
    (tmp_path / "faces" / "__MACOSX" / images[2].name).write_bytes(b"stray")
    (images[2].parent / f"._{images[2].name}").write_bytes(b"stray")
    (tmp_path / "faces" / "subjects.txt").write_text("no image, and not named as one")
    for plain, found in zip(load(tmp_path / "plain")[2:4], load(tmp_path / "faces")[2:4], strict=True):
        for expected, got in zip(plain, found, strict=True):
            numpy.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "name", ["1_1_1_51_7.png", "001_01_02_051.png", "²01_01_02_051_07.png", "001_01_02_051_07 (1).JPG"]
)
def test_an_image_that_is_not_named_as_multi_pie_is_refused(name, tmp_path):
    save(multi_pie(tmp_path) / name, numpy.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"expected a name such as 001_01_02_051_07.png"):
        load(tmp_path)


def test_rows_that_contradict_each_other_and_images_of_one_name_are_refused(tmp_path):
    multi_pie(tmp_path)
    table = tmp_path / "landmarks.csv"
    whole = table.read_text()
    name = whole.splitlines()[1].split(",")[0]
    table.write_text(f"{whole}{','.join([name, *GOOD])}\n")
    with pytest.raises(ValueError, match=rf"landmarks.csv, row 50: .* got {name}, which row 2 has with other points"):
        load(tmp_path)
    table.write_text(whole)
    (image,) = tmp_path.rglob(name)
    shutil.copy(image, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: expected one file of each name, found .*{name} too"):
        load(tmp_path)


def test_one_person_to_train_on_is_refused(tmp_path):
    settings = faces.Settings(data_dir=multi_pie(tmp_path, people=2), validation_size=1, batch_size=2)
    with pytest.raises(ValueError, match=r"expected at least 2 people, one to validate on, got person 1 alone"):
        faces.load(settings)
    with pytest.raises(ValueError, match=r"faces to train on and faces to test on, got 9 and 0"):
        load(multi_pie(tmp_path / "one", people=1))


def test_whole_people_are_held_out_where_they_are_known(tmp_path):
    training = load(multi_pie(tmp_path, people=6)).training
    rest, held = hold_out(training, 10, numpy.random.default_rng(0))
    assert not set(rest.people) & set(held.people)
    assert len(rest.labels) + len(held.labels) == len(training.labels)
    assert len(held.labels) == 9, "a person has 9 images, two of them would be too many"


def test_any_faces_are_held_out_where_nobody_is_known(tmp_path):
    training = load(fer_folders(tmp_path)).training
    rest, held = hold_out(training, 4, numpy.random.default_rng(0))
    assert (len(rest.labels), len(held.labels)) == (10, 4)
    together = numpy.concatenate([rest.pixels, held.pixels])[:, 0, 0]
    assert sorted(together.tolist()) == sorted(training.pixels[:, 0, 0].tolist())
    with pytest.raises(ValueError, match="validation_size: expected less than the 14 images"):
        hold_out(training, 14, numpy.random.default_rng(0))
