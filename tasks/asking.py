"""Ask a trained retrieval network: python -m tasks retrieval --ask "q8c9m8o2??m" --from RUN."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy

from fastweights_np import ops

from . import retrieval
from .running import trained

EXAMPLE = "such as q8c9m8o2??m"
SHOWN = 3  # most probable answers


def main(arguments: list[str], program: str) -> int:
    """Answer by a command line, and return its exit code."""
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    parser.add_argument(
        "--ask", required=True, help=f"pairs of a letter and a digit, ??, one of the letters: {EXAMPLE}"
    )
    parser.add_argument("--from", required=True, type=Path, dest="run", help="output folder, or its checkpoint.npz")
    asked = parser.parse_args(arguments)
    try:
        found = probabilities(asked.run, asked.ask)
    except (OSError, ValueError) as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
    first, *others = (f"{digit} ({found[digit]:.1%})" for digit in numpy.argsort(-found)[:SHOWN])
    print(f"{asked.ask} -> {first}, then {', '.join(others)}")
    return 0


def probabilities(run: Path, text: str) -> numpy.ndarray:
    """Return the probability of each digit (10,). Raise OSError or ValueError for a bad run or string.

    A note on standard error says that a run is not finished.
    """
    tokens = tokens_of(text)
    found = trained.load(run, "from", retrieval.Settings, retrieval.network)
    if found.note:
        print(f"tasks: {found.note}", file=sys.stderr)
    logits, _ = found.network.forward(found.params, tokens)
    return softmax(logits)[0]


def softmax(logits: numpy.ndarray) -> numpy.ndarray:
    """Return the probabilities (B, classes) of logits (B, classes)."""
    _, found = ops.softmax_cross_entropy(logits, numpy.zeros(len(logits), int))
    return found


def tokens_of(text: str) -> numpy.ndarray:
    """Return the tokens (2 K + 3, 1) of a string of the task, for any K. Raise ValueError for another string."""
    if not re.fullmatch(r"([a-z][0-9])+\?\?[a-z]", text):
        raise ValueError(f"ask: expected pairs of a letter a-z and a digit, ??, one letter, {EXAMPLE}; got {text!r}")
    letters, asked = text[:-3:2], text[-1]
    if len(set(letters)) < len(letters):
        raise ValueError(f"ask: expected different letters before ??, {EXAMPLE}; got {text!r}")
    if asked not in letters:
        raise ValueError(f"ask: expected one of {', '.join(letters)} after ??, got {asked!r}")
    return numpy.array([[retrieval.TOKENS.index(each)] for each in text])
