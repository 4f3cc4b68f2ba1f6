"""Implement the layers in PyTorch, eager and compiled, as a PyTorch user would write them for speed."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastweights_np.associative_lstm import permutations
from fastweights_np.multilevel import Controls
from fastweights_np.trees import flatten

from .in_numpy import network_and_data
from .problem import Arrays, Forward, Framework, Layer, Programmer, Step, Training

Params = dict[str, Tensor]


def fast_weights_attention(
    params: Params,
    x: Tensor,
    h: Tensor,
    decay: float = 0.95,
    rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Tensor:
    """Compute equations (2a), (4), (5) with S = 1."""
    steps = x.shape[0]
    from_input = functional.linear(x, params["C"], params["b"])
    weights = rate * decay ** torch.arange(steps - 1, -1, -1, dtype=x.dtype, device=x.device)
    states: list[Tensor] = []
    for t in range(steps):
        z = boundary = from_input[t] + h @ params["W"].T
        v = torch.relu(_norm(params, boundary) if normalize_preliminary else boundary)
        if states:
            past = torch.stack(states, 1)
            scores = torch.bmm(past, v[:, :, None]) * weights[steps - t :, None]
            z = boundary + torch.bmm(scores.transpose(1, 2), past)[:, 0]
        h = torch.relu(_norm(params, z))
        states.append(h)
    return torch.stack(states)


def fast_weights_matrix(
    params: Params,
    x: Tensor,
    h: Tensor,
    decay: float = 0.95,
    rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Tensor:
    """Compute equations (1), (2a), (5) with S = 1."""
    from_input = functional.linear(x, params["C"], params["b"])
    A = x.new_zeros(h.shape[0], h.shape[1], h.shape[1])
    states: list[Tensor] = []
    for t in range(x.shape[0]):
        a = from_input[t] + h @ params["W"].T
        h = _next_state(params, a, A if states else None, normalize_preliminary)
        states.append(h)
        A = torch.baddbmm(A, h[:, :, None], h[:, None, :], beta=decay, alpha=rate)
    return torch.stack(states)


def _next_state(params: Params, a: Tensor, A: Tensor | None, normalize_preliminary: bool = False) -> Tensor:
    """Return h(t+1) from a = W h(t) + C x(t) + b and A(t), which None says is zero."""
    v = torch.relu(_norm(params, a) if normalize_preliminary else a)
    z = a if A is None else torch.baddbmm(a[:, :, None], A, v[:, :, None])[:, :, 0]
    return torch.relu(_norm(params, z))


def in_place_attention(params: Params, x: Tensor, h: Tensor, decay: float = 0.95, rate: float = 0.5) -> Tensor:
    """Compute `fast_weights_attention` with the past states in one buffer, which autograd would not allow."""
    steps = x.shape[0]
    from_input = functional.linear(x, params["C"], params["b"])
    weights = rate * decay ** torch.arange(steps - 1, -1, -1, dtype=x.dtype, device=x.device)
    states = x.new_empty(h.shape[0], steps, h.shape[1])
    for t in range(steps):
        a = torch.addmm(from_input[t], h, params["W"].T)
        past = states[:, :t]
        scores = torch.bmm(past, torch.relu(a)[:, :, None]) * weights[steps - t :, None]
        z = torch.baddbmm(a[:, None], scores.transpose(1, 2), past)[:, 0]
        h = states[:, t] = torch.relu(_norm(params, z))
    return states.transpose(0, 1)


def in_place_matrix(params: Params, x: Tensor, h: Tensor, decay: float = 0.95, rate: float = 0.5) -> Tensor:
    """Compute `fast_weights_matrix` with one A, which autograd would not allow."""
    from_input = functional.linear(x, params["C"], params["b"])
    A, states = x.new_zeros(*h.shape, h.shape[1]), x.new_empty(*x.shape[:2], h.shape[1])
    for t in range(x.shape[0]):
        h = states[t] = _next_state_in_place(params, torch.addmm(from_input[t], h, params["W"].T), A, decay, rate)
    return states


def _next_state_in_place(params: Params, a: Tensor, A: Tensor, decay: float, rate: float) -> Tensor:
    h = _next_state(params, a, A)
    A.baddbmm_(h[:, :, None], h[:, None, :], beta=decay, alpha=rate)
    return h


def multilevel(
    params: Params, x: Tensor, h: Tensor, controls: Controls, decay: float = 0.95, rate: float = 0.5,
    normalize_preliminary: bool = False,
) -> Tensor:  # fmt: skip
    """Compute figure 3 with S = 1, with A as attention to the states stored so far."""
    from_input = functional.linear(x, params["C"], params["b"])
    states: list[Tensor] = []
    stored: list[Tensor] = []
    wiped = False
    for a, store, wipe, read, integrate in zip(from_input, *astuple(controls), strict=True):
        z = a if wiped else torch.addmm(a, h, params["V" if integrate else "W"].T)
        if read and stored:
            past, v = torch.stack(stored, 1), torch.relu(_norm(params, z) if normalize_preliminary else z)
            weights = rate * decay ** torch.arange(len(stored) - 1, -1, -1, dtype=x.dtype, device=x.device)
            scores = torch.bmm(past, v[:, :, None]) * weights[:, None]
            z = z + torch.bmm(scores.transpose(1, 2), past)[:, 0]
        h = torch.relu(_norm(params, z))
        states.append(h)
        if store:
            stored.append(h)
        wiped = wipe
    return torch.stack(states)


def _norm(params: Params, z: Tensor) -> Tensor:
    return functional.layer_norm(z, z.shape[-1:], params["gain"], params["bias"], 1e-5)


def irnn(params: Params, x: Tensor, h: Tensor) -> Tensor:
    """Compute h = relu(W h + C x + b), with layer norm before relu if there is a gain."""
    states: list[Tensor] = []
    for a in functional.linear(x, params["C"], params["b"]):
        z = torch.addmm(a, h, params["W"].T)
        h = torch.relu(_norm(params, z) if "gain" in params else z)
        states.append(h)
    return torch.stack(states)


def irnn_nn(params: Params, x: Tensor, h: Tensor) -> Tensor:
    """Run torch.nn.RNN."""
    return _nn(torch.nn.RNN(*params["C"].shape[::-1], nonlinearity="relu", device=x.device), params, x, h[None])


def lstm(params: Params, x: Tensor, h: Tensor) -> Tensor:
    """Compute an LSTM whose gates i, f, g, o come from one matrix product."""
    W, C, b = (params[name].flatten(0, 1) for name in ("W", "C", "b"))
    c, states = torch.zeros_like(h), []
    for a in functional.linear(x, C, b):
        i, f, g, o = torch.addmm(a, h, W.T).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states)


def lstm_nn(params: Params, x: Tensor, h: Tensor) -> Tensor:
    """Run torch.nn.LSTM, whose gates have the same order."""
    flat = {name: value.flatten(0, 1) for name, value in params.items()}
    hidden_size, input_size = params["C"].shape[1:]
    return _nn(torch.nn.LSTM(input_size, hidden_size, device=x.device), flat, x, (h[None], torch.zeros_like(h[None])))


def _nn(module: torch.nn.RNNBase, params: Params, x: Tensor, state: Any) -> Tensor:
    """Run PyTorch's own layer with these parameters. Its second bias is zero."""
    named = {"weight_ih_l0": params["C"], "weight_hh_l0": params["W"], "bias_ih_l0": params["b"]}
    named["bias_hh_l0"] = torch.zeros_like(params["b"])
    return torch.func.functional_call(module, named, (x, state))[0]


def associative_lstm(params: Params, x: Tensor, h: Tensor, copies: int = 4) -> Tensor:
    """Compute an associative LSTM with complex numbers."""
    blocks, size, _ = params["W"].shape
    heads, order = (blocks - 3) // 6, torch.tensor(permutations(copies, size), device=x.device)
    W, C, b = (params[name].flatten(0, 1) for name in ("W", "C", "b"))
    c, states = torch.zeros(len(h), copies, size, dtype=torch.complex64, device=x.device), []
    for a in functional.linear(x, C, b):
        z = torch.addmm(a, h, W.T).view(-1, blocks, size)
        f, i, o = torch.sigmoid(z[:, :3]).unbind(1)
        pairs = z[:, 3:].view(-1, 2, 3, heads, size)
        k, q, u = _bound(torch.complex(pairs[:, 0], pairs[:, 1])).unbind(1)
        c = f[:, None] * c + (k[..., order] * (i[:, None] * u)[:, :, None]).sum(1)
        total = o * _bound((q[..., order] * c[:, None]).mean(2)).sum(1)
        h = torch.cat([total.real, total.imag], 1)
        states.append(h)
    return torch.stack(states)


def _bound(z: Tensor) -> Tensor:
    return z / torch.clamp(z.abs(), min=1)


FORMS: dict[str, dict[str, Any]] = {
    "fast_weights": {"attention": fast_weights_attention, "matrix": fast_weights_matrix},
    "multilevel": {"plain": multilevel},
    "irnn": {"plain": irnn, "nn": irnn_nn},
    "lstm": {"plain": lstm, "nn": lstm_nn},
    "associative_lstm": {"plain": associative_lstm},
}
WITHOUT_GRADIENTS = FORMS | {"fast_weights": {"attention": in_place_attention, "matrix": in_place_matrix}}


def layer(problem: Layer, form: str, compiled: bool = False) -> Framework:
    """Return the layer under PyTorch's autograd, compiled or eager."""
    arrays, *others = problem.arrays()
    params = {name: torch.from_numpy(value).to(problem.device).requires_grad_() for name, value in arrays.items()}
    x, h0, dh = (torch.from_numpy(value).to(problem.device) for value in others)
    inputs = [x.requires_grad_(), h0.requires_grad_(), *params.values()]
    function: Any = partial(FORMS[problem.layer][form], **problem.all_options())
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)

    def run() -> Any:
        h = function(params, x, h0)
        return h, torch.autograd.grad(h, inputs, dh)

    def answer(result: Any) -> Arrays:
        h, grads = result
        names = ["h", "dx", "dh0"] + ["d" + name for name in params]
        return {name: value.detach().cpu().numpy() for name, value in zip(names, [h, *grads], strict=True)}

    return Framework(run, answer) if problem.device == "cpu" else Framework(run, answer, seconds_on_a_gpu)


def forward(problem: Forward, form: str, compiled: bool = False) -> Framework:
    """Return the layer without gradients: compiled, or eager and in place."""
    arrays, *others, _ = problem.arrays()
    params = {name: torch.from_numpy(value) for name, value in arrays.items()}
    x, h0 = map(torch.from_numpy, others)
    forms = FORMS if compiled else WITHOUT_GRADIENTS
    function: Any = partial(forms[problem.layer][form], **problem.all_options())
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def run() -> Tensor:
        return function(params, x, h0)

    return Framework(run, lambda h: {"h": h.numpy()})


def step(problem: Step, compiled: bool = False) -> Framework:
    """Return steps that overwrite A."""
    arrays, x, h0, _ = problem.arrays()
    params = {name: torch.from_numpy(value) for name, value in arrays.items()}
    inputs, h = list(torch.from_numpy(x)), torch.from_numpy(h0)
    A = torch.zeros(*h.shape, h.shape[1])

    def one(x_t: Tensor, h: Tensor, A: Tensor, decay: float = 0.95, rate: float = 0.5) -> Tensor:
        a = torch.addmm(torch.addmm(params["b"], x_t, params["C"].T), h, params["W"].T)
        return _next_state_in_place(params, a, A, decay, rate)

    advance: Any = torch.compile(one, fullgraph=True, dynamic=False) if compiled else one

    @torch.inference_mode()
    def run() -> Tensor:
        nonlocal h
        for x_t in inputs:
            h = advance(x_t, h, A, **problem.options)
        return h

    return Framework(run, lambda h: {"h": h.numpy(), "A": A.numpy()})


def chunks(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None = None, log_decay: Tensor | None = None, length: int = 32
) -> Tensor:
    """Compute the memory of keys and values in chunks of this length, all of them in batched products.

    S is (B N, d_k, d_v) here. The delta rule is one triangular solve for all chunks.
    """
    steps, batch_size, heads, size = q.shape

    def by_chunks(z: Tensor) -> Tensor:
        """Return (B N, C, L, ..) from (T, B, N, ..)."""
        return z.flatten(1, 2).transpose(0, 1).contiguous().unflatten(1, (-1, length))

    Q, K, V = by_chunks(q), by_chunks(k), by_chunks(v)
    Q_before, K_to_end, kept = Q, K, None
    scores, overlaps = Q @ K.mT, None if beta is None else K @ K.mT
    if log_decay is not None:
        sums = by_chunks(log_decay.expand(steps, batch_size, heads)).cumsum(2)[..., None]
        D = (sums - sums.mT).tril().exp()
        scores, overlaps = scores * D, None if overlaps is None else overlaps * D
        Q_before, K_to_end = Q * sums.exp(), K * (sums[:, :, -1:] - sums).exp()
        kept = sums[:, :, -1:].exp().unbind(1)
    if overlaps is not None:
        b = by_chunks(beta)[..., None]
        K_before = K if log_decay is None else K * sums.exp()
        solved = torch.linalg.solve_triangular(
            (b * overlaps).tril(-1), torch.cat([b * V, b * K_before], -1), upper=False, unitriangular=True
        )
        values, weights = (each.unbind(1) for each in solved.split(size, -1))
    S, states, errors = q.new_zeros(batch_size * heads, size, size), [], []
    added = K_to_end.mT @ V if beta is None else K_to_end.mT
    for c, each in enumerate(added.unbind(1)):
        states.append(S)
        old = S if kept is None else S * kept[c]
        if beta is None:
            S = old + each
        else:
            errors.append(torch.baddbmm(values[c], weights[c], S, alpha=-1))
            S = torch.baddbmm(old, each, errors[-1])
    o = Q_before @ torch.stack(states, 1) + scores.tril() @ (V if beta is None else torch.stack(errors, 1))
    return o.flatten(1, 2).transpose(0, 1).unflatten(1, (batch_size, heads))


def programmer(problem: Programmer, compiled: bool = False) -> Framework:
    """Return the memory of keys and values under PyTorch's autograd, compiled or eager."""
    arrays, do = problem.arrays()
    inputs = {name: torch.from_numpy(value).requires_grad_() for name, value in arrays.items()}
    do = torch.from_numpy(do)
    function: Any = chunks
    if compiled:  # the loop is unrolled: half as many chunks compile in half the time
        function = torch.compile(partial(chunks, length=64), fullgraph=True, dynamic=False)

    def run() -> Any:
        o = function(**inputs)
        return o, torch.autograd.grad(o, list(inputs.values()), do)

    def answer(result: Any) -> Arrays:
        o, grads = result
        named = zip(["o", *("d" + name for name in inputs)], [o, *grads], strict=True)
        return {name: value.detach().numpy() for name, value in named}

    return Framework(run, answer)


def seconds_on_a_gpu(run: Any) -> float:
    """Return the seconds of run() on PyTorch's current stream."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def training(problem: Training, form: str) -> Framework:
    """Return the task's network with the same initial parameters, and its updates by torch.optim.Adam."""
    network, arrays, split, orders = network_and_data(problem)
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in flatten(arrays).items()}
    labels = torch.from_numpy(split.labels)
    adam = torch.optim.Adam(params.values(), lr=problem.learning_rate, eps=problem.epsilon)
    of_layer = {name.removeprefix("layer/"): value for name, value in params.items() if name.startswith("layer/")}
    h0 = torch.zeros(problem.batch_size, problem.hidden_size)

    def inputs_of_retrieval(chosen: Tensor) -> Tensor:
        embedded = functional.embedding(torch.from_numpy(split.inputs)[:, chosen], params["encoder/table"])
        return functional.linear(embedded, params["encoder/weight"], params["encoder/bias"])

    def inputs_of_mnist(chosen: Tensor) -> Tensor:
        x = torch.from_numpy(split.pixels)[chosen].float() / 255
        if problem.layer == "convnet":
            return x[:, None]
        quadrants = x.unfold(1, 14, 14).unfold(2, 14, 14)  # (B, 2, 2, 14, 14)
        coarse = functional.avg_pool2d(quadrants.flatten(1, 2), 2).unsqueeze(2).flatten(3)  # (B, 4, 1, 49)
        fine = quadrants.unfold(3, 7, 7).unfold(4, 7, 7).reshape(len(x), 4, 4, 49)
        patches = torch.cat([coarse, fine, coarse], 2).flatten(1, 2).transpose(0, 1)
        return torch.relu(functional.linear(patches, params["encoder/weight"], params["encoder/bias"]))

    def last_state(x: Tensor) -> Tensor:
        options = {name: value for name, value in network.options.items() if name != "inner_steps"}  # S is 1 here
        return FORMS[problem.layer][form](of_layer, x, h0, **options)[-1]

    def features(x: Tensor) -> Tensor:
        for n, each in enumerate(network.layers):
            x = functional.conv2d(x, of_layer[f"weight{n}"], of_layer[f"bias{n}"], each.stride)
            x = torch.relu(functional.max_pool2d(x, each.pool) if each.pool > 1 else x)
        return x.flatten(1)

    inputs = inputs_of_retrieval if problem.task == "retrieval" else inputs_of_mnist
    body = features if problem.layer == "convnet" else last_state

    def logits(chosen: Tensor) -> Tensor:
        hidden = functional.linear(body(inputs(chosen)), params["readout/hidden"], params["readout/hidden_bias"])
        return functional.linear(torch.relu(hidden), params["readout/output"], params["readout/output_bias"])

    def run() -> Any:
        for _ in range(problem.updates):
            chosen = torch.from_numpy(next(orders))
            adam.zero_grad(set_to_none=True)
            functional.cross_entropy(logits(chosen), labels[chosen]).backward()
            torch.nn.utils.clip_grad_norm_(params.values(), problem.clip_norm)
            adam.step()
        return params

    return Framework(run, lambda params: {name: value.detach().numpy().copy() for name, value in params.items()})
