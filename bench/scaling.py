"""Measure time and memory of our layers for many T, H and B: python -m bench scaling, memory, roofline.

Each size is measured in a separate process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy
from threadpoolctl import threadpool_limits

from .peers.problem import Layer
from .peers.runner import at_work, take_turns
from .report import markdown, store

STEPS = (11, 24, 50, 100, 200, 500, 1000, 2000, 4000, 8192)  # at B 16, H 128
UNITS = (20, 50, 100, 200, 400, 700, 1024)  # at B 32, T 64
BATCHES = (1, 4, 16, 64, 256, 1024)  # at T 11, H 50
LARGE = (32, 64, 1024)  # B, T, H
TOLERANCE = 0.02  # over thousands of steps, float32 rounding changes the sign of a unit or two before relu


def _sizes() -> Iterator[tuple[str, int, int, int]]:
    """Yield the name of the varied size, and B, T, H."""
    yield from (("T", 16, steps, 128) for steps in STEPS)
    yield from (("H", 32, 64, units) for units in UNITS)
    yield from (("B", batch_size, 11, 50) for batch_size in BATCHES)


def run(layer: str, threads: int) -> None:
    """Measure time and peak memory for every size. Store scaling.json and scaling.md."""
    rows: list[dict[str, Any]] = []
    for varied, batch_size, steps, hidden_size in _sizes():
        with at_work(Layer(layer, batch_size, steps, hidden_size), ["ours"], threads, TOLERANCE) as processes:
            if not processes:
                raise RuntimeError(f"{layer}: no right answer at B {batch_size}, T {steps}, H {hidden_size}")
            median = take_turns(processes, rounds=3)["ours"]["median_ms"]
            peak = processes[0].peak() / 2**20
        rows.append(
            {"varied": varied, "B": batch_size, "T": steps, "H": hidden_size, "ms": median, "mb": round(peak, 1)}
        )
        print(rows[-1], flush=True)
    of_steps = {row["T"]: row for row in rows if row["varied"] == "T"}
    growth = {unit: round(of_steps[4000][unit] / of_steps[1000][unit], 2) for unit in ("ms", "mb")}
    lines = [[row[key] for key in ("varied", "B", "T", "H", "ms", "mb")] for row in rows]
    table = markdown(["varied", "B", "T", "H", "forward + backward, ms", "peak memory, MB"], lines)
    table += f"\nT = 4000 over T = 1000: {growth['ms']} times the time, {growth['mb']} times the memory.\n"
    store("scaling", {"rows": rows, "T 4000 over T 1000": growth}, table, layer, threads=threads)


def memory(layer: str, names: list[str], threads: int) -> None:
    """Measure peak memory above that after the import, of ours and the peers. Store memory.json and memory.md."""
    rows: list[dict[str, Any]] = []
    sizes = [(16, 250, 128), (16, 500, 128), (16, 1000, 128), (32, 64, 256), (32, 64, 512), LARGE]
    for batch_size, steps, hidden_size in sizes:
        with at_work(Layer(layer, batch_size, steps, hidden_size), names, threads) as processes:
            peaks = {process.name: round(process.peak() / 2**20, 1) for process in processes}
        rows.append({"B": batch_size, "T": steps, "H": hidden_size, "peak_mb": peaks})
        print(rows[-1], flush=True)
    lines = [[row["B"], row["T"], row["H"], *(row["peak_mb"].get(name, "-") for name in names)] for row in rows]
    table = "Peak memory above the import, MB:\n\n" + markdown(["B", "T", "H", *names], lines)
    store("memory", rows, table, layer, threads=threads)


def roofline(layer: str, threads: int) -> None:
    """Compare a layer's time with the time that its products and bytes need at the machine's rates.

    The rates are measured on a large product with `threads` BLAS threads, and on a copy larger than any cache, on one
    thread. Every read counts all earlier states as loaded from memory, although small ones stay in a cache. Only the
    operations of the fast-weight layer are counted: raise ValueError for another layer.
    """
    if layer != "fast_weights":
        raise ValueError(f"layer: expected fast_weights, whose operations are counted here, got {layer}")
    with threadpool_limits(threads):
        rate = _product_rate()
    bandwidth = _copy_bandwidth()
    rows: list[dict[str, Any]] = []
    for batch_size, steps, hidden_size in ((128, 11, 20), (128, 11, 50), (128, 24, 100), (128, 24, 200), (64, 24, 128)):
        problem = Layer(layer, batch_size, steps, hidden_size)
        with at_work(problem, ["ours"], threads) as processes:
            if not processes:
                raise RuntimeError(f"{layer}: no right answer at B {batch_size}, T {steps}, H {hidden_size}")
            seconds = take_turns(processes)["ours"]["median_ms"] / 1e3
        multiplications, numbers = _needed(problem)
        least = max(2 * multiplications / rate, 4 * numbers / bandwidth)
        rows.append(
            {"B": batch_size, "T": steps, "H": hidden_size, "ms": round(1e3 * seconds, 3),
             "multiplications": multiplications, "bytes": 4 * numbers,
             "ms_of_products": round(2e3 * multiplications / rate, 3),
             "ms_of_bytes": round(4e3 * numbers / bandwidth, 3), "fraction": round(least / seconds, 3)}
        )  # fmt: skip
        print(rows[-1], flush=True)
    keys = ("B", "T", "H", "ms", "ms_of_products", "ms_of_bytes", "fraction")
    header = ["B", "T", "H", "taken, ms", "multiplications alone, ms", "bytes alone, ms", "greater of the two / taken"]
    table = f"Matrix products at {rate / 1e9:.0f} GFLOP/s, copies at {bandwidth / 1e9:.1f} GB/s, {threads} threads.\n\n"
    table += markdown(header, [[row[key] for key in keys] for row in rows])
    figures = {"products_per_second": rate, "bytes_per_second": bandwidth, "rows": rows}
    store("roofline", figures, table, layer, threads=threads)


def _needed(problem: Layer) -> tuple[int, int]:
    """Return the multiplications, and the numbers read or written, of equations (2), (4), (5) and their gradients."""
    T, B, H, inputs = problem.steps, problem.batch_size, problem.hidden_size, problem.input_size
    # x Cᵀ, dC, dx; W h, dW, Wᵀ da; scores and sums over earlier steps: forward, for the errors, and for (F6)
    products = 3 * T * B * H * inputs + 3 * T * B * H * H + 6 * B * H * T * (T - 1) // 2
    elementwise = 20 * T * B * H  # layer norm, slopes, sums: forward and backward
    # x, dx, dh, h; forward and backward, the preactivation, h_0, n and r; the history at each step, for 6 products
    numbers = 2 * T * B * inputs + 10 * T * B * H + 6 * B * H * T * (T - 1) // 2
    return products + elementwise, numbers


def _product_rate() -> float:
    """Return floating-point operations per second of a large matrix product."""
    a = numpy.ones((1024, 1024), "float32")
    return 2 * 1024**3 / _fastest(lambda: a @ a)


def _copy_bandwidth() -> float:
    """Return bytes per second, read and written, of a copy larger than any cache."""
    source = numpy.ones(2**26, "uint8")
    target = numpy.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: numpy.copyto(target, source))


def _fastest(work: Any) -> float:
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
