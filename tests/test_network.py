"""Networks of every kind: encoders, readouts, several layers, both directions, lengths, learned λ and η."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

import fastweights_np as fw
from bench import strict_cupy
from fastweights_np import network, optim
from fastweights_np.actor_critic import CLOSED_LOOP_LAYERS, ActorCritic
from fastweights_np.multilevel import Controls
from fastweights_np.network import (
    Classifier,
    IdentityEncoder,
    LinearEncoder,
    LinearReadout,
    Network,
    PatchEncoder,
    TokenEncoder,
)
from fastweights_np.trees import flatten, map_leaves

T, B = 5, 3
LENGTHS = numpy.array([5, 2, 3])
CONTROLS = Controls([True, False] * 2 + [True], [False] * 5, [False, True] * 2 + [True], [False] * 5)
KINDS = {
    "one layer": Network(IdentityEncoder(3), LinearReadout(2), 4),
    "each step": Network(LinearEncoder(3, 4), LinearReadout(2), 4, at="each"),
    "labels at each step": Network(TokenEncoder(6, 3, 4), Classifier(3, 4), 4, "lstm", at="each"),
    "both directions": Network(TokenEncoder(6, 3, 4), Classifier(3, 4), 4, bidirectional=True),
    "both, each step": Network(PatchEncoder(3, 4), LinearReadout(2), 4, "irnn", at="each", bidirectional=True),
    "stacked": Network(IdentityEncoder(3), Classifier(3, 4), 4, "associative_lstm", layers=2, bidirectional=True),
    "three levels": Network(
        LinearEncoder(3, 4), LinearReadout(2), 4, at="each", layers=3, bidirectional=True, learn=("decay", "rate"),
        options={"rate": 0.3},
    ),
    "learned rate": Network(
        TokenEncoder(6, 3, 4), LinearReadout(2), 4, "multilevel", learn=("rate",), options={"controls": CONTROLS}
    ),
}  # fmt: skip


def problem(name):
    """Return a network, its parameters in float64, inputs and targets."""
    net, rng = KINDS[name], numpy.random.default_rng(0)
    params = net.init(rng, "float64")
    tokens, vectors = rng.integers(0, 6, (T, B)), rng.standard_normal((T, B, 3))
    inputs = tokens if isinstance(net.encoder, TokenEncoder) else vectors
    rows = (T, B) if net.at == "each" else (B,)
    if isinstance(net.readout, Classifier):
        return net, params, inputs, rng.integers(0, 3, rows)
    return net, params, inputs, rng.standard_normal((*rows, 2))


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_the_slope_in_a_random_direction(name, lengths):
    net, params, inputs, targets = problem(name)
    rng = numpy.random.default_rng(1)
    _, grads = net.loss_and_gradients(params, inputs, targets, lengths=lengths)
    flat, gradients = flatten(params), flatten(grads)
    assert gradients.keys() == flat.keys()
    assert all(gradients[path].shape == array.shape for path, array in flat.items())
    for layer in [path for path in params if path != "encoder"]:
        direction = {path: rng.standard_normal(a.shape) for path, a in flat.items() if path.startswith(layer + "/")}
        values = []
        for step in (1e-6, -1e-6):
            moved = map_leaves(numpy.copy, params)
            for path, way in direction.items():
                flatten(moved)[path][...] = flat[path] + step * way
            values.append(net.loss_and_gradients(moved, inputs, targets, lengths=lengths)[0])
        expected = (values[0] - values[1]) / 2e-6
        got = sum((gradients[path] * way).sum() for path, way in direction.items())
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-8), layer


def check_that_they_are_alone(net, params, inputs, targets, documents, resets=None):
    """Compare outputs, loss and gradients of a batch with each document alone: (sequence, first step, end)."""
    outputs, _ = net.forward(params, inputs, lengths=LENGTHS, resets=resets)
    loss, grads = net.loss_and_gradients(params, inputs, targets, fw.Workspace(), lengths=LENGTHS, resets=resets)
    each, total, expected = net.at == "each", 0, dict.fromkeys(flatten(params), 0)
    for n, start, end in documents:
        options = net.options
        if "controls" in options:
            options = options | {"controls": Controls(*(signal[start:end] for signal in vars(CONTROLS).values()))}
        alone, one = replace(net, options=options), inputs[start:end, n : n + 1]
        wanted = targets[start:end, n : n + 1] if each else targets[n : n + 1]
        weight = (end - start) / LENGTHS.sum() if each else 1 / B
        got, _ = alone.forward(params, one)
        numpy.testing.assert_allclose(
            outputs[start:end, n] if each else outputs[n], got[:, 0] if each else got[0], 0, 1e-12
        )
        its_loss, its_grads = alone.loss_and_gradients(params, one, wanted)
        total += weight * its_loss
        expected = {path: expected[path] + weight * gradient for path, gradient in flatten(its_grads).items()}
    assert loss == pytest.approx(total, abs=1e-12)
    for path, gradient in flatten(grads).items():
        numpy.testing.assert_allclose(gradient, expected[path], 0, 1e-12, err_msg=path)


@pytest.mark.parametrize("name", KINDS)
def test_a_padded_batch_is_each_sequence_alone(name):
    """Outputs, loss and gradients; padding of inputs and targets holds what would be an error or NaN."""
    net, params, inputs, targets = problem(name)
    each, bad = net.at == "each", numpy.arange(T)[:, None] >= LENGTHS
    inputs = inputs.copy()
    inputs[bad] = -1 if inputs.dtype.kind == "i" else numpy.nan
    if each:
        targets[bad] = -1 if targets.dtype.kind == "i" else numpy.nan
    check_that_they_are_alone(net, params, inputs, targets, [(n, 0, length) for n, length in enumerate(LENGTHS)])


RESETS = numpy.zeros((T, B), bool)
RESETS[3, 0] = RESETS[1, 2] = RESETS[4, 2] = True  # the last one is in the padding of LENGTHS
# sequence, first step and end of each document; the last ones end with their sequences
DOCUMENTS = [(0, 0, 3), (2, 0, 1), (0, 3, 5), (1, 0, 2), (2, 1, 3)]


@pytest.mark.parametrize("name", [name for name, net in KINDS.items() if "controls" not in net.options])
def test_documents_in_a_sequence_are_each_document_alone(name):
    net, params, inputs, targets = problem(name)
    if net.bidirectional and net.at == "end":
        with pytest.raises(ValueError, match=r'^resets: expected None .* use at="each"$'):
            net.forward(params, inputs, resets=RESETS)
        return
    documents = DOCUMENTS if net.at == "each" else DOCUMENTS[2:]
    check_that_they_are_alone(net, params, inputs, targets, documents, resets=RESETS)


@pytest.mark.parametrize("name", KINDS)
def test_without_gradients_the_outputs_are_the_same(name):
    net, params, inputs, _ = problem(name)
    expected, _ = net.forward(params, inputs, lengths=LENGTHS)
    outputs, cache = net.forward(params, inputs, lengths=LENGTHS, gradients=False)
    numpy.testing.assert_allclose(outputs, expected, 0, 1e-12)
    with pytest.raises(ValueError, match=r"cache: expected .* got one of forward\(..., gradients=False\)"):
        net.backward(expected, cache)


@pytest.mark.parametrize("name", [name for name, net in KINDS.items() if isinstance(net.encoder, TokenEncoder)])
def test_the_arguments_of_a_trained_networks_layer_fit_its_stepper(name):
    net, params, tokens, _ = problem(name)
    x, _ = net.encoder.forward(params["encoder"], tokens)
    own, options = net.layer_arguments(params)
    layer = network.LAYERS[net.layer]
    expected, _ = layer.forward(own, x, **options)
    if "controls" not in options:
        stepper = layer.Stepper(own, B, **options)
        numpy.testing.assert_allclose([stepper(x_t) for x_t in x.table[x.tokens]], expected, 0, 1e-12)
    for learned in net.learn:
        assert 0 < options[learned] < 1


@pytest.mark.parametrize("name", KINDS)
def test_it_comes_back_from_a_file_and_trains(name, tmp_path):
    net, params, inputs, targets = problem(name)
    adam, workspace = optim.Adam(params, weight_decay=0.1), fw.Workspace()
    losses = [
        float(network.train_step(net, params, adam, inputs, targets, 3e-3, clip_norm=1.0, workspace=workspace))
        for _ in range(30)
    ]
    assert losses[-1] < losses[0]
    network.save(tmp_path / "net.npz", net, params)
    again, found = network.load(tmp_path / "net.npz")
    assert again == net
    numpy.testing.assert_array_equal(again.forward(found, inputs)[0], net.forward(params, inputs)[0])


@pytest.mark.parametrize("name", ["three levels", "labels at each step"])
def test_a_device_gives_the_hosts_numbers(name):
    net, params, inputs, targets = problem(name)
    loss, grads = net.loss_and_gradients(params, inputs, targets, lengths=LENGTHS)
    with strict_cupy.installed() as cupy:
        device = map_leaves(cupy.asarray, (params, inputs, targets))
        its_loss, its_grads = fw.to_host(net.loss_and_gradients(*device, lengths=LENGTHS))
    assert its_loss == pytest.approx(loss, abs=1e-12)
    for path, gradient in flatten(grads).items():
        numpy.testing.assert_allclose(flatten(its_grads)[path], gradient, 0, 1e-12, err_msg=path)


def test_learned_parameters_start_from_the_options_and_are_not_decayed():
    net, params, inputs, _ = problem("three levels")
    assert params["backward2"]["decay"].shape == ()
    assert params["layer"]["decay"] == pytest.approx(numpy.log(0.95 / 0.05))
    assert params["layer3"]["rate"] == pytest.approx(numpy.log(0.3))
    fixed = {name: {k: v for k, v in part.items() if k not in net.learn} for name, part in params.items()}
    expected, _ = replace(net, learn=()).forward(fixed, inputs)
    numpy.testing.assert_allclose(net.forward(params, inputs)[0], expected, 1e-10)
    before = params["layer"]["decay"].copy()
    optim.Adam(params, weight_decay=0.5).step(params, map_leaves(numpy.zeros_like, params), 0.5)
    assert params["layer"]["decay"] == before


def test_wrong_arguments_are_refused():
    encoder, readout = IdentityEncoder(3), LinearReadout(2)
    for options, error, words in (
        ({"at": "start"}, ValueError, "at: expected one of each, end; got 'start'"),
        ({"layers": 0}, ValueError, "layers: expected at least 1, got 0"),
        ({"bidirectional": 1}, TypeError, "bidirectional: expected a bool, got int"),
        ({"learn": "decay"}, TypeError, "learn: expected a tuple, got str"),
        ({"learn": ("gain",)}, ValueError, "learn: expected one of decay, rate; got 'gain'"),
        ({"learn": ("rate",), "layer": "lstm"}, ValueError, "learn: expected none, for the layer lstm has no rate"),
        (
            {"learn": ("decay",), "options": {"decay": 1.0}},
            ValueError,
            r"options\['decay'\]: .* between 0 and 1, .*1.0",
        ),
        ({"learn": ("rate",), "options": {"rate": 0}}, ValueError, r"options\['rate'\]: .* between 0 and inf, .* 0"),
        ({"options": ["decay"]}, TypeError, "options: expected a dict, got list"),
    ):
        with pytest.raises(error, match=words):
            Network(encoder, readout, 4, **options)
    net, params, x, targets = problem("three levels")
    layer = params["layer"]
    for changed, words in (
        ({"layer4": layer}, "params: expected encoder, layer, backward, layer2, .*; unknown layer4"),
        (
            {"layer": layer | {"decay": numpy.zeros(1)}},
            r"params\['layer'\]\['decay'\]: expected shape \(\), got \(1,\)",
        ),
        ({"layer": layer | {"rate": numpy.array(1e4)}}, "rate: expected a finite number of at least 0, got inf"),
    ):
        with pytest.raises(ValueError, match=words):
            net.forward(params | changed, x)
    for given, error, words in (
        (targets[0], ValueError, r"targets: expected shape \(5, 3\), got \(3, 2\)"),
        (targets[..., :1], ValueError, r"targets: expected shape \(15, 2\), got \(15, 1\)"),
        (targets.astype("float32"), TypeError, "targets: expected float64, the dtype of values, got float32"),
    ):
        with pytest.raises(error, match=words):
            net.loss_and_gradients(params, x, given)
    with pytest.raises(ValueError, match=r"inputs: expected shape \(T, B\) with every size at least 1, got \(5,\)"):
        net.forward(params, x[:, 0, 0], lengths=LENGTHS)
    with pytest.raises(ValueError, match=r"inputs: expected shape \(T, B, 3\) .* got \(5, 3, 2\)"):
        KINDS["one layer"].forward(problem("one layer")[1], x[..., :2])


OPTIONS = {
    "fast_weights": ("decay", 0.5), "multilevel": ("decay", 0.5), "irnn": ("activation", "tanh"), "lstm": ("", None),
    "associative_lstm": ("copies", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", network.LAYERS)
@pytest.mark.parametrize("where", ["options", "init_options"])
def test_a_misspelled_option_is_refused_with_the_known_ones_and_the_nearest(name, where):
    right, value = OPTIONS[name] if where == "options" else ("layer_norm", False)
    words = rf"^{where}: expected names among .*\b{right}\b.*; got '{right[1:]}'; did you mean '{right}'\?$"
    for more in ({}, {"layers": 2, "bidirectional": True}):
        with pytest.raises(ValueError, match=words if right else "^options: expected none, got 'decay'$"):
            Network(IdentityEncoder(3), LinearReadout(2), 4, name, **{where: {right[1:] or "decay": value}}, **more)
        given = {"options": {"controls": CONTROLS} if name == "multilevel" else {}}
        given[where] = given.get(where, {}) | ({right: value} if right else {})
        Network(IdentityEncoder(3), LinearReadout(2), 4, name, **given, **more)
    if name in CLOSED_LOOP_LAYERS and right:
        with pytest.raises(ValueError, match=words):
            ActorCritic(3, 2, 4, name, **{where: {right[1:]: False}})


@pytest.mark.parametrize("options", [{}, {"decay": 0.5}])
def test_a_network_without_the_signals_that_its_layer_needs_is_refused(options):
    words = r"^options: expected 'controls', which has no default, got none; pass options=\{'controls': \.\.\.\}$"
    with pytest.raises(ValueError, match=words):
        Network(IdentityEncoder(3), LinearReadout(2), 4, "multilevel", options=options)


def test_an_argument_that_the_network_passes_is_no_option():
    of_one_call = ("lengths", "resets", "h0", "A0", "gradients", "workspace")
    for where, name in (*(("options", name) for name in of_one_call), ("init_options", "dtype")):
        with pytest.raises(ValueError, match=f"^{where}: expected names among .*; got '{name}'$"):
            Network(IdentityEncoder(3), LinearReadout(2), 4, **{where: {name: None}})


def test_files_of_the_former_class_names_are_loaded(tmp_path, monkeypatch):
    net, params, _, _ = problem("both directions")
    for kind in (TokenEncoder, Classifier):  # they were classes of network.py
        monkeypatch.setattr(kind, "__module__", network.__name__)
    network.save(tmp_path / "net.npz", net, params)
    monkeypatch.undo()
    assert b'"network.TokenEncoder"' in (tmp_path / "net.npz").read_bytes()
    assert network.load(tmp_path / "net.npz")[0] == net


def test_the_former_name_of_targets_still_works():
    net, params, inputs, targets = problem("one layer")
    with pytest.warns(DeprecationWarning, match="labels: this argument is now called targets"):
        loss, _ = net.loss_and_gradients(params, inputs, labels=targets)
    assert loss == net.loss_and_gradients(params, inputs, targets=targets)[0]
