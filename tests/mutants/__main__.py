"""Mutation testing: change one thing in the package at a time, and run the tests that cover it.

    pip install -e ".[mutants]"
    python -m tests.mutants --sample 300 --seed 0 --file optim.py

It first runs the package's tests, to see which of them covers which line. Results are kept in build/mutants, so that
the same command resumes: remove the folder to start anew. Mutants of guards (a default, a copy, a check, an error) are
in every run. equivalent.json lists by their reason the mutants that no test can notice, which are not run. Exits with 1
if any other survives.

Mutants are made in a copy of the working tree, in a process that is forked after the libraries have been imported.
Needs a system with fork (Linux, macOS).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from . import changes
from .changes import Mutant

ROOT = Path(__file__).parent.parent.parent
PACKAGE, BUILD = ROOT / "fastweights_np", ROOT / "build" / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.json")
COPIED = ("fastweights_np", "tasks", "tests", "bench", "README.md", "pyproject.toml")
# the tests that are about the package, by file
TESTS = (
    "actor_critic", "arguments", "audit", "baselines", "checkpoint", "checks", "convnet", "defaults",
    "fast_weight_programmer", "fast_weights", "files", "layers", "memory", "multilevel", "network", "ops", "optim",
    "package", "parts", "policy_gradient", "saving", "shared_arrays", "stepper", "strict_cupy", "transformer",
    "workspace",
)  # fmt: skip
# too slow to be run for one mutant; the last expects the source as it is
NOT_RUN = (
    "all_runs_on_the_device",
    "every_link_holds",
    "unbroken_copy",
    "every_mutant",
    "type_checkers",
    "user_breaks",
)
# in addition to the guards that changes.py finds: an LSTM's step that exceeds the cache
ALWAYS = ("lstm.py Buffers.__init__: self.steps",)
FORK = multiprocessing.get_context("fork")


def run_tests(arguments: list[str], log: Path, plugins: list[Any]) -> int:
    """Run pytest in this process, without the project's options, its output to a file; return its exit code."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "addopts="]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # its plugins have been imported
    return int(pytest.main([*options, *arguments], plugins))


class Coverage:
    """A pytest plugin that measures which test covers which line of the package, and how long it takes."""

    def __init__(self) -> None:
        import coverage

        self.lines = coverage.Coverage(data_file=None, source=[str(PACKAGE)])
        self.seconds: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.lines.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        self.failed += [report.nodeid] * report.failed

    def measure(self, path: Path) -> None:
        """Run all tests, and write what has been found."""
        self.lines.start()
        files = [f"tests/test_{name}.py" for name in TESTS]
        chosen = ["-k", " and ".join(f"not {name}" for name in NOT_RUN)]
        run_tests([*files, *chosen], path.with_suffix(".log"), [self])
        self.lines.stop()
        data = self.lines.get_data()
        lines = {
            Path(file).resolve().relative_to(PACKAGE).as_posix(): data.contexts_by_lineno(file)
            for file in data.measured_files() if PACKAGE in Path(file).resolve().parents
        }  # fmt: skip
        ours = {Path(name).stem for name in COPIED}
        libraries = [name for name in sys.modules if name.split(".")[0] not in ours]
        found = {"seconds": self.seconds, "failed": self.failed, "lines": lines, "libraries": libraries}
        path.write_text(json.dumps(found))


def mutated_files() -> list[Path]:
    """Return the files of the package, fast and plain; the audit is a test itself."""
    return sorted([*PACKAGE.glob("*.py"), *(PACKAGE / "plain").glob("*.py")])


def coverage_of_tests() -> dict[str, Any]:
    """Return what Coverage finds for this state of the package and its tests, measured if it is not known yet."""
    files = sorted([*mutated_files(), *(ROOT / "tests").glob("*.py")])
    path = BUILD / f"coverage-{digest(''.join(file.read_text() for file in files))}.json"
    if not path.exists():
        print("runs all tests of the package, to see which of them covers which line", flush=True)
        process = FORK.Process(target=lambda: Coverage().measure(path))
        process.start()
        process.join()
    found = json.loads(path.read_text())
    if found["failed"]:
        path.unlink()
        raise SystemExit("expected tests that pass as they are; failed: " + ", ".join(found["failed"]))
    return found


def tests_for(mutant: Mutant, covered: dict[str, Any], seconds: float) -> list[str]:
    """Return the tests that cover the mutant, the quickest first, as many as take these seconds.

    Lines that only an import or another process runs have no tests: the tests of the whole file are taken. Tests that
    run no line look at the package in another way, at its signatures for example: they always count.
    """
    lines = covered["lines"].get(mutant.file, {})
    tests = {test for line in mutant.lines for test in lines.get(str(line), ()) if test}
    tests = tests or {test for line in lines.values() for test in line if test}
    tests |= covered["seconds"].keys() - {
        test for file in covered["lines"].values() for line in file.values() for test in line
    }
    chosen: list[str] = []
    for test in sorted(tests, key=lambda test: (covered["seconds"][test], test)):
        seconds -= covered["seconds"][test]
        if seconds < 0 and chosen:
            break
        chosen.append(test)
    return chosen


def outcome(mutant: Mutant, tests: list[str], limit: float, copy: Path) -> str:
    """Return whether the tests notice the mutant, in this copy of the working tree: killed, timeout or survived."""

    def run() -> None:
        os.setsid()
        os.chdir(copy)
        sys.dont_write_bytecode = bool(mutant.key)  # of what is unchanged there is byte code, of a mutant never
        sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(ROOT)))]
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1" * bool(mutant.key), "PYTHONPATH": str(copy)}
        os._exit(run_tests(["-x", *tests], copy / "log.txt", []))

    changed = copy / PACKAGE.name / mutant.file
    if mutant.key:
        changed.write_text(mutant.source)
    process = FORK.Process(target=run)
    process.start()
    process.join(limit)
    shutil.copy2(PACKAGE / mutant.file, changed)  # with the time of its change, so that its byte code is used again
    if process.exitcode is None:
        os.killpg(process.pid, 9)
        process.join()
        return "timeout"
    return "killed" if process.exitcode else "survived"


def make_copy(copy: Path) -> None:
    """Copy what the tests need of the working tree."""
    for name in COPIED:
        source, target = ROOT / name, copy / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy2(source, target)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--file", action="append", help="a file of the package, repeatable (default: all)")
    parser.add_argument(
        "--sample", type=int, help="number of mutants taken at random, in addition to the guards (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample and the order")
    parser.add_argument("--seconds", type=float, default=10.0, help="of tests for a mutant, the quickest first")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no mutant after this time")
    options = parser.parse_args()

    reasons = {key: reason for reason, keys in json.loads(EQUIVALENT.read_text()).items() for key in keys}
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in mutated_files()}
    every = [mutant for file, text in texts.items() for mutant in changes.mutants(file, text)]
    for key in sorted(reasons.keys() - {mutant.key for mutant in every}):
        print(f"no longer exists, remove it from equivalent.json: {key}")
    chosen = [mutant for mutant in every if not options.file or mutant.file in options.file]
    guards = [mutant for mutant in chosen if mutant.guard or mutant.key.startswith(ALWAYS)]
    others = [mutant for mutant in chosen if not (mutant.guard or mutant.key.startswith(ALWAYS))]
    chosen = guards + random.Random(options.seed).sample(others, len(others))[: options.sample]

    BUILD.mkdir(parents=True, exist_ok=True)
    covered, copy, log = coverage_of_tests(), BUILD / f"copy-{os.getpid()}", BUILD / "outcomes.jsonl"
    outcomes = dict(json.loads(line) for line in log.read_text().splitlines()) if log.exists() else {}
    make_copy(copy)
    for name in covered["libraries"]:
        with contextlib.suppress(Exception):  # what pytest makes, and what asks for a GPU
            importlib.import_module(name)
    unchanged = Mutant("ops.py", "", range(1, texts["ops.py"].count("\n")), texts["ops.py"])
    for tests in (["tests", "--collect-only"], tests_for(unchanged, covered, options.seconds)):
        if outcome(unchanged, tests, 1000, copy) != "survived":
            raise SystemExit(f"expected tests that pass in {copy} while nothing is changed; see {copy / 'log.txt'}")
    end, counts = time.monotonic() + 60 * options.minutes, Counter[tuple[str, str]]()
    for mutant in chosen:
        noticed = outcomes.get(digest(mutant.source), "survived")  # what survived is tried again
        if mutant.key in reasons:
            noticed = "equivalent"
        elif noticed == "survived" and time.monotonic() < end:
            tests = tests_for(mutant, covered, options.seconds)
            noticed = outcome(mutant, tests, 10 + 5 * sum(covered["seconds"][test] for test in tests), copy)
            with open(log, "a") as file:
                print(json.dumps([digest(mutant.source), noticed]), file=file)
        elif noticed == "survived":
            noticed = "not run"
        if noticed == "survived":
            print(f"survived: {mutant.key}", flush=True)
        counts[mutant.file, noticed] += 1
        counts["all", noticed] += 1
    shutil.rmtree(copy)

    columns = ("killed", "timeout", "equivalent", "survived", "not run")
    print(f"{'':24}{'mutants':>10}" + "".join(f"{column:>12}" for column in columns))
    for file in [*sorted({mutant.file for mutant in chosen}), "all"]:
        numbers = [counts[file, column] for column in columns]
        print(f"{file:24}{sum(numbers):10}" + "".join(f"{number:12}" for number in numbers))
    return 1 if counts["all", "survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
