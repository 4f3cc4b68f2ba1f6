"""Compare one step of the fast-weight layer with the peers: python -m bench step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy

from . import speed
from .peers.problem import Step
from .peers.runner import STEPPING, at_work, is_ours
from .report import geometric_mean, markdown, store

SIZES = tuple(product((1, 16, 64), (20, 50, 128, 256)))  # B, H
STEPS = 256  # in a timed run: whole chunks of the stepper, so that the steps that fold a chunk are in the mean
RUNS = 20  # for the slowest step


def run(threads: list[int], chosen: Sequence[tuple[int, int]] = ()) -> None:
    """Measure every size (B, H), or the chosen ones, with each number of threads. Store step.json and step.md."""
    rows: list[dict[str, Any]] = []
    names = speed.installed(list(STEPPING))
    for count, (batch_size, hidden_size) in product(threads, chosen or SIZES):
        for row in speed.measured(Step("fast_weights", batch_size, STEPS, hidden_size), names, count):
            row["us"] = {name: round(1e3 * time["median_ms"] / STEPS, 2) for name, time in row["times"].items()}
            rows.append(row | {"slowest_us": _slowest(batch_size, hidden_size, count)})
    speed.check_comparable(rows)
    suffix = "".join(f"-{batch_size}x{hidden_size}" for batch_size, hidden_size in chosen)
    store("step" + suffix, rows, _table(rows), "fast_weights")


def _slowest(batch_size: int, hidden_size: int, threads: int) -> float:
    """Return the µs of the slowest of STEPS consecutive steps of the stepper, each step's median over RUNS."""
    with at_work(Step("fast_weights", batch_size, 1, hidden_size), ["Stepper"], threads) as processes:
        if not processes:
            raise RuntimeError(f"Stepper: no right answer at B {batch_size}, H {hidden_size}")
        seconds = numpy.reshape(processes[0].run(STEPS * RUNS), (RUNS, STEPS))
    return round(1e6 * float(numpy.median(seconds, axis=0).max()), 1)


def _table(rows: list[dict[str, Any]]) -> str:
    """Return a table of the stepper and the fastest peer, and a table of every framework."""
    lines, every, ratios = [], [], []
    names = list(dict.fromkeys(name for row in rows for name in row["us"]))
    for row in rows:
        us = row["us"]
        peer = min((name for name in us if not is_ours(name)), key=lambda name: us[name])
        to_peer, to_numpy = (
            us.get(ours, float("nan")) / us.get(theirs, float("nan"))
            for ours, theirs in (("Stepper", peer), ("step", "plain NumPy"))
        )
        ratios.append(to_peer)
        size = [f"{row['B']}, {row['H']}", row["threads"]]
        lines.append(
            [*size, f"{us.get('Stepper', float('nan')):.1f}", f"{row['slowest_us']:.0f}", f"{us[peer]:.1f} ({peer})",
             f"**{to_peer:.2f}**", _wanted(row["B"], row["H"]), f"{to_numpy:.2f}"]
        )  # fmt: skip
        every.append([*size, *(f"{us[name]:.1f}" if name in us else "-" for name in names)])
    lines.append(["geometric mean", "", "", "", "", f"**{geometric_mean(ratios):.2f}**", 0.8, ""])
    header = ["B, H", "threads", "Stepper, µs", "its slowest step, µs", "fastest peer, µs", "Stepper / fastest peer"]
    table = markdown([*header, "wanted at most", "step / plain NumPy"], lines) + speed.JAX_SETTING
    return table + f"\nMedian µs a step, over runs of {STEPS}:\n\n" + markdown(["B, H", "threads", *names], every)


def _wanted(batch_size: int, hidden_size: int) -> float:
    """Return the ratio of the stepper to the fastest peer that we want at most."""
    return 0.8 if batch_size == 1 else 1.2 if (batch_size, hidden_size) == (64, 256) else 1.0
