"""Actor-critics in a script: returns, the loss, agents in a closed loop, and errors. Gradients: the audit."""

from __future__ import annotations

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import actor_critic
from fastweights_np.ops import ClosedLoop

T, B, I, H = 5, 3, 4, 6  # noqa: E741


def test_returns_are_discounted_and_go_on_with_what_comes_after():
    rewards = numpy.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    found = actor_critic.returns(rewards, 0.5, numpy.array([0.0, 8.0]))
    numpy.testing.assert_allclose(found, [[0.25, 2.0], [0.5, 2.0], [1.0, 4.0]])


def test_the_loss_is_as_it_is_written():
    rng = numpy.random.default_rng(0)
    logits, values = rng.standard_normal((T, B, 3)), rng.standard_normal((T, B))
    actions, targets = rng.integers(0, 3, (T, B)), rng.standard_normal((T, B))
    loss, dlogits, dvalues = actor_critic.loss_and_gradients(logits, values, actions, targets, 0.5, 0.01)
    pi = numpy.exp(logits) / numpy.exp(logits).sum(axis=-1, keepdims=True)
    taken = numpy.take_along_axis(pi, actions[..., None], axis=-1)[..., 0]
    numpy.testing.assert_allclose(loss.policy, (-(targets - values) * numpy.log(taken)).mean())
    numpy.testing.assert_allclose(loss.value, (0.5 * (values - targets) ** 2).mean())
    numpy.testing.assert_allclose(loss.entropy, -(pi * numpy.log(pi)).sum(axis=-1).mean())
    numpy.testing.assert_allclose(dlogits.sum(axis=-1), 0, atol=1e-15)
    numpy.testing.assert_allclose(dvalues, 0.5 * (values - targets) / B)


@pytest.mark.parametrize("layer", [fw.fast_weights, fw.irnn, fw.lstm, fw.multilevel])
def test_a_closed_loop_is_the_same_as_its_inputs_at_once(layer):
    rng = numpy.random.default_rng(0)
    params = layer.init(rng, I, H, dtype="float64")
    mixing, noise = rng.standard_normal((H, I)), rng.standard_normal((T, B, I))
    every = [True] * T
    options = {"controls": fw.multilevel.Controls(every, every, every, every)} if layer is fw.multilevel else {}
    loop = ClosedLoop(numpy.empty((T, B, I)), lambda t, h: noise[t] + h @ mixing)
    h, cache = layer.forward(params, loop, **options)
    grads, dx, dh0 = layer.backward(numpy.ones_like(h), cache)
    again, cache = layer.forward(params, loop.array, **options)
    expected, expected_dx, expected_dh0 = layer.backward(numpy.ones_like(h), cache)
    numpy.testing.assert_array_equal(h, again)
    numpy.testing.assert_allclose(dx, expected_dx, rtol=1e-12)
    numpy.testing.assert_allclose(dh0, expected_dh0, rtol=1e-12)
    for name, value in expected.items():
        numpy.testing.assert_allclose(grads[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (None, TypeError, r"what make\(0, h\) returned: expected a NumPy or CuPy array, got NoneType"),
        (numpy.zeros(I), ValueError, r"what make\(0, h\) returned: expected shape \(3, 4\), got \(4,\)"),
        (numpy.zeros((B, I), complex), TypeError, r"what make\(0, h\) returned: expected float32 or float64"),
        (numpy.zeros((B, I), "float32"), TypeError, r"what make\(0, h\) returned: expected float64, the dtype of x"),
        (numpy.full((B, I), "1"), TypeError, r"what make\(0, h\) returned: expected float32 or float64, got <U1"),
    ],
)
def test_what_is_made_is_looked_at(made, error, message):
    params = fw.irnn.init(numpy.random.default_rng(0), I, H, dtype="float64")
    with pytest.raises(error, match=message):
        fw.irnn.forward(params, ClosedLoop(numpy.empty((T, B, I)), lambda t, h: made))


def test_a_closed_loop_is_refused_where_it_cannot_be_made_or_used():
    with pytest.raises(TypeError, match="array: expected a NumPy or CuPy array, got NoneType"):
        ClosedLoop(None, len)
    with pytest.raises(TypeError, match="make: expected a function of t and h, got NoneType"):
        ClosedLoop(numpy.empty((T, B, I)), None)
    loop = ClosedLoop(numpy.empty((T, B, I), "float32"), lambda t, h: numpy.zeros((B, I), "float32"))
    params = fw.associative_lstm.init(numpy.random.default_rng(0), I, H)
    with pytest.raises(TypeError, match="which is not for the associative LSTM"):
        fw.associative_lstm.forward(params, loop)


def agent_and_params(layer="fast_weights", **options):
    agent = actor_critic.ActorCritic(I, 3, H, layer, options=options, encoded_size=5)
    return agent, agent.init(numpy.random.default_rng(0))


def see(t, logits):
    return numpy.ones((B, I), "float32")


@pytest.mark.parametrize("layer", actor_critic.CLOSED_LOOP_LAYERS)
def test_an_agent_goes_on_from_a_state(layer):
    agent, params = agent_and_params(layer, **({"chunk": 2} if layer == "fast_weights" else {}))
    logits, values, _ = agent.forward(params, see, 4, B)
    _, _, first = agent.forward(params, see, 2, B)
    state = agent.final_state(first)
    numpy.testing.assert_allclose(agent.next_values(params, see(2, None), state), values[2], rtol=1e-4, atol=1e-6)
    rest, _, _ = agent.forward(params, see, 2, B, state)
    numpy.testing.assert_allclose(rest, logits[2:], rtol=1e-4, atol=1e-6)


def test_what_sees_may_change_the_logits_that_it_gets():
    def spoil(t, logits):
        if logits is not None:
            logits.fill(numpy.nan)
        return see(t, logits)

    agent, params = agent_and_params()
    numpy.testing.assert_array_equal(agent.forward(params, spoil, 3, B)[0], agent.forward(params, see, 3, B)[0])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="layer: expected one of fast_weights, irnn, lstm; got 'multilevel'"):
        actor_critic.ActorCritic(I, 3, layer="multilevel")
    agent, params = agent_and_params()
    for arguments, error, message in (
        ((see, 0, B), ValueError, "steps: expected at least 1, got 0"),
        ((see, 2, 2.5), TypeError, "games: expected a whole number, got 2.5"),
        ((see, 2, B, 3), TypeError, "state: expected a State, got int"),
        ((see, 2, B, fw.lstm.State(None, None)), TypeError, "state: expected a fast_weights.State, got lstm.State"),
        ((lambda t, _: numpy.zeros((B, 2)), 2, B), ValueError, r"what see\(0, ..\) returned: expected shape \(3, 4\)"),
        ((lambda t, _: None, 2, B), TypeError, r"what see\(0, ..\) returned: expected a NumPy or CuPy array"),
        ((lambda t, _: numpy.ones((B, I)), 2, B), TypeError, r"what see\(0, ..\) returned: expected float32, the"),
        ((lambda t, _: numpy.ones((B, I), int), 2, B), TypeError, r"what see\(0, ..\) returned: expected float32 or"),
    ):
        with pytest.raises(error, match=message):
            agent.forward(params, *arguments)
    logits, values, cache = agent.forward(params, see, 2, B)
    with pytest.raises(ValueError, match=r"dlogits: expected shape \(2, 3, 3\)"):
        agent.backward(logits[:1], values, cache)
    with pytest.raises(ValueError, match=r"dvalues: expected shape \(2, 3\)"):
        agent.backward(logits, values[:1], cache)
    with pytest.raises(TypeError, match=r"expected float32, the dtype of .*, got float64"):
        agent.backward(logits, values.astype("float64"), cache)
    with pytest.raises(TypeError, match=r"^weight: expected float64, the dtype of x, got float32"):
        agent.next_values(params, see(2, None).astype("float64"), agent.final_state(cache))
    actions = numpy.full((2, B), 3)
    with pytest.raises(ValueError, match="actions: expected values from 0 to 2, got 3"):
        actor_critic.loss_and_gradients(logits, values, actions, values)
    with pytest.raises(TypeError, match="targets: expected float32, the dtype of logits, got float64"):
        actor_critic.loss_and_gradients(logits, values, actions * 0, values.astype("float64"))
    with pytest.raises(TypeError, match="rewards: expected float32 or float64, got int64"):
        actor_critic.returns(numpy.zeros((2, B), int), 0.9, numpy.zeros(B))
