"""One workspace in several threads, and objects that are copied and pickled: every layer, network, agent and game."""

from __future__ import annotations

import copy
import ctypes
import pickle
import platform
import subprocess
import sys
import threading

import numpy
import pytest

import fastweights_np as fw
from fastweights_np import convnet, ops
from fastweights_np.actor_critic import ActorCritic
from fastweights_np.multilevel import Controls
from fastweights_np.network import LAYERS, Classifier, ConvolutionalNetwork, Network, PatchEncoder, TokenEncoder
from fastweights_np.trees import flatten

STEPS, BATCH = 6, 4
CONTROLS = Controls([True, False] * 3, [False] * 6, [False, True] * 3, [False, True] * 3)
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


def problem(name: str):
    """A layer, its parameters and arrays, and its options."""
    rng, layer = numpy.random.default_rng(0), LAYERS[name]
    params = layer.init(rng, 3, 6)
    x, dh = (rng.standard_normal((STEPS, BATCH, size), dtype="float32") for size in (3, 6))
    return layer, params, x, dh, {"controls": CONTROLS} if name == "multilevel" else {}


# -------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("function", ["forward", "backward", "final_state", "attention"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_workspace_in_the_middle_of_a_call_is_refused(name, function):
    """Another call holds the workspace, as a thread would; afterwards it can be used again."""
    layer, params, x, dh, options = problem(name)
    if not hasattr(layer, function):
        pytest.skip(f"{name} has no {function}")
    workspace = fw.Workspace()
    expected, cache = layer.forward(params, x, workspace=workspace, **options)
    calls = {
        "forward": lambda: layer.forward(params, x, workspace=workspace, **options),
        "backward": lambda: layer.backward(dh, cache),
        "final_state": lambda: layer.final_state(cache),
        "attention": lambda: layer.attention(cache),
    }
    message = r"workspace: expected one that no other call is using.*give each thread"
    with workspace, pytest.raises(RuntimeError, match=message):
        calls[function]()
    grads, _, _ = layer.backward(dh, cache)  # the refused call has changed nothing
    again, fresh = layer.forward(params, x, **options)
    numpy.testing.assert_array_equal(again, expected)
    for key, value in layer.backward(dh, fresh)[0].items():
        numpy.testing.assert_array_equal(grads[key], value)


def test_threads_that_share_a_workspace_get_right_results_or_an_error():
    layer, params, _, _, _ = problem("fast_weights")
    workspace, wrong, errors = fw.Workspace(), [], []
    inputs = [numpy.random.default_rng(n).standard_normal((STEPS, BATCH, 3), dtype="float32") for n in range(4)]
    expected = [layer.forward(params, x)[0] for x in inputs]

    def work(n: int) -> None:
        for _ in range(100):
            try:
                h, _ = layer.forward(params, inputs[n], workspace=workspace)
            except RuntimeError as error:
                errors.append(error)
            else:
                wrong.extend([n] * (not numpy.array_equal(h, expected[n])))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all("workspace" in str(error) for error in errors)


def test_an_input_made_step_by_step_cannot_use_its_own_layers_workspace():
    layer, params, x, _, _ = problem("irnn")
    workspace = fw.Workspace()

    def make(t: int, h: numpy.ndarray) -> numpy.ndarray:
        return layer.forward(params, x, workspace=workspace)[0][-1, :, :3]

    with pytest.raises(RuntimeError, match="in the middle of a call"):
        layer.forward(params, ops.ClosedLoop(numpy.empty_like(x), make), workspace=workspace)
    layer.forward(params, x, workspace=workspace)  # an error has released it


# --------------------------------------------------------------------------------------------------- copies and pickles


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_cache_can_be_copied_and_its_copy_is_its_own(name, way):
    layer, params, x, dh, options = problem(name)
    state = layer.final_state(layer.forward(params, x, **options)[1])._asdict()
    given = {f"{key}0": value for key, value in state.items()}
    if name in ("fast_weights", "multilevel"):
        options |= {"decay": 0.8, "rate": 0.3, "inner_steps": 2, "chunk": 2, "activation": "tanh"}
    workspace = fw.Workspace()
    _, cache = layer.forward(params, x, workspace=workspace, **given, **options)
    twin = COPIES[way](cache)
    expected, expected_state = layer.backward(dh, cache), layer.final_state(cache)
    layer.forward(params, x * 2, workspace=workspace, **options)  # overwrites the original
    with pytest.raises(RuntimeError, match="overwritten"):
        COPIES[way](cache)
    grads, dx, dh0 = layer.backward(dh, twin)
    for got, wanted in ((dx, expected[1]), (dh0, expected[2]), *((grads[key], expected[0][key]) for key in grads)):
        numpy.testing.assert_array_equal(got, wanted)
    for got, wanted in zip(layer.final_state(twin), expected_state, strict=True):
        numpy.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("way", COPIES)
def test_a_used_workspace_copies_to_an_empty_one(way):
    layer, params, x, dh, _ = problem("lstm")
    workspace = fw.Workspace()
    _, cache = layer.forward(params, x, workspace=workspace)
    twin = COPIES[way](workspace)
    layer.forward(params, x, workspace=twin)
    layer.backward(dh, cache)  # the original has not been overwritten


def network(name: str):
    """A network and its inputs."""
    tokens, images = numpy.arange(20).reshape(5, 4) % 7, numpy.ones((4, 8, 8), "float32")
    if name == "convnet":
        return ConvolutionalNetwork((convnet.Convolution(2, 3, pool=2),), Classifier(3), 8), images
    if name == "patches":
        options, patches = {"controls": CONTROLS}, numpy.ones((6, 4, 5), "float32")
        return Network(PatchEncoder(5), Classifier(3), 6, "multilevel", options=options), patches
    return Network(TokenEncoder(7), Classifier(3), 6, "irnn"), tokens


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ["tokens", "patches", "convnet"])
def test_a_network_can_be_copied_after_its_first_forward_and_so_can_its_cache(name, way):
    net, inputs = network(name)
    params = net.init(numpy.random.default_rng(0))
    logits, cache = net.forward(params, inputs, fw.Workspace())
    twin = COPIES[way](net)
    assert twin == net
    numpy.testing.assert_array_equal(twin.forward(params, inputs)[0], logits)
    expected = net.backward(logits, cache)
    got = net.backward(logits, COPIES[way](cache))
    for key, value in flatten(got).items():
        numpy.testing.assert_array_equal(value, flatten(expected)[key], err_msg=key)


@pytest.mark.parametrize("way", COPIES)
def test_an_agents_cache_can_be_copied(way):
    agent = ActorCritic(inputs=3, actions=2, hidden_size=6)
    params, seen = agent.init(numpy.random.default_rng(0)), numpy.ones((4, 3), "float32")
    logits, values, cache = agent.forward(params, lambda t, logits: seen * t, steps=5, games=4)
    got = COPIES[way](agent).backward(logits, values, COPIES[way](cache))
    for key, value in flatten(agent.backward(logits, values, cache)).items():
        numpy.testing.assert_array_equal(flatten(got)[key], value, err_msg=key)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("kind", [fw.optim.Adam, fw.optim.RMSProp])
def test_an_optimizer_can_be_copied_and_its_copy_is_its_own(kind, way):
    """Both continue with the same moments: a step of one does not change the other's."""
    params, grads = {"W": numpy.ones((2, 3))}, {"W": numpy.arange(6.0).reshape(2, 3)}
    optimizer = kind(params)
    optimizer.step(params, grads, 0.1)
    twin, twins_params = COPIES[way]((optimizer, params))
    optimizer.step(params, grads, 0.1)
    twin.step(twins_params, grads, 0.1)
    numpy.testing.assert_array_equal(twins_params["W"], params["W"])
    assert twin.updates == 2


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_game_can_be_copied_in_the_middle_as_a_tree_search_does(way):
    gymnasium = pytest.importorskip("gymnasium")
    import tasks.games.catch_environment  # noqa: F401

    env = gymnasium.make("fastweights_np/Catch-v0", paddle_start="random").unwrapped
    env.reset(seed=3)
    env.step(0)
    twin = COPIES[way](env)
    other = COPIES[way](twin)
    other.step(2)  # not in the twin's game
    for action in (0, 2, 1, 0):
        for got, wanted in zip(twin.step(action), env.step(action), strict=True):
            numpy.testing.assert_array_equal(got, wanted)
    numpy.testing.assert_array_equal(twin.reset()[0], env.reset()[0])  # the generator has come along


# --------------------------------------------------------------------------------------------------------------- memory


MEMORY = """
import ctypes
import numpy
import fastweights_np as fw

class MemoryInfo(ctypes.Structure):  # mallinfo2 of malloc.h
    names = "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names]

memory = ctypes.CDLL(None).mallinfo2
memory.restype = MemoryInfo
fw.Workspace()
before = memory()
arrays = [numpy.ones(2**21) for _ in range(10)]
during = memory()
del arrays
after = memory()
print(during.hblks - before.hblks, during.arena - after.arena, (after.fordblks - during.fordblks) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_freed_memory_is_kept_for_the_next_arrays():
    """160 MiB are taken on the heap, in no mapping of their own, and when they are freed the heap is as large.

    In a process of its own: other arenas, which threads may have left in this one, return what they can.
    """
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("glibc before 2.33 cannot say how large a heap is")
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    mappings, returned, freed = map(int, done.stdout.split())
    assert (mappings, returned) == (0, 0)
    assert freed >= 160
