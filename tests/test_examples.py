"""Every example runs, is short, and prints what it says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from fastweights_np import checkpoint, network
from tasks.__main__ import main
from tests.small import options

EXAMPLES = Path(__file__).parents[1] / "examples"
# the last line of what each prints, where it needs no arguments
PRINTED = {
    "classify_sequences": "error on 1,000 new sequences: 0.0%",
    "control_loop": "A has 256 fast weights",
    "stacked_bidirectional": "update 100: 0.00",
    "learn_decay_and_rate": "update 300: 0.2",
}


def test_every_example_is_short_and_tried_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*PRINTED, "ask_a_trained_network", "numpy_and_cupy"}
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 40, path.name


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_says(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1].startswith(PRINTED[name])


def test_the_example_for_a_gpu_says_that_there_is_none(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit, match="no GPU: device"):
        runpy.run_path(str(EXAMPLES / "numpy_and_cupy.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("host: h (11, 8, 20)")


def test_a_trained_network_answers(tmp_path):
    assert main([*options("retrieval", tmp_path), "--out", str(tmp_path / "run")]) == 0
    command = [sys.executable, "-m", "examples.ask_a_trained_network"]  # as its docstring says
    for words, out, err in (
        ([str(tmp_path / "run"), "q8c9m8o2??m"], [*map(str, range(10))], ""),
        ([], [""], "usage:"), ([str(tmp_path / "run"), "Ä"], [""], "expected pairs of a letter"),
        ([str(tmp_path / "nowhere"), "a1??a"], [""], "expected a file that save() wrote, found none"),
    ):  # fmt: skip
        done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=EXAMPLES.parent, check=False)
        assert done.stdout.strip() in out
        assert err in done.stderr
        assert "Traceback" not in done.stderr


def test_the_example_without_the_tasks_says_how_to_run_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tasks.asking", None)  # as if it were run as a file: python examples/NAME.py
    with pytest.raises(SystemExit, match=r"run python -m .* from the root of the clone"):
        runpy.run_path(str(EXAMPLES / "ask_a_trained_network.py"), run_name="__main__")


def test_the_command_line_answers_or_refuses(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*options("retrieval", tmp_path), "--out", str(run)]) == 0
    capsys.readouterr()
    for place in (run, run / "checkpoint.npz"):
        assert main(["retrieval", "--ask", "q8c9m8o2x1??m", "--from", str(place)]) == 0
        assert re.match(r"q8c9m8o2x1\?\?m -> \d \(\d+\.\d%\), then \d \(", capsys.readouterr().out)
    for text, words in (
        ("Q8??Q", "expected pairs"), ("a1?a", "expected pairs"), ("", "expected pairs"),
        ("a1a2??a", "different letters"),
        ("a1b2??c", "expected one of a, b after ??, got 'c'"),
    ):  # fmt: skip
        assert main(["retrieval", f"--ask={text}", "--from", str(run)]) == 2
        assert words in capsys.readouterr().err


def test_an_unfinished_run_answers_with_a_note(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*options("retrieval", tmp_path), "--out", str(run)]) == 0
    ask = ["retrieval", "--ask", "q8c9m8o2??m", "--from", str(run)]
    arrays, info = checkpoint.load(run / "checkpoint.npz")
    for curve, note in (
        (info["curve"], ""),
        (info["curve"][:1], f"tasks: {run / 'checkpoint.npz'}: the run is not finished (epoch 1 of 2); "),
    ):
        checkpoint.save(run / "checkpoint.npz", arrays, info | {"curve": curve})
        capsys.readouterr()
        assert main(ask) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("q8c9m8o2??m -> ")
        assert printed.err.startswith(note)
        assert printed.err.count("\n") == bool(note)


def test_an_unusable_checkpoint_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*options("retrieval", tmp_path), "--out", str(run)]) == 0
    path = run / "checkpoint.npz"
    arrays, info = checkpoint.load(path)
    best = arrays["best_params"]
    infinite = best | {"readout": {name: value + numpy.inf for name, value in best["readout"].items()}}
    for changed, words in (
        ((arrays, {}), "settings: expected named values, got None"),
        ((arrays, info | {"settings": [1]}), "settings: expected named values, got [1]"),
        ((arrays, info | {"curve": 5}), "curve: expected a list, got 5"),
        ((arrays, {"settings": info["settings"]}), "curve: expected a list, got None"),
        ((arrays | {"best_params": None}, info), "got nothing, which does not fit its settings; name another run"),
        ((arrays | {"best_params": best["layer"]}, info), "got nothing, which does not fit its settings; name another"),
        ((arrays | {"best_params": infinite}, info), "expected an array of finite numbers, got others; name another"),
    ):  # fmt: skip
        checkpoint.save(path, *changed)
        capsys.readouterr()
        assert main(["retrieval", "--ask", "a1??a", "--from", str(run)]) == 2, words
        said = capsys.readouterr().err
        assert str(path) in said
        assert words in said
        assert said.count("\n") == 1


def test_a_file_that_is_no_checkpoint_of_a_run_is_refused(tmp_path, capsys):
    path = tmp_path / "network.npz"
    net = network.Network(network.TokenEncoder(10), network.Classifier(10), hidden_size=5)
    network.save(path, net, net.init(numpy.random.default_rng(0)))
    for write in (lambda: None, lambda: checkpoint.save(path, [1, 2])):
        write()
        assert main(["retrieval", "--ask", "a1??a", "--from", str(path)]) == 2
        expected = f"tasks: from: expected a run of retrieval, got {path}, which has no best_params; name another run\n"
        assert capsys.readouterr().err == expected
