"""The contract of all recurrent layers: who owns an array, stale caches, refused arguments.

One table describes the layers; every test runs over it. Gradients are compared in the audit, defaults in
test_defaults.py.
"""

from __future__ import annotations

import re
import tracemalloc
from importlib import import_module
from inspect import signature
from itertools import combinations
from types import ModuleType
from typing import Any, NamedTuple

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import associative_lstm, fast_weights, irnn, lstm, multilevel, ops
from fastweights_np.trees import map_leaves
from tests.test_defaults import DEFAULTS

T, B, I, H = 5, 3, 4, 6  # noqa: E741
FUNCTIONS = ("init", "forward", "backward", "final_state", "attention", "initial_state", "step")


class Layer(NamedTuple):
    """What distinguishes a layer in this contract."""

    module: ModuleType
    states: dict[str, tuple[int, ...]]  # initial states: name to shape, without the axis of the batch
    extra: tuple[str, ...]  # the gradients that backward returns on request
    init: dict[str, Any]  # options of init that give the layer all its parameters
    options: list[dict[str, Any]]  # options of forward; step has some of them, too
    variant: dict[str, Any]  # options that init, forward and step have in common

    @property
    def name(self) -> str:
        return self.module.__name__.rpartition(".")[2]

    def controls(self, steps: int, first: int = 0) -> dict[str, Any]:
        """The arguments of forward that have no default, for these steps from the first one on."""
        if self.module is not multilevel:
            return {}
        signals = [list(self.signals_at(t).values()) for t in range(first, first + steps)]
        return {"controls": multilevel.Controls(*zip(*signals, strict=True))}

    def signals_at(self, t: int) -> dict[str, bool]:
        """The arguments of step that have no default: of multilevel, signals that are on at some steps only."""
        if self.module is not multilevel:
            return {}
        return {"store": t % 3 == 0, "wipe": t % 4 == 1, "read": t % 2 == 0, "integrate": t % 4 == 0}

    def arguments(self, steps: int = T, batch_size: int = B, seed: int = 0, **init: Any) -> dict[str, dict[str, Any]]:
        """Valid arguments of each of the layer's functions. All of one cache, whose workspace forward gets, too."""
        rng = numpy.random.default_rng(seed)
        params = self.module.init(rng, I, H, **{"dtype": "float64"} | self.variant | init)
        params = {name: value + 0.3 * rng.standard_normal(value.shape) for name, value in params.items()}
        x, dh = rng.standard_normal((steps, batch_size, I)), rng.standard_normal((steps, batch_size, H))
        states = {name: rng.standard_normal((batch_size, *shape)) for name, shape in self.states.items()}
        workspace = fw.Workspace()
        forward = {"params": params, "x": x, **states, **self.controls(steps), "workspace": workspace} | self.variant
        _, cache = self.module.forward(**forward)
        return {
            "init": {"rng": rng, "input_size": I, "hidden_size": H},
            "forward": forward,
            "backward": {"dh": dh, "cache": cache, "extra": self.extra},
            "final_state": {"cache": cache},
            "attention": {"cache": cache},
            "initial_state": {"params": params, "batch_size": batch_size, **states},
            "step": {"params": params, "x": x[0], "state": self.module.final_state(cache), **self.signals_at(0)}
            | self.variant,
        }

    def functions(self, *names: str) -> list[str]:
        """Return the names of the functions that the layer has."""
        return [name for name in names if hasattr(self.module, name)]


MEMORY = {"decay": 0.7, "rate": 0.3, "inner_steps": 2, "activation": "tanh", "normalize_preliminary": True}
METHOD_2 = {"sustained_boundary": False, "inner_steps": 3}
LAYERS = [
    Layer(
        fast_weights, {"h0": (H,), "A0": (H, H)}, ("decay", "rate", "A0"), {"layer_norm": True},
        [{}, MEMORY | {"chunk": 2}, METHOD_2 | {"chunk": 1}, {"inner_steps": 0}], {},
    ),
    Layer(
        multilevel, {"h0": (H,), "A0": (H, H)}, ("decay", "rate", "A0"), {"layer_norm": True},
        [{}, MEMORY | {"chunk": 1}], {},
    ),
    Layer(irnn, {"h0": (H,)}, (), {"layer_norm": True}, [{}, {"activation": "tanh"}], {}),
    Layer(lstm, {"h0": (H,), "c0": (H,)}, ("c0",), {"layer_norm": True}, [{}], {}),
    *(
        Layer(
            associative_lstm, {"h0": (H,), "c0": (4, H)}, ("c0",), {"layer_norm": True},
            [{}, {"recurrent_value": False}], variant,
        )
        for variant in ({}, {"shared_value": True})
    ),
]  # fmt: skip
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
each_layer_and_its_options = pytest.mark.parametrize(
    ("layer", "options"), [(layer, options) for layer in LAYERS for options in layer.options]
)


def arrays(value: Any, name: str = "") -> dict[str, numpy.ndarray]:
    """The arrays within dicts, tuples and named tuples, by their path."""
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return {name: numpy.asarray(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
    return {path: array for key, part in items for path, array in arrays(part, f"{name}/{key}").items()}


def assert_same(results: dict[str, numpy.ndarray], expected: dict[str, numpy.ndarray]) -> None:
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        numpy.testing.assert_array_equal(results[name], value, err_msg=name)


def all_results(layer: Layer, arguments: dict[str, dict[str, Any]]) -> dict[str, numpy.ndarray]:
    """Every array that the layer's functions return, by function and place; forward overwrites the workspace."""
    h, cache = layer.module.forward(**arguments["forward"])
    return arrays(h, "forward") | results_of_cache(layer, arguments, cache)


def results_of_cache(layer: Layer, arguments: dict[str, dict[str, Any]], cache: Any) -> dict[str, numpy.ndarray]:
    """As all_results, from a forward that has been run."""
    results = {}
    for function in layer.functions("backward", "final_state", "attention"):
        results |= arrays(getattr(layer.module, function)(**arguments[function] | {"cache": cache}), function)
    results |= arrays(layer.module.initial_state(**arguments["initial_state"]), "initial_state")
    for t in range(4 if layer.signals_at(0) else 1):
        results |= arrays(layer.module.step(**arguments["step"] | layer.signals_at(t)), f"step{t}")
    return results


def of_forward(layer: Layer, arguments: dict[str, dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    """All arguments of forward by name, defaults as they are documented."""
    return DEFAULTS[f"{layer.name}.forward"] | arguments["forward"] | options


# ------------------------------------------------------------------------------------------------- values and gradients


@each_layer_and_its_options
@pytest.mark.parametrize("layer_norm", [False, True])
def test_forward_is_the_equations(layer, options, layer_norm):
    """Equal to the plain layer."""
    forward = of_forward(layer, layer.arguments(**dict.fromkeys(layer.init, layer_norm)), options)
    if "rate" in forward and not layer_norm:  # where larger fast weights make states grow beyond all bounds
        forward |= {"rate": 1e-4, "A0": forward["A0"] / 100}
    plain = import_module(f"fastweights_np.plain.{layer.name}").forward
    given = {name: value for name, value in forward.items() if name in signature(plain).parameters}
    given |= {"permutations": associative_lstm.permutations(4, H // 2)} if layer.module is associative_lstm else {}
    h, cache = layer.module.forward(**forward)
    expected, *memory, _ = plain(**given)
    numpy.testing.assert_allclose(h, expected, atol=1e-11)
    for A in memory:
        numpy.testing.assert_allclose(layer.module.final_state(cache).A, A, atol=1e-11)


@each_layer_and_its_options
def test_runs_that_are_cut_into_parts_or_steps_equal_the_whole(layer, options):
    arguments = layer.arguments(**layer.init)
    forward = of_forward(layer, arguments, options) | {"workspace": None}
    whole, cache = layer.module.forward(**forward)
    expected = layer.module.final_state(cache)
    cut = 2
    first, cache = layer.module.forward(**forward | {"x": forward["x"][:cut]} | layer.controls(cut))
    given = dict(zip(layer.states, layer.module.final_state(cache), strict=True))
    second, cache = layer.module.forward(**forward | {"x": forward["x"][cut:]} | given | layer.controls(T - cut, cut))
    numpy.testing.assert_allclose(numpy.concatenate([first, second]), whole, atol=1e-12)

    state = layer.module.initial_state(**arguments["initial_state"])
    of_step = {name: value for name, value in options.items() if name in DEFAULTS[f"{layer.name}.step"]}
    for t, (x, h) in enumerate(zip(forward["x"], whole, strict=True)):
        h_t, state = layer.module.step(forward["params"], x, state, **layer.signals_at(t), **layer.variant | of_step)
        numpy.testing.assert_allclose(h_t, h, atol=1e-12)
    for name, value, after_parts, after_steps in zip(
        layer.states, expected, layer.module.final_state(cache), state, strict=True
    ):
        numpy.testing.assert_allclose(after_parts, value, atol=1e-12, err_msg=name)
        numpy.testing.assert_allclose(after_steps, value, atol=1e-12, err_msg=name)


@each_layer
def test_defaults_are_those_that_are_documented(layer):
    """With every default spelled out the results are the same bits."""
    arguments = layer.arguments()
    for function in layer.functions(*FUNCTIONS):
        defaults, given = DEFAULTS[f"{layer.name}.{function}"], dict(arguments[function])
        required = {name: value for name, value in given.items() if name not in defaults}
        if function == "init":
            short, spelled = (
                layer.module.init(numpy.random.default_rng(0), I, H, **options) for options in ({}, defaults)
            )
        else:
            call = getattr(layer.module, function)
            variant = {name: value for name, value in layer.variant.items() if name in defaults}
            short, spelled = call(**required | variant), call(**required | defaults | variant)
        assert_same(arrays(spelled), arrays(short))


@each_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_shapes_are_kept_everywhere(layer, dtype):
    exact = layer.arguments(**layer.init)
    results = all_results(layer, exact)
    cast = map_leaves(lambda leaf: leaf.astype(dtype) if isinstance(leaf, numpy.ndarray) else leaf, exact)
    for name, value in all_results(layer, cast).items():
        assert value.dtype == dtype, name
        tolerance = 1e-3 * abs(results[name]).max() if dtype == "float32" else 0
        numpy.testing.assert_allclose(value, results[name], rtol=0, atol=tolerance, err_msg=name)
    params = exact["forward"]["params"]
    shapes = {name: value.shape for name, value in params.items()}
    shapes |= {name: (B, *layer.states[name]) if name in layer.states else () for name in layer.extra}
    assert {name: results[f"backward/0/{name}"].shape for name in shapes} == shapes
    assert {
        name: value.shape
        for name, value in layer.module.init(numpy.random.default_rng(0), I, H, **layer.init | layer.variant).items()
    } == {name: value.shape for name, value in params.items()}
    assert [results[f"backward/{n}"].shape for n in (1, 2)] == [(T, B, I), (B, H)]
    assert results["forward"].shape == (T, B, H)


@each_layer_and_its_options
def test_options_may_be_numpy_scalars_and_change_no_dtype(layer, options):
    scalars = {int: numpy.int64, float: numpy.float64}
    arguments = map_leaves(
        lambda leaf: leaf.astype("f") if isinstance(leaf, numpy.ndarray) else leaf, layer.arguments()
    )
    results = []
    for given in (
        options,
        {name: scalars.get(type(value), lambda same: same)(value) for name, value in options.items()},
    ):
        of_step = {name: value for name, value in given.items() if name in DEFAULTS[f"{layer.name}.step"]}
        called = {"forward": arguments["forward"] | given, "step": arguments["step"] | of_step}
        results.append(all_results(layer, arguments | called))
    for name, value in results[0].items():
        assert results[1][name].dtype == "float32", name
        numpy.testing.assert_allclose(results[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@each_layer
def test_gradients_asked_for_one_by_one_are_those_asked_for_together(layer):
    arguments = layer.arguments()["backward"]
    together, *_ = layer.module.backward(**arguments)
    assert layer.module.backward(arguments["dh"], arguments["cache"])[0].keys() == together.keys() - set(layer.extra)
    for name in layer.extra:
        for also in (name, [name]):
            grads, *_ = layer.module.backward(**arguments | {"extra": also})
            assert grads.keys() == together.keys() - set(layer.extra) | {name}
            numpy.testing.assert_array_equal(grads[name], together[name])


@each_layer
def test_tokens_are_an_input_too(layer):
    arguments, rng = layer.arguments(), numpy.random.default_rng(1)
    table, tokens = rng.standard_normal((7, I)), rng.integers(0, 7, (T, B))
    forward, dh = arguments["forward"] | {"workspace": None}, arguments["backward"]["dh"]
    h, cache = layer.module.forward(**forward | {"x": ops.embedding(table, tokens)})
    expected, expected_cache = layer.module.forward(**forward | {"x": table[tokens]})
    numpy.testing.assert_allclose(h, expected, atol=1e-13)
    (grads, dtable, _), (wanted, dx, _) = layer.module.backward(dh, cache), layer.module.backward(dh, expected_cache)
    numpy.testing.assert_allclose(dtable, ops.embedding_backward(dx, tokens, 7), atol=1e-12)
    for name, value in wanted.items():
        numpy.testing.assert_allclose(grads[name], value, atol=1e-11, err_msg=name)


@each_layer
def test_sequences_of_a_batch_do_not_see_one_another(layer):
    arguments = layer.arguments()
    forward, dh = arguments["forward"], arguments["backward"]["dh"]
    h, cache = layer.module.forward(**forward)
    _, dx, dh0 = layer.module.backward(dh, cache)
    one = {name: forward[name][1:2] for name in layer.states} | {"x": forward["x"][:, 1:2], "workspace": None}
    alone, cache = layer.module.forward(**forward | one)
    _, dx_alone, dh0_alone = layer.module.backward(dh[:, 1:2], cache)
    for got, expected in ((h[:, 1:2], alone), (dx[:, 1:2], dx_alone), (dh0[1:2], dh0_alone)):
        numpy.testing.assert_allclose(got, expected, atol=1e-13)


@each_layer
def test_layout_of_the_inputs_does_not_matter(layer):
    arguments = layer.arguments(**layer.init)
    expected = all_results(layer, arguments)
    for odd in (numpy.asfortranarray, lambda leaf: numpy.repeat(leaf, 2, axis=-1)[..., ::2]):
        strided = map_leaves(lambda leaf: odd(leaf) if isinstance(leaf, numpy.ndarray) else leaf, arguments)  # noqa: B023
        for name, value in all_results(layer, strided).items():
            numpy.testing.assert_allclose(value, expected[name], rtol=1e-11, atol=1e-11, err_msg=name)


@each_layer_and_its_options
@pytest.mark.parametrize("last_only", [False, True])
def test_gradients_are_the_slope_of_the_loss(layer, options, last_only):
    """In one random direction of all that has a gradient. The audit looks at each; this takes milliseconds."""
    arguments, direction = layer.arguments(**layer.init), layer.arguments(seed=1, **layer.init)["forward"]
    forward = of_forward(layer, arguments, options)
    dh = arguments["backward"]["dh"][-1] if last_only else arguments["backward"]["dh"]
    direction |= {"decay": 0.3, "rate": -0.2}
    extra = [name for name in layer.extra if name in forward]

    def loss(distance: float) -> float:
        moved = {name: forward[name] + distance * direction[name] for name in ("x", "h0", *extra)}
        params = {name: value + distance * direction["params"][name] for name, value in forward["params"].items()}
        h, _ = layer.module.forward(**forward | moved | {"params": params, "workspace": None})
        return float(((h[-1] if last_only else h) * dh).sum())

    grads, dx, dh0 = layer.module.backward(dh, layer.module.forward(**forward)[1], extra)
    of_params = sum((grads[name] * value).sum() for name, value in direction["params"].items())
    slope = of_params + (dx * direction["x"]).sum() + (dh0 * direction["h0"]).sum()
    slope += sum((grads[name] * direction[name]).sum() for name in extra)
    numpy.testing.assert_allclose(slope, (loss(1e-6) - loss(-1e-6)) / 2e-6, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ who owns which array


def others_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the same shapes with other values; what is no array stays, so that workspaces are shared."""
    return map_leaves(lambda leaf: leaf / 2 if isinstance(leaf, numpy.ndarray) else leaf, arguments)


@each_layer
@pytest.mark.parametrize(("steps", "batch_size"), [(T, B), (T, 1), (1, 1), (1, B)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_results_belong_to_the_caller(layer, steps, batch_size, layer_norm):
    """No result is a view of an argument, of a reused buffer or of another result; no call changes an argument."""
    arguments = layer.arguments(steps, batch_size, **{"layer_norm": layer_norm} if layer.init else {})
    given = arrays(tuple(arguments.values()))
    for array in given.values():
        array.flags.writeable = False  # a call that changes an argument raises
    made = arrays(layer.module.init(numpy.random.default_rng(0), I, H), "init")
    h, cache = layer.module.forward(**arguments["forward"])
    results = arrays(h, "forward") | results_of_cache(layer, arguments, cache)
    for (one, a), (other, b) in combinations((made | results | given).items(), 2):
        if one not in given:
            assert not numpy.shares_memory(a, b), f"{one} and {other or 'an argument'} share memory"

    of_backward = {name.removeprefix("backward/0/") for name in results if name.startswith("backward/0/")}
    assert of_backward == {*arguments["forward"]["params"], *layer.extra}

    expected = {name: result.copy() for name, result in results.items()}
    for result in results.values():
        result[...] = numpy.nan
    expected.pop("forward")
    assert_same(results_of_cache(layer, arguments, cache), expected)  # what the caller does to a result reaches no call

    results = all_results(layer, arguments)
    expected = {name: result.copy() for name, result in results.items()}
    all_results(layer, {name: others_of(each) for name, each in arguments.items()})
    assert_same(results, expected)  # a later call with the same workspace reaches no result


@each_layer
def test_a_workspace_changes_no_result(layer):
    """A workspace that has served other sizes, dtypes and options gives the same bits as a new one."""
    workspace = fw.Workspace()
    calls = [of_forward(layer, layer.arguments(**layer.init), options) for options in layer.options]
    calls += [layer.arguments(**sizes)["forward"] for sizes in ({"steps": 3}, {"batch_size": 2}, {"seed": 1})]
    calls += [map_leaves(lambda leaf: leaf.astype("f") if isinstance(leaf, numpy.ndarray) else leaf, calls[0])]
    for call in (*calls, *reversed(calls)):
        expected, _ = layer.module.forward(**call | {"workspace": None})
        for _ in range(2):
            h, cache = layer.module.forward(**call | {"workspace": workspace})
            assert_same({"h": h}, {"h": expected})
    _, again = layer.module.forward(**call | {"workspace": workspace})
    assert again.buffers is cache.buffers, "the buffers are reused"


@each_layer
@pytest.mark.parametrize("steps", [1, T])
def test_a_stale_cache_is_refused_by_every_function(layer, steps):
    arguments = layer.arguments()
    layer.module.forward(**arguments["forward"] | {"x": arguments["forward"]["x"][:steps]} | layer.controls(steps))
    for function in layer.functions("backward", "final_state", "attention"):
        with pytest.raises(RuntimeError, match=r"^cache: its workspace has been overwritten by a later forward"):
            getattr(layer.module, function)(**arguments[function])


# --------------------------------------------------------------------------------------------------------- wrong input

NUMBERS = (True, None, "1", numpy.ones(1), numpy.array(1.0), 1j)
COUNTS = (1.0, True, None, "1", numpy.ones(1, int))
FLAGS = (0, 1, None, "False")
NAN, INF = float("nan"), float("inf")
# option: values of a wrong type, and values out of range
OPTIONS: dict[str, tuple[tuple, tuple]] = {
    "decay": (NUMBERS, (-0.1, 1.1, NAN, INF)),
    "rate": (NUMBERS, (-0.1, NAN, INF)),
    "inner_steps": (COUNTS, (-1,)),
    "activation": ((), ("gelu", None, ["tanh"], True, b"relu")),
    "sustained_boundary": (FLAGS, ()),
    "normalize_preliminary": (FLAGS, ()),
    "shared_value": (FLAGS, ()),
    "recurrent_value": (FLAGS, ()),
    "chunk": ((2.0, True, "1"), (0, -1)),
    "copies": (COUNTS, (0,)),
    "store": (FLAGS, ()),
    "wipe": (FLAGS, ()),
    "read": (FLAGS, ()),
    "integrate": (FLAGS, ()),
    "batch_size": (COUNTS, (0, -1)),
    "input_size": (COUNTS, (0,)),
    "hidden_size": (COUNTS, (0,)),
    "heads": (COUNTS, (0,)),
    "recurrent_scale": (NUMBERS, (NAN, INF)),
    "forget_bias": (NUMBERS, (NAN, -INF)),
    "dtype": ((), ("float16", "int64", None)),
    "rng": ((None, 0, numpy.random.RandomState(0)), ()),
    "t": ((), (T, -T - 1, 1.0, "1", None)),
    "extra": ((), ("λ", ("λ",), ("h0",))),
}


Wrong = tuple[Any, type[Exception], str]  # a wrong value, the error, and a regular expression of how its message begins
NOT_AN_ARRAY = "expected a NumPy or CuPy array, got"


def wrong_arrays(name: str, value: numpy.ndarray) -> list[Wrong]:
    """What cannot stand for this array."""
    return [
        (value.tolist(), TypeError, f"{name}: {NOT_AN_ARRAY} list"),
        (value[None], ValueError, f"{name}: expected shape"),
        (value.astype("float32"), TypeError, rf"({name}: expected|.*\bthe dtype of {name}\b)"),
        (value.astype("float16"), TypeError, f"{name}: expected float32 or float64, got float16"),
        (value.astype(int), TypeError, f"{name}: expected float32 or float64, got int64"),
        (value.astype(complex), TypeError, f"{name}: expected float32 or float64, got complex128"),
    ]


def wrong_params(params: dict[str, Any]) -> list[Wrong]:
    """What cannot stand for the parameters."""
    wrong: list[Wrong] = [
        (value, TypeError, "params: expected a dict, got") for value in (None, [*params.values()], params["W"])
    ]
    wrong += [(params | {"spare": params["b"]}, ValueError, "params: expected W, .*; unknown spare")]
    for name, value in params.items():
        missing = "both gain and bias" if name in ("gain", "bias") else f".*; missing {name}"
        others = {key: other for key, other in params.items() if key != name}
        wrong += [(others, ValueError, f"params: expected {missing}")]
        wrong += [(params | {name: None}, TypeError, f"{name}: {NOT_AN_ARRAY} NoneType")]
        wrong += [(params | {name: bad}, error, message) for bad, error, message in wrong_arrays(name, value)]
        if name != "C":  # which says how many inputs and units there are
            wrong += [(params | {name: value[..., :-1]}, ValueError, f"{name}: expected shape")]
    return wrong


def wrong_states(state: Any, of_another: Any) -> list[Wrong]:
    """What cannot stand for the state that step is given."""
    wrong: list[Wrong] = [
        (value, TypeError, "state: expected a .*State, got") for value in (None, tuple(state), of_another)
    ]
    for field, value in state._asdict().items():
        bad = [(None, TypeError, rf"state\.{field}: {NOT_AN_ARRAY} NoneType"), *wrong_arrays(rf"state\.{field}", value)]
        bad += [(part, ValueError, "") for part in (value[:0], value[:-1], value[0])]
        # if x, h and A or c disagree about the number of sequences, any of them may be named
        bad = [(v, e, r"(state\..|x): expected shape" if e is ValueError else message) for v, e, message in bad]
        bad += [(value[..., :-1], ValueError, rf"state\.{field}: expected shape")]
        wrong += [(state._replace(**{field: value}), error, message) for value, error, message in bad]
    return wrong


def wrong_arguments(
    layer: Layer, function: str, valid: dict[str, Any], other: dict[str, Any]
) -> dict[str, list[Wrong]]:
    """For each argument of a function what has to be refused; `other` are the valid ones of another layer."""
    valid = valid | DEFAULTS[f"{layer.name}.{function}"]
    found: dict[str, list[Wrong]] = {
        name: [
            (value, error, rf"(controls\.)?{name}: expected")
            for error, values in zip((TypeError, ValueError), OPTIONS.get(name, ()), strict=False)
            for value in values
        ]
        for name in valid
    }
    for name in {"x", "dh", *layer.states} & valid.keys():
        value = valid[name] if name in ("x", "dh") else numpy.zeros((B, *layer.states[name]))
        found[name] += wrong_arrays(name, value)
        found[name] += [(value[..., :-1], ValueError, f"{name}: expected shape")]
        if name in ("x", "dh"):
            found[name] += [(None, TypeError, f"{name}: {NOT_AN_ARRAY} NoneType")]
            found[name] += [(value[1:], ValueError, f"{name}: expected shape")] * (function != "forward")
        if name == "dh":  # of the last step alone it may have two axes
            found[name] += [(last, ValueError, "dh: expected shape") for last in (value[-1, 1:], value[-1, 0])]
    if "params" in valid:
        found["params"] += wrong_params(valid["params"])
    if "cache" in valid:
        wrong_caches = (None, numpy.zeros((T, B, H)), other["cache"])
        found["cache"] += [(value, TypeError, "cache: expected a .*Cache, got") for value in wrong_caches]
    if "state" in valid:
        found["state"] += wrong_states(valid["state"], other["state"])
    if function == "forward":
        x = valid["x"]
        found["x"] += [(empty, ValueError, "x: expected shape") for empty in (x[:0], x[:, :0])]
        found["x"] += [(x.astype(int), TypeError, r"x: .*; tokens go in as ops.embedding\(table, tokens\)")]
    if layer.module is multilevel and "inner_steps" in valid:
        found["inner_steps"] += [(0, ValueError, "inner_steps: expected at least 1")]
    if "controls" in valid:
        short = multilevel.Controls(*[[True]] * 4)
        found["controls"] += [(short, ValueError, "controls: expected 5 steps, the length of x, got 1")]
        found["controls"] += [(None, TypeError, "controls: expected a Controls, got NoneType")]
    return found


@pytest.mark.parametrize(
    ("layer", "function"), [(layer, name) for layer in LAYERS for name in layer.functions(*FUNCTIONS)]
)
def test_wrong_arguments_are_refused_by_name_and_nothing_is_lost(layer, function):
    valid = layer.arguments(**layer.init)
    other = LAYERS[(LAYERS.index(layer) + 2) % len(LAYERS)].arguments()  # its State and Cache are of other classes
    wrong, missed = wrong_arguments(layer, function, valid[function], other["backward"] | other["step"]), []
    for name, values in wrong.items():
        for value, error, message in values:
            try:
                getattr(layer.module, function)(**valid[function] | {name: value})
            except Exception as raised:
                if not (isinstance(raised, error) and re.match(message, str(raised))):
                    missed.append(f"{name}={value!r:.40}: expected {error.__name__} {message!r}, got {raised!r}")
            else:
                missed.append(f"{name}={value!r:.40}: expected {error.__name__} {message!r}, got no error")
    assert not missed, "\n".join(missed)
    layer.module.backward(**valid["backward"])  # no refused call has overwritten the workspace


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.init], ids=lambda layer: layer.name)
@pytest.mark.parametrize("value", FLAGS)
def test_a_layer_norm_that_is_no_bool_is_refused(layer, value):
    with pytest.raises(TypeError, match=r"^layer_norm: expected a bool"):
        layer.module.init(numpy.random.default_rng(0), I, H, layer_norm=value)


@each_layer
@pytest.mark.parametrize("value", [1, "mine", {}])
def test_what_is_no_workspace_is_refused(layer, value):
    with pytest.raises(TypeError, match=r"^workspace: expected a Workspace"):
        layer.module.forward(**layer.arguments()["forward"] | {"workspace": value})


@each_layer
def test_the_former_name_of_extra_still_works_and_says_so(layer):
    _, cache = layer.module.forward(**layer.arguments()["forward"])
    names = tuple(name for name in layer.states if name != "h0")
    dh = layer.arguments()["backward"]["dh"]
    with pytest.warns(DeprecationWarning, match="^also: this argument is now called extra"):
        grads, *_ = layer.module.backward(dh, cache, also=names)
    assert set(names) <= set(grads)


@each_layer
def test_a_gradient_of_the_final_state_is_checked(layer):
    arguments = layer.arguments()["forward"]
    _, cache = layer.module.forward(**arguments)
    state, dh = layer.module.final_state(cache), layer.arguments()["backward"]["dh"]
    for wrong, error, message in (
        (tuple(state), TypeError, "dstate: expected a .*State, got tuple"),
        (state._replace(h=None), TypeError, r"dstate\.h: expected a NumPy or CuPy array, got NoneType"),
        (state._replace(h=state.h[1:]), ValueError, r"dstate\.h: expected shape"),
        (state._replace(h=state.h.astype("float16")), TypeError, r"dstate\.h: expected float32 or float64"),
        (type(state)(*(array[1:] for array in state)), ValueError, r"dstate\.h: expected shape"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"^{message}"):
            layer.module.backward(dh, cache, dstate=wrong)
    zero = type(state)(*(0 * array for array in state))
    _, again = layer.module.forward(**arguments)
    _, once_more = layer.module.forward(**arguments | {"workspace": None})
    _, dx, dh0 = layer.module.backward(dh, again, dstate=zero)
    _, expected_dx, expected_dh0 = layer.module.backward(dh, once_more)
    numpy.testing.assert_array_equal(dx, expected_dx)
    numpy.testing.assert_array_equal(dh0, expected_dh0)


# ------------------------------------------------------------------------------------------------- lengths and resets


@each_layer
def test_the_padding_may_hold_anything_and_gets_no_gradient(layer):
    arguments, lengths = layer.arguments(**layer.init), numpy.array([5, 2, 3])
    forward, dh = arguments["forward"] | {"lengths": lengths, "workspace": None}, arguments["backward"]["dh"]
    padding = numpy.arange(T)[:, None] >= lengths
    results = []
    for filling in (0.0, numpy.nan, numpy.inf):
        x, given = forward["x"].copy(), dh.copy()
        x[padding], given[padding] = filling, filling
        h, cache = layer.module.forward(**forward | {"x": x})
        grads, dx, dh0 = layer.module.backward(given, cache, layer.extra)
        assert not h[padding].any()
        assert not dx[padding].any()
        results.append(arrays((h, grads, dx, dh0, layer.module.final_state(cache)), "results"))
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


@each_layer
def test_tokens_may_be_padded_too(layer):
    arguments, rng, lengths = layer.arguments(), numpy.random.default_rng(1), numpy.array([5, 2, 3])
    table, tokens = rng.standard_normal((7, I)), rng.integers(0, 7, (T, B))
    forward, dh = arguments["forward"] | {"lengths": lengths, "workspace": None}, arguments["backward"]["dh"]
    results = []
    for padding in (0, 6):
        padded = numpy.where(numpy.arange(T)[:, None] < lengths, tokens, padding)
        h, cache = layer.module.forward(**forward | {"x": ops.embedding(table, padded)})
        results.append(arrays((h, *layer.module.backward(dh, cache)), "results"))
    assert_same(results[1], results[0])


@each_layer
def test_full_lengths_and_no_resets_change_nothing(layer):
    arguments = layer.arguments(**layer.init)
    expected = all_results(layer, arguments)
    spelled = {"lengths": numpy.full(B, T), "resets": numpy.zeros((T, B), bool)}
    got = all_results(layer, arguments | {"forward": arguments["forward"] | spelled})
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        numpy.testing.assert_allclose(got[name], value, atol=1e-13, err_msg=name)


@each_layer
def test_a_gradient_of_the_last_step_is_the_one_at_each_end(layer):
    arguments, lengths = layer.arguments(**layer.init), numpy.array([5, 2, 3])
    _, cache = layer.module.forward(**arguments["forward"] | {"lengths": lengths})
    dlast = arguments["backward"]["dh"][0]
    whole = numpy.zeros((T, B, H))
    whole[lengths - 1, range(B)] = dlast
    results = [arrays(layer.module.backward(dh, cache, layer.extra), "backward") for dh in (dlast, whole)]
    assert_same(results[0], results[1])


@each_layer
def test_wrong_lengths_and_resets_are_refused_by_name(layer):
    forward, good = layer.arguments()["forward"] | {"workspace": None}, numpy.array([5, 2, 3])
    wrong = [
        (
            {"lengths": [5, 2, 3]},
            TypeError,
            "lengths: expected a NumPy array of integers, got list; convert it with",
        ),
        ({"lengths": good * 1.0}, TypeError, "lengths: expected integers, got float64"),
        ({"lengths": good[:2]}, ValueError, "lengths: expected"),
        ({"lengths": good - 2}, ValueError, "lengths: expected numbers from 1 to 5, the steps of x, got 0 at index 1"),
        ({"lengths": good + 1}, ValueError, "lengths: expected numbers from 1 to 5, the steps of x, got 6 at index 0"),
        (
            {"resets": [[False] * B] * T},
            TypeError,
            "resets: expected a NumPy array of booleans, got list; convert it with",
        ),
        ({"resets": numpy.zeros((T, B))}, TypeError, "resets: expected booleans, got float64"),
        ({"resets": numpy.zeros((B, T), bool)}, ValueError, "resets: expected"),
    ]
    for given, error, message in wrong:
        with pytest.raises(error, match=re.escape(message)):
            layer.module.forward(**forward | given)


# --------------------------------------------------------------------------------------------------- without gradients


@each_layer_and_its_options
@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("steps", [5, 75])  # one part, and several
def test_without_gradients_states_are_the_same(layer, options, spans, steps):
    arguments, rng = layer.arguments(steps, **layer.init), numpy.random.default_rng(3)
    lengths = numpy.array([5, 4, 1] if steps == 5 else [75, 32, 40])
    given = {"lengths": lengths, "resets": rng.random((steps, B)) < 0.05} if spans else {}
    forward = of_forward(layer, arguments, options) | given | {"workspace": None}
    expected, cache = layer.module.forward(**forward)
    for workspace in (None, fw.Workspace()):
        h, states_only = layer.module.forward(**forward | {"gradients": False, "workspace": workspace})
        numpy.testing.assert_allclose(h, expected, rtol=1e-9, atol=1e-9)
        final = layer.module.final_state(states_only)
        for name, value in layer.module.final_state(cache)._asdict().items():
            numpy.testing.assert_allclose(getattr(final, name), value, rtol=1e-9, atol=1e-9, err_msg=name)
    with pytest.raises(ValueError, match=r"cache: expected one with all that backward needs"):
        layer.module.backward(h, states_only)
    with pytest.raises(TypeError, match="gradients: expected a bool"):
        layer.module.forward(**forward | {"gradients": 0})


@each_layer
def test_without_gradients_a_workspace_takes_new_arguments(layer):
    """Other parameters, inputs and initial states, then tokens; an earlier final state is refused."""
    workspace, states = fw.Workspace(), []
    for seed in range(3):
        given = layer.arguments(40, 1, seed, **layer.init)["forward"] | {"workspace": workspace}
        if seed == 2:
            given["x"] = ops.embedding(given["x"][:, 0], numpy.arange(40)[::-1, None] // 2)
            given |= dict.fromkeys(layer.states)
        h, cache = layer.module.forward(**given | {"gradients": False})
        last = layer.module.final_state(cache)
        last.h[...] = numpy.nan
        last = layer.module.final_state(cache)
        expected, whole = layer.module.forward(**given | {"workspace": None})
        numpy.testing.assert_allclose(h, expected, rtol=1e-9, atol=1e-9)
        for name, value in layer.module.final_state(whole)._asdict().items():
            numpy.testing.assert_allclose(getattr(last, name), value, rtol=1e-9, atol=1e-9, err_msg=name)
        states.append(cache)
    with pytest.raises(RuntimeError, match="its workspace has been overwritten"):
        layer.module.final_state(states[0])


@each_layer
def test_without_gradients_a_closed_loop_is_refused(layer):
    given = layer.arguments(**layer.init)["forward"]
    loop = ops.ClosedLoop(given["x"], lambda t, h: given["x"][t])
    with pytest.raises(TypeError, match=r"x: expected an array or ops\.Embedded, got an ops\.ClosedLoop"):
        layer.module.forward(**given | {"x": loop, "gradients": False})


@each_layer
def test_without_gradients_memory_grows_by_the_states_alone(layer):
    peaks = {}
    for steps in (200, 1000):
        forward = layer.arguments(steps, 1, **layer.init)["forward"] | {"workspace": None, "gradients": False}
        tracemalloc.start()
        h, _ = layer.module.forward(**forward)
        peaks[steps] = tracemalloc.get_traced_memory()[1] - h.nbytes
        tracemalloc.stop()
    assert peaks[1000] < peaks[200] + 50_000
