"""python -m bench add FOLDER ...: stores finished runs in bench/results. python -m bench paper: the paper's tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import paper, results


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser("add", help="store the results of finished task runs in bench/results")
    add.add_argument("folders", type=Path, nargs="+", help="output folders of python -m tasks")
    add.add_argument("--replace", action="store_true", help="put a run in the place of one that is stored already")
    add.add_argument("--group", default="", help="a name for runs that are not meant for the paper's tables")
    commands.add_parser("paper", help="make the paper's tables and figures from bench/results")
    if not arguments:
        parser.print_help()
        return 0
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "add":
            for folder in chosen.folders:
                print(results.add(folder, chosen.group, chosen.replace))
        else:
            print(paper.make())
            print(f"in {results.STORE}: table1.md, table1.png")
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
