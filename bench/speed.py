"""Compare forward + backward of our layer with the peers, in turns, on the same arrays: python -m bench speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

from fastweights_np import to_device
from tasks.figures import style

from . import report
from .peers.problem import Layer
from .peers.runner import FORMS, at_work, available, is_ours, layer_frameworks, take_turns
from .report import geometric_mean, markdown, named, sized, store

Size = tuple[int, int, int]  # B, T, H
Best = tuple[str, float, int]  # name, median in ms, number of threads

SIZES = ((128, 11, 20), (128, 11, 50), (128, 11, 100), (128, 24, 50), (128, 24, 100), (128, 24, 200), (64, 24, 128))
GLIMPSES = ((128, 24, 50), (128, 24, 100), (128, 24, 200))  # of the multi-level layer, whose T counts quadrants
LONG = ((16, 1000, 128),)
# an unrolled program of a thousand steps takes hours to compile
LONG_FRAMEWORKS = (
    "ours", "JAX scan, attention", "JAX scan, matrix", "PyTorch eager, matrix", "JAX scan, plain",
    "PyTorch eager, plain", "PyTorch eager, nn",
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
    draw(rows, layer, named(name, layer))


def sizes_of(layer: str, long: bool) -> Sequence[Size]:
    """Return the sizes (B, T, H) at which a layer is measured."""
    return LONG if long else GLIMPSES if layer == "multilevel" else SIZES


def candidates(layer: str, threads: int, most: int, device: str = "cpu") -> list[str]:
    """Return the frameworks that may be the fastest with `threads` threads; `most` is the largest number measured."""
    names = [name for name in layer_frameworks(layer, threads, device) if not name.startswith(COMPILED)]
    return names + ([f"{COMPILED}, {FORMS[layer][0]}"] if threads == most else [])


def installed(names: list[str]) -> list[str]:
    """Return the names whose package is installed, and print the others. Raise ValueError if no peer is left."""
    names, absent = available(names)
    for each in absent:
        print(f"left out, because it is not installed: {each}", flush=True)
    if all(is_ours(name) for name in names):
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
                if process.name in times:
                    times[process.name]["peak_mb"] = round(process.peak() / 2**20, 1)
    size = {"B": problem.batch_size, "T": problem.steps, "H": problem.hidden_size, "I": problem.input_size}
    medians = "; ".join(f"{name} {time['median_ms']:.2f}" for name, time in times.items())
    print("B {B}, T {T}, H {H}, threads".format(**size), f"{threads}: {medians} ms", flush=True)
    if {is_ours(name) for name in times} != {True, False}:
        print("   left out: this size needs both ours and a peer with right answers", flush=True)
        return []
    return [size | {"threads": threads, "times": times}]


def check_comparable(rows: list[dict[str, Any]]) -> None:
    """Raise ValueError if there is no row."""
    if not rows:
        raise ValueError("no size had both ours and a peer with right answers")


def best(row: dict[str, Any], ours: bool) -> tuple[str, float]:
    """Return the fastest of ours, or of the peers, and its milliseconds."""
    medians = {name: time["median_ms"] for name, time in row["times"].items() if is_ours(name) == ours}
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


class Ratio(NamedTuple):
    """Ours at one size, and its time over the fastest peer's and over PyTorch eager's, each with its best threads."""

    size: str
    ours: Best
    peer: Best
    to_peer: float
    to_eager: float


def ratios(rows: list[dict[str, Any]]) -> list[Ratio]:
    """Return the ratios of every size, over all numbers of threads. Without PyTorch eager its ratio is nan."""
    found = []
    for size, group, ours, peer in compared(rows):
        eager = min(
            (time["median_ms"] for row in group for name, time in row["times"].items() if "eager" in name),
            default=float("nan"),
        )
        found.append(Ratio("{}, {}, {}".format(*size), ours, peer, ours[1] / peer[1], ours[1] / eager))
    return found


def _table(rows: list[dict[str, Any]]) -> str:
    """Return two tables: ours and the fastest peer for each size, over all numbers of threads; then every framework."""
    found = ratios(rows)
    lines = [
        [each.size, described(each.ours), described(each.peer), f"**{each.to_peer:.2f}**", f"{each.to_eager:.2f}"]
        for each in found
    ]
    to_peer, to_eager = _means(found)
    lines.append(["geometric mean", "", "", f"**{to_peer:.2f}**", f"{to_eager:.2f}"])
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


def _means(found: list[Ratio]) -> tuple[float, float]:
    """Return the geometric means of both ratios over the sizes."""
    return geometric_mean([each.to_peer for each in found]), geometric_mean([each.to_eager for each in found])


def draw(rows: list[dict[str, Any]], layer: str, name: str) -> None:
    """Draw both ratios of every size, and their geometric means, as bars in the layer's colour."""
    found = ratios(rows)
    sizes = [*(each.size for each in found), "geometric\nmean"]
    figure, axes = plt.subplots(figsize=(1.1 * len(sizes) + 1.2, 4.2), layout="constrained")
    columns = zip(*((each.to_peer, each.to_eager) for each in found), _means(found), strict=True)
    labels = ("ours / fastest peer", "ours / PyTorch eager")
    for offset, alpha, label, values in zip((-0.2, 0.2), (1.0, 0.4), labels, columns, strict=True):
        places = [place + offset for place in range(len(sizes))]
        bars = axes.bar(places, values, 0.4, color=style.COLOURS[layer], alpha=alpha, label=label)
        axes.bar_label(bars, fmt="{:.2f}", fontsize=8)
    axes.axhline(1, color="black", linewidth=1, label="equal times")
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="B, T, H", ylabel="ratio (below 1: ours is faster)")
    axes.set_title(f"{style.NAMES[layer]}: our time of forward + backward, divided by that of other frameworks")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    style.save(figure, report.output / f"{name}.png")
