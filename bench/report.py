"""What every measuring command leaves: NAME.json, with where it comes from, and NAME.md, the table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import exp, log
from typing import Any

from tasks.running.provenance import provenance
from tasks.running.runs import write_json

from .store import SCRATCH

output = SCRATCH  # the folder that is written to; --store sets it


def named(name: str, layer: str) -> str:
    """The name of a layer's files: the layer is told, unless it is the one that the project is about."""
    return name if layer == "fast_weights" else f"{name}-{layer}"


def sized(sizes: Sequence[tuple[int, int, int]]) -> str:
    """What follows the name of a measurement of chosen sizes (B, T, H), so that it does not replace the full one."""
    return "".join("-" + "x".join(map(str, size)) for size in sizes)


def store(name: str, figures: Any, table: str, layer: str, **settings: Any) -> None:
    """Writes both files, under the name of the measurement and of the layer."""
    name, settings = named(name, layer), {"layer": layer} | settings
    output.mkdir(parents=True, exist_ok=True)
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(output / f"{name}.json", provenance() | finished | settings | {"figures": figures})
    (output / f"{name}.md").write_text(table)
    print(f"\n{table}\nin {output}: {name}.json, {name}.md", flush=True)


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean of the logarithms."""
    return exp(sum(log(value) for value in values) / len(values))
