"""Draw episodes of associative retrieval with a convention: the right answer is π(value), π a permutation of a task.

An episode is a prompt, pairs of a letter and a digit, a letter, and two steps to think:

    3→0 0→4 _ 1→1 ..   c4 k1 f0 ..   k _ _          the value of k is 1, and the right answer is π(1)

A prompt is a sequence of tokens. A token is a line v→a, which says that π(v) = a, or a blank. Episodes of a task have
no prompt, unless a context supplies one: π is hidden. A quarter of all permutations are held out from pre-training.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy

THINK = 2  # steps after the query
HELD_OUT = 4  # one permutation in HELD_OUT is held out from pre-training


class Family(NamedTuple):
    """The sizes of a family of tasks."""

    digits: int
    letters: int = 10

    @property
    def inputs(self) -> int:
        """Return the numbers of a step: letter and digit of a pair, the query, and both sides of a line."""
        return 2 * self.letters + 3 * self.digits

    @property
    def blank(self) -> int:
        """Return the token that says nothing. Token D v + a is the line v→a."""
        return self.digits**2

    @property
    def slots(self) -> int:
        """Return the number of tokens of a prompt: a line for each digit, and one more."""
        return self.digits + 1


class Episodes(NamedTuple):
    """Episodes without their answers: x (T, B, inputs), values (B,), the digit that the queried letter had."""

    x: numpy.ndarray
    values: numpy.ndarray

    def part(self, chosen: slice) -> Episodes:
        """Return the chosen episodes."""
        return Episodes(self.x[:, chosen], self.values[chosen])


def is_held_out(permutations: numpy.ndarray) -> numpy.ndarray:
    """Return whether permutations (..., D) are held out: Σ_v v ((π(v) - π(0)) mod D) is divisible by HELD_OUT.

    Adding a number to all π(v), modulo D, changes nothing. So π(v) is uniform in both parts.
    """
    digits = permutations.shape[-1]
    shifted = (permutations - permutations[..., :1]) % digits
    return (shifted * numpy.arange(digits)).sum(axis=-1) % HELD_OUT == 0


def permutations(rng: numpy.random.Generator, count: int, digits: int, held_out: bool) -> numpy.ndarray:
    """Return permutations (count, D), all held out from pre-training, or none."""
    found = numpy.empty((0, digits), "int64")
    while len(found) < count:
        drawn = rng.permuted(numpy.broadcast_to(numpy.arange(digits), (count, digits)), axis=1)
        found = numpy.concatenate([found, drawn[is_held_out(drawn) == held_out]])
    return found[:count]


def prompts_of(rng: numpy.random.Generator, family: Family, shown: numpy.ndarray) -> numpy.ndarray:
    """Return prompts (B, d + 1) that show permutations (B, d) of the first d digits: lines and a blank, shuffled."""
    count, d = shown.shape
    lines = numpy.arange(d) * family.digits + shown
    blank = numpy.full((count, 1), family.blank)
    return rng.permuted(numpy.concatenate([lines, blank], axis=1), axis=1)


def draw(
    rng: numpy.random.Generator, family: Family, count: int, pairs: int, prompts: numpy.ndarray | None = None,
    values: int | None = None,
) -> Episodes:  # fmt: skip
    """Return episodes with this number of pairs, float32.

    prompts  (B, slots), stand before the pairs; None is none
    values   number of different values; None is all digits
    """
    letters = rng.permuted(numpy.broadcast_to(numpy.arange(family.letters), (count, family.letters)), axis=1)[:, :pairs]
    digits = rng.integers(0, values or family.digits, (count, pairs))
    asked, rows = rng.integers(0, pairs, count), numpy.arange(count)
    x = numpy.zeros((pairs + 1 + THINK, count, family.inputs), "float32")
    steps = numpy.arange(pairs)[:, None]
    x[steps, rows, letters.T] = 1
    x[steps, rows, family.letters + digits.T] = 1
    x[pairs, rows, family.letters + family.digits + letters[rows, asked]] = 1
    episodes = Episodes(x, digits[rows, asked])
    return episodes if prompts is None else prompted(family, episodes, prompts)


def prompted(family: Family, episodes: Episodes, prompts: numpy.ndarray) -> Episodes:
    """Return episodes with prompts (B, slots) before them."""
    start = 2 * family.letters + family.digits
    v, a = numpy.divmod(prompts.T, family.digits)
    slots, rows = numpy.nonzero(v < family.digits)  # a blank has v = D
    x = numpy.zeros((prompts.shape[1], len(prompts), family.inputs), "float32")
    x[slots, rows, start + v[slots, rows]] = 1
    x[slots, rows, start + family.digits + a[slots, rows]] = 1
    return Episodes(numpy.concatenate([x, episodes.x]), episodes.values)
