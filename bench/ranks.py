"""Measure updates per second of whole training on one rank and on all: mpiexec -n 2 python -m bench ranks.

Also measure what the model of many nodes needs (ranks_model.py): the time of one rank's update by its share of the
batch, and the time of an Allreduce by its size. The ranks take turns in one run: while one rank is measured alone, the
others sleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy
from threadpoolctl import threadpool_limits

from fastweights_np import Workspace, distributed, optim
from fastweights_np.distributed import Ranks
from fastweights_np.network import train_step
from fastweights_np.trees import flatten

from .peers.in_numpy import network_and_data
from .peers.problem import Training
from .report import markdown, store

SIZES = {"retrieval": (20, 50, 100, 200, 400), "mnist": (20, 50, 100, 200, 400)}
ROUNDS, TURN = 7, 0.4  # turns of each configuration, and the seconds of a turn
SHARES = {100: (1, 4, 16, 64, 128, 512), 1000: (1, 4, 16, 64)}  # sequences of a rank, by R
NUMBERS = (1, 1_000, 20_000, 50_000, 200_000, 1_000_000, 5_000_000)  # float32 numbers in an Allreduce


def run() -> None:
    """Measure, and store ranks.json and ranks.md. Raise ValueError on one rank."""
    ranks = distributed.ranks()
    if ranks.size == 1:
        raise ValueError("ranks: expected several, got 1; start with: mpiexec -n 2 python -m bench ranks")
    ranks.check_same({"command": "bench ranks"})
    with threadpool_limits(1):
        updates = [_updates(ranks, task, size) for task, sizes in SIZES.items() for size in sizes]
        compute = [_alone(ranks, size, share) for size, shares in SHARES.items() for share in shares]
        messages = [_allreduce(ranks, numbers) for numbers in NUMBERS]
    if ranks.rank == 0:
        figures = {"ranks": ranks.size, "updates": updates, "compute": compute, "allreduce": messages}
        store("ranks", figures, _table(ranks.size, updates), "fast_weights")


class _Trainer:
    """Updates of one network on a fixed batch, shared by some ranks."""

    def __init__(self, problem: Training, ranks: Ranks) -> None:
        self._ranks, count = ranks, problem.batch_size
        self._network, self._params, split, orders = network_and_data(problem)
        chosen = next(orders)
        self._inputs, self._labels = split.batch(chosen[ranks.share(count)])
        self._optimizer, self._workspace = optim.Adam(self._params), Workspace()
        self._weight = ranks.weight(count)

    def update(self) -> None:
        """Make one update."""
        train_step(
            self._network, self._params, self._optimizer, self._inputs, self._labels, 1e-4, clip_norm=5.0,
            workspace=self._workspace, ranks=self._ranks, weight=self._weight,
        )  # fmt: skip

    @property
    def numbers(self) -> int:
        """Return the number of parameters."""
        return sum(value.size for value in flatten(self._params).values())


def _updates(ranks: Ranks, task: str, size: int) -> dict[str, Any]:
    """Return the updates per second of one rank and of all ranks, in turns: medians and all turns."""
    problem = Training("fast_weights" if task == "retrieval" else "multilevel", size, task)
    alone, together = _Trainer(problem, Ranks()), _Trainer(problem, ranks)
    rates: dict[str, list[float]] = {"1 rank": [], f"{ranks.size} ranks": []}
    together.update()
    count = ranks.broadcast(max(2, int(TURN / _seconds(alone.update, 2))))
    for _ in range(ROUNDS):
        for name, trainer in zip(rates, (alone, together), strict=True):
            ranks.meet()
            if trainer is together or ranks.rank == 0:
                rates[name].append(1 / _seconds(trainer.update, count))
    ranks.meet()
    row = {"task": task, "R": size, "parameters": alone.numbers, "turns": rates}
    row["medians"] = {name: round(median(values), 1) for name, values in rates.items() if values}
    _say(ranks, row["task"], size, row["medians"])
    return row


def _alone(ranks: Ranks, size: int, share: int) -> dict[str, Any]:
    """Return the seconds of an update of this many sequences: of one rank, and of all at once, each by itself."""
    trainer = _Trainer(Training("fast_weights", size, batch_size=share), Ranks())
    trainer.update()
    count = ranks.broadcast(max(2, int(TURN / _seconds(trainer.update, 1))))
    seconds: dict[str, list[float]] = {"seconds": [], "seconds_of_all_at_once": []}
    for _ in range(3):
        ranks.meet()
        if ranks.rank == 0:
            seconds["seconds"].append(_seconds(trainer.update, count))
        ranks.meet()
        seconds["seconds_of_all_at_once"].append(max(ranks.gather(_seconds(trainer.update, count))))
    row: dict[str, Any] = {"R": size, "sequences": share, "parameters": trainer.numbers}
    row |= {name: median(values) for name, values in seconds.items() if values}
    if ranks.rank == 0:
        times = [1e3 * row[name] for name in seconds]
        print(f"R {size}, {share} sequences: {times[0]:.2f} ms an update, {times[1]:.2f} on all ranks at once")
    return row


def _allreduce(ranks: Ranks, numbers: int) -> dict[str, Any]:
    """Return the seconds of adding up a vector of float32 numbers."""
    tree = {"vector": numpy.ones(numbers, "float32")}
    ranks.any(False)
    count = ranks.broadcast(max(3, min(1000, int(TURN / _seconds(lambda: ranks.add_up(tree, 0.5), 2)))))
    own = _seconds(lambda: ranks.add_up(tree, 0.5), count)
    seconds = max(ranks.gather(own))
    _say(ranks, f"{numbers} numbers: {1e6 * seconds:.1f} µs")
    return {"numbers": numbers, "seconds": seconds}


def _seconds(function: Callable[[], Any], count: int) -> float:
    """Return the seconds of one of `count` calls."""
    started = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - started) / count


def _say(ranks: Ranks, *words: object) -> None:
    if ranks.rank == 0:
        print(*words, flush=True)


def _table(size: int, updates: list[dict[str, Any]]) -> str:
    rows = []
    for row in updates:
        one, several = row["medians"].values()
        sizes = [row["task"], row["R"], f"{row['parameters']:,}"]
        rows.append([*sizes, f"{one:.0f}", f"{several:.0f}", f"{several / one:.2f}"])
    header = ["task", "R", "parameters", "1 rank", f"{size} ranks", f"{size} ranks / 1 rank"]
    return "Updates a second, whole training, batches of 128:\n\n" + markdown(header, rows)
