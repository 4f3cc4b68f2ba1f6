"""Train actor-critics: one learner plays batches of games (A2C), or several learners play in parallel (A3C).

A2C is one learner in this process, and may use a GPU. In A3C (Mnih et al. 2016, arXiv 1602.01783, algorithm S3) each
actor-learner is a process. Parameters and the optimizer's moments are in shared memory. An actor copies the parameters,
plays with the copy, and updates the shared parameters in place by its gradients, without a lock.

Every batch of games has its own random generator, seeded by seed, actor and batch number. So a run with one actor is
deterministic, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy
from threadpoolctl import threadpool_limits

from fastweights_np import Workspace, actor_critic, optim, shared_arrays, to_device
from fastweights_np.actor_critic import ActorCritic
from fastweights_np.backend import Array, array_module
from fastweights_np.distributed import Ranks
from fastweights_np.trees import flatten, map_leaves, unflatten

from ..running import checkpoints
from ..running.runs import DIVERGED, NOT_FINITE, RunFailed

OPTIMIZERS: dict[str, Any] = {"rmsprop": optim.RMSProp, "adam": optim.Adam}
REPORTED = ("reward", "policy loss", "value loss", "entropy", "batches")  # sums for each part of the run
POLL = 0.05  # seconds between two checks of the actors
PATIENCE = 30.0  # seconds that actors have to end; after that they are killed


class Game(Protocol):
    """A batch of games that begin and end together."""

    @property
    def over(self) -> bool:
        """Return whether the games have ended."""

    def reset(self, rng: numpy.random.Generator) -> None:
        """Begin new games."""

    def seen(self) -> Array:
        """Return the observations (games, inputs)."""

    def step(self, actions: Array) -> Array:
        """Take the actions (games,) and return the rewards (games,)."""


@dataclass(frozen=True)
class A3CConfig:
    """The configuration of the agent and its training, the same for all actors."""

    agent: ActorCritic
    games: int  # that an actor plays in parallel
    decisions: int  # in an episode
    frames: int  # in an episode
    steps: int  # decisions for each update; the last update of an episode may have fewer
    discount: float
    value_weight: float
    entropy_weight: float
    clip_norm: float
    optimizer: str
    rate_at: Callable[[int, int], float]  # learning rate after (frames played, frames in total)
    budget: int  # frames in total
    parts: int  # number of parts of the run; rewards are averaged over each part
    seed: int
    dtype: str

    def part(self, frame: int) -> int:
        """Return the part of the run that contains a frame."""
        return min(frame * self.parts // self.budget, self.parts - 1)

    def rng(self, actor: int, batch: int) -> numpy.random.Generator:
        """Return the generator of one actor's batch of games. The seed's first spawned generator draws the weights."""
        return numpy.random.default_rng(numpy.random.SeedSequence(self.seed, spawn_key=(1, actor, batch)))


# -------------------------------------------------------------------------------------------------------- shared state


class SharedState:
    """The state that learners share: parameters, the optimizer's moments, and each learner's counters.

    memory: shared bytes that hold all arrays. None: the arrays belong to this process only.
    """

    def __init__(self, config: A3CConfig, actors: int, memory: Any = None, device: str = "cpu") -> None:
        shapes = self.shapes(config, actors)
        memory = numpy.zeros(shared_arrays.size(shapes), "uint8") if memory is None else memory
        tree = unflatten(shared_arrays.place(shapes, memory))
        self.params, self.moments = to_device((tree["params"], tree["moments"]), device)
        self.batches, self.updates, self.sums = (tree["counts"][name] for name in ("batches", "updates", "sums"))
        self._frames_a_batch = config.games * config.frames

    @staticmethod
    def shapes(config: A3CConfig, actors: int) -> shared_arrays.Shapes:
        """Return the name, shape and dtype of each array. Batches are those that each actor has played."""
        params = flatten(config.agent.init(numpy.random.default_rng(0), config.dtype))
        size = sum(leaf.size for leaf in params.values())
        return [
            *((f"params/{name}", leaf.shape, leaf.dtype.str) for name, leaf in params.items()),
            *((f"moments/{name}", (size,), config.dtype) for name in OPTIMIZERS[config.optimizer].moments),
            ("counts/batches", (actors,), "int64"),
            ("counts/updates", (actors,), "int64"),
            ("counts/sums", (actors, config.parts, len(REPORTED)), "float64"),
        ]

    def frames(self) -> int:
        """Return the number of frames that all actors have played so far."""
        return int(self.batches.sum()) * self._frames_a_batch

    def arrays(self) -> dict[str, Any]:
        """Return all arrays, not copied, for a checkpoint."""
        counts = {"batches": self.batches, "updates": self.updates, "sums": self.sums}
        return {"params": self.params, "moments": self.moments, "counts": counts}

    def load(self, path: Path, arrays: dict[str, Any]) -> None:
        """Load the arrays that `arrays` returned and the file stores. Raise ValueError if they are of another run."""
        checkpoints.check_arrays(path, arrays, self.arrays())
        theirs = flatten(arrays)
        for name in ("batches", "updates", "sums"):
            counts = theirs[f"counts/{name}"]
            if (counts[..., -1] if name == "sums" else counts).min() < 0:
                raise checkpoints.unfit(path, f"counts/{name}: expected at least 0, got {counts.min()}")
        for name, leaf in flatten(self.arrays()).items():
            leaf[...] = array_module(leaf=leaf).asarray(theirs[name])


# -------------------------------------------------------------------------------------------------------------- learner


class Learner:
    """A learner: it plays batches of games and updates the shared state. Several learners may share one state.

    Several ranks share the games of one learner, and `game` holds this rank's share.
    """

    def __init__(
        self, config: A3CConfig, shared: SharedState, game: Game, actor: int = 0, ranks: Ranks | None = None
    ) -> None:  # fmt: skip
        self._ranks = ranks or Ranks()
        self._mine = self._ranks.share(config.games)
        self._config, self._shared, self._game, self._actor = config, shared, game, actor
        self._optimizer = OPTIMIZERS[config.optimizer](shared.params, moments=shared.moments)
        self._params = map_leaves(lambda leaf: leaf.copy(), shared.params)
        self._pairs = list(zip(flatten(self._params).values(), flatten(shared.params).values(), strict=True))
        self._xp = array_module(params=self._pairs[0][0])
        self._workspaces: dict[int, Workspace] = {}  # by the number of steps
        self._unreported: list[tuple[int, list[Array]]] = []  # each batch's first frame, and the values REPORTED

    def play(self) -> None:
        """Play a batch of games from beginning to end, and make its updates."""
        config, shared, game = self._config, self._shared, self._game
        rng, first_frame = config.rng(self._actor, int(shared.batches[self._actor])), shared.frames()
        game.reset(rng)
        sums: list[Any] = [0.0] * (len(REPORTED) - 1)
        state = None
        for start in range(0, config.decisions, config.steps):
            steps = min(config.steps, config.decisions - start)
            rate = config.rate_at(min(first_frame, config.budget), config.budget)
            try:
                state, rewards, loss = self._learn(steps, state, rng, rate)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}; it was at frame {first_frame}; {NOT_FINITE}") from error
            of_decisions = [value * (steps / config.decisions) for value in loss]
            sums = [before + value for before, value in zip(sums, [rewards, *of_decisions], strict=True)]
        self._unreported.append((first_frame, sums))
        shared.batches[self._actor] += 1

    def report(self) -> None:
        """Add the rewards and losses since the last report to the shared sums. Only this method waits for a GPU.

        Raise FloatingPointError if a loss was not finite.
        """
        for first_frame, values in self._unreported:
            sums = [float(value) for value in values]
            if not all(map(isfinite, sums)):
                raise FloatingPointError(
                    f"loss: expected a finite number, got {sums[1:]} at frame {first_frame}; {NOT_FINITE}"
                )
            self._shared.sums[self._actor, self._config.part(first_frame)] += [*sums, 1.0]
        self._unreported.clear()

    def _learn(
        self, steps: int, state: Any, rng: numpy.random.Generator, learning_rate: float
    ) -> tuple[Any, Array, actor_critic.Loss]:
        """Play these steps and update. Return the recurrent state, the mean reward of a game and the loss."""
        config, game, xp = self._config, self._game, self._xp
        for own, leaf in self._pairs:
            own[...] = leaf
        agent, params, dtype = config.agent, self._params, config.dtype
        # the argmax of the logits plus Gumbel noise is a sample from the softmax
        noise = xp.asarray(rng.gumbel(size=(steps, config.games, agent.actions))[:, self._mine].astype(dtype))
        games = noise.shape[1]
        actions, rewards = xp.empty((steps, games), "int64"), xp.empty((steps, games), dtype)

        def act(t: int, logits: Array) -> None:
            actions[t] = (logits + noise[t]).argmax(axis=1)
            rewards[t] = game.step(actions[t])

        def see(t: int, logits: Array | None) -> Array:
            if logits is not None:
                act(t - 1, logits)
            return game.seen()

        workspace = self._workspaces.setdefault(steps, Workspace())
        logits, values, cache = agent.forward(params, see, steps, games, state, workspace)
        act(steps - 1, logits[-1])
        if game.over:
            state, following = None, xp.zeros(games, dtype)
        else:
            state = agent.final_state(cache)
            following = agent.next_values(params, game.seen(), state)
        targets = actor_critic.returns(rewards, config.discount, following)
        loss, dlogits, dvalues = actor_critic.loss_and_gradients(
            logits, values, actions, targets, config.value_weight, config.entropy_weight
        )
        grads = agent.backward(dlogits, dvalues, cache)
        summed = self._ranks.add_up(
            {"reward": rewards.sum() / games, "loss": loss._asdict(), "grads": grads}, self._ranks.weight(config.games)
        )
        # copies: a view would keep all gradients in memory
        reward, loss = map_leaves(lambda value: value.copy(), (summed["reward"], type(loss)(**summed["loss"])))
        grads = summed["grads"]
        optim.clip_by_global_norm(grads, config.clip_norm)
        self._optimizer.updates = int(self._shared.updates.sum())
        self._optimizer.step(self._shared.params, grads, learning_rate)
        self._shared.updates[self._actor] += 1
        return state, reward, loss


# ----------------------------------------------------------------------------------------------------- several learners


class ActorError(RunFailed):
    """An actor process ended before the run was complete."""


class Actors:
    """Learners in separate processes, over a state in shared memory. `close` ends the processes.

    make_game() returns the game that an actor plays. It must be picklable.
    """

    def __init__(self, config: A3CConfig, actors: int, make_game: Any) -> None:
        context = multiprocessing.get_context("spawn")
        size = shared_arrays.size(SharedState.shapes(config, actors))
        memory = context.RawArray("b", size)  # anonymous: the system frees it when all end
        self.shared = SharedState(config, actors, memory)
        self._stop = context.Event()
        self._between = [context.Lock() for _ in range(actors)]  # held by an actor while it plays a batch
        pipes = [context.Pipe(duplex=False) for _ in range(actors)]
        self._message_pipes = [pipe[0] for pipe in pipes]
        self._processes = [
            context.Process(
                target=_act, daemon=True, name=f"actor {n}",
                args=(config, actors, n, make_game, memory, self._stop, self._between[n], pipes[n][1], os.getpid()),
            )
            for n in range(actors)
        ]  # fmt: skip
        self._actor_ends = [pipe[1] for pipe in pipes]

    def start(self) -> None:
        """Start the actors from the shared state."""
        with _signals_blocked():  # actors inherit it: only the parent process handles a terminal's Ctrl-C
            for process in self._processes:
                process.start()
        for end in self._actor_ends:
            end.close()

    def running(self) -> bool:
        """Wait briefly, return whether an actor still plays. Raise ActorError or FloatingPointError if one failed."""
        self._processes[0].join(POLL)
        playing = any(process.exitcode is None for process in self._processes)  # first, so that no failure is missed
        for number, process in enumerate(self._processes):
            if process.exitcode:
                message = _received_message(self._message_pipes[number])
                if process.exitcode == DIVERGED:
                    raise FloatingPointError(message)
                how = f"by signal {-process.exitcode}" if process.exitcode < 0 else f"with code {process.exitcode}"
                raise ActorError(f"actor {number} ended {how}" + (f": {message}" if message else ""))
        return playing

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold all actors between two batches within the block. Do not wait for an actor that died in a batch."""
        held = [
            lock
            for lock, process in zip(self._between, self._processes, strict=True)
            if _acquire(lock, lambda process=process: process.exitcode is None)  # type: ignore[misc]
        ]
        try:
            yield
        finally:
            for lock in held:
                lock.release()

    def close(self) -> None:
        """Ask all actors to end after their current batch, and wait for them."""
        self._stop.set()
        deadline = time.monotonic() + PATIENCE  # for all actors together
        for process in self._processes:
            if process.pid is None:
                continue
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        for end in self._message_pipes:
            end.close()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM within the block. Processes that start in it never receive them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received_message(pipe: Any) -> str | None:
    try:
        return pipe.recv()
    except EOFError:  # it was killed
        return None


def _acquire(lock: Any, waits: Callable[[], bool]) -> bool:
    """Acquire the lock while waits() is true: its holder may have died. Return whether it was acquired."""
    while not lock.acquire(timeout=POLL):
        if not waits():
            return False
    return True


def _act(
    config: A3CConfig, actors: int, number: int, make_game: Any, memory: Any, stop: Any, between: Any,
    message_pipe: Any, parent: int,
) -> None:  # fmt: skip
    """Play one batch after another in an actor process, until all actors together have played the budget."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where signals cannot be blocked
    try:
        with threadpool_limits(1):
            shared = SharedState(config, actors, memory)
            learner = Learner(config, shared, make_game(), number)

            def may_continue() -> bool:
                return shared.frames() < config.budget and not stop.is_set() and os.getppid() == parent

            while may_continue() and _acquire(between, may_continue):
                try:
                    learner.play()
                    learner.report()
                finally:
                    between.release()
                time.sleep(0)  # yield: else the lock is hardly ever free
    except FloatingPointError as error:
        message_pipe.send(str(error))
        sys.exit(DIVERGED)
    except Exception as error:
        message_pipe.send(f"{type(error).__name__}: {error}")
        raise
