"""The multi-level layer as its users meet it: what each control signal does, and the error for a wrong one."""

from __future__ import annotations

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import fast_weights, multilevel
from fastweights_np.multilevel import Controls

T, B, I, H = 6, 3, 4, 5  # noqa: E741
NO, YES = [False] * T, [True] * T
PUSH_AND_POP = Controls(
    store=[True, *NO[1:]], wipe=[True, *NO[1:]], read=[*NO[1:], True], integrate=[*NO[1:], True]
)  # fmt: skip


def made(dtype="float64", **options):
    rng = numpy.random.default_rng(0)
    params = multilevel.init(rng, I, H, dtype=dtype, **options)
    params = {name: (value + 0.3 * rng.standard_normal(value.shape)).astype(dtype) for name, value in params.items()}
    x, dh = rng.standard_normal((T, B, I)).astype(dtype), rng.standard_normal((T, B, H)).astype(dtype)
    return params, x, dh


def signals(**given):
    """Return controls that do nothing except what is given."""
    return Controls(**{"store": NO, "wipe": NO, "read": NO, "integrate": NO} | given)


def test_with_store_and_read_in_every_step_it_is_the_fast_weight_layer():
    params, x, dh = made()
    plain = {name: value for name, value in params.items() if name != "V"}
    expected_h, expected_cache = fast_weights.forward(plain, x, inner_steps=2)
    h, cache = multilevel.forward(params, x, inner_steps=2, controls=signals(store=YES, read=YES))
    numpy.testing.assert_allclose(h, expected_h, atol=1e-14)
    expected, expected_dx, _ = fast_weights.backward(dh, expected_cache, extra=("decay", "rate"))
    grads, dx, _ = multilevel.backward(dh, cache, extra=("decay", "rate"))
    numpy.testing.assert_allclose(dx, expected_dx, atol=1e-12)
    assert not grads.pop("V").any()
    for name, value in expected.items():
        numpy.testing.assert_allclose(grads[name], value, atol=1e-12, err_msg=name)


def test_without_signals_it_is_an_irnn_with_layer_norm():
    params, x, _ = made()
    h, _ = multilevel.forward(params, x, controls=signals())
    plain = {name: value for name, value in params.items() if name != "V"}
    numpy.testing.assert_allclose(h, fw.irnn.forward(plain, x)[0], atol=1e-14)


def test_a_wipe_hides_all_that_came_before():
    params, x, _ = made()
    h, _ = multilevel.forward(params, x, controls=signals(wipe=[False, True, *NO[2:]]))
    from_there, _ = multilevel.forward(params, x[2:], controls=Controls(*[NO[2:]] * 4))
    numpy.testing.assert_allclose(h[2:], from_there, atol=1e-14)


def test_what_was_stored_is_found_again_beyond_a_wipe():
    """The first input reaches the last state by the memory alone."""
    params, x, _ = made()
    changed = x.copy()
    changed[0] += 1
    at_rate = {
        rate: [multilevel.forward(params, each, rate=rate, controls=PUSH_AND_POP)[0] for each in (x, changed)]
        for rate in (0.5, 0.0)
    }
    before, after = at_rate[0.5]
    numpy.testing.assert_array_equal(before[1:-1], after[1:-1])
    assert abs(before[-1] - after[-1]).max() > 1e-3
    numpy.testing.assert_array_equal(*(h[-1] for h in at_rate[0.0]))


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("odd", [numpy.nan, numpy.inf])
def test_what_is_wiped_or_not_read_is_zero_even_where_it_is_not_finite(odd):
    params, x, _ = made()
    x[-1] = odd
    _, cache = multilevel.forward(params, x, controls=signals(wipe=[*NO[1:], True]))
    assert not multilevel.final_state(cache).h.any()
    state = multilevel.State(numpy.zeros((B, H)), numpy.full((B, H, H), odd))
    control = {"store": False, "read": False, "integrate": False}
    h, after = multilevel.step(params, x[0], state, wipe=True, **control)
    expected, _ = multilevel.step(params, x[0], multilevel.initial_state(params, B), wipe=True, **control)
    numpy.testing.assert_array_equal(h, expected)
    numpy.testing.assert_array_equal(after.A, state.A)
    _, after = multilevel.step(params, x[-1], after, wipe=True, **control)
    assert not after.h.any()


def test_integration_goes_through_its_own_weights():
    params, x, _ = made()
    signal = [*NO[1:], True]
    with_v, _ = multilevel.forward(params, x, controls=signals(integrate=signal))
    as_w, _ = multilevel.forward(params | {"V": params["W"]}, x, controls=signals(integrate=signal))
    plain, _ = multilevel.forward(params, x, controls=signals())
    numpy.testing.assert_array_equal(as_w, plain)
    numpy.testing.assert_array_equal(with_v[:-1], plain[:-1])
    assert abs(with_v[-1] - plain[-1]).max() > 1e-3


def test_attention_is_what_the_last_read_weighs():
    params, x, _ = made()
    controls = signals(store=[True, True, *NO[2:]], read=[False] * 4 + [True] * 2)
    h, cache = multilevel.forward(params, x, controls=controls, decay=0.9)
    strengths = multilevel.attention(cache, 4)
    assert strengths.shape == (B, 2)
    query = cache.buffers.steps[4].saved[0].state
    expected = [0.5 * 0.9 ** (1 - k) * (h[k] * query).sum(axis=1) for k in range(2)]
    numpy.testing.assert_allclose(strengths.T, expected, atol=1e-13)
    with pytest.raises(ValueError, match=r"t: expected a step that reads, one of \[4, 5\], got 0"):
        multilevel.attention(cache, 0)


def test_a_workspace_is_not_mistaken_for_one_of_other_signals():
    params, x, dh = made()
    workspace = fw.Workspace()
    for controls in (PUSH_AND_POP, signals(store=YES, read=YES), PUSH_AND_POP):
        expected_h, expected_cache = multilevel.forward(params, x, controls=controls)
        h, cache = multilevel.forward(params, x, controls=controls, workspace=workspace)
        numpy.testing.assert_array_equal(h, expected_h)
        numpy.testing.assert_array_equal(multilevel.backward(dh, cache)[1], multilevel.backward(dh, expected_cache)[1])
    multilevel.forward(params, x, controls=PUSH_AND_POP, workspace=workspace)
    with pytest.raises(RuntimeError, match="overwritten by a later forward"):
        multilevel.backward(dh, cache)


def test_controls_are_tuples_of_bools_however_they_are_given():
    given = [True, False, True], numpy.array([True, False, False]), (False,) * 3, [numpy.bool_(True), False, True]
    controls = Controls(*given)
    assert controls.wipe == (True, False, False)
    assert all(type(value) is bool for signal in vars(controls).values() for value in signal)
    assert controls == Controls(*map(list, given))
    assert hash(controls) == hash(Controls(*map(tuple, given)))
    assert len(controls) == 3
    assert str(controls) == "swi - si"


def test_bad_arguments_are_named():
    params, x, dh = made()
    with pytest.raises(TypeError, match=r"controls.read: expected booleans, got \[1, 0\]"):
        Controls([True] * 2, [True] * 2, [1, 0], [True] * 2)
    for other in (None, 3, (value for value in YES)):
        with pytest.raises(TypeError, match=r"controls.store: expected a sequence of booleans, got "):
            Controls(other, YES, YES, YES)
    with pytest.raises(ValueError, match=r"controls.wipe: expected one boolean for each step, 2 as in "):
        Controls([True] * 2, [True] * 3, [True] * 2, [True] * 2)
    with pytest.raises(ValueError, match="controls: expected 5 steps, the length of x, got 6"):
        multilevel.forward(params, x[1:], controls=PUSH_AND_POP)
    with pytest.raises(TypeError, match="controls: expected a Controls, got list; make them with Controls"):
        multilevel.forward(params, x, controls=[YES] * 4)
    with pytest.raises(ValueError, match="inner_steps: expected at least 1"):
        multilevel.forward(params, x, controls=PUSH_AND_POP, inner_steps=0)
    with pytest.raises(ValueError, match="params: expected W, V, C, b; missing V"):
        multilevel.forward({name: value for name, value in params.items() if name != "V"}, x, controls=PUSH_AND_POP)
    with pytest.raises(ValueError, match=r"V: expected shape \(5, 5\), got \(4, 5\); V is \(H, H\)"):
        multilevel.forward(params | {"V": params["V"][1:]}, x, controls=PUSH_AND_POP)
    _, cache = multilevel.forward(params, x, controls=PUSH_AND_POP)
    with pytest.raises(ValueError, match=r"dh: expected shape \(6, 3, 5\)"):
        multilevel.backward(dh[1:], cache)
    with pytest.raises(TypeError, match="state: expected a State"):
        multilevel.step(params, x[0], None, store=True, wipe=False, read=True, integrate=False)
    state = multilevel.initial_state(params, B)
    with pytest.raises(TypeError, match=r"controls.store: expected booleans"):
        multilevel.step(params, x[0], state, store=1, wipe=False, read=True, integrate=False)
