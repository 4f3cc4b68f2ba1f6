"""Write the tables of README and docs from the store, between markers:

    <!-- table: NAME -->
    <!-- end -->

NAME is a table of paper.for_pages(), or a file of bench/results, such as speed.md, whose first table is taken.
"""

from __future__ import annotations

import re
from pathlib import Path

from fastweights_np.files import write_text

from . import paper, store

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages(root: Path) -> list[Path]:
    """Return README.md and the pages below docs."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def filled(text: str, tables: dict[str, str]) -> str:
    """Return a page's text with each table between its markers. Raise ValueError for an unknown name."""

    def replacement(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        table = _stored(name) if name.endswith(".md") else tables.get(name)
        if not table:
            raise ValueError(f"table: expected a name among {', '.join(tables)}, or a file of the store; got {name!r}")
        return f"{start}\n{table}\n{end}"

    return MARKED.sub(replacement, text)


def write(root: Path | None = None) -> list[Path]:
    """Write the tables into all pages; return the pages that changed."""
    tables, changed = paper.for_pages(), []
    for path in pages(root or ROOT):
        before = path.read_text("utf-8")
        if (after := filled(before, tables)) != before:
            write_text(path, after)
            changed.append(path)
    return changed


def _stored(name: str) -> str:
    """Return the first table of a file of the store; empty if there is none."""
    path = store.STORE / name
    found = re.search(r"(?:^\|.*\n)+", path.read_text("utf-8") if path.exists() else "", re.MULTILINE)
    return found.group() if found else ""
