"""Compare the forward pass of the fast-weight layer without gradients with the peers: python -m bench inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import speed
from .peers.problem import Forward
from .peers.runner import ENTRIES
from .report import markdown, sized, store

# B, T, H, and the ratio of ours to the fastest peer that we want at most
WANTED: dict[speed.Size, float | None] = {
    (1, 11, 50): 1.9, (128, 11, 50): 1.25, (128, 24, 100): 0.9, (1000, 11, 50): 0.9, (1, 1000, 128): 1.9,
    (16, 1000, 128): None,
}  # fmt: skip


def run(threads: list[int], chosen: Sequence[speed.Size] = ()) -> None:
    """Measure every size, or the chosen ones, with each number of threads. Store inference.json and inference.md."""
    rows: list[dict[str, Any]] = []
    for count in threads:
        names = speed.candidates("fast_weights", count, max(threads))
        names = speed.installed([name for name in names if ENTRIES[name].module != "in_autograd"])
        for size in chosen or WANTED:
            long = size[1] >= 1000
            frameworks = [name for name in names if not long or name in speed.LONG_FRAMEWORKS]
            rows += speed.measured(Forward("fast_weights", *size), frameworks, count, memory=True)
    speed.check_comparable(rows)
    store("inference" + sized(chosen), rows, _table(rows), "fast_weights")


def _table(rows: list[dict[str, Any]]) -> str:
    """Return a table of ours and the fastest peer for each size, over all numbers of threads; then every framework."""
    lines = []
    for size, group, ours, peer in speed.compared(rows):
        megabytes = [_unavoidable(group[0]), *(_peak(group, name) for name in ("ours", peer[0]))]
        cells = [speed.described(ours), speed.described(peer), f"**{ours[1] / peer[1]:.2f}**", WANTED.get(size) or "-"]
        lines.append(["{}, {}, {}".format(*size), *cells, *(f"{each:.1f}" for each in megabytes)])
    header = ["B, T, H", "ours, ms", "fastest peer, ms", "ours / fastest peer", "wanted at most", "x and h, MB"]
    header += ["ours, peak MB", "fastest peer, peak MB"]
    return markdown(header, lines) + speed.every_framework(rows)


def _unavoidable(row: dict[str, Any]) -> float:
    """Return the MB of x and of the returned h in float32, which every framework holds."""
    return 4 * row["T"] * row["B"] * (row["I"] + row["H"]) / 2**20


def _peak(rows: list[dict[str, Any]], name: str) -> float:
    """Return a framework's peak memory above the import in MB, with the number of threads that needs least."""
    return min((row["times"][name]["peak_mb"] for row in rows if name in row["times"]), default=float("nan"))
