"""Kill runs, fill disks, damage files and input data, and count wrong outcomes: python -m bench faults.

Each kind of fault draws its cases from a seeded generator. A case survives if the program behaves as documented: it
resumes to the same bits, or raises the documented error. Anything else is wrong: another result, another exception, a
traceback. Runs are forked from this process, so that a case needs no imports. This requires a POSIX system.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from fastweights_np import checkpoint
from fastweights_np.files import UNFINISHED, write_text
from fastweights_np.trees import flatten
from tasks import catch, figures, retrieval  # noqa: F401 - forked runs do not import them again
from tasks.__main__ import TASKS, main
from tasks.running.provenance import provenance

from .report import markdown

REPORT = """# Faults

The table counts injected faults in runs, files and readers, and their outcomes. An interrupted run survives if it ends
with the same bits as an undisturbed run. A damaged input survives if it is read correctly, or refused with the
documented error. Everything else is wrong: another result, another exception, a traceback. `python -m bench faults`
repeats the measurement. A short form is a test.
"""
SHOWN = 5  # of the cases that went wrong, per kind
CRASHED = 70  # exit code of a forked run that raised
TINY = {
    "retrieval": "--hidden-size 8 --epochs 3 --batch-size 16 --training-size 320 --validation-size 50 --test-size 50",
    "catch": "--size 6 --visible 2 --hidden-size 8 --games 8 --method a2c --frames 4000 --checkpoint-every 0.01",
}
NOT_COMPARED = {
    "seconds",
    "updates_per_second",
    "frames_per_second",
    "finished",
    "command",
    "curve",
    "commit",
    "best_on_validation",
}
WRITES = ("open", "os.rename", "os.mkdir", "os.remove")  # audit events of a run's changes to its folder


@dataclass
class Tally:
    """The outcomes of the cases of one kind of fault."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)  # of cases that survived
    wrong: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return sum(self.outcomes.values()) + len(self.wrong)


@dataclass(frozen=True)
class Ended:
    """The end of a forked run: its exit code, or minus the signal's number, and its output."""

    code: int
    output: str

    @property
    def fault(self) -> str:
        """Return the fault of the run, apart from its result. Empty if there is none."""
        if "Traceback" in self.output or self.code == CRASHED:
            return f"a traceback: {self.output[-600:]}"
        return ""


def run(arguments: list[str], prepare: Callable[[], object] = lambda: None, kill_after: float | None = None) -> Ended:
    """Run `python -m tasks` with these arguments in a forked process. Kill it after `kill_after` seconds, if given."""
    with tempfile.TemporaryFile() as file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # BLAS has idle threads
            child = os.fork()
        if not child:
            code = CRASHED
            try:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                prepare()
                code = main(arguments)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        file.seek(0)
        return Ended(code, file.read().decode(errors="replace"))


# ---------------------------------------------------------------------------------------------- runs that are cut short


@cache
def undisturbed(task: str) -> tuple[dict[str, Any], float]:
    """Return the result and checkpoint of an undisturbed run, and its seconds."""
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        ended = run([task, *TINY[task].split(), "--out", f"{place}/run"])
        if ended.code:
            raise RuntimeError(f"{task}: expected an undisturbed run to end with code 0: {ended}")
        return left(Path(place) / "run"), time.perf_counter() - started


def left(folder: Path) -> dict[str, Any]:
    """Return the result and the checkpoint's arrays of a finished run, without times."""
    result = json.loads((folder / "result.json").read_text("utf-8"))
    arrays, _ = checkpoint.load(folder / "checkpoint.npz")
    bits = {name: array.tobytes() for name, array in flatten(arrays).items()}
    return {name: value for name, value in result.items() if name not in NOT_COMPARED} | bits


def finish(task: str, folder: Path) -> tuple[str, str]:
    """Finish a disturbed run as a user would. Return (how it survived, the fault)."""
    if (folder / "settings.json").exists():
        again, how = [task, "--resume", str(folder)], "resumed"
    else:  # it was killed before it wrote its settings
        folder = folder.with_name("another") if folder.exists() and any(folder.iterdir()) else folder
        again, how = [task, *TINY[task].split(), "--out", str(folder)], "begun again"
    ended = run(again)
    if ended.fault or ended.code:
        return "", ended.fault or f"{' '.join(again)} ended with code {ended.code}: {ended.output[-600:]}"
    found, expected = left(folder), undisturbed(task)[0]
    odd = [name for name in expected if found.get(name) != expected[name]]
    unfinished = [path.name for path in folder.iterdir() if UNFINISHED in path.name]
    if odd or unfinished:
        return "", f"{how}, and differs in {', '.join(odd)}; left behind: {', '.join(unfinished)}"
    return f"{how}, the same bits", ""


def of_runs(disturb: Callable[[str, Path, random.Random], Ended], tally: Tally, rng: random.Random) -> None:
    """Run one case: disturb a run, then finish it."""
    task = rng.choice(list(TINY))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        ended = disturb(task, folder, rng)
        how, wrong = ("", ended.fault) if ended.fault else finish(task, folder)
    if wrong:
        tally.wrong.append(f"{task}: {wrong}")
    else:
        tally.outcomes[how] += 1


def killed(task: str, folder: Path, rng: random.Random) -> Ended:
    """Kill a run (kill -9) at a random time."""
    seconds = rng.uniform(0, undisturbed(task)[1])
    return run([task, *TINY[task].split(), "--out", str(folder)], kill_after=seconds)


def at_a_call(task: str, folder: Path, rng: random.Random, do: Callable[[], object]) -> Ended:
    """Call `do` when the run opens, renames, makes, removes or syncs a file in its folder for the n-th time."""
    count = rng.randrange(1, 60)

    def prepare() -> None:
        seen = 0

        def count_down() -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                do()

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in WRITES and str(folder) in str(arguments[0]):
                count_down()

        def fsync(descriptor: int, sync: Callable[[int], None] = os.fsync) -> None:
            count_down()
            sync(descriptor)
            count_down()

        sys.addaudithook(hook)
        os.fsync = fsync  # type: ignore[assignment]

    return run([task, *TINY[task].split(), "--out", str(folder)], prepare)


def crashed(task: str, folder: Path, rng: random.Random) -> Ended:
    """Kill a run (kill -9) at a random system call."""
    return at_a_call(task, folder, rng, lambda: os.kill(os.getpid(), signal.SIGKILL))


def refused_by_disk(task: str, folder: Path, rng: random.Random) -> Ended:
    """Raise the error of a full, over-quota, broken or read-only disk at a random system call."""
    number = rng.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    return at_a_call(task, folder, rng, refuse)


def filled_disk(task: str, folder: Path, rng: random.Random) -> Ended:
    """Limit the size of all files to a random number of bytes."""
    size = int(10 ** rng.uniform(1, 5))

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return run([task, *TINY[task].split(), "--out", str(folder)], prepare)


# -------------------------------------------------------------------------------------------------------- damaged files


def small_checkpoint(path: Path) -> bytes:
    """Write a checkpoint with arrays of several shapes and dtypes, so that most of it is headers. Return its bytes."""
    rng = numpy.random.default_rng(0)
    params = {f"layer{n}": {name: rng.standard_normal((n, 2)).astype("float32") for name in "WCb"} for n in range(9)}
    checkpoint.save(path, {"params": params, "counts": numpy.arange(3)}, {"settings": {"rate": 0.5}, "update": 3})
    return path.read_bytes()


def damage(tally: Tally, path: Path, copies: Iterator[bytes]) -> None:
    """Try each copy: loading it must raise CheckpointError."""
    for copy in copies:
        path.write_bytes(copy)
        try:
            checkpoint.load(path)
        except checkpoint.CheckpointError:
            tally.outcomes["CheckpointError"] += 1
        except BaseException as error:
            tally.wrong.append(f"{type(error).__name__}: {error}")
        else:
            tally.wrong.append("loaded")


def flipped(content: bytes) -> Iterator[bytes]:
    """Yield copies with one flipped bit each, for every bit of the file."""
    for place in range(len(content)):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def cut(content: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """Yield truncations at every length, then truncations that also lost or repeated a piece in the middle."""
    for length in range(min(len(content), count)):
        yield content[:length]
    for _ in range(count - len(content)):
        first, second = sorted(rng.sample(range(len(content)), 2))
        yield content[:first] + content[second : rng.randrange(second, len(content) + 1)]


# ------------------------------------------------------------------------------------------------------------- settings

SPLICES = (
    b"NaN", b"1e999", b"-1", b"null", b"true", b'"False"', b"[]", b"{}", b"\xff", b"\x00", b'"seed": 1,', b"9" * 400,
    b"'", b"\\u0000", "λ".encode(), b"1.5", b'"lstm"', b"[" * 3000,
)  # fmt: skip


def settings_text(content: bytes, rng: random.Random) -> bytes:
    """Return a settings file with some bytes lost, repeated, changed or replaced."""
    text = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        start = rng.randrange(len(text) + 1)
        stop = min(len(text), start + int(rng.expovariate(0.15)))
        text[start:stop] = rng.choice(
            [b"", bytes(text[start:stop]) * 2, rng.randbytes(stop - start), rng.choice(SPLICES)]
        )
    return bytes(text)


def fuzz_settings(tally: Tally, count: int, rng: random.Random) -> None:
    """Read `count` damaged settings files. Each must give valid settings, or an error that names its path."""
    import importlib

    from tasks.running.runs import settings_from

    kinds = {name: importlib.import_module(f"tasks.{name}").Settings for name in TASKS}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "settings.json"
        for _ in range(count):
            task = rng.choice(list(kinds))
            whole = json.dumps({"task": task, "command": "python -m tasks"} | kinds[task]().as_json(), indent=1)
            path.write_bytes(settings_text(whole.encode(), rng))
            try:
                settings = settings_from(path, kinds[task], settings=path)
            except (ValueError, OSError) as error:
                if str(path) in str(error):
                    tally.outcomes["refused"] += 1
                else:
                    tally.wrong.append(f"the message names no file: {error}")
            except BaseException as error:
                tally.wrong.append(f"{type(error).__name__}: {error} for {path.read_bytes()[:300]!r}")
            else:
                odd = [
                    name for name, value in settings.as_json().items() if isinstance(value, float) and value != value
                ]
                if odd:
                    tally.wrong.append(f"taken, with nan for {', '.join(odd)}")
                else:
                    tally.outcomes["taken"] += 1


# ------------------------------------------------------------------------------------------------------------- readers


def fuzz_readers(count: int, seed: int) -> Iterator[Tally]:
    """Try `count` damaged inputs for each reader of data."""
    from . import faults_readers

    for name in faults_readers.READERS:
        tally, rng = Tally(f"reader of {name}"), numpy.random.default_rng([seed, *name.encode()])
        for _ in range(count):
            with tempfile.TemporaryDirectory() as place:
                try:
                    tally.outcomes[faults_readers.attack(name, Path(place), rng)] += 1
                except faults_readers.Wrong as error:
                    tally.wrong.append(str(error))
        yield tally


# ------------------------------------------------------------------------------------------------------------ the whole

DISTURBANCES = {"kills": killed, "crashes": crashed, "refusing disk": refused_by_disk, "full disk": filled_disk}
# default number of cases of each kind; bit flips always include every bit, more than 60,000
COUNTS = {
    "kills": 100, "crashes": 100, "refusing disk": 60, "full disk": 60, "bit flips": 60_000, "truncations": 14_000,
    "settings": 20_000, "readers": 20_000,
}  # fmt: skip


def attack(kind: str, count: int, seed: int) -> Iterator[Tally]:
    """Try `count` cases of a kind of fault and yield the tallies. Bit flips include every bit, whatever the count."""
    rng = random.Random(f"{seed} {kind}")
    if kind == "readers":
        yield from fuzz_readers(count, seed)
        return
    tally = Tally(kind)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "checkpoint.npz"
        if kind == "bit flips":
            damage(tally, path, flipped(small_checkpoint(path)))
        elif kind == "truncations":
            damage(tally, path, cut(small_checkpoint(path), count, rng))
        elif kind == "settings":
            fuzz_settings(tally, count, rng)
        else:
            for _ in range(count):
                of_runs(DISTURBANCES[kind], tally, rng)
    yield tally


def measure(kinds: list[str], count: int | None, seed: int, report: Path | None) -> int:
    """Try the faults, print the outcomes, and write the table if a file is given. Return the number of wrong cases."""
    rows, wrong = [], 0
    for kind in kinds or list(COUNTS):
        started = time.perf_counter()
        for tally in attack(kind, count or COUNTS[kind], seed):
            seconds, started = time.perf_counter() - started, time.perf_counter()
            outcomes = ", ".join(f"{number:,} {how}" for how, number in tally.outcomes.most_common())
            rows.append([tally.name, f"{tally.tried:,}", outcomes, len(tally.wrong), f"{seconds:.0f} s"])
            wrong += len(tally.wrong)
            print(
                f"{tally.name}: {tally.tried:,} tried, {len(tally.wrong)} wrong; {outcomes} ({seconds:.0f} s)",
                flush=True,
            )
            for what in tally.wrong[:SHOWN]:
                print(f"  {what}", flush=True)
    if report is not None:
        origin = provenance()
        about = f"`{origin['command']}`, commit {origin['commit'][:7]}, {origin['machine']}, Python {origin['python']}"
        table = markdown(["fault", "tried", "survived", "wrong", "time"], rows)
        write_text(report, f"{REPORT}\n{table}\n{about}, {time.strftime('%Y-%m-%d')}.\n")
    return wrong
