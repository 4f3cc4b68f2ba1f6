"""The short form of `python -m bench faults`; docs/faults.md has the long one."""

from __future__ import annotations

import subprocess
import sys

import pytest

faults = pytest.importorskip("bench.faults", reason="forked runs need a POSIX system", exc_type=ImportError)


def test_runs_that_are_cut_short_end_with_the_same_bits(undrawn):
    """In a process of its own, which has one thread and can be forked."""
    kinds = ["kills", "crashes", "refusing disk", "full disk"]
    command = [sys.executable, "-m", "bench", "faults", *kinds, "--count", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in kinds:
        assert f"{kind}: 1 tried, 0 wrong" in done.stdout


@pytest.mark.parametrize(("kind", "count"), [("truncations", 1000), ("settings", 300), ("readers", 60)])
def test_damaged_files_are_refused_by_the_documented_error(kind, count):
    for tally in faults.attack(kind, count, seed=1):
        assert tally.tried == count
        assert not tally.wrong, tally.wrong[0]


def test_what_goes_wrong_is_counted(tmp_path, capsys):
    tally = faults.Tally("copies")
    faults.damage(tally, tmp_path / "c.npz", iter([b"", faults.small_checkpoint(tmp_path / "c.npz")]))
    assert (tally.tried, tally.wrong, dict(tally.outcomes)) == (2, ["loaded"], {"CheckpointError": 1})
    assert faults.Ended(0, "Traceback (most recent call last)").fault
    assert faults.Ended(faults.CRASHED, "").fault
    assert not faults.Ended(-9, "epoch 1").fault
