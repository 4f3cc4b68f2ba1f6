"""Search settings on the validation set, by grid search or random search, as in the paper.

    python -m tasks search retrieval --grid rate=0.05,0.1,0.2 decay=0.8,0.9
    python -m tasks search retrieval --random 30 --over rate=0.02..0.5:log

All other options, such as --epochs 10, are passed to every trial. A trial is a run of the task in its own process and
folder. Its objective is its best validation negative log likelihood. Test results are not used. For catch the objective
is the mean reward over the last tenth of the run. search.json lists the number, settings, objective and folder of every
finished trial. best.json holds the best settings.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from itertools import count
from pathlib import Path
from statistics import fmean
from threading import current_thread, main_thread
from typing import Any

from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from fastweights_np.distributed import launched

from ..running import option_help, typed
from ..running.command_line import settings_asked_for
from ..running.failures import DISK_FULL, FOLDER_LOST, NO_ROOM, REFUSED
from ..running.locks import FolderInUse, locked
from ..running.provenance import provenance
from ..running.runs import FAILED, INTERRUPTED, RunFailed, RunSettings, write_json
from . import space
from .study import Search, Study
from .workers import Workers

TOP = 5  # number of best trials whose mean is reported; the paper averages its agents like this
BUDGET = ("epochs", "frames", "training_size", "validation_size", "test_size")  # settings that shorten a search's runs
STORAGE_LOST = 7  # exit code of searches only
USAGE = """\
%(prog)s TASK --grid NAME=V,V ... [options]
       %(prog)s TASK --random N --over NAME=LOW..HIGH [options]"""
EPILOG = """\
To resume a stopped search, repeat its command with --out FOLDER. Its unfinished trials resume from their checkpoints. A
larger N draws additional settings. No settings are tried twice. Only one search at a time can use a folder. Several
searches, also on several machines, can share a study with --storage URL; each needs its own folder.

exit codes: 0 done; 1 the run of a trial failed; 2 the search was refused, and nothing was lost or overwritten; 4 the
disk is full; 5 the folder cannot be read or written; 7 the study's storage can no longer be used; 130 interrupted by
Ctrl-C or SIGTERM. Finished trials are kept in every case.
"""


def main(arguments: list[str], tasks: dict[str, type[RunSettings]]) -> int:
    """Run a search from its command line and return the exit code, one of those in EPILOG."""
    chosen, options = _parser(list(tasks)).parse_known_args(arguments)
    try:
        search = _asked_for(chosen, options, tasks[chosen.task])
    except KeyboardInterrupt:
        print("\ninterrupted before the search started", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError) as error:
        print(f"tasks: {error}", file=sys.stderr)
        return REFUSED
    try:
        with _sigterm_as_ctrl_c(), locked(search.folder), closing(_opened(search, chosen)) as study:
            print(f"search: writing to {search.folder}", flush=True)
            try:
                _write_table(study)
                Workers(study, lambda: _write_table(study)).run(chosen.jobs)
            finally:
                _report(study)
        return 0
    except (ValueError, TypeError, FolderInUse) as error:
        in_use = isinstance(error, FolderInUse)
        message = f"out: {error}; wait until it ends, or choose another --out" if in_use else error
        print(f"tasks: {message}", file=sys.stderr)
        with suppress(OSError):  # the folder holds files
            search.folder.rmdir()
        return REFUSED
    except (KeyboardInterrupt, InterruptedError):
        code, message = INTERRUPTED, "interrupted"
    except RunFailed as error:
        code, message = FAILED, f"tasks: {error}"
    except OSError as error:
        code = DISK_FULL if error.errno in NO_ROOM else FOLDER_LOST
        message = f"tasks: {search.folder} cannot be read or written: {error}"
    except (SQLAlchemyError, OptunaError) as error:
        code, message = STORAGE_LOST, f"tasks: storage: cannot be used any more: {_cause(error)}"
    again = shlex.join([*arguments, *([] if chosen.out else ["--out", str(search.folder)])])
    print(f"\n{message}; resume with: python -m tasks search {again}", file=sys.stderr)
    return code


def _parser(tasks: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks search", usage=USAGE,
        description=__doc__, epilog=EPILOG, allow_abbrev=False, add_help=False, formatter_class=option_help.Formatter,
    )  # fmt: skip
    parser.add_argument_group("task").add_argument("task", choices=tasks, help="Task whose settings are searched.")
    add = parser.add_argument_group("run").add_argument
    option_help.add_help_option(add)
    add("--jobs", type=int, metavar="INT", default=1, help="Number of trials that run in parallel. (default: 1)")
    add("--prune", action="store_true", help="Stop a trial that is worse than the median at the same epoch.")
    add = parser.add_argument_group("search space").add_argument
    add("--grid", nargs="+", metavar="NAME=V,V", default=[], help="Try every combination of these values.")
    add("--random", type=int, metavar="N", help="Try N different settings, sampled from --over.")
    add(
        "--over", nargs="+", metavar="NAME=LOW..HIGH[:log]", default=[],
        help="Ranges, or lists (NAME=V,V), to sample from.",
    )  # fmt: skip
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="PATH", help="Output folder. (default: runs/search-TASK-DATE-TIME)")
    add(
        "--storage", metavar="URL",
        help="Database URL that stores the Optuna study. (default: study.db in the output folder)",
    )  # fmt: skip
    add("--study", metavar="NAME", help="Name of the study in the storage. (default: search-TASK)")
    return parser


def _asked_for(chosen: argparse.Namespace, options: list[str], kind: type[RunSettings]) -> Search:
    """Make the folder of the search and return the search. Raise ValueError or OSError for a bad command line."""
    if bool(chosen.grid) == (chosen.random is not None):
        raise ValueError("search: expected either --grid NAME=V,V ... or --random N --over NAME=LOW..HIGH ...")
    if (chosen.random is not None) != bool(chosen.over):
        raise ValueError("over: expected with --random N, and only there: --over NAME=LOW..HIGH[:log]")
    for name, value in (("jobs", chosen.jobs), ("random", chosen.random)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if (count := launched()) and chosen.storage is None:
        raise ValueError(
            f"storage: expected a database that the {count} processes of the launcher share, got none; pass --storage "
            "URL, or start one search with --jobs N"
        )
    for name in ("storage", "study"):
        if getattr(chosen, name) == "":
            raise ValueError(f"{name}: expected text, got none; leave --{name} out for the default")
    base = settings_asked_for(kind, options, f"python -m tasks {kind.task}")
    if base.resume is not None:
        raise ValueError("resume: expected none, because each trial is a separate run; --out resumes a search")
    ranges = chosen.random is not None
    varied = space.parse(chosen.over or chosen.grid, base, ranges)
    for name in varied:
        option = f"--{name.replace('_', '-')}"
        if any(word.replace("_", "-").partition("=")[0] in (option, f"--no-{option[2:]}") for word in options):
            print(f"search: {option} has no effect, because {name} is varied", file=sys.stderr)
    for name, user in space.without_effect(varied, base).items():
        print(f"search: {name} is not varied, because {user} does not use it", file=sys.stderr)
        del varied[name]
    if not varied:
        raise ValueError("search: expected a setting that has an effect on the runs, got none; vary another one")
    space.check(varied, base, ranges)
    return Search(base, options, varied, chosen.random, _folder(chosen.out, kind.task), chosen.prune)


def _folder(out: Path | None, task: str) -> Path:
    """Make the search's folder and return it. Raise ValueError if it cannot be made."""
    if out is not None and (out / "settings.json").exists():
        raise ValueError(f"out: expected a new folder, or a search's, got {out}, which holds a run; choose another")
    usual = Path("runs") / time.strftime(f"search-{task}-%Y%m%d-%H%M%S")
    for number in count(1):
        folder = out or (usual if number == 1 else usual.with_name(f"{usual.name}-{number}"))
        try:
            folder.mkdir(parents=True, exist_ok=out is not None)
            return folder
        except OSError as error:
            if out is not None or not folder.is_dir():
                message = f"out: expected a folder that can be written, got {folder}: {error}; choose another --out"
                raise ValueError(message) from error
    raise AssertionError


def _opened(search: Search, chosen: argparse.Namespace) -> Study:
    """Return the study. Raise ValueError if its storage cannot be used, or if it belongs to another search."""
    try:
        return Study(search, chosen.storage, chosen.study)
    except (SQLAlchemyError, OptunaError, ImportError, LookupError) as error:
        place = chosen.storage or search.folder / "study.db"
        raise ValueError(f"storage: expected a database that Optuna can use, got {place}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """Return the first line of the database's error message."""
    lines = str(error.__cause__ or error).splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if current_thread() is not main_thread():  # only the main thread handles signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_table(study: Study) -> None:
    """Write search.json, and best.json if a trial is complete."""
    search, best = study.search, study.best()
    found: dict[str, Any] = provenance() | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")} | search.description()
    found |= {"options": search.options, "left": study.left(), "trials": study.rows()}
    if best:
        found["best"] = best[0].params | {search.base.objective.name: best[0].value}
        found |= _mean_of_the_best(best)
        write_json(search.folder / "best.json", _to_train_with(search, best[0].params))
    write_json(search.folder / "search.json", found)


def _to_train_with(search: Search, params: dict[str, Any]) -> dict[str, Any]:
    """Return all settings except those in BUDGET, and the searched settings."""
    settings = {name: value for name, value in search.base.as_json().items() if name not in BUDGET}
    return {"task": search.base.task} | search.base.kept_places() | settings | params


def _report(study: Study) -> None:
    """Write the table, draw search.png and print the best settings."""
    _write_table(study)
    search, best = study.search, study.best()
    if left := study.left():
        print(f"\nunfinished settings: {left}")
    if not best:
        return
    objective = search.base.objective

    from .. import figures  # imports Matplotlib, which takes as long as all the rest

    figures.search(search.folder / "search.png", search.base, study.rows(), search.space)
    print(f"\nthe best of {len(best)} trials: {best[0].params}, {objective.title} {best[0].value:.5f}")
    for what, mean in _mean_of_the_best(best).items():
        print(f"{what}: {mean:.5f}")
    options = shlex.join([search.base.task, "--settings", str(search.folder / "best.json")])
    print(f"train with these settings: python -m tasks {options}")
    if own := _own_budget(search):
        print(f"This uses the task's default length and data sizes. The search used {own}, which best.json leaves out.")


def _mean_of_the_best(best: list[FrozenTrial]) -> dict[str, float]:
    top = [trial.value for trial in best[:TOP] if trial.value is not None]
    return {f"mean of the best {len(top)}": fmean(top)}


def _own_budget(search: Search) -> str:
    """Return the options in BUDGET that the search's runs used, as a command line. best.json leaves them out."""
    short = {
        field.name: getattr(search.base, field.name) for field in fields(search.base)
        if field.name in BUDGET and field.name not in search.space and getattr(search.base, field.name) != field.default
    }  # fmt: skip
    return shlex.join(typed.words(type(search.base), short))
