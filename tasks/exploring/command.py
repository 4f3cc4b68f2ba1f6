"""Open the explorer by a command line: python -m tasks explore [RUN]."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from . import networks, server

NEEDED = ("marimo", "uvicorn")
MISSING = 'tasks: {} is not installed; pip install -e ".[explore]"'
EPILOG = """\
The page shows h, the scores over the past, A and the answer, for every time step and inner step. λ, η and S can be
changed. A run of retrieval takes a string. A run of mnist or faces takes an image of its test set. A run of catch plays
a game. The page is served to this machine alone, and loads nothing from a network.
"""


def main(arguments: list[str], program: str) -> int:
    """Serve the page until Ctrl-C. Return an exit code if it cannot be served."""
    parser = argparse.ArgumentParser(
        prog=program, description="Show a trained network in the browser, step by step.", epilog=EPILOG,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "run", nargs="?", type=Path, default=networks.SHIPPED, metavar="RUN",
        help="output folder of a run with fast weights (default: the network in examples/models/retrieval-R50)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    asked = parser.parse_args(arguments)
    for name in NEEDED:
        if find_spec(name) is None:
            print(MISSING.format(name), file=sys.stderr)
            return 2
    try:
        server.serve(networks.load(asked.run), asked.port, browser=not asked.no_browser)
    except (OSError, ValueError) as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
