"""Optimizers against their papers' algorithms written out, weight decay by role, overflow, clipping, schedules."""

from __future__ import annotations

import warnings

import numpy
import pytest

from fastweights_np import actor_critic, convnet, multilevel, network, optim, roles
from fastweights_np.trees import flatten, map_leaves


def tree(seed: int, dtype: str = "float64"):
    rng = numpy.random.default_rng(seed)
    return {"layer": {"W": rng.standard_normal((2, 3)).astype(dtype)}, "b": rng.standard_normal(4).astype(dtype)}


def test_adam_is_algorithm_1():
    params, theta = tree(0), tree(0)["layer"]["W"]
    optimizer, m, v = optim.Adam(params), 0.0, 0.0
    for t in range(1, 6):
        grads = tree(t)
        g = grads["layer"]["W"]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta - 0.01 * (m / (1 - 0.9**t)) / (numpy.sqrt(v / (1 - 0.999**t)) + 1e-8)
        optimizer.step(params, grads, 0.01)
        numpy.testing.assert_allclose(params["layer"]["W"], theta, rtol=1e-12)
        numpy.testing.assert_array_equal(g, tree(t)["layer"]["W"])  # the gradients are not changed


def test_weight_decay_shrinks_weights_beside_the_gradient_and_leaves_biases_alone():
    params, without = tree(0), tree(0)
    decaying, plain = optim.Adam(params, weight_decay=0.1), optim.Adam(without)
    decaying.step(params, tree(1), 0.01)
    plain.step(without, tree(1), 0.01)
    before = tree(0)["layer"]["W"]
    numpy.testing.assert_allclose(params["layer"]["W"], without["layer"]["W"] - 0.01 * 0.1 * before, rtol=1e-12)
    numpy.testing.assert_array_equal(params["b"], without["b"])
    with pytest.raises(ValueError, match="weight_decay: expected a finite number of at least 0, got -1"):
        optim.Adam(params, weight_decay=-1)


def all_parameters() -> dict[str, dict]:
    """New parameters of every layer, with and without layer norm, of the networks, and of an agent."""
    rng = numpy.random.default_rng(0)
    trees = {}
    for name, layer in network.LAYERS.items():
        for layer_norm in (False, True):
            trees[f"{name} {layer_norm}"] = layer.init(rng, 3, 4, layer_norm=layer_norm)
    trees["tokens"] = network.Network(network.TokenEncoder(5), network.Classifier(3), 4, "lstm").init(rng)
    controls = {"controls": multilevel.Controls(*[[True]] * 4)}
    trees["patches"] = network.Network(
        network.PatchEncoder(5), network.Classifier(3), 4, "multilevel", options=controls
    ).init(rng)
    layers = (convnet.Convolution(2, 3), convnet.Convolution(3, 3))
    trees["convnet"] = network.ConvolutionalNetwork(layers, network.Classifier(3), 8).init(rng)
    trees["agent"] = actor_critic.ActorCritic(5, 3, 4, "lstm").init(rng)
    return trees


@pytest.mark.parametrize("name", all_parameters())
def test_weight_decay_reaches_weight_matrices_and_nothing_else(name):
    params = map_leaves(numpy.ones_like, all_parameters()[name])
    adam = optim.Adam(params, weight_decay=0.5)
    adam.step(params, map_leaves(numpy.zeros_like, params), 0.5)
    for path, value in flatten(params).items():
        last = path.rpartition("/")[2].rstrip("0123456789")
        bias = last in ("b", "bias", "gain") or last.endswith("_bias")
        assert (value == (1.0 if bias else 0.75)).all(), path


def test_weights_to_decay_can_be_named_and_must_be_where_their_role_is_not_known():
    params = {"net": {"kernel": numpy.ones((2, 2)), "scale": numpy.ones((2, 2))}}
    zeros = map_leaves(numpy.zeros_like, params)
    with pytest.raises(ValueError, match=r"weights: .* no layer of this package has a parameter 'net/scale'; pass w"):
        optim.Adam(params, weight_decay=0.1)
    with pytest.raises(ValueError, match="weights: expected names among net/kernel, net/scale; got 'kernel'"):
        optim.Adam(params, weights=["kernel"])
    optim.Adam(params, weight_decay=0.5, weights=["net/kernel"]).step(params, zeros, 0.5)
    assert params["net"]["kernel"][0, 0] == 0.75
    assert params["net"]["scale"][0, 0] == 1.0
    optim.Adam(params).step(params, zeros, 0.5)  # without weight decay no role is needed
    assert not roles.WEIGHTS & roles.OTHERS


def test_rmsprop_is_a3cs():
    params, theta = tree(0), tree(0)["b"]
    optimizer, v = optim.RMSProp(params, rho=0.9, epsilon=0.1), 0.0
    for t in range(1, 6):
        g = tree(t)["b"]
        v = 0.9 * v + 0.1 * g**2
        theta = theta - 0.01 * g / numpy.sqrt(v + 0.1)
        optimizer.step(params, tree(t), 0.01)
        numpy.testing.assert_allclose(params["b"], theta, rtol=1e-12)


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_an_optimizer_goes_on_from_its_state_bit_for_bit(kind):
    straight, first = tree(0, "float32"), tree(0, "float32")
    one, two = kind(straight), kind(first)
    for t in range(4):
        one.step(straight, tree(t, "float32"), 0.1)
    for t in range(2):
        two.step(first, tree(t, "float32"), 0.1)
    again = kind(first)
    again.load_state(two.state())
    for t in range(2, 4):
        again.step(first, tree(t, "float32"), 0.1)
    numpy.testing.assert_array_equal(first["b"], straight["b"])
    assert first["b"].dtype == "float32"


def test_wrong_gradients_and_states_are_refused():
    params = tree(0)
    optimizer = optim.Adam(params)
    with pytest.raises(ValueError, match=r"grads: .*too many or few: b"):
        optimizer.step(params, {"layer": params["layer"]}, 0.1)
    with pytest.raises(ValueError, match=r"grads\['b'\]: expected shape \(4,\), got \(5,\)"):
        optimizer.step(params, params | {"b": numpy.ones(5)}, 0.1)
    with pytest.raises(ValueError, match=r"state: .*missing m"):
        optimizer.load_state(optim.RMSProp(params).state())
    with pytest.raises(ValueError, match=r"state\['m'\]: expected shape \(10,\), got \(4,\)"):
        optimizer.load_state(optim.Adam({"b": params["b"]}).state())


def test_clipping_bounds_the_joint_norm_and_keeps_small_gradients():
    grads = {"a": numpy.array([3.0]), "b": {"c": numpy.array([4.0])}}
    assert optim.clip_by_global_norm(grads, 10.0) == 5.0
    assert grads["a"][0] == 3.0
    assert optim.clip_by_global_norm(grads, 1.0) == 5.0
    numpy.testing.assert_allclose([grads["a"][0], grads["b"]["c"][0]], [0.6, 0.8])
    with pytest.raises(ValueError, match="limit: expected a finite number above 0, got 0"):
        optim.clip_by_global_norm(grads, 0.0)  # it would stop all learning


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [-0.99, -0.6, 0.0, 0.5, 0.52, 0.9, 0.999])
def test_clipping_is_right_where_squares_overflow_or_vanish(dtype, exponent):
    """Gradients of 10^(38 e) in float32 and of 10^(308 e) in float64, whose joint norm is twice as large."""
    size = float(numpy.finfo(dtype).max) ** exponent
    grads = {"a": numpy.full(3, size, dtype), "b": numpy.full(1, -size, dtype)}
    norm = optim.clip_by_global_norm(grads, 1.0)
    assert norm == pytest.approx(2 * size, rel=1e-6)
    wanted = size if exponent < 0 else 0.5
    numpy.testing.assert_allclose([*grads["a"], -grads["b"][0]], [wanted] * 4, rtol=1e-5)
    assert grads["a"].dtype == dtype


@pytest.mark.parametrize("value", [numpy.inf, -numpy.inf, numpy.nan])
def test_clipping_of_what_is_not_finite_cannot_pass_unseen(value):
    grads = {"a": numpy.array([1.0, value], "float32"), "b": numpy.ones(2, "float32")}
    assert not numpy.isfinite(optim.clip_by_global_norm(grads, 1.0))
    assert numpy.isnan(grads["a"]).all()
    assert numpy.isnan(grads["b"]).all()


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
@pytest.mark.parametrize("value", [1e25, -3e38, numpy.inf, numpy.nan])
def test_a_gradient_that_cannot_be_squared_is_refused_and_nothing_is_changed(kind, value):
    params, grads = tree(0, "float32"), tree(1, "float32")
    optimizer = kind(params)
    optimizer.step(params, grads, 0.1)
    before, state = map_leaves(numpy.copy, params), optimizer.state()
    grads["layer"]["W"][1, 2] = value
    with pytest.raises(FloatingPointError, match=r"grads: expected finite numbers below 1.8e\+19.*in 'layer/W'"):
        optimizer.step(params, grads, 0.1)
    for name, leaf in flatten(params).items():
        numpy.testing.assert_array_equal(leaf, flatten(before)[name])
    for name, moment in optimizer.state().items():
        numpy.testing.assert_array_equal(moment, state[name])


def test_large_gradients_whose_squares_are_finite_one_by_one_are_taken():
    params = {"W": numpy.ones((50, 50), "float32")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optim.Adam(params).step(params, {"W": numpy.full((50, 50), 1.8e19, "float32")}, 0.1)
    numpy.testing.assert_allclose(params["W"], 0.9, rtol=1e-6)


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_what_an_optimizer_cannot_update_is_refused_and_nothing_is_changed(kind):
    params, grads = tree(0, "float32"), tree(1, "float32")
    optimizer = kind(params)
    scalar, masked = {"b": numpy.float32(1) * params["b"][0]}, {"b": numpy.ma.masked_array(params["b"])}
    for bad, message in (
        (scalar, "b: expected a NumPy or CuPy array"), (masked, "b: expected a plain array"),
        (tree(0), "expected float32"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=message):
            optimizer.step(params | bad, grads, 0.1)
        with pytest.raises(TypeError, match=message):
            optimizer.step(params, grads | bad, 0.1)
    assert optimizer.updates == 0
    for odd in ("float16", "int64", "complex64"):
        with pytest.raises(TypeError, match="expected float32 or float64"):
            kind({"W": numpy.ones(2, odd)})
        with pytest.raises(TypeError, match="expected float32 or float64"):
            optim.clip_by_global_norm({"W": numpy.ones(2, odd)}, 1.0)
    with pytest.raises(ValueError, match="expected at least one array"):
        kind({})
    assert optim.clip_by_global_norm({"W": numpy.zeros((0, 3))}, 1.0) == 0


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_a_state_that_no_optimizer_has_is_refused_whole(kind):
    params = tree(0)
    optimizer = kind(params)
    optimizer.step(params, tree(1), 0.1)
    state = optimizer.state()
    for odd in (
        {"updates": -1}, {"updates": 2.7}, {"v": -state["v"]}, {"v": state["v"] * numpy.nan}, {"v": state["v"] * 1j},
        {"v": state["v"].astype("float32")},
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=r"state\["):
            optimizer.load_state({name: 2 * value for name, value in state.items()} | odd)
        for name, moment in optimizer.state().items():
            numpy.testing.assert_array_equal(moment, state[name])


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_what_cannot_be_changed_in_place_once_is_refused_and_nothing_is_changed(kind):
    """Read-only arrays, and memory under two names, which would be changed twice."""
    W, b = numpy.ones((2, 2)), numpy.ones(2)
    locked = b.copy()
    locked.flags.writeable = False
    grads = {"W": 3 * W, "b": 4 * b}
    for other, message in ((locked, "can be changed"), (W, "memory of its own"), (W.T[0], "memory of its own")):
        params = {"W": W, "b": other}
        optimizer = kind({"W": W, "b": numpy.ones_like(other)})
        with pytest.raises(ValueError, match=rf"params\['b'\]: expected .*{message}"):
            optimizer.step(params, {"W": W.copy(), "b": numpy.ones_like(other)}, 0.1)
        with pytest.raises(ValueError, match=rf"grads\['b'\]: expected .*{message}"):
            optim.clip_by_global_norm(params, 0.1)
        assert (W == 1).all()
        assert optimizer.updates == 0
    rows = numpy.ones((2, 2))
    kind({"a": rows[0], "b": rows[1]}).step({"a": rows[0], "b": rows[1]}, {"a": b, "b": b}, 0.1)
    assert (rows < 1).all(), "rows of one array share no memory"
    kind(params | {"b": b}).step({"W": W, "b": b}, {"W": grads["W"], "b": grads["W"][0]}, 0.1)


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_moments_that_no_optimizer_has_are_refused(kind):
    params = {"W": numpy.ones(3, "float32")}
    zeros = {name: numpy.zeros(3, "float32") for name in kind.moments}
    locked = numpy.zeros(3, "float32")
    locked.flags.writeable = False
    for odd in (
        numpy.zeros(3), numpy.zeros(3, int), numpy.zeros(2, "float32"), -numpy.ones(3, "float32"),
        numpy.full(3, numpy.nan, "float32"), [0, 0, 0], None, locked,
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=r"moments\['v'\]: expected|^v: expected"):
            kind(params, moments=zeros | {"v": odd})
    with pytest.raises(ValueError, match=r"moments\['v'\]: expected memory of its own, got memory that 'm' has too"):
        optim.Adam(params, moments={"m": zeros["v"], "v": zeros["v"]})


def test_weight_decay_does_not_turn_weights_around():
    params = {"W": numpy.ones(2)}
    with pytest.raises(ValueError, match=r"weight_decay: expected at most 1 / learning_rate, 0\.5, got 0\.6"):
        optim.Adam(params, weight_decay=0.6).step(params, {"W": numpy.zeros(2)}, 2.0)
    assert (params["W"] == 1).all()


def test_schedules():
    assert [optim.linear_decay(u, 8, hold=0.5) for u in (0, 4, 6, 8)] == [1.0, 1.0, 0.5, 0.0]
    assert optim.linear_decay(7, 8, hold=1.0) == 1.0
    assert [optim.cosine(u, 8) for u in (0, 2, 4, 8)] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0], abs=1e-15)
    assert [optim.cosine(u, 8, hold=0.5) for u in (4, 6, 8)] == pytest.approx([1, 0.5, 0], abs=1e-15)
    assert optim.constant(7, 8) == 1.0
    with pytest.raises(ValueError, match="update: expected at most updates, 8, got 9"):
        optim.linear_decay(9, 8)
