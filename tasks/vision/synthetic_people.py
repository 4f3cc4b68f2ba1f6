"""Shape and paint made-up, synthetic people: identities from MakeHuman's targets, expressions from facial units.

    identity   = base + Σ weight · identity target
    expression = identity + Σ weight · facial unit

Both sums are linear in the vertices. Skin, brows, lips and eyes are painted by the position on the base mesh.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy

from .mesh import EYES, FACIAL_UNITS, LIPS, MAKEHUMAN, MOUTH, SKIN, TEETH, Package

# weights of facial units, at full intensity. A unit whose name lacks Left or Right has both
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": {"mouthSmile": 1, "cheekSquint": 0.6, "mouthUpperUp": 0.3, "mouthLowerDown": 0.4, "jawOpen": 0.1},
    "surprise": {"browInnerUp": 1, "browOuterUp": 1, "eyeWide": 1, "jawOpen": 0.5, "mouthFunnel": 0.3},
    "squint": {"eyeSquint": 1, "cheekSquint": 0.8, "browDown": 0.7, "eyeBlink": 0.15, "mouthPress": 0.3},
    "disgust": {
        "noseSneer": 1, "mouthUpperUp": 1, "browDown": 0.8, "cheekSquint": 0.6, "eyeSquint": 0.4, "mouthFrown": 0.5,
    },
    "scream": {
        "jawOpen": 1, "mouthStretch": 0.8, "mouthLowerDown": 0.8, "mouthUpperUp": 0.6, "eyeBlink": 0.4, "browDown": 0.5,
    },
}  # fmt: skip
INTENSITY = (0.4, 1.0)  # of an expression, uniform
UNIT_SPREAD, SIDE_SPREAD = 0.3, 0.1  # each unit's weight differs from the above by up to these fractions
RESTLESS = 0.08  # standard deviation of further weights of all units, of which the negative half is 0
NO_EXPRESSION = "tongueOut"

MACRO = f"{MAKEHUMAN}/targets/macrodetails"
DETAILS = ("head", "forehead", "eyebrows", "eyes", "nose", "cheek", "mouth", "chin", "asym")  # folders of targets
DETAIL = 0.3  # standard deviation of their weights, of which the negative half is 0
RACES = {"african": 0.25, "asian": 0.6, "caucasian": 0.75}  # MakeHuman's names, and the reflectance of the skin
GENDERS, AGES, WEIGHTS = ("male", "female"), ("old", "young"), ("minweight", "averageweight", "maxweight")


class Person(NamedTuple):
    """A person: vertices (V, 3) without expression, reflectances, and the thickness of the brows in the mesh's unit."""

    vertices: numpy.ndarray
    skin: float
    brows: float
    lips: float
    iris: float
    thickness: float


class People:
    """Draw persons and expressions, and paint them."""

    def __init__(self, package: Package) -> None:
        self.head = head = package.head()
        names = [name for folder in DETAILS for name in package.targets(f"{MAKEHUMAN}/targets/{folder}")]
        # a weight for both targets of a pair such as l-eye-scale-incr and r-eye-scale-incr
        kinds = [name.rpartition("/")[2].removeprefix("l-").removeprefix("r-") for name in names]
        self._kinds = numpy.unique(kinds, return_inverse=True)[1]
        self._details = package.displacements(names, head)
        self._macro_names = list(_macro_weights(numpy.ones(2), numpy.ones(2), numpy.ones(3), numpy.ones(3)))
        self._macro = package.displacements([f"{MACRO}/{name}.target.gz" for name in self._macro_names], head)
        names = [name for name in package.targets(FACIAL_UNITS) if NO_EXPRESSION not in name]
        self._units = package.displacements(names, head)
        self._expressions = _unit_weights([name.rpartition("/")[2].removesuffix(".target") for name in names])

        base, eyes = head.vertices, numpy.unique(head.triangles[head.parts == EYES])
        self._right_eye, self._left_eye = eyes[base[eyes, 0] < 0], eyes[base[eyes, 0] > 0]
        self._nose = int(base[:, 2].argmax())  # the foremost vertex is the tip of the nose
        self._eye_center = base[self._left_eye].mean(axis=0)

    def person(self, rng: numpy.random.Generator) -> Person:
        """Return a random adult."""
        male, old, heavy = rng.beta(0.5, 0.5), rng.beta(1, 2.5), rng.uniform(-0.7, 0.9)
        races = rng.dirichlet([0.5] * len(RACES))
        weights = _macro_weights(
            numpy.array([male, 1 - male]), numpy.array([old, 1 - old]), races,
            numpy.array([max(-heavy, 0), 1 - abs(heavy), max(heavy, 0)]),
        )  # fmt: skip
        details = DETAIL * numpy.maximum(rng.standard_normal(self._kinds.max() + 1), 0)[self._kinds]
        vertices = self.head.vertices + _sum([weights[name] for name in self._macro_names], self._macro)
        skin = float(races @ list(RACES.values())) * rng.uniform(0.8, 1.2)
        return Person(
            vertices + _sum(details, self._details), skin=skin, brows=skin * rng.uniform(0.1, 0.5),
            lips=skin * rng.uniform(0.6, 0.9), iris=rng.uniform(0.05, 0.3), thickness=rng.uniform(0.02, 0.045),
        )  # fmt: skip

    def expression(self, person: Person, label: int, rng: numpy.random.Generator) -> numpy.ndarray:
        """Return the vertices (V, 3) of a person with an expression: a random intensity of EXPRESSIONS[label]."""
        units = self._expressions[label]
        sides, both = units.shape
        weights: numpy.ndarray = units @ rng.uniform(1 - UNIT_SPREAD, 1 + UNIT_SPREAD, both)
        weights = weights * rng.uniform(*INTENSITY) * rng.uniform(1 - SIDE_SPREAD, 1 + SIDE_SPREAD, sides)
        weights = weights + RESTLESS * numpy.maximum(rng.standard_normal(sides), 0)
        return person.vertices + _sum(weights.clip(0, 1), self._units)

    def landmarks(self, vertices: numpy.ndarray) -> numpy.ndarray:
        """Return the centers of both eyes and the tip of the nose, (3, 3). The person's right eye is first."""
        eyes = [vertices[eye].mean(axis=0) for eye in (self._right_eye, self._left_eye)]
        return numpy.array([*eyes, vertices[self._nose]])

    def painted(self, person: Person, positions: numpy.ndarray, parts: numpy.ndarray) -> numpy.ndarray:
        """Return the reflectance (P,) at positions on the base mesh (P, 3) that belong to these parts (P,)."""
        x, y, z = abs(positions[:, 0]), positions[:, 1], positions[:, 2]
        along = (x - 0.1) / 0.45  # from the inner end of a brow to the outer one
        middle = 7.54 + 0.08 * numpy.sin(0.9 * numpy.pi * along.clip(0, 1) ** 0.8)
        brow = (along > 0) & (along < 1) & (z > 0.8) & (abs(y - middle) < person.thickness * (1.15 - 0.7 * along))
        hair = y > 8.05 + 0.1 * numpy.cos(3 * x)
        from_pupil = numpy.hypot(x - self._eye_center[0], y - self._eye_center[1])
        eye = numpy.select([from_pupil < 0.03, from_pupil < 0.068], [0.02, person.iris], 0.85)
        return numpy.select(
            [parts == EYES, parts == TEETH, parts == MOUTH, parts == LIPS, (parts == SKIN) & (brow | hair)],
            [eye, 0.55, 0.08, person.lips, person.brows],
            person.skin,
        )


def _macro_weights(
    genders: numpy.ndarray, ages: numpy.ndarray, races: numpy.ndarray, weights: numpy.ndarray
) -> dict[str, float]:  # fmt: skip
    """Return the weight of each target for gender, age, race and body weight, by its name."""
    found = {}
    for (gender, g), (age, a) in product(zip(GENDERS, genders, strict=True), zip(AGES, ages, strict=True)):
        for race, r in zip(RACES, races, strict=True):
            found[f"{race}-{gender}-{age}"] = float(g * a * r)
        for weight, w in zip(WEIGHTS, weights, strict=True):
            found[f"universal-{gender}-{age}-averagemuscle-{weight}"] = float(g * a * w)
    return found


def _unit_weights(names: list[str]) -> list[numpy.ndarray]:
    """Return the weights of each expression, (number of the package's units, number of its own units).

    Raise ValueError if a unit is missing.
    """
    expressions = []
    for units in EXPRESSIONS.values():
        table = numpy.zeros((len(names), len(units)))
        for column, (unit, weight) in enumerate(units.items()):
            sided = {unit, f"{unit}Left", f"{unit}Right"}
            here = [name in sided for name in names]
            if not any(here):
                raise ValueError(f"package: expected the facial unit {unit}, found none; fetch the package again")
            table[here, column] = weight
        expressions.append(table)
    return expressions


def _sum(weights: numpy.ndarray | list[float], displacements: numpy.ndarray) -> numpy.ndarray:
    """Return Σ weight · displacement, (V, 3)."""
    return numpy.tensordot(numpy.asarray(weights), displacements, axes=1)
