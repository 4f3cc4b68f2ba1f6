"""Read the settings of a run from a command line."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import tyro

from . import option_help
from .console import spelled
from .runs import RunSettings, settings_from, settings_of


def settings_asked_for(kind: type[RunSettings], arguments: list[str], program: str) -> RunSettings:
    """Return the settings of a command line. The settings of --resume or --settings are its defaults.

    Print the help for --help, and exit. Exit with a message for an invalid command line. Raise OSError or ValueError
    for a bad file.
    """
    sources, others = _sources(arguments, program)
    stored = _stored(kind, sources)
    if "-h" in arguments or "--help" in arguments:
        print(option_help.text(stored, program), end="")
        raise SystemExit(0)
    _refuse_symbols(kind, arguments)
    asked = tyro.cli(kind, args=arguments, prog=program, default=stored) if others else stored
    if sources.resume is None:
        return asked
    if getattr(asked, kind.length) > getattr(stored, kind.length):
        asked = replace(asked, resume=None, continues=asked.resume)
        stored = replace(stored, **{kind.length: getattr(asked, kind.length)})
    asked.check_resumed(stored.as_json(), sources.resume / "settings.json")
    return asked


def _refuse_symbols(kind: type[RunSettings], arguments: list[str]) -> None:
    """Raise ValueError for an option that is a symbol of the paper, such as --eta or -S. It names the right option.

    The docstrings of settings begin with their symbol: "η, the learning rate ..." or "N. The screen ...".
    """
    symbols = {}
    for name, doc in option_help.documented(kind).items():
        if found := re.match(r"(\w)[,.] ", doc):
            symbols[spelled(found[1], "ascii")] = found[1], f"--{name.replace('_', '-')}"
    for word in arguments:
        name = spelled(word.partition("=")[0].lstrip("-"), "ascii")
        if word.startswith("-") and name in symbols:
            symbol, option = symbols[name]
            raise ValueError(f"{symbol}: expected the option {option}, got {word}; use {option}")


def _sources(arguments: list[str], program: str) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that name the source of the other options' defaults, --resume and --settings, and the rest."""
    parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    for option in ("--resume", "--settings"):
        parser.add_argument(option, type=lambda text: None if text == "None" else Path(text))
    return parser.parse_known_args(arguments)


def _stored(kind: type[RunSettings], sources: argparse.Namespace) -> RunSettings:
    """Return the settings that --resume or --settings names, the task's defaults without these options."""
    if sources.resume is not None:
        if sources.settings is not None:
            raise ValueError(
                "settings: expected none with --resume, which uses the settings of its run; leave --settings out"
            )
        return settings_of(sources.resume, kind)
    if sources.settings is None:
        return kind()
    if not sources.settings.is_file():
        raise FileNotFoundError(f"settings: expected a file of settings, such as best.json; none at {sources.settings}")
    return settings_from(sources.settings, kind, settings=sources.settings)
