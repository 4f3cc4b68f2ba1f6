"""Define the options of tasks that train a transformer with or without In-Place Test-Time Training (TTT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from fastweights_np import checks
from fastweights_np.in_place_ttt import TAPS
from fastweights_np.transformer import Transformer

from ..running.layers import LayerSettings
from ..running.training import TrainingSettings

BLOCKS, HEADS = 2, 4
FACTOR = 2  # hidden units of each MLP for each entry of x
# what a layer learns of its targets, and the steps that they are made of
TARGETS: dict[str, tuple[dict[str, bool], tuple[int, ...]]] = {
    "next_token": ({"kernel": False, "target": False}, (1,)),
    "learned": ({"kernel": True, "target": True}, TAPS),
    "convolution": ({"kernel": True, "target": False}, TAPS),
    "matrix": ({"kernel": False, "target": True}, (1,)),
    "reconstruction": ({"kernel": False, "target": False}, (0,)),
}
WITHOUT_WRITES = ("window", "full")  # layers whose MLPs are not written


@dataclass(frozen=True)
class TransformerSettings(LayerSettings, TrainingSettings):
    """The options of a transformer, of its fast weights, and of its training."""

    beta2: ClassVar[float] = 0.98

    layer: Literal[
        "window", "next_token", "learned", "convolution", "matrix", "reconstruction",
        "full",
    ] = "learned"  # fmt: skip
    """Attention to a sliding window or to all steps, without TTT; or a sliding window with TTT, by its target: the next
    token, a learned convolution and matrix, one of these two alone, or the token itself."""
    hidden_size: int = 64
    """R, the size of embeddings and hidden states, a multiple of 8. An MLP has twice as many hidden units."""
    window: int = 16
    """Number of steps that a step attends to, itself included."""
    written: Literal["last", "all"] = "last"
    """Which of the two blocks have an MLP with fast weights: the last one, or all."""
    chunk: int = 16
    """C, the number of steps in a chunk. Fast weights are written at its end."""
    across: bool = False
    """Let the target's tap +1 reach the first step of the next chunk. In the paper, it sees zeros there."""
    decay: float = 1.0
    """λ, the decay rate of the fast weights per chunk, above 0 and up to 1. The paper has 1."""
    rate: float = 1.0
    """η, the learning rate of the fast weights."""
    learning_rate: float = 3e-3
    """Learning rate of the optimizer before the schedule is applied."""
    warmup: int = 50
    """Number of updates in which the learning rate grows linearly to its full value."""
    clip_norm: float = 1.0
    """Clip gradients to this global norm."""
    initial: Path | None = None
    """Output folder of a run whose best parameters become the initial weights. Names, shapes and dtypes must match. A
    convolution or matrix of the target may be missing: it is added, and changes no output at first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window", "chunk", "warmup"):
            checks.count(name, getattr(self, name), least=1)
        if self.hidden_size % (2 * HEADS):
            raise ValueError(f"hidden_size: expected a multiple of {2 * HEADS}, got {self.hidden_size}")
        if not self.decay:
            raise ValueError(f"decay: expected a number above 0, got {self.decay}; pass --rate 0 for no memory")

    @classmethod
    def unused(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the options that have no effect on a run with these settings, each with the reason."""
        names = ("chunk", "across", "decay")
        without = dict.fromkeys(names, "a layer with rate 0") if values["rate"] == 0 else {}
        return without | super().unused(values)

    @property
    def writes(self) -> bool:
        """Return whether the layer has fast weights."""
        return self.layer not in WITHOUT_WRITES

    @property
    def blas_threads(self) -> int:
        """Return the number of BLAS threads. The transformer splits each batch among the threads of --threads."""
        return 1

    def rate_at(self, update: int, updates: int) -> float:
        """Return the learning rate of this update, counted from 0."""
        return super().rate_at(update, updates) * min(1.0, (update + 1) / self.warmup)

    def filled(self, stored: Any, own: dict[str, Any]) -> Any:
        """Return the stored parameters of --initial, with this run's own kernel and target where they have none.

        A network that was trained without fast weights becomes one with them. A zero kernel changes no output.
        """
        if not isinstance(stored, dict):
            return stored
        added = {name: own[name] for name in ("kernel", "target") if name in own and name not in stored}
        return {name: self.filled(part, own.get(name, {})) for name, part in stored.items()} | added

    def network(self, vocabulary: int) -> Transformer:
        """Return the transformer."""
        net = Transformer(
            vocabulary, self.hidden_size, BLOCKS, HEADS, FACTOR * self.hidden_size,
            window=None if self.layer == "full" else self.window, threads=self.threads,
        )  # fmt: skip
        if not self.writes:
            return net
        learned, taps = TARGETS[self.layer]
        options = {
            "decay": self.decay, "rate": self.rate, "chunk": self.chunk, "taps": taps, "across": self.across
        }  # fmt: skip
        written = (BLOCKS,) if self.written == "last" else tuple(range(1, BLOCKS + 1))
        return replace(net, written=written, init_options=learned, options=options)


def without_writes(net: Transformer) -> Transformer:
    """Return the same network with η = 0: it reads no fast weights. Its parameters are the same."""
    return replace(net, options=net.options | {"rate": 0.0})
