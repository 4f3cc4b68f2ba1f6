"""The z-buffer: which triangle each pixel shows, and how much light it reflects."""

from __future__ import annotations

import numpy
import pytest

from tasks.vision import rendering
from tasks.vision.rendering import rasterize

FRONT = [0, 2, 1]  # of three corners that are clockwise on the screen, whose y points down: counterclockwise


def shown(points, triangles, side=4):
    """The triangle that each pixel shows, -1 for none."""
    found = rasterize(numpy.array(points, float), numpy.array(triangles), side)
    image = numpy.full(side * side, -1)
    image[found.pixels] = found.triangles
    return image.reshape(side, side)


def test_a_triangle_covers_the_pixels_whose_centers_it_holds():
    half = shown([(0, 0, 0), (4, 0, 0), (0, 4, 0)], [FRONT])
    numpy.testing.assert_array_equal(half == 0, numpy.add.outer(range(4), range(4)) <= 3)
    small = shown([(1.4, 2.4, 0), (1.7, 2.4, 0), (1.4, 2.7, 0)], [FRONT])
    assert numpy.argwhere(small == 0).tolist() == [[2, 1]]
    assert (shown([(1.6, 2.6, 0), (1.9, 2.6, 0), (1.6, 2.9, 0)], [FRONT]) == -1).all(), "it lies between centers"


def test_a_slanted_triangle_covers_the_centers_with_no_negative_weight():
    corners = numpy.array([(0.3, 0.6), (6.9, 2.2), (2.1, 7.4)])
    image = shown(numpy.column_stack([corners, numpy.zeros(3)]), [FRONT], side=8)
    centers = numpy.stack([*numpy.mgrid[0.5:8, 0.5:8][::-1], numpy.ones((8, 8))]).reshape(3, -1)
    weights = numpy.linalg.solve(numpy.vstack([corners.T, numpy.ones(3)]), centers)
    numpy.testing.assert_array_equal(image.reshape(-1) == 0, (weights >= 0).all(axis=0))


def test_only_the_front_shows():
    assert (shown([(0, 0, 0), (4, 0, 0), (0, 4, 0)], [[0, 1, 2]]) == -1).all()
    assert (shown([(0, 0, 0), (2, 2, 0), (4, 4, 0)], [FRONT]) == -1).all(), "a line has no front"


def test_triangles_beyond_the_image_are_cut():
    assert (shown([(-9, -9, 0), (30, -9, 0), (-9, 30, 0)], [FRONT]) == 0).all()
    assert (shown([(-9, -9, 0), (-5, -9, 0), (-9, -5, 0)], [FRONT]) == -1).all()
    assert (shown([(0, 0, 0)], numpy.empty((0, 3), int)) == -1).all()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearest_triangle_shows_whatever_the_order(order):
    points = [(0, 0, 1), (4, 0, 1), (0, 4, 1), (0, 0, 2), (2, 0, 2), (0, 2, 2)]
    triangles = [[0, 2, 1], [3, 5, 4]]
    image = shown(points, [triangles[n] for n in order])
    near = numpy.add.outer(range(4), range(4)) <= 1
    assert (image[near] == order.index(1)).all()
    assert (image[~near & (image >= 0)] == order.index(0)).all()


def test_triangles_that_cut_through_each_other_show_by_their_depth_at_each_pixel():
    points = [(0, 0, 0), (8, 0, 8), (0, 8, 0), (0, 0, 2), (8, 0, 2), (0, 8, 2)]  # z = x, and z = 2
    image = shown(points, [[0, 2, 1], [3, 5, 4]])
    numpy.testing.assert_array_equal(image, numpy.broadcast_to([1, 1, 0, 0], (4, 4)))


def test_values_are_interpolated_at_the_centers():
    points, triangles = numpy.array([(0, 0, 5.0), (9, 0, 6), (0, 9, 7)]), numpy.array([FRONT])
    found = rasterize(points, triangles, 4)
    rows, columns = numpy.divmod(found.pixels, 4)
    expected = numpy.column_stack([columns + 0.5, rows + 0.5, 5 + (columns + 0.5) / 9 + 2 * (rows + 0.5) / 9])
    numpy.testing.assert_allclose(found.interpolated(points, triangles), expected)


def test_normals_point_outside_and_average_the_triangles():
    corners = numpy.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (9, 9, 9)], float)
    octahedron = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    normals = rendering.vertex_normals(corners, numpy.array(octahedron))
    numpy.testing.assert_allclose(normals[:6], corners[:6], atol=1e-12)
    assert not normals[6].any(), "no triangle has this vertex"


def test_light_is_reflected_by_lamberts_law():
    normals = rendering.unit(numpy.array([(0, 0, 1), (0, 1, 1), (0, 0, -1)], float))
    light = rendering.reflected(normals, numpy.array([1, 0.5, 1]), [(numpy.array([0, 0, 1.0]), 0.8)], ambient=0.1)
    numpy.testing.assert_allclose(light, [0.9, 0.5 * (0.1 + 0.8 * 0.5**0.5), 0.1])


def test_blocks_are_averaged():
    numpy.testing.assert_array_equal(
        rendering.averaged(numpy.arange(16.0).reshape(4, 4), 2), [[2.5, 4.5], [10.5, 12.5]]
    )
