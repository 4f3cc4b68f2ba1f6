"""Start frameworks, each in a separate process, check that their answers agree, and run them in turns."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import numpy

from . import in_numpy, transformer_in_numpy
from .problem import Arrays, Layer, Programmer, Training, Transformer

# the forms of a layer in the peers, all of the same equations; "nn" is PyTorch's own module
FORMS = {
    "fast_weights": ("attention", "matrix"),
    "multilevel": ("plain",),
    "irnn": ("plain", "nn"),
    "lstm": ("plain", "nn"),
    "associative_lstm": ("plain",),
}
Problem = Layer | Programmer | Training | Transformer
BASE = "base"  # ours at another commit
TOLERANCE = 1e-4  # of each array of an answer: |ours in float64 - theirs| / |ours in float64|, Euclidean norms
PATIENCE = 300.0  # seconds that a framework may take for an answer: a thread pool of JAX once waited for ever


class Entry(NamedTuple):
    """The specification of a framework: its module, its package, and the arguments of its function."""

    module: str
    package: str
    how: dict[str, Any]

    @property
    def parts(self) -> int:
        """Return the number of its own threads that compute."""
        return self.how.get("threads", 1)


PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PyTorch eager": ("in_pytorch", "torch", {}),
    "torch.compile": ("in_pytorch", "torch", {"compiled": True}),
    "JAX scan": ("in_jax", "jax", {"scan": True}),
    "JAX unrolled": ("in_jax", "jax", {"scan": False}),
    "autograd": ("in_autograd", "autograd", {}),
}
STEPPING = {  # what computes a Step
    "Stepper": Entry("in_numpy", "numpy", {"stepper": True}),
    "step": Entry("in_numpy", "numpy", {}),
    "plain NumPy": Entry("in_plain_numpy", "numpy", {}),
    "PyTorch eager, in place": Entry("in_pytorch", "torch", {}),
    "torch.compile, in place": Entry("in_pytorch", "torch", {"compiled": True}),
    "JAX jit, donated": Entry("in_jax", "jax", {}),
}
PROGRAMMING = {  # what computes a Programmer
    "ours, in chunks": Entry("in_numpy", "numpy", {}),
    "ours, in chunks, halved": Entry("in_numpy", "numpy", {"threads": 2}),  # on two threads
    "PyTorch eager, in chunks": Entry("in_pytorch", "torch", {}),
    "torch.compile, in chunks": Entry("in_pytorch", "torch", {"compiled": True}),
    "JAX scan, in chunks": Entry("in_jax", "jax", {}),
}
ENTRIES = (
    STEPPING
    | PROGRAMMING
    | {
        "ours": Entry("in_numpy", "numpy", {}),
        "ours, batch halved": Entry("in_numpy", "numpy", {"threads": 2}),  # of the ConvNet
        BASE: Entry("in_numpy", "numpy", {}),
        "PyTorch eager, nn": Entry("in_pytorch", "torch", {"form": "nn"}),
    }
    | {
        f"{peer}, {form}": Entry(module, package, {"form": form} | how)
        for peer, (module, package, how) in PEERS.items()
        for form in ("attention", "matrix", "plain")
    }
)
TRANSFORMERS = {  # what trains a Transformer
    "ours, transformer": Entry("transformer_in_numpy", "numpy", {}),
    "ours, transformer, batch halved": Entry("transformer_in_numpy", "numpy", {"threads": 2}),
    "PyTorch eager, transformer": Entry("transformer_in_pytorch", "torch", {}),
    "torch.compile, transformer": Entry("transformer_in_pytorch", "torch", {"compiled": True}),
}


def _entry(name: str) -> Entry:
    return TRANSFORMERS[name] if name in TRANSFORMERS else ENTRIES[name]


def is_ours(name: str) -> bool:
    """Return whether the framework is this package. Older stored results also name "ours, 2 processes"."""
    return name.startswith("ours") or _entry(name).module == "in_numpy"


class WrongAnswer(Exception):
    """A framework returned a wrong answer. It is not timed."""


class Process:
    """The process of one framework, which computes one problem."""

    def __init__(self, name: str, problem: Problem, threads: int, folder: Path, root: Path | None = None) -> None:
        """Start the process. folder: for its answer. root: the checkout whose code it runs; None for this one."""
        entry = _entry(name)
        self.name = name
        self._answer = folder / f"{name}.npz"
        self._errors = (folder / f"{name}.log").open("w+")  # a pipe without a reader would fill up
        specification = {
            "module": entry.module, "how": entry.how, "kind": _kind(problem), "problem": asdict(problem),
            "threads": threads, "answer": str(self._answer),
        }  # fmt: skip
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        blas = max(1, threads // entry.parts)
        # an empty cache, so that compiling is timed; one that is set in the environment is used as it is
        caches = {"TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.worker", json.dumps(specification)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=os.environ | dict.fromkeys(names, str(blas)) | caches | ({"PYTHONPATH": str(root)} if root else {}),
            cwd=root,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads]),
        )  # fmt: skip

    def wait(self) -> None:
        """Wait until its first run is done. Raise RuntimeError if it failed."""
        first = self._receive()
        self.first_seconds, self.version = first["first_seconds"], first["version"]

    def check(self, expected: Arrays, tolerance: float) -> None:
        """Raise WrongAnswer if the relative error of an array of its answer is above the tolerance."""
        answer = dict(numpy.load(self._answer))
        if set(answer) != set(expected):
            raise WrongAnswer(f"{self.name}: answered {sorted(answer)}; expected {sorted(expected)}")
        errors = {
            name: float(numpy.nan_to_num(numpy.linalg.norm(answer[name] - value) / numpy.linalg.norm(value), nan=1e300))
            for name, value in expected.items()
        }
        worst = max(errors, key=lambda name: errors[name])
        if errors[worst] > tolerance:
            raise WrongAnswer(f"{self.name}: {worst} is off by {errors[worst]:.1e}; expected at most {tolerance:.0e}")

    def run(self, count: int) -> list[float]:
        """Run `count` times and return the seconds of each run."""
        return self._ask("run", count)["seconds"]

    def peak(self, count: int = 2) -> int:
        """Run `count` times and return the peak memory in bytes, minus the memory after the imports."""
        return self._ask("peak", count)["bytes"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, command: str, count: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, and _receive says why
            self._process.stdin.write(f"{command} {count}\n")
            self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        """Return the answer to a command. Raise RuntimeError if the process ends, or does not answer in time."""
        assert self._process.stdout is not None
        limit = threading.Timer(PATIENCE, self._process.kill)
        limit.start()
        line = self._process.stdout.readline()
        if not line and not limit.is_alive():
            raise RuntimeError(f"{self.name}: gave no answer within {PATIENCE:g} s")
        limit.cancel()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            error = self._errors.read().strip().splitlines()
            raise RuntimeError(f"{self.name}: ended with {error[-1] if error else 'no message'}")
        return json.loads(line)


def available(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the names whose package is installed, and the names whose package is not."""
    absent = [name for name in names if importlib.util.find_spec(_entry(name).package) is None]
    return [name for name in names if name not in absent], absent


def layer_frameworks(layer: str, threads: int, device: str = "cpu") -> list[str]:
    """Return the names of the frameworks that have this layer, or the ConvNet: ours, and all forms of the peers.

    On a GPU leave out those that run only on the host: autograd, and ours with several threads.
    """
    forms = FORMS.get(layer, ("plain",))
    return [
        name
        for name, entry in ENTRIES.items()
        if name not in (BASE, *STEPPING, *PROGRAMMING)
        and entry.how.get("form", forms[0]) in forms and entry.parts <= threads
        and not (layer in FORMS and "threads" in entry.how)
        and (device == "cpu" or (entry.module != "in_autograd" and entry.parts == 1))
    ]  # fmt: skip


def _kind(problem: Problem) -> str:
    """Return the name of the problem's function in the modules of the frameworks."""
    return type(problem).__name__.lower()


def expected_answer(problem: Problem) -> Arrays:
    """Return our answer in float64, which the audit checks against the equations."""
    on_the_host: Problem = replace(problem, device="cpu") if isinstance(problem, Layer) else problem
    module: Any = transformer_in_numpy if isinstance(problem, Transformer) else in_numpy
    framework = getattr(module, _kind(problem))(on_the_host, dtype="float64")
    return framework.answer(framework.run())


@contextmanager
def at_work(
    problem: Problem, names: list[str], threads: int, tolerance: float = TOLERANCE, base: Path | None = None
) -> Iterator[list[Process]]:
    """Yield the processes of the named frameworks whose answers are right. Print each wrong answer or failure.

    base: the checkout that BASE runs.
    """
    expected = expected_answer(problem)
    processes = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        for name in names:
            try:
                process = Process(name, problem, threads, Path(folder), base if name == BASE else None)
                closing.callback(process.close)
                process.wait()
                process.check(expected, tolerance)
            except (RuntimeError, WrongAnswer) as error:
                print(f"   left out: {error}", file=sys.stderr, flush=True)
                continue
            processes.append(process)
        yield processes


def take_turns(processes: list[Process], rounds: int = 7, turn_seconds: float = 0.25) -> dict[str, dict[str, Any]]:
    """Time all processes in turns, for `rounds` rounds. Return each run's median and quartiles in ms, by name.

    Print and leave out a process that ends or hangs on the way.
    """
    counts: dict[Process, int] = {}
    seconds: dict[Process, list[float]] = {process: [] for process in processes}
    for _ in range(rounds):
        for process in list(seconds):
            time.sleep(0.05)  # the threads of the previous process become idle
            try:
                if process not in counts:
                    counts[process] = max(2, min(200, int(turn_seconds / min(process.run(3)))))
                process.run(1)
                seconds[process] += process.run(counts[process])
            except RuntimeError as error:
                print(f"   left out: {error}", file=sys.stderr, flush=True)
                del seconds[process]
    figures = {}
    for process, runs in seconds.items():
        lower, median, upper = (1e3 * value for value in quantiles(runs, n=4))
        figures[process.name] = {
            "median_ms": round(median, 4), "quartiles_ms": [round(lower, 4), round(upper, 4)],
            "runs": len(runs), "first_run_s": round(process.first_seconds, 2),
            "version": process.version,
        }  # fmt: skip
    return figures
