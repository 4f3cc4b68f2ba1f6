"""Write a report from the command line: python -m tasks report RUN... [--out FILE.html]."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from fastweights_np import files

from ..running import failures, option_help
from ..running.runs import RunSettings
from .measures import FindReferences
from .page import page
from .reading import read

PROGRAM = "python -m tasks report"
DESCRIPTION = """\
Write one HTML page about runs of any task: results next to the paper's numbers and the stored runs, training curves,
settings, pictures and provenance. The page needs no network and no other file. It contains the folders' absolute paths
and the commands of the runs.
"""
SUFFIXES = (".html", ".htm")


def main(arguments: list[str], kinds: Mapping[str, type[RunSettings]], find: FindReferences) -> int:
    """Run a command line and return its exit code.

    kinds: the settings class of each task. find: the function that finds the references of a run.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=DESCRIPTION, allow_abbrev=False, add_help=False,
        formatter_class=option_help.Formatter,
    )  # fmt: skip
    option_help.add_help_option(parser.add_argument)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="Output folder of a run, finished or not, or of a search.",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html",
        help="File to write. It must not exist. (default: runs/report-DATE-TIME.html)",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    try:
        path = write(chosen.runs, chosen.out, kinds, find)
    except (Exception, KeyboardInterrupt) as error:
        code, sentence = failures.explained(error, None, None, PROGRAM)
        print(f"tasks: {sentence}", file=sys.stderr)
        return code
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def write(
    folders: list[Path], out: Path | None, kinds: Mapping[str, type[RunSettings]], find: FindReferences
) -> Path:  # fmt: skip
    """Write the report of these folders and return its path. Raise OSError or ValueError for a bad folder or file."""
    path = _new_file(out)
    resolved = [folder.resolve() for folder in folders]
    for folder in folders:
        if resolved.count(folder.resolve()) > 1:
            raise ValueError(f"runs: expected different folders, got {folder} more than once; name it once")
    text = page([read(folder, kinds) for folder in folders], find)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)
    return path


def _new_file(out: Path | None) -> Path:
    """Return the file that --out names, or a new default one. Raise FileExistsError or ValueError for a bad --out."""
    if out is None:
        usual = Path("runs") / time.strftime("report-%Y%m%d-%H%M%S.html")
        names = (usual if n == 1 else usual.with_stem(f"{usual.stem}-{n}") for n in count(1))
        return next(path for path in names if not path.exists())
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out: expected a file that ends in .html, got {out}; add .html to its name")
    if out.exists():
        raise FileExistsError(f"out: expected a new file, got {out}, which exists; delete it or choose another --out")
    return out
