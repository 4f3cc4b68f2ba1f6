"""Run our layers and training loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy

from fastweights_np import Workspace, fast_weights, key_value_memory, optim, to_device, to_host
from fastweights_np.network import LAYERS, train_step
from fastweights_np.trees import flatten
from tasks import mnist, retrieval
from tasks.vision import images

from .problem import Arrays, Forward, Framework, Layer, Programmer, Step, Training


def layer(problem: Layer, dtype: str = "float32") -> Framework:
    """Return the package's layer with a workspace, as in training."""
    layer, workspace = LAYERS[problem.layer], Workspace()
    params, x, h0, dh = to_device(problem.arrays(dtype), problem.device)
    options = problem.all_options()

    def run() -> Any:
        h, cache = layer.forward(params, x, h0, workspace=workspace, **options)
        return h, layer.backward(dh, cache)

    def answer(result: Any) -> Arrays:
        h, (grads, dx, dh0) = result
        return to_host({"h": h, "dx": dx, "dh0": dh0} | {"d" + name: grad for name, grad in grads.items()})

    return Framework(run, answer) if problem.device == "cpu" else Framework(run, answer, seconds_on_a_gpu)


def forward(problem: Forward, dtype: str = "float32") -> Framework:
    """Return the package's layer without gradients, with a workspace."""
    layer, workspace = LAYERS[problem.layer], Workspace()
    params, x, h0, _ = problem.arrays(dtype)
    options = problem.all_options()

    def run() -> Any:
        return layer.forward(params, x, h0, workspace=workspace, gradients=False, **options)[0]

    return Framework(run, lambda h: {"h": h})


def step(problem: Step, stepper: bool = False, dtype: str = "float32") -> Framework:
    """Return the package's steps: a stepper, whose state changes in place, or the functional `step`."""
    params, x, h0, _ = problem.arrays(dtype)
    inputs, options = list(x), problem.options
    if stepper:
        advance = fast_weights.Stepper(params, problem.batch_size, h0=h0, **options)

        def run_stepper() -> Any:
            for x_t in inputs:
                advance(x_t)
            return advance

        return Framework(run_stepper, lambda stepper: stepper.state._asdict())
    state = fast_weights.initial_state(params, problem.batch_size, h0)

    def run() -> Any:
        nonlocal state
        for x_t in inputs:
            _, state = fast_weights.step(params, x_t, state, **options)
        return state

    return Framework(run, lambda state: state._asdict())


def programmer(problem: Programmer, threads: int = 1, dtype: str = "float32") -> Framework:
    """Return the package's memory of keys and values, its sequences or heads shared by threads."""
    arrays, do = problem.arrays(dtype)
    beta, log_decay = arrays.get("beta"), arrays.get("log_decay")
    if log_decay is not None and problem.rule == "decay":
        log_decay = log_decay.reshape(1, 1, -1)

    def run() -> Any:
        o, cache = key_value_memory.forward(
            arrays["q"], arrays["k"], arrays["v"], None, beta, 0.0 if log_decay is None else log_decay,
            delta=beta is not None, threads=threads,
        )  # fmt: skip
        return o, key_value_memory.backward(do, cache)

    def answer(result: Any) -> Arrays:
        o, (dq, dk, dv, dbeta, dlog_decay, _) = result
        if problem.rule == "decay":
            dlog_decay = dlog_decay.sum(axis=(0, 1))
        named = {"o": o, "dq": dq, "dk": dk, "dv": dv, "dbeta": dbeta, "dlog_decay": dlog_decay}
        return {name: value for name, value in named.items() if name.removeprefix("d") in (*arrays, "o")}

    return Framework(run, answer)


def seconds_on_a_gpu(run: Any) -> float:
    """Return the seconds of run() on CuPy's current stream."""
    import cupy

    before, after = cupy.cuda.Event(), cupy.cuda.Event()
    before.record()
    run()
    after.record()
    after.synchronize()
    return cupy.cuda.get_elapsed_time(before, after) / 1e3


def training(problem: Training, threads: int = 1, dtype: str = "float32") -> Framework:
    """Return the task's network and the updates of its training loop."""
    network, params, split, orders = network_and_data(problem, dtype)
    if threads > 1:
        network = replace(network, threads=threads)
    adam, workspace, update = optim.Adam(params, epsilon=problem.epsilon), Workspace(), iter(orders)

    def run() -> Any:
        for _ in range(problem.updates):
            inputs, labels = split.batch(next(update))
            train_step(
                network, params, adam, inputs, labels, problem.learning_rate, clip_norm=problem.clip_norm,
                workspace=workspace,
            )  # fmt: skip
        return params

    return Framework(run, lambda params: {name: value.copy() for name, value in flatten(params).items()})


def network_and_data(problem: Training, dtype: str = "float32") -> tuple[Any, Any, Any, Any]:
    """Return the network, initial parameters, training set, and an endless iterator of each update's indices."""
    chosen: dict[str, Any] = {"layer": problem.layer, "hidden_size": problem.hidden_size, "seed": problem.seed}
    settings: Any
    network: Any
    split: Any
    if problem.task == "retrieval":
        settings = retrieval.Settings(**chosen)
        network, split = retrieval.network(settings), retrieval.load(settings)[0]
    else:
        settings = mnist.Settings(**chosen, dtype=dtype)  # type: ignore[arg-type]
        rng = numpy.random.default_rng(problem.seed)
        pixels, labels = rng.integers(0, 256, (2000, 28, 28)).astype("uint8"), rng.integers(0, 10, 2000)
        network, split = images.model(settings, 28, 10), images.Images(pixels, labels, settings, standardize=False)
    weights, order = settings.streams(2)

    def orders() -> Any:
        while True:
            permutation = order.permutation(len(split.labels))
            for start in range(0, len(permutation) - problem.batch_size + 1, problem.batch_size):
                yield permutation[start : start + problem.batch_size]

    params = network.init(weights)
    if dtype != "float32":
        params = {
            part: {name: numpy.asarray(value, dtype) for name, value in tree.items()} for part, tree in params.items()
        }
    return network, params, split, orders()
