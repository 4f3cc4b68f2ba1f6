"""List the tasks (python -m tasks), or train and evaluate one (python -m tasks NAME [options])."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import signal
import sys
from contextlib import ExitStack, redirect_stdout
from importlib.util import find_spec
from types import ModuleType

TASKS = {
    "retrieval": "answer c9k8j3f1??c with 9 (section 4.1, table 1)",
    "mnist": "classify handwritten digits from glimpses (section 4.2, table 2)",
    "faces": "classify facial expressions from glimpses (section 4.3, table 3)",
    "catch": "catch a ball that becomes invisible (section 4.4, figure 5)",
    "keyvalue": "retrieve the value of a key by other write rules (Schlag 2021)",
    "mqar": "retrieve the values of several keys by other write rules",
    "longrecall": "recall from beyond sliding windows by In-Place TTT (2026)",
    "text": "model characters of a text, with and without In-Place TTT",
    "fast_slow": "learn hidden conventions by contexts, by weights, or by both",
}
MISSING = 'tasks: {} is not installed; pip install -e ".[tasks]"'
USAGE = """\
usage: python -m tasks NAME [options]

{}

python -m tasks NAME --help    lists the options of a task
python -m tasks search NAME    searches settings
python -m tasks search --help  lists the options of a search
python -m tasks report RUN ...
                               writes a page about runs and their results
python -m tasks retrieval --ask c9k8j3f1??c --from RUN
                               answers from a trained run
python -m tasks explore [RUN]  shows a trained run in the browser
python -m tasks tutorial       runs the tutorial, and writes it as an HTML page

exit codes
    0  done
    1  a process of the run failed, such as an actor of catch
    2  the options, the data or the output folder cannot be used
    3  a loss, a gradient or a parameter was not finite
    4  the disk is full
    5  the output folder was deleted, or can no longer be written
    6  out of memory
    7  a search: its storage can no longer be used; finished trials are kept
  130  interrupted by Ctrl-C or SIGTERM
  141  done, but the reader of standard output closed it early
After 1, 3, 4, 5, 6 and 130 the output folder keeps its last checkpoint.
--resume FOLDER resumes from it.
"""


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit code, one of those in USAGE."""
    from .running import console

    with console.outputs() as (out, _):
        code = _run(arguments)
        out.flush()
        if out.error is None or code:
            return code
        if out.error.errno == errno.EPIPE:
            return 141
        print(f"tasks: standard output: {out.error}; everything else is done", file=sys.stderr)
        return 4


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format("\n".join(f"  {name:12} {what}" for name, what in TASKS.items())), end="")
        return 0
    name, *options = arguments
    asks = name == "retrieval" and bool({option.partition("=")[0] for option in options} & {"--ask", "--from"})
    if (asks or name in ("report", "tutorial", "explore")) and (count := _launched()):
        print(f"tasks: {name}: expected one process, got {count} ranks; start it without mpiexec", file=sys.stderr)
        return 2
    if name == "search":
        return _search(options)
    if name == "report":
        return _report(options)
    if name == "tutorial":
        return _tutorial(options)
    if name == "explore":
        return _explore(options)
    if name not in TASKS:
        print(f"tasks: unknown task {name!r}; expected one of {', '.join(TASKS)}", file=sys.stderr)
        return 2
    try:
        from threadpoolctl import threadpool_limits

        from fastweights_np import distributed, to_device

        from .running import command_line, failing_ranks, folders, machine, provenance, runs

        task = _imported(name)
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name), file=sys.stderr)
        return 2

    ranks, settings, folder, program = distributed.Ranks(), None, None, f"python -m tasks {name}"
    if asks:
        return importlib.import_module("tasks.asking").main(options, program)
    try:
        _interrupt_by_exception()
        ranks = distributed.ranks()
        ranks.check_same({"command": shlex.join(arguments)} | provenance.software())
        with ExitStack() as stack:
            if ranks.rank:  # only rank 0 prints, and writes to the folder
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            settings = ranks.first(lambda: command_line.settings_asked_for(task.Settings, options, program))
            machine.check(settings)
            settings.check_ranks(ranks.size)
            to_device({}, settings.device)  # raises before the folder is made
            data = ranks.first_then_others(lambda: task.load(settings))  # likewise
            stack.enter_context(runs.interrupts_noted())
            folder = ranks.first(lambda: stack.enter_context(folders.open_folder(settings)))
            print(f"{name}: writing to {folder}", flush=True)
            with threadpool_limits(settings.blas_threads):
                task.run(settings, folder, data)
            ranks.any(False)  # a signal must not end the others before rank 0 has drawn its pictures
            if ranks.rank == 0:
                files = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
                print(f"\nfiles: {', '.join(files)} in {folder}")
    except (Exception, KeyboardInterrupt) as error:
        return failing_ranks.ended(ranks, error, settings, folder, program)
    return 0


def _launched() -> int | None:
    """Return the number of ranks if a launcher of MPI started several."""
    from fastweights_np import distributed

    return distributed.launched()


def _imported(name: str) -> ModuleType:
    """Return the module of a task. Raise ModuleNotFoundError if a package is missing, also one for the pictures."""
    if find_spec("matplotlib") is None:  # which is imported when the first picture is drawn
        raise ModuleNotFoundError(name="matplotlib")
    return importlib.import_module(f"tasks.{name}")


def _search(options: list[str]) -> int:
    try:
        from .searching import search

        kinds = {name: _imported(name).Settings for name in TASKS}
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name), file=sys.stderr)
        return 2
    _interrupt_by_exception()
    return search.main(options, kinds)


def _explore(options: list[str]) -> int:
    try:
        from .exploring import command
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name), file=sys.stderr)
        return 2
    _interrupt_by_exception()
    return command.main(options, "python -m tasks explore")


def _report(options: list[str]) -> int:
    try:
        kinds = {name: _imported(name).Settings for name in TASKS}
        from .reporting import command

        references = importlib.import_module("bench.references")  # the only import of bench: it knows the stored runs
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name), file=sys.stderr)
        return 2
    _interrupt_by_exception()
    return command.main(options, kinds, references.of)


def _tutorial(options: list[str]) -> int:
    try:
        for package in ("autograd", "latex2mathml", "markdown_it", "mdit_py_plugins", "pygments"):
            importlib.import_module(package)
        from .teaching import command
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name).replace("tasks]", "tutorial]"), file=sys.stderr)
        return 2
    _interrupt_by_exception()
    return command.main(options, "python -m tasks tutorial")


def _end_at_once(number: int, frame: object) -> None:
    """Handle Ctrl-C and SIGTERM during imports: an imported module might catch an exception as its own failure."""
    os.write(2, b"tasks: interrupted; no folder was made\n")
    os._exit(130)


def _interrupt_by_exception() -> None:
    """Make signals raise KeyboardInterrupt from now on. Do nothing unless `_end_at_once` is the handler."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _end_at_once:
            signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end_at_once)
    code = main(sys.argv[1:])
    # after a KeyboardInterrupt within eval of a string (namedtuple calls one), Python exits by SIGINT instead of with
    # this code, even if the exception was handled; another eval resets this
    eval("0")
    sys.exit(code)
