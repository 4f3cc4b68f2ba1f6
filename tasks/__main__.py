"""List the tasks (python -m tasks), or train and evaluate one (python -m tasks NAME [options])."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from importlib.util import find_spec
from types import ModuleType

TASKS = {
    "retrieval": "answer c9k8j3f1??c with 9 (section 4.1, table 1)",
    "mnist": "classify handwritten digits from glimpses (section 4.2, table 2)",
    "faces": "classify facial expressions from glimpses (section 4.3, table 3)",
    "catch": "catch a ball that becomes invisible (section 4.4, figure 5)",
    "keyvalue": "retrieve the value of a key by other write rules (Schlag 2021)",
    "mqar": "retrieve the values of several keys by other write rules",
}
MISSING = 'tasks: {} is not installed; pip install -e ".[tasks]"'
USAGE = """\
usage: python -m tasks NAME [options]

{}

python -m tasks NAME --help    lists the options of a task
python -m tasks search NAME    searches settings
python -m tasks search --help  lists the options of a search
python -m tasks retrieval --ask c9k8j3f1??c --from RUN
                               answers from a trained run

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
    if name == "search":
        return _search(options)
    if name not in TASKS:
        print(f"tasks: unknown task {name!r}; expected one of {', '.join(TASKS)}", file=sys.stderr)
        return 2
    try:
        from threadpoolctl import threadpool_limits

        from fastweights_np import to_device

        from .running import command_line, failures, folders, machine, runs

        task = _imported(name)
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name), file=sys.stderr)
        return 2

    settings, folder, program = None, None, f"python -m tasks {name}"
    if name == "retrieval" and {option.partition("=")[0] for option in options} & {"--ask", "--from"}:
        return importlib.import_module("tasks.asking").main(options, program)
    try:
        _interrupt_by_exception()
        settings = command_line.settings_asked_for(task.Settings, options, program)
        machine.check(settings)
        to_device({}, settings.device)  # raises before the folder is made
        data = task.load(settings)  # likewise
        with runs.interrupts_noted(), folders.open_folder(settings) as folder:
            print(f"{name}: writing to {folder}", flush=True)
            with threadpool_limits(settings.blas_threads):
                task.run(settings, folder, data)
            files = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
            print(f"\nfiles: {', '.join(files)} in {folder}")
    except (Exception, KeyboardInterrupt) as error:
        code, sentence = failures.explained(error, settings, folder, program)
        print(f"tasks: {sentence}", file=sys.stderr)
        return code
    return 0


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
