"""The links of functions without time: operations, losses, the ConvNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy

from .. import convnet, ops
from ..convnet import Convolution
from ..plain import convnet as plain_convnet
from ..plain import losses
from ..plain import ops as plain_ops
from .layers import differentiate
from .links import Arrays, Link, Move

CONVNETS = (  # channels, rows and columns of the images; layers
    ((1, 9, 9), (Convolution(3, 4, pool=2), Convolution(4, 3))),
    ((2, 8, 7), (Convolution(2, 3, stride=2),)),
    ((1, 12, 11), (Convolution(2, 2, stride=2, pool=2), Convolution(3, 2, pool=1))),
    ((1, 10, 10), (Convolution(2, 3), Convolution(2, 2, stride=3, pool=2))),
)


def convnet_links(quick: bool, move: Move) -> Iterator[Link]:
    """Yield the links of the ConvNet."""
    import autograd
    import autograd.numpy

    fast = Link(2, "forward = plain forward", "convnet", 1e-12)
    plain = Link(3, "plain backward = autograd", "convnet", 1e-12)
    by_autograd = Link(3, "backward = autograd", "convnet", 1e-12)
    by_differences = Link(4, "backward = finite differences", "convnet", 1e-7)
    rng = numpy.random.default_rng(22)
    for shape, layers in CONVNETS:
        case = f"{shape}, {'; '.join(str(layer) for layer in layers)}"
        params = convnet.init(rng, layers, shape[0], dtype="float64")
        params = {name: value + 0.2 * rng.standard_normal(value.shape) for name, value in params.items()}
        everything = params | {"images": rng.standard_normal((2, *shape))}
        expected, saved = plain_convnet.forward(params, everything["images"], layers)
        cotangent = rng.standard_normal(expected.shape)

        def plain_loss(at: Arrays, layers: Any = layers, cotangent: Any = cotangent) -> Any:
            features, _ = plain_convnet.forward(at, at["images"], layers, autograd.numpy)
            return autograd.numpy.sum(features * cotangent)

        def fast_loss(at: Arrays, layers: Any = layers, cotangent: Any = cotangent) -> float:
            weights = {name: value for name, value in at.items() if name != "images"}
            return float((convnet.forward(weights, at["images"], layers)[0] * cotangent).sum())

        from_autograd = autograd.grad(plain_loss)(everything)
        grads, dimages = plain_convnet.backward(cotangent, saved, params, layers)
        plain.compare(case, grads | {"images": dimages}, from_autograd)
        for block, threads in ((1, 1), (convnet.BLOCK, 2)):
            features, cache = convnet.forward(
                move(params), move(everything["images"]), layers, block=block, threads=threads
            )
            fast.compare(f"{case} block={block}", {"features": features}, {"features": expected})
            grads, dimages = convnet.backward(move(cotangent), cache)
            by_autograd.compare(f"{case} block={block}", grads | {"images": dimages}, from_autograd)
        if not quick:
            differences = {name: differentiate(fast_loss, everything, name) for name in everything}
            by_differences.compare(case, grads | {"images": dimages}, differences)
    yield from (fast, plain, by_autograd, *([] if quick else [by_differences]))


def operation_links(move: Move) -> Iterator[Link]:
    """Yield the links of the operations without time."""
    import autograd
    import autograd.numpy as np
    import scipy.special
    import scipy.stats

    rng = numpy.random.default_rng(20)
    z, dy = rng.standard_normal((2, 6, 5)) * 3
    gain, bias = rng.standard_normal((2, 5))
    weight, weight_bias, d_linear = (rng.standard_normal(shape) for shape in ((4, 5), (4,), (6, 4)))
    labels, tokens = rng.integers(0, 5, 6), rng.integers(0, 3, (2, 3))  # six tokens of three: some occur twice
    d_row, d_embedding, table = rng.standard_normal(6), rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 4))
    z_, dy_, gain_, bias_, weight_ = (move(array) for array in (z, dy, gain, bias, weight))

    oracle = Link(2, "forward = SciPy", "ops", 1e-12)
    for scale in (1, 50):
        logits = z * scale
        nll, probabilities = ops.softmax_cross_entropy(move(logits), move(labels))
        H, log_pi = ops.entropy(move(logits))
        log_softmax = scipy.special.log_softmax(logits, axis=1)
        softmax = scipy.special.softmax(logits, axis=1)
        wanted = {"H": scipy.stats.entropy(softmax, axis=1), "log pi": log_softmax}
        oracle.compare(f"entropy of logits times {scale}", {"H": H, "log pi": log_pi}, wanted)
        wanted = {"nll": -log_softmax[numpy.arange(6), labels], "probabilities": softmax}
        oracle.compare(f"cross-entropy, times {scale}", {"nll": nll, "probabilities": probabilities}, wanted)
    yield oracle

    link = Link(3, "backward = autograd", "ops", 1e-12)

    def gradients(function: Callable[..., Any], cotangent: Any, **arguments: Any) -> Arrays:
        return autograd.grad(lambda given: np.sum(function(**given) * cotangent))(arguments)

    got = dict(zip(("x", "weight", "bias"), ops.linear_backward(move(d_linear), z_, weight_), strict=True))
    product = lambda x, weight, bias: np.dot(x, weight.T) + bias  # noqa: E731
    expected = gradients(product, d_linear, x=z, weight=weight, bias=weight_bias)
    link.compare("linear", got, expected)

    got = {"table": ops.embedding_backward(move(d_embedding), move(tokens), 3)}
    expected = gradients(lambda table: plain_ops.embedding(table, tokens), d_embedding, table=table)
    link.compare("embedding", got, expected)
    plain = Link(3, "plain backward = autograd", "what has no time", 1e-12)
    plain.compare("embedding", {"table": plain_ops.embedding_backward(d_embedding, tokens, 3)}, expected)

    norm = ops.LayerNorm(z_)
    norm.load(gain_, bias_)
    _, normalized, inverse_std = norm.forward(z_)
    dnorm = move(numpy.zeros((2, 1, 5)))
    norm.dy[...] = dy_
    got = {"z": norm.backward(normalized, inverse_std, dnorm, out=z_.copy())}
    got |= {"gain": dnorm[0, 0], "bias": dnorm[1, 0]}
    rows = lambda z, gain, bias: plain_ops.layer_norm(z, gain, bias, np)[0]  # noqa: E731
    rows_saved = plain_ops.layer_norm(z, gain, bias)[1]
    expected = gradients(rows, dy, z=z, gain=gain, bias=bias)
    link.compare("layer_norm", got, expected)
    got = dict(zip(("z", "gain", "bias"), plain_ops.layer_norm_backward(dy, rows_saved, gain), strict=True))
    plain.compare("layer_norm", got, expected)

    for name, f in ops.ACTIVATIONS.items():
        expected = gradients(lambda z, n=name: plain_ops.activate(z, n, np), dy, z=z)
        link.compare(name, {"z": dy_ * f(z_).slope(f(z_).forward(z_))}, expected)

    _, probabilities = ops.softmax_cross_entropy(z_, move(labels))
    got = {"logits": ops.softmax_cross_entropy_backward(move(d_row), probabilities, move(labels))}
    expected = gradients(lambda logits: losses.cross_entropy(logits, labels, np), d_row, logits=z)
    link.compare("softmax_cross_entropy", got, expected)
    plain.compare("cross_entropy", {"logits": losses.cross_entropy_backward(d_row, z, labels)}, expected)

    H, log_pi = ops.entropy(z_)
    expected = gradients(lambda logits: losses.entropy(logits, np), d_row, logits=z)
    link.compare("entropy", {"logits": ops.entropy_backward(move(d_row), H, log_pi)}, expected)
    plain.compare("entropy", {"logits": losses.entropy_backward(d_row, z)}, expected)

    values, targets = gain, bias
    expected = gradients(lambda values: losses.squared_error(values, targets), d_row[:5], values=values)
    got = {"values": ops.squared_error_backward(move(d_row[:5]), move(values), move(targets))}
    link.compare("squared_error", got, expected)
    plain.compare("squared_error", {"values": losses.squared_error_backward(d_row[:5], values, targets)}, expected)

    given = {"actions": labels, "targets": z[:, 0], "advantages": z[:, 1], "value_weight": 0.7, "entropy_weight": 0.3}
    expected = gradients(lambda **at: losses.actor_critic(**at, **given, np=np), 1.0, logits=dy, values=d_row)
    got = dict(zip(("logits", "values"), losses.actor_critic_backward(dy, d_row, **given), strict=True))
    plain.compare("actor_critic", got, expected)
    yield from (link, plain)
