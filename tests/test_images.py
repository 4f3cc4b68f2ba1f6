"""Glimpses, and the tasks on images as their users run them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import numpy
import pytest

from fastweights_np import network
from tasks import faces, mnist
from tasks.__main__ import main
from tasks.language.settings import TARGETS
from tasks.running.layers import TAKES
from tasks.vision import digits, duplicates, glimpses, images
from tests.small import mnist_files
from tests.test_expressions import fer_folders

LAYERS = get_args(get_type_hints(mnist.Settings)["layer"])
SMALL = ["--hidden-size", "8", "--batch-size", "8", "--epochs", "1", "--validation-size", "6"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A made-up MNIST, 30 images to train on and 10 to test on."""
    return mnist_files(tmp_path_factory.mktemp("mnist"))


# ------------------------------------------------------------------------------------------------------------- glimpses


def test_glimpses_equal_the_papers():
    """28 x 28 by 7 x 7: for each quadrant coarse, four fine, coarse; a pixel's value is its place."""
    image = numpy.arange(28 * 28, dtype=float).reshape(28, 28)
    seen = glimpses.glimpses(image[None], 7).reshape(24, 7, 7)
    for quadrant, (row, column) in enumerate([(0, 0), (0, 14), (14, 0), (14, 14)]):
        of_quadrant = seen[6 * quadrant : 6 * quadrant + 6]
        for fine, (down, right) in zip(of_quadrant[1:5], [(0, 0), (0, 7), (7, 0), (7, 7)], strict=True):
            top, left = row + down, column + right
            numpy.testing.assert_array_equal(fine, image[top : top + 7, left : left + 7])
        numpy.testing.assert_array_equal(of_quadrant[0], of_quadrant[5])
        assert of_quadrant[0][2, 3] == image[row + 4 : row + 6, column + 6 : column + 8].mean()


@pytest.mark.parametrize(("side", "patch"), [(28, 7), (48, 12), (48, 8), (8, 4), (12, 2)])
def test_any_patch_that_tiles_the_quadrants_will_do(side, patch):
    pixels = numpy.random.default_rng(0).random((3, side, side)).astype("float32")
    layout = glimpses.layout(side, patch)
    seen = glimpses.glimpses(pixels, patch)
    assert seen.shape == (layout.steps, 3, patch**2)
    assert seen.dtype == "float32"
    places = glimpses.places(layout)
    for glimpse, (row, column, size) in zip(seen, places, strict=True):
        shown = pixels[:, row : row + size, column : column + size]
        numpy.testing.assert_allclose(glimpse.mean(axis=1), shown.mean(axis=(1, 2)), rtol=1e-5)
    covered = numpy.zeros((side, side), int)
    for row, column, size in places:
        covered[row : row + size, column : column + size] += 1
    assert set(covered.flat) == {3}, "every pixel is seen once in fine and twice in coarse"


def test_the_signals_equal_figure_3():
    assert str(glimpses.controls(glimpses.layout(28, 7))) == " ".join(["sw - - - - ri"] * 4)
    assert len(glimpses.controls(glimpses.layout(48, 8))) == 4 * 11


def test_a_patch_that_does_not_tile_is_refused_with_those_that_do():
    with pytest.raises(
        ValueError, match=r"patch: .* tiles a quadrant of the 28 x 28 images, one of 1, 2, 7, 14; got 5"
    ):
        glimpses.layout(28, 5)
    with pytest.raises(ValueError, match=r"side: expected images of an even number of pixels, .* got 27 x 27"):
        glimpses.layout(27, 3)
    with pytest.raises(ValueError, match=r"images: expected shape \(B, side, 8\)"):
        glimpses.glimpses(numpy.zeros(8), 2)


# ------------------------------------------------------------------------------------------------------------ the tasks


def test_a_convnets_patch_need_not_tile(data_dir, tmp_path):
    options = ["mnist", "--layer", "convnet", "--patch", "5", *SMALL, "--data-dir", str(data_dir)]
    assert main([*options, "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_trains_mnist(layer, data_dir, tmp_path, capsys, request):
    if layer == "multilevel":  # which has all the pictures
        request.getfixturevalue("pictures")
    assert main(["mnist", "--layer", layer, *SMALL, "--data-dir", str(data_dir), "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["data"].pop("test_sha256")) == 64
    assert result["data"] == {"name": "mnist", "sizes": [24, 6, 10]}
    counts = numpy.array(result["confusion"]["counts"])
    assert counts.sum() == 10
    assert 1 - counts.trace() / 10 == pytest.approx(result["test_error"])
    labels, answers = digits.load("mnist", data_dir)[1].labels, result["wrong_answers"]
    assert len(answers) == round(10 * result["test_error"])
    for n, answer in answers.items():
        assert answer != labels[int(n)]
        assert counts[labels[int(n)], answer] > 0
    pictures = {path.name for path in (tmp_path / "run").glob("*.png")}
    expected = {"learning_curve.png", "confusion.png"} | ({"glimpses.png"} if layer != "convnet" else set())
    assert pictures == (expected | {"attention.png"} if layer == "multilevel" else expected)
    assert str(data_dir) not in json.dumps(result["settings"]), "where the data lay does not matter"
    recall_0 = result["recall"]["0"]
    for name, recall, row in zip(result["recall"], result["recall"].values(), counts, strict=True):
        assert recall == (row[int(name)] / row.sum() if row.sum() else None)
    said = capsys.readouterr().out
    assert "test error" in said
    assert f"recall by class: 0 {'-' if recall_0 is None else f'{recall_0:.1%}'}, 1 " in said


def test_faces_train_on_folders_and_keep_their_name(tmp_path):
    folder = fer_folders(tmp_path / "fer", per_class=3)
    options = ["--data-dir", str(folder), "--out", str(tmp_path / "run"), *SMALL]
    assert main(["faces", *options]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    none = dict.fromkeys(duplicates.TEXT, 0)
    assert len(result["data"].pop("test_sha256")) == 64
    assert result["data"] == {"name": "FER-2013", "sizes": [15, 6, 21], "left_out": none}
    assert len(result["confusion"]["classes"]) == 7


def test_a_convnet_sees_whole_faces(tmp_path):
    folder = fer_folders(tmp_path / "fer", per_class=3)
    options = ["--layer", "convnet", "--data-dir", str(folder), "--out", str(tmp_path / "run"), *SMALL]
    assert main(["faces", *options]) == 0


def test_a_run_is_resumed_with_its_own_data(data_dir, tmp_path):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    options = [*SMALL, "--data-dir", str(data_dir), "--shift", "1"]
    two = ["--epochs", "2"]
    assert main(["mnist", *options, *two, "--out", str(whole)]) == 0
    assert main(["mnist", *options, *two, "--out", str(folder)]) == 0
    (folder / "result.json").unlink()
    assert main(["mnist", "--resume", str(folder)]) == 0
    first, second = (json.loads((each / "result.json").read_text()) for each in (whole, folder))
    assert first["test_nll"] == second["test_nll"]


def test_a_run_is_not_resumed_or_continued_with_other_data(data_dir, tmp_path, capsys):
    """Whichever of the four files differs: images and labels to train on, and to test on."""
    folder = tmp_path / "run"
    assert main(["mnist", *SMALL, "--data-dir", str(data_dir), "--out", str(folder)]) == 0
    before = (folder / "result.json").read_bytes()
    for file in digits.FILES:
        other = Path(shutil.copytree(data_dir, tmp_path / file))
        content = (other / file).read_bytes()
        (other / file).write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
        for more in ([], ["--epochs", "3", "--out", str(tmp_path / f"longer-{file}")]):
            assert main(["mnist", "--resume", str(folder), "--data-dir", str(other), *more]) == 2
            assert "data: expected those that" in capsys.readouterr().err
    assert (folder / "result.json").read_bytes() == before


def test_the_order_of_images_and_labels_is_in_their_hash():
    pixels, labels = numpy.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype("uint8"), numpy.arange(3)
    settings = mnist.Settings()
    same, *others = [
        images.Images(*arrays, settings, standardize=False).sha256()
        for arrays in ((pixels, labels), (pixels[::-1], labels), (pixels, labels[::-1]))
    ]
    assert same not in others
    assert images.Images(pixels, labels.astype("uint8"), settings, standardize=True).sha256() == same


def test_control_signals_can_be_ablated_one_by_one():
    layout = glimpses.layout(28, 7)
    assert str(glimpses.controls(layout, wipe=False)) == " ".join(["s - - - - ri"] * 4)
    assert str(glimpses.controls(layout, integrate=False)) == " ".join(["sw - - - - r"] * 4)


def test_the_type_of_each_glimpse_follows_its_pixels():
    pixels = numpy.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype("uint8")
    splits = [
        images.Images(pixels, numpy.arange(3), mnist.Settings(glimpse_type=each), standardize=False)
        for each in (False, True)
    ]
    (plain, _), (typed, _) = (split.batch(slice(None)) for split in splits)
    numpy.testing.assert_array_equal(typed[:, :, :49], plain)
    one_hot = numpy.eye(3)[[0, 1, 1, 1, 1, 2] * 4]
    numpy.testing.assert_array_equal(typed[:, :, 49:], numpy.repeat(one_hot[:, None], 3, axis=1))
    net = images.model(mnist.Settings(layer="irnn", glimpse_type=True), 28, 10)
    logits, _ = net.forward(net.init(numpy.random.default_rng(0)), typed)
    assert logits.shape == (3, 10)


@pytest.mark.parametrize(
    ("layer", "option"),
    [("irnn", {"wipe": False}), ("lstm", {"integrate": False}), ("convnet", {"glimpse_type": True})],
)
def test_ablations_that_the_layer_does_not_have_are_refused(layer, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: the layer {layer} does not use it"):
        mnist.Settings(layer=layer, **option)


def test_a_shift_beyond_the_image_is_refused():
    parts = [(numpy.zeros((9, 28, 28), "uint8"), numpy.zeros(9, int))] * 3
    settings = mnist.Settings(batch_size=2, shift=28)
    with pytest.raises(ValueError, match="shift: expected less than the 28 pixels of an image, got 28"):
        images.data("mnist", tuple("0123456789"), parts, settings, standardize=False)


def test_standardized_images_have_mean_0_and_variance_1():
    pixels = numpy.random.default_rng(0).integers(0, 100, (4, 28, 28)).astype("uint8")
    pixels[3] = 9  # one whose pixels are equal
    split = images.Images(pixels, numpy.zeros(4, int), mnist.Settings(layer="convnet"), standardize=True)
    inputs, _ = split.batch(slice(None))
    numpy.testing.assert_allclose(inputs.mean(axis=(1, 2)), 0, atol=1e-5)
    numpy.testing.assert_allclose(inputs[:3].std(axis=(1, 2)), 1, atol=0.05)
    assert not inputs[3].any()


def test_images_to_train_on_are_moved_and_mirrored_anew_in_each_epoch():
    pixels, rng = (
        numpy.random.default_rng(0).integers(0, 256, (40, 28, 28)).astype("uint8"),
        numpy.random.default_rng(1),
    )
    settings = mnist.Settings(layer="convnet", shift=2, mirror=True)
    split = images.Images(pixels, numpy.arange(40), settings, standardize=False)
    wide = numpy.pad(pixels / 255, ((0, 0), (2, 2), (2, 2)), mode="edge").astype("float32")
    moves = [(down, across, way) for down in range(5) for across in range(5) for way in (1, -1)]
    found = []
    for _ in range(2):
        inputs, labels = split.augmented(rng).batch(numpy.arange(40)[::-1])
        for image, n in zip(inputs, labels, strict=True):
            same = [
                numpy.allclose(wide[n, down : down + 28, across : across + 28][:, ::way], image)
                for down, across, way in moves
            ]
            assert sum(same) == 1
            found.append(moves[same.index(True)])
    assert found[:40] != found[40:]
    assert {way for _, _, way in found} == {1, -1}
    assert {across for _, across, _ in found} == {down for down, _, _ in found} == set(range(5))
    still = images.Images(pixels, numpy.arange(40), mnist.Settings(shift=0), standardize=False)
    assert still.augmented(rng) is still


def test_the_convnets_have_as_many_layers_as_in_the_paper_and_r_features():
    for settings, side, count in ((mnist.Settings(layer="convnet"), 28, 3), (faces.Settings(layer="convnet"), 48, 2)):
        model = images.model(settings, side, 7)
        assert isinstance(model, network.ConvolutionalNetwork)
        assert len(model.layers) == count
        params = model.init(numpy.random.default_rng(0))
        assert params["readout"]["hidden"].shape[1] == settings.hidden_size


@pytest.mark.parametrize("layer", ["irnn", "convnet"])
@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize(
    ("images_shape", "labels", "message"),
    [
        ((4, 28, 28), [0, 1, 10, 3], "labels: expected values from 0 to 9, got 10 at index \\(2,\\)"),
        ((4, 28, 28), [0, 1, -1, 3], "labels: expected values from 0 to 9, got -1 at index \\(2,\\)"),
        ((4, 28, 28), [0, 1, 2], "labels: expected shape \\(4,\\), got \\(3,\\)"),
        ((0, 28, 28), [], "images: expected shape \\(N, .*, got \\(0, 28, 28\\)"),
        ((4, 28, 14), [0, 1, 2, 3], "images: expected shape"),
        ((4, 56, 56), [0, 1, 2, 3], "images: expected shape"),
    ],
)
def test_all_three_parts_are_checked_before_a_run(images_shape, labels, message, part, layer):
    parts = [(numpy.zeros((9, 28, 28), "uint8"), numpy.zeros(9, int)) for _ in range(3)]
    settings = mnist.Settings(layer=layer, batch_size=2)
    images.data("mnist", tuple("0123456789"), parts, settings, standardize=False)
    parts[part] = (numpy.zeros(images_shape, "uint8"), numpy.array(labels, int))
    which = "(training|validation|test)" if part == 0 else ("training", "validation", "test")[part]
    with pytest.raises(ValueError, match=f"{which} {message}"):
        images.data("mnist", tuple("0123456789"), parts, settings, standardize=False)


@pytest.mark.parametrize(("side", "patch"), [(8, 7), (28, 14)])
def test_a_patch_too_large_for_the_convnet_is_refused_before_a_run(side, patch):
    parts = [(numpy.zeros((9, side, side), "uint8"), numpy.zeros(9, int))] * 3
    settings = mnist.Settings(layer="convnet", batch_size=2, patch=patch)
    expected = f"^patch: expected one with which the ConvNet's kernels fit the {side} x {side} images, got {patch}; "
    with pytest.raises(ValueError, match=expected):
        images.data("mnist", tuple("0123456789"), parts, settings, standardize=False)


def test_every_layer_has_its_options():
    rules = {"sum", "decay", "gated", "delta", "gated_delta", "softmax"}  # of keyvalue and mqar
    transformers = {"window", "full", *TARGETS}
    assert set(LAYERS) == {*network.LAYERS, "convnet"}
    assert set(TAKES) == set(LAYERS) | rules | transformers


def with_a_bad_test_set(data_dir, folder):
    copy = Path(shutil.copytree(data_dir, folder / "mnist"))
    content = (copy / digits.FILES[3]).read_bytes()
    (copy / digits.FILES[3]).write_bytes(content[:11] + bytes([12]) + content[12:])
    return copy


def with_a_bad_image(folder):
    (fer_folders(folder) / "test" / "sad" / "1.png").write_bytes(b"damaged")
    return folder


def test_bad_settings_are_named_and_leave_no_folder_behind(data_dir, tmp_path, capsys):
    digits_dir, out = ["--data-dir", str(data_dir)], tmp_path / "run"
    six = ["--validation-size", "6", "--batch-size", "8"]
    for options, message in (
        (
            ["mnist", *digits_dir, *six, "--patch", "5"],
            "patch: expected a size that tiles a quadrant of the 28 x 28 im",
        ),
        (
            ["mnist", *digits_dir, "--validation-size", "30"],
            "validation_size: expected less than the 30 images to trai",
        ),
        (["mnist", *digits_dir, "--validation-size", "6"], "batch_size: expected at most the 24 images to train on, g"),
        (["faces"], "data_dir: expected the folder of Multi-PIE or FER-2013, which cannot be fetched for you"),
        (["mnist", "--data-dir", str(tmp_path)], "found no train-images-idx3-ubyte in"),
        (
            ["mnist", "--data-dir", str(with_a_bad_test_set(data_dir, tmp_path))],
            "labels from 0 to 9, got 12 at index 3",
        ),
        (["faces", "--data-dir", str(with_a_bad_image(tmp_path / "faces"))], "1.png: expected an image"),
    ):
        assert main([*options, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
