"""Mutants: lines of the backward passes with a typical mistake, and the audit of a package with such a line."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy

from ..network import LAYERS
from .documents import DOCUMENTS
from .layers import REFERENCES
from .links import Link
from .programmer import NAME
from .transformer import NAME as TRANSFORMER

PACKAGE = Path(__file__).parents[1]
SHARED = ("memory", "memory_gradient", "inner_loop", "spans")  # what fast_weights uses
PROGRAMMER = (NAME, "projections", "features", "key_value_memory", "chunks")  # what the fast weight programmer uses
BLOCKS = (TRANSFORMER, "batch_parts", "in_place_ttt", "targets", "attention", "rms_norm", "gated_mlp")


class Mutant(NamedTuple):
    """A line of a file of the package, what it is turned into, and the numbers of the derivation that it breaks."""

    file: str
    line: str
    mutation: str
    numbers: str = ""  # such as "F3 F5"

    def __str__(self) -> str:
        """Return the place in the file, the line and its mutation, as one line."""
        before, found, _ = (PACKAGE / self.file).read_text("utf-8").partition(self.line)
        number = before.count("\n") + 1 if found else "?"
        line, mutation = (" ".join(text.split()) for text in (self.line, self.mutation))
        return f"{self.file}:{number}: {line}  ->  {mutation or '(nothing)'}"


_MUTANTS: dict[str, tuple[str, str, str, str]] = {
    "linear: weight transposed": ("ops.py", "dy_rows.swapaxes(-2, -1) @ x_rows", "(x_rows.T @ dy_rows).reshape(weight.shape)", "L1"),
    "linear: bias averaged instead of summed": ("ops.py", "sum_rows(dy_rows)\n", "dy_rows.mean(axis=-2)\n", "L1"),
    "embedding: duplicates lost": ("backend.py", "target += added", "target[..., index, :] += values", "L2"),
    "relu: slope 1 everywhere": ("ops.py", "greater(y, 0,", "greater_equal(y, 0,", "L3"),
    "tanh: slope 1 - y": ("ops.py", "subtract(1, y * y,", "subtract(1, y,", "L4"),
    "layer norm: gain dropped": ("ops.py", "dz = xp.multiply(dy, self._gain, out=out)", "dz = xp.multiply(dy, 1.0, out=out)", "L5 L6"),
    "layer norm: gain dropped from the means": ("ops.py", "self._xp.multiply(self._mean, gain[..., None], out=self._mean_by_gain)", "self._mean_by_gain[...] = self._mean", "L6"),
    "layer norm: mean of dn dropped": ("ops.py", "        dz -= mean_dn\n", "", "L6"),
    "layer norm: term of the variance dropped": ("ops.py", "        dz -= xp.multiply(n, mean_dn_n, out=dy_n)\n", "", "L6"),
    "layer norm: 1 / std dropped": ("ops.py", "        dz *= inverse_std\n", "", "L6"),
    "layer norm: gain's gradient without n": ("ops.py", "xp.multiply(dy, n, out=dy_n)", "dy_n[...] = dy", "L7"),
    "layer norm: gradients of the last step alone": ("ops.py", "dnorm += xp.matmul", "dnorm[...] = xp.matmul", "L7"),
    "cross-entropy: label not subtracted": ("ops.py", "dlogits[xp.arange(len(labels)), labels] -= 1", "pass", "L8"),
    "memory: matrix not transposed": ("memory.py", "read_matrix(matrix.swapaxes(1, 2) if transposed else matrix, v)", "read_matrix(matrix, v)", "F3"),
    "memory: scores of errors not weighted": ("memory.py", "            scores *= weights\n", "            scores *= 1.0 if transposed else weights\n", "F3 F6"),
    "memory: partners not swapped": ("memory.py", "self._of_errors, self._of_queries = (", "self._of_queries, self._of_errors = (", "F6"),
    "memory: half of the symmetric read": ("memory_gradient.py", "self._symmetric = matrix + matrix.swapaxes(1, 2)", "self._symmetric = matrix", "F6"),
    "memory: errors and queries exchanged": ("memory_gradient.py", "for side in (memory.errors, memory.queries))", "for side in (memory.queries, memory.errors))", "F5"),
    "memory: matrix not decayed when folded": ("memory.py", "folded += decay * matrix", "folded += matrix", "F3 F5"),
    "memory: matrix not decayed when read": ("memory.py", "from_matrix *= carry", "from_matrix *= 1", "F3"),
    "memory: G not decayed when read": ("memory_gradient.py", "memory.rate * memory.left(at, states)", "memory.rate * memory.left(states, states)", "F5 F6"),
    "memory: η of G's matrix dropped": ("memory_gradient.py", "memory.rate * memory.left(at, states)", "memory.left(at, states)", "F6"),
    "memory: another state's scores": ("memory_gradient.py", "(n - 1) % memory.chunk]", "0]", "F6"),
    "memory: G's terms not decayed when folded": ("memory_gradient.py", "decay, errors, queries, weights)", "decay, errors, queries, weights**0)", "F5"),
    "inner loop: error at the sustained boundary dropped": ("inner_loop.py", "                da += r\n", "                pass\n", "F3"),
    "inner loop: identity of method 2 dropped": ("inner_loop.py", "                dh += r\n", "                pass\n", "F3"),
    "inner loop: preliminary state dropped": ("inner_loop.py", "        self.activations[0].backward(dh, saved[0], da, dnorm)\n", "        da[...] = 0\n", "F4"),
    "inner loop: read not transposed": ("inner_loop.py", "A.read_transposed(n, first + s, r)", "A.read(n, first + s, r)", "F3"),
    "inner loop: another read's scores": ("inner_loop.py", "A.read_transposed(n, first + s, r)", "A.read_transposed(n, first, r)", "F3"),
    "inner loop: slope of the preliminary state lost": ("fast_weights.py", "swapaxes(0, 1), da_all)", "swapaxes(0, 1), da_all + 0)", "F4"),
    "inner loop: slopes of another inner step": ("inner_loop.py", "f.slope(saved[s + 1].state, out=errors[s])", "f.slope(saved[s].state, out=errors[s])", "F1 F4"),
    "inner loop: f' dropped": ("recurrent.py", "self._xp.multiply(dz, dh, out=self.norm.dy)", "self.norm.dy[...] = dh", "F1"),
    "time: memory's gradient one step late": ("fast_weights.py", "dh_t = G.read(t + 1)", "dh_t = G.read(min(t + 2, len(states)))", "F6"),
    "time: recurrence through W dropped": ("fast_weights.py", "        dh_t += dh_next\n", "", "F7"),
    "time: W not transposed": ("fast_weights.py", 'xp.matmul(da, params["W"], out=dh_next)', 'xp.matmul(da, params["W"].T, out=dh_next)', "F7 F8"),
    "time: W's gradient from the states after": ("fast_weights.py", "spans.begin_all(buffers.h[:-1]))", "spans.begin_all(buffers.h[1:]))", "F7"),
    "rate: η kept": ("memory_gradient.py", "asarray(past * memory.decay", "asarray(memory.rate * past * memory.decay", "F9"),
    "rate: products of queries alone": ("memory_gradient.py", "(h_q * h_r)", "(h_q * h_q)", "F9 F10"),
    "rate: reads after the chunk dropped": ("memory_gradient.py", "(states * G_h).sum(axis=2)", "0 * (states * G_h).sum(axis=2)", "F9 F10"),
    "decay: slope of λ^age without its age": ("memory_gradient.py", "past * ages * memory.decay", "past * memory.decay", "F10"),
    "decay: slope of λ^age with λ^age": ("memory_gradient.py", "memory.decay ** (ages - 1).clip(0)", "memory.decay ** ages.clip(0)", "F10"),
    "decay: η dropped": ("memory_gradient.py", "(memory.rate if has_rate else 1) * slopes", "slopes", "F10"),
    "decay: reads of the matrix dropped": ("memory_gradient.py", "(errors * A_q).sum(axis=2)", "0 * (errors * A_q).sum(axis=2)", "F10"),
    "decay: decay of the matrix dropped": ("memory_gradient.py", "(G * A).sum(axis=(1, 2))", "0 * (G * A).sum(axis=(1, 2))", "F10"),
    "decay: ages from the newest state": ("memory_gradient.py", "self._add(n[:, None] - ages", "self._add(n[:, None] + 1 - ages", "F9 F10"),
    "state: gradient of the final A not decayed": ("memory_gradient.py", "memory.left(self._at, numpy.array([start]))", "memory.left(start, numpy.array([start]))", "F5"),
    "irnn: slope dropped": ("irnn.py", "buffers.activation.f.slope(buffers.h[1:], out=buffers.z)", "buffers.z[...] = 1", "I1"),
    "irnn: slope of the state before": ("irnn.py", "slope(buffers.h[1:], out=buffers.z)", "slope(buffers.h[:-1], out=buffers.z)", "I1"),
    "irnn: gradient of h dropped before the last step": ("irnn.py", "            dh_next += dhs[t]\n", "            pass\n", "I2"),
    "irnn: W not transposed": ("irnn.py", "xp.matmul(dz, W, out=dh_next)", "xp.matmul(dz, W.T, out=dh_next)", "I2"),
    "lengths: gradient of padding kept": ("spans.py", "whole = xp.zeros_like(states) if last_only else self._masked(dh)", "whole = xp.zeros_like(states) if last_only else dh.copy()", "S2"),
    "lengths: gradient of the final state at the last step": ("spans.py", "                whole[self._places(states)] += gradient\n", "                whole[-1] += gradient\n", "S2"),
    "lengths: padding ages the memory": ("spans.py", "self.active()[stores].cumsum(axis=0)", "numpy.ones_like(self.active()[stores]).cumsum(axis=0)", "S2"),
    "resets: gradient before a reset kept": ("spans.py", "            dh[rows] = 0\n", "            pass\n", "S1"),
    "resets: W's gradient from the state before": ("spans.py", "        return h * array_module(h=h).asarray(~self._starts()[:, :, None], h.dtype)\n", "        return h\n", "S1"),
    "resets: fast weights kept": ("spans.py", "parts[[*reads, -1]]", "0 * parts[[*reads, -1]]", "S1"),
    "irnn: W's gradient from the states after": ("irnn.py", "spans.begin_all(buffers.h[:-1]))", "spans.begin_all(buffers.h[1:]))", "F7"),
    "irnn: gradient of the gain dropped": ("irnn.py", '        grads["gain"], grads["bias"] = dnorm[:, 0]\n', '        grads["gain"], grads["bias"] = 0 * dnorm[:, 0]\n', "L7"),
    "lstm: slope of σ y": ("lstm.py", "xp.subtract(gates[: F + 1], square[: F + 1], out=out[: F + 1])", "out[: F + 1] = gates[: F + 1]", "M3"),
    "lstm: slope of σ instead of tanh": ("lstm.py", "xp.subtract(1, square[G], out=out[G])", "xp.subtract(gates[G], square[G], out=out[G])", "M3"),
    "lstm: output gate without tanh(c)": ("lstm.py", "        dz[O] *= tanh_c\n", "", "M1"),
    "lstm: slope of tanh(c) dropped": ("lstm.py", "xp.subtract(1, xp.multiply(tanh_c, tanh_c, out=dh_dc), out=dh_dc)", "dh_dc[...] = 1", "M1"),
    "lstm: cells' gradient without the output gate": ("lstm.py", "        dh_dc *= gates[O]\n", "", "M1"),
    "lstm: input gate and g exchanged": ("lstm.py", "        dz[I] *= gates[G]\n", "        dz[I] *= gates[I]\n", "M2"),
    "lstm: forget gate with the cells after": ("lstm.py", "dz[F] *= self.c[steps]\n", "dz[F] *= self.c[steps.start + 1 : steps.stop + 1]\n", "M2"),
    "lstm: cells do not forget backwards": ("lstm.py", "            dc *= at.gates[F]\n", "", "M2"),
    "lstm: cells' gradient not carried on": ("lstm.py", "            dc += xp.multiply(at.dh_dc, dh_next, out=scratch)", "            dc = xp.multiply(at.dh_dc, dh_next)", "M1 M2"),
    "lstm: one gate's way back through W": ("lstm.py", "xp.matmul(at.dz, W, out=from_gates).sum(axis=0, out=dh_next)", "dh_next[...] = xp.matmul(at.dz, W, out=from_gates)[0]", "M4"),
    "lstm: layer norm's backward pass skipped": ("lstm.py", "            self.norm.backward(saved.normalized, saved.inverse_std, dnorm, out=dz)\n", "", "F2 M4"),
    "associative: bound's slope 1 outside": ("associative_lstm_cell.py", "    dz *= inverse\n", "", "A1"),
    "associative: radial part kept": ("associative_lstm_cell.py", "    xp.subtract(dy, dz, out=dz)\n", "    dz[...] = dy\n", "A1"),
    "associative: radial part dropped inside too": ("associative_lstm_cell.py", "    along *= xp.less(inverse, 1, out=xp.empty_like(inverse))\n", "", "A1"),
    "associative: output gate from the real parts alone": ("associative_lstm_cell.py", "(dh * at.total).sum(axis=0, out=dgates[O])", "dgates[O] = dh[0] * at.total[0]", "A2"),
    "associative: output gate dropped": ("associative_lstm_cell.py", "bound_backward((dh * at.gates[O])[:, None],", "bound_backward(dh[:, None],", "A2"),
    "associative: mean over copies forgotten": ("associative_lstm_cell.py", "        dm_parts *= 1 / self._copies\n", "", "A3"),
    "associative: imaginary part's sign": ("associative_lstm_cell.py", "dm = dm_re - 1j * dm_im", "dm = dm_re + 1j * dm_im", "A3"),
    "associative: output keys' gradient from the memory before": ("associative_lstm_cell.py", "xp.multiply(at.c, dm, out=self._product)", "xp.multiply(at.c_before, dm, out=self._product)", "A3"),
    "associative: what is read not added to the memory's gradient": ("associative_lstm_cell.py", "            dc += xp.multiply(self._in_copies(q), dm, out=self._product)\n", "", "A3"),
    "associative: forget gate with the memory after": ("associative_lstm_cell.py", "_of_real(at.c_before, dc, self._product)", "_of_real(at.c, dc, self._product)", "A4"),
    "associative: values without the input gate": ("associative_lstm_cell.py", "        xp.multiply(dvalues, i, out=du)\n", "        du[...] = dvalues\n", "A4"),
    "associative: memory does not forget backwards": ("associative_lstm_cell.py", "        dc *= f\n", "", "A4"),
    "associative: permutations not undone": ("associative_lstm_cell.py", "self._back = xp.asarray(numpy.argsort(order, axis=1) +", "self._back = xp.asarray(order +", "A5"),
    "associative: slope of σ dropped": ("associative_lstm_cell.py", "        dz[:3] *= at.gates\n", "", "M3"),
    "associative: layer norm's backward pass skipped": ("associative_lstm_cell.py", "self.norm.backward(at.saved.normalized, at.saved.inverse_std, dnorm, out=dz.swapaxes(1, 2))", "pass", "A6"),
    "associative: gradients of gain and bias exchanged": ("associative_lstm.py", 'grads["gain"], grads["bias"] = dnorm', 'grads["bias"], grads["gain"] = dnorm', "L7"),
    "associative: shared value: gradient of the first key alone": ("associative_lstm_cell.py", "            dk[1:] = dk[0]\n", "            dk[1:] = 0\n", "A7"),
    "associative: shared value: heads after the first not written": ("associative_lstm_cell.py", "at.k.sum(axis=0, keepdims=True)", "at.k[:1]", "A7"),
    "associative: no recurrent value: W's gradient kept": ("associative_lstm.py", "        cache.heads.clear_values(grads[\"W\"])  # (A8)\n", "        pass\n", "A8"),
    "associative: no recurrent value: imaginary parts forgotten": ("associative_lstm_cell.py", "for first in (3, 3 + self.pairs):", "for first in (3,):", "A8"),
    "multilevel: memory's gradient of the state stored before": ("multilevel.py", "dh_t += G.read(n + 1)", "dh_t += G.read(max(n, 1))", "F6 V1"),
    "multilevel: memory's gradient dropped": ("multilevel.py", "            dh_t += G.read(n + 1)\n", "            G.read(n + 1)\n", "F6 V1"),
    "multilevel: gradient goes back through a wipe": ("multilevel.py", "            dh_next.fill(0)\n", "            pass\n", "V3"),
    "multilevel: W for V on the way back": ("multilevel.py", "xp.matmul(da, params[U], out=dh_next)", 'xp.matmul(da, params["W"], out=dh_next)', "V3"),
    "multilevel: layer norm of an unread step skipped": ("multilevel.py", "            buffers.unread.backward(dh_t, saved[0], da, dnorm)\n", "            da *= dh_t\n", "V2"),
    "multilevel: gradients of W and V from all steps": ("multilevel.py", "if step.transition == name]", "if step.transition]", "V3"),
    "multilevel: W's gradient from wiped states too": ("multilevel.py", "if step.transition == name]", "if step.transition in (name, None)]", "V3"),
    "multilevel: slope of an unread step at the state before": ("multilevel.py", "slope(states, out=da_all)", "slope(buffers.h[:-1], out=da_all)", "V2"),
    "multilevel: slope of the preliminary state lost": ("multilevel.py", "loop.slopes(saved, errors, da)", "loop.slopes(saved, errors, da + 0)", "F4"),
    "convnet: kernels' gradient of the last rows alone": ("convnet.py", "dkernels += dz_rows @ patches.T", "dkernels[...] = dz_rows @ patches.T", "N1"),
    "convnet: overlapping patches overwrite one another": ("convnet.py", ":columns] += dpatches[:, k, l]", ":columns] = dpatches[:, k, l]", "N2"),
    "convnet: rows and columns of a kernel exchanged": ("convnet.py", ":columns] += dpatches[:, k, l]", ":columns] += dpatches[:, l, k]", "N2"),
    "convnet: stride forgotten": ("convnet.py", "dx[:, stride * rows.start + k :: stride, l::stride]", "dx[:, rows.start + k :, l:]", "N2"),
    "convnet: the whole window gets the gradient": ("convnet.py", "dy * (winners == n)", "dy", "N3"),
    "convnet: slope of relu dropped": ("convnet.py", "dy * ops.Relu(y).slope(y)", "dy * 1.0", "L3"),
    "convnet: bias's gradient of one place": ("convnet.py", "dy.reshape(len(dy), -1).sum(axis=1)", "dy[:, 0, 0].sum(axis=1)", "L1"),
    "entropy: its sign": ("ops.py", "return -dH[:, None] *", "return dH[:, None] *", "L9"),
    "entropy: H dropped": ("ops.py", "log_pi + H[:, None])", "log_pi + 1)", "L9"),
    "squared error: target dropped": ("ops.py", "return dloss * (values - targets)", "return dloss * values", "L10"),
    "actor-critic: advantages have the wrong sign": ("actor_critic.py", "advantages / games, pi", "-advantages / games, pi", "L8"),
    "actor-critic: advantages dropped": ("actor_critic.py", "advantages / games, pi", "xp.full_like(H, 1 / games), pi", "L8"),
    "actor-critic: mean over steps, too": ("actor_critic.py", "xp.full_like(values, value_weight / games)", "xp.full_like(values, value_weight / values.size)", "L10"),
    "actor-critic: entropy's gradient dropped": ("actor_critic.py", "    dlogits += ops.entropy_backward(", "    _ = ops.entropy_backward(", "L9"),
    "actor-critic: entropy pushed down": ("actor_critic.py", "-entropy_weight / games", "entropy_weight / games", "L9"),
    "actor-critic: value's way into the state dropped": ("actor_critic.py", "        dh += dh_by_value\n", "", "L1"),
    "actor-critic: encoder's slope at its input plus 1": ("actor_critic.py", "ops.Relu(x), x)", "ops.Relu(x), x + 1)", "L3"),
    "policy gradient: advantages dropped": ("policy_gradient.py", "* advantages / actions.size", "/ actions.size", "G1"),
    "policy gradient: ratio not clipped": ("policy_gradient.py", "xp.minimum(xp.exp(log_pi_a - log_mu), clip)", "xp.exp(log_pi_a - log_mu)", "G1"),
    "policy gradient: an action that was taken twice counts once": ("policy_gradient.py", "taken[rows[:, 0], actions[:, g]] += weights", "taken[rows[:, 0], actions[:, g]] = weights", "G1"),
    "policy gradient: mean over rows, sum over actions": ("policy_gradient.py", "advantages / actions.size", "advantages / len(actions)", "G1"),
    "policy gradient: KL not subtracted": ("policy_gradient.py", "log_pi - log_beta - kl[:, None]", "log_pi - log_beta", "G2"),
    "contexts: half of the gradient of a": ("context_policy.py", "a @ (dA0 + dA0.swapaxes(1, 2))", "a @ dA0", "G3"),
    "contexts: gradient of A0 from the first sequence": ("context_policy.py", "*dA0.shape[1:]).sum(axis=1)", "*dA0.shape[1:])[:, 0]", "G3"),
    "contexts: gradient of h0 averaged over sequences": ("context_policy.py", "dh0.shape[-1]).sum(axis=1)", "dh0.shape[-1]).mean(axis=1)", "G3"),
    "contexts: gradient of U transposed": ("context_policy.py", '"U": dW @ contexts["V"]', '"U": dW.swapaxes(1, 2) @ contexts["V"]', "G4"),
    "contexts: gradient of the weights from the last block": ("context_policy.py", "sum(grads[name] for grads in own)", "own[-1][name]", "G4"),
    "network: readout's relu ignored": ("parts.py", "dz = dhidden * relu.slope(hidden)", "dz = dhidden", "L3"),
    "network: the second direction's gradient not reversed": ("network.py", "dx_n = cache.spans.reverse(dx_n)", "pass", "L1"),
    "network: gradient of the second direction dropped": ("network.py", "dx = dx + dx_n if n else dx_n", "dx = dx if n else dx_n", "L1"),
    "learned: slope of the sigmoid dropped": ("learned.py", "value * (1 - value)", "value", "F10"),
    "learned: slope of the exponential dropped": ("learned.py", "slope = value * (1 - value) if name == \"decay\" else value", "slope = value * (1 - value) if name == \"decay\" else 1", "F9"),
    "features: elu's slope 1 everywhere": ("features.py", "return dphi * xp.minimum(saved.phi, 1)", "return dphi * 1.0", "P1"),
    "features: one factor of dpfp dropped": ("features.py", "drolled[:, shifted] += dphi_n * r", "drolled[:, shifted] += 0 * dphi_n", "P2"),
    "features: dpfp not rolled back at the end": ("features.py", "        dr[:, size - nu :] += drolled[:, :nu]\n", "", "P2"),
    "features: slope of dpfp's relu dropped": ("features.py", "        dr *= r > 0\n", "", "L3"),
    "features: change of the norm dropped": ("features.py", 'dphi = dy - (saved.y * along if normalization == "l2" else along)', "dphi = dy * 1.0", "P3"),
    "features: change of the sum as of the norm": ("features.py", '(saved.y * along if normalization == "l2" else along)', "saved.y * along", "P3"),
    "features: attention normalization's sum held fixed": ("features.py", ".concatenate([do, -along], axis=-1)", ".concatenate([do, 0 * along], axis=-1)", "P9"),
    "programmer: slope of σ dropped": ("projections.py", " * (1 - projected.beta)", "", "P4"),
    "programmer: slope of log σ with α for 1 - α": ("projections.py", "-xp.expm1(projected.log_decay)", "xp.exp(projected.log_decay)", "P4"),
    "programmer: a head's rows of another map": ("projections.py", "dstacked[start:stop].reshape", "dstacked[: stop - start].reshape", "L1"),
    "programmer: padding writes": ("fast_weight_programmer.py", "return spans.active() if writes is None else writes & spans.active()", "return writes", "S2"),
    "programmer: gradient of padding kept": ("spans.py", "return dy if self._lengths is None else self._masked(dy)", "return dy", "S2"),
    "programmer: S before the chunk dropped from the queries' gradient": ("key_value_memory.py", "dQ = dO_before @ before", "dQ = 0 * Q", "P5"),
    "programmer: reads of S before the chunk not decayed": ("key_value_memory.py", "xp.matmul(dO_before.swapaxes(3, 4), Q,", "xp.matmul(dO.swapaxes(3, 4), Q,", "P5 P8"),
    "programmer: keys' gradient by later chunks not decayed": ("key_value_memory.py", "dK = _times(U, D.to_end) @ after", "dK = U @ after", "P6 P8"),
    "programmer: keys' gradient by later reads dropped": ("key_value_memory.py", "    dK += dscores.swapaxes(3, 4) @ Q\n", "", "P6"),
    "programmer: β's gradient from β e": ("key_value_memory.py", "_dot(dU, E)", "_dot(dU, U)", "P6"),
    "programmer: values' gradient without β": ("key_value_memory.py", "        dV = _times(dU, b)\n", "        dV = dU\n", "P6"),
    "programmer: half of the keys' overlaps": ("key_value_memory.py", "(doverlaps + doverlaps.swapaxes(3, 4)) @ K", "doverlaps @ K", "P7"),
    "programmer: later errors dropped from β's gradient": ("key_value_memory.py", "        dU -= overlaps.swapaxes(3, 4) @ dE\n", "", "P7"),
    "programmer: what was erased dropped from S's gradient": ("key_value_memory.py", "            dS[c] -= dE[:, :, c].swapaxes(2, 3) @ K_before[:, :, c]\n", "", "P7"),
    "programmer: solve not transposed": ("key_value_memory.py", "transposed, K_before, dE = cache.inverted.swapaxes(3, 4)", "transposed, K_before, dE = cache.inverted", "P7"),
    "programmer: S's gradient not decayed": ("key_value_memory.py", "dS[c] += D.left(dS[c + 1], c)", "dS[c] += dS[c + 1]", "P8"),
    "programmer: decay's gradient without what was erased": ("key_value_memory.py", "            of_pairs -= doverlaps * overlaps\n", "", "P8"),
    "programmer: decay's gradient without what was erased of S before": ("key_value_memory.py", "            of_start -= _dot(dK_before, K)\n", "", "P8"),
    "programmer: decay's gradient without S before the chunk": ("key_value_memory.py", "_span_sums(of_pairs, of_start, of_end) + of_whole", "_span_sums(of_pairs, of_start, of_end)", "P8"),
    "programmer: decay's gradient from the step's own write": ("key_value_memory.py", "for k in (0, -1))  # (a, i)", "for k in (0, 0))  # (a, i)", "P8"),
    "programmer: decay's gradient from reads before": ("key_value_memory.py", "of_pairs @ before.T, not_after)", "of_pairs @ before.T, not_after**0)", "P8"),
    "programmer: reset within a chunk ignored": ("chunks.py", "(filled[..., :, None] == filled[..., None, :]) & lower", "(filled[..., :, None] == filled[..., :, None]) & lower", "S1"),
    "programmer: S before the chunk read after a reset": ("chunks.py", "(filled == before)[..., None],", "(filled == filled)[..., None],", "S1"),
    "rms norm: change of the norm dropped": ("rms_norm.py", "dx = n * -(dn @ column)", "dx = 0 * n", "R1"),
    "rms norm: 1 / norm dropped": ("rms_norm.py", "    dx *= rho\n", "", "R1"),
    "rms norm: gain's gradient without n": ("rms_norm.py", "dn = dy * n", "dn = dy * 1", "R1"),
    "attention: positions not rotated back": ("attention.py", "rotations.conj()", "rotations", "R2"),
    "attention: values' gradient from unscaled weights": ("attention.py", "    dO *= scale\n", "", "R3"),
    "attention: softmax's sum held fixed": ("attention.py", "    dS -= along\n", "", "R4"),
    "attention: weights dropped from the scores' gradient": ("attention.py", "    dS *= P\n", "", "R4"),
    "attention: keys' gradient of the block before dropped": ("attention.py", "before += of_block[..., :pad, :]", "pass", "R3 R5"),
    "attention: keys for queries": ("attention.py", "dS.swapaxes(3, 4) @ Q)", "dS.swapaxes(3, 4) @ (Q + 1))", "R5"),
    "gated mlp: slope of σ dropped": ("gated_mlp.py", "    phi *= 1 - sigma\n", "    phi *= 0\n", "R6"),
    "gated mlp: gate's gradient without u": ("gated_mlp.py", "    dz *= u\n", "", "R6"),
    "gated mlp: slope of relu dropped": ("gated_mlp.py", "        dz *= saved > 0\n", "", "L3"),
    "targets: kernel's gradient from the step itself": ("targets.py", "(of_tap * of_source(source))", "(of_tap * of_target(Y))", "W1"),
    "targets: source's gradient without the kernel": ("targets.py", "            of_tap = of_tap * params[\"kernel\"][n]\n", "", "W1"),
    "targets: taps reach another document": ("targets.py", "X = X * of_target(masks.taps[n])", "pass", "S1"),
    "targets: taps' gradient of another document kept": ("targets.py", "of_tap = of_tap * of_target(masks.taps[n])", "pass", "S1"),
    "in place: S read after a reset": ("in_place_ttt.py", "            read *= masks.from_start\n", "            pass\n", "S1"),
    "in place: η dropped": ("in_place_ttt.py", "    dU *= options.rate\n", "", "W2"),
    "in place: η's gradient from u": ("in_place_ttt.py", "(dU * cache.V).sum()", "(dU * U).sum()", "W2"),
    "in place: keys' gradient by later reads dropped": ("in_place_ttt.py", "(U @ dS).reshape", "(0 * U @ dS).reshape", "W3"),
    "in place: targets' gradient from the chunk after": ("in_place_ttt.py", "dU = Z[:, :-1] @ dS", "dU = Z[:, 1:] @ dS", "W3"),
    "in place: hidden units' gradient from down alone": ("in_place_ttt.py", "(dO @ S).reshape", "(0 * dO @ S).reshape", "W4"),
    "in place: S's gradient not decayed": ("in_place_ttt.py", "dS[:, c - 1] += _kept(options, masks, c) * dS[:, c]", "dS[:, c - 1] += dS[:, c]", "W5"),
    "in place: later chunks dropped from S's gradient": ("in_place_ttt.py", "dS[:, c - 1] += _kept(options, masks, c) * dS[:, c]", "pass", "W5"),
    "transformer: gradient of the targets' source dropped": ("transformer.py", "dx = dx + dsource", "dx = dx * 1", "L2"),
    "transformer: attention's way past its branch dropped": ("transformer.py", "dx = dx + da", "dx = da", "R1"),
    "transformer: gradients of one part alone": ("batch_parts.py", "first[name] = first[name] + value", "first[name] = value", "L1"),
    "plain rms norm: change of the norm dropped": ("plain/rms_norm.py", "(dn - n * (dn * n).mean(-1, keepdims=True))", "dn", "R1"),
    "plain attention: positions not rotated back": ("plain/attention.py", "rotate(dq, -1)", "rotate(dq, 1)", "R2"),
    "plain attention: values' gradient by columns": ("plain/attention.py", '"bntj,tbnp->jbnp", w, do)', '"bnjt,tbnp->jbnp", w, do)', "R3"),
    "plain attention: softmax's sum held fixed": ("plain/attention.py", "(dw - (dw * w).sum(-1, keepdims=True))", "dw", "R4"),
    "plain attention: scale dropped": ("plain/attention.py", "    ds = ds / q.shape[-1] ** 0.5\n", "", "R5"),
    "plain gated mlp: slope of σ dropped": ("plain/gated_mlp.py", "sigma * (1 + g * (1 - sigma))", "sigma", "R6"),
    "plain in place: kernel dropped from the source's gradient": ("plain/in_place_ttt.py", "dsource + kernel[n] * numpy", "dsource + numpy", "W1"),
    "plain in place: η dropped": ("plain/in_place_ttt.py", "(du * v).sum(), rate * du", "(du * v).sum(), du", "W2"),
    "plain in place: keys' gradient by later reads dropped": ("plain/in_place_ttt.py", 'numpy.einsum("bdf,tbd->tbf", dS, u[t])', "0", "W3"),
    "plain in place: S dropped from the hidden units' gradient": ("plain/in_place_ttt.py", ' + numpy.einsum("bdf,tbd->tbf", S, dy[t])', "", "W4"),
    "plain in place: S's gradient not decayed": ("plain/in_place_ttt.py", "        dS = decay * dS  # (W5)\n", "", "W5"),
    "plain fast weights: λ's gradient from the A after": ('plain/fast_weights.py', '(G * A).sum()', '(G * (decay * A + rate * outer(h, h))).sum()', "F10"),
    "plain fast weights: η's gradient halved": ('plain/fast_weights.py', '(h * times(G, h)).sum()', '(h * times(G, h)).sum() / 2', "F9"),
    'plain fast weights: G not decayed': ('plain/fast_weights.py', 'G = decay * G + dA', 'G = G + dA', "F5"),
    'plain fast weights: reads dropped from G': ('plain/fast_weights.py', 'G = decay * G + dA', 'G = decay * G', "F5"),
    'plain fast weights: half of the symmetric read': ('plain/fast_weights.py', 'rate * times(G + G.swapaxes(1, 2), h)', 'rate * times(G, h)', "F6"),
    'plain fast weights: recurrence through W dropped': ('plain/fast_weights.py', 'dh = dh + dh_next + rate', 'dh = dh + rate', "F7"),
    'plain fast weights: W not transposed': ('plain/fast_weights.py', 'dh_next = da @ params["W"]', 'dh_next = da @ params["W"].T', "F7 F8"),
    "plain fast weights: W's gradient from the state after": ('plain/fast_weights.py', 'da.T @ h_before', 'da.T @ h', "F7"),
    'plain fast weights: read not transposed': ('plain/fast_weights.py', 'dh = times(A.swapaxes(1, 2), r)', 'dh = times(A, r)', "F3"),
    'plain fast weights: errors and queries exchanged': ('plain/fast_weights.py', 'outer(r, queries[s])', 'outer(queries[s], r)', "F3"),
    'plain fast weights: error at the sustained boundary dropped': ('plain/fast_weights.py', '            da = da + r\n', '            pass\n', "F3"),
    'plain fast weights: identity of method 2 dropped': ('plain/fast_weights.py', '            dh = dh + r\n', '            pass\n', "F3"),
    'plain fast weights: preliminary state dropped': ('plain/fast_weights.py', 'return da + norm_activation_backward(dh, saved_activations[0], params, activation, grads), dA', 'return da, dA', "F4"),
    'plain multilevel: gradient goes back through a wipe': ('plain/multilevel.py', '(0 if controls.wipe[t] else dh_next)', 'dh_next', "V3"),
    'plain multilevel: G decays where nothing is stored': ('plain/multilevel.py', '        if controls.read[t]:\n            # h from a', '        G = decay * G\n        if controls.read[t]:\n            # h from a', "V1"),
    'plain multilevel: W for V on the way back': ('plain/multilevel.py', 'dh_next = da @ params[U]', 'dh_next = da @ params["W"]', "V3"),
    'plain ops: slope of relu 1 everywhere': ('plain/ops.py', '1 * (y > 0)', '1 + 0 * y', "L3"),
    "plain ops: layer norm's mean dropped": ('plain/ops.py', '(dn - dn.mean(-1, keepdims=True) - n', '(dn - n', "L6"),
    "plain ops: layer norm's variance dropped": ('plain/ops.py', ' - n * (dn * n).mean(-1, keepdims=True))', ')', "L6"),
    "plain ops: layer norm's gain dropped": ('plain/ops.py', 'dn = gain * dy', 'dn = dy', "L5"),
    'plain irnn: recurrence dropped': ('plain/irnn.py', 'dh + dh_next, activated', 'dh, activated', "I2"),
    'plain lstm: cells do not forget backwards': ('plain/lstm.py', '        dc = dc * f\n', '', "M2"),
    'plain lstm: forget gate with the cells after': ('plain/lstm.py', 'dc * c_before, dc * i', 'dc * (f * c_before + i * g), dc * i', "M2"),
    'plain lstm: slope of tanh(c) dropped': ('plain/lstm.py', 'dh * o * (1 - tanh_c * tanh_c)', 'dh * o', "M1"),
    "plain lstm: layer norm's backward pass skipped": ('plain/lstm.py', 'dz[n], dgain, dbias = layer_norm_backward', '_, dgain, dbias = layer_norm_backward', "M4"),
    "plain features: elu's slope 1 everywhere": ("plain/features.py", "numpy.where(z > 0, 1, phi)", "1", "P1"),
    "plain features: one factor of dpfp dropped": ("plain/features.py", " + numpy.roll(dphi_n * r, -n, axis=-1)", "", "P2"),
    "plain features: dpfp rolled the other way": ("plain/features.py", "numpy.roll(dphi_n * r, -n, axis=-1)", "numpy.roll(dphi_n * r, n, axis=-1)", "P2"),
    "plain features: change of the norm dropped": ("plain/features.py", '"l2": y, "sum": 1.0', '"l2": 0.0, "sum": 1.0', "P3"),
    "plain programmer: slope of σ": ("plain/fast_weight_programmer.py", "dz = dy * y * (1 - y)", "dz = dy * y", "P4"),
    "plain programmer: read not transposed": ("plain/fast_weight_programmer.py", "dS + outer(dy, q)", "dS + outer(o, q)", "P5"),
    "plain programmer: β's gradient from β e": ("plain/fast_weight_programmer.py", "(du * e).sum(2)", "(beta[:, :, None] * du * e).sum(2)", "P6"),
    "plain programmer: what was erased dropped": ("plain/fast_weight_programmer.py", "dS, dk = dS - outer(dv, k), dk", "dS, dk = dS, dk", "P7"),
    "plain programmer: keys' gradient from S not decayed": ("plain/fast_weight_programmer.py", "dk - times(decayed.swapaxes", "dk - times(before.swapaxes", "P7"),
    "plain programmer: S's gradient not decayed": ("plain/fast_weight_programmer.py", "alpha[:, :, None, None] * dS  # (P8)", "dS  # (P8)", "P8"),
    "plain programmer: α's gradient from the S after": ("plain/fast_weight_programmer.py", "(dS * before).sum((2, 3))", "(dS * S).sum((2, 3))", "P8"),
    "plain programmer: attention normalization's sum held fixed": ("plain/fast_weight_programmer.py", "-(do * y).sum(-1, keepdims=True)", "0 * (do * y).sum(-1, keepdims=True)", "P9"),
    "plain losses: label not subtracted": ("plain/losses.py", "(softmax(logits) - numpy.eye(logits.shape[-1])[labels])", "softmax(logits)", "L8"),
    "plain losses: H dropped": ("plain/losses.py", "(numpy.log(pi) + entropy(logits)[..., None])", "(numpy.log(pi) + 1)", "L9"),
    "plain losses: entropy pushed down": ("plain/losses.py", "entropy_backward(-entropy_weight * one", "entropy_backward(entropy_weight * one", "L9"),
    'plain associative: radial part kept': ('plain/associative_lstm.py', '(dy - (m > 1) * y * (y * dy).sum(0)) / m', 'dy / m', "A1"),
    'plain associative: conjugate forgotten': ('plain/associative_lstm.py', 'product(conjugate(q[n][:, :, p]), dm)', 'product(q[n][:, :, p], dm)', "A3"),
    'plain associative: permutation not undone': ('plain/associative_lstm.py', 'product(conjugate(c[s]), dm)[:, :, numpy.argsort(p)]', 'product(conjugate(c[s]), dm)[:, :, p]', "A5"),
    'plain associative: memory does not forget backwards': ('plain/associative_lstm.py', 'dc = [f * dc[s] for s in range(S)]', 'dc = [dc[s] for s in range(S)]', "A4"),
    "plain associative: layer norm's backward pass skipped": ('plain/associative_lstm.py', 'dz, dgain, dbias = (list', '_, dgain, dbias = (list', "A6"),
    "plain associative: shared value: gradient by the first head alone": ('plain/associative_lstm.py', 'du = [sum(du)]', 'du = du[:1]', "A7"),
    "plain associative: no recurrent value: W's gradient kept": ('plain/associative_lstm.py', 'r * (d.T @ h_before) for', 'd.T @ h_before for', "A8"),
    "plain associative: no recurrent value: values' way back through W": ('plain/associative_lstm.py', 'sum(recurrent[j] * (d @ W[j])', 'sum((d @ W[j])', "A8"),
    'plain convnet: the whole window gets the gradient': ('plain/convnet.py', 'dm * (winner == index)', 'dm', "N3"),
    'plain convnet: overlapping patches overwrite one another': ('plain/convnet.py', '[...] += numpy.einsum', '[...] = numpy.einsum', "N2"),
    "plain losses: ratios dropped": ("plain/losses.py", "dnll = weights * advantages", "dnll = advantages", "G1"),
    "plain losses: KL not subtracted": ("plain/losses.py", " - kl(logits, log_beta)[:, None])  # (G2)", ")  # (G2)", "G2"),
    "plain contexts: half of the gradient of a": ("plain/context_policy.py", "(dA0 + dA0.T)", "dA0", "G3"),
    "plain contexts: gradient of V transposed": ("plain/context_policy.py", "dW.T @ context", "dW @ context", "G4"),
    'plain convnet: slope of relu dropped': ('plain/convnet.py', 'dy * (y > 0)', 'dy * 1', "L3"),
}  # fmt: skip
MUTANTS = {name: Mutant(*mutant) for name, mutant in _MUTANTS.items()}


@cache
def _compiled(name: str, source: bytes) -> CodeType:
    return compile(source, name, "exec", dont_inherit=True)


class _SharedCode(SourceFileLoader):
    """Compiles a file once for all copies in which it has the same content. A mutant changes one of 50 files."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of a module."""
        return _compiled(Path(self.path).name, self.get_data(self.path))


@contextmanager
def mutated(mutant: Mutant, folder: Path) -> Iterator[Any]:
    """Yield the audit of a copy of the package in this folder, under another name, with one line changed.

    Raises ValueError unless the file holds the line once.
    """
    copy = folder / f"mutant_{abs(hash((mutant, str(folder))))}"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / mutant.file).read_text("utf-8")
    if mutant.line:
        if source.count(mutant.line) != 1:
            found = source.count(mutant.line)
            raise ValueError(f"mutant: expected {mutant.line!r} once in {mutant.file}, got it {found} times")
        (copy / mutant.file).write_text(source.replace(mutant.line, mutant.mutation), "utf-8")
    packages = [str(path) for path in (copy, *copy.iterdir()) if path.is_dir()]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    for package in packages:
        sys.path_importer_cache[package] = FileFinder(package, (_SharedCode, [".py"]))
    try:
        audit = importlib.import_module(f"{copy.name}.audit")
        if not mutant.file.startswith("plain/"):
            sys.modules[f"{audit.__name__}.layers"].REFERENCES = REFERENCES  # type: ignore[attr-defined]
        yield audit
    finally:
        sys.path.remove(str(folder))
        for package in packages:
            del sys.path_importer_cache[package]
        for name in [name for name in sys.modules if name.partition(".")[0] == copy.name]:
            del sys.modules[name]


def caught_by(mutant: Mutant, folder: Path) -> list[Link]:
    """Return the rows that fail for this mutant: of the gradient checks, link 3, and of DOCUMENTS, where it is run."""
    stem = Path(mutant.file).stem
    stem = stem.removesuffix("_cell")  # one time step of the layer of this name
    layers, others = [stem if stem in LAYERS else "fast_weights"], stem not in (*LAYERS, *SHARED, *PROGRAMMER, *BLOCKS)
    if stem in (*PROGRAMMER, "spans"):
        layers = [NAME] + ["fast_weights"] * (stem == "spans")
    if stem in BLOCKS:
        layers = [TRANSFORMER]
    with mutated(mutant, folder) as audit, numpy.errstate(all="ignore"):  # a mutant may overflow
        only = [DOCUMENTS if {NAME, TRANSFORMER} & set(layers) else "the gradient checks"]
        links = audit.run(quick=True, layers=layers, others=others, only=only)
    return [link for link in links if (link.number == 3 or link.title == DOCUMENTS) and not link.passed]
