"""Render a data set of made-up, synthetic faces in the structure of CMU Multi-PIE, once, and keep it in the cache.

Each of 337 people has six expressions, each seen by three cameras at -15, 0 and 15 degrees. The last 20 people are the
test set. Images are aligned by eyes and nose. The light of the room and one of 18 flashes, or none, light an image. The
faces have no hair, no glasses, no skin texture and no cast shadows: they are simpler than photographs.
"""

from __future__ import annotations

from math import cos, radians, sin
from pathlib import Path

import numpy
from tqdm import tqdm

from fastweights_np import checkpoint

from . import rendering, wheel
from .face_sets import SIDE, Expressions, Faces, split
from .fetching import CACHE
from .mesh import Package
from .multi_pie import alignment
from .rendering import Light
from .synthetic_people import EXPRESSIONS, People, Person

NAME = "synthetic faces"
VERSION = 1  # of the pictures: raise it with every change that alters a pixel
SEED = 2016
PEOPLE, TEST_PEOPLE = 337, 20
CAMERAS = (-15.0, 0.0, 15.0)  # degrees
VALIDATION_IMAGES = 30 * len(EXPRESSIONS) * len(CAMERAS)  # of 30 people
POSE = (2.5, 3.0, 1.5)  # standard deviations of a head's yaw, pitch and roll, in degrees
LANDMARK = 0.01  # standard deviation of a landmark: 1 mm, 0.3 pixels
OVERSAMPLED = 2  # rendered rows and columns for one of the image
ROOM: Light = (rendering.unit(numpy.array([[0.0, 0.7, 0.7]]))[0], 0.3)
AMBIENT, FLASH, BACKGROUND, GAMMA = 0.2, 0.7, 0.1, 2.2
FLASHES = [(azimuth, 0.0) for azimuth in range(-90, 91, 15)] + [(azimuth, 35.0) for azimuth in range(-60, 61, 30)]


def load(data_dir: Path | None) -> Expressions:
    """Return the data set from the cache. If it is not there, fetch the package, render the faces and keep them.

    data_dir: a folder with the package, or None to download it.

    Raise OSError if the package cannot be fetched or the cache cannot be written, ValueError for a damaged package.
    """
    path = CACHE / "synthetic" / f"faces-{VERSION}-{PEOPLE}-people.npz"
    if (faces := _cached(path)) is None:
        package = Package(wheel.find(data_dir) if data_dir else wheel.fetch(CACHE))
        print(f"faces: rendering the {NAME}, once, to {path}", flush=True)
        faces = render(People(package), PEOPLE)
        checkpoint.save(path, faces._asdict(), {"package": wheel.FILE, "seed": SEED})
    in_test = numpy.asarray(faces.people) >= PEOPLE - TEST_PEOPLE
    return Expressions(NAME, tuple(EXPRESSIONS), *split(faces, in_test, path), f"{path}, rendered from {wheel.FILE}")


def _cached(path: Path) -> Faces | None:
    """Return the rendered faces in the cache; None if there are none, or if the file is damaged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays, _ = checkpoint.load(path)
        return Faces(**arrays)
    except FileNotFoundError:
        return None
    except checkpoint.CheckpointError:
        print(f"{path}: it is damaged; rendering the {NAME} again", flush=True)
        return None
    except OSError as error:
        raise OSError(f"cache: expected a folder that can be written, got {path.parent}: {error}") from error


def render(people: People, count: int, seed: int = SEED) -> Faces:
    """Return all images of the first `count` people. A person's images depend on the seed and the person's number."""
    pixels, labels, persons = [], [], []
    for number in tqdm(range(count), desc=f"rendering {NAME}", unit=" people", disable=None, leave=False):
        rng = numpy.random.default_rng([seed, number])
        person = people.person(rng)
        for label in range(len(EXPRESSIONS)):
            pixels += views(people, person, people.expression(person, label, rng), rng)
            labels += [label] * len(CAMERAS)
            persons += [number] * len(CAMERAS)
    return Faces(numpy.array(pixels), numpy.array(labels, "int64"), numpy.array(persons, "int64"))


def views(
    people: People, person: Person, vertices: numpy.ndarray, rng: numpy.random.Generator, side: int = SIDE
) -> list[numpy.ndarray]:  # fmt: skip
    """Return the images (side, side), bytes, of a head by each camera, each with a random light."""
    normals, pose = rendering.vertex_normals(vertices, people.head.triangles), rng.normal(0, POSE)
    images = []
    for camera in CAMERAS:
        turn = rotation(pose[0] + camera, pose[1], pose[2])
        noise = rng.normal(0, LANDMARK, (3, 2))
        images.append(_picture(people, person, vertices @ turn.T, normals @ turn.T, _lights(rng), noise, side))
    return images


def rotation(yaw: float, pitch: float, roll: float) -> numpy.ndarray:
    """Return the matrix that turns a head by these degrees: to its left, down, and towards its right shoulder."""
    y, p, r = (radians(angle) for angle in (yaw, pitch, roll))
    about_y = numpy.array([[cos(y), 0, sin(y)], [0, 1, 0], [-sin(y), 0, cos(y)]])
    about_x = numpy.array([[1, 0, 0], [0, cos(p), -sin(p)], [0, sin(p), cos(p)]])
    about_z = numpy.array([[cos(r), -sin(r), 0], [sin(r), cos(r), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def _lights(rng: numpy.random.Generator) -> list[Light]:
    """Return the light of the room and one of the flashes, or the room's light alone."""
    chosen = rng.integers(len(FLASHES) + 1)
    if chosen == len(FLASHES):
        return [ROOM]
    azimuth, elevation = (radians(angle) for angle in FLASHES[chosen])
    direction = [sin(azimuth) * cos(elevation), sin(elevation), cos(azimuth) * cos(elevation)]
    return [ROOM, (numpy.array(direction), FLASH)]


def _picture(
    people: People, person: Person, vertices: numpy.ndarray, normals: numpy.ndarray, lights: list[Light],
    noise: numpy.ndarray, side: int,
) -> numpy.ndarray:  # fmt: skip
    """Return the image of a head, seen along z in parallel projection and aligned by its landmarks.

    noise: (3, 2), errors of the landmarks.
    """
    a, b, c, d, e, f = alignment(people.landmarks(vertices)[:, :2] * (1, -1) + noise)
    # alignment maps pixels of an aligned image of SIDE pixels to the mesh; this is its inverse
    pixels = (vertices[:, :2] * (1, -1) + 0.5 - (c, f)) @ numpy.linalg.inv([[a, b], [d, e]]).T
    wide, triangles = OVERSAMPLED * side, people.head.triangles
    shown = rendering.rasterize(numpy.column_stack([pixels * wide / SIDE, vertices[:, 2]]), triangles, wide)
    reflectance = people.painted(
        person, shown.interpolated(people.head.vertices, triangles), people.head.parts[shown.triangles]
    )
    light = rendering.reflected(rendering.unit(shown.interpolated(normals, triangles)), reflectance, lights, AMBIENT)
    image = numpy.full(wide * wide, BACKGROUND)
    image[shown.pixels] = light
    image = rendering.averaged(image.reshape(wide, wide), OVERSAMPLED)
    return (255 * image.clip(0, 1) ** (1 / GAMMA)).round().astype("uint8")
