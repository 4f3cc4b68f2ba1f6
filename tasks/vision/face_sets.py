"""Hold a data set of faces in memory, split it, and hold out validation faces by person."""

from __future__ import annotations

from typing import NamedTuple

import numpy

from fastweights_np import checks

SIDE = 48


class Faces(NamedTuple):
    """Grey images (N, 48, 48), bytes; labels (N,), int64; and the person's number (N,), int64, or None if unknown."""

    pixels: numpy.ndarray
    labels: numpy.ndarray
    people: numpy.ndarray | None


class Expressions(NamedTuple):
    """A data set of faces. source: a description of where it was read and of what was left out."""

    name: str
    classes: tuple[str, ...]
    training: Faces
    test: Faces
    source: str


def take(faces: Faces, chosen: numpy.ndarray) -> Faces:
    """Return the faces at these indices."""
    return Faces(faces.pixels[chosen], faces.labels[chosen], None if faces.people is None else faces.people[chosen])


def split(faces: Faces, in_test: numpy.ndarray, where: object) -> tuple[Faces, Faces]:
    """Return (training set, test set). in_test: (N,), bool. Raise ValueError if one of them is empty."""
    training, test = (numpy.flatnonzero(in_test == side) for side in (False, True))
    if not len(training) or not len(test):
        raise ValueError(
            f"{where}: expected faces to train on and faces to test on, got {len(training)} and {len(test)}"
        )
    return take(faces, training), take(faces, test)


def hold_out(faces: Faces, count: int, rng: numpy.random.Generator) -> tuple[Faces, Faces]:
    """Return (remaining faces, about `count` validation faces). All faces of a person, if known, stay together.

    Raise ValueError if one of the two would be empty.
    """
    checks.count("count", count, least=1)
    if count >= len(faces.labels):
        raise ValueError(f"validation_size: expected less than the {len(faces.labels)} images to train on, got {count}")
    order = rng.permutation(len(faces.labels))
    if faces.people is None:
        return take(faces, numpy.sort(order[count:])), take(faces, numpy.sort(order[:count]))
    people = rng.permutation(numpy.unique(faces.people))
    if len(people) < 2:
        raise ValueError(f"training: expected at least 2 people, one to validate on, got person {people[0]} alone")
    numbers = numpy.cumsum([numpy.sum(faces.people == person) for person in people])
    held = people[: max(1, min(int(numpy.searchsorted(numbers, count, "right")), len(people) - 1))]
    is_held = numpy.isin(faces.people, held)
    return take(faces, numpy.flatnonzero(~is_held)), take(faces, numpy.flatnonzero(is_held))
