"""Write the text of --help: a task's options in groups, each with its docstring, default value and layers."""

from __future__ import annotations

import argparse
import ast
import inspect
import shutil
import textwrap
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .layers import TAKES
from .runs import RunSettings

GROUPS = {
    "run": ("settings", "resume", "seed", "device", "dtype", "threads"),
    "data": (
        "data", "data_dir", "variant", "pairs", "gap", "context", "digits", "base_seed", "base_updates", "keys",
        "repeat", "tokens", "mix", "vocabulary", "training_size", "validation_size", "test_size", "keep_duplicates",
        "patch", "shift", "mirror",
        "glimpse_type", "size", "visible", "paddle_width", "paddle_start",
    ),
    "network": (
        "layer", "hidden_size", "window", "layer_norm", "recurrent_scale", "forget_bias", "shared_value",
        "recurrent_value", "convolution", "wipe", "integrate", "initial",
    ),
    "memory": (
        "feature_map", "written", "chunk", "across", "decay", "rate", "inner_steps", "normalize_preliminary", "copies",
        "heads",
    ),
    "optimization": (
        "method", "contexts", "rank", "context_scale", "feedback", "interleave", "tasks", "second",
        "restart", "episodes", "problems", "rollouts", "actors", "games", "frames", "steps", "epochs", "patience",
        "batch_size", "optimizer", "learning_rate", "fast_learning_rate", "warmup", "schedule", "hold", "clip_norm",
        "clip", "kl_weight", "weight_decay", "dropout", "best_by", "discount", "value_weight", "entropy_weight",
    ),
    "output": ("out", "checkpoint_every", "evaluate_every", "test_curve", "generalize"),
}  # fmt: skip
EPILOG = "An option that the chosen layer does not use is refused, unless it has its default value."
METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
WIDEST = 100  # columns: longer lines are hard to read


class Formatter(argparse.HelpFormatter):
    """Fill paragraphs, except indented ones, to the terminal's width. Never split a word: option names have hyphens."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=min(shutil.get_terminal_size().columns, WIDEST) - 2)

    def _split_lines(self, text: str, width: int) -> list[str]:
        words = " ".join(text.split()).replace("default: ", "default:\0")  # no line break there
        lines = textwrap.wrap(words, width, break_on_hyphens=False, break_long_words=False)
        return [line.replace("\0", " ") for line in lines]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            part if part.startswith(" ") else "\n".join(self._split_lines(part, width)) for part in paragraphs
        )


def text(settings: RunSettings, program: str) -> str:
    """Return the help of a task. The defaults that it lists are the values of `settings`."""
    kind, docs = type(settings), documented(type(settings))
    parser = argparse.ArgumentParser(
        prog=program, usage="%(prog)s [options]", description=inspect.getdoc(kind), epilog=EPILOG,
        formatter_class=Formatter, add_help=False,
    )  # fmt: skip
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        if title == "run":
            add_help_option(group.add_argument)
        for name in names:
            if name in docs and (layers := _layers_with(name, kind)) is not None:
                doc = f"{docs[name]} ({layers}default: {getattr(settings, name)})"
                _add(group, name, doc.replace("%", "%%"), kind)
    return parser.format_help()


def documented(kind: type[RunSettings]) -> dict[str, str]:
    """Return the docstring below each field of a settings class and its bases."""
    return {name: doc for each in reversed(kind.__mro__[:-1]) for name, doc in _docstrings(each).items()}


@cache
def _docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each field of one class, read from its source."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): ast.literal_eval(doc.value)
        for field, doc in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr)
    }


def add_help_option(add: Callable[..., Any]) -> None:
    """Add -h and --help by the `add_argument` of a parser or of a group of its arguments."""
    add("-h", "--help", action="help", help="Show this help and exit.")


def _layers_with(name: str, kind: type[RunSettings]) -> str | None:
    """Return "LAYER, LAYER; " for an option that some of the task's layers use, "" for all, None for none of them."""
    if not any(name in names for takes in TAKES.values() for names in takes):
        return ""
    layers = get_args(get_type_hints(kind)["layer"])
    users = [layer for layer in layers if any(name in names for names in TAKES[layer])]
    return f"for {', '.join(users)}; " if users else None


def _add(group: Any, name: str, doc: str, kind: type[RunSettings]) -> None:
    option, hint = name.replace("_", "-"), get_type_hints(kind)[name]
    if hint is bool:
        group.add_argument(f"--{option}", f"--no-{option}", action="store_true", help=doc)
        return
    given = [each for each in get_args(hint) if each is not NoneType] or [hint]
    choices = get_args(hint) if get_origin(hint) is Literal else ("True", "False") if bool in given else ()
    metavar = f"{{{','.join(choices)}}}" if choices else METAVARS[given[0]]
    group.add_argument(f"--{option}", metavar=metavar, help=doc)
