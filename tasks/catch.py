"""Train agents with memory to play Catch (section 4.4, figure 5): A3C or A2C with fast weights, LSTM or ReLU RNN."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy
from tqdm import tqdm

from fastweights_np import checks, distributed, fast_weights, files, to_device, to_host
from fastweights_np.actor_critic import ActorCritic
from fastweights_np.backend import array_module
from fastweights_np.trees import flatten

from .games.agents import REPORTED, A3CConfig, ActorError, Actors, Learner, SharedState
from .games.catch_game import ACTIONS, Catch, Rules
from .running import checkpoints, runs
from .running.layers import LayerSettings
from .running.machine import cores
from .running.runs import NOT_FINITE, Interruption, RunSettings, interrupts_noted

PARTS = 100  # number of parts of a run; rewards are averaged over each part
REPORT_EVERY = 10  # batches of games between two reports of A2C; each report waits for a GPU
LAST = 10  # the mean reward of this many last parts is the run's result
SHOWN = 512  # test games that the trained agent plays without learning
LEARNED = 0.9  # the mean reward that counts as having learned the game
W_SCALE = {"fast_weights": 0.5, "irnn": 0.9}  # at 0.5 a ReLU RNN without layer norm rarely learns (N, M) = (24, 5)


class Progress(TypedDict):
    """The contents of a checkpoint in addition to arrays."""

    settings: dict
    seconds: float
    ranks: int


@dataclass(frozen=True)
class Settings(LayerSettings, RunSettings):
    """Train an agent to catch a falling ball that it sees only in the first frames."""

    task: ClassVar[str] = "catch"
    objective: ClassVar[runs.Objective] = runs.Objective("mean_reward", "mean reward", maximize=True)
    recorded: ClassVar[tuple[str, ...]] = ("frames_to_learn",)
    length: ClassVar[str] = "frames"
    checkpoint: ClassVar[tuple[tuple[str, ...], type]] = (("params", "moments", "counts"), Progress)

    layer: Literal["fast_weights", "irnn", "lstm"] = "fast_weights"
    """Recurrent layer. irnn is the paper's ReLU RNN."""
    size: int = 16
    """N. The screen has N x N pixels, and an episode has N frames."""
    visible: int = 3
    """M, the number of visible frames. Later frames are blank. The paper uses M = 3 for N = 16 and M = 5 for N = 24."""
    paddle_width: int = 2
    """Width of the paddle in pixels."""
    paddle_start: Literal["center", "random"] = "center"
    """Initial position of the paddle: center, as in DeepMind's bsuite, or random. The paper does not specify it."""
    frames: int = 10_000_000
    """Total number of training frames of all actors."""
    games: int = 64
    """Number of games that each actor plays in parallel."""
    seed: int = 0
    """Random seed of weights and games. With a2c, or a3c with one actor, runs with the same seed and number of ranks
    are bit-identical."""
    threads: int = 1
    """BLAS threads of a2c. Each actor of a3c uses one thread."""
    method: Literal["a3c", "a2c"] = "a3c"
    """a3c: actor processes update shared parameters without a lock. a2c: one learner runs in this process and may use a
    GPU."""
    actors: int | None = None
    """Number of actor-learners of a3c. None: one for each core."""
    steps: int | None = None
    """Number of decisions (actions) between two updates. None: a whole episode."""
    discount: float = 0.99
    """γ, the discount factor."""
    value_weight: float = 0.5
    """Weight of the squared error of the value in the loss."""
    entropy_weight: float = 0.01
    """β, the weight of the entropy of the policy in the loss."""
    optimizer: Literal["rmsprop", "adam"] = "adam"
    """Optimizer. The actors share its moments. Mnih et al. use RMSProp."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm."""
    hidden_size: int = 128
    """R, the number of units of the recurrent layer and of the ReLU layer before it."""
    decay: float = 0.95
    """λ, the decay rate of the fast weights, from 0 to 1."""
    rate: float = 0.02
    """η, the learning rate of the fast weights."""
    recurrent_scale: float | None = None
    """Initialize W of fast weights and IRNN to this multiple of the identity. None: 0.5 for fast weights, 0.9 for
    IRNN."""
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rules()  # raises for invalid rules
        for name in ("frames", "games"):
            checks.count(name, getattr(self, name), least=1)
        checks.fraction("discount", self.discount)
        checks.not_negative("value_weight", self.value_weight)
        checks.not_negative("entropy_weight", self.entropy_weight)
        checks.not_negative("checkpoint_every", self.checkpoint_every)
        if self.steps is not None:
            checks.count("steps", self.steps, least=1)
            if self.steps > (decisions := self.rules().decisions):
                most = f"at most the {decisions} decisions of an episode"
                raise ValueError(f"steps: expected {most}, got {self.steps}; leave --steps out for a whole episode")
        if self.actors is not None:
            checks.count("actors", self.actors, least=1)
        if self.method == "a2c" and self.actors not in (None, 1):
            raise ValueError(f"actors: expected 1 for a2c, got {self.actors}; --games makes its batch larger")
        if self.method == "a3c" and self.device != "cpu":
            raise ValueError("device: expected cpu for a3c, whose actors are processes; on a GPU take --method a2c")

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError unless this number of ranks can share the games."""
        if ranks > 1 and self.method == "a3c":
            raise ValueError(
                f"method: expected a2c for {ranks} ranks, got a3c, whose actors share one machine's memory; pass "
                "--method a2c, or start it without mpiexec"
            )
        if ranks > self.games:
            raise ValueError(
                f"games: expected at least one for each of the {ranks} ranks, got {self.games}; raise it, or start "
                "fewer ranks"
            )

    @property
    def reports(self) -> int:
        """Return the number of lines of metrics that a whole run writes."""
        return PARTS

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        found = super().unused(values)
        return found | ({"threads": "the method a3c"} if values["method"] == "a3c" else {})

    def longer(self, arrays: dict[str, Any], length: int) -> dict[str, Any]:
        """Return the arrays of a checkpoint of a run of `length` frames, adapted to this longer run.

        The sums of each part move to the new part that contains the middle of the old one.
        """
        sums = arrays["counts"].get("sums") if isinstance(arrays["counts"], dict) else None
        if sums is None or sums.ndim != 3 or sums.shape[1] != PARTS:
            raise ValueError("checkpoint: expected sums of the rewards in each part of the run, got others")
        spread = numpy.zeros_like(sums)
        for part in range(PARTS):
            spread[:, (2 * part + 1) * length // (2 * self.frames)] += sums[:, part]
        return arrays | {"counts": arrays["counts"] | {"sums": spread}}

    def as_json(self) -> dict[str, Any]:
        """Return every setting that affects the result."""
        return {name: value for name, value in super().as_json().items() if name != "checkpoint_every"}

    def rules(self) -> Rules:
        """Return the rules of the game."""
        return Rules(self.size, self.visible, self.paddle_width, self.paddle_start)

    def a3c_config(self) -> A3CConfig:
        """Return the configuration of the agent and its training."""
        rules, of_layer = self.rules(), self.of_layer()
        if self.layer in W_SCALE:
            of_layer["init_options"].setdefault("recurrent_scale", W_SCALE[self.layer])
        agent = ActorCritic(self.size**2, len(ACTIONS), encoded_size=self.hidden_size, **of_layer)
        return A3CConfig(
            agent=agent, games=self.games, decisions=rules.decisions, frames=self.size,
            steps=self.steps or rules.decisions, discount=self.discount, value_weight=self.value_weight,
            entropy_weight=self.entropy_weight, clip_norm=self.clip_norm, optimizer=self.optimizer,
            rate_at=self.rate_at, budget=self.frames, parts=PARTS, seed=self.seed, dtype=self.dtype,
        )  # fmt: skip


def load(settings: Settings) -> None:
    """Return None: the game needs no data."""


def run(settings: Settings, folder: Path, data: None) -> dict[str, Any]:
    """Train the agent, test it, store the result and draw the pictures.

    Raise Interruption on Ctrl-C, after a checkpoint; ActorError if an actor ended early; FloatingPointError if a loss
    or a parameter was not finite. The last checkpoint is kept.
    """
    config = settings.a3c_config()
    training = _Training(settings, config, folder)
    training.run()
    if distributed.ranks().rank:
        return {}
    shared, curve = training.shared, training.curve()
    greedy, sampled = (play(settings, config, shared.params, noise) for noise in (0.0, 1.0))
    result: dict[str, Any] = {
        "mean_reward": training.last_reward(),
        "test_reward": float(sampled.rewards.mean()),
        "test_reward_greedy": float(greedy.rewards.mean()),
        "chance": settings.rules().chance,
        "actors": len(shared.batches),
        "frames": shared.frames(),
        "updates": int(shared.updates.sum()),
        "seconds": round(training.seconds, 1),
        "frames_per_second": round(shared.frames() / training.seconds),
        "curve": curve,
        "frames_to_learn": frames_to_learn(curve),
    }
    runs.store_result(folder, settings, result)
    print(f"\nmean training reward {result['mean_reward']:.3f} over the last tenth of {result['frames']:,} frames")
    print(
        f"mean test reward over {SHOWN} games: {result['test_reward']:.3f} with sampled actions, "
        f"{result['test_reward_greedy']:.3f} with greedy actions"
    )
    print(f"reward of an episode: 1 (caught) or -1 (missed); random-policy baseline: {result['chance']:.3f}")
    print(f"{result['frames_per_second']:,} frames/s, {result['seconds']:.0f} s")

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    figures.reward_curve(folder / "learning_curve.png", settings, result["curve"], result["chance"])
    outcome = "caught" if sampled.rewards[0] > 0 else "missed"
    figures.film_strip(folder / "episode.png", settings, sampled.screens, sampled.seen, outcome, sampled.attention)
    figures.film(folder / "episode.gif", sampled.screens, sampled.seen)
    return result


def frames_to_learn(curve: Sequence[dict[str, float]]) -> float | None:
    """Return the frames after which the mean reward of a part of the run first was LEARNED; None if it never was."""
    return next((line["frames"] for line in curve if line["mean_reward"] >= LEARNED), None)


class _Training:
    """One training run: the shared state, the learners that update it, and the checkpoints."""

    def __init__(self, settings: Settings, config: A3CConfig, folder: Path) -> None:
        self._settings, self._config, self._folder = settings, config, folder
        self._ranks = distributed.ranks()
        stored = self._ranks.first(lambda: checkpoints.load(folder, settings))
        actors = settings.actors or (_actors_of(stored[0]) if stored else cores())
        self._make_game = partial(Catch, settings.rules(), settings.games, settings.dtype)
        self._actors = Actors(config, actors, self._make_game) if settings.method == "a3c" else None
        self.shared = self._actors.shared if self._actors else SharedState(config, 1, device=settings.device)
        self.seconds = 0.0  # of training, in all sessions
        if stored is not None:
            arrays, info = stored
            self.shared.load(folder / checkpoints.NAME, arrays)
            self.seconds = info["seconds"]
            checkpoints.note_ranks(info["ranks"])
            self._print_origin()
            return
        weights = config.agent.init(settings.streams(1)[0], config.dtype)
        if settings.initial is not None:
            path, ours = settings.initial / checkpoints.NAME, weights
            initial = settings.initial
            weights = self._ranks.first(lambda: checkpoints.initial_params(initial)).params
            checkpoints.check_arrays(path, weights, ours, "name a run of the same network by --initial")
        for name, leaf in flatten(to_device(weights, settings.device)).items():
            flatten(self.shared.params)[name][...] = leaf

    def run(self) -> None:
        """Train until the budget of frames is reached."""
        if self.shared.frames() >= self._config.budget:
            return
        before, started = self.seconds, time.perf_counter()
        saved, part = started, 0
        bar = tqdm(total=self._config.budget, disable=None, unit=" frames", unit_scale=True, dynamic_ncols=True)
        with interrupts_noted() as interrupted, bar, self._playing():
            while self._play_on() and not self._ranks.any(bool(interrupted)):
                now, frames = time.perf_counter(), self.shared.frames()
                self.seconds = before + now - started
                bar.n = min(frames, self._config.budget)
                bar.set_postfix_str(f"mean reward {self._latest():.3f}")
                if self._config.part(frames) > part:
                    part = self._config.part(frames)
                    if not (self._folder / checkpoints.NAME).exists():
                        self.save()  # `load` takes metrics without a checkpoint for a lost one
                    self._write_metrics(part)
                    if bar.disable:  # no terminal
                        print(f"{frames:,} of {bar.total:,} frames: mean reward {self._latest():.3f}", flush=True)
                if now > saved + self._settings.checkpoint_every:
                    self.save()
                    saved = now
        self.seconds = before + time.perf_counter() - started
        self._ranks.check_equal(self.shared.params)
        self.save()
        self._ranks.any(False)  # the others wait until rank 0 has saved
        if self.shared.frames() < self._config.budget:
            raise Interruption
        self._write_metrics(PARTS)

    @contextmanager
    def _playing(self) -> Iterator[None]:
        """Run the actors, if there are any, within the block. If one dies, save a checkpoint and raise ActorError."""
        if self._actors is None:
            share = self._ranks.share(self._config.games)
            game = self._make_game(xp=self._module(), share=share)
            self._learner = Learner(self._config, self.shared, game, ranks=self._ranks)
            yield
            return
        try:
            self._actors.start()
            yield
        except ActorError as error:
            self._actors.close()
            self.save()
            raise ActorError(
                f"{error}; the checkpoint holds {self.shared.frames():,} frames; resume with: "
                f"python -m tasks {self._settings.task} --resume {self._folder}"
            ) from error
        finally:
            self._actors.close()

    def _module(self) -> Any:
        return array_module(**flatten(self.shared.params))

    def _play_on(self) -> bool:
        """Play briefly and return whether the budget is not yet reached."""
        if self._actors is not None:
            return self._actors.running()
        for _ in range(REPORT_EVERY):
            if self.shared.frames() < self._config.budget:
                self._learner.play()
        self._learner.report()
        return self.shared.frames() < self._config.budget

    def curve(self, parts: int = PARTS) -> list[dict[str, float]]:
        """Return the metrics of each of the first parts of the run. Parts in which no games began are left out."""
        sums, config = self.shared.sums.sum(axis=0)[:parts], self._config
        names = [name.replace(" ", "_") for name in REPORTED[1:-1]]
        return [
            {
                "frames": min(-(-(part + 1) * config.budget // config.parts), self.shared.frames()),  # rounded up
                "mean_reward": float(row[0] / row[-1]),
                **{name: float(value / row[-1]) for name, value in zip(names, row[1:-1], strict=True)},
            }
            for part, row in enumerate(sums)
            if row[-1]
        ]

    def last_reward(self) -> float:
        """Return the mean reward of the games that began in the last parts of the run, or of all games if none did."""
        sums = self.shared.sums.sum(axis=0)
        last = sums[-LAST:].sum(axis=0)
        rewards, *_, batches = last if last[-1] else sums.sum(axis=0)
        return float(rewards / batches)

    def _latest(self) -> float:
        curve = self.curve()
        return curve[-1]["mean_reward"] if curve else float("nan")

    def _write_metrics(self, parts: int) -> None:
        """Write the metrics of the finished parts. A line changes later only for games that began in its part."""
        if self._ranks.rank:
            return
        files.write_text(self._folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.curve(parts)))

    def save(self) -> None:
        """Write a checkpoint. Raise FloatingPointError if a number is not finite; the previous checkpoint is kept."""
        if self._ranks.rank:
            return
        with self._actors.paused() if self._actors else nullcontext():
            arrays = to_host(self.shared.arrays())
            info: Progress = {
                "settings": self._settings.as_json(), "seconds": self.seconds, "ranks": self._ranks.size,
            }  # fmt: skip
            checkpoints.save(self._folder, arrays, dict(info), f"frame {self.shared.frames()}")

    def _print_origin(self) -> None:
        settings, frames = self._settings, self.shared.frames()
        if settings.continues is not None:
            rate = settings.rate_at(min(frames, settings.frames), settings.frames)
            print(
                f"continues {settings.continues} after {frames:,} frames, as a run of {settings.frames:,} frames: the "
                f"learning rate resumes at {rate:.3g}, the value of the longer run's {settings.schedule} schedule at "
                "this frame",
                flush=True,
            )


def _actors_of(arrays: dict[str, Any]) -> int:
    """Return the number of actors of the run that wrote a checkpoint."""
    counts = arrays["counts"]
    return max(numpy.size(counts.get("batches", 0) if isinstance(counts, dict) else 0), 1)


# ------------------------------------------------------------------------------------------------- playing when trained


@dataclass(frozen=True)
class Played:
    """Games of a trained agent: the rewards (games,) of all games, and the frames of the first game.

    screens, seen: (N, N, N), the whole screens and the observations. logits: (N - 1, actions) of the policy. attention:
    (frames, frames), how strongly each frame attends to earlier frames; None without fast weights. cache: of the
    recurrent layer, for all games.
    """

    rewards: numpy.ndarray
    screens: numpy.ndarray
    seen: numpy.ndarray
    logits: numpy.ndarray
    attention: numpy.ndarray | None
    cache: Any


def play(
    settings: Settings, config: A3CConfig, params: Any, noise: float, games: int = SHOWN,
    rng: numpy.random.Generator | None = None,
) -> Played:  # fmt: skip
    """Play games without learning. Actions are sampled from the policy for noise 1, and greedy for noise 0.

    rng draws the games. None: a generator that the seed of the run determines.
    """
    xp = array_module(**flatten(params))
    game, rng = Catch(settings.rules(), games, settings.dtype, xp), rng or settings.streams(3)[2]
    game.reset(rng)
    screens, seen = [], []

    def record() -> Any:
        screens.append(to_host(game.screen()[0]))
        seen.append(to_host(game.seen()[0]))
        return game.seen()

    def act(logits: Any) -> Any:
        drawn = logits + noise * xp.asarray(rng.gumbel(size=logits.shape).astype(settings.dtype))
        return game.step(drawn.argmax(axis=1))

    def see(t: int, logits: Any) -> Any:
        if logits is not None:
            act(logits)
        return record()

    logits, _, cache = config.agent.forward(params, see, config.decisions, games)
    if not bool(xp.isfinite(logits).all()):
        raise FloatingPointError(f"logits: expected finite ones of the trained agent, got others; {NOT_FINITE}")
    rewards = act(logits[-1])
    record()
    attention = None
    if settings.layer == "fast_weights" and config.decisions > 1:  # the first frame has no earlier frame to attend to
        attention = numpy.full((settings.size, settings.size), numpy.nan)
        for t in range(1, config.decisions):
            attention[t, :t] = to_host(fast_weights.attention(cache[-1], t)[0])
    shape = (settings.size,) * 3
    return Played(
        to_host(rewards), numpy.reshape(screens, shape), numpy.reshape(seen, shape), to_host(logits[:, 0]), attention,
        cache[-1],
    )  # fmt: skip
