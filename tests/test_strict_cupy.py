"""The whole package on a stand-in for CuPy: the same numbers, no value pulled to the host, nothing that CuPy lacks."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import shutil
from pathlib import Path

import numpy
import pytest

import fastweights_np as fw
from bench import strict_cupy
from fastweights_np import audit, optim, to_device
from fastweights_np.audit import programmer, transformer
from fastweights_np.network import Classifier, Network, TokenEncoder
from fastweights_np.trees import unflatten
from tasks import keyvalue
from tasks.__main__ import main
from tests.small import mnist_files, options
from tests.test_expressions import fer_folders

SURFACE = Path(__file__).with_name("cupy_surface.txt")
TINY = ["--hidden-size", "8", "--batch-size", "8", "--epochs", "1"]
IMAGES = [*TINY, "--validation-size", "6"]
RETRIEVAL = [*TINY, "--training-size", "64", "--validation-size", "20", "--test-size", "20"]
KEYVALUE = ["keyvalue", "--keys", "5", "--hidden-size", "4", "--epochs", "1", "--repeat"]
MQAR = ["mqar", *RETRIEVAL, "--tokens", "16", "--pairs", "2", "--vocabulary", "16", "--convolution", "2"]
CATCH = ["--size", "6", "--visible", "2", "--hidden-size", "12", "--games", "8", "--method", "a2c", "--frames", "2000"]


@pytest.fixture
def cupy():
    with strict_cupy.installed() as module:
        yield module


# --------------------------------------------------------------------------------------------------------- the stand-in


@pytest.mark.parametrize(
    "do",
    [
        lambda x, cupy: numpy.asarray(x),
        lambda x, cupy: numpy.sum(x),
        lambda x, cupy: numpy.add(x, x),
        lambda x, cupy: x + numpy.ones(3),
        lambda x, cupy: numpy.ones(3) * x,
        lambda x, cupy: cupy.add(x, numpy.ones(3)),
        lambda x, cupy: cupy.add(x, x, out=numpy.ones(3)),
        lambda x, cupy: cupy.add(x, x, where=x > 0),
        lambda x, cupy: cupy.einsum("i,i->i", x, x, out=x),
        lambda x, cupy: cupy.concatenate([x, numpy.ones(3)]),
        lambda x, cupy: x[numpy.array([0, 1])],
        lambda x, cupy: x.sum(where=x > 0),
        lambda x, cupy: cupy.multiply(x, 1.5, out=cupy.asarray([1, 2, 3])),
        lambda x, cupy: list(x.sum()),
        lambda x, cupy: cupy.take(x, cupy.asarray([0, 1]), 0, cupy.zeros(2, "float32")),
    ],
)
def test_it_refuses_what_cupy_refuses(do, cupy):
    x = cupy.asarray(numpy.arange(3.0))
    with pytest.raises(TypeError):
        do(x, cupy)


def test_it_lacks_what_cupy_lacks(cupy):
    for name in ("vecdot", "matvec", "errstate", "Generator"):
        assert not hasattr(cupy, name)


def test_it_shows_what_is_read_before_it_is_written_and_wraps_what_is_out_of_range(cupy):
    assert numpy.isnan(cupy.empty((2, 3), "float32").get()).all()
    assert numpy.isnan(cupy.empty_like(cupy.zeros(2)).get()).all()
    x = cupy.asarray(numpy.arange(3.0))
    numpy.testing.assert_array_equal(x[cupy.asarray([4, -1])].get(), [1, 2])
    numpy.testing.assert_array_equal(x.sum().shape, ())


def test_it_counts_what_comes_to_the_host_and_each_kernel(cupy):
    x = cupy.asarray(numpy.arange(6.0).reshape(2, 3))
    assert (cupy.usage.pulls, cupy.usage.launches) == ([], 0)
    y = x.T.reshape(-1)  # copies
    y += 1
    z = x[0].sum() + 1
    assert cupy.usage.launches == 4
    assert (float(z), bool(z > 0), int(z), z.item()) == (4.0, True, 4, 4.0)
    assert len(cupy.usage.pulls) == 4
    assert x[x > 3].shape == (2,)
    assert len(cupy.usage.pulls) == 5


def test_it_has_no_streams_because_cublas_refuses_to_be_captured(cupy):
    """CuPy raises NotImplementedError for a matrix product in a capture, so nothing here may seem to allow one."""
    assert not hasattr(cupy.cuda, "Stream")
    assert not hasattr(cupy.cuda, "get_current_stream")


# ---------------------------------------------------------------------------------------------------- the whole package


def test_all_runs_on_the_device_gives_the_same_and_uses_what_is_listed(cupy, tmp_path, monkeypatch):
    """The audit of everything, and every task, on the host and on the device; then cupy_surface.txt."""
    for name, count in (("UPDATES", 5), ("EVALUATED", 4), ("TESTED", 4)):
        monkeypatch.setattr(keyvalue, name, count)
    for link in audit.run("cuda", quick=True):
        assert link.passed, f"{link.title}: {link.worst:.1e} at {link.where}"
    mnist = ["mnist", "--data-dir", str(mnist_files(tmp_path / "data")), *IMAGES]
    runs = [
        ["retrieval", *RETRIEVAL],
        ["retrieval", *RETRIEVAL, "--layer", "associative_lstm"],
        mnist,
        [*mnist, "--layer", "convnet"],
        ["faces", "--data-dir", str(fer_folders(tmp_path / "faces")), *IMAGES],
        [*KEYVALUE, "--layer", "gated_delta", "--feature-map", "dpfp-2"],
        [*KEYVALUE, "--layer", "decay"],
        [*KEYVALUE, "--layer", "softmax"],
        [*KEYVALUE, "--layer", "fast_weights"],
        [*MQAR, "--layer", "gated_delta"],
        [*MQAR, "--layer", "softmax"],
        options("longrecall", tmp_path),
        options("text", tmp_path),
        ["catch", *CATCH],
        ["catch", *CATCH, "--layer", "lstm", "--steps", "2", "--optimizer", "rmsprop"],
    ]
    for number, words in enumerate(runs):
        curves = []
        for device in ("cpu", "cuda"):
            folder = tmp_path / f"{number}-{device}"
            assert main([*words, "--device", device, "--out", str(folder)]) == 0
            curves.append(json.loads((folder / "result.json").read_text())["curve"])
        for expected, got in zip(*curves, strict=True):
            for name in set(expected) - {"seconds"}:
                assert got[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), (words, name)
    used = [" ".join([name, *sorted(words)]) for name, words in sorted(cupy.usage.functions.items())]
    assert SURFACE.read_text().split("\n")[1:-1] == used, (
        "what the package uses of CuPy has changed; the list is now:\n" + "\n".join(used)
    )


@pytest.mark.parametrize("case", audit.QUICK, ids=str)
def test_forward_and_backward_pull_nothing(case, cupy):
    params, given, dh = to_device(case.arrays(), "cuda")
    cupy.usage.clear()
    h, cache = case.module.forward(params, **given, **case.options)
    case.module.backward(dh, cache, extra=case.extra())
    case.module.final_state(cache)
    _, cache = case.module.forward(params, **given, **case.options, gradients=False)
    case.module.final_state(cache)
    assert cupy.usage.pulls == []
    assert not numpy.isnan(h.get()).any()


@pytest.mark.parametrize("case", transformer.QUICK, ids=str)
def test_the_transformer_pulls_nothing(case, cupy):
    params, tokens, dlogits = case.arrays()
    resets = numpy.zeros(tokens.shape, bool)
    resets[3] = True
    tree, tokens, dlogits = fw.to_device((unflatten(params), tokens, dlogits), "cuda")
    model = case.model()
    cupy.usage.clear()
    logits, cache = model.forward(tree, tokens, resets=resets)
    model.backward(dlogits, cache)
    model.final_state(model.forward(tree, tokens)[1])
    assert cupy.usage.pulls == []
    assert not numpy.isnan(logits.get()).any()


@pytest.mark.parametrize("case", programmer.QUICK, ids=str)
def test_the_fast_weight_programmer_pulls_nothing(case, cupy):
    params, given, cotangents = to_device(case.arrays(), "cuda")
    resets = numpy.arange(case.steps)[:, None] % numpy.full(case.batch_size, 3) == 2
    options = {"state": fw.fast_weight_programmer.State(given["S0"]), "writes": case.writes(), "resets": resets}
    cupy.usage.clear()
    y, cache = fw.fast_weight_programmer.forward(params, given["x"], **options, **case.options())
    fw.fast_weight_programmer.backward(cotangents["dy"].reshape(y.shape), cache)
    fw.fast_weight_programmer.final_state(cache)
    assert cupy.usage.pulls == []
    assert not numpy.isnan(y.get()).any()


@pytest.mark.parametrize("layer", ["fast_weights", "lstm"])
def test_an_update_pulls_nothing(layer, cupy):
    rng = numpy.random.default_rng(0)
    net = Network(TokenEncoder(9), Classifier(3), 8, layer)
    params = to_device(net.init(rng), "cuda")
    tokens, labels = to_device((rng.integers(0, 9, (5, 4)), rng.integers(0, 3, 4)), "cuda")
    adam, workspace = optim.Adam(params), fw.Workspace()
    for _ in range(3):
        cupy.usage.clear()
        loss, grads = net.loss_and_gradients(params, tokens, labels, workspace)
        optim.clip_by_global_norm(grads, 1.0)
        adam.step(params, grads, 1e-3)
        assert cupy.usage.pulls == []
    assert numpy.isfinite(float(loss))


def test_an_agents_episode_pulls_nothing(cupy):
    from tasks.catch import Settings
    from tasks.games.agents import Learner, SharedState
    from tasks.games.catch_game import Catch

    config = Settings(size=6, hidden_size=8, games=4, method="a2c", device="cuda", frames=1000, steps=2).a3c_config()
    shared = SharedState(config, 1, device="cuda")
    learner = Learner(config, shared, Catch(Settings(size=6).rules(), 4, xp=cupy))
    learner.play()
    cupy.usage.clear()
    learner.play()
    assert cupy.usage.pulls == []
    learner.report()
    assert len(cupy.usage.pulls) == 8, "four figures of two episodes"


def test_the_bench_computes_on_the_device_what_the_host_does(cupy):
    from bench.peers import in_numpy, runner
    from bench.peers.problem import Layer

    problem = Layer("fast_weights", 2, 5, 4, device="cuda")
    framework = in_numpy.layer(problem, dtype="float64")
    assert framework.seconds is in_numpy.seconds_on_a_gpu
    answer, expected = framework.answer(framework.run()), runner.expected_answer(problem)
    for name, value in expected.items():
        numpy.testing.assert_allclose(answer[name], value, rtol=1e-10, atol=1e-12)
    names = runner.layer_frameworks("fast_weights", 2, "cuda")
    assert "ours" in names
    assert not [name for name in names if "autograd" in name]


# one line of a layer at a time, broken as it is easily broken by who has no GPU
BREACHES = {
    "a function of NumPy's": ("    feed = input", "    numpy.abs(h0); feed = input"),
    "a value on the host": ("    feed = input", "    float(h0.sum()); feed = input"),
    "a keyword that CuPy lacks": (
        "    feed = input", '    xp.einsum("bh->bh", h0, out=h0.copy()); feed = input',
    ),
    "an array of the host": ("    feed = input", "    h0 * numpy.zeros(4); feed = input"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_seen(name, cupy, tmp_path, monkeypatch):
    copy = tmp_path / f"breach_{abs(hash(str(tmp_path)))}"
    shutil.copytree(Path(fw.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    line, breach = BREACHES[name]
    source = (copy / "fast_weights.py").read_text()
    assert source.count(line) == 1
    (copy / "fast_weights.py").write_text(source.replace(line, breach))
    monkeypatch.syspath_prepend(tmp_path)
    broken = importlib.import_module(f"{copy.name}.audit")
    (case, *_) = broken.QUICK
    params, given, _ = importlib.import_module(copy.name).to_device(case.arrays(), "cuda")
    cupy.usage.clear()
    try:
        case.module.forward(params, **given, **case.options)
    except TypeError:
        return
    assert cupy.usage.pulls, "the breach went by unseen"


# -------------------------------------------------------------------------------------------------------- the real CuPy


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_the_real_cupy_has_all_that_is_used():
    cupy = importlib.import_module("cupy")
    for line in SURFACE.read_text().split("\n")[1:-1]:
        name, *keywords = line.split()
        found = cupy
        for part in name.split("."):
            assert hasattr(found, part), f"CuPy has no {name}"
            found = getattr(found, part)
        if isinstance(found, cupy.ufunc):
            assert set(keywords) <= {"out", "dtype", "casting"}, f"cupy.{name} has not all of {keywords}"
            continue
        try:
            known = inspect.signature(found).parameters
        except (TypeError, ValueError):  # written in C
            text = inspect.getdoc(found) or ""
            assert all(keyword in text for keyword in keywords), f"cupy.{name} does not mention all of {keywords}"
            continue
        assert set(keywords) <= set(known), f"cupy.{name} has not all of {keywords}"
