"""Compare forward + backward of our layer with the peers, in turns, on the same arrays: python -m bench speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fastweights_np import to_device

from . import report
from .peers.problem import Layer
from .peers.runner import ENTRIES, FORMS, at_work, available, layer_frameworks, take_turns
from .report import geometric_mean, markdown, named, sized, store

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


def run(
    layer: str, threads: list[int], long: bool, chosen: Sequence[tuple[int, int, int]] = (), device: str = "cpu"
) -> None:  # fmt: skip
    """Measure every size (B, T, H), or the chosen ones, with each number of threads.

    Store speed or long as .json, .md and .png. The name includes chosen sizes and a GPU.
    """
    to_device({}, device)  # raises if there is none
    sizes = chosen or sizes_of(layer, long)
    rows = []
    for count in threads:
        names = [name for name in layer_frameworks(layer, count, device) if not name.startswith(COMPILED)]
        names += [f"{COMPILED}, {FORMS[layer][0]}"] if count == max(threads) else []
        names, absent = available([name for name in names if not long or name in LONG_FRAMEWORKS])
        for each in absent:
            print(f"left out, because it is not installed: {each}", flush=True)
        if all(ENTRIES[name].ours for name in names):
            raise ValueError('no peer is installed; install them with pip install -e ".[bench]"')
        for batch_size, steps, hidden_size in sizes:
            problem = Layer(layer, batch_size, steps, hidden_size, device=device)
            row = _row(problem, names, count, memory=long)
            print(_line(row), flush=True)
            if {ENTRIES[name].ours for name in row["times"]} == {True, False}:
                rows.append(row)
            else:
                print("   left out: this size needs both ours and a peer with right answers", flush=True)
    if not rows:
        raise ValueError("no size had both ours and a peer with right answers")
    name = ("long" if long else "speed") + ("" if device == "cpu" else f"-{device}") + sized(chosen)
    store(name, rows, _table(rows), layer)
    _picture(rows, named(name, layer))


def sizes_of(layer: str, long: bool) -> Sequence[tuple[int, int, int]]:
    """Return the sizes (B, T, H) at which a layer is measured."""
    return LONG if long else GLIMPSES if layer == "multilevel" else SIZES


def _row(problem: Layer, names: list[str], threads: int, memory: bool) -> dict[str, Any]:
    with at_work(problem, names, threads) as processes:
        times = take_turns(processes)
        if memory:
            for process in processes:
                times[process.name]["peak_mb"] = round(process.peak() / 2**20, 1)
    size = {"B": problem.batch_size, "T": problem.steps, "H": problem.hidden_size, "I": problem.input_size}
    return size | {"threads": threads, "times": times}


def best(row: dict[str, Any], ours: bool) -> tuple[str, float]:
    """Return the fastest of ours, or of the peers, and its milliseconds."""
    medians = {name: time["median_ms"] for name, time in row["times"].items() if ENTRIES[name].ours == ours}
    name = min(medians, key=lambda each: medians[each])
    return name, medians[name]


def _line(row: dict[str, Any]) -> str:
    times = "; ".join(f"{name} {time['median_ms']:.2f}" for name, time in row["times"].items())
    return f"B {row['B']}, T {row['T']}, H {row['H']}, threads {row['threads']}: {times} ms"


def _table(rows: list[dict[str, Any]]) -> str:
    """Return two tables: ours and the fastest peer for each size, over all numbers of threads; then every framework."""
    by_size: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        by_size.setdefault((row["B"], row["T"], row["H"]), []).append(row)
    lines, ratios, to_eager = [], [], []
    for (batch_size, steps, hidden_size), group in by_size.items():
        (ours, our_time, our_threads), (peer, peer_time, peer_threads) = (
            min(((*best(row, ours=which), row["threads"]) for row in group), key=lambda found: found[1])
            for which in (True, False)
        )
        eager = min(
            (time["median_ms"] for row in group for name, time in row["times"].items() if "eager" in name),
            default=float("nan"),
        )
        ratios.append(our_time / peer_time)
        to_eager.append(our_time / eager)
        lines.append(
            [f"{batch_size}, {steps}, {hidden_size}", f"{our_time:.2f} ({ours}, {our_threads} threads)",
             f"{peer_time:.2f} ({peer}, {peer_threads} threads)", f"**{ratios[-1]:.2f}**", f"{to_eager[-1]:.2f}"]
        )  # fmt: skip
    lines.append(["geometric mean", "", "", f"**{geometric_mean(ratios):.2f}**", f"{geometric_mean(to_eager):.2f}"])
    header = ["B, T, H", "ours, ms", "fastest peer, ms", "ours / fastest peer", "ours / PyTorch eager"]
    table = markdown(header, lines)
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    every = [
        [f"{row['B']}, {row['T']}, {row['H']}", row["threads"], *(_cell(row["times"].get(name)) for name in names)]
        for row in rows
    ]
    table += "\nJAX runs with jax_cpu_enable_async_dispatch=False, its fastest setting here.\n"
    table += "\nMedian ms (first run, compiling included, s):\n\n"
    return table + markdown(["B, T, H", "threads", *names], every)


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
