"""Learn by context and by weights: fast and slow channels that share one reward, after Fast-Slow Training.

A task is associative retrieval with a hidden convention: the rewarded answer is π(value). A base policy can retrieve,
and follow a π that is shown. What is left to learn is π alone. Every episode is counted, for both channels.

This is FST-style, not a reproduction of arXiv 2605.12484, which trains language models and evolves their prompts.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal, TypedDict

import numpy
from tqdm import tqdm

from fastweights_np import checks, files, optim
from fastweights_np.trees import flatten, map_leaves

from .contexts import base
from .contexts.base import BaseConfig
from .contexts.channels import NoContexts, StateContexts
from .contexts.episodes import draw, permutations
from .contexts.evolution import PromptContexts
from .contexts.learner import Channel, Learner, Rates
from .contexts.stages import Stage, kind_of, stages, with_contexts
from .running import checkpoints, runs, typed
from .running.runs import NOT_FINITE, Interruption, RunSettings, interrupts_noted

MOST_TASKS = 8  # so many different permutations are drawn with certainty
LEARNED = 0.9  # reward at which a task counts as learned
MEASURES = ("reward", "neutral_reward", "entropy", "kl", "base_accuracy", "mean_reward")
LINE = ("update", "stage", "episodes", "seconds", *MEASURES)


class Progress(TypedDict):
    """The contents of a checkpoint in addition to arrays."""

    settings: dict
    data: str
    update: int
    random_state: dict
    curve: list
    seconds: float
    ranks: int


@dataclass(frozen=True)
class Settings(RunSettings):
    """Learn hidden permutations by a policy's context, by its weights, or by both, and count every episode."""

    task: ClassVar[str] = "fast_slow"
    objective: ClassVar[runs.Objective] = runs.Objective("mean_reward", "mean reward", maximize=True)
    recorded: ClassVar[tuple[str, ...]] = ("episodes_to_learn",)
    length: ClassVar[str] = "tasks"
    checkpoint: ClassVar[tuple[tuple[str, ...], type]] = (("params", "kept", "moments", "channel"), Progress)

    layer: Literal["fast_weights"] = "fast_weights"
    """Recurrent layer."""
    method: Literal["slow", "fast", "both", "fast_then_slow", "slow_then_fast", "random"] = "both"
    """slow: weights alone. fast: contexts alone. both: in turns. A_then_B: half the episodes each. random: the weights
    learn with random contexts that stay as they are."""
    context: Literal["state", "block", "prompt"] = "state"
    """state: initial states (h0, A0). block: as many parameters of the task's own. prompt: evolved tokens."""
    contexts: int = 4
    """K, the number of contexts. Each gets the same share of the episodes."""
    rank: int = 5
    """Vectors a of each A0 = Σ a aᵀ. Odd: a block then has as many numbers as a state."""
    context_scale: float = 0.1
    """Standard deviation of the numbers of new states."""
    feedback: bool = False
    """Mutations of prompts see the right symbol of failed episodes."""
    interleave: int = 6
    """Updates of one channel before the other has its turn. 0: both learn from the same episodes."""
    tasks: int = 3
    """Number of tasks, learned one after the other. Each begins with new contexts."""
    second: bool = True
    """After the first task, also train a copy of the weights alone on the second task. It is then discarded."""
    restart: bool = False
    """Begin each task with the base policy, not with the weights after the task before."""
    episodes: int = 128_000
    """Episodes of each task, of all channels together."""
    problems: int = 32
    """Problems in each update."""
    rollouts: int = 8
    """G, the episodes of each problem in an update, of all contexts together. A multiple of --contexts, and of twice
    as many for prompts."""
    evaluate_every: int = 4096
    """Episodes between two evaluations."""
    pairs: int = 6
    """K, the number of pairs in an episode. Pre-training has 2 or 3."""
    digits: int = 5
    """D, the number of digits, which a π permutes."""
    hidden_size: int = 64
    """R, the number of units of the recurrent layer."""
    decay: float = 0.95
    """λ, the decay rate of the fast weights, from 0 to 1."""
    rate: float = 0.5
    """η, the learning rate of the fast weights."""
    base_seed: int = 0
    """Random seed of the base policy. It is trained at its first use, and kept."""
    base_updates: int = 10_000
    """Updates of the base policy's pre-training."""
    data_dir: Path | None = None
    """Folder of the base policies. None: runs/bases."""
    learning_rate: float = 3e-4
    """Learning rate of the weights. Adam."""
    fast_learning_rate: float = 0.02
    """Learning rate of states and blocks. Adam."""
    schedule: Literal["linear", "constant", "cosine"] = "constant"
    """Learning-rate schedule of each task. linear, cosine: constant for the fraction --hold, then decay to zero."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm."""
    clip: float = 2.0
    """τ, the largest importance ratio."""
    kl_weight: float = 0.0
    """Weight of KL(policy‖base policy), measured on episodes that show a permutation, in the loss of the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("contexts", "rank", "tasks", "episodes", "problems", "rollouts", "evaluate_every", "pairs"):
            checks.count(name, getattr(self, name), least=1)
        for name in ("interleave", "base_seed"):
            checks.count(name, getattr(self, name), least=0)
        checks.count("digits", self.digits, least=5)  # of 4 digits, no permutation is held out
        checks.count("hidden_size", self.hidden_size, least=1)
        checks.count("base_updates", self.base_updates, least=1)
        for name in ("context_scale", "fast_learning_rate", "clip", "kl_weight", "rate"):
            checks.not_negative(name, getattr(self, name))
        checks.fraction("decay", self.decay)
        if self.tasks > MOST_TASKS:
            raise ValueError(f"tasks: expected at most {MOST_TASKS}, got {self.tasks}")
        if self.device != "cpu":
            raise ValueError("device: expected cpu for fast_slow, whose arrays are small, got cuda; leave --device out")
        if not self.rank % 2:
            raise ValueError(f"rank: expected an odd number, so that a block can have as many numbers, got {self.rank}")
        answering = self.contexts * (2 if self.context == "prompt" else 1)
        if self.method != "slow" and self.rollouts % answering:
            raise ValueError(f"rollouts: expected a multiple of {answering}, got {self.rollouts}; see --contexts")
        if self.episodes < self.batch:
            raise ValueError(
                f"episodes: expected at least the {self.batch} of one update, got {self.episodes}; raise it, or lower "
                "--problems"
            )
        if self.pairs > self.base.family.letters:
            raise ValueError(f"pairs: expected at most the {self.base.family.letters} letters, got {self.pairs}")

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        found, method, context = super().unused(values), values["method"], values["context"]
        if method == "slow":
            names = ("context", "contexts", "rank", "context_scale", "feedback", "interleave", "fast_learning_rate")
            return found | dict.fromkeys(names, "the method slow")
        if method != "both":
            found["interleave"] = f"the method {method}"
        if method == "fast":
            found["kl_weight"] = "the method fast"
        if method == "random":
            found["fast_learning_rate"] = "the method random"
        if context == "prompt":
            found |= dict.fromkeys(("rank", "context_scale", "fast_learning_rate"), "the context prompt")
        else:
            found["feedback"] = f"the context {context}"
        return found

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError for several ranks: the batches are too small to share."""
        if ranks > 1:
            raise ValueError(
                f"ranks: expected 1 for fast_slow, whose batches are small, got {ranks}; leave mpiexec out"
            )

    @property
    def base(self) -> BaseConfig:
        """Return what the base policy depends on."""
        return BaseConfig(
            self.digits, self.hidden_size, self.decay, self.rate, self.base_updates, self.base_seed
        )  # fmt: skip

    @property
    def batch(self) -> int:
        """Return the episodes of one update."""
        return self.problems * self.rollouts

    @property
    def updates(self) -> int:
        """Return the updates of one stage."""
        return self.episodes // self.batch

    @property
    def stages(self) -> list[Stage]:
        """Return the stages of the run."""
        return stages(self.method, self.tasks, self.second)

    @property
    def evaluated(self) -> list[int]:
        """Return the updates of a stage after which there is an evaluation: the last one, too."""
        every = max(1, self.evaluate_every // self.batch)
        return sorted({*range(every, self.updates + 1, every), self.updates})

    @property
    def reports(self) -> int:
        """Return the number of lines of metrics that a whole run writes."""
        return len(self.stages) * len(self.evaluated)


def load(settings: Settings) -> dict[str, Any]:
    """Return the parameters of the base policy, which is trained if there is none."""
    return base.load(settings.base, settings.data_dir or Path("runs") / "bases")


def run(settings: Settings, folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Learn all tasks, store the result and draw the pictures. Raise Interruption on Ctrl-C, after a checkpoint."""
    training = _Training(settings, folder, data)
    training.run()
    result = {
        **summary(settings, training.curve),
        "written_accuracy": base.written_accuracy(settings.base, training.base, settings.pairs),
        "updates": training.update,
        "seconds": round(training.seconds(), 1),
        "curve": training.curve,
    }
    runs.store_result(folder, settings, result)
    print("\nstage: episodes to a reward of 0.9, reward and KL(policy‖base policy) at the end")
    for stage in result["stages"]:
        learned = stage["episodes_to_learn"]
        when = "never" if learned is None else f"{learned:,}"
        print(f"  {stage['name']}: {when}, {stage['reward']:.3f}, {stage['kl']:.4f}")
    print(f"{training.update} updates in {training.seconds():.0f} s")

    from . import figures  # imports Matplotlib, which takes as long as all the rest

    names = [stage.name for stage in settings.stages]
    figures.contexts_curve(folder / "learning_curve.png", settings, training.curve, names, 1 / settings.digits)
    return result


def summary(settings: Settings, curve: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return what a curve shows of each stage, and of all stages of the run's own method."""
    found: list[dict[str, Any]] = []
    for n, stage in enumerate(settings.stages):
        lines = [line for line in curve if line["stage"] == n]
        learned = next((line for line in lines if line["reward"] >= LEARNED), None)
        last = {name: lines[-1][name] for name in MEASURES}
        found.append(
            {
                "name": stage.name,
                **last,
                "episodes_to_learn": learned and learned["episodes"],
                "kl_when_learned": learned and learned["kl"],
            }
        )
    own = [each for each in found if each["name"] != "second"]
    times = [each["episodes_to_learn"] for each in own]
    return {
        "mean_reward": fmean(each["mean_reward"] for each in own),
        "final_reward": own[0]["reward"],
        "episodes_to_learn": times[0],
        "stages": found,
    }


class _Training:
    """The state of one run, which a checkpoint stores, and the methods that advance it."""

    def __init__(self, settings: Settings, folder: Path, base: dict[str, Any]) -> None:
        self.settings, self.folder = settings, folder
        self.base = self._initial(map_leaves(lambda array: array.astype(settings.dtype), base))
        self._data = hashlib.sha256(b"".join(array.tobytes() for array in flatten(self.base).values())).hexdigest()
        (self._random,) = settings.streams(1)
        self.params, self.kept = _copy(self.base), _copy(self.base)
        self.update, self.curve = 0, list[dict[str, float]]()
        self._before, self._started = 0.0, time.perf_counter()
        self.pi = permutations(numpy.random.default_rng([settings.seed, 1]), 64, settings.digits, held_out=True)
        self.pi = _distinct(self.pi, max(settings.tasks, 2))
        self._begin_stage()

    def _initial(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of the run that settings.initial names, or `params` if it names none."""
        run = self.settings.initial
        if run is None:
            return params
        found, _ = checkpoints.initial_params(run)
        checkpoints.check_arrays(run / checkpoints.NAME, found, params, "name a run of the same network by --initial")
        return found

    @property
    def total(self) -> int:
        """Return the updates of the whole run."""
        return len(self.settings.stages) * self.settings.updates

    @property
    def stage(self) -> Stage:
        """Return the current stage."""
        return self.settings.stages[self._stage]

    def _begin_stage(self) -> None:
        """Make the learner of the stage that the next update belongs to: new contexts, and a new optimizer."""
        self._stage = min(self.update // self.settings.updates, len(self.settings.stages) - 1)
        settings, stage = self.settings, self.stage
        pi = self.pi[stage.task]
        self.learner = Learner(
            settings.base.policy, settings.base.family, self.base, self.params, self._channel(stage, pi), pi,
            settings.pairs, settings.problems, settings.rollouts,
        )  # fmt: skip

    def _channel(self, stage: Stage, pi: numpy.ndarray) -> Channel:
        """Return new contexts. Their generator depends on the seed and the stage alone."""
        settings, rng = self.settings, numpy.random.default_rng([self.settings.seed, 2, self._stage])
        if stage.method == "slow":
            return NoContexts()
        if settings.context == "prompt":
            family = settings.base.family
            instances = draw(rng, family, settings.problems, settings.pairs)
            return PromptContexts(
                rng, family, settings.contexts, instances, pi[instances.values], settings.feedback
            )  # fmt: skip
        return StateContexts(
            rng, settings.context, settings.contexts, settings.hidden_size, settings.rank, settings.context_scale,
            settings.dtype,
        )  # fmt: skip

    def run(self) -> None:
        """Make all remaining updates."""
        total = self.total
        with interrupts_noted() as interrupted, tqdm(total=total, initial=self.update, disable=None) as bar:
            self.restore()
            while self.update < total:
                self._learn()
                bar.update(self.update - bar.n)
                if bar.disable and self.update % self.settings.updates == 0:  # no terminal
                    print(self._line(), flush=True)
                if interrupted and self.update < total:
                    self.save()
                    raise Interruption

    def _learn(self) -> None:
        """Make one update; evaluate and save after it, if it is time; begin the next stage after a stage's last one."""
        settings, stage = self.settings, self.stage
        within = self.update % settings.updates
        factor = optim.SCHEDULES[settings.schedule](within, settings.updates, settings.hold)
        rates = Rates(
            settings.learning_rate * factor, settings.fast_learning_rate * factor, settings.clip, settings.clip_norm,
            settings.kl_weight,
        )  # fmt: skip
        kind = kind_of(stage.method, within, settings.updates, settings.interleave)
        acts = with_contexts(stage.method, within, settings.updates)
        try:
            self.learner.update(self._random, kind, rates, acts)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; it was update {self.update + 1}; {NOT_FINITE}") from error
        self.update += 1
        if within + 1 in settings.evaluated:
            self._evaluate(acts)
        if within + 1 == settings.updates:
            self._end_stage()
        if within + 1 in settings.evaluated:
            self.save()  # before the metrics, which resuming rewrites from the checkpoint
            self._write_metrics()

    def _evaluate(self, acts: bool) -> None:
        within = (self.update - 1) % self.settings.updates + 1
        measured = self.learner.measure(acts)
        rewards = [line["reward"] for line in self.curve if line["stage"] == self._stage]
        measured["mean_reward"] = fmean([*rewards, measured["reward"]])
        measured = {name: float(f"{value:.4g}") for name, value in measured.items()}
        line = {"update": self.update, "stage": self._stage, "episodes": within * self.settings.batch}
        self.curve.append(line | {"seconds": round(self.seconds(), 2)} | measured)

    def _end_stage(self) -> None:
        """Keep the weights after the first task, or return to what a stage must not change, and begin the next."""
        if self.stage.name == "second":
            self.params = _copy(self.kept)
        if self.settings.restart:
            self.params = _copy(self.base)
        if self._stage == 0:
            self.kept = _copy(self.params)
        if self.update < self.total:
            self._begin_stage()

    def seconds(self) -> float:
        """Return the training time so far, over all sessions."""
        return self._before + time.perf_counter() - self._started

    def _line(self) -> str:
        line = self.curve[-1]
        name = self.settings.stages[int(line["stage"])].name
        return (
            f"{name}: reward {line['reward']:.3f} after {line['episodes']:,} episodes, KL {line['kl']:.4f}, "
            f"{self.seconds():.0f} s"
        )

    def _moments(self) -> dict[str, Any]:
        state = self.learner.adam.state()
        return {name: state[name] for name in self.learner.adam.moments}

    def _arrays(self) -> dict[str, Any]:
        return {
            "params": self.params, "kept": self.kept, "moments": self._moments(),
            "channel": self.learner.channel.arrays,
        }  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint. Raise FloatingPointError if a number is not finite; the previous checkpoint is kept."""
        info: Progress = {
            "settings": self.settings.as_json(), "data": self._data, "update": self.update,
            "random_state": dict(self._random.bit_generator.state), "curve": self.curve, "seconds": self.seconds(),
            "ranks": 1,
        }  # fmt: skip
        checkpoints.save(self.folder, self._arrays(), dict(info), f"update {self.update}")

    def _write_metrics(self) -> None:
        files.write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.curve))

    def restore(self) -> None:
        """Resume from the folder's checkpoint, if there is one. Raise ValueError if it does not fit the run."""
        stored = checkpoints.load(self.folder, self.settings)
        if stored is None:
            return
        arrays, info = stored
        path = self.folder / checkpoints.NAME
        if info["data"] != self._data:
            raise ValueError(
                f"data: expected the base policy that {path} was made with, got another one (its SHA-256 differs); "
                "name its folder by --data-dir, or start anew"
            )
        self._check_progress(path, info)
        self.update, self.curve, self._before = info["update"], info["curve"], info["seconds"]
        self._begin_stage()
        checkpoints.check_arrays(path, arrays, self._arrays())
        for ours, theirs in ((self.params, arrays["params"]), (self.kept, arrays["kept"])):
            for name, leaf in flatten(theirs).items():
                flatten(ours)[name][...] = leaf  # the learner has these arrays
        if kinds := self._kinds_so_far():  # else the stage begins: its contexts and moments are new
            slow, fast = (sum(kind in (one, "same") for kind in kinds) for one in ("slow", "fast"))
            self.learner.adam.load_state(arrays["moments"] | {"updates": slow})
            if not isinstance(self.learner.channel, NoContexts):
                self.learner.channel.load(arrays["channel"], fast)
        self._write_metrics()  # drops lines after the checkpoint: their updates are repeated
        self._print_origin()

    def _kinds_so_far(self) -> list[str]:
        """Return what learned in each update of the current stage."""
        settings = self.settings
        return [
            kind_of(self.stage.method, n, settings.updates, settings.interleave)
            for n in range(self.update - self._stage * settings.updates)
        ]

    def _print_origin(self) -> None:
        settings = self.settings
        if settings.continues is not None:
            rate = settings.rate_at(0, settings.updates)
            print(
                f"continues {settings.continues} after {self.update} updates, as a run of {self.total} updates "
                f"({settings.tasks} tasks): the learning rate resumes at {rate:.3g}, with which each task begins",
                flush=True,
            )

    def _check_progress(self, path: Path, info: dict[str, Any]) -> None:
        """Restore the random state. Raise ValueError unless the counters and the curve fit the run."""
        if not 0 <= info["update"] <= self.total:
            raise checkpoints.unfit(path, f"update: expected 0 to {self.total}, got {info['update']}")
        places = [
            (n, update) for n in range(len(self.settings.stages)) for update in self.settings.evaluated
            if n * self.settings.updates + update <= info["update"]
        ]  # fmt: skip
        if len(info["curve"]) != len(places):
            raise checkpoints.unfit(path, f"curve: expected {len(places)} lines, got {len(info['curve'])}")
        for (n, update), line in zip(places, info["curve"], strict=True):
            whole = isinstance(line, dict) and line.keys() == set(LINE)
            if (
                not whole
                or not all(typed.fits(value, float) for value in line.values())
                or (line["stage"], line["update"]) != (n, n * self.settings.updates + update)
            ):
                raise checkpoints.unfit(
                    path, f"curve: expected the metrics of stage {n}, update {update}; got {line!r}"
                )
        try:
            self._random.bit_generator.state = info["random_state"]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise checkpoints.unfit(path, f"random_state: expected a generator's state ({error})") from error
        if self._random.bit_generator.state != info["random_state"]:
            raise checkpoints.unfit(path, "random_state: expected a generator's state, got other numbers")


def _copy(tree: dict[str, Any]) -> dict[str, Any]:
    return map_leaves(lambda array: array.copy(), tree)


def _distinct(found: numpy.ndarray, count: int) -> numpy.ndarray:
    """Return the first `count` different rows."""
    _, first = numpy.unique(found, axis=0, return_index=True)
    return found[numpy.sort(first)[:count]]
