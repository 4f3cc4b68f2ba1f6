"""Train one model on several processes, also on several machines, over MPI. Each rank computes a share of each batch.

    ranks = fw.distributed.ranks()                          # one rank, unless mpiexec started several
    params = ranks.broadcast(params)
    mine = ranks.share(batch_size)
    loss, grads = model.loss_and_gradients(params, x[:, mine], targets[mine])
    grads = ranks.add_up(grads, ranks.weight(batch_size))   # the gradient of the mean over the whole batch
    optimizer.step(params, grads, learning_rate)            # the same on every rank

    mpiexec -n 2 python script.py

Gradients add up in one Allreduce of one vector. Every rank receives the same bits, so that parameters stay equal.
An exception that a rank does not catch ends all ranks, with its traceback. After sys.exit on one rank, the others wait.
Arrays of a GPU are passed to an MPI that reports support for CUDA, and are otherwise copied to the host and back.
mpi4py is imported only by a process that mpiexec, mpirun or srun started. Give each rank one BLAS thread:
OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from math import inf
from types import TracebackType
from typing import Any, TypeVar

import numpy

from . import checks
from .backend import Array, array_module, to_host
from .trees import flatten, unflatten

__all__ = ["Ranks", "launched", "ranks", "without_launcher"]

T = TypeVar("T")
Tree = dict[str, Any]

# variables in which launchers pass the number of ranks: MPICH, Intel MPI and srun --mpi=pmi2; Open MPI; srun --mpi=pmix
SIZES = {"PMI_SIZE": "PMI_RANK", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK", "SLURM_STEP_NUM_TASKS": "PMIX_RANK"}
LAUNCHED = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDI_")  # how the names of launchers' variables begin
INSTALL = 'pip install "fastweights-np[mpi]", or mpi4py for the MPI of your cluster'
POLL = 1e-3  # seconds between two checks
LAST_WORDS = 0.2  # seconds in which a launcher passes on what was printed; it drops the rest when ranks are aborted
COMPARED = 100  # calls of add_up whose trees are compared between ranks: a script's mistake shows in the first ones


class Ranks:
    """The processes that train together, and this one's number among them, `rank` from 0 to `size` - 1.

    All ranks must call `add_up`, `broadcast`, `first`, `any`, `gather` and the checks in the same order.
    """

    def __init__(self, communicator: Any = None) -> None:
        """Take the ranks of an mpi4py communicator; None is one rank without MPI."""
        self._mpi = communicator
        self.rank: int = 0 if communicator is None else communicator.rank
        self.size: int = 1 if communicator is None else communicator.size
        self._calls = 0  # of add_up
        if communicator is not None:
            self._meeting = communicator.Dup()  # its barrier is not mistaken for another operation
            kinds = communicator.Get_info().Get("mpi_memory_alloc_kinds") or ""
            self._takes_gpu_arrays = "cuda" in kinds

    def share(self, count: int) -> slice:
        """Return this rank's share of `count` sequences. Shares are of equal length, or nearly so."""
        checks.count("count", count, least=0)
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def weight(self, count: int) -> float:
        """Return the fraction of `count` sequences in this rank's share: the weight of its mean in the whole mean."""
        checks.count("count", count, least=1)
        mine = self.share(count)
        return (mine.stop - mine.start) / count

    def fraction(self, count: int) -> float:
        """Return count / Σ_ranks count: the weight of this rank's mean if ranks have different numbers of labels.

        All ranks must call it. For shares of sequences with one label each, `weight` is the same, without a message.
        """
        checks.count("count", count, least=0)
        total = sum(self.gather(count))
        if not total:
            raise ValueError("count: expected at least 1 on a rank, got 0 on all ranks: there is no mean")
        return count / total

    def add_up(self, tree: Tree, weight: float = 1.0) -> Tree:
        """Return Σ_ranks weight · tree for a nested dict of arrays of one dtype. All ranks get the same bits.

        Raises TypeError for what is no array, for several dtypes, and for integers with a weight other than 1. Raises
        ValueError, on every rank, if names, shapes or dtypes differ between ranks.
        """
        compared, alone = self._calls < COMPARED, self.size == 1 and weight == 1
        if alone and not compared:
            return tree
        flat = flatten(tree)
        if compared:
            self._calls += 1
            self._check(flat, weight)
        if not flat or alone:
            return tree
        names = sorted(flat)  # ranks may have built their dicts in different orders
        xp = array_module(**{name: value for name, value in flat.items() if value.ndim})
        vector = xp.concatenate([flat[name].reshape(-1) for name in names])
        if weight != 1:
            vector *= weight
        if self.size > 1:
            self._sum(vector, xp)
        summed, start = {}, 0
        for name in names:
            shape, size = flat[name].shape, flat[name].size
            summed[name] = vector[start : start + size].reshape(shape)
            start += size
        return unflatten({name: summed[name] for name in flat})

    def _check(self, flat: Tree, weight: float) -> None:
        """Raise TypeError or ValueError for a tree that cannot be added up."""
        checks.not_negative("weight", weight)
        for name, value in flat.items():
            if not hasattr(value, "dtype"):
                kind = type(value).__name__
                raise TypeError(f"tree: expected arrays, got {kind} for {name}; make an array of it")
            if weight != 1 and value.dtype.kind not in "fc":
                raise TypeError(f"tree: expected floats for weight {weight}, got {value.dtype} for {name}")
        dtypes = {str(value.dtype) for value in flat.values()}
        if len(dtypes) > 1:
            raise TypeError(f"tree: expected arrays of one dtype, got {', '.join(sorted(dtypes))}; add them up apart")
        self.check_same({f"tree: {name}": f"{flat[name].dtype} {flat[name].shape}" for name in sorted(flat)})

    def _sum(self, vector: Array, xp: Any) -> None:
        """Sum the vectors of all ranks in place."""
        from mpi4py import MPI

        if xp is numpy:
            self._mpi.Allreduce(MPI.IN_PLACE, vector)
        elif self._takes_gpu_arrays:
            xp.cuda.get_current_stream().synchronize()  # MPI does not wait for CuPy's stream
            self._mpi.Allreduce(MPI.IN_PLACE, vector)
        else:
            on_host = to_host(vector)
            self._mpi.Allreduce(MPI.IN_PLACE, on_host)
            vector[...] = xp.asarray(on_host)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value, which may be any object that can be pickled, such as a dict of NumPy arrays."""
        return self.first(lambda: value)

    def first(self, function: Callable[[], T]) -> T:
        """Call the function on rank 0 only, and return its result on every rank. Every rank raises its exception."""
        if self.size == 1:
            return function()
        if self.rank:
            value, failure = pickle.loads(self._mpi.bcast(None))
            if failure is not None:
                raise failure
            return value
        try:
            value = function()
            answer = pickle.dumps((value, None))
        except BaseException as error:  # SystemExit, too: the other ranks would wait for ever
            self._mpi.bcast(pickle.dumps((None, _picklable(error))))
            raise
        self._mpi.bcast(answer)
        return value

    def first_then_others(self, function: Callable[[], T]) -> T:
        """Call the function on rank 0, then on the others, and return each rank's result: a file is fetched once."""
        results = list[T]()
        self.first(lambda: results.append(function()))
        result = results[0] if results else function()
        self.any(False)  # wait for all
        return result

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any rank."""
        if self.size == 1:
            return flag
        from mpi4py import MPI

        return bool(self._mpi.allreduce(int(flag), op=MPI.MAX))

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        return [value] if self.size == 1 else self._mpi.allgather(value)

    def check_same(self, facts: Mapping[str, object]) -> None:
        """Raise ValueError, on every rank, if a rank has another value of a named fact than rank 0."""
        (_, first), *others = self.gather((platform.node(), dict(facts)))
        for number, (host, theirs) in enumerate(others, 1):
            for name in first | theirs:
                ours, value = first.get(name, "none"), theirs.get(name, "none")
                if value != ours:
                    raise ValueError(
                        f"{name}: expected the same on all ranks, got {ours} on rank 0 and {value} on rank {number} "
                        f"({host}); start all ranks with the same command"
                    )

    def check_equal(self, params: Tree) -> None:
        """Raise ValueError, on every rank, unless the parameters have the same bits on all ranks."""
        if self.size == 1:
            return
        self.check_same({
            name: (value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest())
            for name, value in flatten(to_host(params)).items()
        })  # fmt: skip

    def meet(self, patience: float = inf) -> bool:
        """Wait for all ranks without using a core. Return whether all call this within `patience` seconds."""
        if self.size == 1:
            return True
        request, limit = self._meeting.Ibarrier(), time.monotonic() + patience
        while not request.Test():
            if time.monotonic() > limit:
                return False
            time.sleep(POLL)
        return True

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self._mpi is None:
            raise SystemExit(code)
        time.sleep(LAST_WORDS)
        self._mpi.Abort(code)


@cache
def ranks() -> Ranks:
    """Return the ranks that mpiexec, mpirun or srun started, or one rank if this process was started without it.

    Raises RuntimeError if mpi4py is missing, or belongs to another MPI than the launcher.
    """
    wanted = launched()
    if wanted is None:
        return Ranks()
    try:
        with _default_signals():
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no library of MPI
        raise RuntimeError(f"ranks: the launcher started {wanted}, which need mpi4py ({error}); {INSTALL}") from error
    if MPI.COMM_WORLD.size != wanted:
        library = MPI.Get_library_version().splitlines()[0]
        raise RuntimeError(
            f"ranks: the launcher started {wanted}, but mpi4py sees {MPI.COMM_WORLD.size}: it uses another MPI, "
            f"{library.strip()}; take the launcher of this MPI"
        )
    found = Ranks(MPI.COMM_WORLD)
    _end_all_after_an_exception(found)
    return found


@contextmanager
def _default_signals() -> Iterator[None]:
    """Let a signal end the process at once: MPI may wait in C for a rank that never comes, where no handler runs."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    if threading.current_thread() is not threading.main_thread() or None in handlers.values():
        yield
        return
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end_all_after_an_exception(ranks: Ranks) -> None:
    """Make an exception that is not caught end all ranks: the others would wait for this one for ever."""
    hook = sys.excepthook

    def ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        hook(kind, error, trace)
        print(f"ranks: rank {ranks.rank} on {platform.node()} ended by {kind.__name__}; all end", file=sys.stderr)
        ranks.abort(1)

    sys.excepthook = ended


def _picklable(error: BaseException) -> BaseException:
    """Return the error, or one with its message if it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def launched() -> int | None:
    """Return the number of ranks, 2 or more, that a launcher of MPI started; None without a launcher."""
    for size, rank in SIZES.items():
        if size in os.environ and rank in os.environ and (count := int(os.environ[size])) > 1:
            return count
    return None


def without_launcher() -> dict[str, str]:
    """Return the environment without the variables of a launcher, for a child process that is not a rank."""
    return {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
