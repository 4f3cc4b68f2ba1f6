"""Optimizers against their papers' algorithms written out, clipping, schedules, checkpoints."""

from __future__ import annotations

import json

import numpy
import pytest

from fastweights_np import checkpoint, optim


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
    optim.clip_by_global_norm(grads, 0.0)
    assert grads["a"][0] == 0.0


def test_schedules():
    assert [optim.linear_decay(u, 8, hold=0.5) for u in (0, 4, 6, 8)] == [1.0, 1.0, 0.5, 0.0]
    assert optim.linear_decay(7, 8, hold=1.0) == 1.0
    assert optim.constant(7, 8) == 1.0


# ---------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoint_keeps_arrays_and_info(tmp_path):
    path = tmp_path / "checkpoint.npz"
    state = numpy.random.default_rng(0).bit_generator.state
    checkpoint.save(path, {"params": tree(0, "float32")}, {"update": 3, "random_state": state})
    arrays, info = checkpoint.load(path)
    numpy.testing.assert_array_equal(arrays["params"]["layer"]["W"], tree(0, "float32")["layer"]["W"])
    assert arrays["params"]["b"].dtype == "float32"
    assert info == {"update": 3, "random_state": state}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_failed_save_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"a": numpy.ones(1)}, {"update": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"a": numpy.ones(1)}, {"update": object()})
    assert checkpoint.load(path)[1] == {"update": 1}


def test_bad_checkpoints_are_named(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(FileNotFoundError, match="expected a file that save"):
        checkpoint.load(path)
    checkpoint.save(path, tree(0), {})
    whole = path.read_bytes()
    for content in (whole[:-50], whole[:10], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint .*truncated or something else"):
            checkpoint.load(path)
    broken = 0
    for place in range(0, len(whole), 7):  # a bit turned over anywhere
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            checkpoint.load(path)
        except ValueError:
            broken += 1
    assert broken > 10
    numpy.savez(path, a=numpy.ones(1))
    with pytest.raises(ValueError, match="truncated or something else"):
        checkpoint.load(path)
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    checkpoint.save(path, {}, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="expected version 1, got 2; load it with the release"):
        checkpoint.load(path)


def test_a_checkpoint_holds_no_pickle(tmp_path):
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(TypeError, match="arrays/file: expected an array of numbers, got object"):
        checkpoint.save(path, {"file": numpy.array([None])}, {})
    checkpoint.save(path, tree(0), {"settings": {"rate": 0.5}})
    with numpy.load(path, allow_pickle=False) as file:
        header = json.loads(file["info"].tobytes())
    assert header["info"] == {"settings": {"rate": 0.5}}
