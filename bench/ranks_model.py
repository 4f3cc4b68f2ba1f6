"""Model updates per second on many nodes, from what bench ranks measured: python -m bench ranks --model.

    t(N) = t_compute(B / N, R) + t_allreduce(N, P)
    t_allreduce = 2 ⌈log2 N⌉ α + 2 (N - 1) / N · 4 P / β

t_compute is measured on one rank, between measured shares interpolated linearly in the number of sequences, and beyond
the largest one continued with its slope. An Allreduce of P float32 numbers by reduce-scatter and allgather takes
2 ⌈log2 N⌉ messages of latency α, and sends 2 (N - 1) / N times the vector at bandwidth β. Source: Thakur, Rabenseifner,
Gropp 2005, Optimization of Collective Communication Operations in MPICH, section 4.5.

α and β of this machine are fitted to its measured times. The network's are assumptions, named in the table. The
check against the measured ranks takes t_compute with all of them at work: they share one machine's memory, and perhaps
the units of one core. A node of the model has one rank.
"""

from __future__ import annotations

import json
from math import ceil, log2
from typing import Any

import numpy

from .report import markdown, store
from .store import STORE

NODES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BATCHES = (128, 1024, 8192, 65_536)
NETWORKS = {  # latency in seconds, bandwidth in bytes per second: assumptions, of the order of common networks
    "InfiniBand, 2 µs, 100 Gbit/s": (2e-6, 12.5e9),
    "Ethernet, 30 µs, 10 Gbit/s": (30e-6, 1.25e9),
}
PAYS = 0.5  # efficiency above which a further doubling of the nodes is said to pay


def run() -> None:
    """Store ranks-model.json and ranks-model.md. Raise ValueError if ranks.json is missing."""
    path = STORE / "ranks.json"
    if not path.exists():
        raise ValueError(f"ranks: expected {path}; measure it first: mpiexec -n 2 python -m bench ranks --store")
    measured = json.loads(path.read_text("utf-8"))["figures"]
    alpha, beta = fitted(measured["allreduce"], measured["ranks"])
    checks = [_check(row, measured, alpha, beta) for row in measured["updates"] if row["task"] == "retrieval"]
    checks = [row for row in checks if row]
    rows = [
        {"network": name, "R": size, "batch": batch, "updates": _updates(measured, size, batch, *network)}
        for name, network in NETWORKS.items()
        for size in sorted({row["R"] for row in measured["compute"]})
        for batch in BATCHES
    ]
    figures = {"alpha": alpha, "beta": beta, "check": checks, "rows": rows}
    store("ranks-model", figures, _tables(figures), "fast_weights")


def allreduce(nodes: int, numbers: int, alpha: float, beta: float) -> float:
    """Return the seconds of an Allreduce of float32 numbers."""
    return 2 * ceil(log2(nodes)) * alpha + 2 * (nodes - 1) / nodes * 4 * numbers / beta


def fitted(measured: list[dict[str, Any]], nodes: int) -> tuple[float, float]:
    """Return α and β of this machine: α from the smallest message, β from the median of the large ones."""
    smallest = min(measured, key=lambda row: row["numbers"])
    alpha = smallest["seconds"] / (2 * ceil(log2(nodes)))
    large = [row for row in measured if row["numbers"] >= 50_000]
    rates = [
        2 * (nodes - 1) / nodes * 4 * row["numbers"] / max(row["seconds"] - smallest["seconds"], 1e-9) for row in large
    ]
    return alpha, float(numpy.median(rates))


def compute(measured: list[dict[str, Any]], size: int, sequences: float, which: str = "seconds") -> float:
    """Return the seconds of an update of this many sequences, of one rank or of all at once."""
    rows = sorted((row for row in measured if row["R"] == size), key=lambda row: row["sequences"])
    counts, seconds = [row["sequences"] for row in rows], [row[which] for row in rows]
    if sequences > counts[-1]:
        slope = (seconds[-1] - seconds[-2]) / (counts[-1] - counts[-2])
        return seconds[-1] + slope * (sequences - counts[-1])
    return float(numpy.interp(sequences, counts, seconds))


def _check(row: dict[str, Any], measured: dict[str, Any], alpha: float, beta: float) -> dict[str, Any] | None:
    """Return measured and modelled updates per second on one rank and on all; None if R's compute is not measured."""
    size, nodes = row["R"], measured["ranks"]
    if size not in {each["R"] for each in measured["compute"]}:
        return None
    one = compute(measured["compute"], size, 128)
    several = compute(measured["compute"], size, 128 / nodes, "seconds_of_all_at_once")
    several += allreduce(nodes, row["parameters"], alpha, beta)
    seen = list(row["medians"].values())[:2]
    return {"R": size, "ranks": [1, nodes], "measured": seen, "model": [round(1 / one, 1), round(1 / several, 1)]}


def _updates(measured: dict[str, Any], size: int, batch: int, alpha: float, beta: float) -> dict[int, float]:
    """Return the updates per second by the number of nodes, each with at least one sequence."""
    numbers = next(row["parameters"] for row in measured["compute"] if row["R"] == size)
    return {
        nodes: 1
        / (
            compute(measured["compute"], size, batch / nodes)
            + (allreduce(nodes, numbers, alpha, beta) if nodes > 1 else 0)
        )
        for nodes in NODES
        if nodes <= batch
    }


def _tables(figures: dict[str, Any]) -> str:
    checked = [
        [row["R"], *(f"{seen:.0f} / {model:.0f}" for seen, model in zip(row["measured"], row["model"], strict=True))]
        for row in figures["check"]
    ]
    ranks = figures["check"][0]["ranks"] if figures["check"] else [1, 2]
    text = "Updates a second, measured / modelled, batch 128:\n\n"
    text += markdown(["R", *(f"{count} rank{'s' * (count > 1)}" for count in ranks)], checked)
    shown = [nodes for nodes in NODES if nodes in (2, 8, 32, 128, 1024)]
    for name in NETWORKS:
        lines = []
        for row in figures["rows"]:
            if row["network"] != name:
                continue
            updates = {int(nodes): value for nodes, value in row["updates"].items()}
            speedup = {nodes: updates[nodes] / updates[1] for nodes in updates}
            pays = max([nodes for nodes in updates if speedup[nodes] / nodes >= PAYS] or [1])
            cells = [f"{speedup[nodes]:.1f}" if nodes in speedup else "-" for nodes in shown]
            lines.append([row["R"], f"{row['batch']:,}", *cells, pays])
        header = ["R", "batch", *(f"{nodes} nodes" for nodes in shown), "pays up to"]
        text += f"\n{name}: how many times the updates of one node:\n\n" + markdown(header, lines)
    return text
