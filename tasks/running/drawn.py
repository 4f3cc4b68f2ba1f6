"""Provide training data that are drawn anew for each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from .training import Examples


@dataclass(frozen=True)
class Drawn:
    """Training examples that are drawn anew for each epoch; `first` are examples of the same kind, for their number."""

    first: Examples
    draw: Callable[[numpy.random.Generator], Examples]

    @property
    def labels(self) -> Any:
        """Return the labels (N, ...)."""
        return self.first.labels

    def batch(self, chosen: Any) -> tuple[Any, Any]:
        """Return (inputs, labels) of the chosen ones of the first examples."""
        return self.first.batch(chosen)

    def augmented(self, rng: numpy.random.Generator) -> Examples:
        """Return new examples."""
        return self.draw(rng)
