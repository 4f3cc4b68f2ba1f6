"""Write the results of a measuring command: NAME.json, with its provenance, and NAME.md, the table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from math import exp, log
from typing import Any

from fastweights_np.files import write_text
from tasks.running.provenance import provenance
from tasks.running.runs import write_json

from .store import SCRATCH

output = SCRATCH  # the output folder; --store sets it


def named(name: str, layer: str) -> str:
    """Return the name of a layer's files: it includes the layer, except for fast_weights."""
    return name if layer == "fast_weights" else f"{name}-{layer}"


def sized(sizes: Sequence[tuple[int, int, int]]) -> str:
    """Return the name's suffix for chosen sizes (B, T, H), so that the full measurement is not replaced."""
    return "".join("-" + "x".join(map(str, size)) for size in sizes)


def store(name: str, figures: Any, table: str, layer: str, **settings: Any) -> None:
    """Write both files, named by the measurement and the layer, and print the table."""
    name, settings = named(name, layer), {"layer": layer} | settings
    output.mkdir(parents=True, exist_ok=True)
    finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(output / f"{name}.json", provenance() | finished | settings | {"figures": figures})
    write_text(output / f"{name}.md", table)
    print(f"\n{table}\nin {output}: {name}.json, {name}.md", flush=True)


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def of_seeds(groups: Iterable[Sequence[object]]) -> str:
    """Return "3 seeds" for groups of three runs each, "1 to 3 seeds" if their lengths differ, "0 seeds" for none."""
    counts = {len(runs) for runs in groups} or {0}
    number = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    return f"{number} seed" + ("" if counts == {1} else "s")


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean: exp of the mean of the logarithms."""
    return exp(sum(log(value) for value in values) / len(values))
