"""The links of whole networks and agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy

from .. import actor_critic, network
from ..backend import to_host
from ..plain import convnet as plain_convnet
from ..plain import losses
from ..trees import flatten, map_leaves, unflatten
from .cases import QUADRANTS, Case
from .layers import differentiate, reference
from .links import Arrays, Link, Move
from .operations import CONVNETS


def network_link(layers: Sequence[Any], move: Move) -> Link:
    """Return the link that compares the gradients of whole networks with autograd."""
    import autograd.numpy

    link = Link(3, "backward = autograd", "network", 1e-12)
    for layer in layers:
        options: dict[str, Any] = {"controls": QUADRANTS} if layer == "multilevel" else {}
        steps = len(QUADRANTS)
        case = Case(layer, steps, batch_size=3, hidden_size=4, options=options, initial=False)
        rng = numpy.random.default_rng(21)
        net = network.Network(network.TokenEncoder(6, 4, 5), network.Classifier(3, 5), 4, layer, options=options)
        params = net.init(rng, "float64")
        tokens, labels = rng.integers(0, 6, (steps, 3)), rng.integers(0, 3, 3)
        loss, grads = net.loss_and_gradients(move(params), move(tokens), move(labels))

        recurrent = partial(_states_of, case, autograd.numpy)

        def mean_loss(tree: Arrays, of: Any = recurrent, tokens: Any = tokens, labels: Any = labels) -> Any:
            return losses.loss_of_network(tree, tokens, labels, of, autograd.numpy)

        expected = _reference(layer, params, {"tokens": tokens, "labels": labels}, mean_loss)
        link.compare(layer, flatten(grads) | {"loss": loss}, expected)
    _compare_networks_of_images(link, move)
    if "fast_weights" in layers:
        _compare_stacked_networks(link, move)
    return link


def _reference(case: str, params: Arrays, data: Arrays, mean_loss: Callable[[Arrays], Any]) -> Arrays:
    """Return the loss of a network and its gradients by autograd."""
    import autograd

    def compute() -> Arrays:
        loss, gradients = autograd.value_and_grad(mean_loss)(params)
        return flatten(gradients) | {"loss": loss}

    return reference(case, flatten(params) | data, compute)


def _states_of(case: Case, np: Any, params: Arrays, x: Any) -> Any:
    """Return h (T, B, H) of the plain layer, from initial states of zero."""
    return case.plain(params, {"x": x} | {n: numpy.zeros(shape) for n, shape in case.state_shapes().items()}, np)[0]


def _compare_networks_of_images(link: Link, move: Move) -> None:
    """Compare the networks of images: patches to a recurrent layer, and images to a ConvNet."""
    import autograd.numpy

    rng = numpy.random.default_rng(23)
    case = Case("irnn", 3, 2, 5, 4, initial=False)
    layers = CONVNETS[0][1]
    patches, images, labels = rng.random((3, 2, 6)), rng.random((2, 9, 9)), rng.integers(0, 3, 2)

    def recurrent(tree: Arrays) -> Any:
        x = losses.relu_layer(tree["encoder"], patches, "weight", "bias", autograd.numpy)
        h = _states_of(case, autograd.numpy, tree["layer"], x)
        return losses.loss_of_classifier(tree["readout"], h[-1], labels, autograd.numpy)

    def convolutional(tree: Arrays) -> Any:
        features, _ = plain_convnet.forward(tree["layer"], images[:, None], layers, autograd.numpy)
        return losses.loss_of_classifier(tree["readout"], features, labels, autograd.numpy)

    readout = network.Classifier(3, 5)
    models: tuple[tuple[str, network.Model, Any, Any], ...] = (
        ("patches", network.Network(network.PatchEncoder(6, 5), readout, 4, "irnn"), patches, recurrent),
        ("convnet", network.ConvolutionalNetwork(layers, readout, 9), images, convolutional),
    )
    for name, model, inputs, mean_loss in models:
        params = model.init(rng, "float64")
        loss, grads = model.loss_and_gradients(move(params), move(inputs), move(labels))
        expected = _reference(name, params, {"inputs": inputs, "labels": labels}, mean_loss)
        link.compare(name, flatten(grads) | {"loss": loss}, expected)


def _compare_stacked_networks(link: Link, move: Move) -> None:
    """Compare networks of real vectors, two levels of both directions, learned λ and η, and a padded batch."""
    import autograd.numpy

    rng, lengths = numpy.random.default_rng(25), numpy.array([4, 2])
    vectors, labels = rng.standard_normal((4, 2, 3)), rng.integers(0, 3, 2)
    linear, identity = network.LinearEncoder(3, 5), network.IdentityEncoder(3)
    two: dict[str, Any] = {"layers": 2, "bidirectional": True}
    for name, net, targets in (
        ("at each step", network.Network(linear, network.LinearReadout(2), 4, at="each", **two), rng.random((4, 2, 2))),
        ("at the end", network.Network(identity, network.Classifier(3, 5), 4, learn=("decay", "rate"), **two), labels),
    ):
        params = net.init(rng, "float64")
        loss, grads = net.loss_and_gradients(move(params), move(vectors), move(targets), lengths=lengths)

        def mean_loss(tree: Arrays, net: Any = net, targets: Any = targets) -> Any:
            return _loss_of_sequences(tree, net, vectors, targets, lengths, autograd.numpy)

        expected = _reference(name, params, {"inputs": vectors, "targets": targets}, mean_loss)
        link.compare(name, flatten(grads) | {"loss": loss}, expected)


def _loss_of_sequences(tree: Arrays, net: network.Network, vectors: Any, targets: Any, lengths: Any, np: Any) -> Any:
    """Return the mean loss of a stacked network in both directions, from each sequence alone."""
    case, sum_of_losses = Case(batch_size=1, hidden_size=net.hidden_size), 0.0

    def states(name: str, x: Any) -> Any:
        layer = dict(tree[name])
        given = {"x": x} | {n: numpy.zeros(shape) for n, shape in case.state_shapes().items()}
        if net.learn:
            given |= {"decay": 1 / (1 + np.exp(-layer.pop("decay"))), "rate": np.exp(layer.pop("rate"))}
        return case.plain(layer, given, np)[0]

    for n, length in enumerate(lengths):
        x = vectors[:length, n : n + 1]
        if "encoder" in tree:
            x = np.dot(x, tree["encoder"]["weight"].T) + tree["encoder"]["bias"]
        for number in ("", "2"):
            first, second = states("layer" + number, x), states("backward" + number, x[::-1])
            x = np.concatenate([first, second[::-1]], axis=-1)
        if net.at == "end":
            last = np.concatenate([first[-1], second[-1]], axis=-1)
            loss = losses.loss_of_classifier(tree["readout"], last, targets[n : n + 1], np) / len(lengths)
        else:
            values = np.dot(x[:, 0], tree["readout"]["output"].T) + tree["readout"]["output_bias"]
            errors = losses.squared_error(values, targets[:length, n])
            loss = np.sum(errors) / (targets.shape[-1] * lengths.sum())
        sum_of_losses = sum_of_losses + loss
    return sum_of_losses


def actor_critic_links(layers: Sequence[str], quick: bool, move: Move) -> Iterator[Link]:
    """Yield the links of an agent's episodes in a closed loop: an observation depends on the last policy."""
    import autograd
    import autograd.numpy

    by_autograd = Link(3, "backward = autograd", "actor_critic", 1e-12)
    by_differences = Link(4, "backward = finite differences", "actor_critic", 1e-7)
    closed = Link(5, "closed loop = what was seen again", "actor_critic", 1e-12)
    steps, games, inputs, encoded_size, hidden_size = 4, 2, 3, 3, 3
    inits: dict[Any, Arrays] = {"fast_weights": {}, "irnn": {"layer_norm": True}, "lstm": {}}
    for seed, (layer, init) in enumerate(inits.items(), 70):
        if layer not in layers:
            continue
        rng = numpy.random.default_rng(seed)
        agent = actor_critic.ActorCritic(inputs, 3, hidden_size, layer, init, encoded_size=encoded_size)
        params = map_leaves(lambda leaf: leaf + 0.4 * rng.standard_normal(leaf.shape), agent.init(rng, "float64"))  # noqa: B023
        noise, mixing = rng.standard_normal((steps, games, inputs)), rng.standard_normal((3, inputs))
        actions, rewards = rng.integers(0, 3, (steps, games)), rng.standard_normal((steps, games))
        seen = noise.copy()

        def see(t: int, logits: Any, seen: Any = seen, mixing: Any = mixing) -> Any:
            if t:
                seen[t] += to_host(logits) @ mixing
            return move(seen[t])

        logits, values, cache = agent.forward(move(params), see, steps, games)
        targets = actor_critic.returns(move(rewards), 0.9, values[-1])
        weights = {"value_weight": 0.7, "entropy_weight": 0.3}
        _, dlogits, dvalues = actor_critic.loss_and_gradients(logits, values, move(actions), targets, **weights)
        grads = flatten(agent.backward(dlogits, dvalues, cache))
        given = to_host({"actions": actions, "targets": targets, "advantages": targets - values}) | weights
        case = Case(layer, steps, games, encoded_size, hidden_size, initial=False, init=init)

        def loss(tree: Arrays, np: Any, case: Case = case, seen: Any = seen, given: Arrays = given) -> Any:
            recurrent = partial(_states_of, case, np)
            return losses.loss_of_agent(tree, seen, **given, layer=recurrent, np=np)

        gradients = partial(autograd.grad(loss), params, autograd.numpy)
        expected = reference(layer, flatten(params) | {"seen": seen} | given, gradients)
        by_autograd.compare(layer, grads, flatten(expected))
        if not quick:
            flat = flatten(params)
            differences = {name: differentiate(lambda at: loss(unflatten(at), numpy), flat, name) for name in flat}
            by_differences.compare(layer, grads, differences)

        def look(t: int, _: Any, seen: Any = seen) -> Any:
            return move(seen[t])

        expected = to_host({"logits": logits, "values": values})
        again_logits, again_values, _ = agent.forward(move(params), look, steps, games)
        closed.compare(layer, {"logits": again_logits, "values": again_values}, expected)
        # in two parts, with the value of the observation between them
        _, _, first = agent.forward(move(params), look, 2, games)
        state = agent.final_state(first)
        rest, _, _ = agent.forward(move(params), partial(look, seen=seen[2:]), steps - 2, games, state)
        following = agent.next_values(move(params), look(2, None), state)
        closed.compare(
            f"{layer}, in two parts", {"logits": rest, "values": following},
            {"logits": expected["logits"][2:], "values": expected["values"][2]},
        )  # fmt: skip
    yield from (link for link in (by_autograd, by_differences, closed) if link.cases)
