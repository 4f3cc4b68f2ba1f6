"""Explain one number of DERIVATION.md: its paragraph, the lines that cite it, the errors it affects, its mutants."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

from ..network import LAYERS
from .links import counted, table
from .mutants import BLOCKS, MUTANTS, PACKAGE, PROGRAMMER, caught_by
from .programmer import NAME
from .run import run
from .transformer import NAME as TRANSFORMER

EQUATIONS = range(1, 6)  # of the paper
PARENTHESIS = re.compile(r"\(([A-Z]\d+)\)")
PARAGRAPH = re.compile(r"\*\*\(([A-Z]\d+)\)")
# the table's subjects for files that do not belong to one layer
SUBJECTS = {
    "memory": ("fast_weights", "multilevel"), "inner_loop": ("fast_weights", "multilevel"),
    "recurrent": ("fast_weights", "multilevel", "irnn"), "associative_lstm_cell": ("associative_lstm",),
    "losses": ("ops", "what has no time", "policy_gradient"),
    "ops": ("ops", "what has no time"), "backend": ("ops",),
    **dict.fromkeys(PROGRAMMER, (NAME,)),
    **dict.fromkeys(BLOCKS, (TRANSFORMER, "in_place_ttt")),
}  # fmt: skip


class Citation(NamedTuple):
    """The lines first .. last, counted from 1, of a file of the package that belong to a number."""

    path: Path
    first: int
    last: int
    backward: bool  # whether they stand in a backward function

    def __str__(self) -> str:
        lines = self.path.read_text("utf-8").splitlines()[self.first - 1 : self.last]
        return "\n".join([f"{self.path.relative_to(PACKAGE)}:{self.first}", *lines])


def numbers() -> str:
    """Return all numbers, a line each: the number, and the beginning of its paragraph."""
    starts = {f"equation-{n}": " ".join(_equation(str(n))[0].split()) for n in EQUATIONS}
    starts |= {number: re.sub(r"[*`]", "", _paragraph(number)).split(")", 1)[1] for number in _derived()}
    return "\n".join(f"{number:12}{shorten(text, 100, placeholder=' ...')}" for number, text in starts.items())


def explain(number: str, device: str, quick: bool = False, lines_only: bool = False) -> int:
    """Print what belongs to a number; return 0 if every row holds and every mutant is caught, else 1.

    quick: as in run(). lines_only: without rows and mutants. Raises ValueError for a number that is not known.
    """
    key = number.strip("()").removeprefix("equation-").upper()
    if number == f"equation-{key}" and key in map(str, EQUATIONS):
        paragraph = "\n".join(_equation(key))
    elif key in _derived():
        paragraph = _paragraph(key)
    else:
        raise ValueError(f"number: expected one that --list names, such as F6 or equation-2, got {number!r}")
    plain = list(_citations(key, sorted((PACKAGE / "plain").glob("*.py"))))
    fast = list(_citations(key, sorted(PACKAGE.glob("*.py"))))
    print(paragraph)
    for title, cited in (
        ("plain, forward", [each for each in plain if not each.backward]),
        ("plain, backward", [each for each in plain if each.backward]), ("fast", fast),
    ):  # fmt: skip
        print(f"\n--- {title}\n")
        print("\n\n".join(map(str, cited)) or "no line cites it")
    related = sorted({other for each in [*plain, *fast] for other in PARENTHESIS.findall(str(each))} & set(_derived()))
    if key not in related:
        print(f"\nits gradients: {', '.join(related)}")
    if lines_only:
        return 0

    subjects = {subject for each in fast for subject in SUBJECTS.get(each.path.stem, (each.path.stem,))}
    cases = f"{device}, link 4 in a quarter of the cases"
    print(f"\n--- errors of all that uses these lines: {', '.join(sorted(subjects))} ({cases})\n")
    links = run(device, quick, _layers(subjects), others=not subjects <= {*LAYERS, NAME, *BLOCKS}, few=True)
    links = [link for link in links if link.subject in subjects]
    print(table(links))
    for link in (link for link in links if link.number in (3, 4)):
        errors = ", ".join(f"{name} {error:.0e}" for name, error in link.by_array.items())
        print(f"\n{link.number} {link.title}, {link.subject}, worst by array: {errors}")
    if failing := sum(not link.passed for link in links) or int(not links):
        fails = counted(failing, "row", "FAIL")
        print(f"\n{key}: {fails}; the mutants are left out, because the unchanged code fails")
        return 1
    print("\n--- mutants: these lines broken on purpose, which a gradient check must notice\n", flush=True)
    escaped = _print_mutants([key] if key in related else related)
    verdict = counted(escaped, "mutant", "ESCAPE") if escaped else "every mutant is caught"
    print(f"\n{key}: every row holds, {verdict}")
    return 1 if escaped else 0


def _layers(subjects: set[str]) -> tuple[str, ...]:
    return tuple(layer for layer in (*LAYERS, NAME, TRANSFORMER) if layer in subjects) or ("fast_weights",)


def _print_mutants(numbers: list[str]) -> int:
    """Print each mutant of these numbers: the row that catches it, and its line. Return how many escape."""
    escaped = 0
    for name, mutant in MUTANTS.items():
        if not set(numbers) & set(mutant.numbers.split()):
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                caught = caught_by(mutant, Path(folder))
            how = "NOT CAUGHT"
        except ValueError as error:  # the file has been edited
            caught, how = [], str(error)
        escaped += not caught
        if caught:
            link = caught[0]
            how = f"caught by {link.title}, {link.subject}: error {link.worst:.1e} > {link.tolerance:.0e}"
        print(f"{name}: {how}\n    {mutant}", flush=True)
    return escaped


def _derivation() -> str:
    return (PACKAGE / "DERIVATION.md").read_text("utf-8")


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


def _equation(number: str) -> list[str]:
    """Return the lines that end in this equation's number, of the plain layer's docstring and of the memory's."""
    ends = re.compile(rf"\s{{3,}}(\(\d\w?\), )*(equation )?\({number}[ab]?\)(, \(\d\w?\))*$")
    docs = [(PACKAGE / name).read_text("utf-8").split('"""')[1] for name in ("plain/fast_weights.py", "memory.py")]
    texts = ["\n".join(line for line in doc.splitlines() if ends.search(line)) for doc in docs]
    return [text for text in texts if text]


def _citations(key: str, paths: list[Path]) -> Iterator[Citation]:
    """Yield the lines that cite a number in a comment.

    A comment belongs to its line, or to the next line if it stands alone. It also belongs to the lines that follow, up
    to the next comment, an empty line or the end of the block. A comment above, with the forward line, is shown too.
    """
    cites = re.compile(rf"\({key}[ab]?\)")
    for path in paths:
        lines = path.read_text("utf-8").splitlines()
        for n, line in enumerate(lines):
            code, _, comment = line.partition("#")
            if not cites.search(comment):
                continue
            above = bool(code.strip()) and lines[n - 1].lstrip().startswith("#")
            yield Citation(path, n + 1 - above, _end_of_block(lines, n), _in_backward(lines, n))


def _in_backward(lines: list[str], n: int) -> bool:
    """Return whether line n, counted from 0, is in a function whose name ends in backward or slope."""
    names = [match.group(1) for line in lines[:n] if (match := re.match(r"\s*def (\w+)", line))]
    return bool(names) and names[-1].endswith(("backward", "slope"))


def _end_of_block(lines: list[str], start: int) -> int:
    """Return the number, from 1, of the last line that belongs to the comment in line `start`, from 0."""
    indent = len(lines[start]) - len(lines[start].lstrip())
    if lines[start].lstrip().startswith("#"):
        while lines[start + 1].lstrip().startswith("#"):  # the comment continues
            start += 1
        start += 1  # the first line of code
    for n in range(start + 1, len(lines)):
        line = lines[n]
        if not line.strip() or "#" in line or len(line) - len(line.lstrip()) < indent:
            return n
    return len(lines)
