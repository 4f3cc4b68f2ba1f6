"""Several ranks: their calls, training that equals one process, failures, interruption and resuming."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest

import fastweights_np as fw
from bench import strict_cupy
from fastweights_np import checkpoint, distributed
from fastweights_np.trees import flatten
from tasks.__main__ import main
from tasks.running import locks
from tests.small import LENGTH, options

ROOT = Path(__file__).parent.parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec, for example of pip install mpich")
TIMEOUT = 240


def started(ranks: int, *arguments: str, undrawn: bool = True) -> subprocess.Popen[str]:
    """Start python with these arguments on several ranks."""
    return subprocess.Popen(
        [str(MPIEXEC), "-n", str(ranks), sys.executable, *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "undrawn")},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error."""
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def released(folder: Path) -> Path:
    """Return the folder when no rank holds it any more: mpiexec may end before the ranks that it kills."""
    limit = time.monotonic() + TIMEOUT
    while True:
        try:
            with locks.locked(folder):
                return folder
        except locks.FolderInUse:
            if time.monotonic() > limit:
                raise
            time.sleep(0.05)


def arrays(folder: Path) -> dict[str, numpy.ndarray]:
    """Return all arrays of a checkpoint."""
    return flatten(checkpoint.load(folder / "checkpoint.npz")[0])


@needs_mpi
def test_every_call_of_three_ranks():
    code, out, err = ended(started(3, "-m", "tests.on_ranks", "calls"))
    assert code == 0, err
    # output of the ranks is interleaved at any byte, line ends included, so words are searched for instead of lines
    assert sorted(re.findall(r"rank \d of 3 is done", out)) == [f"rank {n} of 3 is done" for n in range(3)]


@needs_mpi
def test_an_exception_in_a_script_ends_all_ranks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import fastweights_np as fw\n"
        "ranks = fw.distributed.ranks()\n"
        "if ranks.rank == 1:\n"
        "    raise ValueError('no data')\n"
        "ranks.any(True)\n"  # waits for rank 1
    )
    code, _, err = ended(started(2, str(script)))
    assert code
    assert "ValueError: no data" in err
    assert "ranks: rank 1 on " in err


def test_a_signal_ends_a_rank_that_waits_in_mpi_for_another(monkeypatch):
    """MPI's start waits in C for all ranks, where no handler of Python runs."""
    seen = []

    class Waits:
        def __getattr__(self, name):  # from mpi4py import MPI
            if name == "MPI":
                seen.append(signal.getsignal(signal.SIGTERM))
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "mpi4py", Waits())
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    distributed.ranks.cache_clear()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(RuntimeError, match="which need mpi4py"):
            distributed.ranks()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
        monkeypatch.undo()
        distributed.ranks.cache_clear()
    assert seen[0] == signal.SIG_DFL


def test_one_rank_needs_no_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    ranks, tree = distributed.Ranks(), {"a": numpy.ones(2)}
    assert distributed.ranks().size == 1
    assert ranks.share(7) == slice(0, 7)
    assert ranks.weight(7) == 1
    assert ranks.add_up(tree) is tree
    assert ranks.add_up(tree, 0.5)["a"].tolist() == [0.5, 0.5]
    assert ranks.add_up({}) == {}
    with pytest.raises(TypeError, match="expected arrays, got float for a"):
        ranks.add_up({"a": 1.5})
    with pytest.raises(TypeError, match=r"expected floats for weight 0\.5, got int64 for a"):
        ranks.add_up({"a": numpy.arange(2)}, 0.5)
    with pytest.raises(TypeError, match="expected arrays of one dtype, got float32, float64"):
        ranks.add_up({"a": numpy.ones(2), "b": numpy.ones(2, "float32")})
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        ranks.weight(0)
    assert ranks.broadcast(tree) is tree
    assert ranks.gather(3) == [3]
    assert ranks.any(True)
    assert not ranks.any(False)
    assert ranks.meet(0)
    ranks.check_same({"a": 1})
    ranks.check_equal(tree)
    with pytest.raises(ZeroDivisionError):
        ranks.first(lambda: 1 // 0)


def test_a_launcher_without_mpi4py_is_an_error_and_a_trial_is_no_rank(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    distributed.ranks.cache_clear()
    try:
        assert main(["retrieval", "--epochs", "1"]) == 2
        assert "ranks: the launcher started 2, which need mpi4py" in capsys.readouterr().err
        for command in (["report", "runs/a"], ["retrieval", "--ask", "a1??a"]):
            assert main(command) == 2
            assert "expected one process, got 2 ranks; start it without mpiexec" in capsys.readouterr().err
        assert "PMI_SIZE" not in distributed.without_launcher()
        assert "PATH" in distributed.without_launcher()
    finally:
        monkeypatch.undo()
        distributed.ranks.cache_clear()
    assert distributed.ranks().size == 1


def test_a_share_of_the_batch_and_its_weight_make_the_whole_update():
    """The sum over shares is the whole batch's update, without MPI: two objects take the place of two ranks."""

    class Two(distributed.Ranks):
        def __init__(self, rank):
            super().__init__()
            self.rank, self.size = rank, 2

    net = fw.network.Network(fw.network.TokenEncoder(5), fw.network.Classifier(3), 4)
    rng = numpy.random.default_rng(0)
    params = net.init(rng, "float64")
    tokens, labels = rng.integers(0, 5, (6, 7)), rng.integers(0, 3, 7)
    loss, grads = net.loss_and_gradients(params, tokens, labels)
    total: dict[str, numpy.ndarray] = {}
    for rank in range(2):
        two = Two(rank)
        mine = two.share(7)
        own_loss, own = net.loss_and_gradients(params, tokens[:, mine], labels[mine])
        for name, value in flatten({"loss": own_loss, "grads": own}).items():
            total[name] = total.get(name, 0) + two.weight(7) * value
    for name, value in flatten({"loss": loss, "grads": grads}).items():
        numpy.testing.assert_allclose(total[name], value, rtol=0, atol=1e-14, err_msg=name)


@needs_mpi
@pytest.mark.parametrize(
    ("task", "without", "more"),
    [
        *((task, "", "") for task in LENGTH if task not in ("text", "mqar", "fast_slow")),  # text is as longrecall
        ("mqar", "--tokens --vocabulary", "--mix --vocabulary 520"),  # sequences differ in their number of queries
        ("fast_slow", "", "--kl-weight 0.5"),
        ("fast_slow", "--rank", "--context prompt"),
    ],
)
def test_two_ranks_train_as_one_process_does(task, without, more, tmp_path):
    """The parameters are those of one process. Training itself compares their bits between ranks after each epoch."""
    command = options(task, tmp_path)
    for name in without.split():
        at = command.index(name)
        del command[at : at + 2]
    command += [*more.split(), "--dtype", "float64"]
    two = started(2, "-m", "tasks", *command, "--out", str(tmp_path / "two"))
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    code, out, err = ended(two)
    assert code == 0, err
    assert out.count("writing to") == 1
    one, both = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert one.keys() == both.keys()
    for name, value in one.items():
        numpy.testing.assert_allclose(both[name], value, rtol=0, atol=1e-12, err_msg=name)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert [result["ranks"] for result in results] == [1, 2]
    for name, value in results[0].items():
        if name.startswith("test_"):
            assert results[1][name] == pytest.approx(value, rel=0, abs=1e-12), name


@needs_mpi
@pytest.mark.parametrize("how", ["raises", "a bug", "killed"])
def test_a_rank_that_fails_ends_all_and_the_checkpoint_is_kept(how, tmp_path):
    command = [*options("retrieval", tmp_path), "--dtype", "float64"]
    folder = tmp_path / "run"
    code, _, err = ended(started(2, "-m", "tests.on_ranks", "broken", how, *command, "--out", str(folder)))
    assert code != 0
    if how != "killed":
        assert "tasks: rank 1 on " in err
        assert "on purpose" in err
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    # one process resumes what two began
    assert main(["retrieval", "--resume", str(released(folder))]) == 0
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    whole = arrays(tmp_path / "whole")
    for name, value in arrays(folder).items():
        numpy.testing.assert_allclose(value, whole[name], rtol=0, atol=1e-12, err_msg=name)


@needs_mpi
@pytest.mark.parametrize("program", [("tasks",), ("tests.on_ranks", "slow")], ids=["tasks", "on a slow disk"])
def test_sigterm_to_mpiexec_writes_a_checkpoint(program, tmp_path):
    command, folder = options("retrieval", tmp_path), tmp_path / "run"
    command[command.index("--epochs") + 1] = "100000"
    process = started(2, "-m", *program, *command, "--out", str(folder))
    limit = time.monotonic() + TIMEOUT
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 130
    assert "interrupted; the last checkpoint in " in err
    assert err.count("tasks: ") == 1
    stored = checkpoint.load(folder / "checkpoint.npz")[1]
    assert stored["ranks"] == 2
    assert stored["update"] >= 3


@needs_mpi
def test_ranks_that_were_started_differently_are_named(tmp_path):
    command = ["-m", "tasks", *options("retrieval", tmp_path)]
    process = started(1, *command, "--seed", "1", ":", "-n", "1", sys.executable, *command, "--seed", "2")
    code, _, err = ended(process)
    assert code == 2
    assert "command: expected the same on all ranks, got retrieval" in err
    assert err.count("tasks: ") == 1


@needs_mpi
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["retrieval", "--batch-size", "1"], "batch_size: expected at least an example for each of the 2 ranks, got 1"),
        (["catch", "--games", "64"], "method: expected a2c for 2 ranks, got a3c"),
        (["catch", "--games", "1", "--method", "a2c"], "games: expected at least one for each of the 2 ranks, got 1"),
        (
            ["fast_slow", "--problems", "1"],
            "problems: expected an episode of a batch for each of the 2 ranks, got 1",
        ),
        (["retrieval", "--nonsense"], "nonsense"),
    ],
)
def test_settings_that_ranks_cannot_share_are_refused_once(command, message, tmp_path):
    code, _, err = ended(started(2, "-m", "tasks", *command, "--out", str(tmp_path / "run")))
    assert code == 2
    assert err.count(message) >= 1
    assert err.count("tasks: ") <= 1
    assert not (tmp_path / "run").exists()


class Doubling:
    """A communicator of two ranks that send the same: a sum is twice the vector. It records what it was given."""

    rank, size = 0, 2

    def __init__(self, kinds: str) -> None:
        self.kinds, self.given = kinds, list[object]()

    def Dup(self) -> Doubling:  # noqa: N802
        return self

    def Get_info(self) -> Doubling:  # noqa: N802
        return self

    def Get(self, key: str) -> str | None:  # noqa: N802
        return {"mpi_memory_alloc_kinds": self.kinds}[key]

    def allgather(self, value: object) -> list[object]:
        return [value, value]

    def Allreduce(self, _: object, vector: numpy.ndarray) -> None:  # noqa: N802
        self.given.append(vector)
        vector *= 2


@pytest.mark.parametrize(("kinds", "by_way_of_the_host"), [("mpi,system", True), ("mpi,system,cuda:device", False)])
def test_arrays_of_a_gpu_are_copied_to_the_host_unless_mpi_takes_them(kinds, by_way_of_the_host, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(IN_PLACE=None)))
    with strict_cupy.installed() as cupy:
        waited = []
        stream = SimpleNamespace(synchronize=lambda: waited.append(True))
        monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: stream, raising=False)
        communicator = Doubling(kinds)
        tree = {"a": cupy.asarray(numpy.arange(3.0)), "b": {"c": cupy.asarray(numpy.ones((2, 2)))}}
        total = distributed.Ranks(communicator).add_up(tree, 0.25)
        assert type(total["a"]) is type(tree["a"])
        numpy.testing.assert_array_equal(total["a"].get(), [0, 0.5, 1])
        numpy.testing.assert_array_equal(total["b"]["c"].get(), 0.5 * numpy.ones((2, 2)))
        assert isinstance(communicator.given[0], numpy.ndarray) == by_way_of_the_host
        assert bool(waited) != by_way_of_the_host
