"""Compare an update of the transformer, with and without In-Place TTT, with PyTorch: python -m bench transformer."""

from __future__ import annotations

from typing import Any

from . import speed
from .peers.problem import Transformer
from .peers.runner import TRANSFORMERS, at_work, is_ours, take_turns
from .report import markdown, store

WRITTEN: tuple[tuple[int, ...], ...] = ((), (2,), (1, 2))  # the blocks whose MLP is written in place


def run(threads: list[int]) -> None:
    """Measure with each number of threads. Store speed-transformer.json and speed-transformer.md."""
    rows = []
    for count in threads:
        names = [
            name for name, entry in TRANSFORMERS.items()
            if entry.parts <= count and (count == max(threads) or "compile" not in name)
        ]  # fmt: skip
        names = speed.installed(names)
        for written in WRITTEN:
            with at_work(Transformer(written), names, count) as processes:
                times = take_turns(processes)
            medians = "; ".join(f"{name} {time['median_ms']:.1f}" for name, time in times.items())
            print(f"blocks written in place {_named(written)}, threads {count}: {medians} ms", flush=True)
            if {is_ours(name) for name in times} == {True, False}:
                rows.append({"written": written, "threads": count, "times": times})
    speed.check_comparable(rows)
    store("speed", rows, _table(rows), "transformer")


def _table(rows: list[dict[str, Any]]) -> str:
    """Return ours and the fastest peer for each set of blocks, over all numbers of threads; then every framework."""
    lines = []
    for written in dict.fromkeys(tuple(row["written"]) for row in rows):
        of_set = [row for row in rows if tuple(row["written"]) == written]
        ours, peer = (
            min(((*speed.best(row, ours=which), row["threads"]) for row in of_set), key=lambda found: found[1])
            for which in (True, False)
        )
        cells = [speed.described(ours), speed.described(peer), f"**{ours[1] / peer[1]:.2f}**"]
        lines.append([_named(written), *cells])
    table = markdown(["blocks written in place", "ours, ms", "fastest peer, ms", "ours / fastest peer"], lines)
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    every = [
        [_named(row["written"]), row["threads"]]
        + [f"{row['times'][name]['median_ms']:.1f}" if name in row["times"] else "-" for name in names]
        for row in rows
    ]
    return table + "\nMedian ms:\n\n" + markdown(["blocks written in place", "threads", *names], every)


def _named(written: Any) -> str:
    return ", ".join(map(str, written)) or "none"
