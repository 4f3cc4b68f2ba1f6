"""Reading faces: made-up trees of the layouts of FER-2013 and Multi-PIE."""

from __future__ import annotations

import numpy
import pytest
from PIL import Image

from tasks import expressions
from tasks.expressions import ALIGNED, FER_CLASSES, LANDMARKS, hold_out, load


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype("uint8")).save(path)


def fer_folders(folder, per_class=2):
    for split in ("train", "test"):
        for label, name in enumerate(FER_CLASSES):
            for n in range(per_class):
                save(folder / split / name / f"{n}.png", numpy.full((48, 48), 10 * label + n))
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
    with pytest.raises(FileNotFoundError, match=r"data_dir: expected FER-2013, as fer2013.csv or as folders"):
        load(tmp_path)
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
        (row(emotion=7), "row 3: expected an emotion from 0 to 6, got 7"),
        (row(emotion="x"), "row 3: expected an emotion and pixels from 0 to 255"),
        (row(value=300), "row 3: expected an emotion and pixels from 0 to 255"),
        (row(usage="Secret"), "row 3: expected a usage among Training, PublicTest, PrivateTest, got 'Secret'"),
        ("3", "row 3: expected 3 values, the row is cut short"),
    ],
)
def test_a_bad_row_is_named(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(fer_table(tmp_path, row(), bad))


def test_a_table_without_its_columns_or_its_test_set_is_refused(tmp_path):
    (tmp_path / "fer2013.csv").write_text("emotion,Usage\n")
    with pytest.raises(ValueError, match=r"expected the columns emotion, pixels, Usage; missing pixels"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"expected faces to train on and faces to test on"):
        load(fer_table(tmp_path, row()))


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
    with pytest.raises(ValueError, match=r"landmarks.csv, row 2: expected numbers of pixels"):
        load(tmp_path)
    (tmp_path / "landmarks.csv").write_text(lines[0] + "\n")
    with pytest.raises(FileNotFoundError, match=r"expected images of the cameras 051, 050, 140 with a row"):
        load(tmp_path)
    save(tmp_path / "holiday.png", numpy.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"holiday.png: expected a name such as 001_01_02_051_07.png"):
        load(tmp_path)


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
