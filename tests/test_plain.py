"""The plain layers: their gradients are autograd's, and the fast layers compute the same."""

from __future__ import annotations

import ast
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path

import autograd
import autograd.numpy
import numpy
import pytest

from fastweights_np import associative_lstm, audit, convnet, network, plain
from fastweights_np.plain import convnet as plain_convnet

FOLDER = Path(plain.__file__).parent
LAYERS = {name: import_module(f"fastweights_np.plain.{name}") for name in network.LAYERS}


def taken(function, options):
    """Those of the options that the function has."""
    return {name: value for name, value in options.items() if name in signature(function).parameters}


def calls(case):
    """(forward, backward, its arguments by name, dh) of the plain layer."""
    layer = LAYERS[case.layer]
    params, given, dh = case.arrays()
    arguments = {"params": params, **given, **case.scalars()}
    options = {name: value for name, value in case.options.items() if name not in arguments}
    if copies := case.layer == "associative_lstm" and options.pop("copies", 4):
        options["permutations"] = associative_lstm.permutations(copies, case.hidden_size // 2)
    forward = partial(layer.forward, **options)
    backward = partial(layer.backward, **taken(layer.backward, options | case.scalars()))
    return forward, backward, arguments, dh


def gradients(case):
    """(h, the gradients by name) of the plain layer."""
    forward, backward, arguments, dh = calls(case)
    h, *_, saved = forward(**arguments)
    grads, dx, dh0 = backward(dh, saved, arguments["params"])
    return h, grads | {"x": dx, "h0": dh0}


@pytest.mark.parametrize("case", audit.FULL, ids=lambda case: f"{case.layer}-{case.seed}")
def test_gradients_are_autograds(case):
    forward, _, arguments, dh = calls(case)

    def loss(arguments):
        return autograd.numpy.sum(forward(**arguments, np=autograd.numpy)[0] * dh)

    expected = autograd.grad(loss)(arguments)
    expected |= expected.pop("params")
    _, found = gradients(case)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert audit.relative_error(numpy.asarray(found[name]), numpy.asarray(value))[0] < 1e-12, name


@pytest.mark.parametrize("case", audit.FULL, ids=lambda case: f"{case.layer}-{case.seed}")
def test_the_fast_layer_computes_the_same(case):
    h, expected = gradients(case)
    params, given, dh = case.arrays()
    scalars = [name for name in case.scalars() if case.scalars()[name]]  # F10 divides by λ
    for way in case.ways():
        fast_h, cache = case.module.forward(params, **given, **case.options, **way)
        numpy.testing.assert_allclose(fast_h, h, rtol=1e-11, atol=1e-12)
        extra = [name for name in case.also() if name not in case.scalars() or name in scalars]
        grads, dx, dh0 = case.module.backward(dh, cache, also=extra)
        for name, value in (grads | {"x": dx, "h0": dh0}).items():
            assert audit.relative_error(numpy.asarray(value), numpy.asarray(expected[name]))[0] < 1e-12, (name, way)


@pytest.mark.parametrize(("shape", "layers"), audit.CONVNETS)
def test_the_convnets_gradients_are_autograds_and_the_fast_ones(shape, layers):
    rng = numpy.random.default_rng(0)
    params = convnet.init(rng, layers, shape[0], dtype="float64")
    params = {name: value + 0.2 * rng.standard_normal(value.shape) for name, value in params.items()}
    images = rng.standard_normal((2, *shape))
    features, saved = plain_convnet.forward(params, images, layers)
    cotangent = rng.standard_normal(features.shape)

    def loss(arguments):
        features, _ = plain_convnet.forward(arguments, arguments["images"], layers, autograd.numpy)
        return autograd.numpy.sum(features * cotangent)

    expected = autograd.grad(loss)(params | {"images": images})
    grads, dimages = plain_convnet.backward(cotangent, saved, params, layers)
    fast_features, cache = convnet.forward(params, images, layers)
    fast_grads, fast_dimages = convnet.backward(cotangent, cache)
    numpy.testing.assert_allclose(fast_features, features, rtol=1e-12, atol=1e-12)
    for name, value in expected.items():
        for found in (grads | {"images": dimages}, fast_grads | {"images": fast_dimages}):
            assert audit.relative_error(found[name], value)[0] < 1e-12, name


def test_they_import_nothing_from_the_rest_of_the_package():
    files = sorted(FOLDER.glob("*.py"))
    assert len(files) > 4
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or node.module in ("__future__", "typing"), (file.name, node.module)
            if isinstance(node, ast.Import):
                assert [alias.name for alias in node.names] == ["numpy"], file.name
            assert not isinstance(node, ast.ClassDef), file.name
