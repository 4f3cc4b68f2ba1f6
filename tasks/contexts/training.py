"""Run the stages of fast_slow, with checkpoints: a resumed run ends in the same bits."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
from tqdm import tqdm

from fastweights_np import distributed, files, optim
from fastweights_np.trees import flatten, map_leaves

from ..running import checkpoints, typed
from ..running.runs import NOT_FINITE, Interruption, interrupts_noted
from .channels import NoContexts, StateContexts
from .episodes import Episodes, draw, permutations
from .evolution import PromptContexts
from .learner import Channel, Learner, Rates
from .settings import Progress, Settings
from .stages import Stage, kind_of, with_contexts

MEASURES = ("reward", "neutral_reward", "entropy", "kl", "base_accuracy", "mean_reward")
LINE = ("update", "stage", "episodes", "seconds", *MEASURES)


class Training:
    """The state of one run, which a checkpoint stores, and the methods that advance it."""

    def __init__(self, settings: Settings, folder: Path, base: dict[str, Any]) -> None:
        self.settings, self.folder = settings, folder
        self.base = self._initial(map_leaves(lambda array: array.astype(settings.dtype), base))
        self._data = hashlib.sha256(b"".join(array.tobytes() for array in flatten(self.base).values())).hexdigest()
        (self._random,) = settings.streams(1)
        self.params, self.kept = _copy(self.base), _copy(self.base)
        self.update, self.curve = 0, list[dict[str, float]]()
        self._before, self._started = 0.0, time.perf_counter()
        self._ranks = distributed.ranks()
        self._ranks.check_same({"data": f"SHA-256 {self._data}"})
        self.pi = permutations(numpy.random.default_rng([settings.seed, 1]), 64, settings.digits, held_out=True)
        self.pi = _distinct(self.pi, max(settings.tasks, 2))
        self._begin_stage()

    def _initial(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of the run that settings.initial names, or `params` if it names none.

        A run that resumes has them in its checkpoint, unless an older version wrote it.
        """
        run, ranks = self.settings.initial, distributed.ranks()
        if run is None:
            return params
        own = ranks.first(lambda: checkpoints.load(self.folder, self.settings))
        if own is not None and "base" in own[0]:
            found, path, remedy = own[0]["base"], self.folder / checkpoints.NAME, ""
        else:
            found, path = ranks.first(lambda: checkpoints.initial_params(run)).params, run / checkpoints.NAME
            remedy = "name a run of the same network by --initial"
        checkpoints.check_arrays(path, found, params, remedy)
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
            instances = Episodes(instances.x.astype(settings.dtype, copy=False), instances.values)
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
                if self._ranks.any(bool(interrupted)) and self.update < total:
                    self.save()
                    self._ranks.any(False)  # the others wait until rank 0 has saved
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
        measured = self._ranks.first(lambda: self.learner.measure(acts))
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
            "channel": self.learner.channel.arrays, **({} if self.settings.initial is None else {"base": self.base}),
        }  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint. Raise FloatingPointError if a number is not finite; the previous checkpoint is kept."""
        self._ranks.check_equal(self._arrays())
        if self._ranks.rank:
            return
        info: Progress = {
            "settings": self.settings.as_json(), "data": self._data, "update": self.update,
            "random_state": dict(self._random.bit_generator.state), "curve": self.curve, "seconds": self.seconds(),
            "ranks": self._ranks.size,
        }  # fmt: skip
        checkpoints.save(self.folder, self._arrays(), dict(info), f"update {self.update}")

    def _write_metrics(self) -> None:
        if self._ranks.rank:
            return
        files.write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.curve))

    def restore(self) -> None:
        """Resume from the folder's checkpoint, if there is one. Raise ValueError if it does not fit the run."""
        stored = self._ranks.first(lambda: checkpoints.load(self.folder, self.settings))
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
        checkpoints.note_ranks(info["ranks"])
        self.update, self.curve, self._before = info["update"], info["curve"], info["seconds"]
        self._begin_stage()
        ours = self._arrays()
        if "base" not in arrays:
            ours.pop("base", None)  # an older version wrote the checkpoint
        checkpoints.check_arrays(path, arrays, ours)
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
