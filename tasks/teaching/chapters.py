"""Read and run the chapters of the tutorial, docs/tutorial/N-NAME.md.

A chapter is Markdown. Its Python blocks are one program: they run in order and share their names. Behind a block stand
the text that it prints, in a block called text, and the figure that it draws:

    ```python
    print(1 + 1)
    ```

    ```text
    2
    ```

    ![what the figure shows](figures/1-name.svg)
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from fastweights_np.files import whole, write_text

from ..figures.style import plt  # draws without a screen

FOLDER = Path(__file__).parents[2] / "docs" / "tutorial"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<shown>.*?)^```\n)?"
    r"(?:\n!\[(?P<caption>[^\]]*)\]\((?P<file>[^)]*)\)\n)?",
    re.DOTALL | re.MULTILINE,
)
# small figures with small letters: they can be read on a telephone. The salt makes the same figure the same file
LOOK: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False,
    "figure.constrained_layout.use": True, "svg.hashsalt": "tutorial",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A Python block of a chapter, and what its run printed and drew."""

    code: str
    shown: str  # what the chapter says that it prints
    caption: str  # what the chapter says that the figure shows
    file: str  # of the figure, relative to the chapter
    printed: str
    figure: str  # as SVG; empty if the block draws none


def paths() -> list[Path]:
    """Return the chapters' files in order."""
    return sorted(FOLDER.glob("[0-9]-*.md"))


def run(path: Path) -> Iterator[Block]:
    """Run a chapter block by block. An exception that its code raises is passed on, with the chapter's line."""
    text = path.read_text("utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    for match in BLOCK.finditer(text):
        code, shown, caption, file = (match[name] or "" for name in ("code", "shown", "caption", "file"))
        lines_above = text.count("\n", 0, match.start("code"))
        with matplotlib.rc_context(LOOK), redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * lines_above + code, path, "exec"), names)
            figure = _drawn()
        if bool(figure) != bool(file):
            expected = "a figure after the block that draws it, and after no other: ![what it shows](figures/NAME.svg)"
            raise ValueError(f"{path}:{lines_above}: expected {expected}")
        yield Block(code, shown, caption, file, printed.getvalue(), figure)


def store(path: Path) -> None:
    """Write what a chapter prints into its text, and its figures into files. Raises OSError as write_text does."""
    blocks = run(path)

    def replacement(match: re.Match[str]) -> str:
        block = next(blocks)
        parts = [f"```python\n{block.code}```\n"]
        if block.printed:
            parts.append(f"```text\n{block.printed}```\n")
        if block.figure:
            parts.append(f"![{block.caption}]({block.file})\n")
            with whole(path.parent / block.file) as file:
                file.write(block.figure.encode())
        return "\n".join(parts)

    write_text(path, BLOCK.sub(replacement, path.read_text("utf-8")))


def _drawn() -> str:
    """Return the open figure as SVG, empty if there is none, and close it."""
    if not plt.get_fignums():
        return ""
    drawn = io.StringIO()
    plt.gcf().savefig(drawn, format="svg", metadata={"Date": None})
    plt.close("all")
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"
