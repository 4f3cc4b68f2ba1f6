"""Start and end the process of a trial. `python -m tasks.searching.trial` runs a task that ends with its search.

The search holds the other end of the trial's standard input and writes nothing to it. It closes this end to stop the
trial. The system closes it if the search is killed. The trial then ends with a checkpoint, like an interrupted run.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

from fastweights_np.distributed import without_launcher


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `python -m tasks ARGUMENTS`, which ends when its standard input is closed. Its output goes to the log."""
    with open(log, "a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.searching.trial", *arguments], stdin=subprocess.PIPE, stdout=file,
            stderr=subprocess.STDOUT, env=without_launcher(),
            start_new_session=True,  # Ctrl-C reaches only the search: a run that gets two signals writes no checkpoint
        )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """Close a trial's standard input, so that it ends with a checkpoint."""
    assert process.stdin is not None
    process.stdin.close()


def _end_with_the_search() -> None:
    os.read(0, 1)  # returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Thread(target=_end_with_the_search, daemon=True).start()
    runpy.run_module("tasks", run_name="__main__", alter_sys=True)
