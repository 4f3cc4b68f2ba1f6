"""The chain of proofs itself, and that it catches what it is there to catch."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import numpy
import pytest

import fastweights_np
from fastweights_np import audit

PACKAGE = Path(fastweights_np.__file__).parent


def test_every_link_holds():
    for link in audit.run():
        assert link.passed, f"{link.title}: {link.worst:.1e} at {link.where}"


def test_command_prints_the_table_and_succeeds(capsys):
    assert audit.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "3 backward = autograd" in printed
    assert "every link holds" in printed


def test_relative_error_finds_the_worst_entry_and_never_passes_what_is_not_finite():
    assert audit.relative_error(numpy.array([1.0, 2.5]), numpy.array([1.0, 2.0])) == (0.2, (1,))
    assert audit.relative_error(numpy.array([numpy.nan]), numpy.array([1.0]))[0] == numpy.inf
    assert audit.relative_error(numpy.zeros(2), numpy.zeros(3))[0] == numpy.inf
    empty_row = audit.Link(1, "", "", 1e-12)
    assert not empty_row.passed, "a row that compared nothing proves nothing"


def test_a_missing_library_is_named_with_the_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "autograd", None)
    assert audit.main(["--quick"]) == 2
    assert "pip install autograd scipy" in capsys.readouterr().err


# One line of a backward pass at a time, broken as one breaks it by hand: (file, the line, what it is turned into).
MUTANTS = {
    "linear: weight transposed": ("ops.py", "dy_rows.T @ x_rows", "(x_rows.T @ dy_rows).reshape(weight.shape)"),
    "linear: bias averaged instead of summed": ("ops.py", "sum_rows(dy_rows)\n", "dy_rows.mean(axis=0)\n"),
    "embedding: duplicates lost": ("backend.py", "numpy.add.reduceat(values[order], starts, axis=0)", "values[order][starts]"),
    "relu: slope 1 everywhere": ("ops.py", "xp.greater(y, 0,", "xp.greater_equal(y, 0,"),
    "tanh: slope 1 - y": ("ops.py", "multiply(y, y, out=out)", "multiply(y, 1, out=out)"),
    "layer norm: gain dropped": ("ops.py", "dn = dy * self._gain", "dn = dy * 1.0"),
    "layer norm: mean of dn dropped": ("ops.py", "        common += dn @ self._mean\n", ""),
    "layer norm: term of the variance dropped": ("ops.py", "common = normalized * ((dn * normalized) @ self._mean)", "common = 0 * dn"),
    "layer norm: 1 / std dropped": ("ops.py", "        dn *= inverse_std\n", ""),
    "layer norm: gain's gradient without n": ("ops.py", "sum_rows(dy * normalized)", "sum_rows(dy)"),
    "cross-entropy: label not subtracted": ("ops.py", "dlogits[xp.arange(len(labels)), labels] -= 1", "pass"),
    "memory: matrix not transposed": ("memory.py", "read_matrix(matrix.swapaxes(1, 2) if transposed else matrix, v)", "read_matrix(matrix, v)"),
    "memory: only half of the symmetric read": ("memory.py", "scores = scores[:, :, ::-1] * self", "scores = scores[:, :, :1] * [1, 0] * self"),
    "memory: partners not swapped": ("memory.py", "scores[:, :, ::-1] *", "scores *"),
    "memory: matrix half of the symmetric read": ("memory.py", " + read_matrix(matrix.swapaxes(1, 2), v))", ")"),
    "memory: matrix not decayed when folded": ("memory.py", "folded += decay * matrix", "folded += matrix"),
    "memory: matrix not decayed when read": ("memory.py", "result += self.decay**recent * (read", "result += (read"),
    "settling: error at the boundary dropped": ("fast_weights.py", "dboundary = r if dboundary is None else dboundary + r", "pass"),
    "settling: identity of method 2 dropped": ("fast_weights.py", "dh = dh + r", "dh = dh"),
    "settling: preliminary state dropped": ("fast_weights.py", "return dz if dboundary is None else dboundary + dz,", "return dz if dboundary is None else dboundary,"),
    "settling: read from the wrong A": ("fast_weights.py", "partial(A.read, n=t, transposed=True)", "partial(A.read, n=t + 1, transposed=True)"),
    "settling: errors in the wrong order": ("fast_weights.py", "errors.insert(0, r)", "errors.append(r)"),
    "settling: f' dropped": ("fast_weights.py", "    dy[s] *= dh\n", "    dy[s] = dh\n"),
    "time: memory's gradient one step late": ("fast_weights.py", "dh_t = G.read_symmetric(h, later)", "dh_t = G.read_symmetric(h, max(later - 1, 0))"),
    "time: η dropped": ("fast_weights.py", "        dh_t *= options.rate\n", ""),
    "time: recurrence through W dropped": ("fast_weights.py", "        dh_t += dh_next\n", ""),
    "time: W not transposed": ("fast_weights.py", 'dh_next = dboundary[t] @ params["W"]', 'dh_next = dboundary[t] @ params["W"].T'),
    "time: decay of G dropped": ("fast_weights.py", "decay=options.decay, width", "decay=1.0, width"),
    "time: h0 left out of dW": ("fast_weights.py", "dW = dboundary[0].T @ cache.h0", "dW = 0 * dboundary[0].T @ cache.h0"),
    "rate: halved twice": ("fast_weights.py", "h_G_h = (h * dh_t).sum() / 2", "h_G_h = (h * dh_t).sum() / 4"),
    "decay: what is written not taken off": ("fast_weights.py", "            G_dot_A -= options.rate * h_G_h\n", ""),
    "network: readout's relu ignored": ("network.py", "dz = dhidden * ops.relu_slope(hidden)", "dz = dhidden"),
}  # fmt: skip


def test_the_unbroken_copy_passes(tmp_path, monkeypatch):
    """So that a mutant that fails does so for its mutation."""
    assert all(link.passed for link in _mutated_audit(tmp_path, monkeypatch, "ops.py", "", "").run(quick=True))


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_of_a_backward_pass_is_caught(name, tmp_path, monkeypatch):
    links = _mutated_audit(tmp_path, monkeypatch, *MUTANTS[name]).run(quick=True)
    caught = [link for link in links if not link.passed]
    assert any(link.number in (3, 4) for link in caught), "the chain of gradient checks let this mutant through"


def _mutated_audit(tmp_path, monkeypatch, file: str, line: str, mutation: str):
    """The audit of a copy of the package, under another name, with one line changed."""
    copy = tmp_path / f"mutant_{abs(hash(str(tmp_path)))}"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / file).read_text()
    if line:
        assert source.count(line) == 1, f"{file} holds {source.count(line)} places that read {line!r}; expected one"
        (copy / file).write_text(source.replace(line, mutation))
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(f"{copy.name}.audit")
