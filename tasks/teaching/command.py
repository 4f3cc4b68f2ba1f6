"""The command line of the tutorial: python -m tasks tutorial [CHAPTER] [--out FILE] [--store]."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from fastweights_np.files import write_text

from . import chapters, page

INTRODUCTION = chapters.FOLDER / "README.md"


def main(arguments: list[str], program: str) -> int:
    """Run a command line and return its exit code: 1 if a chapter raises an exception, 2 for a bad option."""
    paths = chapters.paths()
    parser = argparse.ArgumentParser(
        prog=program, allow_abbrev=False,
        description="Run the tutorial in docs/tutorial, and write it as one HTML page that needs no network.",
    )  # fmt: skip
    numbers = range(1, len(paths) + 1)
    parser.add_argument(
        "chapter", nargs="?", type=int, choices=numbers, help="run this chapter alone, print what it prints, no page"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tutorial.html"), help="the page; runs/tutorial.html")
    parser.add_argument("--store", action="store_true", help="write outputs and figures into docs/tutorial, no page")
    asked = parser.parse_args(arguments)
    if asked.chapter:
        paths = paths[asked.chapter - 1 : asked.chapter]
    try:
        if asked.store:
            for path in paths:
                chapters.store(path)
        elif asked.chapter:
            for block in chapters.run(paths[0]):
                print(block.printed, end="", flush=True)
        else:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(asked.out, page.page(paths, INTRODUCTION.read_text("utf-8")))
            print(f"open {asked.out} in a browser")
    except OSError as error:
        print(f"tasks: out: expected files that can be written: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0
