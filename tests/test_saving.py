"""A network and its parameters in one file: every network comes back with the same answers, or is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest

from fastweights_np import checkpoint, network, optim
from fastweights_np.actor_critic import ActorCritic
from fastweights_np.checkpoint import CheckpointError
from fastweights_np.context_policy import ContextPolicy
from fastweights_np.convnet import Convolution
from fastweights_np.multilevel import Controls
from fastweights_np.network import LAYERS, Classifier, ConvolutionalNetwork, Network, PatchEncoder, TokenEncoder
from fastweights_np.structures import split
from fastweights_np.transformer import Transformer
from fastweights_np.trees import flatten

CONTROLS = Controls([True, False], [False, False], [False, True], [False, True])
OPTIONS = {
    "fast_weights": ({"layer_norm": False}, {"decay": 0.8, "rate": numpy.float32(0.3), "activation": "tanh"}),
    "multilevel": ({"recurrent_scale": 0.1}, {"controls": CONTROLS, "inner_steps": 2}),
    "associative_lstm": ({"heads": 2, "shared_value": True}, {"copies": 3, "shared_value": True}),
}
TOKENS, PATCHES = numpy.arange(8).reshape(2, 4) % 5, numpy.ones((2, 4, 3), "float32")
IMAGES = numpy.linspace(0, 1, 4 * 64, dtype="float32").reshape(4, 8, 8)
NETWORKS = {
    name: (Network(TokenEncoder(5, 6, 4), Classifier(3, 5), 6, name, *OPTIONS.get(name, ({}, {}))), TOKENS)
    for name in LAYERS
} | {
    "patches": (Network(PatchEncoder(3), Classifier(numpy.int64(3)), 6, "irnn"), PATCHES),
    "convnet": (ConvolutionalNetwork((Convolution(2, 3, pool=2), Convolution(3, 2)), Classifier(3), 8), IMAGES),
}  # fmt: skip


@pytest.mark.parametrize(
    ("net", "inputs"),
    [
        (Transformer(5, size=8, written=(2,), options={"chunk": 2, "taps": (0, 1)}), TOKENS),
        (ContextPolicy(3, 2, 6, {"decay": 0.9}), PATCHES),
    ],
    ids=["transformer", "context policy"],
)
def test_a_network_of_its_own_kind_comes_back(net, inputs, tmp_path):
    params = net.init(numpy.random.default_rng(0))
    network.save(tmp_path / "net.npz", net, params)
    again, found = network.load(tmp_path / "net.npz")
    assert again == net
    numpy.testing.assert_array_equal(again.forward(found, inputs)[0], net.forward(params, inputs)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_with_its_settings_and_its_answers(name, dtype, tmp_path):
    net, inputs = NETWORKS[name]
    inputs = inputs if inputs is TOKENS else inputs.astype(dtype)
    params = net.init(numpy.random.default_rng(0), dtype)
    network.train_step(net, params, optim.Adam(params), inputs, numpy.arange(4) % 3, 0.1)
    network.save(tmp_path / "net.npz", net, params)
    again, found = network.load(tmp_path / "net.npz")
    assert again == net
    assert flatten(found).keys() == flatten(params).keys()
    numpy.testing.assert_array_equal(again.forward(found, inputs)[0], net.forward(params, inputs)[0])


@pytest.mark.parametrize(("setting", "loads"), [("processes", True), ("workers", False)])
def test_a_setting_of_an_earlier_release_that_changed_no_result_is_ignored(setting, loads, tmp_path, monkeypatch):
    """Network had the setting processes; no release had workers."""
    net, params = NETWORKS["irnn"][0], NETWORKS["irnn"][0].init(numpy.random.default_rng(0))

    def earlier(name, tree):
        structure, arrays = split(name, tree)
        if name == "arrays":
            structure["net"][1][setting] = 2
        return structure, arrays

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "split", earlier)
        network.save(tmp_path / "net.npz", net, params)
    if loads:
        assert network.load(tmp_path / "net.npz")[0] == net
    else:
        with pytest.raises(CheckpointError, match=r"expected the settings of network\.Network, got workers, too"):
            network.load(tmp_path / "net.npz")


def test_an_agent_comes_back_too(tmp_path):
    agent = ActorCritic(3, 2, 6, "lstm", {"layer_norm": True})
    network.save(tmp_path / "agent.npz", agent, agent.init(numpy.random.default_rng(0)))
    assert network.load(tmp_path / "agent.npz")[0] == agent


def test_another_process_that_imports_only_the_network_loads_it(tmp_path):
    net, _ = NETWORKS["multilevel"]
    network.save(tmp_path / "net.npz", net, net.init(numpy.random.default_rng(0)))
    program = "import sys; from fastweights_np import network; print(network.load(sys.argv[1])[0].options['controls'])"
    command = [sys.executable, "-c", program, str(tmp_path / "net.npz")]
    root = Path(network.__file__).parents[1]
    assert subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout == "s ri\n"


@dataclass(frozen=True)
class Elsewhere(TokenEncoder):
    """An encoder that is not of the package."""


def test_what_cannot_be_saved_is_refused(tmp_path):
    net, _ = NETWORKS["lstm"]
    params = net.init(numpy.random.default_rng(0))
    rng, learned = numpy.random.default_rng(0), Network(TokenEncoder(5), Classifier(3), 4, learn=("decay",))
    learned_params = learned.init(rng)
    scaled = {name: 0.9 * value for name, value in learned_params["layer"].items()}  # a 0-d array becomes a number
    smaller = params | {"layer": net.init(numpy.random.default_rng(0))["layer"] | {"b": numpy.zeros((4, 5), "float32")}}
    for given, with_params, error, words in (
        (params, params, TypeError, "net: expected a network of this package, .*, got dict"),
        (Network, params, TypeError, "net: expected a network of this package, .*, got type"),
        (Convolution(2, 3), params, TypeError, "net: expected a network of this package, .*, got Convolution"),
        (replace(net, encoder=Elsewhere(5, 6, 4)), params, TypeError, "arrays/net/encoder: expected .*Elsewhere"),
        (
            replace(learned, options={"activation": object()}),
            learned_params,
            TypeError,
            "arrays/net/options/activation: expected an array",
        ),
        (
            net,
            smaller,
            ValueError,
            r"params/layer/b: expected float32 of shape \(4, 6\), got float32 of shape \(4, 5\)",
        ),
        (net, params | {"more": numpy.ones(1)}, ValueError, "params/more: expected nothing, got float64"),
        (net, {}, ValueError, "params/encoder/table: expected float32 of shape .*, got nothing; pass the parameters"),
        (net, None, ValueError, "params/encoder/table: expected float32"),
        (replace(net, layer="irnn"), params, ValueError, "params/layer/W: expected float32 of shape"),
        (net, params | {"note": "text"}, ValueError, "^params/note: expected nothing, got 'text'; pass the parameters"),
        (net, params | {"note": {}}, ValueError, "^params/note: expected nothing, got a dict;"),
        (learned, learned_params | {"layer": scaled}, ValueError, "^params/layer/decay: expected array, got number;"),
        (PatchEncoder(3), PatchEncoder(3).init(rng), TypeError, "net: expected a network of this package, .*, got Pat"),
        (Classifier(3), {}, TypeError, "net: expected a network of this package, .*, got Classifier"),
        (net, params | {"note": object()}, TypeError, "params/note: expected an array"),
    ):
        with pytest.raises(error, match=words):
            network.save(tmp_path / "net.npz", given, with_params)
    assert not list(tmp_path.iterdir())


def test_what_is_no_saved_network_is_refused(tmp_path):
    net, _ = NETWORKS["lstm"]
    path, params = tmp_path / "net.npz", net.init(numpy.random.default_rng(0))
    for arrays in (
        params,
        [1],
        {"net": params, "params": params},
        {"net": net},
        {"net": Convolution(2, 3), "params": {}},
        {"net": Classifier(3), "params": {}},
        {"net": PatchEncoder(3), "params": PatchEncoder(3).init(numpy.random.default_rng(0))},
    ):
        checkpoint.save(path, arrays)
        with pytest.raises(
            CheckpointError, match=r"net\.npz: expected a network that network\.save wrote, got another"
        ):
            network.load(path)
    checkpoint.save(path, {"net": net, "params": params | {"layer": {}}})
    with pytest.raises(CheckpointError, match=r"net\.npz: params/layer/W: expected .*, got nothing; use another copy"):
        network.load(path)
    network.save(path, net, params)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SHA-256"):
        network.load(path)
    with pytest.raises(FileNotFoundError):
        network.load(tmp_path / "nothing.npz")
