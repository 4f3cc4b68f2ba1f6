"""python -m tasks: lists the tasks. python -m tasks NAME [options]: trains and evaluates one."""

from __future__ import annotations

import importlib
import shlex
import sys

from fastweights_np import to_device

TASKS = {
    "retrieval": "associative retrieval: c9k8j3f1??c is answered by 9 (section 4.1, table 1)",
    "mnist": "handwritten digits by glimpses (section 4.2, table 2)",
    "faces": "facial expressions by glimpses (section 4.3, table 3)",
    "catch": "agents that catch a ball which they no longer see (section 4.4, figure 5)",
}
MISSING = 'tasks: {} is not installed; pip install -e ".[tasks]"'


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 1 a part died, 2 bad settings, 3 the loss was not finite, 130 interrupted."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m tasks NAME [options]     python -m tasks NAME --help explains the options\n")
        for name, what in TASKS.items():
            print(f"  {name:12} {what}")
        print("\npython -m tasks search NAME tries settings; python -m tasks search --help explains it")
        return 0
    name, *options = arguments
    if name == "search":
        return _search(options)
    if name not in TASKS:
        print(f"tasks: unknown task {name!r}; expected one of {', '.join(TASKS)}", file=sys.stderr)
        return 2
    try:
        from threadpoolctl import threadpool_limits

        from . import runs

        task = importlib.import_module(f"tasks.{name}")
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name), file=sys.stderr)
        return 2

    program = f"python -m tasks {name}"
    try:
        settings = runs.settings_asked_for(task.Settings, options, program)
        to_device({}, settings.device)  # complains now rather than after the folder is made
        data = task.load(settings)  # likewise
        folder = runs.open_folder(settings)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
    print(f"{name}: writing to {folder}", flush=True)
    try:
        with threadpool_limits(settings.blas_threads):
            task.run(settings, folder, data)
    except (runs.Interruption, KeyboardInterrupt):
        again = shlex.join([*program.split(), "--resume", str(folder)])
        written = (
            "the checkpoint is" if (folder / "checkpoint.npz").exists() else "there was no checkpoint to write yet"
        )
        print(f"\ninterrupted; {written} in {folder}; go on with: {again}", file=sys.stderr)
        return runs.INTERRUPTED
    except FloatingPointError as error:
        print(f"tasks: {error}", file=sys.stderr)
        return runs.DIVERGED
    except runs.RunFailed as error:
        print(f"tasks: {error}", file=sys.stderr)
        return runs.FAILED
    except MemoryError as error:
        sizes = [name for name in ("batch_size", "games", "hidden_size") if hasattr(settings, name)]
        lower = " or ".join(f"--{name.replace('_', '-')}, {getattr(settings, name)}" for name in sizes)
        print(f"tasks: out of memory: {error}; lower {lower}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
    print(f"\nfiles: {', '.join(sorted(file.name for file in folder.iterdir()))} in {folder}")
    return 0


def _search(options: list[str]) -> int:
    try:
        from . import search

        kinds = {name: importlib.import_module(f"tasks.{name}").Settings for name in TASKS}
    except ModuleNotFoundError as error:
        print(MISSING.format(error.name), file=sys.stderr)
        return 2
    return search.main(options, kinds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
