"""What a user reads when the disk, the folder, the memory, the console or a finger on Ctrl-C ends a run."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import pytest

from fastweights_np import checkpoint, files
from fastweights_np.network import Network
from fastweights_np.transformer import Transformer
from tasks.__main__ import TASKS, USAGE, main
from tasks.contexts.learner import Learner
from tasks.games import agents
from tasks.recall.mixing import MixingNetwork
from tasks.recall.retriever import MemoryRetriever
from tasks.running import console, failures, runs
from tasks.searching import search
from tests.small import options

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("undrawn")
resource = pytest.importorskip("resource", reason="limits are POSIX's")


def run(*arguments: str, **how) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "timeout": 120}
    return subprocess.run([sys.executable, "-m", "tasks", *arguments], check=False, **(defaults | how))


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def closed_pipe() -> int:
    """The end for writing of a pipe whose other end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@contextmanager
def ascii_output() -> Iterator[io.BytesIO]:
    """Give standard output an encoding that has ASCII alone, and yield what is written to it."""
    written = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(written, encoding="ascii")):
        yield written


def assert_one_sentence(text: str) -> None:
    lines = [line for line in text.splitlines() if "RuntimeWarning" not in line]
    assert len(lines) == 1, text
    assert lines[0].startswith("tasks: ")


def test_every_exit_code_is_explained_and_the_page_on_tasks_agrees():
    listed = re.findall(r"^ {2,4}(\d+)  (\w.*)$", USAGE, re.MULTILINE)
    codes = [0, runs.FAILED, failures.REFUSED, runs.DIVERGED, failures.DISK_FULL, failures.FOLDER_LOST]
    assert [int(code) for code, _ in listed] == [*codes, failures.NO_MEMORY, search.STORAGE_LOST, runs.INTERRUPTED, 141]
    page = (ROOT / "docs" / "tasks.md").read_text()
    assert re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE) == listed
    of_a_search = dict(re.findall(r"(\d+) ([^;.]*)[;.]", search.EPILOG.partition("exit codes:")[2]))
    assert {str(search.STORAGE_LOST), "0"} <= of_a_search.keys() <= dict(listed).keys()


# ------------------------------------------------------------------------------------------------------ disk and folder


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("limit", "kept"), [(100, "no folder was made"), (3000, "holds no checkpoint yet")])
def test_a_full_disk_is_named_with_its_file(task, limit, kept, tmp_path, capsys):
    """For settings.json, and for the first checkpoint."""
    words = [*options(task, tmp_path), "--out", str(tmp_path / "run")]
    with small_disk(limit):
        assert main(words) == 4
    said = capsys.readouterr().err
    assert_one_sentence(said)
    assert "File too large" in said
    assert str(tmp_path / "run") in said
    assert kept in said
    assert "make room, then" in said
    assert (tmp_path / "run").exists() == (limit > 100)
    if limit > 100:
        assert not [file for file in (tmp_path / "run").iterdir() if files.UNFINISHED in file.name]
        assert main([task, "--resume", str(tmp_path / "run")]) == 0


def test_a_disk_that_fills_up_during_the_run_keeps_the_last_checkpoint(tmp_path, capsys):
    """The metrics grow beyond what is left of the disk; the checkpoint of the same epoch is whole."""
    words = ["--hidden-size", "2", "--batch-size", "8", "--training-size", "8", "--epochs", "1000", "--out"]
    with small_disk(150_000):
        assert main(["retrieval", *words, str(tmp_path / "run")]) == 4
    said = capsys.readouterr().err
    assert_one_sentence(said)
    assert f"the last checkpoint in {tmp_path / 'run'} is kept" in said
    _, info = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert 0 < info["update"] < 1000


def replaced_by_nothing(folder: Path) -> None:
    shutil.rmtree(folder)


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("change", "message"),
    [(replaced_by_nothing, "the folder was deleted"), (replaced_by_a_file, "Not a directory")],
)
def test_a_folder_that_vanishes_during_the_run_is_named(task, change, message, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    words = [*options(task, tmp_path), "--out", str(folder)]
    kinds = {"catch": agents.Learner, "keyvalue": MemoryRetriever, "mqar": MixingNetwork, "fast_slow": Learner}
    kinds |= dict.fromkeys(("longrecall", "text"), Transformer)
    kind, name = kinds.get(task, Network), {"catch": "play", "fast_slow": "update"}.get(task, "loss_and_gradients")
    original = getattr(kind, name)

    def changing(*arguments):
        if folder.is_dir():
            change(folder)
        return original(*arguments)

    monkeypatch.setattr(kind, name, changing)
    assert main(words) == 5
    said = capsys.readouterr().err
    assert_one_sentence(said)
    assert message in said
    assert str(folder) in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    original = Network.loss_and_gradients

    def changing(*arguments):
        folder.chmod(0o500)
        return original(*arguments)

    monkeypatch.setattr(Network, "loss_and_gradients", changing)
    assert main([*options("retrieval", tmp_path), "--out", str(folder)]) == 5
    folder.chmod(0o700)
    assert "Permission denied" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("task", "option", "size"),
    [
        ("retrieval", "training-size", 10**14),
        ("retrieval", "training-size", 10**18),
        ("retrieval", "test-size", 10**14),
        ("retrieval", "hidden-size", 10**14),
        ("mnist", "hidden-size", 10**14),
        ("faces", "hidden-size", 10**14),
        ("catch", "hidden-size", 10**14),
        ("catch", "games", 10**14),
        ("catch", "games", 10**18),
        ("keyvalue", "keys", 10**14),
        ("mqar", "training-size", 10**14),
        ("mqar", "vocabulary", 10**14),
        ("longrecall", "test-size", 10**14),
        ("longrecall", "gap", 10**14),
        ("text", "hidden-size", 8 * 10**13),
    ],
)
def test_a_size_that_does_not_fit_into_memory_is_named(task, option, size, tmp_path, capsys):
    assert main([*options(task, tmp_path), f"--{option}", str(size), "--out", str(tmp_path / "run")]) == 6
    said = capsys.readouterr().err
    assert_one_sentence(said)
    assert "out of memory" in said
    assert f"--{option}, {size}" in said


# -------------------------------------------------------------------------------------------------------------- console


def assert_spelled(help_text: str, task: str = "") -> None:
    assert help_text.isascii()
    assert "?" not in help_text.replace("c9k8j3f1??c", "")
    assert "lambda, the decay rate of the fast weights" in help_text
    assert ("eta, the learning rate of the fast weights" in help_text) == (task != "mqar"), "which has no such rate"


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_help_needs_no_greek_letters_in_any_environment(environment):
    more = environment | {"PYTHONCOERCECLOCALE": "0", "COLUMNS": "200"}
    done = run("retrieval", "--help", env=os.environ | more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert_spelled(done.stdout)


@pytest.mark.parametrize("task", [*TASKS, None])
def test_help_needs_no_greek_letters(task, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with ascii_output() as written:
        if task is None:
            assert main(["--help"]) == 0
            assert written.getvalue()
        else:
            with pytest.raises(SystemExit, match=r"^0$"):
                main([task, "--help"])
            assert_spelled(written.getvalue().decode(), task)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("task", ["retrieval", "catch"])
def test_a_run_needs_no_greek_letters(task, tmp_path):
    folder = tmp_path / "läuft λ \udcff"
    try:
        os.mkdir(folder)
    except OSError:  # no such names on this disk
        folder = tmp_path / "läuft λ"
    with ascii_output() as written:
        assert main([*options(task, tmp_path), "--out", str(folder)]) == 0
        assert "lambda" in written.getvalue().decode()


def test_an_error_needs_no_greek_letters(tmp_path):
    done = run("retrieval", "--settings", str(tmp_path / "λ.json"), env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert_one_sentence(done.stderr)
    assert "lambda.json" in done.stderr


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("λ η γ β Δ", "lambda eta gamma beta delta"),
        ("R² · 2 × 3", "R2 * 2 x 3"),
        ("╭──╮ │", "+--+ |"),
        ("é", "e"),
        ("雪 \udcff", "\\u96ea \\udcff"),
    ],
)
def test_characters_are_spelled(text, ascii_text):
    assert console.spelled(text, "ascii") == ascii_text


@pytest.mark.parametrize("both", [False, True])
def test_a_closed_pipe_ends_quietly_and_the_result_is_kept(both, tmp_path):
    """As by | head -0, and by 2>&1 | head -0. In a process, which also writes when it ends."""
    writing = closed_pipe()
    how = {"stdout": writing} | ({"stderr": writing} if both else {})
    done = run(*options("retrieval", tmp_path), "--out", str(tmp_path / "run"), **how)
    os.close(writing)
    assert done.returncode == 141
    assert both or done.stderr == ""
    assert (tmp_path / "run" / "result.json").exists()
    assert (tmp_path / "run" / "learning_curve.png").exists()


@pytest.mark.parametrize("task", TASKS)
def test_a_closed_pipe_stops_no_task(task, tmp_path, monkeypatch, capsys):
    pipe = open(closed_pipe(), "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", pipe)
    assert main([*options(task, tmp_path), "--out", str(tmp_path / "run")]) == 141
    with suppress(BrokenPipeError):
        pipe.close()
    assert capsys.readouterr().err == ""
    assert (tmp_path / "run" / "result.json").exists()
    assert (tmp_path / "run" / "learning_curve.png").exists()


def test_help_for_a_closed_pipe_is_quiet():
    writing = closed_pipe()
    assert run("retrieval", "--help", stdout=writing).stderr == ""
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's")
def test_a_log_on_a_full_disk_does_not_stop_the_run(tmp_path):
    with open("/dev/full", "w") as log:
        done = run(*options("retrieval", tmp_path), "--out", str(tmp_path / "run"), stdout=log)
    assert done.returncode == 4
    assert_one_sentence(done.stderr)
    assert "standard output: [Errno 28] No space left on device; everything else is done" in done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("task", "line"), [(task, "epoch 1 of 2: training loss") for task in TASKS if task not in ("catch", "fast_slow")]
)
def test_without_a_terminal_each_epoch_has_its_line(task, line, tmp_path, capsys):
    assert main([*options(task, tmp_path), "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" of 2: training loss") == 2
    assert line in printed


def test_without_a_terminal_agents_report_their_progress(tmp_path, capsys):
    assert main([*options("catch", tmp_path), "--frames", "9600", "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert 5 <= printed.count(" of 9,600 frames: mean reward ") <= 100


# --------------------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("module", ["numpy", "threadpoolctl", "tyro", "tqdm"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_during_imports_leaves_no_traceback(module, number, tmp_path):
    """Also if what is imported takes the exception for a failure of its own."""
    source = (
        f"import os\ntry:\n    os.kill(os.getpid(), {int(number)})\nexcept BaseException:\n    pass\nraise ImportError"
    )
    (tmp_path / f"{module}.py").write_text(source)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = run("retrieval", "--out", str(tmp_path / "run"), env=environment)
    assert done.returncode == 130
    assert done.stderr == "tasks: interrupted; no folder was made\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", TASKS)
def test_ctrl_c_while_data_are_read_leaves_no_folder(task, tmp_path, monkeypatch, capsys):
    module = __import__(f"tasks.{task}", fromlist=["load"])

    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "load", interrupted)
    assert main([*options(task, tmp_path), "--out", str(tmp_path / "run")]) == runs.INTERRUPTED
    assert capsys.readouterr().err == "tasks: interrupted; no folder was made\n"
    assert not (tmp_path / "run").exists()
