"""Define the options of the task fast_slow, and what follows from them: batches, updates, stages and evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

from fastweights_np import checks

from ..running import runs
from ..running.runs import RunSettings
from .base import BaseConfig
from .learner import REHEARSED
from .stages import HALVES, Stage, stages

MOST_TASKS = 8  # enough permutations are drawn for this many different ones


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
    checkpoint: ClassVar[tuple[tuple[str, ...], type]] = (("params", "kept", "moments", "channel", "base"), Progress)
    since: ClassVar[tuple[str, ...]] = ("base",)  # a run without --initial does not store it

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
    """Random seed of the base policy. It is trained at its first use, and kept. With --initial, the weights of that run
    are the base policy."""
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
        for name in ("contexts", "rank", "tasks", "episodes", "problems", "evaluate_every", "pairs"):
            checks.count(name, getattr(self, name), least=1)
        for name in ("interleave", "base_seed"):
            checks.count(name, getattr(self, name), least=0)
        checks.count("digits", self.digits, least=5)  # of 4 digits, no permutation is held out
        checks.count("hidden_size", self.hidden_size, least=1)
        checks.count("base_updates", self.base_updates, least=1)
        for name in ("context_scale", "fast_learning_rate", "clip", "kl_weight", "rate"):
            checks.not_negative(name, getattr(self, name))
        checks.fraction("decay", self.decay)
        if self.rollouts < 2:
            raise ValueError(f"rollouts: expected at least 2, got {self.rollouts}: one rollout has no advantage")
        if not self.clip:
            raise ValueError("clip: expected a number above 0, got 0.0: with it, all gradients of the reward are zero")
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
        if self.method == "both" and self.interleave >= self.updates:
            raise ValueError(
                f"interleave: expected less than the {self.updates} updates of a task, got {self.interleave}: the "
                "weights would have no turn; lower it, or raise --episodes"
            )
        if self.method in HALVES and self.updates < 2:
            raise ValueError(
                f"episodes: expected at least {2 * self.batch} for {self.method}, an update of each channel, got "
                f"{self.episodes}; raise it, or lower --problems"
            )
        if self.pairs > self.base.family.letters:
            raise ValueError(f"pairs: expected at most the {self.base.family.letters} letters, got {self.pairs}")

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        found, method, context = super().unused(values), values["method"], values["context"]
        if values["initial"]:
            found |= dict.fromkeys(("base_seed", "base_updates", "data_dir"), "a run that starts from --initial")
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
        """Raise ValueError unless this number of ranks can share the problems, and the KL penalty's episodes."""
        for name, count in (("problems", self.problems), ("kl_weight", REHEARSED)):
            if ranks > count and (name == "problems" or self.kl_weight):
                raise ValueError(
                    f"{name}: expected an episode of a batch for each of the {ranks} ranks, got {count}; start fewer"
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
