"""Policy gradients of groups, and policies with contexts, in a script: values and errors. Gradients: the audit."""

from __future__ import annotations

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import policy_gradient
from fastweights_np.context_policy import ContextPolicy

K, N, T, H = 2, 3, 4, 6


def test_advantages_compare_a_rollout_with_its_group_alone():
    rewards = numpy.array([[1.0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]])
    found = policy_gradient.group_advantages(rewards)
    numpy.testing.assert_allclose(found[0], [1, -1, -1, 1], rtol=1e-5)
    numpy.testing.assert_allclose(found[1, 3] / found[1, 0], -3)
    assert not found[2].any(), "equal rewards teach nothing"


@pytest.mark.parametrize("reward", [0.1, 1000.1, 1e-8])
def test_equal_rewards_have_advantages_of_exactly_zero(reward):
    assert not policy_gradient.group_advantages(numpy.full((2, 7), reward, "float32")).any()


@pytest.mark.parametrize(
    ("rewards", "epsilon", "message"),
    [
        ([[1.0, 1]], 0, "epsilon: expected a number above 0, got 0"),
        ([[1.0, 1]], -1, "epsilon: expected a number above 0, got -1"),
        ([[1.0, numpy.nan]], 1e-6, "rewards: expected finite numbers, got others"),
    ],
)
def test_rewards_without_advantages_are_refused(rewards, epsilon, message):
    with pytest.raises(ValueError, match=message):
        policy_gradient.group_advantages(numpy.array(rewards), epsilon)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": (K, 1)}, ValueError, r"b: expected shape \(2, 6\), got \(2, 1\)"),
        ({"bias": (K + 1, H)}, ValueError, r"bias: expected shape \(2, 6\), got \(3, 6\)"),
        ({"U": (K + 1, H, 2)}, ValueError, r"U: expected shape \(2, 6, R\)"),
        ({"V": (K, H, 1)}, ValueError, r"V: expected shape \(2, 6, 2\), got \(2, 6, 1\)"),
        ({"V": None}, ValueError, "contexts: expected U, V, b, bias; missing V; a state has h0 and a"),
        (
            {"U": None, "V": None, "b": None, "bias": None, "h0": (K, H)},
            ValueError,
            "contexts: expected h0, a; missing a",
        ),
    ],
)
def test_contexts_that_do_not_fit_are_named(change, error, message):
    policy = ContextPolicy(3, 2, H)
    shapes = {"U": (K, H, 2), "V": (K, H, 2), "b": (K, H), "bias": (K, H)} | change
    contexts = {name: numpy.zeros(shape, "float32") for name, shape in shapes.items() if shape is not None}
    with pytest.raises(error, match=message):
        policy.forward(policy.init(numpy.random.default_rng(0)), numpy.zeros((T, K * N, 3), "float32"), contexts)


def test_a_ratio_is_clipped_from_above_alone():
    logits, actions = numpy.zeros((1, 2)), numpy.array([[0, 1]])
    log_mu = numpy.log([[0.05, 0.99]])  # ρ = 10 and 0.505
    loss, dlogits = policy_gradient.clipped_loss_and_gradient(logits, actions, numpy.ones((1, 2)), log_mu, 2.0)
    weights = numpy.array([2, 0.5 / 0.99]) / 2
    assert loss == pytest.approx(weights.sum() * numpy.log(2))
    numpy.testing.assert_allclose(dlogits[0], weights.sum() / 2 - weights)


def test_the_divergence_is_zero_from_a_policy_to_itself_and_positive_to_another():
    logits = numpy.random.default_rng(0).normal(size=(5, 4))
    log_pi = fw.ops.entropy(logits)[1]
    numpy.testing.assert_allclose(policy_gradient.kl(logits, log_pi)[0], 0, atol=1e-15)
    assert (policy_gradient.kl(logits, numpy.roll(log_pi, 1, axis=1))[0] > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": numpy.zeros((2, 1), int)}, r"actions: expected shape \(3, G\).*, got \(2, 1\)"),
        ({"advantages": numpy.zeros((3, 1))}, r"advantages: expected shape \(3, 2\), got \(3, 1\)"),
        ({"clip": -1.0}, "clip: expected"),
        ({"actions": numpy.full((3, 2), 4)}, "actions: expected"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    given = {
        "logits": numpy.zeros((3, 4)), "actions": numpy.zeros((3, 2), int), "advantages": numpy.zeros((3, 2)),
        "log_mu": numpy.zeros((3, 2)), "clip": 2.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        policy_gradient.clipped_loss_and_gradient(**given | change)


def a_policy():
    rng = numpy.random.default_rng(0)
    policy = ContextPolicy(3, 5, H, {"decay": 1.0, "rate": 1.0})
    return policy, policy.init(rng, "float64"), rng


def test_a_state_context_is_what_past_states_have_written():
    policy, params, rng = a_policy()
    x = rng.normal(size=(T + 2, N, 3))
    whole, _ = policy.forward(params, x[:, :1])
    h, _ = fw.fast_weights.forward(params["layer"], x[:2, :1], **policy.options)
    contexts = {"h0": h[-1], "a": h.swapaxes(0, 1)}  # λ = η = 1: A(2) is the sum of both states' products
    logits, _ = policy.forward(params, x[2:, :1], contexts)
    numpy.testing.assert_allclose(logits, whole, rtol=1e-12)


def test_each_context_acts_on_its_own_share_of_the_batch():
    policy, params, rng = a_policy()
    x = rng.normal(size=(T, K * N, 3))
    for contexts in (
        {"h0": rng.normal(size=(K, H)), "a": rng.normal(size=(K, 2, H))},
        {
            "U": rng.normal(size=(K, H, 2)), "V": rng.normal(size=(K, H, 2)), "b": rng.normal(size=(K, H)),
            "bias": rng.normal(size=(K, H)),
        },
    ):  # fmt: skip
        logits, _ = policy.forward(params, x, contexts)
        for k in range(K):
            one = {name: value[k : k + 1] for name, value in contexts.items()}
            own = slice(k * N, (k + 1) * N)
            numpy.testing.assert_allclose(policy.forward(params, x[:, own], one)[0], logits[own], rtol=1e-12)


def test_contexts_of_another_kind_or_number_are_refused():
    policy, params, rng = a_policy()
    x = rng.normal(size=(T, 3, 3))
    with pytest.raises(ValueError, match="contexts: expected"):
        policy.forward(params, x, {"h0": numpy.zeros((1, H))})
    with pytest.raises(ValueError, match="as many sequences for each of 2 contexts, got 3 in all"):
        policy.forward(params, x, {"h0": numpy.zeros((2, H)), "a": numpy.zeros((2, 1, H))})
