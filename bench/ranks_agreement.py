"""Compare the parameters of one rank and of several after 200 updates: python -m bench ranks --agreement.

Rounding differs between one sum over a batch and the sum of two halves, and Adam enlarges the difference where a
gradient is nearly 0. The control shows how large rounding alone is: one process, with another kernel of OpenBLAS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy

from fastweights_np import checkpoint
from fastweights_np.trees import flatten

from .report import markdown, store

RANKS = 2
KERNEL = {"OPENBLAS_CORETYPE": "SandyBridge"}  # of the control: it has no fused multiply-add
TASKS = {  # 200 updates each; an update of catch takes 10 steps of 32 games
    "retrieval": ["--training-size", "25600", "--epochs", "1"],
    "mnist": ["--validation-size", "34400", "--epochs", "1"],
    "catch": ["--method", "a2c", "--games", "32", "--steps", "10", "--frames", "64000"],
    "keyvalue": ["--layer", "delta", "--epochs", "2"],
    "mqar": ["--training-size", "12800", "--batch-size", "64", "--vocabulary", "512", "--epochs", "1"],
    "longrecall": ["--epochs", "8"],
    "text": ["--context", "64", "--epochs", "4"],
    "fast_slow": ["--episodes", "51200", "--tasks", "1", "--no-second"],
}
DTYPES = ("float64", "float32")


def run() -> None:
    """Store ranks-agreement.json and ranks-agreement.md. Raise ValueError without mpiexec."""
    if (mpiexec := shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")) is None:
        raise ValueError("agreement: expected mpiexec on the path, got none; pip install mpich mpi4py")
    rows = [_row(task, dtype, mpiexec) for task in TASKS for dtype in DTYPES]
    store("ranks-agreement", {"ranks": RANKS, "rows": rows}, _table(rows), "fast_weights")


def _row(task: str, dtype: str, mpiexec: str) -> dict[str, Any]:
    """Return the largest difference of any parameter from one process: of several ranks, and of the control."""
    with tempfile.TemporaryDirectory() as folder:
        one = _trained([], {}, task, dtype, Path(folder) / "one")
        ranks = _trained([mpiexec, "-n", str(RANKS)], {}, task, dtype, Path(folder) / "ranks")
        kernel = _trained([], KERNEL, task, dtype, Path(folder) / "kernel")
    row = {"task": task, "dtype": dtype, "ranks": _difference(one, ranks), "kernel": _difference(one, kernel)}
    row["largest"] = float(max(abs(value).max() for value in one.values()))
    print(row, flush=True)
    return row


def _trained(launcher: list[str], variables: dict[str, str], task: str, dtype: str, out: Path) -> Any:
    """Return the parameters that a run of the task ends with."""
    command = [*launcher, sys.executable, "-m", "tasks", task, *TASKS[task], "--dtype", dtype, "--out", str(out)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | variables
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return flatten(checkpoint.load(out / "checkpoint.npz")[0]["params"])


def _difference(one: Any, other: Any) -> float:
    """Return the largest difference of any number."""
    return float(max(abs(numpy.asarray(value) - other[name]).max() for name, value in one.items()))


def _table(rows: list[dict[str, Any]]) -> str:
    header = ["task", "dtype", f"{RANKS} ranks", "control: another BLAS kernel", "largest parameter"]
    cells = [
        [row["task"], row["dtype"], f"{row['ranks']:.1e}", f"{row['kernel']:.1e}", f"{row['largest']:.2g}"]
        for row in rows
    ]
    return "Largest difference of any parameter from one process, after 200 updates:\n\n" + markdown(header, cells)
