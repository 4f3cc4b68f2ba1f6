"""Catch (section 4.4 of Ba et al. 2016): a paddle has to catch a falling ball, and the screen is blank after M frames.

The screen has N x N pixels, and an episode has N frames. A ball of one pixel starts in a random column of the first row
and falls one row in each frame. The paddle moves along the bottom row. When the ball is at the bottom row, the reward
is +1 if the paddle touches it, else -1. Frames after the Mth show neither ball nor paddle. The paper does not specify
the start of the paddle. Here it starts in the middle, as in DeepMind's bsuite, or optionally at random, which gives an
agent more to remember.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy

from fastweights_np import checks
from fastweights_np.backend import Array, HoldsModule

ACTIONS = ("left", "stay", "right")
STARTS = ("center", "random")


@dataclass(frozen=True)
class Rules:
    """The parameters of the game. Invalid ones raise ValueError or TypeError."""

    size: int = 16
    visible: int = 3
    paddle_width: int = 2
    paddle_start: Literal["center", "random"] = "center"

    def __post_init__(self) -> None:
        checks.count("size", self.size, least=2)
        checks.count("visible", self.visible, least=0)
        checks.count("paddle_width", self.paddle_width, least=1)
        checks.choice("paddle_start", self.paddle_start, STARTS)
        for name in ("visible", "paddle_width"):
            if (value := getattr(self, name)) > self.size:
                raise ValueError(f"{name}: expected at most size, {self.size}, got {value}")

    @property
    def decisions(self) -> int:
        """Return the number of actions in an episode: one after each frame except the last, which shows the outcome."""
        return self.size - 1

    @property
    def chance(self) -> float:
        """Return the random-policy baseline: the mean reward if the paddle's final position ignores the ball."""
        return 2 * self.paddle_width / self.size - 1


class Catch(HoldsModule):
    """A batch of games that begin and end together, held in arrays of the module `xp`.

    share: the games that are played here; None for all. The others' initial positions are drawn, too.
    """

    def __init__(
        self, rules: Rules, games: int, dtype: str = "float32", xp: ModuleType = numpy, share: slice | None = None
    ) -> None:  # fmt: skip
        checks.count("games", games, least=1)
        self.rules, self._xp, self._dtype = rules, xp, dtype
        self._games, self._share = games, share or slice(games)
        self._everyone = xp.arange(len(range(games)[self._share]))
        self.frame = 0
        self.ball = self.paddle = xp.zeros_like(self._everyone)  # columns: of the ball, of the paddle's left end

    def reset(self, rng: numpy.random.Generator) -> None:
        """Begin new games. The initial positions of balls and paddles are drawn on the host."""
        rules, games = self.rules, self._games
        self.frame = 0
        self.ball = self._xp.asarray(rng.integers(0, rules.size, games)[self._share])
        places = rules.size - rules.paddle_width + 1
        start = rng.integers(0, places, games) if rules.paddle_start == "random" else numpy.full(games, places // 2)
        self.paddle = self._xp.asarray(start[self._share])

    @property
    def over(self) -> bool:
        """Return whether the ball is at the bottom row."""
        return self.frame == self.rules.decisions

    def screen(self) -> Array:
        """Return the whole screen (games, N²): 1 where the ball or the paddle is, else 0."""
        size = self.rules.size
        pixels = self._xp.zeros((len(self._everyone), size * size), self._dtype)
        pixels[self._everyone, self.frame * size + self.ball] = 1
        for n in range(self.rules.paddle_width):
            pixels[self._everyone, (size - 1) * size + self.paddle + n] = 1
        return pixels

    def seen(self) -> Array:
        """Return the observation (games, N²): the screen, or zeros after the Mth frame."""
        if self.frame < self.rules.visible:
            return self.screen()
        return self._xp.zeros((len(self._everyone), self.rules.size**2), self._dtype)

    def step(self, actions: Array) -> Array:
        """Move the paddles by the actions (games,), indices into ACTIONS, and the balls. Return the rewards (games,).

        Raise RuntimeError if the games are over.
        """
        if self.over:
            raise RuntimeError("step: expected games that are not over; begin new ones by reset(rng)")
        rules, xp = self.rules, self._xp
        self.paddle = (self.paddle + actions - 1).clip(0, rules.size - rules.paddle_width)
        self.frame += 1
        if not self.over:
            return xp.zeros(len(self._everyone), self._dtype)
        caught = (self.ball >= self.paddle) & (self.ball < self.paddle + rules.paddle_width)
        return caught.astype(self._dtype) * 2 - 1
