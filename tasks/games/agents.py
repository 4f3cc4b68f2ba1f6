"""Actor-critics at play: a learner that plays a batch of games and learns, alone (A2C) or with others at once (A3C).

A2C is one learner, in this process, and may be on a GPU. In A3C (Mnih et al. 2016, arXiv 1602.01783, algorithm S3) each
actor-learner is a process; parameters and the optimizer's statistics lie in memory that all of them share, and each
changes them in place, without a lock, by the gradients of what it played itself with the copy that it took before.

Every batch of games draws from a generator of its own, fixed by seed, actor and number, so that a run with one actor is
deterministic, and goes on from a checkpoint as if it had not been stopped.
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
from math import isfinite, prod
from pathlib import Path
from typing import Any, Protocol

import numpy
from threadpoolctl import threadpool_limits

from fastweights_np import Workspace, actor_critic, optim, to_device
from fastweights_np.actor_critic import ActorCritic
from fastweights_np.backend import Array, array_module
from fastweights_np.trees import flatten, map_leaves, unflatten

from ..running import checkpoints
from ..running.runs import DIVERGED, NOT_FINITE, RunFailed

OPTIMIZERS: dict[str, Any] = {"rmsprop": optim.RMSProp, "adam": optim.Adam}
MEASURED = ("reward", "policy loss", "value loss", "entropy", "batches")  # what is added up in each part of the run
POLL = 0.05  # seconds between two looks at the actors
PATIENCE = 30.0  # seconds in which actors can end by themselves; after that they are killed


class Game(Protocol):
    """A batch of games that begin and end together."""

    @property
    def over(self) -> bool:
        """Whether they have ended."""

    def reset(self, rng: numpy.random.Generator) -> None:
        """Begins new ones."""

    def seen(self) -> Array:
        """What is seen, (games, inputs)."""

    def step(self, actions: Array) -> Array:
        """Takes the actions (games,); the rewards (games,)."""


@dataclass(frozen=True)
class Plan:
    """How to play and to learn; the same for all actors."""

    agent: ActorCritic
    games: int  # that an actor plays at the same time
    decisions: int  # in an episode
    frames: int  # in an episode
    steps: int  # after how many decisions parameters are updated; an episode's last part may be shorter
    discount: float
    value_weight: float
    entropy_weight: float
    clip_norm: float
    optimizer: str
    rate_at: Callable[[int, int], float]  # the learning rate, when so many frames of so many have been played
    budget: int  # frames in all
    parts: int  # of the run, in each of which rewards are averaged
    seed: int
    dtype: str

    def part(self, frame: int) -> int:
        """The part of the run that a frame belongs to."""
        return min(frame * self.parts // self.budget, self.parts - 1)

    def rng(self, actor: int, batch: int) -> numpy.random.Generator:
        """Of one batch of games of one actor; the first spawned by the seed draws the weights."""
        return numpy.random.default_rng(numpy.random.SeedSequence(self.seed, spawn_key=(1, actor, batch)))


# ------------------------------------------------------------------------------------------------------- what is shared


class Board:
    """All that changes while learners play: parameters, the optimizer's moments, and what each learner has done.

    memory: bytes that several processes see, in which everything lies; None for arrays of this process alone.
    """

    def __init__(self, plan: Plan, actors: int, memory: Any = None, device: str = "cpu") -> None:
        params = plan.agent.init(numpy.random.default_rng(0), plan.dtype)
        self._memory, self._offset = memory, 0
        flat = {name: self._array(leaf.shape, leaf.dtype) for name, leaf in flatten(params).items()}
        self.params = to_device(unflatten(flat), device)
        size = sum(leaf.size for leaf in flat.values())
        moments = {name: self._array((size,), plan.dtype) for name in OPTIMIZERS[plan.optimizer].moments}
        self.moments = to_device(moments, device)
        self.batches = self._array((actors,), "int64")  # that each actor has played
        self.updates = self._array((actors,), "int64")
        self.sums = self._array((actors, plan.parts, len(MEASURED)), "float64")
        self._frames_a_batch = plan.games * plan.frames

    @classmethod
    def size(cls, plan: Plan, actors: int) -> int:
        """How many bytes of memory it takes."""
        board = cls(plan, actors)
        return board._offset

    def _array(self, shape: tuple[int, ...], dtype: Any) -> numpy.ndarray:
        start = -(-self._offset // 64) * 64  # each on a cache line of its own
        self._offset = start + prod(shape) * numpy.dtype(dtype).itemsize
        if self._memory is None:
            return numpy.zeros(shape, dtype)
        return numpy.frombuffer(self._memory, dtype, prod(shape), start).reshape(shape)

    def frames(self) -> int:
        """Played so far, by all."""
        return int(self.batches.sum()) * self._frames_a_batch

    def arrays(self) -> dict[str, Any]:
        """All of it, for a checkpoint: the arrays themselves."""
        counts = {"batches": self.batches, "updates": self.updates, "sums": self.sums}
        return {"params": self.params, "moments": self.moments, "counts": counts}

    def load(self, path: Path, arrays: dict[str, Any]) -> None:
        """Take what `arrays` gave and the file holds. Raise ValueError if it belongs to another run."""
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
    """Plays batches of games and learns from them, on a board that may be others', too."""

    def __init__(self, plan: Plan, board: Board, game: Game, actor: int = 0) -> None:
        self._plan, self._board, self._game, self._actor = plan, board, game, actor
        self._optimizer = OPTIMIZERS[plan.optimizer](board.params, moments=board.moments)
        self._params = map_leaves(lambda leaf: leaf.copy(), board.params)
        self._pairs = list(zip(flatten(self._params).values(), flatten(board.params).values(), strict=True))
        self._xp = array_module(params=self._pairs[0][0])
        self._workspaces: dict[int, Workspace] = {}  # by the number of steps
        self._unreported: list[tuple[int, list[Array]]] = []  # of each batch its first frame, and what is MEASURED

    def play(self) -> None:
        """A batch of games, from their beginning to their end, and all updates in it."""
        plan, board, game = self._plan, self._board, self._game
        rng, first_frame = plan.rng(self._actor, int(board.batches[self._actor])), board.frames()
        game.reset(rng)
        sums: list[Any] = [0.0] * (len(MEASURED) - 1)
        state = None
        for start in range(0, plan.decisions, plan.steps):
            steps = min(plan.steps, plan.decisions - start)
            rate = plan.rate_at(min(first_frame, plan.budget), plan.budget)
            try:
                state, rewards, loss = self._learn(steps, state, rng, rate)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}; it was at frame {first_frame}; {NOT_FINITE}") from error
            of_decisions = [value * (steps / plan.decisions) for value in loss]
            sums = [before + value for before, value in zip(sums, [rewards, *of_decisions], strict=True)]
        self._unreported.append((first_frame, sums))
        board.batches[self._actor] += 1

    def report(self) -> None:
        """Puts down on the board how it went since the last report. A GPU is waited for here, and nowhere else.

        Raises FloatingPointError if a loss was not finite.
        """
        for first_frame, values in self._unreported:
            sums = [float(value) for value in values]
            if not all(map(isfinite, sums)):
                raise FloatingPointError(
                    f"loss: expected a finite number, got {sums[1:]} at frame {first_frame}; {NOT_FINITE}"
                )
            self._board.sums[self._actor, self._plan.part(first_frame)] += [*sums, 1.0]
        self._unreported.clear()

    def _learn(
        self, steps: int, state: Any, rng: numpy.random.Generator, learning_rate: float
    ) -> tuple[Any, Array, actor_critic.Loss]:
        """Some steps and the update by them: (the recurrent state after them, the rewards' sum in a game, the loss)."""
        plan, game, xp = self._plan, self._game, self._xp
        for own, shared in self._pairs:
            own[...] = shared
        agent, params, dtype = plan.agent, self._params, plan.dtype
        # the greatest of the logits with Gumbel noise is drawn from the softmax
        noise = xp.asarray(rng.gumbel(size=(steps, plan.games, agent.actions)).astype(dtype))
        actions, rewards = xp.empty((steps, plan.games), "int64"), xp.empty((steps, plan.games), dtype)

        def act(t: int, logits: Array) -> None:
            actions[t] = (logits + noise[t]).argmax(axis=1)
            rewards[t] = game.step(actions[t])

        def see(t: int, logits: Array | None) -> Array:
            if logits is not None:
                act(t - 1, logits)
            return game.seen()

        workspace = self._workspaces.setdefault(steps, Workspace())
        logits, values, cache = agent.forward(params, see, steps, plan.games, state, workspace)
        act(steps - 1, logits[-1])
        if game.over:
            state, following = None, xp.zeros(plan.games, dtype)
        else:
            state = agent.final_state(cache)
            following = agent.next_values(params, game.seen(), state)
        targets = actor_critic.returns(rewards, plan.discount, following)
        loss, dlogits, dvalues = actor_critic.loss_and_gradients(
            logits, values, actions, targets, plan.value_weight, plan.entropy_weight
        )
        grads = agent.backward(dlogits, dvalues, cache)
        optim.clip_by_global_norm(grads, plan.clip_norm)
        self._optimizer.updates = int(self._board.updates.sum())
        self._optimizer.step(self._board.params, grads, learning_rate)
        self._board.updates[self._actor] += 1
        return state, rewards.sum() / plan.games, loss


# ----------------------------------------------------------------------------------------------------- several learners


class ActorError(RunFailed):
    """An actor has ended before its time."""


class Actors:
    """Learners in processes of their own, over a board in memory that all share. Ends them when it is closed.

    make_game() makes the game that an actor plays; it has to be a function that another process can import.
    """

    def __init__(self, plan: Plan, actors: int, make_game: Any) -> None:
        context = multiprocessing.get_context("spawn")
        memory = context.RawArray("b", Board.size(plan, actors))  # without a name: nothing is left if all end
        self.board = Board(plan, actors, memory)
        self._stop = context.Event()
        self._between = [context.Lock() for _ in range(actors)]  # held by an actor while it plays a batch
        pipes = [context.Pipe(duplex=False) for _ in range(actors)]
        self._told = [pipe[0] for pipe in pipes]
        self._processes = [
            context.Process(
                target=_act, daemon=True, name=f"actor {n}",
                args=(plan, actors, n, make_game, memory, self._stop, self._between[n], pipes[n][1], os.getpid()),
            )
            for n in range(actors)
        ]  # fmt: skip
        self._theirs = [pipe[1] for pipe in pipes]

    def start(self) -> None:
        """Starts them, from what the board holds."""
        with _signals_held_back():  # which they inherit: a terminal's Ctrl-C is for the process that asked
            for process in self._processes:
                process.start()
        for end in self._theirs:
            end.close()

    def running(self) -> bool:
        """Waits a moment; whether any still plays. Raises ActorError or FloatingPointError if one has failed."""
        self._processes[0].join(POLL)
        playing = any(process.exitcode is None for process in self._processes)  # before: so that no failure is missed
        for number, process in enumerate(self._processes):
            if process.exitcode:
                told = _last_words(self._told[number])
                if process.exitcode == DIVERGED:
                    raise FloatingPointError(told)
                how = f"by signal {-process.exitcode}" if process.exitcode < 0 else f"with code {process.exitcode}"
                raise ActorError(f"actor {number} ended {how}" + (f": {told}" if told else ""))
        return playing

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Within, no actor is in the middle of a batch; one that has died in it is not waited for."""
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
        """Tells all to end after the batch that they play, and waits for it."""
        self._stop.set()
        deadline = time.monotonic() + PATIENCE  # for all of them together
        for process in self._processes:
            if process.pid is None:
                continue
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        for end in self._told:
            end.close()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Within, being told to stop waits; processes that are started then are never told."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _last_words(pipe: Any) -> str | None:
    try:
        return pipe.recv()
    except EOFError:  # it was killed
        return None


def _acquire(lock: Any, waits: Callable[[], bool]) -> bool:
    """Waits for the lock, for as long as waits() says so: who holds it may have died. Whether it was given."""
    while not lock.acquire(timeout=POLL):
        if not waits():
            return False
    return True


def _act(
    plan: Plan, actors: int, number: int, make_game: Any, memory: Any, stop: Any, between: Any, tell: Any, parent: int
) -> None:  # fmt: skip
    """An actor's life: one batch after another, until all actors together have played the budget."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where signals cannot be held back
    try:
        with threadpool_limits(1):
            board = Board(plan, actors, memory)
            learner = Learner(plan, board, make_game(), number)

            def goes_on() -> bool:
                return board.frames() < plan.budget and not stop.is_set() and os.getppid() == parent

            while goes_on() and _acquire(between, goes_on):
                try:
                    learner.play()
                    learner.report()
                finally:
                    between.release()
                time.sleep(0)  # or else the lock is hardly ever free
    except FloatingPointError as error:
        tell.send(str(error))
        sys.exit(DIVERGED)
    except Exception as error:
        tell.send(f"{type(error).__name__}: {error}")
        raise
