"""Catch as a Gymnasium environment, for other agents: pip install -e ".[gym]".

import gymnasium
import tasks.games.catch_environment
env = gymnasium.make("fastweights_np/Catch-v0", size=24, visible=5, render_mode="ansi")
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy
from gymnasium.spaces import Box, Discrete

from .catch_game import ACTIONS, Catch, Rules

PIXELS = 8  # width in the picture of one pixel of the game
COLOURS = numpy.array([[0, 0, 0], [255, 255, 255], [60, 60, 60]], "uint8")  # background, visible, invisible


class CatchEnvironment(gymnasium.Env):
    """One game. Observations (N, N) of 0 and 1, blank after the Mth frame; actions 0, 1, 2: left, stay, right."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}  # noqa: RUF012 (Env's own form)

    def __init__(
        self, size: int = 16, visible: int = 3, paddle_width: int = 2,
        paddle_start: Literal["center", "random"] = "center", render_mode: str | None = None,
    ) -> None:  # fmt: skip
        known = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in known:
            raise ValueError(f"render_mode: expected None or one of {', '.join(known)}; got {render_mode!r}")
        self.rules, self.render_mode = Rules(size, visible, paddle_width, paddle_start), render_mode
        self.observation_space = Box(0, 1, (size, size), numpy.float32)
        self.action_space = Discrete(len(ACTIONS))
        self._game = Catch(self.rules, 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[numpy.ndarray, dict]:
        """Begin a game and return (observation, {})."""
        super().reset(seed=seed)
        self._game.reset(self.np_random)
        return self._square(self._game.seen()), {}

    def step(self, action: int) -> tuple[numpy.ndarray, float, bool, bool, dict[str, Any]]:
        """Take an action and return (observation, reward, whether the game is over, False, {})."""
        if not self.action_space.contains(action):
            raise ValueError(f"action: expected 0, 1 or 2, for {', '.join(ACTIONS)}; got {action!r}")
        reward = self._game.step(numpy.array([action]))
        return self._square(self._game.seen()), float(reward[0]), self._game.over, False, {}

    def render(self) -> Any:
        """Return the whole screen as a picture (rows, columns, 3) or lines of text, where o marks invisible pixels."""
        screen = self._square(self._game.screen()).astype(int)
        hidden = self._game.frame >= self.rules.visible
        if self.render_mode == "rgb_array":
            return COLOURS[screen * (2 if hidden else 1)].repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
        if self.render_mode == "ansi":
            marks = ".o" if hidden else ".#"
            return "".join("".join(marks[pixel] for pixel in row) + "\n" for row in screen)
        return None

    def _square(self, pixels: numpy.ndarray) -> numpy.ndarray:
        return pixels.reshape(self.rules.size, self.rules.size)


gymnasium.register("fastweights_np/Catch-v0", f"{__name__}:CatchEnvironment")
