"""The ConvNet as its users meet it. Its gradients are the audit's business."""

from __future__ import annotations

import numpy
import pytest

from fastweights_np import convnet
from fastweights_np.convnet import Convolution
from fastweights_np.plain import convnet as plain

LAYERS = (Convolution(3, 3, pool=2), Convolution(5, 2))


def made(dtype="float64"):
    rng = numpy.random.default_rng(0)
    return convnet.init(rng, LAYERS, dtype=dtype), rng.standard_normal((4, 9, 8)).astype(dtype)


def test_a_kernel_finds_its_own_pattern():
    """A cross, at (1, 2) of an empty image: the feature is largest there, and the maximum finds it wherever it is."""
    cross = numpy.array([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])
    image = numpy.zeros((1, 6, 6))
    image[0, 1:4, 2:5] = cross
    params = {"weight0": cross[None, None], "bias0": numpy.array([-4.0])}
    maps, _ = convnet.forward(params, image, [Convolution(1, 3)])
    assert numpy.argmax(maps) == 1 * 4 + 2
    assert maps.max() == 1.0, "5 of 5, and the bias"
    anywhere, _ = convnet.forward(params, image, [Convolution(1, 3, pool=4)])
    numpy.testing.assert_array_equal(anywhere, [[1.0]])


@pytest.mark.parametrize("threads", [1, 3])
def test_features_are_the_equations(threads):
    params, images = made()
    features, _ = convnet.forward(params, images, LAYERS, threads=threads)
    numpy.testing.assert_allclose(features, plain.forward(params, images[:, None], LAYERS)[0], atol=1e-13)
    several = convnet.init(numpy.random.default_rng(1), LAYERS, channels=2, dtype="float64")
    coloured = numpy.stack([images, images**2], axis=1)
    features, _ = convnet.forward(several, coloured, LAYERS, threads=threads)
    numpy.testing.assert_allclose(features, plain.forward(several, coloured, LAYERS)[0], atol=1e-13)


@pytest.mark.parametrize(
    "layers", [LAYERS, (Convolution(2, 3, stride=2, pool=2),), (Convolution(3, 2), Convolution(2, 2))]
)
@pytest.mark.parametrize("block", [1, 300, convnet.BLOCK])
def test_gradients_are_the_slope_of_the_loss(layers, block):
    """In one random direction of all that has a gradient. The audit looks at each; this takes milliseconds."""
    rng = numpy.random.default_rng(0)
    params, images = convnet.init(rng, layers, dtype="float64"), rng.standard_normal((3, 9, 8))
    params = {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in params.items()}
    direction = {name: rng.standard_normal(value.shape) for name, value in (params | {"images": images}).items()}
    features, cache = convnet.forward(params, images, layers, block=block)
    dfeatures = rng.standard_normal(features.shape)
    grads, dimages = convnet.backward(dfeatures, cache)

    def loss(distance):
        moved = {name: value + distance * direction[name] for name, value in params.items()}
        return (convnet.forward(moved, images + distance * direction["images"], layers)[0] * dfeatures).sum()

    slope = (dimages[:, 0] * direction["images"]).sum() + sum((grads[name] * direction[name]).sum() for name in params)
    numpy.testing.assert_allclose(slope, (loss(1e-6) - loss(-1e-6)) / 2e-6, rtol=1e-6)


def test_init_is_suited_to_relu():
    params = convnet.init(numpy.random.default_rng(0), [Convolution(500, 2)], channels=3)
    assert params["weight0"].shape == (500, 3, 2, 2)
    assert 0.98 < abs(params["weight0"]).max() / (6 / 12) ** 0.5 <= 1
    assert not params["bias0"].any()
    assert params["weight0"].dtype == params["bias0"].dtype == "float32"


def test_of_equal_maxima_one_gets_the_gradient():
    params = {"weight0": numpy.ones((1, 1, 1, 1)), "bias0": numpy.ones(1)}
    _, cache = convnet.forward(params, numpy.zeros((1, 2, 2)), [Convolution(1, 1, pool=2)])
    grads, dimages = convnet.backward(numpy.ones((1, 1)), cache)
    numpy.testing.assert_array_equal(dimages[0, 0], [[1, 0], [0, 0]])
    assert grads["bias0"] == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_shapes_are_kept_everywhere(dtype):
    params, images = made(dtype)
    features, cache = convnet.forward(params, images, LAYERS)
    assert features.shape == (4, 5 * 2 * 2)
    grads, dimages = convnet.backward(features, cache)
    for array in (features, dimages, *grads.values()):
        assert array.dtype == dtype
    assert dimages.shape == (4, 1, 9, 8)
    assert {name: grad.shape for name, grad in grads.items()} == {name: value.shape for name, value in params.items()}
    assert convnet.backward(features, cache, input_gradient=False)[1] is None


def test_it_is_known_beforehand_how_many_features_there_are():
    params, _ = made()
    features, _ = convnet.forward(params, numpy.zeros((1, 11, 11)), LAYERS)
    assert convnet.feature_count(LAYERS, 11) == features.shape[1] == 45


def test_images_of_a_batch_do_not_see_one_another():
    params, images = made()
    whole, _ = convnet.forward(params, images, LAYERS)
    alone, _ = convnet.forward(params, images[2:3], LAYERS)
    numpy.testing.assert_allclose(alone[0], whole[2], atol=1e-14)


@pytest.mark.parametrize("threads", [1, 4])
def test_what_the_caller_gave_is_left_as_it_was(threads):
    """One image, or Fortran's order, is where a transposed view is as good as a copy."""
    params, images = made()
    features, cache = convnet.forward(params, images, LAYERS, threads=threads)
    dfeatures = numpy.asfortranarray(numpy.random.default_rng(2).standard_normal(features.shape))
    arrays = {**params, "images": images, "dfeatures": dfeatures}
    before = {name: array.copy() for name, array in arrays.items()}
    convnet.backward(dfeatures, cache)
    for name, array in arrays.items():
        numpy.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_threads_share_the_images_and_change_nothing(threads):
    """Of four images, some threads get two, or none."""
    params, images = made()
    alone, shared = (convnet.forward(params, images, LAYERS, threads=count) for count in (1, threads))
    numpy.testing.assert_allclose(shared[0], alone[0], rtol=1e-13)
    (grads, dimages), (expected, dexpected) = (convnet.backward(features, cache) for features, cache in (shared, alone))
    numpy.testing.assert_allclose(dimages, dexpected, rtol=1e-12, atol=1e-13)
    for name, grad in grads.items():
        numpy.testing.assert_allclose(grad, expected[name], rtol=1e-12, atol=1e-13)


def test_bad_arguments_are_named():
    params, images = made()
    with pytest.raises(ValueError, match=r"layers: expected kernels and windows within what they look at, got Conv"):
        convnet.forward(params, images[:, :4], LAYERS)
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        convnet.forward(params, images, LAYERS, threads=0)
    with pytest.raises(ValueError, match=r"images: expected shape \(B, channels, Y, X\) with every size at least 1"):
        convnet.forward(params, images[0], LAYERS)
    with pytest.raises(ValueError, match=r"weight1: expected shape \(5, 3, 2, 2\), got \(5, 3, 3, 3\); its sizes"):
        convnet.forward(params | {"weight1": numpy.zeros((5, 3, 3, 3))}, images, LAYERS)
    with pytest.raises(ValueError, match="params: expected weight0, bias0, weight1, bias1; missing bias1"):
        convnet.forward({name: value for name, value in params.items() if name != "bias1"}, images, LAYERS)
    with pytest.raises(TypeError, match=r"images: expected float64, the dtype of weight0, got float32"):
        convnet.forward(params, images.astype("float32"), LAYERS)
    with pytest.raises(ValueError, match=r"layers\.pool: expected at least 1, got 0"):
        Convolution(3, 3, pool=0)
    for name, value in params.items():
        for error, wrong in ((ValueError, value[1:]), (ValueError, value[None]), (TypeError, value.astype("float32"))):
            with pytest.raises(error, match=rf"^{name}: expected |the dtype of {name}, got"):
                convnet.forward(params | {name: wrong}, images, LAYERS)
    with pytest.raises(TypeError, match="params: expected a dict, got list"):
        convnet.forward([*params], images, LAYERS)
    with pytest.raises(ValueError, match="block: expected at least 1, got 0"):
        convnet.forward(params, images, LAYERS, block=0)
    rng = numpy.random.default_rng(0)
    for other, error in (([], ValueError), ([3], TypeError), (3, TypeError), (None, TypeError)):
        for call in (
            lambda layers: convnet.forward(params, images, layers), lambda layers: convnet.init(rng, layers),
            lambda layers: convnet.feature_count(layers, 9),
        ):  # fmt: skip
            with pytest.raises(error, match=r"^layers: expected"):
                call(other)
    for change, error in (({"rng": 0}, TypeError), ({"channels": 0}, ValueError), ({"dtype": "float16"}, ValueError)):
        with pytest.raises(error, match=f"^{next(iter(change))}: expected"):
            convnet.init(**{"rng": rng, "layers": LAYERS} | change)
    for name in ("features", "size", "stride", "pool"):
        with pytest.raises(ValueError, match=rf"^layers\.{name}: expected at least 1, got 0"):
            Convolution(**{"features": 1, "size": 1} | {name: 0})
    features, cache = convnet.forward(params, images, LAYERS)
    with pytest.raises(TypeError, match="cache: expected a Cache, got dict"):
        convnet.backward(features, params)
    with pytest.raises(TypeError, match="dfeatures: expected float64, the dtype of y, got float32"):
        convnet.backward(features.astype("float32"), cache)
    with pytest.raises(ValueError, match=r"dfeatures: expected shape \(4, 20\), got \(4, 7\)"):
        convnet.backward(numpy.zeros((4, 7)), cache)
