"""Record the provenance of a result: command, commit, machine and versions."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy

CODE = ("../fastweights_np", ".", "../bench", ":(exclude)../bench/results")


@cache
def provenance() -> dict[str, Any]:
    """Return the provenance at the first call: the checkout can change during a run."""
    return {
        "command": shlex.join(["python", "-m", Path(sys.argv[0]).parent.name, *sys.argv[1:]]),
        "commit": _commit(),
        "machine": f"{platform.machine()} {_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "numpy": numpy.__version__,
    }


def software() -> dict[str, Any]:
    """Return the versions that must be the same on all ranks."""
    return {name: provenance()[name] for name in ("commit", "python", "numpy")}


def _commit() -> str:
    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", "--no-optional-locks", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
