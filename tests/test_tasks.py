"""The tasks as their users run them: data, command line, output folder, stopping, resuming, and errors."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import numpy
import pytest

from fastweights_np import checkpoint
from fastweights_np.network import LAYERS, Network
from fastweights_np.trees import flatten
from tasks import retrieval
from tasks.__main__ import TASKS, main
from tasks.running import folders, runs, training

ROOT = Path(__file__).parent.parent
SMALL = [
    "--training-size",
    "640",
    "--validation-size",
    "50",
    "--test-size",
    "50",
    "--hidden-size",
    "8",
    "--batch-size",
    "64",
]


# ----------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("pairs", [1, 4, 26])
def test_sequences_are_the_papers(pairs):
    data = retrieval.generate(numpy.random.default_rng(0), 300, pairs)
    assert data.inputs.shape == (2 * pairs + 3, 300)
    for n, label in enumerate(data.labels):
        string = retrieval.text(data.inputs[:, n])
        letters, digits = string[0 : 2 * pairs : 2], string[1 : 2 * pairs : 2]
        assert letters.isalpha()
        assert len(set(letters)) == pairs
        assert digits.isdigit()
        assert string[2 * pairs : -1] == "??"
        assert digits[letters.index(string[-1])] == str(label)


def test_data_is_fixed_by_the_seed_and_differs_between_splits():
    settings = retrieval.Settings(seed=3, batch_size=50, training_size=50, validation_size=50, test_size=50)
    first, again = retrieval.load(settings), retrieval.load(settings)
    for one, two in zip(first, again, strict=True):
        numpy.testing.assert_array_equal(one.inputs, two.inputs)
    training_set, validation_set, test_set = (s.inputs for s in first)
    assert not (training_set == validation_set).all()
    assert not (validation_set == test_set).all()


def test_next_to_no_sequence_is_in_two_splits():
    """Otherwise a network could memorize test sequences. By chance, 0.2 of 1.4e10 possible ones occur twice."""
    sequences = [set(map(bytes, split.inputs.T.astype("uint8"))) for split in retrieval.load(retrieval.Settings())]
    for n, one in enumerate(sequences):
        for other in sequences[:n]:
            assert len(one & other) <= 1


def test_letters_digits_and_places_are_evenly_drawn():
    data = retrieval.generate(numpy.random.default_rng(0), 20_000, 4)
    for counts in (numpy.bincount(data.inputs[-1], minlength=26), numpy.bincount(data.labels)):
        assert abs(counts / counts.mean() - 1).max() < 0.15
    asked = (data.inputs[0:8:2] == data.inputs[-1]).argmax(axis=0)
    assert abs(numpy.bincount(asked) / 5000 - 1).max() < 0.05


def test_key_blind_floor_is_exact():
    error, nats = retrieval.key_blind_floor(4)
    assert error == pytest.approx(0.6165, abs=1e-10)
    assert nats == pytest.approx(1.1868, abs=1e-4)
    assert retrieval.key_blind_floor(1) == pytest.approx((0, 0))
    assert retrieval.key_blind_floor(26)[0] == pytest.approx(0.79542, abs=1e-4)
    # by trying it: the best guess without the key, on drawn digits
    digits = numpy.random.default_rng(0).integers(0, 10, (20_000, 7))
    most = numpy.array([numpy.bincount(row).max() for row in digits])
    assert retrieval.key_blind_floor(7)[0] == pytest.approx(1 - most.mean() / 7, abs=0.005)


# --------------------------------------------------------------------------------------------------------- command line


def run(*arguments: str, **how) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "tasks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **how)


def test_without_a_name_the_tasks_are_listed(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in TASKS)


def test_a_run_leaves_its_folder(tmp_path):
    folder = tmp_path / "run"
    done = run("retrieval", *SMALL, "--epochs", "2", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert "key-blind floor 61.65%" in done.stdout
    assert done.stdout.count(" -> ") == 10
    assert done.stderr == "", "no progress bar where there is no terminal"
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "settings.json", "metrics.jsonl", "checkpoint.npz", "result.json", "learning_curve.png", "attention.png",
    }  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [10, 20]
    result = json.loads((folder / "result.json").read_text())
    assert result["curve"] == lines
    assert result["best_on_validation"] == min(lines, key=lambda line: line["validation_nll"])
    for source in ("command", "commit", "machine", "finished", "numpy", "settings"):
        assert result[source]


def test_matplotlib_is_imported_by_the_first_picture_alone():
    """Help, refusals, actors and trials do not wait for it."""
    tasks = ", ".join(f"tasks.{name}" for name in [*TASKS, "asking", "searching.search"])
    program = f"import sys, tasks.__main__, {tasks}; assert 'matplotlib' not in sys.modules; import tasks.figures"
    subprocess.run([sys.executable, "-c", f"{program}; assert 'matplotlib' in sys.modules"], cwd=ROOT, check=True)


@pytest.mark.parametrize("words", [["retrieval", *SMALL, "--epochs", "1"], ["search", "retrieval"]])
def test_a_missing_matplotlib_is_named_before_a_run(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == 'tasks: matplotlib is not installed; pip install -e ".[tasks]"\n'
    assert not (tmp_path / "run").exists()


def test_it_learns(tmp_path):
    """One pair: the digit that stands there is the answer. Two hundred updates are enough for a small network."""
    settings = retrieval.Settings(
        pairs=1, hidden_size=16, training_size=2000, validation_size=200, test_size=200, epochs=20, learning_rate=5e-3,
        out=tmp_path,
    )  # fmt: skip
    with folders.open_folder(settings) as folder:
        result = retrieval.run(settings, folder, retrieval.load(settings))
    assert result["test_error"] < 0.02


def test_the_best_parameters_on_validation_are_the_ones_tested(tmp_path):
    settings = retrieval.Settings(
        hidden_size=8, training_size=128, validation_size=64, test_size=64, epochs=30, learning_rate=0.05, out=tmp_path
    )
    splits = retrieval.load(settings)
    network = retrieval.network(settings)
    with folders.open_folder(settings) as folder:
        outcome = training.train(network, settings, folder, splits)
    assert outcome.best["epoch"] < 30, "so large a step overfits 128 sequences"
    assert training.evaluate(network, outcome.params, splits[1])[0] == outcome.best["validation_nll"]


def test_the_best_parameters_may_be_those_with_the_fewest_errors(tmp_path):
    settings = retrieval.Settings(
        hidden_size=8, training_size=128, validation_size=64, test_size=64, epochs=30, learning_rate=0.05, out=tmp_path,
        best_by="error",
    )  # fmt: skip
    splits = retrieval.load(settings)
    network = retrieval.network(settings)
    with folders.open_folder(settings) as folder:
        outcome = training.train(network, settings, folder, splits)
    errors = [epoch["validation_error"] for epoch in outcome.curve]
    losses = [epoch["validation_nll"] for epoch in outcome.curve]
    assert outcome.best["validation_error"] == min(errors)
    assert losses.index(min(losses)) != errors.index(min(errors)), "else the loss would choose the same"
    assert training.evaluate(network, outcome.params, splits[1])[1] == min(errors)


def stored(folder: Path) -> dict[str, numpy.ndarray]:
    arrays, info = checkpoint.load(folder / "checkpoint.npz")
    return flatten(arrays) | {"update": numpy.array(info["update"])}


def assert_same_bits(one: Path, two: Path) -> None:
    first, second = stored(one), stored(two)
    assert set(first) == set(second)
    for name in first:
        numpy.testing.assert_array_equal(first[name], second[name], err_msg=name, strict=True)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    for key in ("test_error", "test_nll", "updates"):
        assert results[0][key] == results[1][key]


def wait_for(folder: Path, lines: int) -> None:
    """Wait until the run in `folder` has this number of lines of metrics."""
    for _ in range(600):
        metrics = folder / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= lines:
            return
        time.sleep(0.05)
    raise AssertionError("the run wrote no metrics")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run of these options that is not stopped, made once for each."""

    @functools.cache
    def made(*options):
        folder = tmp_path_factory.mktemp("straight") / "run"
        assert main(["retrieval", *options, "--out", str(folder)]) == 0
        return folder

    return made


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_ends_in_the_same_bits(how, straight, tmp_path):
    """Also: the same seed twice."""
    options = [*SMALL, "--training-size", "6400", "--epochs", "6"]
    stopped = tmp_path / "stopped"
    command = [sys.executable, "-m", "tasks", "retrieval", *options, "--out", str(stopped)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(stopped, lines=2)
        process.send_signal(how)
        _, complaint = process.communicate(timeout=60)
    if how is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert f"resume with: python -m tasks retrieval --resume {stopped}" in complaint
    assert 0 < stored(stopped)["update"] < 600
    assert not (stopped / "result.json").exists()
    assert main(["retrieval", "--resume", str(stopped)]) == 0
    assert_same_bits(straight(*options), stopped)
    metrics = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (straight(*options), stopped)]
    assert len(metrics[0]) == len(metrics[1]) == 6


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--pairs 27", "pairs: expected at most 26, one for each letter, got 27"),
        ("--pairs 0", "pairs: expected at least 1, got 0"),
        ("--decay 1.5", "decay: expected a number from 0 to 1, got 1.5"),
        ("--clip-norm 0", "clip_norm: expected a finite number above 0, got 0.0"),
        ("--rate -1", "rate: expected a finite number of at least 0, got -1.0"),
        ("--inner-steps -1", "inner_steps: expected at least 0, got -1"),
        ("--hold 2", "hold: expected a number from 0 to 1"),
        ("--epochs 0", "epochs: expected at least 1, got 0"),
        ("--processes 2", "Unrecognized options: --processes"),
        ("--weight-decay 1e6", "weight_decay: expected at most 1 / learning_rate, 1000, got 1000000.0: weights would"),
        ("--threads 100000", "threads: expected at most"),
        ("--batch-size 1000", "batch_size: expected at most training_size, 640, got 1000"),
        ("--device cuda", "needs CuPy"),
    ],
)
def test_bad_settings_are_named(options, message, tmp_path, capsys):
    if "cuda" in options and importlib.util.find_spec("cupy"):
        pytest.skip("CuPy is installed here")
    try:
        code = main(["retrieval", *SMALL, "--out", str(tmp_path / "run"), *options.split()])
    except SystemExit as stopped:  # found while the options were read
        code = stopped.code
    assert code == 2
    assert not (tmp_path / "run").exists(), "nothing is left half-written"
    assert message in " ".join(capsys.readouterr().err.split())


def test_unknown_names_are_refused(capsys):
    assert main(["translation"]) == 2
    assert "unknown task 'translation'; expected one of retrieval" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["retrieval", "--layer", "gru"])
    assert stopped.value.code == 2
    assert "fast_weights" in capsys.readouterr().err


def test_the_command_offers_every_layer_that_needs_no_control_signals():
    assert set(get_args(get_type_hints(retrieval.Settings)["layer"])) == set(LAYERS) - {"multilevel"}


def test_a_folder_in_use_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["retrieval", "--out", str(tmp_path)]) == 2
    assert f"resume the run in it by --resume {tmp_path}" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["precious.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / "file"):
        assert main(["retrieval", "--out", str(folder)]) == 2
        assert "out: expected a folder that can be written" in capsys.readouterr().err


def test_resuming_what_cannot_be_resumed_is_refused(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["retrieval", "--resume", str(folder)]) == 2
    assert "expected a folder that holds settings.json" in capsys.readouterr().err
    assert main(["retrieval", *SMALL, "--epochs", "1", "--out", str(folder)]) == 0
    capsys.readouterr()
    before = (folder / "checkpoint.npz").read_bytes()
    assert main(["retrieval", "--resume", str(folder), "--learning-rate", "0.5"]) == 2
    assert "learning_rate: expected 0.001, with which" in capsys.readouterr().err
    (folder / "checkpoint.npz").write_bytes(before[:-100])
    assert main(["retrieval", "--resume", str(folder)]) == 2
    assert "truncated" in capsys.readouterr().err
    checkpoint.save(folder / "checkpoint.npz", {}, {"theirs": 1})
    assert main(["retrieval", "--resume", str(folder)]) == 2
    assert "missing params" in capsys.readouterr().err
    (folder / "checkpoint.npz").unlink()
    assert main(["retrieval", "--resume", str(folder)]) == 2
    assert "checkpoint.npz: expected a file that save() wrote, found none" in capsys.readouterr().err
    for settings, message in (
        ('{"task": "mnist"}', "it belongs to task 'mnist'"),
        ('{"task": "retrieval", "colour": 1}', "unknown setting colour"),
        ('{"task": "retr', "Unterminated string"),
        ("[]", "it holds a list instead of an object"),
    ):
        (folder / "settings.json").write_text(settings)
        assert main(["retrieval", "--resume", str(folder)]) == 2
        assert message in capsys.readouterr().err


def test_resume_and_out_do_not_go_together(tmp_path, capsys):
    assert main(["retrieval", *SMALL, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert main(["retrieval", "--resume", str(tmp_path / "run"), "--out", str(tmp_path / "other")]) == 2
    assert "out: expected none with --resume" in capsys.readouterr().err


def test_few_test_sequences_and_many_pairs_are_enough(tmp_path, pictures):
    options = ["--pairs", "11", "--test-size", "3", "--epochs", "1"]
    assert main(["retrieval", *SMALL, *options, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "attention.png").exists()


@pytest.mark.parametrize("stop_at", [1, 10, 13, 30])
def test_wherever_it_is_stopped_the_run_is_the_same(stop_at, straight, tmp_path, monkeypatch):
    """Ten updates an epoch, three epochs; also on the last update of an epoch, and of the run."""
    stopped, options = tmp_path / "stopped", [*SMALL, "--epochs", "3"]
    whole = straight(*options)
    count, loss_and_gradients = 0, Network.loss_and_gradients

    def counting(*arguments):
        nonlocal count
        count += 1
        if count == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return loss_and_gradients(*arguments)

    monkeypatch.setattr(Network, "loss_and_gradients", counting)
    assert main(["retrieval", *options, "--out", str(stopped)]) == 130
    assert stored(stopped)["update"] == stop_at
    assert main(["retrieval", "--resume", str(stopped)]) == 0
    assert_same_bits(whole, stopped)
    curves = [json.loads((folder / "result.json").read_text())["curve"] for folder in (whole, stopped)]
    for one, two in zip(*curves, strict=True):
        assert one | {"seconds": 0} == two | {"seconds": 0}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_parameters_that_break_in_the_last_update_are_not_kept(tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--training-size", "64", "--epochs", "1", "--learning-rate", "1e38", "--clip-norm", "1e30"]
    assert main(["retrieval", *SMALL, *options, "--out", str(folder)]) == runs.DIVERGED
    assert "validation loss: expected a finite number, got nan at update 1" in capsys.readouterr().err
    assert not (folder / "checkpoint.npz").exists()
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_stops_and_names_the_update(tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--epochs", "3", "--learning-rate", "1e38", "--clip-norm", "1e30"]
    assert main(["retrieval", *SMALL, *options, "--out", str(folder)]) == runs.DIVERGED
    assert "grads: expected finite numbers below 1.8e+19" in (message := capsys.readouterr().err)
    assert "it was update 2" in message
    assert "lower --learning-rate" in message


def test_other_formats_are_tested_without_training_on_them(tmp_path):
    plain, with_others = tmp_path / "plain", tmp_path / "others"
    options = ["retrieval", *SMALL, "--pairs", "2"]
    assert main([*options, "--out", str(plain)]) == main([*options, "--generalize", "--out", str(with_others)]) == 0
    results = [json.loads((folder / "result.json").read_text()) for folder in (plain, with_others)]
    assert results[0]["test_nll"] == results[1]["test_nll"], "it changes nothing else"
    assert "generalization" not in results[0]
    found = results[1]["generalization"]
    assert list(found["pairs"]) == [str(pairs) for pairs in retrieval.OTHER_PAIRS]
    assert list(found["separators"]) == [str(count) for count in retrieval.OTHER_SEPARATORS]
    assert all(0 <= error <= 1 for errors in found.values() for error in errors.values())
    split = retrieval.generate(numpy.random.default_rng(0), 3, 2, separators=5)
    assert [retrieval.text(sequence)[4:9] for sequence in split.inputs.T] == ["?????"] * 3
    assert split.inputs.shape == (10, 3)


def test_ctrl_c_is_left_to_its_owner_afterwards():
    handler = signal.getsignal(signal.SIGINT)
    with runs.interrupts_noted() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        assert noted == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_training_is_not_lost():
    """The run's block notes it, and training's block within has the same list. The second one stops at once."""
    with runs.interrupts_noted() as outer:
        os.kill(os.getpid(), signal.SIGTERM)
        with runs.interrupts_noted() as inner:
            assert inner is outer
            assert inner == [signal.SIGTERM]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
