"""Some hundred damaged inputs for each reader; `python -m bench faults` tries many more."""

from __future__ import annotations

import collections

import numpy
import pytest

from bench.faults_readers import READERS, Reader, Wrong, attack

INPUTS = {"idx": 400, "mnist": 200, "image": 400, "table": 300, "fer_table": 150, "fer_folders": 150, "multi_pie": 200}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses_by_name(name, tmp_path):
    outcomes = collections.Counter[str]()
    for number in range(INPUTS[name]):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes[attack(name, folder, numpy.random.default_rng(number))] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 0.05 * INPUTS[name], "both happen, or the attack is no good"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda folder: int("x"), "ValueError names no file"),
        (lambda folder: {}["x"], "KeyError"),
        (lambda folder: bytearray(1 << 60), "MemoryError"),
    ],
)
def test_anything_else_is_wrong(read, message, tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, "x", Reader(lambda folder, rng: None, read))
    with pytest.raises(Wrong, match=message):
        attack("x", tmp_path, numpy.random.default_rng(0))
