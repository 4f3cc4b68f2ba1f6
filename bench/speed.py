"""Compare forward + backward of our layer with the peers, in turns, on the same arrays: python -m bench speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fastweights_np import to_device

from . import report
from .peers.problem import Layer
from .peers.runner import ENTRIES, FORMS, at_work, available, layer_frameworks, take_turns
from .report import geometric_mean, markdown, named, sized, store

Size = tuple[int, int, int]  # B, T, H
Best = tuple[str, float, int]  # name, median in ms, number of threads

SIZES = ((128, 11, 20), (128, 11, 50), (128, 11, 100), (128, 24, 50), (128, 24, 100), (128, 24, 200), (64, 24, 128))
GLIMPSES = ((128, 24, 50), (128, 24, 100), (128, 24, 200))  # of the multi-level layer, whose T counts quadrants
LONG = ((16, 1000, 128),)
# an unrolled program of a thousand steps takes hours to compile
LONG_FRAMEWORKS = (
    "ours", "ours, 2 processes", "JAX scan, attention", "JAX scan, matrix", "PyTorch eager, matrix",
    "JAX scan, plain", "PyTorch eager, plain", "PyTorch eager, nn",
)  # fmt: skip
# torch.compile needs one to two minutes per row, so it runs only where it may be the fastest peer: in its first form,
# with all threads (with fewer threads it was slower in every row of the last measurement)
COMPILED = "torch.compile"
JAX_SETTING = "\nJAX runs with jax_cpu_enable_async_dispatch=False, its fastest setting here.\n"


def run(layer: str, threads: list[int], long: bool, chosen: Sequence[Size] = (), device: str = "cpu") -> None:
    """Measure every size (B, T, H), or the chosen ones, with each number of threads.

    Store speed or long as .json, .md and .png. The name includes chosen sizes and a GPU.
    """
    to_device({}, device)  # raises if there is none
    sizes = chosen or sizes_of(layer, long)
    rows = []
    for count in threads:
        names = candidates(layer, count, max(threads), device)
        names = installed([name for name in names if not long or name in LONG_FRAMEWORKS])
        for size in sizes:
            rows += measured(Layer(layer, *size, device=device), names, count, memory=long)
    check_comparable(rows)
    name = ("long" if long else "speed") + ("" if device == "cpu" else f"-{device}") + sized(chosen)
    store(name, rows, _table(rows), layer)
    _picture(rows, named(name, layer))


def sizes_of(layer: str, long: bool) -> Sequence[Size]:
    """Return the sizes (B, T, H) at which a layer is measured."""
    return LONG if long else GLIMPSES if layer == "multilevel" else SIZES


def candidates(layer: str, threads: int, most: int, device: str = "cpu") -> list[str]:
    """Return the frameworks that may be the fastest one with this number of threads, of which `most` are measured."""
    names = [name for name in layer_frameworks(layer, threads, device) if not name.startswith(COMPILED)]
    return names + ([f"{COMPILED}, {FORMS[layer][0]}"] if threads == most else [])


def installed(names: list[str]) -> list[str]:
    """Return the names whose package is installed, and print the others. Raise ValueError if no peer is left."""
    names, absent = available(names)
    for each in absent:
        print(f"left out, because it is not installed: {each}", flush=True)
    if all(ENTRIES[name].ours for name in names):
        raise ValueError('no peer is installed; install them with pip install -e ".[bench]"')
    return names


def measured(problem: Layer, names: list[str], threads: int, memory: bool = False) -> list[dict[str, Any]]:
    """Return one row, the times (and peak memory) of the frameworks whose answers are right, and print it.

    Return no row unless it has both ours and a peer.
    """
    with at_work(problem, names, threads) as processes:
        times = take_turns(processes)
        if memory:
            for process in processes:
                times[process.name]["peak_mb"] = round(process.peak() / 2**20, 1)
    size = {"B": problem.batch_size, "T": problem.steps, "H": problem.hidden_size, "I": problem.input_size}
    medians = "; ".join(f"{name} {time['median_ms']:.2f}" for name, time in times.items())
    print("B {B}, T {T}, H {H}, threads".format(**size), f"{threads}: {medians} ms", flush=True)
    if {ENTRIES[name].ours for name in times} != {True, False}:
        print("   left out: this size needs both ours and a peer with right answers", flush=True)
        return []
    return [size | {"threads": threads, "times": times}]


def check_comparable(rows: list[dict[str, Any]]) -> None:
    """Raise ValueError if there is no row."""
    if not rows:
        raise ValueError("no size had both ours and a peer with right answers")


def best(row: dict[str, Any], ours: bool) -> tuple[str, float]:
    """Return the fastest of ours, or of the peers, and its milliseconds."""
    medians = {name: time["median_ms"] for name, time in row["times"].items() if ENTRIES[name].ours == ours}
    name = min(medians, key=lambda each: medians[each])
    return name, medians[name]


def compared(rows: list[dict[str, Any]]) -> Iterator[tuple[Size, list[dict[str, Any]], Best, Best]]:
    """Yield each size, its rows, and the fastest of ours and of the peers, over all numbers of threads."""
    by_size: dict[Size, list[dict[str, Any]]] = {}
    for row in rows:
        by_size.setdefault((row["B"], row["T"], row["H"]), []).append(row)
    for size, group in by_size.items():
        ours, peer = (
            min(((*best(row, ours=which), row["threads"]) for row in group), key=lambda found: found[1])
            for which in (True, False)
        )
        yield size, group, ours, peer


def described(found: Best) -> str:
    """Return the cell of a framework that was the fastest."""
    name, milliseconds, threads = found
    return f"{milliseconds:.2f} ({name}, {threads} threads)"


def _table(rows: list[dict[str, Any]]) -> str:
    """Return two tables: ours and the fastest peer for each size, over all numbers of threads; then every framework."""
    lines, ratios, to_eager = [], [], []
    for size, group, ours, peer in compared(rows):
        eager = min(
            (time["median_ms"] for row in group for name, time in row["times"].items() if "eager" in name),
            default=float("nan"),
        )
        ratios.append(ours[1] / peer[1])
        to_eager.append(ours[1] / eager)
        cells = [described(ours), described(peer), f"**{ratios[-1]:.2f}**", f"{to_eager[-1]:.2f}"]
        lines.append(["{}, {}, {}".format(*size), *cells])
    lines.append(["geometric mean", "", "", f"**{geometric_mean(ratios):.2f}**", f"{geometric_mean(to_eager):.2f}"])
    header = ["B, T, H", "ours, ms", "fastest peer, ms", "ours / fastest peer", "ours / PyTorch eager"]
    return markdown(header, lines) + every_framework(rows)


def every_framework(rows: list[dict[str, Any]]) -> str:
    """Return the table of all rows and all frameworks, under its title."""
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    every = [
        [f"{row['B']}, {row['T']}, {row['H']}", row["threads"], *(_cell(row["times"].get(name)) for name in names)]
        for row in rows
    ]
    title = "\nMedian ms (first run, compiling included, s):\n\n"
    return JAX_SETTING + title + markdown(["B, T, H", "threads", *names], every)


def _cell(time: dict[str, Any] | None) -> str:
    if time is None:
        return "-"
    peak = f", {time['peak_mb']:.0f} MB" if "peak_mb" in time else ""
    return f"{time['median_ms']:.2f} ({time['first_run_s']:.1f}){peak}"


def _picture(rows: list[dict[str, Any]], name: str) -> None:
    """Plot the time of every peer against ours, log-log, at the most threads. Below the diagonal a peer is faster."""
    most = max(row["threads"] for row in rows)
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    chosen = [row for row in rows if row["threads"] == most]
    ours = [best(row, ours=True)[1] for row in chosen]
    names = dict.fromkeys(name for row in chosen for name in row["times"] if not ENTRIES[name].ours)
    for marker, each in zip("osv^<>Dph*", names, strict=False):
        theirs = [row["times"].get(each, {}).get("median_ms", float("nan")) for row in chosen]
        axes.plot(ours, theirs, marker, label=each, alpha=0.8)
    ends = [min(ours) / 1.3, max(ours) * 1.3]
    axes.plot(ends, ends, color="black", linewidth=1, label="as fast as ours")
    axes.set(
        xscale="log", yscale="log", xlabel="ours (ms)", ylabel="peer (ms)", title="Forward + backward of the layer"
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(report.output / f"{name}.png", dpi=130)
    plt.close(figure)
