"""Render triangles with a z-buffer: which triangle each pixel shows, and how much light it reflects.

Points are in pixels: x to the right, y down, z towards the viewer. The center of pixel n is at n + 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy

Light = tuple[numpy.ndarray, float]  # the direction to the light, (3,), a unit vector; and its strength


class Fragments(NamedTuple):
    """The pixels that triangles cover, each with the nearest triangle.

    pixels: (P,), row · side + column.
    triangles: (P,), indices of triangles.
    weights: (P, 3), the barycentric coordinates of the pixel's center.
    """

    pixels: numpy.ndarray
    triangles: numpy.ndarray
    weights: numpy.ndarray

    def interpolated(self, values: numpy.ndarray, triangles: numpy.ndarray) -> numpy.ndarray:
        """Return values of vertices (V, N), interpolated at the pixels, (P, N)."""
        return numpy.einsum("pk,pkn->pn", self.weights, values[triangles[self.triangles]])


def rasterize(points: numpy.ndarray, triangles: numpy.ndarray, side: int) -> Fragments:
    """Return the fragments of triangles (T, 3) of points (V, 3) on a square image of `side` pixels.

    A triangle shows only its front, from which its corners are counterclockwise. A pixel belongs to a triangle if its
    center is inside or on the border. Of several triangles the nearest one shows: the largest z at the pixel's center.
    """
    x, y, z = points[triangles].T  # (3, T) each: rows of corners are faster than columns
    fronts = (x[1] - x[0]) * (y[2] - y[0]) < (y[1] - y[0]) * (x[2] - x[0])  # y is down
    # the columns and rows whose centers are in each triangle's bounding box
    left, top = (numpy.ceil(each.min(axis=0) - 0.5).clip(0, side).astype(int) for each in (x, y))
    right, bottom = (numpy.floor(each.max(axis=0) - 0.5).clip(-1, side - 1).astype(int) for each in (x, y))
    width, height = (right - left + 1).clip(0), (bottom - top + 1).clip(0)
    # one candidate for each pixel of each box
    counts = width * height * fronts
    which = numpy.repeat(numpy.arange(len(triangles)), counts)
    place = numpy.arange(len(which)) - numpy.repeat(counts.cumsum() - counts, counts)
    down, across = numpy.divmod(place, width[which])
    column, row = left[which] + across, top[which] + down

    # barycentric coordinates: twice the signed areas of the triangles between the pixel's center and two corners
    dx, dy = x[:, which] - (column + 0.5), y[:, which] - (row + 0.5)
    areas = numpy.stack([dx[k - 2] * dy[k - 1] - dx[k - 1] * dy[k - 2] for k in range(3)])
    inside = numpy.flatnonzero((areas[0] <= 0) & (areas[1] <= 0) & (areas[2] <= 0))
    which, pixels, areas = which[inside], (row * side + column)[inside], areas[:, inside]
    weights = areas / (areas[0] + areas[1] + areas[2])
    nearest_last = numpy.argsort((weights * z[:, which]).sum(axis=0), kind="stable")
    shown = numpy.full(side * side, -1)
    shown[pixels[nearest_last]] = nearest_last  # of repeated indices the last one is kept
    chosen = shown[shown >= 0]
    return Fragments(pixels[chosen], which[chosen], weights[:, chosen].T)


def vertex_normals(points: numpy.ndarray, triangles: numpy.ndarray) -> numpy.ndarray:
    """Return the unit normal at each vertex (V, 3): the mean over its triangles, weighted by their areas."""
    a, b, c = points[triangles].swapaxes(0, 1)
    cross = numpy.cross(b - a, c - a)
    normals = numpy.stack(
        [
            numpy.bincount(triangles.reshape(-1), numpy.repeat(cross[:, axis], 3), minlength=len(points))
            for axis in range(3)
        ],
        axis=1,
    )
    return unit(normals)


def unit(vectors: numpy.ndarray) -> numpy.ndarray:
    """Return the vectors (N, 3), scaled to length 1. A zero vector stays zero."""
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / numpy.where(lengths > 0, lengths, 1)


def reflected(
    normals: numpy.ndarray, reflectance: numpy.ndarray, lights: Sequence[Light], ambient: float
) -> numpy.ndarray:  # fmt: skip
    """Return the light that points reflect (P,), by Lambert's law. No point is in the shadow of another one.

        reflectance · (ambient + Σ strength · max(0, normal · direction))

    normals: (P, 3), unit vectors.
    """
    received = numpy.full(len(normals), ambient)
    for direction, strength in lights:
        received += strength * (normals @ direction).clip(0)
    return reflectance * received


def averaged(image: numpy.ndarray, size: int) -> numpy.ndarray:
    """Return the mean of each block of size x size pixels of a square image."""
    side = len(image) // size
    return image.reshape(side, size, side, size).mean(axis=(1, 3))
