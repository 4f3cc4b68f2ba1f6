"""A small transformer language model: pre-norm blocks of attention and an MLP, which may be written in place.

    x = table[tokens]
    x ← x + attention(rms(x)),    x ← x + mlp(rms(x))        in each block
    logits = head rms(x)

In the blocks that `written` names, the MLP's down projection is a fast weight (in_place_ttt.py). Its targets are made
of the token embeddings, or of the MLP's own input. T steps, B sequences, d entries of x, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy

from . import attention, checks, gated_mlp, in_place_ttt, ops, rms_norm
from .backend import Array, array_module, scatter_add
from .batch_parts import Part, joined, of_parts, parts_of, sum_of
from .network import Model
from .parts import Classifier, Tree
from .workspace import Workspace

__all__ = ["State", "Transformer"]


class State(NamedTuple):
    """The state between steps: of each block, its attention's and its MLP's, None for an MLP that is not written."""

    blocks: list[tuple[attention.State, in_place_ttt.State | None]]


class Cache(NamedTuple):
    """All that `backward` depends on."""

    params: Tree
    parts: list[Part]
    caches: list[Any]


@dataclass(frozen=True)
class Transformer(Model):
    """logits (T, B, V) of all steps for tokens (T, B), or (n, V) for (tokens, steps (n,), columns (n,)).

    vocabulary    V
    size          d
    blocks        number of blocks
    heads         attention heads, each of an even size
    hidden_size   F, units of each MLP
    window        number of steps that a step attends to, itself included; None for all
    gated         whether the MLPs are gated (SwiGLU), else relu
    tied          whether the head is the table
    written       the blocks whose MLP is written in place, counted from 1
    source        what the targets are made of: the token embeddings, or the MLP's input
    init_options  options of in_place_ttt.init_target: kernel, target
    options       options of in_place_ttt.forward: decay, rate, chunk, taps, across, clip. They wait for a block that is
                  written, so that dataclasses.replace(net, written=(2,)) adds fast weights to a trained network: see
                  in_place_ttt.init_target for their parameters
    threads       how many share the sequences of a batch

    Raises ValueError or TypeError that names the argument at fault.
    """

    vocabulary: int
    size: int = 64
    blocks: int = 2
    heads: int = 4
    hidden_size: int = 128
    window: int | None = 16
    gated: bool = True
    tied: bool = False
    written: tuple[int, ...] = ()
    source: Literal["embeddings", "input"] = "embeddings"
    init_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("vocabulary", "size", "blocks", "heads", "hidden_size", "threads"):
            checks.count(name, getattr(self, name), least=1)
        for name in ("gated", "tied"):
            checks.boolean(name, getattr(self, name))
        if self.window is not None:
            checks.count("window", self.window, least=1)
        if self.size % (2 * self.heads):
            raise ValueError(f"heads: expected heads of an even size, got size {self.size} and {self.heads} heads")
        checks.choice("source", self.source, ("embeddings", "input"))
        if not isinstance(self.written, tuple):
            raise TypeError(f"written: expected a tuple of numbers of blocks, such as (2,), got {self.written!r}")
        for number in self.written:
            checks.count("written", number, least=1)
            if number > self.blocks:
                raise ValueError(f"written: expected numbers from 1 to blocks, {self.blocks}, got {number}")
        passed = ("rng", "size", "taps", "dtype"), ("params", "x", "source", "resets")
        checks.options("init_options", self.init_options, in_place_ttt.init_target, passed[0])
        checks.options("options", self.options, in_place_ttt.forward, passed[1])

    @property
    def readout(self) -> Classifier:  # type: ignore[override]
        """Return the loss, the mean negative log likelihood."""
        return Classifier(self.vocabulary)

    def init(self, rng: numpy.random.Generator, dtype: str = "float32") -> Tree:
        """Return new parameters, on the host: the table is normal, and so are the matrices, with variance 1/inputs."""
        checks.generator("rng", rng)
        table = rng.standard_normal((self.vocabulary, self.size)).astype(dtype)
        params: Tree = {"embedding": {"table": table}}
        for n in self._numbers:
            mlp = gated_mlp.init(rng, self.size, self.hidden_size, gated=self.gated, dtype=dtype)
            if n in self.written:
                taps = self.options.get("taps", in_place_ttt.TAPS)
                mlp |= in_place_ttt.init_target(rng, self.size, taps, dtype=dtype, **self.init_options)
            params[f"block{n}"] = {
                "attention_norm": self._gain(dtype), "attention": attention.init(rng, self.size, dtype=dtype),
                "mlp_norm": self._gain(dtype), "mlp": mlp,
            }  # fmt: skip
        params["norm"] = self._gain(dtype)
        if not self.tied:
            head = rng.standard_normal((self.vocabulary, self.size)) / self.size**0.5
            params["head"] = {"weight": head.astype(dtype)}
        return params

    def _gain(self, dtype: str) -> Tree:
        return {"gain": numpy.ones(self.size, dtype)}

    @property
    def _numbers(self) -> range:
        return range(1, self.blocks + 1)

    def forward(
        self, params: Tree, inputs: Any, workspace: Workspace | None = None, *, resets: Array | None = None
    ) -> tuple[Array, Cache]:  # fmt: skip
        """Return the logits, and the cache. The workspace holds no buffers: a batch in parts needs few.

        resets   (T, B), True at the first step of each further document in a sequence. A step attends to its own
                 document, and reads what its own document has written. Chunks stay where they are: with `written`, a
                 document is as it is alone if it begins where a chunk does
        """
        parts = parts_of(inputs, self.vocabulary, resets, self.threads)
        found = of_parts(self.threads, lambda part: self._forward(params, part), parts)
        logits, caches = zip(*found, strict=True)
        return joined(logits, parts, inputs), Cache(params, parts, list(caches))

    def _forward(self, params: Tree, part: Part) -> tuple[Array, Any]:
        """Return what `forward` does, for a part of the sequences."""
        tokens, resets = part.tokens, part.resets
        source = params["embedding"]["table"][tokens.T].swapaxes(0, 1)  # (L2)
        x, caches = source, []
        for n in self._numbers:
            block = params[f"block{n}"]
            a, of_norm = rms_norm.forward(block["attention_norm"]["gain"], x)
            a, of_attention = attention.forward(block["attention"], a, self.heads, self.window, resets)
            x = x + a
            m, of_mlp_norm = rms_norm.forward(block["mlp_norm"]["gain"], x)
            if n in self.written:
                given = source if self.source == "embeddings" else None
                m, of_mlp = in_place_ttt.forward(block["mlp"], m, given, resets=resets, **self.options)
            else:
                m, of_mlp = gated_mlp.forward(block["mlp"], attention.batch_first(m))
                m = m.swapaxes(0, 1)
            x = x + m
            caches.append((of_norm, of_attention, of_mlp_norm, of_mlp))
        shape = x.shape
        if part.places is not None:
            x = x[part.places]
        read, of_read = rms_norm.forward(params["norm"]["gain"], x)
        return read @ self._head(params).T, (shape, caches, read, of_read)  # (L1)

    def _head(self, params: Tree) -> Array:
        weight: Array = params["embedding"]["table"] if self.tied else params["head"]["weight"]
        return weight

    def backward(self, doutputs: Array, cache: Any) -> Tree:
        """Return the gradients, shaped like the parameters, from dlogits. It overwrites the cache."""

        def of_part(part: Part, own: Any) -> Tree:
            return self._backward(cache.params, part, doutputs[part.outputs], own)

        return sum_of(of_parts(self.threads, of_part, cache.parts, cache.caches))

    def _backward(self, params: Tree, part: Part, doutputs: Array, cache: Any) -> Tree:
        """Return what `backward` does, for a part of the sequences."""
        shape, caches, read, of_read = cache
        xp, head, tokens = array_module(dlogits=doutputs), self._head(params), part.tokens
        # logits = head rms(x)                                                                                      (L1)
        dread, dhead = ops.product_backward(doutputs, read, head)
        dgain, dx = rms_norm.backward(dread, of_read)
        grads: Tree = {"norm": {"gain": dgain}}
        if part.places is not None:
            steps, columns = part.places
            rows = xp.zeros((shape[1] * shape[0], shape[2]), dx.dtype)  # (B T, d)
            scatter_add(rows, columns * shape[0] + steps, dx)
            dx = rows.reshape(shape[1], shape[0], shape[2]).swapaxes(0, 1)
        dsource: Any = 0
        for n, of_block in zip(reversed(self._numbers), reversed(caches), strict=True):
            of_norm, of_attention, of_mlp_norm, of_mlp = of_block
            # x ← x + mlp(rms(x))
            if n in self.written:
                dmlp, dm, dsource_n = in_place_ttt.backward(dx, of_mlp)
                dsource = dsource + dsource_n
            else:
                dmlp, dm = gated_mlp.backward(attention.batch_first(dx), of_mlp)
                dm = dm.swapaxes(0, 1)
            dmlp_norm, dm = rms_norm.backward(dm, of_mlp_norm)
            dx = dx + dm
            # x ← x + attention(rms(x))
            dattention, da = attention.backward(dx, of_attention)
            dattention_norm, da = rms_norm.backward(da, of_norm)
            dx = dx + da
            grads[f"block{n}"] = {
                "attention_norm": {"gain": dattention_norm}, "attention": dattention,
                "mlp_norm": {"gain": dmlp_norm}, "mlp": dmlp,
            }  # fmt: skip
        # x = table[tokens]                                                                                         (L2)
        dx = dx + dsource
        rows = attention.batch_first(dx)
        dtable = ops.embedding_backward(rows, xp.ascontiguousarray(tokens.T), self.vocabulary)
        grads["embedding"] = {"table": dtable + dhead if self.tied else dtable}
        if not self.tied:
            grads["head"] = {"weight": dhead}
        return {name: grads[name] for name in params}

    def loss_and_gradients(
        self, params: Tree, inputs: Any, targets: Array, workspace: Workspace | None = None, *,
        resets: Array | None = None,
    ) -> tuple[Array, Tree]:  # fmt: skip
        """Return the mean of the negative log likelihood of the targets (T, B), or (n,), in nats, and its gradients."""
        parts = parts_of(inputs, self.vocabulary, resets, self.threads)
        shape = inputs[1].shape if isinstance(inputs, tuple) else inputs.shape
        checks.shape("targets", targets, shape, "one for each output")
        count = targets.size

        def of_part(part: Part) -> tuple[Array, Tree]:
            logits, cache = self._forward(params, part)
            labels = targets[part.outputs].reshape(-1)
            nll, probabilities = ops.softmax_cross_entropy(logits.reshape(-1, self.vocabulary), labels)
            doutputs = ops.softmax_cross_entropy_backward(0 * nll + 1 / count, probabilities, labels)
            return nll.sum() / count, self._backward(params, part, doutputs.reshape(logits.shape), cache)

        losses, grads = zip(*of_parts(self.threads, of_part, parts), strict=True)
        return sum(losses), sum_of(grads)

    def initial_state(self, params: Tree, batch_size: int) -> State:
        """Return the state before the first token of a batch."""
        states = []
        for n in self._numbers:
            block = params[f"block{n}"]
            of_mlp = in_place_ttt.initial_state(block["mlp"], batch_size) if n in self.written else None
            states.append((attention.initial_state(block["attention"], batch_size), of_mlp))
        return State(states)

    def final_state(self, cache: Cache) -> State:
        """Return the state after the last token of a `forward` without resets, such as a prompt.

        Raises ValueError after a `forward` with resets.
        """
        states = []
        for n in self._numbers:
            of_block = [caches[n - 1] for _, caches, *_ in cache.caches]
            xp, turned = array_module(read=cache.caches[0][2]), [attention.final_state(each[1]) for each in of_block]
            keys, values = (xp.concatenate(arrays) for arrays in list(zip(*turned, strict=True))[:2])
            of_mlp = None
            if n in self.written:
                written = [in_place_ttt.final_state(each[3]) for each in of_block]
                of_mlp = in_place_ttt.State._make(map(xp.concatenate, zip(*written, strict=True)))
            states.append((attention.State(keys, values, turned[0].position), of_mlp))
        return State(states)

    def step(self, params: Tree, tokens: Array, state: State) -> tuple[Array, State]:
        """Return the logits (B, V) and the next state, from the next tokens (B,) and a state, which is not changed."""
        checks.shape("tokens", tokens, ("B",), "step takes one token of each sequence")
        checks.indices("tokens", tokens, self.vocabulary)
        source = params["embedding"]["table"][tokens]
        x, states = source, []
        for n, (of_attention, of_mlp) in zip(self._numbers, state.blocks, strict=True):
            block = params[f"block{n}"]
            a, _ = rms_norm.forward(block["attention_norm"]["gain"], x)
            a, of_attention = attention.step(block["attention"], a, of_attention, self.heads, self.window)
            x = x + a
            m, _ = rms_norm.forward(block["mlp_norm"]["gain"], x)
            if of_mlp is None:
                m, _ = gated_mlp.forward(block["mlp"], m)
            else:
                given = source if self.source == "embeddings" else None
                m, of_mlp = in_place_ttt.step(block["mlp"], m, given, of_mlp, **self.options)
            x = x + m
            states.append((of_attention, of_mlp))
        read, _ = rms_norm.forward(params["norm"]["gain"], x)
        return read @ self._head(params).T, State(states)
