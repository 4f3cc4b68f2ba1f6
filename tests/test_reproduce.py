"""Plans describe the stored runs; what the store lacks, and only that, is made, stored and resumed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import plans, published, reproduce, store
from bench.__main__ import main
from tasks import __main__ as tasks
from tasks import faces, retrieval
from tasks.running.command_line import settings_asked_for
from tasks.searching import space

ROOT = Path(__file__).parents[1]
TINY = "--hidden-size 8 --epochs 1 --batch-size 16 --training-size 160 --validation-size 50 --test-size 50"


def test_every_stored_run_is_planned_with_the_settings_that_it_has():
    stored = {run["run"]: run for run in store.read(store.RUNS)}
    for run in reproduce.planned([]):
        if run.name not in stored:
            continue  # still to be made, or a search
        options = " ".join([run.cell.options, *reproduce.best_of(run.cell.search)])
        wanted = reproduce._settings(run.cell.task, options) | {"seed": run.seed}
        if run.initial is not None:
            wanted["initial"] = str(run.initial)
        # settings that are younger than a stored run had the values that before_options gives, or their default
        older = store.before_options(run.cell.task)
        assert older | stored.pop(run.name)["settings"] == wanted, run.name
    assert not stored, "stored runs that no plan asks for"


def test_a_plan_is_read_as_a_command_line_is():
    read = set[tuple[str, str]]()  # pairs of a task and an option
    for run in reproduce.planned([]):
        if isinstance(run.cell, plans.cells.Search):
            continue
        words = run.cell.options.split()
        options = {(run.cell.task, word.partition("=")[0]) for word in words if word.startswith("--")}
        if not options <= read:
            read |= options
            asked = settings_asked_for(importlib.import_module(f"tasks.{run.cell.task}").Settings, words, "tasks")
            assert reproduce._settings(run.cell.task, " ".join(words)) == asked.as_json(), words
    assert len(read) > 40


def test_the_best_settings_of_a_search_are_options_that_the_task_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "STORE", tmp_path)
    best = {"mirror": True, "wipe": False, "decay": 0.5, "layer_norm": None}
    line = {"search": "search/a", "task": "mnist", "trials": [], "space": dict.fromkeys(best), "best": best}
    store.write(store.SEARCHES, [line])
    found = reproduce._settings("mnist", " ".join(reproduce.best_of("a")))
    assert {name: found[name] for name in best} == best


def test_a_run_that_is_deleted_and_only_it_is_planned(tmp_path, monkeypatch, capsys):
    name = "retrieval/lstm-K4-R50-seed1"
    runs = [run for run in store.read(store.RUNS) if "wrong" not in run]
    monkeypatch.setattr(store, "STORE", tmp_path)
    store.write(store.RUNS, runs)
    before = reproduce.missing(["table1"])
    store.write(store.RUNS, [run for run in runs if run["run"] != name])
    after = reproduce.missing(["table1"])
    assert {run.name for run in after} - {run.name for run in before} == {name}
    assert main(["reproduce", "table1", "--dry-run"]) == 0
    said = capsys.readouterr().out
    searches = sum(isinstance(run.cell, plans.cells.Search) for run in after)
    assert f"table1: 105 runs and 9 searches planned, {len(after) - searches} runs" in said
    assert f"  {name}: python -m tasks retrieval --layer lstm --learning-rate 0.002 --epochs 130 --test-curve" in said
    assert main(["reproduce"]) == 2
    assert "reproduce: expected a name among table1, searches" in capsys.readouterr().err
    assert main(["reproduce", "table9"]) == 2
    assert "expected a plan, which are table1, searches" in capsys.readouterr().err
    assert main(["reproduce", "", "--dry-run"]) == 2
    assert "got ''" in capsys.readouterr().err
    assert main(["reproduce", "--again"]) == 2
    assert "--dry-run lists all stored runs" in capsys.readouterr().err


def test_the_page_of_tasks_names_every_plan():
    page = (ROOT / "docs" / "tasks.md").read_text()
    assert not [name for name in plans.PLANS if f"`{name}`" not in page]


def test_a_run_that_is_marked_as_wrong_is_made_again(tmp_path, monkeypatch):
    runs = store.read(store.RUNS)
    runs[0]["wrong"] = "made up"
    monkeypatch.setattr(store, "STORE", tmp_path)
    store.write(store.RUNS, runs)
    assert runs[0]["run"] in [run.name for run in reproduce.missing([])]


def test_every_row_of_table_1_has_a_search_with_the_same_number_of_trials_that_the_task_accepts():
    tried = []
    for search in plans.retrieval.SEARCHES:
        base = settings_asked_for(retrieval.Settings, search.options.split(), "tasks")
        grid = space.parse(search.grid.split(), base, ranges=False)
        space.check(grid, base, ranges=False)
        assert not space.without_effect(grid, base)
        assert len(space.combinations(grid)) == 12
        tried.append((base.layer, base.layer_norm, base.hidden_size))
    with_layer_norm = [(layer, True, size) for layer in plans.retrieval.BASELINES for size in (20, 50, 100)]
    usual = [(layer, None, size) for layer in published.TABLE_1 for size in (20, 50, 100)]
    assert sorted(tried, key=str) == sorted([*usual, *with_layer_norm], key=str)
    assert {cell.search for cell in plans.retrieval.TABLE_1_LAYER_NORM} == {
        each.name for each in plans.retrieval.SEARCHES_OF_LAYER_NORM
    }


@pytest.fixture
def tiny(tmp_path, monkeypatch, undrawn):
    """A store and a folder of its own, and a plan of two runs that take a second each."""
    monkeypatch.setattr(store, "STORE", tmp_path / "results")
    monkeypatch.setattr(store, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(reproduce, "FOLDER", tmp_path / "runs")
    monkeypatch.setitem(plans.PLANS, "tiny", plans.cells.cells("retrieval-tiny", 2, TINY))
    return tmp_path


def test_missing_runs_are_made_stored_and_then_no_longer_missing(tiny, capsys):
    assert main(["reproduce", "tiny", "--jobs", "2"]) == 0
    assert "stored retrieval-tiny/fast_weights-K4-R8-seed0" in capsys.readouterr().out
    assert [run["run"][-5:] for run in store.read(store.RUNS)] == ["seed0", "seed1"]
    assert len(store.load("retrieval-tiny")[0]["curve"]) == 1
    assert main(["reproduce", "tiny"]) == 0
    assert "tiny: 2 runs planned, nothing missing\n" in capsys.readouterr().out


def test_runs_are_named_by_how_their_names_begin_and_made_again_next_to_the_stored_ones(tiny, capsys):
    assert main(["reproduce", "retrieval-tiny/fast_weights-K4-R8-seed1"]) == 0
    (first,) = store.read(store.RUNS)
    assert first["run"][-5:] == "seed1"
    first["test_nll"] = 0.5
    store.write(store.RUNS, [first])
    capsys.readouterr()
    assert main(["reproduce", "retrieval-tiny", "--again"]) == 0
    said = capsys.readouterr().out
    assert "retrieval-tiny: 2 runs planned, 1 run stored and to make again, about 0.0 h" in said
    assert f"seed1: test_error {first['test_error']}, stored {first['test_error']}, test_nll" in said
    assert ", stored 0.5" in said
    assert store.read(store.RUNS) == [first]
    assert (tiny / "again" / first["run"] / "result.json").exists()


def test_a_search_that_is_made_again_is_compared_by_its_best_settings(tiny, capsys):
    plans.PLANS["tiny"] = [plans.cells.Search("rates", "retrieval", TINY, "learning_rate=1e-9")]
    assert main(["reproduce", "search/rates"]) == 0
    capsys.readouterr()
    assert main(["reproduce", "search/rates", "--again"]) == 0
    assert "search/rates: learning_rate 1e-09, stored 1e-09, validation_nll" in capsys.readouterr().out


def test_a_search_is_made_before_the_runs_that_take_its_best_settings(tiny, capsys):
    short = f"{TINY} --layer irnn"
    cell = plans.cells.Cell("retrieval-tiny", short, (0,), "rates")
    plans.PLANS["tiny"] = [cell, plans.cells.Search("rates", "retrieval", short, "learning_rate=1e-9,1e-2")]
    assert main(["reproduce", "tiny", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tiny: 1 run and 1 search planned, 1 run and 1 search missing, 2 of unknown duration\n" in said
    assert f"python -m tasks retrieval {short} --seed 0 and the best of search/rates\n" in said
    with pytest.raises(ValueError, match="expected search/rates in the store, found none"):
        next(reproduce.planned(["tiny"])).arguments(None)
    assert main(["reproduce", "tiny"]) == 0
    assert "stored search/rates\nstored retrieval-tiny/irnn-K4-R8-seed0\n" in capsys.readouterr().out
    (search,) = store.read(store.SEARCHES)
    (run,) = store.read(store.RUNS)
    assert len(search["trials"]) == 2
    assert run["settings"]["learning_rate"] == search["best"]["learning_rate"] != 1e-3  # which is the default
    assert not reproduce.missing(["tiny"])


def test_only_faces_that_cannot_be_fetched_need_their_folder(tmp_path):
    """Searches, too: the runs that take their best settings are made after them."""
    for plan, needed in (("table3", True), ("search/table3", True), ("table3-synthetic", False)):
        for run in reproduce.planned([plan]):
            assert (str(tmp_path) in run.arguments(tmp_path)) == needed, run.name
    runs = list(reproduce.planned(["table3-synthetic"]))
    assert {run.name.partition("/")[0] for run in runs} == {"faces-synthetic"}
    assert len(runs) == 12


def test_a_run_that_was_interrupted_is_resumed(tiny):
    run = next(reproduce.planned(["tiny"]))
    assert run.arguments(None)[-2:] == ["--out", str(run.folder)]
    run.folder.mkdir(parents=True)
    settings = settings_asked_for(retrieval.Settings, TINY.split(), "tasks")
    (run.folder / "settings.json").write_text(json.dumps(settings.as_json()))
    assert run.arguments(None)[-2:] == ["--resume", str(run.folder)]


def test_the_data_folder_may_be_another_one_when_a_run_is_resumed(tiny):
    plans.PLANS["tiny"] = plans.cells.cells("faces-tiny", 1, "--layer irnn")
    (run,) = reproduce.planned(["tiny"])
    run.folder.mkdir(parents=True)
    settings = settings_asked_for(faces.Settings, ["--layer", "irnn"], "tasks")
    (run.folder / "settings.json").write_text(json.dumps({"data_dir": "/gone"} | settings.as_json()))
    assert run.arguments(tiny)[-4:] == ["--resume", str(run.folder), "--data-dir", str(tiny)]


@pytest.mark.parametrize("different", ["--epochs 2", "--seed 1"])
def test_a_folder_with_other_settings_than_the_planned_ones_is_neither_resumed_nor_stored(different, tiny, capsys):
    assert main(["reproduce", "tiny"]) == 0
    first, second = store.read(store.RUNS)
    store.write(store.RUNS, [second])
    shutil.rmtree(folder := tiny / "runs" / first["run"])
    words = [*TINY.split(), *different.split(), "--out", str(folder)]
    assert tasks.main(["retrieval", *words]) == 0
    capsys.readouterr()
    assert main(["reproduce", "tiny"]) == 2
    said = capsys.readouterr().err
    assert f"expected in {folder} a run with the planned settings, found one that differs in {words[-4][2:]}" in said
    assert "move the folder away" in said
    assert store.read(store.RUNS) == [second]


def test_a_run_that_was_finished_but_not_stored_is_stored_as_it_is(tiny):
    assert main(["reproduce", "tiny"]) == 0
    before = store.read(store.RUNS)
    store.write(store.RUNS, [])
    for run in before:
        path = tiny / "runs" / run["run"] / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "of the training"}))
    assert main(["reproduce", "tiny"]) == 0
    assert store.read(store.RUNS) == [run | {"commit": "of the training"} for run in before]


def test_a_run_or_search_that_is_stored_as_wrong_is_made_anew_and_its_folder_is_kept(tiny):
    plans.PLANS["tiny"] = [
        plans.cells.Search("rates", "retrieval", TINY, "learning_rate=1e-9"),
        *plans.cells.cells("retrieval-tiny", 1, TINY),
    ]
    assert main(["reproduce", "tiny"]) == 0
    for file, result in ((store.RUNS, "result.json"), (store.SEARCHES, "search.json")):
        (line,) = store.read(file)
        store.write(file, [line | {"wrong": "a bug"}])
        folder = tiny / "runs" / (line.get("run") or line["search"])
        (folder / result).write_text(json.dumps(json.loads((folder / result).read_text()) | {"commit": "with a bug"}))
        (folder / "kept").touch()
        assert main(["reproduce", "tiny"]) == 0
        (anew,) = store.read(file)
        assert "wrong" not in anew
        assert anew["commit"] == line["commit"]
        assert (folder.with_name(f"{folder.name}-1") / "kept").exists()
        assert not (folder / "kept").exists()


def test_the_best_settings_of_a_search_that_is_stored_as_wrong_are_not_taken(tiny):
    line = {"search": "search/a", "task": "mnist", "trials": [], "space": {}, "best": {}, "wrong": "a bug"}
    store.write(store.SEARCHES, [line])
    with pytest.raises(ValueError, match="expected search/a in the store, found none"):
        reproduce.best_of("a")


def test_each_repetition_of_a_stored_run_is_a_new_run(tiny, capsys):
    plans.PLANS["tiny"] = plans.cells.cells("retrieval-tiny", 1, TINY)
    assert main(["reproduce", "tiny"]) == 0
    (run,) = store.read(store.RUNS)
    folder = tiny / "again" / run["run"]
    for number in range(1, 3):
        assert main(["reproduce", "tiny", "--again"]) == 0
        path = folder / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"test_nll": 0.25}))  # by other code
        assert main(["reproduce", "tiny", "--again"]) == 0
        assert "0.25" not in capsys.readouterr().out
        assert (folder.with_name(f"{folder.name}-{2 * number - 1}") / "result.json").exists()
    assert store.read(store.RUNS) == [run]


def test_a_run_that_starts_from_another_one_is_made_after_it(tiny, capsys):
    first = plans.cells.Cell("retrieval-tiny", TINY, (0,))
    plans.PLANS["tiny"] = [plans.cells.Cell("retrieval-longer", TINY, (0,), start=first), first]
    assert main(["reproduce", "tiny", "--jobs", "2"]) == 0
    name = "retrieval-tiny/fast_weights-K4-R8-seed0"
    assert [run["run"] for run in store.read(store.RUNS)] == [name.replace("tiny", "longer"), name]
    store.write(store.RUNS, [run for run in store.read(store.RUNS) if run["run"] == name])
    shutil.rmtree(tiny / "runs")
    plans.PLANS["tiny"].append(plans.cells.Cell("retrieval-more", TINY, (0,)))
    assert main(["reproduce", "tiny"]) == 2
    assert f"expected a finished run in {tiny / 'runs' / name}, from which" in capsys.readouterr().err
    assert not (tiny / "runs").exists()


def test_an_error_of_one_run_ends_the_others_with_a_checkpoint(tiny, capsys, monkeypatch):
    def add(*_, **__):
        raise OSError("the store is full")

    monkeypatch.setattr(store, "add", add)
    plans.PLANS["tiny"] = [
        plans.cells.Cell("retrieval-long", f"{TINY} --epochs 100000", (0,)),
        plans.cells.Cell("retrieval-tiny", TINY, (0,)),
    ]
    assert main(["reproduce", "tiny", "--jobs", "2"]) == 2
    assert "the store is full" in capsys.readouterr().err


def test_no_option_of_a_plan_is_given_twice_and_no_two_runs_have_one_name():
    names = dict[str, object]()
    for run in (run for plan in plans.PLANS for run in reproduce.planned([plan])):
        assert names.setdefault(run.name, run) == run
        if isinstance(run.cell, plans.cells.Search):
            continue
        words = [word.partition("=")[0] for word in run.cell.options.split() if word.startswith("--")]
        searched = reproduce.best_of(run.cell.search) if f"search/{run.cell.search}" in reproduce.stored() else []
        words += [word.partition("=")[0] for word in searched]
        assert len(set(words)) == len(words), run.name
        assert "--seed" not in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dry-run --jobs 2", "--jobs has no effect with --dry-run"),
        ("--dry-run --data-dir x", "--data-dir has no effect with --dry-run"),
        ("--dry-run --store", "--store has no effect with --dry-run"),
        ("--again --store", "--store has no effect with --again"),
        ("--data-dir x", "data_dir: expected none, because these runs fetch their data; got x"),
    ],
)
def test_an_option_without_effect_is_refused(words, message, tiny, capsys):
    assert main(["reproduce", "tiny", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not (tiny / "runs").exists()


def test_a_run_that_fails_is_named_with_its_log(tiny, capsys):
    plans.PLANS["tiny"] = plans.cells.cells("retrieval-tiny", 1, f"{TINY} --learning-rate 1e30")
    assert main(["reproduce", "tiny"]) == 2
    assert "retrieval-tiny/fast_weights-K4-R8-seed0: exit code 3 of" in (said := capsys.readouterr().err)
    assert "expected finite numbers" in Path(said.rpartition("see ")[2].strip()).read_text()
    assert not store.read(store.RUNS)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_request_to_end_stops_the_runs_and_keeps_their_checkpoints(tiny):
    """In a process of its own, with a run of an hour."""
    program = (
        "import pathlib, sys; from bench import plans, reproduce, store; from bench.__main__ import main; "
        f"store.STORE = store.SCRATCH = pathlib.Path({str(tiny)!r}); reproduce.FOLDER = store.STORE / 'runs'; "
        f"plans.PLANS['long'] = plans.cells.cells('retrieval-long', 1, '{TINY} --epochs 100000'); "
        "sys.exit(main(['reproduce', 'long']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    folder = tiny / "runs" / "retrieval-long" / "fast_weights-K4-R8-seed0"
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "repeat the command to resume" in said
    assert (folder / "checkpoint.npz").exists()
    assert json.loads((folder / "settings.json").read_text())["epochs"] == 100000
