"""Count the array operations of a time step: python -m bench launches. Each one is a kernel launch on a GPU.

They are counted on the tests' stand-in for CuPy, so no GPU is needed. Views do not count. Operations for all steps at
once are divided by the number of steps.
"""

from __future__ import annotations

from typing import Any

import numpy

from bench import strict_cupy
from fastweights_np import Workspace, multilevel, network, optim, to_device
from fastweights_np.network import Classifier, Network, TokenEncoder, train_step

from .report import markdown, store

STEPS, BATCH_SIZE, INPUTS, UNITS = 24, 4, 10, 50
# the variants: layer, options of its init, options of its forward
VARIANTS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("fast_weights", {}, {}),
    ("fast_weights", {}, {"inner_steps": 2}),
    ("fast_weights", {"layer_norm": False}, {}),
    ("multilevel", {}, {"controls": multilevel.quadrants(4)}),
    ("irnn", {}, {}),
    ("irnn", {"layer_norm": True}, {}),
    ("lstm", {}, {}),
    ("lstm", {"layer_norm": True}, {}),
    ("associative_lstm", {}, {}),
)


def run() -> None:
    """Count every variant of every layer and a whole training update. Store launches.json and launches.md."""
    rows = []
    with strict_cupy.installed():
        for layer, init, options in VARIANTS:
            forward, backward, pulls = _of_layer(layer, init, options)
            named = {**init, **{name: value for name, value in options.items() if name != "controls"}}
            rows.append({"layer": layer, "options": named, "forward": forward, "backward": backward, "pulls": pulls})
        update = _of_update()
    store("launches", {"steps": STEPS, "layers": rows, "update": update}, _table(rows, update), "fast_weights")


def _of_layer(layer: str, init: dict[str, Any], options: dict[str, Any]) -> tuple[float, float, int]:
    """Return launches per step, forward and backward, and the number of values pulled to the host in both."""
    rng, module = numpy.random.default_rng(0), network.LAYERS[layer]
    params = to_device(module.init(rng, INPUTS, UNITS, **init), "cuda")
    x, dh = (to_device(rng.standard_normal(shape, dtype="float32"), "cuda") for shape in _shapes())
    workspace, usage = Workspace(), strict_cupy.usage
    module.forward(params, x, workspace=workspace, **options)  # makes the buffers
    usage.clear()
    _, cache = module.forward(params, x, workspace=workspace, **options)
    forward = usage.launches
    module.backward(dh, cache)
    return round(forward / STEPS, 1), round((usage.launches - forward) / STEPS, 1), len(usage.pulls)


def _shapes() -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (STEPS, BATCH_SIZE, INPUTS), (BATCH_SIZE, UNITS)


def _of_update() -> dict[str, int]:
    """Return launches and values pulled to the host in a whole update of associative retrieval's network, T = 11."""
    rng, usage = numpy.random.default_rng(0), strict_cupy.usage
    net = Network(TokenEncoder(37), Classifier(10), UNITS)
    params = to_device(net.init(rng), "cuda")
    tokens, labels = to_device((rng.integers(0, 37, (11, BATCH_SIZE)), rng.integers(0, 10, BATCH_SIZE)), "cuda")
    adam, workspace = optim.Adam(params), Workspace()
    for _ in range(2):
        usage.clear()
        train_step(net, params, adam, tokens, labels, 1e-3, clip_norm=5.0, workspace=workspace)
    return {"launches": usage.launches, "pulls": len(usage.pulls)}


def _table(rows: list[dict[str, Any]], update: dict[str, int]) -> str:
    header = ["layer", "options", "forward, a step", "backward, a step", "values pulled to the host"]
    lines = [
        [row["layer"], ", ".join(f"{name}={value}" for name, value in row["options"].items()) or "-", row["forward"],
         row["backward"], row["pulls"]]
        for row in rows
    ]  # fmt: skip
    whole = f"A whole update of associative retrieval (R = {UNITS}, T = 11, clipping and Adam included): "
    return markdown(header, lines) + f"\n{whole}{update['launches']} launches, {update['pulls']} values pulled.\n"
