"""The tables of keyvalue and mqar: published losses, ours next to them, and what agrees."""

from __future__ import annotations

import pytest

from bench import keyvalue, mqar, store
from bench.plans.keyvalue import ROWS_REPEATED, ROWS_UNIQUE, Row, published
from bench.plans.mqar import ROWS


def run(row: Row, keys: int, seed: int, loss: float) -> dict:
    settings = {"layer": row.layer, "keys": keys, "seed": seed}
    return {
        "run": f"{row.group}/{row.layer}-S{keys}-R64-seed{seed}", "task": "keyvalue", "settings": settings,
        "seconds": 1.0, "validation_loss": loss, "test_loss": loss, "test_loss_of_longer": 2 * loss,
    }  # fmt: skip


@pytest.fixture
def row_of(tmp_path, monkeypatch):
    """A store of its own; return the row of a name."""
    monkeypatch.setattr(store, "STORE", tmp_path)
    return {(row.name, row.repeat): row for row in (*ROWS_UNIQUE, *ROWS_REPEATED)}


def line(table: str, start: str) -> list[str]:
    (found,) = [each for each in table.splitlines() if each.startswith(f"| {start}")]
    return [cell.strip() for cell in found.split("|")[1:-1]]


def test_every_published_loss_is_in_a_row_and_no_two_rows_share_runs():
    rows = [*ROWS_UNIQUE, *ROWS_REPEATED]
    cells = [(row.group, row.layer, keys) for row in rows for keys in row.keys]
    assert len(set(cells)) == len(cells)
    shown = {
        (row.repeat, row.layer, row.feature_map, keys)
        for row in rows
        for keys in row.keys
        if "decay" not in row.options
    }
    assert published().keys() <= shown
    assert published()[False, "sum", "elu", 60] == 0.0245102
    assert published()[True, "delta", "dpfp-2", 100] == 0.0853857
    cut_off = published().keys() - published(complete=True).keys()
    assert cut_off == {(True, "delta", "dpfp-2", 100)}, "only this log ends before its run"


def test_a_cell_has_the_median_and_the_range_of_the_seeds(row_of):
    row = row_of["sum, elu + 1", False]
    store.write(store.RUNS, [run(row, 60, seed, loss) for seed, loss in enumerate((0.03, 0.01, 0.02))])
    lines = keyvalue.tables()["keyvalue-unique"].splitlines()
    (place,) = [n for n, each in enumerate(lines) if each.startswith("| sum, elu + 1 | published")]
    assert lines[place].startswith("| sum, elu + 1 | published | - | - | 0.0009 | 0.0008 | 0.0245")
    assert lines[place + 1].startswith("|  | here | - | - | not run | not run | 0.0200 (0.0100 to 0.0300) | not run")
    other = line(keyvalue.tables()["keyvalue-unique"], "sum, learned λ")
    assert other[1] == "here", "rows that are ours have no published line"
    assert other[-1] == "-", "S = 600 is not planned"
    assert "keyvalue, keyvalue-unique-elu, sum, S = 60: 0 of 3 seeds" not in keyvalue.missing()
    assert "keyvalue, keyvalue-unique-elu, sum, S = 80: 0 of 3 seeds" in keyvalue.missing()


@pytest.mark.parametrize(
    ("keys", "loss", "cells"),
    [
        (20, 0.0009, ["1 of 1", "1 of 1", "-", "-", "-", "none"]),
        (20, 0.0011, ["0 of 1", "0 of 1", "-", "-", "-", "S = 20: 0.0011, published 0.0009"]),
        (60, 0.4, ["-", "-", "-", "-", "0 of 1", "none"]),  # published 0.0245, which is neither solved nor large
        (60, 0.02, ["-", "-", "-", "-", "1 of 1", "none"]),
        (80, 0.21, ["-", "-", "1 of 1", "1.94", "-", "none"]),
        (80, 0.22, ["-", "-", "0 of 1", "2.03", "-", "S = 80: 0.2200, published 0.1084"]),
        (80, 0.05, ["-", "-", "0 of 1", "2.17", "-", "S = 80: 0.0500, published 0.1084"]),
    ],
)
def test_losses_agree_if_both_solve_the_task_or_large_ones_are_within_a_factor_of_two(keys, loss, cells, row_of):
    store.write(store.RUNS, [run(row_of["sum, elu + 1", False], keys, 0, loss)])
    table = keyvalue.tables()["keyvalue-agreement"]
    assert line(table, "unique | sum, elu + 1")[2:] == cells
    assert line(table, "repeated | delta, DPFP-2")[2:] == ["not run"] * 6
    assert "λ" not in table


def test_repeated_keys_have_both_lengths(row_of):
    store.write(store.RUNS, [run(row_of["gated delta, DPFP-1", True], 40, 0, 0.125)])
    assert line(keyvalue.tables()["keyvalue-longer"], "gated delta, DPFP-1") == [
        "gated delta, DPFP-1",
        "40",
        "0.1250",
        "0.2500",
    ]


def test_a_row_of_mqar_has_accuracy_rate_and_updates(row_of):
    runs = [
        {
            "run": f"mqar-small-convolution4/delta-K4-R64-seed{seed}", "task": "mqar",
            "settings": {"learning_rate": 0.01, "seed": seed}, "seconds": 1.0, "test_error": error, "updates": 780,
        }
        for seed, error in enumerate((0.02, 0.01, 0.5))
    ]  # fmt: skip
    store.write(store.RUNS, runs)
    expected = ["delta", *["not run"] * 3, "98.0 % (50.0 to 99.0)", "0.01", "780"]
    assert line(mqar.table(), "delta") == expected
    assert line(mqar.table(), "sum, gated, elu + 1")[1:] == [*["-"] * 3, *["not run"] * 3]
    assert len(mqar.missing()) == sum(len(row.convolutions) for row in ROWS) - 1
