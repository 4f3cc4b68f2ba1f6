"""A program for several ranks, which checks their calls or breaks a run: mpiexec -n 3 python -m tests.on_ranks MODE."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time

import numpy
import pytest

from fastweights_np import distributed
from fastweights_np.trees import flatten


def calls() -> None:
    """Check every call of `Ranks`; print a line for each rank at the end."""
    ranks = distributed.ranks()
    n, size = ranks.rank, ranks.size
    assert distributed.ranks() is ranks
    shares = ranks.gather(ranks.share(10))
    assert [index for share in shares for index in range(10)[share]] == list(range(10))
    assert max(len(range(10)[share]) for share in shares) - min(len(range(10)[share]) for share in shares) <= 1
    assert abs(sum(ranks.gather(ranks.weight(10))) - 1) < 1e-15
    assert ranks.fraction(n + 1) == (n + 1) / 6
    with pytest.raises(ValueError, match="count: expected at least 1 on a rank, got 0 on all ranks"):
        ranks.fraction(0)
    rng = numpy.random.default_rng(n)
    for dtype in ("float32", "float64"):
        own = {"a": rng.standard_normal((2, 3)).astype(dtype), "b": {"c": numpy.float64(n).astype(dtype)}}
        kept = {name: value.copy() for name, value in flatten(own).items()}
        total = ranks.add_up(own, 0.5)
        assert total["b"]["c"] == 0.5 * sum(range(size))
        assert total["a"].dtype == dtype
        expected = sum(0.5 * each["a"].astype("float64") for each in ranks.gather(own))
        numpy.testing.assert_allclose(total["a"], expected, rtol=1e-6 if dtype == "float32" else 1e-15)
        ranks.check_equal(total)
        assert all((value == flatten(own)[name]).all() for name, value in kept.items())  # the argument is unchanged
    with pytest.raises(TypeError, match="tree: expected arrays of one dtype"):
        ranks.add_up({"a": numpy.ones(2), "b": numpy.ones(2, "float32")})
    assert ranks.broadcast({"n": n}) == {"n": 0}
    called = []
    assert ranks.first(lambda: called.append(n) or "result") == "result"
    assert called == ([0] if n == 0 else [])
    with pytest.raises(ZeroDivisionError):
        ranks.first(lambda: 1 // n)  # rank 0 divides by zero, and all raise
    assert ranks.first_then_others(lambda: n) == n
    assert ranks.any(n == size - 1) is True
    assert ranks.any(False) is False
    assert ranks.meet(60)
    with pytest.raises(
        ValueError, match=r"version: expected the same on all ranks, got 1.0 on rank 0 and 2.0 on rank 2"
    ):
        ranks.check_same({"same": 1, "version": 2.0 if n == 2 else 1.0})
    with pytest.raises(ValueError, match=r"params/W: expected the same on all ranks, .* on rank 1 "):
        ranks.check_equal({"params": {"W": numpy.full(3, 1.0 + 1e-15 * (n == 1))}})
    with pytest.raises(ValueError, match="odd: expected the same on all ranks, got none on rank 0 and 1 on rank 1"):
        ranks.check_same({"odd": 1} if n == 1 else {})
    with pytest.raises((AttributeError, RuntimeError, pickle.PicklingError), match=r"pickle|local object"):
        ranks.first(lambda: lambda: 0)  # a result that cannot be sent
    with pytest.raises((AttributeError, RuntimeError, pickle.PicklingError), match=r"pickle|local object"):
        ranks.broadcast(lambda: 0)
    ones = {"a": numpy.full(2, 1.0), "b": numpy.full(3, 10.0)}
    summed = ranks.add_up(dict(reversed(ones.items())) if n == 1 else ones)
    assert {name: value.tolist() for name, value in summed.items()} == {"a": [size] * 2, "b": [10 * size] * 3}
    assert ranks.add_up({"count": numpy.array(2)})["count"] == 2 * size
    for other in ({"a": numpy.ones(3)}, {"b": numpy.ones(2)}, {"a": numpy.ones(2, "float32")}):
        with pytest.raises(ValueError, match=r"tree: a: expected the same on all ranks"):
            ranks.add_up(other if n == 1 else {"a": numpy.ones(2)})
    if n == 0:
        assert not ranks.meet(0.2)
    print(f"rank {n} of {size} is done", flush=True)
    ranks._mpi.Barrier()
    ranks.abort(0)


def broken(how: str, *arguments: str) -> int:
    """Run a task whose rank 1 fails in its third update of the second epoch."""
    from tasks import __main__
    from tasks.running import training

    train_step, updates = training.train_step, 0

    def step(*arguments: object, **options: object) -> object:
        nonlocal updates
        updates += 1
        if updates == 5 and distributed.ranks().rank == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"raises": OSError("broken on purpose"), "a bug": AssertionError("a bug on purpose")}[how]
        return train_step(*arguments, **options)

    training.train_step = step
    return __main__.main(list(arguments))


def slow(*arguments: str) -> int:
    """Run a task on a disk that takes three seconds for a checkpoint."""
    from tasks import __main__
    from tasks.running import checkpoints

    save = checkpoints.save

    def saved(*given: object) -> None:
        time.sleep(3)
        save(*given)

    checkpoints.save = saved
    return __main__.main(list(arguments))


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    sys.exit({"calls": calls, "broken": broken, "slow": slow}[mode](*rest))
