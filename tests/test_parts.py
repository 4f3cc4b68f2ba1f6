"""The contract of what is not a recurrent layer, operations, networks, agents, optimizers: who owns an array.

Which arguments are refused because they are no arrays is tested in test_arguments.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from bench import strict_cupy
from fastweights_np import (
    actor_critic,
    associative_lstm,
    convnet,
    fast_weights,
    irnn,
    lstm,
    multilevel,
    network,
    ops,
    optim,
)
from fastweights_np.backend import to_device, to_host
from fastweights_np.network import Classifier, ConvolutionalNetwork, LinearEncoder, Network, PatchEncoder, TokenEncoder
from fastweights_np.plain import convnet as plain_convnet
from fastweights_np.plain import losses
from fastweights_np.trees import flatten, map_leaves, unflatten
from tests.test_layers import arrays, assert_same

T, B, I, H, CLASSES = 4, 3, 5, 6, 4  # noqa: E741
KERNELS = (convnet.Convolution(3, 3, pool=2), convnet.Convolution(2, 2, stride=2))
AGENT = actor_critic.ActorCritic(I, CLASSES, H, encoded_size=5)
MODELS: dict[str, tuple[Any, str]] = {
    "tokens": (Network(TokenEncoder(7, 3, I), Classifier(CLASSES, 5), H), "tokens"),
    "patches": (Network(PatchEncoder(I, 4), Classifier(CLASSES, 5), H, layer="lstm"), "x"),
    "vectors": (
        Network(LinearEncoder(I, 4), Classifier(CLASSES, 5), H, layers=2, bidirectional=True, learn=("decay", "rate")),
        "x",
    ),
    "images": (ConvolutionalNetwork(KERNELS, Classifier(CLASSES, 5), 9), "images"),
}


def given(batch_size: int) -> dict[str, Any]:
    """Arguments for all parts; nothing may change them."""
    rng = numpy.random.default_rng(0)
    made = {
        "x": rng.standard_normal((T, batch_size, I)),
        "tokens": rng.integers(0, 7, (T, batch_size)),
        "images": rng.standard_normal((batch_size, 9, 9)),
        "logits": rng.standard_normal((batch_size, CLASSES)),
        "labels": rng.integers(0, CLASSES, batch_size),
        "of_row": rng.standard_normal(batch_size),
        "table": rng.standard_normal((7, I)),
        "weight": rng.standard_normal((H, I)),
        "bias": rng.standard_normal(H),
        "dy": rng.standard_normal((T, batch_size, H)),
        "dtable": rng.standard_normal((T, batch_size, I)),
        "dfeatures": rng.standard_normal((batch_size, convnet.feature_count(KERNELS, 9))),
        "kernels": convnet.init(rng, KERNELS, dtype="float64"),
        "rewards": rng.standard_normal((T, batch_size)),
        "agent": AGENT.init(rng, "float64"),
        "policy": rng.standard_normal((T, batch_size, CLASSES)),
        "actions": rng.integers(0, CLASSES, (T, batch_size)),
        **{f"params of {name}": model.init(rng, "float64") for name, (model, _) in MODELS.items()},
    }
    for array in arrays(made).values():
        array.flags.writeable = False
    return made


def assert_uniform(values: numpy.ndarray, bound: float) -> None:
    """Check numbers that are numerous enough to come close to both bounds."""
    assert 0.97 < values.max() / bound <= 1
    assert 0.97 < -values.min() / bound <= 1


def test_init_draws_what_is_documented():
    rng = numpy.random.default_rng(0)
    tokens = TokenEncoder(30, 25, 40).init(rng)
    assert_uniform(tokens["table"], 1)
    assert_uniform(tokens["weight"], 1 / 5)
    patches, classifier = PatchEncoder(25, 40).init(rng), Classifier(30, 36).init(rng, 25)
    assert_uniform(patches["weight"], 1 / 5)
    assert_uniform(classifier["hidden"], 1 / 5)
    assert_uniform(classifier["output"], 1 / 6)
    agent = actor_critic.ActorCritic(25, 40, 100, encoded_size=16).init(rng)
    assert_uniform(agent["heads"]["policy"], 1 / 10)
    assert_uniform(agent["heads"]["value"], 1 / 10)
    assert_uniform(agent["encoder"]["weight"], 1 / 5)
    for part in (tokens, patches, classifier, *agent.values()):
        for name, value in part.items():
            assert value.any() != name.endswith(("bias", "b")) or name == "gain", name
            assert value.dtype == "float32"
    for layer in (fast_weights, multilevel, irnn, lstm, associative_lstm):
        params = layer.init(rng, 25, 36)
        assert_uniform(params["C"], 1 / 5)
        normalized = layer.init(rng, 25, 36, layer_norm=True)
        assert (normalized["gain"] == 1).all()
        forget_gates = {lstm: 36, associative_lstm: 18}.get(layer, 0)
        assert normalized["bias"].sum() == forget_gates, "the forget gate's bias, if there is one"
        assert not normalized["b"].any()
        if layer in (lstm, associative_lstm):
            assert_uniform(params["W"], 1 / 6)
            assert (params["b"][1 if layer is lstm else 0] == 1).all()
            assert params["b"].sum() == params["b"].shape[1], "all others are zero"


# A part's forward, from the arguments to (results, what backward needs), and its backward, from both to results.
PARTS: dict[str, tuple[Callable[[dict], tuple[Any, Any]], Callable[[dict, Any], Any]]] = {
    "linear": (
        lambda a: (ops.linear(a["x"], a["weight"], a["bias"]), None),
        lambda a, cache: ops.linear_backward(a["dy"], a["x"], a["weight"]),
    ),
    "embedding": (
        lambda a: (ops.linear(ops.embedding(a["table"], a["tokens"]), a["weight"], a["bias"]), None),
        lambda a, cache: (
            ops.linear_backward(a["dy"], ops.embedding(a["table"], a["tokens"]), a["weight"]),
            ops.embedding_backward(a["dtable"], a["tokens"], 7),
        ),
    ),
    "cross-entropy": (
        lambda a: (ops.softmax_cross_entropy(a["logits"], a["labels"]), None),
        lambda a, cache: ops.softmax_cross_entropy_backward(a["of_row"], a["logits"], a["labels"]),
    ),
    "entropy": (
        lambda a: (ops.entropy(a["logits"]), None),
        lambda a, cache: ops.entropy_backward(a["of_row"], a["of_row"], a["logits"]),
    ),
    "squared error": (
        lambda a: (ops.squared_error(a["of_row"], a["bias"][:1]), None),
        lambda a, cache: ops.squared_error_backward(a["of_row"], a["of_row"], a["bias"][:1]),
    ),
    "returns": (lambda a: (actor_critic.returns(a["rewards"], 0.9, a["of_row"]), None), lambda a, cache: ()),
    "actor-critic loss": (
        lambda a: (actor_critic.loss_and_gradients(a["policy"], a["rewards"], a["actions"], a["rewards"] + 1), None),
        lambda a, cache: (),
    ),
    "agent": (
        lambda a: split(AGENT.forward(a["agent"], lambda t, logits: a["x"][t], T, a["x"].shape[1])),
        lambda a, cache: (
            AGENT.backward(a["policy"], a["rewards"], cache),
            tuple(AGENT.final_state(cache)),
            AGENT.next_values(a["agent"], a["x"][0], AGENT.final_state(cache)),
        ),
    ),
    **{
        f"convnet, {threads} threads": (
            lambda a, threads=threads: convnet.forward(a["kernels"], a["images"], KERNELS, threads=threads),
            lambda a, cache: (convnet.backward(a["dfeatures"], cache), convnet.backward(a["dfeatures"], cache)),
        )
        for threads in (1, 3)
    },
    **{
        f"network of {name}": (
            lambda a, name=name: MODELS[name][0].forward(a[f"params of {name}"], a[MODELS[name][1]]),
            lambda a, cache, name=name: (
                MODELS[name][0].backward(a["logits"], cache),
                MODELS[name][0].loss_and_gradients(a[f"params of {name}"], a[MODELS[name][1]], a["labels"]),
            ),
        )
        for name in MODELS
    },
}


def split(results: tuple) -> tuple[Any, Any]:
    """(a, b, cache) to ((a, b), cache)."""
    return results[:-1], results[-1]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("batch_size", [1, B])
def test_results_belong_to_the_caller(name, batch_size):
    """No result is a view of an argument, of what backward needs or of another result; no call changes an argument."""
    forward, backward = PARTS[name]
    arguments = given(batch_size)
    result, cache = forward(arguments)
    results = arrays(result, "forward") | arrays(backward(arguments, cache), "backward")
    for (one, a), (other, b) in combinations((results | arrays(arguments, "argument")).items(), 2):
        assert not (one in results and numpy.shares_memory(a, b)), f"{one} and {other} share memory"
    expected = {key: value.copy() for key, value in results.items()}
    for value in results.values():
        if value.flags.writeable:  # a NumPy scalar is not
            value[...] = numpy.nan
    again = arrays(backward(arguments, cache), "backward")
    assert_same(again, {key: value for key, value in expected.items() if key.startswith("backward")})
    assert_same(arrays(forward(arguments)[0], "forward") | again, expected)


@pytest.mark.parametrize("name", [name for name in PARTS if "threads" not in name])
def test_a_device_gives_the_hosts_numbers(name):
    forward, backward = PARTS[name]
    with strict_cupy.installed() as cupy:
        results = []
        for move in (lambda leaf: leaf, cupy.asarray):
            arguments = map_leaves(move, given(B))
            result, cache = forward(arguments)
            results.append(to_host((result, backward(arguments, cache))))
    expected = arrays(results[0])
    for key, value in arrays(results[1]).items():
        numpy.testing.assert_allclose(value, expected[key], rtol=1e-10, atol=1e-10, err_msg=key)


def test_the_oldest_cupy_that_will_do(monkeypatch):
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, driverGetVersion=lambda: 13000)
    for version, fits in (("13.3.9", False), ("13.4.0", True), ("14.0.0rc1", True)):
        cupy = SimpleNamespace(__version__=version, cuda=SimpleNamespace(runtime=runtime), ndarray=list, asarray=list)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        if fits:
            assert to_device({"W": numpy.ones(1)}, "cuda") == {"W": [1.0]}
        else:
            with pytest.raises(RuntimeError, match=r"needs CuPy 13.4 or newer, got 13.3.9"):
                to_device({"W": numpy.ones(1)}, "cuda")


# The plain losses, from parameters and the arguments of all parts.
LOSSES: dict[str, Callable[[dict, dict], Any]] = {
    "tokens": lambda params, a: losses.loss_of_network(
        params, a["tokens"], a["labels"], lambda params, x: fast_weights.forward(params, x)[0]
    ),
    "patches": lambda params, a: losses.loss_of_classifier(
        params["readout"],
        lstm.forward(params["layer"], losses.relu_layer(params["encoder"], a["x"], "weight", "bias"))[0][-1],
        a["labels"],
    ),
    "images": lambda params, a: losses.loss_of_classifier(
        params["readout"], plain_convnet.forward(params["layer"], a["images"][:, None], KERNELS)[0], a["labels"]
    ),
    "agent": lambda params, a: losses.loss_of_agent(
        params,
        a["x"],
        a["actions"],
        a["rewards"],
        a["advantages"],
        0.7,
        0.3,
        lambda params, x: fast_weights.forward(params, x)[0],
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_the_plain_ones_and_gradients_are_their_slope(name):
    """In one random direction of all parameters. The audit looks at each; this takes milliseconds."""
    a, rng = given(B), numpy.random.default_rng(1)
    params = a["agent" if name == "agent" else f"params of {name}"]
    params = map_leaves(lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape), params)
    if name == "agent":
        logits, values, cache = AGENT.forward(params, lambda t, logits: a["x"][t], T, B)
        a["advantages"] = a["rewards"] - values
        terms, *gradients = actor_critic.loss_and_gradients(logits, values, a["actions"], a["rewards"], 0.7, 0.3)
        loss, grads = T * (terms.policy + 0.7 * terms.value - 0.3 * terms.entropy), AGENT.backward(*gradients, cache)
    else:
        model, of_inputs = MODELS[name]
        loss, grads = model.loss_and_gradients(params, a[of_inputs], a["labels"])
    numpy.testing.assert_allclose(loss, LOSSES[name](params, a), rtol=1e-12)
    direction = {path: rng.standard_normal(leaf.shape) for path, leaf in flatten(params).items()}

    def moved(distance: float) -> Any:
        return LOSSES[name](
            unflatten({path: leaf + distance * direction[path] for path, leaf in flatten(params).items()}), a
        )

    slope = sum((grad * direction[path]).sum() for path, grad in flatten(grads).items())
    numpy.testing.assert_allclose(slope, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [None, numpy.inf, 1e9, 0.01])
def test_a_training_step_is_the_optimizers_step_by_the_clipped_gradients(clip_norm):
    a, steps = given(B), []

    class Recorder:
        def step(self, *arguments):
            steps.append(arguments)

    model, params, options = MODELS["tokens"][0], a["params of tokens"], {"clip_norm": clip_norm} if clip_norm else {}
    expected, grads = model.loss_and_gradients(params, a["tokens"], a["labels"])
    loss = network.train_step(model, params, Recorder(), a["tokens"], a["labels"], 0.1, **options)
    ((of_step, clipped, learning_rate),) = steps
    assert loss == expected
    assert of_step is params
    assert learning_rate == 0.1
    norm = sum((grad**2).sum() for grad in flatten(grads).values()) ** 0.5
    scale = 0.01 / norm if clip_norm == 0.01 else 1
    for path, grad in flatten(grads).items():
        numpy.testing.assert_allclose(flatten(clipped)[path], scale * grad, rtol=1e-12, err_msg=path)


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_an_optimizers_state_belongs_to_the_caller(kind):
    """What is done to a state that was taken, or given, does not reach the optimizer, nor the other way round."""
    params, grads = {"W": numpy.ones((2, 3))}, {"W": numpy.full((2, 3), 0.5)}
    grads["W"].flags.writeable = False
    optimizer = kind(params)
    optimizer.step(params, grads, 0.1)
    taken = optimizer.state()
    kept = {name: value.copy() for name, value in taken.items()}
    optimizer.step(params, grads, 0.1)
    assert_same(arrays(taken), arrays(kept))
    optimizer.load_state(taken)
    for value in taken.values():
        value[...] = 7
    assert_same(arrays(optimizer.state()), arrays(kept))
    other = kind(params)
    other.load_state(kept)
    one, two = ({"W": numpy.ones((2, 3))} for _ in range(2))
    optimizer.step(one, grads, 0.1)
    other.step(two, grads, 0.1)
    numpy.testing.assert_array_equal(one["W"], two["W"])


def test_moments_that_are_given_are_the_optimizers_own():
    """So that learners can share them."""
    params = {"W": numpy.ones((2, 3))}
    moments = {"m": numpy.zeros(6), "v": numpy.zeros(6)}
    optim.Adam(params, moments=moments).step(params, params, 0.1)
    numpy.testing.assert_allclose(moments["m"], 0.1)
    for wrong, message in (
        ({"m": numpy.zeros(6)}, "moments: expected m, v; missing v; one vector for each"),
        (moments | {"v": numpy.zeros(5)}, r"moments\['v'\]: expected shape \(6,\), got \(5,\); as many numbers as"),
    ):
        with pytest.raises(ValueError, match=message):
            optim.Adam(params, moments=wrong)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_refuses_parameters_of_other_parts(name):
    model, of_inputs = MODELS[name]
    arguments = given(B)
    valid = arguments[f"params of {name}"]
    for part in valid:
        others = {key: value for key, value in valid.items() if key != part}
        for params, message in ((others, f"missing {part}"), (valid | {"spare": {}}, "unknown spare")):
            with pytest.raises(ValueError, match=f"params: expected .*{message}"):
                model.forward(params, arguments[of_inputs])


def test_wrong_options_of_models_are_named():
    with pytest.raises(ValueError, match="layer: expected one of"):
        Network(TokenEncoder(3), Classifier(2), 4, layer="gru")
    for name in ("inputs", "actions", "hidden_size", "encoded_size"):
        with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
            actor_critic.ActorCritic(**{"inputs": 1, "actions": 1} | {name: 0})


def test_a_convolutional_network_takes_images_of_its_side_alone():
    """Images of 8 x 8 and 9 x 8 pixels would give as many features."""
    layers = (convnet.Convolution(2, 2, pool=2),)
    model = network.ConvolutionalNetwork(layers, Classifier(2, 3), 9)
    params = model.init(numpy.random.default_rng(0))
    for shape in ((4, 8, 8), (4, 9, 8), (4, 1, 9, 9)):
        with pytest.raises(ValueError, match=r"inputs: expected shape \(B, 9, 9\)"):
            model.forward(params, numpy.ones(shape, "float32"))
    for change in ({"side": 0}, {"layers": ()}, {"layers": (convnet.Convolution(1, 10),)}, {"threads": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(change))}: expected"):
            network.ConvolutionalNetwork(**{"layers": layers, "readout": Classifier(2, 3), "side": 9} | change)


@pytest.mark.parametrize("clip_norm", [0, -1.0, numpy.nan, None, True])
def test_a_clip_norm_that_is_none_is_refused(clip_norm):
    with pytest.raises((TypeError, ValueError), match=r"clip_norm: expected a (finite )?number"):
        network.train_step(None, {}, None, None, None, 0.1, clip_norm=clip_norm)


@pytest.mark.parametrize(("name", "arguments"), [("init", 1), ("forward", 2), ("backward", 2)])
def test_a_model_has_to_say_what_it_does(name, arguments):
    with pytest.raises(NotImplementedError):
        getattr(network.Model(), name)(*[None] * arguments)


def wrong_arguments_of_actor_critics(a: dict[str, Any]) -> list[tuple[Callable, dict[str, Any], dict[str, Any], type]]:
    """A function, its valid arguments, one changed argument, and the error's type."""
    returns = {"rewards": a["rewards"], "discount": 0.9, "bootstrap": a["of_row"]}
    loss = {"logits": a["policy"], "values": a["rewards"], "actions": a["actions"], "targets": a["rewards"]}
    play = {"params": a["agent"], "see": lambda t, logits: a["x"][t], "steps": T, "games": B}
    _, _, cache = AGENT.forward(**play)
    back = {"dlogits": a["policy"], "dvalues": a["rewards"], "cache": cache}
    look = {"params": a["agent"], "seen": a["x"][0], "state": AGENT.final_state(cache)}
    without = {part: {key: value for key, value in a["agent"].items() if key != part} for part in a["agent"]}
    of_loss, of_agent = actor_critic.loss_and_gradients, AGENT.forward
    return [
        (actor_critic.returns, returns, {"discount": 1.1}, ValueError),
        (actor_critic.returns, returns, {"rewards": a["of_row"]}, ValueError),
        (actor_critic.returns, returns, {"bootstrap": a["of_row"][1:]}, ValueError),
        (actor_critic.returns, returns, {"bootstrap": a["of_row"].astype("float32")}, TypeError),
        (of_loss, loss, {"logits": a["policy"][1:]}, ValueError),
        (of_loss, loss, {"logits": a["policy"][..., :0]}, ValueError),
        (of_loss, loss, {"actions": a["actions"][1:]}, ValueError),
        (of_loss, loss, {"actions": a["rewards"]}, TypeError),
        (of_loss, loss, {"actions": a["actions"] - CLASSES}, ValueError),
        (of_loss, loss, {"targets": a["rewards"][1:]}, ValueError),
        (of_loss, loss, {"targets": a["rewards"].astype("float32")}, TypeError),
        (of_loss, loss, {"value_weight": -0.1}, ValueError),
        (of_loss, loss, {"entropy_weight": float("nan")}, ValueError),
        *((of_agent, play, {"params": others}, ValueError) for others in without.values()),
        *((AGENT.next_values, look, {"params": others}, ValueError) for others in without.values()),
        (of_agent, play, {"see": None}, TypeError),
        (of_agent, play, {"steps": 0}, ValueError),
        (of_agent, play, {"games": 0}, ValueError),
        (of_agent, play, {"games": True}, TypeError),
        (of_agent, play, {"state": a["of_row"]}, TypeError),
        (AGENT.backward, back, {"dlogits": a["policy"][1:]}, ValueError),
        (AGENT.backward, back, {"dvalues": a["rewards"][1:]}, ValueError),
        (AGENT.backward, back, {"dvalues": None}, TypeError),
        (AGENT.init, {"rng": numpy.random.default_rng(0)}, {"rng": 3}, TypeError),
    ]


def test_wrong_arguments_of_actor_critics_are_named():
    for call, valid, change, error in wrong_arguments_of_actor_critics(given(B)):
        (name,) = change
        with pytest.raises(error, match=f"^{name}: expected"):
            call(**valid | change)
        call(**valid)


def test_the_smallest_sizes_of_models_work():
    network.Network(TokenEncoder(1, 1, 1), Classifier(1, 1), 1)
    agent = actor_critic.ActorCritic(1, 1, 1, encoded_size=1)
    params = agent.init(numpy.random.default_rng(0))
    logits, values, _ = agent.forward(params, lambda t, logits: numpy.ones((1, 1), "float32"), 1, 1)
    assert logits.shape == (1, 1, 1)
    assert values.shape == (1, 1)


ZERO, ONE, BELOW_ONE = ([0.0, 0], [1.0, 1], [-0.1, 1.1, float("nan")])
# option: what just fits, and what does not
OF_OPTIMIZERS: list[tuple[Any, str, list, list]] = [
    (optim.Adam, "beta1", ZERO, [*ONE, -0.1, 1.1]),
    (optim.Adam, "beta2", ZERO, [*ONE, -0.1, 1.1]),
    (optim.Adam, "epsilon", [1e-3], [0.0, 1e-400, -1e-9, float("inf")]),
    (optim.Adam, "weight_decay", ZERO, [-1e-9, float("nan")]),
    (optim.RMSProp, "rho", ZERO, [*ONE, -0.1, 1.1]),
    (optim.RMSProp, "epsilon", [1e-3], [0.0, 1e-400, -1e-9, float("inf")]),
]


@pytest.mark.parametrize(("kind", "name", "allowed", "refused"), OF_OPTIMIZERS)
def test_options_of_optimizers_have_bounds(kind, name, allowed, refused):
    params = {"W": numpy.ones(2)}
    for value in allowed:
        kind(params, **{name: value})
    for value in refused:
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            kind(params, **{name: value})
    with pytest.raises(TypeError, match=f"^{name}: expected a number"):
        kind(params, **{name: "1"})


@pytest.mark.parametrize("kind", [optim.Adam, optim.RMSProp])
def test_an_update_that_is_refused_changes_nothing(kind):
    params, grads = {"W": numpy.ones((2, 3)), "b": numpy.ones(2)}, {"W": numpy.ones((2, 3)), "b": numpy.ones(2)}
    optimizer = kind(params)
    before = optimizer.state()
    for wrong_params, wrong_grads, rate, message in (
        (params, grads, -0.1, "learning_rate: expected"),
        (params, grads, float("nan"), "learning_rate: expected"),
        ({"W": params["W"]}, grads, 0.1, "params: .*too many or few: b"),
        (params, grads | {"c": grads["b"]}, 0.1, "grads: .*too many or few: c"),
        (params | {"b": numpy.ones(3)}, grads, 0.1, r"params\['b'\]: expected shape"),
        (params, grads | {"W": numpy.ones((3, 2))}, 0.1, r"grads\['W'\]: expected shape"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            optimizer.step(wrong_params, wrong_grads, rate)
    assert_same(arrays(optimizer.state()), arrays(before))
    assert all((value == 1).all() for value in params.values())
    optimizer.step(params, grads, 0.0)
    assert optimizer.updates == 1


def test_clipping_of_nothing_and_of_the_smallest():
    grads = {"a": numpy.zeros(2)}
    assert optim.clip_by_global_norm(grads, 1.0) == 0
    assert not grads["a"].any()
    for size in (1e-300, 1e-160, 1e-30, 0.3):
        norm = optim.clip_by_global_norm({"a": numpy.full(4, size)}, 1.0)
        numpy.testing.assert_allclose(norm, 2 * size, rtol=1e-12)


def test_entropy_of_large_logits_does_not_overflow():
    H, log_pi = ops.entropy(numpy.array([[1e4, 1e4, 0.0], [-1e4, -1e4, -1e4]]))
    numpy.testing.assert_allclose(H, [numpy.log(2), numpy.log(3)])
    numpy.testing.assert_allclose(numpy.exp(log_pi).sum(axis=1), 1)


def test_schedules_refuse_what_is_out_of_bounds():
    for arguments, message in (((0, 8, -0.1), "hold"), ((0, 8, 1.1), "hold"), ((0, 0), "updates")):
        with pytest.raises(ValueError, match=f"^{message}: expected"):
            optim.linear_decay(*arguments)
    assert optim.linear_decay(0, 1) == 1.0
    with pytest.raises(ValueError, match=r"^limit: expected"):
        optim.clip_by_global_norm({"a": numpy.ones(1)}, -1.0)
