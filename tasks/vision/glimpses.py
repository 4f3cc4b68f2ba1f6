"""Cut an image into a sequence of glimpses, with the control signals for each (sections 4.2 and 4.3, figure 3).

The image is cut into four quadrants. The glimpses of a quadrant are a coarse one, scaled down to the size of a patch,
the fine patches that tile it, and the coarse one again. The paper's sizes (7 x 7 patches of 28 x 28, 12 x 12 of 48 x
48) give 24 glimpses: 4 x (coarse, 4 fine, coarse). Quadrants and patches are ordered row by row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy

from fastweights_np import checks
from fastweights_np.backend import Array, array_module
from fastweights_np.multilevel import Controls, quadrants

TYPES = 3  # of glimpses


class Layout(NamedTuple):
    """The layout of glimpses of patch x patch pixels in images of side x side pixels. `layout` checks it."""

    side: int
    patch: int

    @property
    def across(self) -> int:
        """Return the number of fine patches across a quadrant, which holds `across`² of them."""
        return self.side // (2 * self.patch)

    @property
    def steps(self) -> int:
        """Return T, the number of glimpses."""
        return 4 * (self.across**2 + 2)


def layout(side: int, patch: int) -> Layout:
    """Return the layout. Raise ValueError unless patches of this size tile the quadrants of such images."""
    checks.count("side", side, least=2)
    checks.count("patch", patch, least=1)
    if side % 2:
        raise ValueError(f"side: expected images of an even number of pixels, cut into quadrants, got {side} x {side}")
    if side % (2 * patch):
        fitting = [size for size in range(1, side // 2 + 1) if side % (2 * size) == 0]
        raise ValueError(
            f"patch: expected a size that tiles a quadrant of the {side} x {side} images, "
            f"one of {', '.join(map(str, fitting))}; got {patch}"
        )
    return Layout(side, patch)


def glimpses(images: Array, patch: int) -> Array:
    """Return the glimpses (T, B, patch²) of images (B, side, side). A coarse pixel is the mean of a block of pixels."""
    checks.shape("images", images, ("B", "side", images.shape[-1]), "images are square")
    count, (side, patch) = len(images), layout(images.shape[-1], patch)
    m = Layout(side, patch).across
    # axes: B, quadrant's row, patch's row within it, pixel's row within it, and the same for columns
    fine = images.reshape(count, 2, m, patch, 2, m, patch).transpose(1, 4, 2, 5, 0, 3, 6)
    blocks = images.reshape(count, 2, patch, m, 2, patch, m).transpose(1, 4, 0, 2, 5, 3, 6)
    quadrants = array_module(images=images).empty((4, m * m + 2, count, patch * patch), images.dtype)
    quadrants[:, 1:-1] = fine.reshape(4, m * m, count, -1)
    quadrants[:, 0] = quadrants[:, -1] = blocks.mean(axis=(-2, -1), dtype=images.dtype).reshape(4, count, -1)
    return quadrants.reshape(-1, count, patch * patch)


def shown(image: numpy.ndarray, patch: int) -> tuple[numpy.ndarray, list[tuple[int, int, int]]]:
    """Return the glimpses (T, patch, patch) of one image (side, side), and the square of pixels that each shows."""
    return glimpses(image[None].astype("float32"), patch).reshape(-1, patch, patch), places(layout(len(image), patch))


def with_types(seen: Array, glimpsed: Layout) -> Array:
    """Return glimpses (T, B, patch² + TYPES), each followed by its type as a one-hot vector.

    The types are the first coarse glimpse of a quadrant, a fine one, and the second coarse one.
    """
    types = array_module(glimpses=seen).zeros((*seen.shape[:2], TYPES), seen.dtype)
    for t, type_ in enumerate([0, *[1] * glimpsed.across**2, 2] * 4):
        types[t, :, type_] = 1
    return array_module(glimpses=seen).concatenate([seen, types], axis=2)


def controls(glimpsed: Layout, wipe: bool = True, integrate: bool = True) -> Controls:
    """Return the control signals of figure 3 for these glimpses; without wiping, or without V, as an ablation."""
    signals = quadrants(4, glimpsed.across**2)
    never = [False] * len(signals)
    return replace(
        signals, wipe=signals.wipe if wipe else never, integrate=signals.integrate if integrate else never
    )  # fmt: skip


def places(glimpsed: Layout) -> list[tuple[int, int, int]]:
    """Return the square of pixels that each glimpse shows: (row, column, side)."""
    side, patch = glimpsed
    shown = []
    for quadrant in numpy.ndindex(2, 2):
        row, column = (side // 2 * index for index in quadrant)
        coarse = (row, column, side // 2)
        fine = [(row + patch * i, column + patch * j, patch) for i, j in numpy.ndindex((glimpsed.across,) * 2)]
        shown += [coarse, *fine, coarse]
    return shown
