"""The process of one contestant: python -m bench.peers.worker SPECIFICATION, started by `contest.py` and told by lines.

    run N    makes N runs and answers with their seconds
    peak N   makes N runs and answers with the most memory that the process held during them, above that after import

The first answer tells of the first run, which compiles where there is something to compile.
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
    """Answers on what was standard output; whatever a framework prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    module = importlib.import_module(f"bench.peers.{specification['module']}")
    if specification["module"] == "in_pytorch":
        module.torch.set_num_threads(specification["threads"])
    problem = getattr(problems, specification["kind"].title())(**specification["problem"])
    imported = _memory("VmRSS")
    contestant = getattr(module, specification["kind"])(problem, **specification["how"])
    started = time.perf_counter()
    result = contestant.run()
    first = time.perf_counter() - started
    numpy.savez(specification["answer"], **contestant.answer(result))
    del result
    tell(first_seconds=first, version=_version(module))
    for line in sys.stdin:
        command, count = line.split()
        for process in _processes():
            (process / "clear_refs").write_text("5")  # the most memory held so far is forgotten
        seconds = [contestant.seconds(contestant.run) for _ in range(int(count))]
        tell(seconds=seconds) if command == "run" else tell(bytes=_memory("VmHWM") - imported)


def _processes() -> list[Path]:
    """This process and its children, in Linux's /proc."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path("/proc/self"), *(Path("/proc") / child for child in children)]


def _memory(name: str) -> int:
    """VmRSS: bytes that the process and its children hold; VmHWM: the most that they held."""
    lines = [line for process in _processes() for line in (process / "status").read_text().splitlines()]
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _version(module: Any) -> str:
    for name in ("torch", "jax", "autograd"):
        if hasattr(module, name):
            return importlib.import_module("importlib.metadata").version(name)
    return numpy.__version__


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
