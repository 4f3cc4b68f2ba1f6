"""What is not a plain array (None, a list, a masked array, a matrix ...) is refused by name, wherever an array goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import actor_critic, convnet, ops, optim
from fastweights_np.multilevel import Controls
from fastweights_np.network import LAYERS, Classifier, Network, PatchEncoder, TokenEncoder

Call = Callable[[Any], Any]
EVERY, NEVER = [True] * 5, [False] * 5


def refused() -> dict[str, Any]:
    """Values that are no arrays, or arrays whose operators mean something else."""
    with pytest.warns(PendingDeprecationWarning):
        matrix = numpy.matrix("1 2")
    masked = numpy.ma.masked_array([1.0], [True])
    return {"None": None, "list": [1.0], "number": 3, "text": "x", "matrix": matrix, "masked": masked}


def calls_of_layer(name: str) -> Iterator[tuple[str, Call]]:
    layer, signals, options = LAYERS[name], {}, {}
    if name == "multilevel":
        options = {"controls": Controls(EVERY, NEVER, EVERY, NEVER)}
        signals = {"store": True, "wipe": False, "read": True, "integrate": False}
    params, x = layer.init(numpy.random.default_rng(0), 3, 6), numpy.ones((5, 2, 3), "float32")
    h, cache = layer.forward(params, x, **options)
    state = layer.initial_state(params, 2)
    yield "x", lambda bad: layer.forward(params, bad, **options)
    yield "params", lambda bad: layer.forward(bad, x, **options)
    for key in params:
        yield key, lambda bad, key=key: layer.forward(params | {key: bad}, x, **options)
    for field in state._fields:
        yield f"{field}0?", lambda bad, field=field: layer.forward(params, x, **{f"{field}0": bad}, **options)
        yield f"{field}0?", lambda bad, field=field: layer.initial_state(params, 2, **{f"{field}0": bad})
        yield f"state.{field}", lambda bad, f=field: layer.step(params, x[0], state._replace(**{f: bad}), **signals)
    yield "dh", lambda bad: layer.backward(bad, cache)
    yield "cache", lambda bad: layer.backward(h, bad)
    yield "cache", layer.final_state
    if hasattr(layer, "attention"):
        yield "cache", layer.attention
    yield "x", lambda bad: layer.step(params, bad, state, **signals)
    yield "state", lambda bad: layer.step(params, x[0], bad, **signals)
    yield "params", lambda bad: layer.step(bad, x[0], state, **signals)
    yield "params", lambda bad: layer.initial_state(bad, 2)


def calls_of_networks() -> Iterator[tuple[str, Call]]:
    rng, tokens = numpy.random.default_rng(0), numpy.zeros((5, 2), int)
    net, patches = Network(TokenEncoder(9), Classifier(3), 6), Network(PatchEncoder(9), Classifier(3), 6)
    params, of_patches = net.init(rng), patches.init(rng)
    _, cache = net.forward(params, tokens)
    yield "tokens", lambda bad: net.forward(params, bad)
    yield "x", lambda bad: patches.forward(of_patches, bad)
    yield "params", lambda bad: net.forward(bad, tokens)
    yield "labels", lambda bad: net.loss_and_gradients(params, tokens, bad)
    yield "dy", lambda bad: net.backward(bad, cache)
    for part in params:
        yield "params", lambda bad, part=part: net.forward(params | {part: bad}, tokens)
        for key in params[part]:
            yield key, lambda bad, p=part, k=key: net.forward(params | {p: params[p] | {k: bad}}, tokens)
    agent = actor_critic.ActorCritic(3, 2, 6)
    of_agent, seen = agent.init(rng), numpy.ones((2, 3), "float32")
    logits, values, cache = agent.forward(of_agent, lambda t, logits: seen, 3, 2)
    yield "params", lambda bad: agent.forward(bad, lambda t, logits: seen, 3, 2)
    yield "see", lambda bad: agent.forward(of_agent, bad, 3, 2)
    yield "dlogits", lambda bad: agent.backward(bad, values, cache)
    yield "dvalues", lambda bad: agent.backward(logits, bad, cache)
    yield "x", lambda bad: agent.next_values(of_agent, bad, agent.final_state(cache))
    layers = (convnet.Convolution(2, 3),)
    kernels, images = convnet.init(rng, layers), numpy.ones((2, 8, 8), "float32")
    _, conv_cache = convnet.forward(kernels, images, layers)
    yield "images", lambda bad: convnet.forward(kernels, bad, layers)
    yield "bias0", lambda bad: convnet.forward(kernels | {"bias0": bad}, images, layers)
    yield "dfeatures", lambda bad: convnet.backward(bad, conv_cache)
    yield "layers", lambda bad: convnet.forward(kernels, images, bad)


def calls_of_functions() -> Iterator[tuple[str, Call]]:
    rows, units, classes = numpy.ones((2, 3)), numpy.ones(2), numpy.zeros(2, int)
    for function, arrays in (
        (ops.linear, {"x": rows, "weight": numpy.ones((4, 3))}),
        (ops.linear, {"bias?": numpy.ones(4), "x": rows, "weight": numpy.ones((4, 3))}),
        (ops.linear_backward, {"dy": numpy.ones((2, 4)), "x": rows, "weight": numpy.ones((4, 3))}),
        (ops.embedding, {"table": rows, "tokens": classes}),
        (ops.softmax_cross_entropy, {"logits": rows, "labels": classes}),
        (ops.softmax_cross_entropy_backward, {"dnll": units, "probabilities": rows, "labels": classes}),
        (ops.entropy, {"logits": rows}),
        (ops.entropy_backward, {"dH": units, "H": units, "log_pi": rows}),
        (ops.squared_error, {"values": units, "targets": units}),
        (ops.squared_error_backward, {"dloss": units, "values": units, "targets": units}),
        (partial(actor_critic.returns, discount=0.9), {"rewards": rows, "bootstrap": rows[0]}),
        (
            actor_critic.loss_and_gradients,
            {"logits": rows[None], "values": rows[:1, :2], "actions": classes[None], "targets": rows[:1, :2]},
        ),
    ):  # fmt: skip
        for name in arrays:
            rest = {key.rstrip("?"): value for key, value in arrays.items()}
            yield name, lambda bad, f=function, name=name, rest=rest: f(**rest | {name.rstrip("?"): bad})
    params = {"layer": {"W": rows}}
    adam = optim.Adam(params)
    yield "tree", optim.Adam
    yield "tree", lambda bad: adam.step(params, bad, 0.1)
    yield "tree", lambda bad: optim.clip_by_global_norm(bad, 1.0)
    yield "layer/W", lambda bad: optim.Adam({"layer": {"W": bad}})
    yield "layer/W", lambda bad: optim.clip_by_global_norm({"layer": {"W": bad}}, 1.0)
    yield "state", adam.load_state
    yield "m", lambda bad: adam.load_state(adam.state() | {"m": bad})


@pytest.mark.parametrize("group", [*LAYERS, "networks", "functions"])
def test_what_is_no_plain_array_is_named(group):
    calls = {"networks": calls_of_networks, "functions": calls_of_functions}.get(group, lambda: calls_of_layer(group))
    for name, call in calls():
        for kind, bad in refused().items():
            if name.endswith("?") and bad is None:  # an optional array
                call(bad)
                continue
            with pytest.raises((TypeError, ValueError)) as caught:
                call(bad)
            message = str(caught.value)
            assert message.partition(":")[0].startswith(name.rstrip("?")), (name, kind, message)
            assert "expected" in message, (name, kind, message)


def test_masked_arrays_and_matrices_do_not_go_to_a_device():
    for kind in ("matrix", "masked"):
        with pytest.raises(TypeError, match="tree: expected a plain array"):
            fw.to_device({"x": [refused()[kind]]}, "cpu")


@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_float32_cannot_hold_are_refused(name):
    option = "forget_bias" if "lstm" in name else "recurrent_scale"
    with pytest.raises(ValueError, match=rf"{option}: expected a finite number in float32, got 1e\+39"):
        LAYERS[name].init(numpy.random.default_rng(0), 3, 4, **{option: 1e39})
    LAYERS[name].init(numpy.random.default_rng(0), 3, 4, **{option: 1e39}, dtype="float64")


def resized(array: Any) -> Any:
    return array[..., :-1]


@pytest.mark.parametrize(
    "change", [resized, lambda a: a.astype("float64"), lambda a: a.astype("float16"), lambda a: a.astype(">f4")]
)
@pytest.mark.parametrize("encoder", [TokenEncoder(9), PatchEncoder(9)])
def test_every_array_of_a_network_has_its_dtype_and_size(encoder, change):
    net = Network(encoder, Classifier(3), 6)
    params = net.init(numpy.random.default_rng(0))
    tokens = numpy.zeros((5, 2), int)
    inputs = tokens if isinstance(encoder, TokenEncoder) else numpy.ones((5, 2, 9), "float32")
    wrong = [params | {p: params[p] | {k: change(params[p][k])}} for p in ("encoder", "readout") for k in params[p]]
    calls = [partial(net.forward, each, inputs) for each in wrong]
    if inputs is not tokens:
        calls.append(partial(net.forward, params, change(inputs)))
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=r"^[\w.]+: expected "):
            call()


@pytest.mark.parametrize("kind", [TokenEncoder, PatchEncoder, Classifier])
def test_sizes_and_dtypes_of_the_parts_of_a_network_are_checked(kind):
    for sizes in ((0,), (2.0,), (True,), (3, 0)):
        with pytest.raises((ValueError, TypeError), match=": expected "):
            kind(*sizes)
    arguments = (4,) if kind is Classifier else ()
    for rng, dtype in ((0, "float32"), (numpy.random.default_rng(0), "float16")):
        with pytest.raises((ValueError, TypeError), match=r"^(rng|dtype): expected "):
            kind(3).init(rng, *arguments, dtype=dtype)
