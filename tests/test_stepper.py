"""The steppers: equal to `forward`, reset row by row, owners of their numbers, and exact in what they refuse."""

from __future__ import annotations

import copy
import pickle
from inspect import signature
from typing import Any

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import audit, memory
from fastweights_np.audit.links import ALONE, STEPPER
from fastweights_np.audit.mutants import mutated
from tests.stepper_mutants import MUTANTS
from tests.test_layers import LAYERS, METHOD_2, Layer

STEPS, B, I, H = 38, 3, 4, 6  # more than 2 K = 32 steps  # noqa: E741
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}
STEPPED = [layer for layer in LAYERS if hasattr(layer.module, "Stepper")]
each_layer = pytest.mark.parametrize("layer", STEPPED, ids=lambda layer: layer.name)
OPTIONS = [(layer, options) for layer in STEPPED for options in layer.options]
OPTIONS += [
    (layer, options) for layer in STEPPED if layer.name == "fast_weights"
    for options in (METHOD_2 | {"normalize_preliminary": True}, {"decay": 0.0, "inner_steps": 2}, {"rate": 0.0})
]  # fmt: skip


class Problem:
    """A layer, its parameters, a stream, the states that forward returns for it, and a way to make its stepper."""

    def __init__(
        self, layer: Layer, options: dict[str, Any] | None = None, batch_size: int = B, layer_norm: bool = True,
        dtype: str = "float64",
    ) -> None:  # fmt: skip
        self.layer, options = layer, layer.variant | (options or {})
        arguments = layer.arguments(1, batch_size, **dict.fromkeys(layer.init, layer_norm))["forward"]
        scale = 1.0
        if not layer_norm:  # large fast weights, or a large W, make states without layer norm grow beyond all bounds
            scale, options = (
                0.3,
                options | ({"rate": 1e-4} if "rate" in signature(layer.module.forward).parameters else {}),
            )
        self.params = {name: (scale * value).astype(dtype) for name, value in arguments["params"].items()}
        rng = numpy.random.default_rng(5)
        self.x = rng.standard_normal((STEPS, batch_size, I)).astype(dtype)
        shapes = {name: (batch_size, *shape) for name, shape in layer.states.items()}
        self.states = {name: 0.3 * rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
        of_forward = {name: value for name, value in options.items() if name != "chunk"}
        self.h, cache = layer.module.forward(
            self.params, self.x, **self.states, **of_forward, **layer.controls(STEPS)
        )  # fmt: skip
        self.final = layer.module.final_state(cache)
        self.options = {"batch_size": batch_size} | options

    def stepper(self, **changes: Any) -> Any:
        return self.layer.module.Stepper(**{"params": self.params} | self.states | self.options | changes)

    def run(self, stepper: Any, start: int = 0, stop: int = STEPS) -> list[numpy.ndarray]:
        return [stepper(self.x[t], **self.layer.signals_at(t)) for t in range(start, stop)]


def assert_close(got: Any, expected: Any) -> None:
    error, index = audit.relative_error(numpy.asarray(got), numpy.asarray(expected))
    assert error <= 1e-11, f"{error:.1e} at {index}"  # layer norm over three units amplifies rounding


def assert_equal_states(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    for name, value in expected._asdict().items():
        numpy.testing.assert_array_equal(getattr(got, name), value, err_msg=name)


@pytest.mark.parametrize(("layer", "options"), OPTIONS)
@pytest.mark.parametrize("batch_size", [1, B])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_stepper_equals_forward(layer, options, batch_size, layer_norm):
    problem = Problem(layer, options, batch_size, layer_norm)
    stepper = problem.stepper()
    assert_close(numpy.stack(problem.run(stepper)), problem.h)
    for name, value in problem.final._asdict().items():
        assert_close(getattr(stepper.state, name), value)


@each_layer
def test_without_initial_states_it_starts_at_zero(layer):
    problem = Problem(layer)
    zero = dict.fromkeys(problem.states)
    expected, _ = layer.module.forward(problem.params, problem.x, **layer.controls(STEPS), **layer.variant)
    stepper = problem.stepper(**zero)
    assert_close(problem.run(stepper), expected)
    stepper.reset()
    assert_close(problem.run(stepper), expected)


@each_layer
@pytest.mark.parametrize("rows", [1, numpy.array([2, 0]), numpy.array([True, False, True]), [], None], ids=str)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("steps", [5, 20])
def test_reset_starts_the_given_rows_anew_and_no_other(layer, rows, given, steps):
    problem = Problem(layer)
    stepper, undisturbed, fresh = problem.stepper(), problem.stepper(), problem.stepper(**dict.fromkeys(problem.states))
    for each in (stepper, undisturbed):
        problem.run(each, stop=steps)
    state = layer.module.State(*problem.states.values()) if given else None
    fresh.reset(state=state)
    stepper.reset(rows, state)
    anew = numpy.zeros(B, bool)
    anew[... if rows is None else rows] = True
    got, old, new = (numpy.stack(problem.run(each, steps, steps + 18)) for each in (stepper, undisturbed, fresh))
    assert_close(got[:, anew], new[:, anew])
    assert_close(got[:, ~anew], old[:, ~anew])


@each_layer
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("steps", [5, 20])
def test_a_row_that_holds_nan_starts_anew_after_a_reset(layer, given, steps):
    problem = Problem(layer)
    stepper, undisturbed, fresh = problem.stepper(), problem.stepper(), problem.stepper(**dict.fromkeys(problem.states))
    problem.run(undisturbed, stop=steps)
    clean = problem.x[:steps, 1].copy()
    problem.x[:steps, 1] = numpy.nan
    assert numpy.isnan(problem.run(stepper, stop=steps)[-1][1]).all()
    problem.x[:steps, 1] = clean
    state = layer.module.State(*problem.states.values()) if given else None
    fresh.reset(state=state)
    stepper.reset(1, state)
    got, old, new = (numpy.stack(problem.run(each, steps, steps + 18)) for each in (stepper, undisturbed, fresh))
    assert_close(got[:, 1], new[:, 1])
    assert_close(got[:, [0, 2]], old[:, [0, 2]])
    for ours, others, anew in zip(stepper.state, undisturbed.state, fresh.state, strict=True):
        assert_close(ours[1], anew[1])
        assert_close(ours[[0, 2]], others[[0, 2]])


@each_layer
def test_a_state_begins_another_stepper_or_forward(layer):
    problem = Problem(layer)
    stepper, other = problem.stepper(), problem.stepper()
    problem.run(stepper, stop=21)
    state = stepper.state
    other.reset(state=state)
    for name, value in state._asdict().items():
        numpy.testing.assert_allclose(getattr(other.state, name), value, rtol=1e-14, atol=1e-14)
    assert_close(problem.run(other, 21), problem.h[21:])
    given = dict(zip(layer.states, state, strict=True))
    rest, _ = layer.module.forward(
        problem.params, problem.x[21:], **given, **layer.controls(STEPS - 21, 21), **layer.variant
    )
    assert_close(rest, problem.h[21:])


@each_layer
@pytest.mark.parametrize("batch_size", [1, B])
def test_results_belong_to_the_caller(layer, batch_size):
    """No later step changes a result, no change of a result reaches the stepper, and no argument is changed."""
    problem, expected = Problem(layer, batch_size=batch_size), Problem(layer, batch_size=batch_size)
    for array in (*problem.params.values(), problem.x, *problem.states.values()):
        array.flags.writeable = False
    stepper = problem.stepper()
    hs, states = [], []
    for t in range(STEPS):
        hs += problem.run(stepper, t, t + 1)
        states.append(stepper.state)
    kept = [h.copy() for h in hs]
    for result in (*hs, *(array for state in states for array in state)):
        result[...] = numpy.nan
    assert_close(kept, expected.h)
    assert_close(stepper.state[-1], expected.final[-1])
    before = [h.copy() for h in problem.run(problem.stepper())]
    numpy.testing.assert_array_equal(before, kept)  # a second stepper shares nothing


@each_layer
def test_parameters_are_read_once(layer):
    problem = Problem(layer)
    stepper = problem.stepper()
    for value in (*problem.params.values(), *problem.states.values()):
        value[...] = numpy.nan
    assert_close(problem.run(stepper), problem.h)


@each_layer
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("steps", [0, 5, 37])
def test_a_copy_continues_with_the_same_numbers(layer, how, steps):
    problem = Problem(layer, layer.options[-1])
    stepper = problem.stepper()
    problem.run(stepper, stop=steps)
    twin = COPIES[how](stepper)
    assert type(twin) is type(stepper)
    assert_equal_states(twin.state, stepper.state)
    numpy.testing.assert_array_equal(problem.run(stepper), problem.run(twin))
    assert_equal_states(twin.state, stepper.state)
    other = COPIES[how](problem.stepper())
    problem.run(twin)
    assert_close(problem.run(other), problem.h)  # the two share no buffer


@each_layer
def test_dtype_is_kept(layer):
    problem = Problem(layer, dtype="float32")
    stepper = problem.stepper()
    hs = problem.run(stepper)
    for array in (*hs, *stepper.state):
        assert array.dtype == "float32"
    numpy.testing.assert_allclose(hs[:5], problem.h[:5], atol=1e-4)


@each_layer
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[:2], ValueError, r"x: expected shape \(3, 4\), got \(2, 4\); this stepper was made for 3 "),
        (lambda x: x[0], ValueError, r"x: expected shape \(3, 4\), got \(4,\)"),
        (lambda x: x[None], ValueError, r"x: expected shape \(3, 4\), got \(1, 3, 4\)"),
        (lambda x: x[:, :1], ValueError, r"x: expected shape \(3, 4\), got \(3, 1\)"),
        (lambda x: x.astype("float32"), TypeError, "x: expected float64, the dtype of W, got float32"),
        (lambda x: x.astype(int), TypeError, "x: expected float32 or float64, got int64"),
        (lambda x: x.tolist(), TypeError, "x: expected a NumPy or CuPy array, got list"),
        (lambda x: numpy.ma.masked_array(x), TypeError, "x: expected a plain array, got a masked one"),
        (lambda x: None, TypeError, "x: expected a NumPy or CuPy array, got NoneType"),
    ],
)  # fmt: skip
def test_an_input_that_does_not_fit_is_refused_and_changes_nothing(layer, change, error, message):
    problem = Problem(layer)
    stepper = problem.stepper()
    problem.run(stepper, stop=4)
    before = stepper.state
    with pytest.raises(error, match=f"^{message}"):
        stepper(change(problem.x[4]), **layer.signals_at(4))
    assert_equal_states(stepper.state, before)
    subclass = problem.x[4].view(type("Sub", (numpy.ndarray,), {}))
    numpy.testing.assert_allclose(stepper(subclass, **layer.signals_at(4)), problem.h[4], atol=1e-12)


@each_layer
def test_a_reset_that_does_not_fit_is_refused_and_changes_nothing(layer):
    problem = Problem(layer)
    stepper = problem.stepper()
    problem.run(stepper, stop=4)
    before, last = stepper.state, layer.module.State._fields[-1]
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"rows": 3}, ValueError, "rows: expected values from 0 to 2, got 3"),
        ({"rows": [-1]}, ValueError, "rows: expected values from 0 to 2, got -1"),
        ({"rows": 1.0}, TypeError, "rows: expected integers, got float64"),
        ({"rows": "1"}, TypeError, "rows: expected integers"),
        ({"rows": [True, False]}, ValueError, r"rows: expected shape \(3,\), got \(2,\)"),
        ({"state": tuple(before)}, TypeError, "state: expected a State, got tuple"),
        ({"state": before._replace(**{last: None})}, TypeError, rf"state\.{last}: expected a NumPy or CuPy array"),
        ({"state": before._replace(h=before.h[:2])}, ValueError, r"state\.h: expected shape \(3, 6\), got \(2, 6\)"),
        ({"state": before._replace(h=before.h.astype("f"))}, TypeError, r"state\.h: expected float64"),
    ]  # fmt: skip
    for arguments, error, message in wrong:
        with pytest.raises(error, match=f"^{message}"):
            stepper.reset(**arguments)
    assert_equal_states(stepper.state, before)


def test_chunk_selects_when_states_are_folded_and_no_result_depends_on_it():
    layer = next(layer for layer in STEPPED if layer.name == "fast_weights")
    problem = Problem(layer)
    for chunk in (1, 2, 5, 16, 100, None):
        stepper = problem.stepper(chunk=chunk)
        assert_close(problem.run(stepper), problem.h)
        assert_close(stepper.state.A, problem.final.A)


@pytest.mark.parametrize("options", [options for layer, options in OPTIONS if layer.name == "fast_weights"], ids=str)
def test_advance_is_a_call_whose_input_sum_is_given(options):
    problem = Problem(next(layer for layer in STEPPED if layer.name == "fast_weights"), options)
    called, advanced = problem.stepper(), problem.stepper()
    for x in problem.x:
        assert_close(advanced.advance(x @ problem.params["C"].T + problem.params["b"]), called(x))
    for name, value in called.state._asdict().items():
        assert_close(getattr(advanced.state, name), value)


@each_layer
def test_sizes_below_one_are_refused(layer):
    problem = Problem(layer)
    sizes = [name for name in ("batch_size", "chunk") if name in signature(layer.module.Stepper).parameters]
    for name in sizes:
        with pytest.raises(ValueError, match=f"^{name}: expected at least 1, got 0"):
            problem.stepper(**{name: 0})
        with pytest.raises(TypeError, match=f"^{name}: expected a whole number, got 2.0"):
            problem.stepper(**{name: 2.0})


def test_matrices_that_are_folded_in_several_blocks_are_the_same(monkeypatch):
    layer = next(layer for layer in STEPPED if layer.name == "fast_weights")
    problem = Problem(layer)
    monkeypatch.setattr(memory, "IN_CACHE", 2 * 8 * H * H)  # two of the three sequences
    stepper = problem.stepper()
    assert_close(problem.run(stepper), problem.h)
    assert_close(stepper.state.A, problem.final.A)


def test_rounding_does_not_add_up():
    """With one inner step, the error of float32 does not grow; a layer norm of nearly equal numbers may amplify it."""
    rng = numpy.random.default_rng(0)
    params = fw.fast_weights.init(rng, 3, 8, dtype="float64")
    exact = fw.fast_weights.Stepper(params)
    rounded = fw.fast_weights.Stepper({name: value.astype("float32") for name, value in params.items()})
    inputs = rng.standard_normal((20_000, 1, 3), dtype="float32")
    errors = numpy.array([abs(exact(x.astype("float64")) - rounded(x)).max() for x in inputs])
    assert numpy.median(errors[-5000:]) < 1.2 * numpy.median(errors[:5000]) < 1e-6
    assert errors.max() < 1e-3


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_of_a_stepper_or_of_the_forward_pass_alone_is_caught(name, tmp_path):
    layer, mutant = MUTANTS[name]
    with mutated(mutant, tmp_path) as broken:
        links = broken.run(quick=True, layers=[layer], others=False, only=[STEPPER, ALONE])
    found = [link.passed for link in links if link.title in (STEPPER, ALONE)]
    assert len(found) == 2
    assert not all(found)
