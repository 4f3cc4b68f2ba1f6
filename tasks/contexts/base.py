"""Train the base policy: it follows any permutation that its prompt shows, and answers by chance where none is shown.

The loss is the cross-entropy of the answer, and of the value, which has logits of its own: the skill is thus learned
apart from the convention. In a part of the batches no permutation is shown, so that the best answer is uniform. The
values and the permutations begin with two digits. Another digit is added where the answers are mostly right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from tqdm import tqdm

from fastweights_np import Workspace, checkpoint, fast_weights, ops, optim
from fastweights_np.context_policy import ContextPolicy

from ..running import checkpoints
from .episodes import Episodes, Family, draw, permutations, prompted, prompts_of
from .learner import BaseEpisodes

PAIRS = (2, 3)  # of pre-training
SHOWN = 0.85  # fraction of the batches that show their permutations
BATCH, RATE, CLIP = 128, 3e-3, 5.0
RIGHT, MEMORY = 0.9, 0.98  # accuracy at which a digit is added, and the decay of its running mean


@dataclass(frozen=True)
class BaseConfig:
    """What a base policy depends on; its file is named by it."""

    digits: int
    hidden_size: int
    decay: float
    rate: float
    updates: int
    seed: int

    @property
    def family(self) -> Family:
        """Return the family of tasks."""
        return Family(self.digits)

    @property
    def policy(self) -> ContextPolicy:
        """Return the policy, which has a logit for each digit."""
        return self._policy(self.digits)

    def _policy(self, actions: int) -> ContextPolicy:
        options = {"decay": self.decay, "rate": self.rate}
        return ContextPolicy(self.family.inputs, actions, self.hidden_size, options)

    @property
    def path(self) -> Path:
        """Return the name of the file that keeps the policy."""
        numbers = (self.digits, self.hidden_size, self.decay, self.rate, self.updates, self.seed)
        return Path("-".join(["base", *map(str, numbers)]) + ".npz")


def load(config: BaseConfig, folder: Path) -> dict[str, Any]:
    """Return the parameters of the base policy, float32. Train it, and keep it in the folder, if it is not there.

    Raise ValueError if the file does not fit the policy.
    """
    path = folder / config.path
    if path.exists():
        params, remedy = checkpoint.load(path)[0], "delete the file, to train the policy anew, or change --data-dir"
        checkpoints.check_finite(path, params, remedy)
        checkpoints.check_arrays(path, params, config.policy.init(numpy.random.default_rng(0)), remedy)
        return params
    folder.mkdir(parents=True, exist_ok=True)
    print(f"training the base policy {path}: {config.updates:,} updates", flush=True)
    try:
        params = train(config)
    except KeyboardInterrupt:
        print("the base policy is not kept: its training begins anew at the next start", flush=True)
        raise
    checkpoint.save(path, params)
    accuracy = shown_accuracy(config, params)
    low = "" if accuracy > RIGHT else f", expected above {RIGHT:.0%}: a run can hardly learn; raise --base-updates"
    print(f"base policy: accuracy {accuracy:.1%} where a permutation is shown{low}", flush=True)
    return params


def shown_accuracy(config: BaseConfig, params: dict[str, Any], count: int = 1000) -> float:
    """Return the accuracy where held-out permutations are shown, as prompts."""
    policy, rng = config.policy, numpy.random.default_rng(5)
    return BaseEpisodes(policy, params, config.family, rng, count).drift(policy, params)[1]


def written_accuracy(config: BaseConfig, params: dict[str, Any], pairs: int, count: int = 1000) -> float:
    """Return the accuracy where held-out permutations are not shown, but h0 and A0 were written by showing them."""
    rng, family, options = numpy.random.default_rng(5), config.family, config.policy.options
    pi = permutations(rng, count, config.digits, held_out=True)
    blank = draw(rng, family, count, pairs)
    lines = prompted(family, blank, prompts_of(rng, family, pi)).x[: family.slots]
    dtype = params["readout"]["output"].dtype
    _, cache = fast_weights.forward(params["layer"], lines.astype(dtype), **options)
    state = fast_weights.final_state(cache)
    h, _ = fast_weights.forward(params["layer"], blank.x.astype(dtype), state.h, A0=state.A, **options)
    logits = ops.linear(h[-1], params["readout"]["output"], params["readout"]["output_bias"])
    return float((logits.argmax(axis=1) == pi[numpy.arange(count), blank.values]).mean())


def train(config: BaseConfig) -> dict[str, Any]:
    """Return the parameters of a new base policy."""
    rng, D = numpy.random.default_rng([config.seed, 0]), config.digits
    policy = config._policy(2 * D)  # answers, then values
    params = policy.init(rng)
    adam, workspaces = optim.Adam(params), dict[int, Workspace]()
    values, right = 2, 0.0
    for update in tqdm(range(config.updates), disable=None, unit=" updates", dynamic_ncols=True):
        pi, episodes, shown = _batch(rng, config.family, values)
        answers = pi[numpy.arange(BATCH), episodes.values]
        workspace = workspaces.setdefault(len(episodes.x), Workspace())
        logits, cache = policy.forward(params, episodes.x, workspace=workspace)
        dlogits, accuracy = _gradient(logits, answers, episodes.values)
        grads, _ = policy.backward(dlogits, cache)
        optim.clip_by_global_norm(grads, CLIP)
        adam.step(params, grads, RATE * optim.linear_decay(update, config.updates))
        if shown:
            right = MEMORY * right + (1 - MEMORY) * accuracy
        if right > RIGHT and values < D:
            values, right = values + 1, 0.0
    readout = {name: value[:D] for name, value in params["readout"].items()}
    return params | {"readout": readout}


def _batch(rng: numpy.random.Generator, family: Family, values: int) -> tuple[numpy.ndarray, Episodes, bool]:
    """Return the permutations (B, values) of the first digits, an episode for each, and whether they are shown."""
    if values < family.digits:
        pi = rng.permuted(numpy.broadcast_to(numpy.arange(values), (BATCH, values)), axis=1)
    else:
        pi = permutations(rng, BATCH, values, held_out=False)
    shown, pairs = bool(rng.random() < SHOWN), int(rng.integers(PAIRS[0], PAIRS[1] + 1))
    return pi, draw(rng, family, BATCH, pairs, prompts_of(rng, family, pi) if shown else None, values), shown


def _gradient(logits: Any, answers: Any, values: Any) -> tuple[Any, float]:
    """Return dlogits (B, 2 D) of the mean loss, and the accuracy of the answers."""
    each, D = numpy.full(len(answers), 1 / len(answers), logits.dtype), logits.shape[1] // 2
    halves = []
    for half, labels in ((logits[:, :D], answers), (logits[:, D:], values)):
        _, pi = ops.softmax_cross_entropy(half, labels)
        halves.append(ops.softmax_cross_entropy_backward(each, pi, labels))
    return numpy.concatenate(halves, axis=1), float((logits[:, :D].argmax(axis=1) == answers).mean())
