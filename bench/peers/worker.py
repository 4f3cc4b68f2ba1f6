"""Run one framework in a process that `runner.py` starts: python -m bench.peers.worker SPECIFICATION.

It reads commands from standard input, one a line:

    run N    make N runs and answer with their seconds
    peak N   make N runs and answer with their peak memory, minus the memory after the imports

The first answer reports the first run, which includes compiling.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy

from . import problem as problems


def main(specification: dict[str, Any]) -> None:
    """Answer commands on standard output. All output of the framework goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    module = importlib.import_module(f"bench.peers.{specification['module']}")
    if hasattr(module, "torch"):
        module.torch.set_num_threads(specification["threads"])
    problem = getattr(problems, specification["kind"].title())(**specification["problem"])
    imported = memory("VmRSS")
    framework = getattr(module, specification["kind"])(problem, **specification["how"])
    started = time.perf_counter()
    result = framework.run()
    first = time.perf_counter() - started
    numpy.savez(specification["answer"], **framework.answer(result))
    del result
    send(first_seconds=first, version=_version(module))
    for line in sys.stdin:
        command, count = line.split()
        for process in _processes():
            (process / "clear_refs").write_text("5", "utf-8")  # resets the peak memory
        seconds = [framework.seconds(framework.run) for _ in range(int(count))]
        send(seconds=seconds) if command == "run" else send(bytes=memory("VmHWM") - imported)


def _processes() -> list[Path]:
    """Return the folders of this process and its children in Linux's /proc."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text("utf-8").split()
    return [Path("/proc/self"), *(Path("/proc") / child for child in children)]


def memory(name: str) -> int:
    """Return the memory of the process and its children in bytes. VmRSS: current memory; VmHWM: peak memory."""
    lines = [line for process in _processes() for line in (process / "status").read_text("utf-8").splitlines()]
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _version(module: Any) -> str:
    for name in ("torch", "jax", "autograd"):
        if hasattr(module, name):
            return importlib.import_module("importlib.metadata").version(name)
    return numpy.__version__


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
