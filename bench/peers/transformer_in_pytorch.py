"""Train the transformer, with and without In-Place TTT, in PyTorch, as a PyTorch user would write it for speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastweights_np.attention import BASE
from fastweights_np.trees import flatten

from .problem import Framework, Transformer

Params = dict[str, Tensor]


class Model:
    """The loss of a batch, from parameters by their paths."""

    def __init__(self, problem: Transformer) -> None:
        self.problem, L = problem, problem.window
        p = problem.size // problem.heads
        angles = torch.arange(problem.steps)[:, None] * BASE ** (-torch.arange(0, p, 2) / p)
        self.cos, self.sin = angles.cos(), angles.sin()
        t, j = torch.arange(L)[:, None], torch.arange(-L, L)
        self.near = (j <= t) & (j > t - L)
        self.first = self.near & (j >= 0)

    def loss(self, params: Params, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log likelihood of the targets (B, T)."""
        x = source = functional.embedding(tokens, params["embedding/table"])
        for n in range(1, self.problem.blocks + 1):
            block = {
                name.removeprefix(f"block{n}/"): value
                for name, value in params.items()
                if name.startswith(f"block{n}/")
            }
            x = x + self._attention(block, _norm(x, block["attention_norm/gain"]))
            m = _norm(x, block["mlp_norm/gain"])
            x = x + self._mlp(block, m, source)
        logits = functional.linear(_norm(x, params["norm/gain"]), params["head/weight"])
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _attention(self, block: Params, x: Tensor) -> Tensor:
        """Compute blocks of L queries, each with the keys of its own block and of the one before."""
        L, heads = self.problem.window, self.problem.heads
        weight = torch.cat([block[f"attention/{name}"] for name in "QKV"])
        q, k, v = functional.linear(x, weight).unflatten(-1, (3, heads, -1)).unbind(2)  # (B, T, N, p)
        q, k = self._turned(q), self._turned(k)
        q, k, v = (each.transpose(1, 2).unflatten(2, (-1, L)) for each in (q, k, v))  # (B, N, C, L, p)
        k, v = (torch.cat([functional.pad(each, (0, 0, 0, 0, 1, 0))[:, :, :-1], each], 3) for each in (k, v))
        mask = self.near.repeat(k.shape[2], 1, 1)
        mask[0] = self.first
        o = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return functional.linear(o.flatten(2, 3).transpose(1, 2).flatten(2), block["attention/output"])

    def _turned(self, x: Tensor) -> Tensor:
        first, second = x[..., 0::2], x[..., 1::2]
        c, s = self.cos[:, None], self.sin[:, None]
        return torch.stack([c * first - s * second, s * first + c * second], -1).flatten(-2)

    def _mlp(self, block: Params, x: Tensor, source: Tensor) -> Tensor:
        weight = torch.cat([block["mlp/gate"], block["mlp/up"]])
        g, u = functional.linear(x, weight).chunk(2, -1)
        z = functional.silu(g) * u
        y = functional.linear(z, block["mlp/down"])
        if "mlp/kernel" not in block:
            return y
        chunks = source.unflatten(1, (-1, self.problem.chunk))  # (B, C, L, d)
        rows = chunks.flatten(0, 1).transpose(1, 2)
        kernel = block["mlp/kernel"].T[:, None]
        Y = functional.conv1d(rows, kernel, padding=2, groups=rows.shape[1]).transpose(1, 2).reshape(chunks.shape)
        U = self.problem.rate * functional.linear(Y, block["mlp/target"])
        Z = z.unflatten(1, (-1, self.problem.chunk))
        S = (U[:, :-1].transpose(2, 3) @ Z[:, :-1]).cumsum(1)
        written = (Z[:, 1:] @ S.transpose(2, 3)).flatten(1, 2)
        return y + functional.pad(written, (0, 0, self.problem.chunk, 0))


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return functional.rms_norm(x, gain.shape, gain, 1e-6)


def transformer(problem: Transformer, compiled: bool = False) -> Framework:
    """Return updates by Adam; compiled or eager."""
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in flatten(problem.params()).items()}
    tokens, targets = (torch.from_numpy(each.T.copy()) for each in problem.batch())
    adam = torch.optim.Adam(params.values(), lr=problem.learning_rate, eps=problem.epsilon, fused=True)
    loss: Any = Model(problem).loss
    if compiled:
        loss = torch.compile(loss, fullgraph=True, dynamic=False)

    def run() -> Any:
        adam.zero_grad(set_to_none=True)
        loss(params, tokens, targets).backward()
        torch.nn.utils.clip_grad_norm_(params.values(), problem.clip_norm)
        adam.step()
        return params

    return Framework(run, lambda params: {name: value.detach().numpy().copy() for name, value in params.items()})
