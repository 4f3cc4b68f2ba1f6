"""Output folders: one run each, also for runs that start in the same second or write at the same time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fastweights_np.files import UNFINISHED
from tasks import catch, retrieval
from tasks.__main__ import TASKS, main
from tasks.running import folders, locks
from tests.small import options

HOLD = "import sys; from pathlib import Path; from tasks.running import locks\nwith locks.locked(Path(sys.argv[1])):\n"
pytestmark = pytest.mark.usefixtures("undrawn")
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
flock = pytest.mark.skipif(locks.fcntl is None, reason="needs flock")


@pytest.fixture
def other_process(tmp_path):
    """A process that holds the lock of tmp_path / "run", until it is ended."""
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + " print('held', flush=True); sys.stdin.read()", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_default_folders_of_the_same_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = datetime.now()
    for second in range(60):
        (tmp_path / "runs" / (now + timedelta(seconds=second)).strftime("retrieval-%Y%m%d-%H%M%S")).mkdir(parents=True)
    made = []
    for _ in range(2):
        with folders.open_folder(retrieval.Settings()) as folder:
            made.append(folder.name)
    assert made[0].endswith("-2")
    assert made[1].endswith(("-2", "-3"))
    assert made[0] != made[1]


def test_processes_that_ask_for_one_folder_get_it_once(tmp_path):
    """Of three that start together one runs; each other one says why it does not."""
    command = [sys.executable, "-m", "tasks", *options("retrieval", tmp_path), "--out", str(tmp_path / "run")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                         cwd=Path(__file__).parent.parent)
        for _ in range(3)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2, 2], said
    for code, text in zip(codes, said, strict=True):
        assert not code or "is in use by process" in text or "which holds files" in text
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@flock
def test_the_second_comer_gets_one_sentence_with_the_process(other_process, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*options("retrieval", tmp_path), "--out", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"out: {folder} is in use by process {other_process.pid} on " in said
    assert said.count("\n") == 1
    assert [file.name for file in folder.iterdir()] == [locks.NAME]


@flock
@pytest.mark.parametrize("task", TASKS)
def test_a_live_run_is_not_resumed(task, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*options(task, tmp_path), "--out", str(folder)]) == 0
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with locks.locked(folder):
        assert main([task, "--resume", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"resume: {folder} is in use by process {os.getpid()} on " in said
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@flock
def test_a_killed_process_holds_nothing(other_process, tmp_path):
    other_process.kill()
    other_process.wait()
    assert (tmp_path / "run" / locks.NAME).exists()
    with folders.open_folder(retrieval.Settings(out=tmp_path / "run")) as folder:
        assert (folder / "settings.json").exists()
    assert not (tmp_path / "run" / locks.NAME).exists()


def _sleep() -> None:
    time.sleep(60)


@flock
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_does_not_hold_its_parents_lock(method, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this machine")
    child = multiprocessing.get_context(method).Process(target=_sleep)
    with locks.locked(tmp_path):
        child.start()
    try:
        with locks.locked(tmp_path):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()


@fork
@flock
def test_a_forked_child_that_ends_does_not_release_its_parents_lock(tmp_path):
    with locks.locked(tmp_path):
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(locks.FolderInUse), locks.locked(tmp_path):
            pass


@flock
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_of_actors_that_was_killed_can_be_resumed_at_once(how, tmp_path):
    """Its actors may live a moment longer."""
    root, folder = Path(__file__).parent.parent, tmp_path / "run"
    command = [sys.executable, "-m", "tasks", *options("catch", tmp_path), "--method", "a3c", "--actors", "2"]
    process = subprocess.Popen(
        [*command, "--frames", "100000000", "--out", str(folder)], cwd=root,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not (folder / "checkpoint.npz").exists():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(60)
    with folders.open_folder(catch.Settings(resume=folder)):
        pass


def test_leftovers_of_killed_writers_are_removed_by_who_holds_the_lock(tmp_path):
    assert main([*options("retrieval", tmp_path), "--out", str(tmp_path / "run")]) == 0
    left = tmp_path / "run" / f"checkpoint.npz{UNFINISHED}1234"
    left.write_bytes(b"half")
    with folders.open_folder(retrieval.Settings(resume=tmp_path / "run")):
        assert not left.exists()


def test_a_folder_in_which_a_run_was_killed_as_it_started_counts_as_empty(tmp_path):
    (tmp_path / locks.NAME).write_text("1 on another")
    (tmp_path / f"settings.json{UNFINISHED}1234").write_text("{")
    with folders.open_folder(retrieval.Settings(out=tmp_path)) as folder:
        assert {file.name for file in folder.iterdir()} == {"settings.json", locks.NAME}


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / locks.NAME).symlink_to(tmp_path / "precious")
    with (
        pytest.raises(OSError, match="out: expected a folder that can be written"),
        folders.open_folder(retrieval.Settings(out=tmp_path / "run")),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_that_was_made_in_vain_does_not_stay(tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    assert main([*options("retrieval", tmp_path), "--out", str(tmp_path / "run" / "deeper")]) == 2
    assert main([*options("retrieval", tmp_path), "--resume", str(tmp_path / "nowhere")]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_is_refused_before_its_first_result_leaves_out_as_it_was(there, computed, tmp_path):
    folder = tmp_path / "run"
    if there:
        folder.mkdir()

    def refused():
        with folders.open_folder(retrieval.Settings(out=folder)):
            if computed:
                (folder / "metrics.jsonl").write_text("")
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refused()
    assert folder.exists() is (computed or there)
    assert (folder / "settings.json").exists() is computed


@pytest.mark.parametrize("task", TASKS)
def test_a_run_leaves_neither_lock_nor_leftovers(task, tmp_path):
    folder = tmp_path / "run"
    assert main([*options(task, tmp_path), "--out", str(folder)]) == 0
    assert not [file for file in folder.iterdir() if file.name == locks.NAME or UNFINISHED in file.name]
    assert json.loads((folder / "result.json").read_text())["task"] == task
