"""One number of DERIVATION.md: its paragraph, the lines that cite it, the errors of what depends on it, its mutants."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..network import LAYERS
from .links import table
from .mutants import MUTANTS, PACKAGE, Mutant, caught_by
from .run import run

EQUATIONS = range(1, 6)  # of the paper
PARAGRAPH = re.compile(r"\*\*\(([A-Z]\d+)\)")
# the subjects in the table of files that are not a layer's own
SUBJECTS = {
    "memory": ("fast_weights", "multilevel"), "inner_loop": ("fast_weights", "multilevel"),
    "recurrent": tuple(LAYERS), "losses": ("ops", "what has no time"), "ops": ("ops", "what has no time"),
    "backend": ("ops",),
}  # fmt: skip


class Citation(NamedTuple):
    """Lines first .. last of a file of the package, counted from 1, that a number belongs to."""

    path: Path
    first: int
    last: int

    def __str__(self) -> str:
        lines = self.path.read_text().splitlines()[self.first - 1 : self.last]
        return "\n".join([f"{self.path.relative_to(PACKAGE)}:{self.first}", *lines])

    def holds(self, mutant: Mutant) -> bool:
        """Whether the mutant changes one of these lines."""
        text = self.path.read_text()
        if mutant.file != self.path.relative_to(PACKAGE).as_posix() or mutant.line not in text:
            return False
        line = text[: text.index(mutant.line) + len(mutant.line) - len(mutant.line.lstrip())].count("\n") + 1
        return self.first <= line <= self.last


def numbers() -> str:
    """Return all numbers, a line each: the number, and the first line of its paragraph."""
    derived = [f"{number:12}{_paragraph(number).splitlines()[0]}" for number in _derived()]
    equations = [f"equation-{n:<3}{_equation(str(n)).splitlines()[0].strip()}" for n in EQUATIONS]
    return "\n".join([*equations, *derived])


def explain(number: str, device: str) -> int:
    """Print what belongs to a number; return 0 if every row holds and every mutant is caught, else 1.

    Raises ValueError for a number that is not known.
    """
    key = number.removeprefix("equation-")
    if number in [f"equation-{n}" for n in EQUATIONS]:
        paragraph = _equation(key)
    elif number in _derived():
        paragraph = _paragraph(number)
    else:
        raise ValueError(f"number: expected one that --list names, such as F6 or equation-2, got {number!r}")
    plain = list(_citations(key, sorted((PACKAGE / "plain").glob("*.py"))))
    fast = list(_citations(key, sorted(PACKAGE.glob("*.py"))))
    print(paragraph)
    for title, cited in (("plain", plain), ("fast", fast)):
        print(f"\n--- {title}\n")
        print("\n\n".join(map(str, cited)))

    subjects = {subject for each in fast for subject in SUBJECTS.get(each.path.stem, (each.path.stem,))}
    links = [link for link in run(device, layers=_layers(subjects)) if link.subject in subjects]
    print(f"\n--- errors of what depends on it ({device})\n\n{table(links)}")
    print("\n--- mutants of these lines\n")
    escaped = _print_mutants([*plain, *fast])
    return 1 if escaped or not all(link.passed for link in links) else 0


def _layers(subjects: set[str]) -> tuple[str, ...]:
    return tuple(layer for layer in LAYERS if layer in subjects) or ("fast_weights",)


def _print_mutants(cited: list[Citation]) -> int:
    """Print each mutant of these lines with the row that catches it; return how many escape."""
    escaped, chosen = 0, [name for name, mutant in MUTANTS.items() if any(each.holds(mutant) for each in cited)]
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            caught = caught_by(MUTANTS[name], Path(folder))
        escaped += not caught
        how = f"caught by {caught[0].title}, {caught[0].subject}: {caught[0].worst:.1e}" if caught else "NOT CAUGHT"
        print(f"{name}: {how}", flush=True)
    if not chosen:
        print("none of the mutants changes one of these lines; the audit's tests have mutants of the lines around them")
    return escaped


def _derivation() -> str:
    return (PACKAGE / "DERIVATION.md").read_text()


def _derived() -> list[str]:
    return PARAGRAPH.findall(_derivation())


def _paragraph(number: str) -> str:
    """Return the derivation from this number to the next number, or section."""
    lines = _derivation().splitlines()
    start = next(n for n, line in enumerate(lines) if f"**({number})**" in line or f"**({number}) " in line)
    text = [lines[start]]
    for line in lines[start + 1 :]:
        if line.startswith("#") or PARAGRAPH.search(line) or (line.strip() and line.startswith("**")):
            break
        text.append(line)
    return "\n".join(text).strip()


def _equation(number: str) -> str:
    """Return the lines of the plain layer's docstring that have this equation's number."""
    sources = [(PACKAGE / "plain" / "fast_weights.py").read_text(), (PACKAGE / "memory.py").read_text()]
    patterns = rf"\({number}[ab]?\)"
    docstrings = [line for source in sources for line in source.split('"""')[1].splitlines()[1:]]
    lines = [line for line in docstrings if re.search(patterns, line)]
    return "\n".join(lines)


def _citations(key: str, paths: list[Path]) -> Iterator[Citation]:
    """Yield the lines that cite a number in a comment.

    A comment on a line of its own belongs to the lines under it, up to the next comment of its own, an empty line or
    the end of its block. A comment beside code belongs to its line, and to the comment above that has the forward line.
    """
    cites = re.compile(rf"\({key}[ab]?\)")
    for path in paths:
        lines = path.read_text().splitlines()
        for n, line in enumerate(lines):
            code, _, comment = line.partition("#")
            if not cites.search(comment):
                continue
            if code.strip():
                above = lines[n - 1].lstrip().startswith("#")
                yield Citation(path, n + 1 - above, n + 1)
            else:
                yield Citation(path, n + 1, _end_of_block(lines, n))


def _end_of_block(lines: list[str], start: int) -> int:
    """Return the number, from 1, of the last line that belongs to the comment in line `start`, from 0."""
    indent = len(lines[start]) - len(lines[start].lstrip())
    while lines[start + 1].lstrip().startswith("#"):  # the comment goes on
        start += 1
    for n in range(start + 1, len(lines)):
        line = lines[n]
        if not line.strip() or line.lstrip().startswith("#") or len(line) - len(line.lstrip()) < indent:
            return n
    return len(lines)
