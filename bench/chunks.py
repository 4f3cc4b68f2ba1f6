"""Compare forward + backward of the write rules with the same chunks in PyTorch and JAX: python -m bench chunks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from typing import Any

from . import speed
from .peers.problem import Programmer
from .peers.runner import ENTRIES, PROGRAMMING, at_work, is_ours, take_turns
from .report import geometric_mean, markdown, store

Row = dict[str, Any]
Size = tuple[int, int, int, int]  # B, T, heads, d

RULES = ("sum", "decay", "delta", "gated_delta")
SIZES: tuple[Size, ...] = ((8, 1024, 4, 64), (1, 4096, 4, 64))
STEPS = (512, 1024, 2048, 4096)  # T at B = 1, 4 heads, d = 64
LAYER = "fast_weight_programmer"
PEERS = ("PyTorch eager", "torch.compile", "JAX scan")
COMPILED = (8, 1024, 4, 64)  # the size at which torch.compile runs, with all threads: one row takes a minute to compile


def run(threads: list[int], sizes: Sequence[Size] = SIZES, steps: Sequence[int] = STEPS) -> None:
    """Measure every rule and size with each number of threads. Store chunks-….json and chunks-steps-….json."""
    names = speed.installed(list(PROGRAMMING))
    rows: list[Row] = []
    for count, size in product(threads, sizes):
        chosen = [max(filter(is_ours, names), key=lambda name: min(ENTRIES[name].parts, count))]
        compiled = size == COMPILED and count == max(threads)
        chosen += [name for name in names if not is_ours(name) and (compiled or "compile" not in name)]
        rows += measured([(rule, size) for rule in RULES], chosen, count)
    rows = [row for row in rows if {is_ours(name) for name in row["times"]} == {True, False}]
    speed.check_comparable(rows)
    store("chunks", rows, table(rows), LAYER)
    longer = [(rule, (1, T, 4, 64)) for rule, T in product(("sum", "gated_delta"), steps)]
    rows = measured(longer, [next(iter(PROGRAMMING))], 1)
    store("chunks-steps", rows, table_of_steps(rows), LAYER)


def measured(problems: Sequence[tuple[str, Size]], names: list[str], threads: int) -> list[Row]:
    """Return a row for each rule and size, the median times of the frameworks whose answers are right, and print it.

    All processes are started at once, before the first of them is timed.
    """
    rows = []
    with ExitStack() as stack, ThreadPoolExecutor(len(problems)) as pool:
        starting = [at_work(Programmer(rule, *size), names, threads) for rule, size in problems]
        at_works = list(pool.map(stack.enter_context, starting))
        print(f"threads {threads}: {sum(map(len, at_works))} processes are ready", flush=True)
        for (rule, size), processes in zip(problems, at_works, strict=True):
            times = take_turns(processes, rounds=5)
            medians = "; ".join(f"{name} {time['median_ms']:.1f}" for name, time in times.items())
            print(f"{rule}, B, T, heads, d {size}: {medians} ms", flush=True)
            rows.append({"rule": rule, "size": size, "threads": threads, "times": times})
    return rows


def table(rows: list[Row]) -> str:
    """Return each framework's best time over all numbers of threads for each rule and size; then every time."""
    lines, ratios = [], list[float]()
    for size, rule in dict.fromkeys((tuple(row["size"]), row["rule"]) for row in rows):
        best: dict[str, tuple[float, int]] = {}
        for row in rows:
            if (tuple(row["size"]), row["rule"]) == (size, rule):
                for name, time in row["times"].items():
                    found = (time["median_ms"], row["threads"])
                    who = "ours" if is_ours(name) else name.partition(",")[0]
                    best[who] = min(best.get(who, found), found)
        ratios.append(best["ours"][0] / min(best[who][0] for who in best if who != "ours"))
        cells = [f"{best[who][0]:.1f} ({best[who][1]})" if who in best else "-" for who in ("ours", *PEERS)]
        lines.append([rule, ", ".join(map(str, size)), *cells, f"**{ratios[-1]:.2f}**"])
    lines.append(["geometric mean", "", "", "", "", "", f"**{geometric_mean(ratios):.2f}**"])
    header = ["rule", "B, T, heads, d", "ours, ms (threads)", *(f"{peer}, ms" for peer in PEERS)]
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    every = [
        [row["rule"], ", ".join(map(str, row["size"])), row["threads"],
         *(f"{row['times'][name]['median_ms']:.1f}" if name in row["times"] else "-" for name in names)]
        for row in rows
    ]  # fmt: skip
    whole = "\nMedian ms of every framework:\n\n" + markdown(["rule", "B, T, heads, d", "threads", *names], every)
    return markdown([*header, "ours / fastest peer"], lines) + speed.JAX_SETTING + whole


def table_of_steps(rows: list[Row]) -> str:
    """Return our time on one thread for each T, and the time per step."""
    lines = []
    for row in rows:
        (time,), T = row["times"].values(), row["size"][1]
        lines.append([row["rule"], T, f"{time['median_ms']:.2f}", f"{1e3 * time['median_ms'] / T:.2f}"])
    return markdown(["rule", "T", "forward + backward, ms", "µs a step"], lines)
