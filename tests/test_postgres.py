"""A search that two processes share over a real PostgreSQL server, which the test starts. One of them is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import optuna
import pytest

ROOT = Path(__file__).parent.parent
# Debian installs the server's programs outside PATH
PLACES = os.pathsep.join([os.environ.get("PATH", ""), *sorted(glob("/usr/lib/postgresql/*/bin"))])
INITDB, POSTGRES = (shutil.which(program, path=PLACES) for program in ("initdb", "postgres"))
TRIALS = int(os.environ.get("POSTGRES_TRIALS", "6"))
TIMEOUT = 300

psycopg = pytest.importorskip("psycopg", reason='needs a driver: pip install "fastweights-np[postgres]"')
pytestmark = pytest.mark.skipif(INITDB is None or POSTGRES is None, reason="needs PostgreSQL's server")


@pytest.fixture
def server():
    """Start a server on a free port of this machine, and yield the URL of its database."""
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # PostgreSQL refuses root
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        if user:
            shutil.chown(folder, **user)
        data, quiet = f"{folder}/data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        made = [str(INITDB), "-D", data, "-U", "postgres", "-A", "trust", "-N"]
        subprocess.run(made, check=True, **quiet, **user)
        process = subprocess.Popen(
            [str(POSTGRES), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-c", "fsync=off"],
            **quiet, **user,
        )  # fmt: skip
        try:
            limit = time.monotonic() + TIMEOUT
            while not listens(port) and time.monotonic() < limit:
                time.sleep(0.1)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown
            process.wait(TIMEOUT)


def listens(port: int) -> bool:
    """Return whether a server listens on this port."""
    with socket.socket() as client:
        return not client.connect_ex(("127.0.0.1", port))


def search(url: str, folder: Path) -> subprocess.Popen[str]:
    """Start a search whose trials take a second. Its heartbeats are quick, so that the test need not wait."""
    program = (
        "import sys; from tasks.searching import study, workers; study.HEARTBEAT, study.GRACE = 1, 4; "
        "workers.HEARTBEAT = 1; from tasks.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--training-size", "24", "--validation-size", "8", "--test-size", "8", "--hidden-size", "8"]
    options += ["--batch-size", "8", "--epochs", "2", "--layer", "irnn", "--out", str(folder), "--storage", url]
    over = ["--random", str(TRIALS), "--over", "learning_rate=1e-4..1e-2:log"]
    return subprocess.Popen(
        [sys.executable, "-c", program, "search", "retrieval", *over, *options], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "undrawn")},
    )  # fmt: skip


def has_a_study(url: str) -> bool:
    """Return whether the searches have made their study."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        if connection.execute("select to_regclass('studies')").fetchone() == (None,):
            return False
        return connection.execute("select count(*) from studies").fetchone() == (1,)


@contextmanager
def study_of(url: str) -> Iterator[optuna.Study]:
    """Wait for the study and yield it."""
    while not has_a_study(url):
        time.sleep(0.1)
    storage = optuna.storages.RDBStorage(url)
    try:
        yield optuna.load_study(storage=storage, study_name="search-retrieval")
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_two_searches_share_a_server_and_nothing_is_lost_when_one_is_killed(server, tmp_path):
    """Both start at the same time, on an empty database."""
    finished, running = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING
    killed, other = search(server, tmp_path / "killed"), search(server, tmp_path / "other")
    limit = time.monotonic() + TIMEOUT
    with study_of(server) as study:
        while time.monotonic() < limit:
            if any(trial.state == finished for trial in study.trials):
                killed.send_signal(signal.SIGSTOP)  # its trial cannot end before it is killed
                owners = [trial.user_attrs.get("owner") for trial in study.trials if trial.state == running]
                if platform_and_folder(tmp_path / "killed") in owners:
                    break
                killed.send_signal(signal.SIGCONT)
            time.sleep(0.05)
        killed.kill()
        said = other.communicate(timeout=TIMEOUT)[0]
        killed.communicate(timeout=TIMEOUT)
        found = study.trials
    assert other.returncode == 0, said
    complete = [trial.params["learning_rate"] for trial in found if trial.state == finished]
    assert len(complete) == len(set(complete)) == TRIALS, said
    assert not [trial for trial in found if trial.state in (running, optuna.trial.TrialState.WAITING)]
    failed = optuna.trial.TrialState.FAIL
    dead = {trial.params["learning_rate"] for trial in found if trial.state == failed and trial.params}
    assert dead <= set(complete)  # the killed search's trial was run anew
    assert "no sign of life for 4 s; its settings are run anew" in said


def platform_and_folder(folder: Path) -> list[str]:
    """Return what a search writes as the owner of its trials."""
    return [os.uname().nodename, str(folder.resolve())]
