"""Measure frames per second of catch's whole training for several numbers of actors: python -m bench actors."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tasks import __main__ as tasks

from .report import markdown, store

GAMES = ((16, 3), (24, 5))  # N and M
ROUNDS = 5
FRAMES = 400_000  # in a run, which takes about ten seconds


def run(layer: str, actors: list[int], frames: int = FRAMES, rounds: int = ROUNDS) -> None:
    """Measure both games of the paper with each number of actors in turn. Store actors.json and actors.md."""
    rows: list[dict[str, Any]] = []
    for size, visible in GAMES:
        rates: dict[int, list[int]] = {count: [] for count in actors}
        for _ in range(rounds):
            for count in actors:
                rates[count].append(_frames_per_second(layer, size, visible, count, frames))
        rows.append({"N": size, "M": visible, "frames_per_second": rates})
        print(size, visible, rates, flush=True)
    store("actors", rows, _table(rows, actors), layer)


def _frames_per_second(layer: str, size: int, visible: int, actors: int, frames: int) -> int:
    options = {"layer": layer, "size": size, "visible": visible, "actors": actors, "frames": frames}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        if code := tasks.main(["catch", *words, "--out", folder]):
            raise RuntimeError(f"python -m tasks catch {' '.join(words)} ended with code {code}")
        return json.loads((Path(folder) / "result.json").read_text("utf-8"))["frames_per_second"]


def _table(rows: list[dict[str, Any]], actors: list[int]) -> str:
    lines = []
    for row in rows:
        medians = {count: median(row["frames_per_second"][count]) for count in actors}
        gain = f"{medians[actors[-1]] / medians[actors[0]]:.2f}"
        lines.append([f"{row['N']}, {row['M']}", *(f"{medians[count]:,.0f}" for count in actors), gain])
    names = [f"{count} actor{'s' * (count > 1)}" for count in actors]
    header = ["N, M", *names, f"{names[-1]} / {names[0]}"]
    return "Frames a second, whole training, starting the actors included:\n\n" + markdown(header, lines)
