"""Compare forward + backward of a layer with another commit, in turns: python -m bench speed --base REF."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .peers.problem import Layer
from .peers.runner import BASE, at_work, take_turns
from .report import geometric_mean, markdown, store

ROOT = Path(__file__).parents[1]


def run(layer: str, threads: list[int], base: str, sizes: Sequence[tuple[int, int, int]], name: str) -> None:
    """Measure every size (B, T, H) with each number of threads. Store the results under this name as .json and .md.

    Raise ValueError if base names no commit of this repository.
    """
    rows, lines, ratios = list[dict[str, Any]](), list[list[Any]](), list[float]()
    with _worktree(base) as (commit, folder):
        for count in threads:
            for batch_size, steps, hidden_size in sizes:
                problem = Layer(layer, batch_size, steps, hidden_size)
                with at_work(problem, ["ours", BASE], count, base=folder) as processes:
                    times = take_turns(processes)
                ours, theirs = times["ours"]["median_ms"], times[BASE]["median_ms"]
                ratios.append(ours / theirs)
                size = {"B": batch_size, "T": steps, "H": hidden_size, "I": problem.input_size}
                rows.append(size | {"threads": count, "base": commit, "times": times})
                lines.append([f"{batch_size}, {steps}, {hidden_size}", count, ours, theirs, f"{ratios[-1]:.3f}"])
                print("B, T, H {}, threads {}: {} ms, base {} ms, ratio {}".format(*lines[-1]), flush=True)
    lines.append(["geometric mean", "", "", "", f"**{geometric_mean(ratios):.3f}**"])
    table = markdown(["B, T, H", "threads", "ours, ms", f"at {commit}, ms", "ratio"], lines)
    store(name, rows, table, layer)


@contextmanager
def _worktree(ref: str) -> Iterator[tuple[str, Path]]:
    """Check out a commit in a temporary worktree. Yield its short name and the folder."""
    found = _git("rev-parse", "--short", "--verify", f"{ref}^{{commit}}")
    if found.returncode:
        raise ValueError(f"base: expected a commit of this repository, got {ref!r}: {found.stderr.strip()}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            _git("worktree", "add", "--detach", folder, ref, check=True)
            yield found.stdout.strip(), Path(folder)
        finally:
            _git("worktree", "remove", "--force", folder)


def _git(*words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=check)
