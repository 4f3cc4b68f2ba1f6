"""Checkpoints of runs, and what can start from them: the same run, a longer one, another one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from copy import deepcopy
from pathlib import Path

import numpy
import pytest

from fastweights_np import checkpoint
from fastweights_np.network import Network
from fastweights_np.trees import flatten
from tasks.__main__ import TASKS, main
from tasks.games import agents
from tasks.running import checkpoints, command_line, folders, runs
from tests.small import LENGTH, options, without


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def assert_same_checkpoint(one: Path, other: Path) -> None:
    first, second = (flatten(checkpoint.load(folder / "checkpoint.npz")[0]) for folder in (one, other))
    assert set(first) == set(second)
    for name in first:
        numpy.testing.assert_array_equal(first[name], second[name], err_msg=name, strict=True)


@pytest.fixture(scope="module", params=TASKS)
def finished(request, tmp_path_factory):
    """(task, its options, the folder of a finished run) of each task, by a constant learning rate."""
    tmp_path = tmp_path_factory.mktemp(request.param)
    words = [*options(request.param, tmp_path), "--schedule", "constant"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    return request.param, words, tmp_path / "run"


# -------------------------------------------------------------------------------------------------- damaged checkpoints


def other_arrays(arrays):
    """(what is wrong, arrays) for each group: another dtype, shape, names, kind, and a number that is not finite."""
    for group in arrays:
        name = next(iter(flatten(arrays[group])))
        for what, change in (
            ("float16", lambda array: array.astype("float16")),
            ("complex", lambda array: array.astype("complex64")),
            ("longer", lambda array: numpy.concatenate([array, array])),
            ("transposed", lambda array: array[None]),
            ("empty", lambda array: array[:0]),
            ("nan", lambda array: numpy.full(array.shape, numpy.nan, "float32")),
            ("inf", lambda array: numpy.full(array.shape, numpy.inf, "float32")),
            ("missing", None),
        ):
            changed = deepcopy(arrays)
            node, *path = changed[group], *name.split("/")
            for branch in path[:-1]:
                node = node[branch]
            if change is None:
                del node[path[-1]]
            else:
                node[path[-1]] = change(node[path[-1]])
            yield f"{group} {what}", changed
        yield f"{group} more", arrays | {group: arrays[group] | {"more": numpy.zeros(3, "float32")}}
        for other in (numpy.zeros(3, "float32"), [arrays[group]], {"a": [arrays[group]]}, {"a": 3}, 3, None, {}):
            yield f"{group} {type(other).__name__}", arrays | {group: other}
    if "counts" in arrays:
        negative = arrays["counts"] | {"batches": -arrays["counts"]["batches"]}
        yield "negative counts", arrays | {"counts": negative}


def other_info(info):
    """(what is wrong, info) for each entry of a checkpoint that is no array."""
    for name, value in info.items():
        for wrong in (None, "text", True, [], {}, [3], float("nan"), float("inf"), -1, 10**9, {"a": 1}):
            if wrong != value:
                yield f"{name} {wrong}", info | {name: wrong}
        yield f"{name} missing", {key: info[key] for key in info if key != name}
    if "curve" in info:
        yield "a shorter curve", info | {"curve": info["curve"][:-1]}
        yield "a longer curve", info | {"curve": info["curve"] * 2}
        yield "text in the curve", info | {"curve": [line | {"validation_nll": "low"} for line in info["curve"]]}
        yield "an epoch twice", info | {"curve": [info["curve"][0]] * len(info["curve"])}
        yield "a fraction of an update", info | {"update": 1.5}
        if "best" in info:
            yield "another best", info | {"best": info["best"] | {"validation_nll": 0.0}}
        for name, wrong in (
            ("bit_generator", "MT19937"),
            ("state", {"state": -1, "inc": 1}),
            ("state", {"state": 2**200, "inc": 1}),
            ("state", {"state": 1}),
            ("has_uint32", "yes"),
            ("uinteger", -3),
        ):
            yield f"random {name} {wrong}", info | {"random_state": info["random_state"] | {name: wrong}}


def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_changed(finished, tmp_path, capsys):
    task, _, folder = finished
    path = folder / "checkpoint.npz"
    arrays, info = checkpoint.load(path)
    before = path.read_bytes()
    cases = [(what, wrong, info) for what, wrong in other_arrays(arrays)]
    possible = ("epoch_loss -1", "ranks missing", "identity missing")  # older checkpoints lack ranks and identity
    cases += [(what, arrays, wrong) for what, wrong in other_info(info) if what not in possible]
    if task in ("mnist", "faces"):  # which draw pictures before they resume, and share the rest with retrieval
        cases = cases[::25]
    others = {file.name: file.read_bytes() for file in folder.iterdir() if file != path}
    try:
        for what, wrong_arrays, wrong_info in cases:
            checkpoint.save(path, wrong_arrays, wrong_info)
            saved = path.read_bytes()
            code = main([task, "--resume", str(folder)])
            if what in ("seconds 1000000000", "epoch_loss 1000000000", "ranks 1000000000"):  # odd, but not impossible
                assert code == 0
                continue
            assert code == 2, what
            said = capsys.readouterr().err
            assert str(path) in said, what
            assert said.count("\n") == 1, what
            assert path.read_bytes() == saved, what
    finally:
        path.write_bytes(before)
        for name, content in others.items():
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("group", ["params", "best_params", "optimizer"])
@pytest.mark.parametrize("number", [numpy.nan, numpy.inf])
def test_what_is_not_finite_is_not_saved(group, number, tmp_path):
    arrays = {name: {"W": numpy.ones(3)} for name in ("params", "best_params", "optimizer")}
    checkpoints.save(tmp_path, arrays, {"update": 1}, "update 1")
    before = (tmp_path / "checkpoint.npz").read_bytes()
    arrays[group]["W"][1] = number
    with pytest.raises(FloatingPointError, match=f"{group}/W: expected finite numbers, got others at update 2"):
        checkpoints.save(tmp_path, arrays, {"update": 2}, "update 2")
    with pytest.raises(FloatingPointError, match="metrics: expected finite numbers"):
        checkpoints.save(tmp_path, {}, {"curve": [{"test_nll": number}]}, "update 2")
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("what", ["params", "gradients"])
def test_ctrl_c_after_an_update_that_is_not_finite_keeps_the_last_checkpoint(what, tmp_path, monkeypatch, capsys):
    """In the second epoch, one update before the loss would show it."""
    count, loss_and_gradients = 0, Network.loss_and_gradients

    def breaking(self, params, *arguments):
        nonlocal count
        count += 1
        loss, grads = loss_and_gradients(self, params, *arguments)
        if count == 5:
            os.kill(os.getpid(), signal.SIGINT)
            for leaf in flatten(params if what == "params" else grads).values():
                leaf[...] = numpy.inf if what == "params" else numpy.nan
        return loss, grads

    monkeypatch.setattr(Network, "loss_and_gradients", breaking)
    words = [*options("retrieval", tmp_path), "--clip-norm", "1e30", "--out", str(tmp_path / "run")]
    assert main(words) == runs.DIVERGED
    assert "the last checkpoint in" in capsys.readouterr().err
    arrays, info = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert info["update"] == 3
    assert all(numpy.isfinite(leaf).all() for leaf in flatten(arrays).values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_agent_that_is_not_finite_is_not_saved(tmp_path, monkeypatch, capsys):
    play = agents.Learner.play

    def breaking(self):
        play(self)
        if self._shared.batches[0] == 6:
            self._shared.moments["v"][...] = numpy.inf

    words = [*options("catch", tmp_path), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(agents.Learner, "play", breaking)
    monkeypatch.setattr("tasks.catch.REPORT_EVERY", 1)
    assert main(words) == runs.DIVERGED
    assert "moments/v: expected finite numbers" in capsys.readouterr().err
    arrays, _ = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert all(numpy.isfinite(leaf).all() for leaf in flatten(arrays).values())


# -------------------------------------------------------------------------------------------------------- a longer run


def test_a_finished_run_is_continued_by_a_new_one(finished, tmp_path, monkeypatch, capsys):
    """By a constant learning rate it ends in the same bits as a run that was as long from the start."""
    task, words, folder = finished
    monkeypatch.chdir(tmp_path)
    name, length = LENGTH[task]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert main([task, "--resume", str(folder), f"--{name}", str(2 * length)]) == 0
    (longer,) = (tmp_path / "runs").iterdir()
    said = capsys.readouterr().out
    assert f"continues {folder} after" in said
    assert "the learning rate resumes at 0.00" in said
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    origin = {"run": str(folder.resolve()), "taken": "everything", "updates": result_of(folder)["updates"]}
    assert json.loads((longer / "settings.json").read_text())["origin"] == origin
    assert result_of(longer)["origin"] == origin
    assert result_of(longer)["settings"][name] == 2 * length
    assert result_of(longer)["updates"] == 2 * origin["updates"]
    assert main([*words, f"--{name}", str(2 * length), "--out", str(tmp_path / "straight")]) == 0
    if task == "catch":
        # a part of the shorter run is half a part of the longer one: sums of pairs agree
        sums = [
            checkpoint.load(each / "checkpoint.npz")[0]["counts"]["sums"] for each in (longer, tmp_path / "straight")
        ]
        numpy.testing.assert_allclose(*(each.sum(axis=1) for each in sums))
        mine, straight = (checkpoint.load(each / "checkpoint.npz")[0] for each in (longer, tmp_path / "straight"))
        for each, other in zip(flatten(mine["params"]).values(), flatten(straight["params"]).values(), strict=True):
            numpy.testing.assert_array_equal(each, other)
    else:
        assert_same_checkpoint(longer, tmp_path / "straight")
        assert (longer / "metrics.jsonl").read_text().count("\n") == 2 * length


def test_the_schedule_covers_the_longer_run(tmp_path, capsys):
    words = options("retrieval", tmp_path)
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    again = ["retrieval", "--resume", str(tmp_path / "run"), "--epochs", "6", "--out", str(tmp_path / "longer")]
    assert main(again) == 0
    rates = [line["learning_rate"] for line in result_of(tmp_path / "longer")["curve"]]
    assert rates[2] == 1e-3, "in the first half of 6 epochs"
    assert 0 < rates[5] < rates[4] < rates[3] < 1e-3


def test_a_longer_run_that_is_stopped_at_once_is_resumed_as_such(finished, tmp_path):
    task, _, folder = finished
    name, length = LENGTH[task]
    kind = type(runs.settings_of(folder, __import__(f"tasks.{task}", fromlist=["Settings"]).Settings))
    words = ["--resume", str(folder), f"--{name}", str(2 * length), "--out", str(tmp_path / "longer")]
    settings = command_line.settings_asked_for(kind, words, "program")
    with folders.open_folder(settings):
        pass  # stopped before its first update
    assert main([task, "--resume", str(tmp_path / "longer")]) == 0
    assert result_of(tmp_path / "longer")["updates"] == 2 * result_of(folder)["updates"]
    assert result_of(tmp_path / "longer")["origin"]["updates"] == result_of(folder)["updates"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "1"], "epochs: expected 2, with which"),
        (["--epochs", "4", "--learning-rate", "0.5"], "learning_rate: expected 0.001, with which"),
        (["--epochs", "4", "--batch-size", "4"], "batch_size: expected 8, with which"),
    ],
)
def test_only_the_length_of_a_run_can_be_raised(words, message, tmp_path, capsys):
    assert main([*options("retrieval", tmp_path), "--out", str(tmp_path / "run")]) == 0
    assert main(["retrieval", "--resume", str(tmp_path / "run"), *words, "--out", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_options_beside_resume_are_compared_before_there_is_a_checkpoint(tmp_path, capsys):
    from tasks import retrieval

    with folders.open_folder(retrieval.Settings(out=tmp_path / "run")):
        pass
    assert main(["retrieval", "--resume", str(tmp_path / "run"), "--seed", "5"]) == 2
    assert "seed: expected 0, with which" in capsys.readouterr().err
    assert main(["retrieval", "--resume", str(tmp_path / "run"), "--epochs", "50", "--out", str(tmp_path / "new")]) == 2
    assert "resume: expected a run with a checkpoint, found none" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ initial weights


def best_params(folder: Path) -> dict:
    arrays, _ = checkpoint.load(folder / "checkpoint.npz")
    return flatten(arrays.get("best_params", arrays["params"]))


def with_own_base(words: list[str]) -> list[str]:
    """The options of a run whose base policy is that of --initial."""
    return without(words, "--base-updates", "--data-dir") if words[0] == "fast_slow" else words


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_can_start_from_the_best_parameters_of_another(stopped, finished, tmp_path):
    """A learning rate of 0 leaves them as they are; also if the run is stopped at once, and resumed."""
    task, words, folder = finished
    words = with_own_base(words)
    words = [*words, "--seed", "3", "--learning-rate", "0", "--initial", str(folder), "--out", str(tmp_path / "new")]
    if stopped:
        kind = __import__(f"tasks.{task}", fromlist=["Settings"]).Settings
        with folders.open_folder(command_line.settings_asked_for(kind, words[1:], "program")):
            pass
        words = [task, "--resume", str(tmp_path / "new")]
    assert main(words) == 0
    ours, theirs = best_params(tmp_path / "new"), best_params(folder)
    assert set(ours) == set(theirs)
    for name in ours:
        numpy.testing.assert_array_equal(ours[name], theirs[name], err_msg=name, strict=True)
    for file in ("settings.json", "result.json"):
        origin = json.loads((tmp_path / "new" / file).read_text())["origin"]
        assert origin["run"] == str(folder.resolve())
        assert origin["taken"] == "best parameters"
        assert 0 < origin["updates"] <= result_of(folder)["updates"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden-size", "10"], "expected float32 of shape"),
        (["--dtype", "float64"], "expected float64 of shape"),
        (["--layer", "lstm"], "expected"),
    ],
)
def test_initial_weights_of_another_network_are_refused(words, message, finished, tmp_path, capsys):
    task, own, folder = finished
    own = with_own_base(own)
    if task in ("keyvalue", "mqar"):  # which have no layer lstm
        words = [word.replace("lstm", "softmax") for word in words]
    if task in ("longrecall", "text"):  # nor these; and heads have an even size
        words = [{"lstm": "window", "10": "16"}.get(word, word) for word in words]
    if task == "fast_slow" and "lstm" in words:
        pytest.skip("it has one layer")
    assert main([*own, *words, "--initial", str(folder), "--out", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert f"{folder / 'checkpoint.npz'}" in said
    assert "name a run of the same network by --initial" in said
    assert not (tmp_path / "new").exists(), "what is refused does not block --out"


def test_a_run_is_resumed_without_the_run_that_it_started_from(finished, tmp_path):
    task, words, folder = finished
    first = shutil.copytree(folder, tmp_path / "first")
    words = [*with_own_base(words), "--initial", str(first), "--out", str(tmp_path / "new")]
    assert main(words) == 0
    whole = result_of(tmp_path / "new")
    (tmp_path / "new" / "result.json").unlink()
    shutil.rmtree(first)
    assert main([task, "--resume", str(tmp_path / "new")]) == 0
    assert result_of(tmp_path / "new")["curve"] == whole["curve"]


def test_a_run_that_starts_from_another_one_is_resumed_from_any_folder(finished, tmp_path, monkeypatch):
    _, words, folder = finished
    words = [*with_own_base(words), "--initial", folder.name, "--out", str(tmp_path / "new")]
    monkeypatch.chdir(folder.parent)
    assert main(words) == 0
    assert json.loads((tmp_path / "new" / "settings.json").read_text())["initial"] == str(folder)


def test_an_initial_run_that_is_not_there_is_named(tmp_path, capsys):
    words = [*options("retrieval", tmp_path), "--initial", str(tmp_path / "nowhere"), "--out", str(tmp_path / "new")]
    assert main(words) == 2
    assert "initial: expected the folder of a run with a checkpoint, found none in" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
