"""The tables of longrecall and text: medians, verdicts by seed, and runs that start from others."""

from __future__ import annotations

import pytest

from bench import longrecall, reproduce, store, text
from bench.plans import longrecall as plan
from bench.plans import text as plan_of_text
from bench.plans.cells import Cell


@pytest.fixture(autouse=True)
def store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "STORE", tmp_path)


def add(row, seed=0, error=0.05, curve=((25, 0.9), (50, 0.05)), **more):
    """Store a made-up run of a row."""
    settings = {"layer": row.layer, "seed": seed, "chunk": 16}
    name = f"{row.group}/{row.layer}-K8-R64-seed{seed}"
    run = {"run": name, "task": row.cell.task, "settings": settings, "seconds": 10.0, "test_error": error} | more
    run |= {"updates": 150, "updates_to": {"10": 25, "50": 50, "90": None}}
    columns = {"update": [each for each, _ in curve], "validation_error": [each for _, each in curve]}
    store.write(store.RUNS, [*store.read(store.RUNS), run])
    file = f"{row.cell.task}.jsonl"
    store.write(file, [*store.read(file), {"run": name, "curve": columns}])


def line(table: str, start: str) -> list[str]:
    (found,) = [each for each in table.splitlines() if each.startswith(f"| {start}")]
    return [cell.strip() for cell in found.split("|")[1:-1]]


def verdict(start: str) -> list[str]:
    return line(longrecall.claims(), start)[1:]


def of_ttt(not_cut=1.0, **more):
    return {"ceiling": 0.95, "accuracy_of": {"not_cut": not_cut, "cut": 0.03}, "test_error_without_writes": 0.97} | more


def test_no_two_rows_share_runs_and_every_row_is_planned():
    for rows, cells in (
        (plan.ROWS, plan.LONGRECALL),
        ((*plan_of_text.ARMS, *plan_of_text.CONTINUED), plan_of_text.TEXT),
    ):
        names = [(row.group, row.layer) for row in rows]
        assert len(set(names)) == len(names)
        assert {row.cell for row in rows} == {cell for cell in cells if isinstance(cell, Cell)}


def test_a_row_has_medians_and_ranges():
    for seed, error in enumerate((0.05, 0.04, 0.5)):
        add(plan.LEARNED, seed, error, **of_ttt())
    assert line(longrecall.rows(plan.ARMS), "learned convolution and") == [
        plan.LEARNED.name, "16", "95.0 % (50.0 to 96.0)", "95.0 %", "100.0 % (100.0 to 100.0)", "3.0 % (3.0 to 3.0)",
        "3.0 % (3.0 to 3.0)", "25 / 50 / never", "150", "3",
    ]  # fmt: skip
    add(plan.WINDOW)
    assert line(longrecall.rows(plan.ARMS), "sliding window")[1:7] == ["-", "95.0 %", "-", "-", "-", "-"]
    assert line(longrecall.rows(plan.ARMS), "reconstruction")[1] == "not run"
    assert f"longrecall, {plan.LEARNED.group}, learned: 3 of 5 seeds" in longrecall.missing()


def test_a_verdict_needs_every_seed():
    start = "learned convolution and W_target, C = 16"
    assert verdict(start) == ["not run", "-", "not run"]
    add(plan.LEARNED, 0, 0.05, **of_ttt())
    assert verdict(start)[1:] == ["1 of 1", "supported"]
    add(plan.LEARNED, 1, 0.065, **of_ttt())
    assert verdict(start)[1:] == ["1 of 2", "mixed"]
    assert verdict("learned convolution and W_target, η = 0")[1:] == ["2 of 2", "supported"]
    add(plan.NEXT, 0, 0.05, **of_ttt(not_cut=0.98))
    assert verdict("next token, C = 16")[1:] == ["0 of 1", "missed"]


@pytest.mark.parametrize(
    ("learned", "fixed", "holds"),
    [(50, 100, True), (50, 75, False), (50, None, True), (None, 50, False), (None, None, False)],
)
def test_a_learned_target_is_sooner_by_a_factor(learned, fixed, holds):
    for row, update in zip(plan.DELAYED, (fixed, learned), strict=True):
        add(row, curve=[(25 * n, 0.1 if update and 25 * n >= update else 0.9) for n in range(1, 7)])
    shown, seeds, _ = verdict("delay: the learned")
    assert seeds == f"{int(holds)} of 1"
    assert shown == ("never" if learned is None else str(float(learned)))


def test_rebound_keys_are_compared_at_one_update_with_the_run_of_the_same_seed():
    one, _, half = plan.REBOUND[:3]
    for seed, error in ((0, 0.05), (1, 0.5)):
        add(half, seed, curve=[(plan.REBIND_AT, error), (200, 0)])
        add(one, seed, curve=[(plan.REBIND_AT, 0.3), (200, 0)])
    assert verdict("rebind, next token, λ = 0.5")[1:] == ["1 of 2", "mixed"]
    add(one, 2, curve=[(plan.REBIND_AT, 0.01)])
    add(half, 2, curve=[(plan.REBIND_AT, 0.01)])
    assert verdict("rebind, next token, λ = 0.5")[1] == "1 of 3", "λ = 1 reached it, too"


def test_gains_of_text_are_of_the_same_seed():
    def blocks(*first):
        losses = [*first, *[2.0] * (8 - len(first))]
        return {"nll_by_block": losses, "test_nll": 2.0, "nll_by_block_without_writes": losses}

    add(plan_of_text.WINDOW, 0, **blocks(2.5))
    add(plan_of_text.WINDOW, 1, **blocks(3.5))
    add(plan_of_text.LEARNED, 1, **blocks(3.25))
    assert line(text.gains(plan_of_text.ARMS, plan_of_text.WINDOW), plan_of_text.LEARNED.name)[1::8] == ["0.250", "1"]
    assert line(text.claims(), "learned target, block 1")[2:] == ["0 of 1", "missed"]
    assert line(text.claims(), "drop-in")[1:] == ["not run", "-", "not run"]


def test_a_run_starts_from_the_run_of_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "FOLDER", tmp_path)
    planned = [each for each in reproduce.planned(["text"]) if each.name == "text-continued/learned-R64-seed2"]
    with pytest.raises(ValueError, match=r"expected a finished run in .*text/window-R64-seed2, from which text-cont"):
        planned[0].arguments(None)
    folder = tmp_path / "text" / "window-R64-seed2"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    words = planned[0].arguments(None)
    assert words[words.index("--initial") + 1] == str(folder)
