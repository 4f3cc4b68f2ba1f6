"""The rows of the audit's table, and the measure of an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy

from ..backend import to_host

Arrays = dict[str, Any]
Move = Callable[[Any], Any]  # moves arrays to the audited device
SMALL = 1e-3

STEPPER = "stepper = forward"
ALONE = "without gradients = forward"


@dataclass
class Link:
    """One row of the table: the worst of all comparisons made under one link for one subject."""

    number: int
    title: str
    subject: str
    tolerance: float
    cases: int = 0
    worst: float = 0.0
    where: str = "identical"
    by_array: dict[str, float] = field(default_factory=dict)  # the worst error of each array, by name

    @property
    def passed(self) -> bool:
        return self.cases > 0 and self.worst <= self.tolerance

    def compare(self, case: str, got: Arrays, expected: Arrays) -> None:
        """Add one case to the row: compare each expected array with the array of the same name in `got`."""
        self.cases += 1
        for name, wanted in expected.items():
            error, index = relative_error(numpy.asarray(to_host(got[name])), numpy.asarray(wanted))
            self.by_array[name] = max(error, self.by_array.get(name, 0.0))
            if not error <= self.worst:  # also true for NaN
                self.worst, self.where = error, f"{name}{list(index)} [{case}]"


def counted(count: int, noun: str, verb: str) -> str:
    """Return a count with its noun and verb: 1 row FAILS, 2 rows FAIL."""
    return f"{count} {noun} {verb}S" if count == 1 else f"{count} {noun}s {verb}"


def relative_error(got: numpy.ndarray, expected: numpy.ndarray) -> tuple[float, tuple[int, ...]]:
    """Return max |got - expected| / the largest magnitude in both arrays (at least SMALL), and the maximum's index."""
    if got.shape != expected.shape:
        return float("inf"), ()
    if got.size == 0:
        return 0.0, ()
    difference: Any = numpy.abs(got - expected)
    difference = numpy.where(numpy.isfinite(difference), difference, numpy.inf)
    flat = int(difference.argmax())
    scale = max(float(numpy.abs(got).max()), float(numpy.abs(expected).max()), SMALL)
    error = float(difference.reshape(-1)[flat]) / scale if numpy.isfinite(scale) else float("inf")
    return error, tuple(int(i) for i in numpy.unravel_index(flat, difference.shape))


def table(links: list[Link]) -> str:
    """Return the table as text."""
    header = ("link", "subject", "cases", "worst error", "tolerance", "verdict", "where")
    rows = [header] + [
        (f"{link.number} {link.title}", link.subject, str(link.cases), f"{link.worst:.1e}", f"{link.tolerance:.0e}",
         "holds" if link.passed else "FAILS", link.where)
        for link in links
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
