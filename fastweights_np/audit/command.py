"""The audit's command line."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import explain
from .links import table
from .run import run

LEGEND = """\
Checked, not proven: each row compares two implementations at random data, for the cases that it counts. error = max
|got - expected| / (the largest magnitude in both arrays, at least 1e-3), the worst over all arrays and cases; small
entries of a large array weigh little in it. A case is named by T, B, I, H, seed and options; controls are letters, such
as sw for store and wipe. Tolerances: 1e-12 for rounding in float64 over a few steps, 1e-7 for differences of order 4,
1e-4 for float32, about 800 times its epsilon. The plain files must be compared with the paper by eye.
"""
USED = ("numpy", "scipy", "autograd", "cupy")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 every link holds, 1 one fails, 2 it cannot run, 141 no reader."""
    parser = argparse.ArgumentParser(
        prog="python -m fastweights_np.audit", description="Check the math on this machine, or explain one number."
    )
    parser.add_argument("number", nargs="?", help="a number of DERIVATION.md, such as F6, or equation-2")
    parser.add_argument("--list", action="store_true", help="list all numbers")
    parser.add_argument("--lines", action="store_true", help="with a number: its paragraph and lines, without checks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the fast code runs")
    parser.add_argument("--quick", action="store_true", help="a quarter of the cases, without link 4")
    chosen = parser.parse_args(arguments)
    if (chosen.number is None and chosen.lines) or (chosen.list and chosen.number is not None):
        parser.error("expected a number with --lines, and none with --list")
    try:
        if chosen.list:
            print(explain.numbers())
            return 0
        if not chosen.lines:
            import_module("autograd"), import_module("scipy.differentiate")  # raises now, not after the first page
        if chosen.number is not None:
            return explain.explain(chosen.number, chosen.device, chosen.quick, chosen.lines)
        return _check(chosen.device, chosen.quick)
    except ImportError as error:
        print(f"audit: {error}; it needs autograd and scipy: pip install autograd scipy", file=sys.stderr)
    except (RuntimeError, ValueError) as error:
        print(f"audit: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader of standard output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 2


def _check(device: str, quick: bool) -> int:
    started = time.perf_counter()
    links = run(device, quick)
    print(f"{_about()}\n\n{table(links)}\n")
    failed = sum(not link.passed for link in links)
    verdict = "every link holds" if not failed else f"{failed} of {len(links)} rows FAIL" + "S" * (failed == 1)
    print(LEGEND + ("" if device == "cuda" else "Not run: link 6, GPU = host. It needs --device cuda.\n"))
    print(f"{verdict} ({device}, float64 and, in link 7, float32; {time.perf_counter() - started:.1f} s)")
    return 1 if failed else 0


def _about() -> str:
    """Return versions, commit, machine and seeds."""
    versions = [f"Python {platform.python_version()}"]
    for package in USED:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "\n".join(
        (
            f"fastweights_np {version('fastweights-np')}, commit {_commit()}; {', '.join(versions)}",
            f"{platform.system()} {platform.machine()}, {cores} cores; random data from numpy.random.default_rng(seed)",
        )
    )


def _commit() -> str:
    """Return the commit that the package was checked out at, with + if files differ; "unknown" outside a checkout."""
    folder = Path(__file__).parents[1]
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
