"""The store of measured runs, the tables made from it, and the comparisons of the benches."""

from __future__ import annotations

import dataclasses
import errno
import functools
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest

from bench import (
    actors,
    agents,
    base,
    chunks,
    controls,
    generalization,
    inference,
    pages,
    paper,
    profile,
    published,
    report,
    searches,
    speed,
    step,
)  # fmt: skip
from bench import store as stored
from bench.__main__ import main
from bench.peers import runner
from bench.peers.problem import Forward, Layer, Programmer, Step, Training, Transformer
from bench.sizes import sizes_of
from fastweights_np import files
from fastweights_np.network import LAYERS

ROOT = Path(__file__).parents[1]
PAPERS = {"training_size": 100_000, "validation_size": 10_000, "test_size": 20_000, "pairs": 4}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "STORE", tmp_path / "results")
    monkeypatch.setattr(stored, "SCRATCH", tmp_path / "results")
    monkeypatch.setattr(report, "output", tmp_path / "results")
    return tmp_path / "results"


def finished_run(folder, error, seed=0, **settings):
    folder.mkdir()
    all_settings = PAPERS | {
        "layer": "fast_weights", "hidden_size": 50, "seed": seed, "decay": 0.9, "rate": 0.1, "inner_steps": 1,
        "learning_rate": 1e-3, "epochs": 2,
    } | settings  # fmt: skip
    curve = [{"update": u, "validation_error": e, "test_nll": e} for u, e in ((10, 0.5), (20, error))]
    result = {"task": "retrieval", "settings": all_settings, "test_error": error, "test_nll": error, "curve": curve}
    (folder / "result.json").write_text(json.dumps(result | {"updates": 20, "seconds": 3.2}))
    return folder


def test_the_table_has_the_paper_the_median_and_every_seed(store, tmp_path, capsys, pictures):
    runs = [finished_run(tmp_path / str(seed), error, seed) for seed, error in enumerate((0.01, 0.0, 0.005))]
    runs.append(finished_run(tmp_path / "other", 0.9, pairs=2))
    assert main(["add", *map(str, runs)]) == 0
    assert len(stored.read("runs.jsonl")) == len(stored.read("retrieval.jsonl")) == 4
    capsys.readouterr()
    assert main(["paper"]) == 0
    printed = capsys.readouterr().out
    assert "| Fast weights | 1.81 % | not run | 0.00 % | **0.500 %** (0.000 to 1.000) | 0.00 % | not run |" in printed
    assert (
        "| Fast weights | 50 | 1.000 %, 0.000 %, 0.500 % | 20 | 3 s | λ 0.9, η 0.1, S 1, Adam 0.001, 2 epochs"
        in printed
    )
    assert "| not run | 0, 3, 0 of 5 |\n" in printed
    assert "missing: table 1, LSTM, R = 50: 0 of 5 seeds" in printed
    assert "missing: table 1, Fast weights, R = 50: 3 of 5 seeds" in printed
    for name in ("table1.md", "figure2.png", "capacity.png", "search.md"):
        assert (store / name).stat().st_size > 0


def test_variants_of_the_a_lstm_are_listed_with_the_one_of_table_1(store, tmp_path):
    assert not controls.of_the_a_lstm([])
    for seed, error in enumerate((0.01, 0.02, 0.04)):
        run = finished_run(tmp_path / str(seed), error, seed, layer="associative_lstm", shared_value=True)
        stored.add(run, "shared-value")
    assert controls.of_the_a_lstm([]).splitlines()[2:] == [
        "| as in table 1, three heads | not run | - | retrieval |",
        "| one head | not run | - | retrieval-one-head |",
        "| one value for all heads | 2.000 % (1.000 to 4.000) | 1.000 %, 2.000 %, 4.000 % | retrieval-shared-value |",
        "| no recurrent input to the value | not run | - | retrieval-no-recurrent-value |",
    ]


def test_a_row_with_layer_norm_is_shown_when_it_has_runs(store, tmp_path):
    settings = {"layer": "lstm", "layer_norm": True, "forget_bias": 2.0, "hidden_size": 20}
    for seed in range(5):
        stored.add(finished_run(tmp_path / str(seed), 0.01, seed, **settings), "table1-layer-norm")
    made = paper.make()
    assert (
        "| LSTM, layer norm | - | **1.000 %** (1.000 to 1.000) | - | not run | - | not run | 5, 0, 0 of 5 |\n" in made
    )
    assert "| 3 s | forget gate's bias 2, Adam 0.001, 2 epochs | 19,900 | 9,840 | 40 |\n" in made
    assert "| IRNN, layer norm | - |" not in made
    assert "missing: table 1, IRNN, layer norm, R = 20: 0 of 5 seeds" in made
    assert "missing: table 1, LSTM, layer norm, R = 20" not in made


@pytest.mark.parametrize(
    ("settings", "layer", "state"),
    [
        ({"layer": "irnn"}, 20 * 20 + 20 * 100 + 20, 20),
        ({"layer": "lstm", "layer_norm": True}, 4 * 20 * (20 + 100 + 1 + 2), 2 * 20),
        ({"layer": "associative_lstm", "copies": 3}, 21 * 10 * (20 + 100 + 1), 20 + 3 * 20),
        ({"layer": "fast_weights"}, 20 * 20 + 20 * 100 + 3 * 20, 20 + 20 * 20),
    ],
)
def test_the_numbers_in_a_network_are_counted(settings, layer, state):
    counted = sizes_of(settings | {"hidden_size": 20})
    assert (counted.layer, counted.state) == (layer, state)
    encoder, readout = 37 * 50 + 100 * 50 + 100, 100 * 20 + 100 + 10 * 100 + 10
    assert counted.network == layer + encoder + readout


def test_tables_2_and_3_and_the_ablation_are_made_of_their_own_runs(store, tmp_path):
    digits = {"data": "mnist", "validation_size": 5000, "patch": 7, "hidden_size": 50, "weight_decay": 0.05}
    runs = [("mnist", "multilevel", 0.02, ""), ("mnist", "fast_weights", 0.04, ""), ("mnist", "irnn", 0.09, ""),
            ("mnist", "irnn", 0.03, "layer-norm"), ("mnist", "irnn", 0.08, "weight-decay"),
            ("faces", "lstm", 0.5, "")]  # fmt: skip
    for n, (task, layer, error, group) in enumerate(runs):
        size = {"hidden_size": 200} if task == "faces" else {}
        folder = finished_run(tmp_path / str(n), error, layer=layer, **digits | size)
        result = json.loads((folder / "result.json").read_text())
        del result["settings"]["pairs"]
        about = {"task": task, "data": {"name": "FER-2013" if task == "faces" else "mnist"}}
        (folder / "result.json").write_text(json.dumps(result | about))
        stored.add(folder, group)
    made = paper.make()
    assert "| Fast weights | 7.21 % | **2.00 %** | 1.30 % | not run |" in made
    assert "| IRNN | 12.95 % | 9.00 % |" in made
    assert "| layer | R = 200, paper, Multi-PIE | R = 200, here, FER-2013 | seeds |" in made
    assert "| LSTM | 81.32 % | **50.00 %** |" in made
    for row in (
        "with control signals | 2.00 %",
        "every step | 4.00 %",
        "layer norm (IRNN) | 3.00 %",
        "neither (IRNN) | 9.00",
    ):
        assert row in made
    assert "| 50 | IRNN | 9.00 % | 8.00 % | 0.05 | Adam" in made
    runs = stored.read("runs.jsonl")
    for run in runs:
        if run["run"].startswith("mnist-weight-decay/"):
            run["wrong"] = "biases decayed"
    stored.write("runs.jsonl", runs)
    assert "| 50 | IRNN | 9.00 % |" not in paper.make()
    assert "mnist/multilevel-R50-seed0" in [run["run"] for run in runs]


def test_what_has_no_runs_is_said_to_be_missing(store):
    made = paper.make().splitlines()
    for number, cells, seeds in ((1, published.TABLE_1, 5), (2, published.TABLE_2, 2), (3, published.TABLE_3, 3)):
        for layer, sizes in cells.items():
            for size in sizes:
                assert f"missing: table {number}, {published.NAMES[layer]}, R = {size}: 0 of {seeds} seeds" in made
    for layer in map(published.NAMES.get, published.TABLE_1):
        assert f"missing: figure 2, {layer}: 0 of 5 seeds with --test-curve" in made
        assert f"missing: capacity, {layer}, K = 16" in made
        assert f"missing: the search of retrieval, {layer}" in made
    assert "missing: generalization, IRNN, layer norm, trained at K = 8: 0 of 3 seeds" in made
    assert "missing: figure 5, N = 16, ReLU RNN: 0 of 3 seeds" in made


def test_capacity_and_searches_are_drawn_and_reported(store, tmp_path):
    for pairs in (4, 8, 12, 16):
        run = finished_run(tmp_path / f"K{pairs}", pairs / 100, pairs=pairs)
        stored.add(run, "capacity")
    folder = tmp_path / "search-fast_weights"
    folder.mkdir()
    trials = [{"learning_rate": rate, "validation_nll": 1e3 * rate, "state": "COMPLETE"} for rate in (1e-3, 5e-4)]
    trials.append({"learning_rate": 2e-3, "validation_nll": None, "state": "PRUNED"})
    space = {"learning_rate": [1e-3, 5e-4]}
    found = {"task": "retrieval", "options": ["--layer", "fast_weights"], "space": space, "trials": trials}
    (folder / "search.json").write_text(json.dumps(found | {"best": {"learning_rate": 5e-4, "validation_nll": 0.5}}))
    assert stored.add(folder) == "search/search-fast_weights"
    (folder / "search.json").write_text(json.dumps(found | {"best": {}, "left": 2}))
    with pytest.raises(FileNotFoundError, match="expected a complete search"):
        stored.add(folder, "more")
    made = paper.make()
    assert "| retrieval --layer fast_weights | learning_rate | 0.0005: 0.5000, 0.001: 1.0000, 0.002: stopped" in made
    assert "early | **0.0005** |" in made
    assert "missing: capacity, Fast weights, K" not in made
    assert "missing: capacity, Fast weights, λ = 1, K = 16" in made
    assert "missing: the search of retrieval, Fast weights" not in made
    assert "missing: the search of mnist, Fast weights" in made


def test_generalization_has_the_median_and_range_of_each_format(store, tmp_path, pictures):
    for seed, error in enumerate((0.1, 0.3, 0.2)):
        folder = finished_run(tmp_path / str(seed), 0.0, seed)
        result = json.loads((folder / "result.json").read_text())
        formats = {kind: {str(n): error / n for n in values} for kind, values in generalization.FORMATS.items()}
        (folder / "result.json").write_text(json.dumps(result | {"generalization": formats}))
        assert stored.add(folder, "generalization").startswith("retrieval-generalization/")
    made = generalization.make(missing := [])
    assert "| trained at K | layer | seeds | 2 pairs | 4 pairs |" in made
    assert "| 4 | Fast weights, λ = 0.9 | 3 | 10.00 % (5.00 to 15.00) | 5.00 % (2.50 to 7.50) |" in made
    assert "generalization, IRNN, layer norm, trained at K = 8: 0 of 3 seeds" in missing
    assert not any(line.startswith("generalization, Fast weights, λ = 0.9, trained at K = 4") for line in missing)
    assert (store / "generalization.png").stat().st_size > 0


def test_the_run_that_another_begins_from_is_stored_without_the_folders_of_this_machine(store, tmp_path, monkeypatch):
    for seed, (initial, wanted) in enumerate(
        [
            (tmp_path / "here" / "runs" / "a", "runs/a"),
            (tmp_path / "elsewhere" / "a", "elsewhere/a"),
            ("runs/a", "runs/a"),
            (None, None),
        ]
    ):
        folder = finished_run(tmp_path / str(seed), 0.1, seed, initial=initial and str(initial))
        result = json.loads((folder / "result.json").read_text())
        result["origin"] = initial and {"option": "--initial", "run": str(initial)}
        (folder / "result.json").write_text(json.dumps(result))
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        name = stored.add(folder, "continued")
        line = next(run for run in stored.read("runs.jsonl") if run["run"] == name)
        assert line["settings"]["initial"] == wanted
        assert not wanted or line["origin"]["run"] == wanted


def test_commands_and_options_are_stored_without_the_folders_of_this_machine(store, tmp_path):
    command = "python -m tasks {} --data-dir {d}/faces --out={d}/runs/a --settings '{d}/runs/b' --ratio 1/2"
    run = finished_run(tmp_path / "0", 0.1)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"command": command.format("retrieval", d=tmp_path)}))
    stored.add(run)
    short = f"{tmp_path.name}/faces --out=runs/a --settings 'runs/b' --ratio 1/2"
    assert stored.read("runs.jsonl")[0]["command"] == f"python -m tasks retrieval --data-dir {short}"
    folder = tmp_path / "a-search"
    folder.mkdir()
    search = {"task": "faces", "trials": [], "best": {}, "options": ["--data-dir", str(tmp_path / "data" / "faces")]}
    (folder / "search.json").write_text(json.dumps(search | {"command": command.format("search faces", d=tmp_path)}))
    stored.add(folder)
    (line,) = stored.read("searches.jsonl")
    assert line["options"] == ["--data-dir", "data/faces"]
    assert str(tmp_path) not in line["command"]


def test_a_run_does_not_replace_or_join_another_unasked(store, tmp_path, capsys):
    first, second = finished_run(tmp_path / "a", 0.1), finished_run(tmp_path / "b", 0.2, epochs=3)
    assert main(["add", str(first)]) == 0
    assert main(["add", str(second)]) == 2
    assert "keep the new one apart with --group NAME" in capsys.readouterr().err
    assert stored.load("retrieval")[0]["test_error"] == 0.1
    odd_seed = finished_run(tmp_path / "c", 0.2, seed=1, epochs=3)
    assert main(["add", str(odd_seed)]) == 2
    assert "differs in epochs; keep it apart with --group NAME" in capsys.readouterr().err
    assert main(["add", "--group", "ablation", str(second)]) == 0
    assert len(stored.load("retrieval")) == 1
    assert stored.load("retrieval-ablation")[0]["test_error"] == 0.2
    assert main(["add", "--replace", str(second)]) == 0
    assert stored.load("retrieval")[0]["test_error"] == 0.2


def test_a_line_that_its_reader_changes_is_read_unchanged(store, tmp_path):
    stored.add(finished_run(tmp_path / "a", 0.1))
    stored.read("runs.jsonl")[0]["test_error"] = 0.2
    assert stored.read("runs.jsonl")[0]["test_error"] == 0.1


def test_a_new_seed_joins_runs_that_are_older_than_a_setting(store, tmp_path):
    stored.add(finished_run(tmp_path / "old", 0.1))
    stored.add(finished_run(tmp_path / "new", 0.2, seed=1, copies=4))  # 4 is what it was before it could be set
    with pytest.raises(ValueError, match="differs in copies"):
        stored.add(finished_run(tmp_path / "other", 0.2, seed=2, copies=5))


def test_a_search_over_layers_counts_for_each():
    found = {"task": "retrieval", "options": ["--layer=lstm"], "space": {"rate": [1]}}
    assert searches.layers_of(found) == {"lstm"}
    assert searches.layers_of(found | {"options": []}) == {"fast_weights"}
    assert searches.layers_of(found | {"options": [], "task": "mnist"}) == {"multilevel"}
    assert searches.layers_of(found | {"space": {"layer": ["irnn", "lstm"]}}) == {"irnn", "lstm"}


def test_chosen_sizes_are_told_in_the_name():
    assert report.named("speed", "fast_weights") + report.sized(()) == "speed"
    assert report.named("speed" + report.sized([(128, 24, 200), (1, 2, 3)]), "lstm") == "speed-128x24x200-1x2x3-lstm"


def test_a_size_without_a_comparison_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(speed, "available", lambda names: (["ours", "a peer"], []))
    monkeypatch.setitem(runner.ENTRIES, "a peer", runner.Entry("no_such_module", "numpy", {}))
    with pytest.raises(ValueError, match="no size had both"):
        speed.run("fast_weights", [1], False, [(2, 3, 4)])
    assert "this size needs both ours and a peer" in capsys.readouterr().out


def test_the_profile_lists_a_layers_lines(tmp_path, monkeypatch, capsys):
    pytest.importorskip("line_profiler", reason="line_profiler comes with the bench extra")
    monkeypatch.setattr(stored, "SCRATCH", tmp_path)
    assert main(["profile", "--layer", "lstm", "--threads", "1", "--size", "2,3,4"]) == 0
    table = (tmp_path / "profile-2x3x4-lstm.md").read_text()
    assert "lstm.py, forward" in table
    assert "lstm.py, Gates.forward" in table or "lstm.py, Buffers.factors" in table


@pytest.mark.parametrize("layer", LAYERS)
def test_the_profile_watches_forward_and_backward_of_each_layer(layer):
    watched = {function.__qualname__ for function in profile._functions(LAYERS[layer])}
    assert {"forward", "backward"} <= watched


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the repository's history")
def test_the_layers_of_another_commit_are_timed_in_turns(store, monkeypatch, capsys):
    monkeypatch.setattr(base, "take_turns", functools.partial(runner.take_turns, rounds=1, turn_seconds=0.01))
    assert main(["speed", "--base", "HEAD", "--threads", "1", "--sizes", "2,3,4"]) == 0
    assert "geometric mean" in (store / "speed-base-2x3x4.md").read_text()
    assert main(["speed", "--base", "nowhere"]) == 2
    assert "base: expected a commit of this repository, got 'nowhere'" in capsys.readouterr().err


def test_a_package_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "line_profiler", None)
    assert main(["profile", "--size", "2,3,4"]) == 2
    assert 'bench: line_profiler is not installed; pip install -e ".[bench]"' in capsys.readouterr().err


def test_pages_keep_their_characters_in_every_locale(store, tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text("η = 0.1\n<!-- table: speed.md -->\n<!-- end -->\n", "utf-8")
    store.mkdir()
    (store / "speed.md").write_text("| λ |\n| --- |\n", "utf-8")
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "latin-1")
    assert pages.write(tmp_path) == [page]
    assert page.read_text("utf-8") == "η = 0.1\n<!-- table: speed.md -->\n\n| λ |\n| --- |\n\n<!-- end -->\n"


def test_output_without_greek_letters_does_not_stop_a_command(store, tmp_path, monkeypatch):
    stored.add(finished_run(tmp_path / "0", 0.1))
    printed = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert main(["paper"]) == 0
    printed.flush()
    assert b"lambda 0.9" in printed.buffer.getvalue()


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    assert "paper" in capsys.readouterr().out


def test_an_unfinished_run_is_refused(store, tmp_path, capsys):
    assert main(["add", str(tmp_path)]) == 2
    assert "expected the folder of a finished run" in capsys.readouterr().err
    for content in ("", "{}", "[]", "3", '{"task": "retrieval"}', '{"task": "retrieval", "settings": [], "curve": []}'):
        (tmp_path / "result.json").write_text(content)
        assert main(["add", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert f"bench: folders: expected the result of a finished run in {tmp_path / 'result.json'}: " in said
    assert main(["add", str(tmp_path), "--group", "a/b"]) == 2
    assert "group: expected letters, digits" in capsys.readouterr().err
    assert not store.exists()


@pytest.mark.parametrize("line", ["", "{}", "[]", "3", "{", '{"run": "retrieval/lstm-R50-seed0"}'])
@pytest.mark.parametrize("command", [["paper"], ["reproduce", "table1", "--dry-run"], ["mcnemar", "a", "b"]])
def test_a_damaged_line_of_the_store_is_named(command, line, store, tmp_path, capsys):
    assert main(["add", str(finished_run(tmp_path / "run", 0.01))]) == 0
    with open(store / "runs.jsonl", "a") as file:
        file.write(f"{line}\n")
    assert main(command) == 2
    assert f"{store / 'runs.jsonl'}, line 2: expected what bench add stores: " in capsys.readouterr().err


def test_two_runs_are_compared_by_the_examples_that_one_of_them_gets_wrong(store, tmp_path, capsys):
    data = {"name": "mnist", "sizes": [55_000, 5_000, 10_000]}
    for seed, wrong in enumerate(({"3": 1, "5": 2}, {"5": 7}, None)):
        folder = finished_run(tmp_path / str(seed), 0.1, seed)
        result = json.loads((folder / "result.json").read_text()) | {"task": "mnist", "data": data}
        del result["settings"]["pairs"]
        (folder / "result.json").write_text(json.dumps(result | ({} if wrong is None else {"wrong_answers": wrong})))
        assert main(["add", str(folder)]) == 0
    names = [run["run"] for run in stored.read("runs.jsonl")]
    assert main(["mcnemar", *names[:2]]) == 0
    assert "1 are wrong in both runs, 1 in mnist/fast_weights-R50-seed0 alone, 0 in" in capsys.readouterr().out
    for pair, message in (
        (names[1:], "which has none stored"),
        (["mnist/x", "y"], "got 'mnist/x'"),
        ([names[0]] * 2, "two different runs"),
    ):
        assert main(["mcnemar", *pair]) == 2
        assert message in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- peers

SMALL = Layer("fast_weights", batch_size=3, steps=4, hidden_size=5, input_size=2)


def test_a_framework_that_does_not_answer_is_ended_and_left_out(monkeypatch, capfd):
    monkeypatch.setattr(runner, "PATIENCE", 0.01)
    with runner.at_work(SMALL, ["ours"], threads=1) as processes:
        assert processes == []
    assert "left out: ours: gave no answer within 0.01 s" in capfd.readouterr().err


def test_a_framework_that_ends_during_the_turns_is_left_out(capfd):
    names = ["ours", "autograd, attention"]
    with runner.at_work(SMALL, names, threads=1) as processes:
        processes[1]._process.kill()
        times = runner.take_turns(processes, rounds=2, turn_seconds=0.01)
    assert list(times) == ["ours"]
    assert "left out: autograd, attention: ended with" in capfd.readouterr().err


def test_frameworks_in_processes_of_their_own_give_equal_answers_and_take_turns():
    names = ["ours", "autograd, attention", "autograd, matrix"]
    with runner.at_work(SMALL, names, threads=2) as processes:
        assert [process.name for process in processes] == names
        times = runner.take_turns(processes, rounds=2, turn_seconds=0.01)
        assert processes[0].peak() > 0
    for name in names:
        lower, upper = times[name]["quartiles_ms"]
        assert 0 < lower <= times[name]["median_ms"] <= upper
        assert times[name]["runs"] >= 4


FAST = ("fast_weights", "multilevel")  # the layers that have fast weights


RECURRENT = [
    name
    for name, entry in runner.ENTRIES.items()
    if "compile" not in name and "threads" not in entry.how and name not in (*runner.STEPPING, *runner.PROGRAMMING)
]


@pytest.mark.parametrize("name", RECURRENT)
def test_every_peer_answers_as_ours(name):
    package, form = runner.ENTRIES[name].package, runner.ENTRIES[name].how.get("form")
    pytest.importorskip(package, reason=f"{package} comes with the bench extra")
    for layer, forms in runner.FORMS.items():
        options = {"normalize_preliminary": True, "decay": 0.8, "rate": 0.2} if layer in FAST else {}
        for chosen in ({}, options) if options else ({},):
            problem = dataclasses.replace(SMALL, layer=layer, steps=12, hidden_size=6, options=chosen)
            if form is None or form in forms:
                with runner.at_work(problem, [name], threads=1) as processes:
                    assert processes, "left out: the message is in the captured output"


@pytest.mark.parametrize("name", [name for name in RECURRENT if name != runner.BASE and "autograd" not in name])
def test_every_peer_answers_as_ours_without_gradients(name):
    package, form = runner.ENTRIES[name].package, runner.ENTRIES[name].how.get("form")
    pytest.importorskip(package, reason=f"{package} comes with the bench extra")
    if form in (None, *runner.FORMS["fast_weights"]):
        problem = Forward("fast_weights", batch_size=3, steps=12, hidden_size=6, input_size=2)
        with runner.at_work(problem, [name], threads=2) as processes:
            assert processes, "left out: the message is in the captured output"


@pytest.mark.parametrize("name", [name for name in runner.TRANSFORMERS if "compile" not in name])
def test_every_peer_trains_the_same_transformer(name):
    package, threads = runner.TRANSFORMERS[name].package, runner.TRANSFORMERS[name].parts
    pytest.importorskip(package, reason=f"{package} comes with the bench extra")
    problem = Transformer((1, 2), 2, 24, vocabulary=5, size=8, heads=2, hidden_size=6, window=4, chunk=6)
    with runner.at_work(problem, [name], threads=threads) as processes:
        assert processes, "left out: the message is in the captured output"


@pytest.mark.parametrize("name", [name for name in runner.STEPPING if "compile" not in name])
def test_every_peer_takes_the_same_steps(name):
    package = runner.ENTRIES[name].package
    pytest.importorskip(package, reason=f"{package} comes with the bench extra")
    problem = Step("fast_weights", batch_size=3, steps=40, hidden_size=6, input_size=2)
    with runner.at_work(problem, [name], threads=1) as processes:
        assert processes, "left out: the message is in the captured output"


PROGRAMMING = [name for name in runner.PROGRAMMING if "compile" not in name]


@pytest.mark.parametrize("name", PROGRAMMING)
def test_every_peer_has_the_same_write_rules(name):
    package = runner.ENTRIES[name].package
    pytest.importorskip(package, reason=f"{package} comes with the bench extra")
    for rule in chunks.RULES:
        problem = Programmer(rule, batch_size=2, steps=64, heads=2, size=5)
        with runner.at_work(problem, [name], threads=2) as processes:
            assert processes, "left out: the message is in the captured output"


def test_the_table_of_write_rules_takes_the_best_number_of_threads():
    def row(threads, **medians):
        names = dict(zip(("ours", "halved", "torch", "jit", "jax"), runner.PROGRAMMING, strict=True))
        times = {names[name]: {"median_ms": ms} for name, ms in medians.items()}
        return {"rule": "sum", "size": [1, 64, 2, 4], "threads": threads, "times": times}

    table = chunks.table([row(1, ours=3.0, torch=4.0, jax=9.0), row(2, halved=2.0, torch=5.0, jit=6.0, jax=8.0)])
    assert "| sum | 1, 64, 2, 4 | 2.0 (2) | 4.0 (1) | 6.0 (2) | 8.0 (2) | **0.50** |" in table


def test_time_is_measured_for_longer_sequences(store, monkeypatch):
    monkeypatch.setattr(chunks, "take_turns", functools.partial(runner.take_turns, turn_seconds=0.01))
    rows = chunks.measured([("sum", (1, 32, 1, 2)), ("sum", (1, 64, 1, 2))], ["ours, in chunks"], 1)
    assert chunks.table_of_steps(rows).count("| sum | 64 | ") == 1


def test_the_write_rules_forget_what_their_equations_say(store):
    assert main(["rules"]) == 0
    figures = json.loads((store / "rules-fast_weight_programmer.json").read_text())["figures"]
    of = {row.pop("rule"): row for row in figures}
    assert len(of) == 9
    assert of["delta, β = 0.1"]["64 pairs"] < of["delta"]["64 pairs"]
    assert of["sum"]["64 pairs"] == 0 == of["delta"]["rebound"] == of["gated"]["document"]
    assert of["sum"]["rebound"] > 40 < of["softmax attention"]["rebound"]
    assert of["fixed decay"]["oldest"] == 100 > of["fixed decay"]["newest"] == 0
    assert of["delta"]["64 pairs"] > 0 < of["sum"]["document"]


def test_a_wrong_answer_is_left_out_and_said_so(monkeypatch, capsys):
    right = runner.expected_answer(SMALL)
    monkeypatch.setattr(runner, "expected_answer", lambda problem: right | {"dW": right["dW"] + 0.1})
    with runner.at_work(SMALL, ["ours"], threads=1) as processes:
        assert not processes
    assert "left out: ours: dW is off by" in capsys.readouterr().err


def test_nan_is_a_wrong_answer_wherever_it_stands(monkeypatch, capsys):
    right = runner.expected_answer(SMALL)
    for name in ("h", "dW"):
        monkeypatch.setattr(runner, "expected_answer", lambda problem, n=name: right | {n: right[n] * numpy.nan})
        with runner.at_work(SMALL, ["ours"], threads=1) as processes:
            assert not processes
        assert f"left out: ours: {name} is off" in capsys.readouterr().err


def test_without_peers_there_is_no_comparison(monkeypatch):
    monkeypatch.setattr(speed, "available", lambda names: ([name for name in names if "ours" in name], []))
    with pytest.raises(ValueError, match="no peer is installed"):
        speed.run("fast_weights", [1], long=False)


def test_a_framework_that_fails_is_left_out_with_its_error(capsys):
    with runner.at_work(dataclasses.replace(SMALL, options={"inner_steps": 2}), ["autograd, matrix"], 1) as processes:
        assert not processes
    assert "unexpected keyword argument 'inner_steps'" in capsys.readouterr().err


def test_absent_packages_are_told_by_the_frameworks_names(monkeypatch):
    monkeypatch.setitem(runner.ENTRIES, "a peer", runner.Entry("in_numpy", "no_such_package", {}))
    assert runner.available(["ours", "a peer"]) == (["ours"], ["a peer"])


def test_training_frameworks_start_from_the_same_place():
    problem = Training("fast_weights", hidden_size=5, updates=2)
    with runner.at_work(problem, ["ours", runner.BASE], threads=2) as processes:
        assert len(processes) == 2


@pytest.mark.parametrize("layer", ["multilevel", "convnet"])
def test_whole_updates_of_mnist_equal_pytorchs(layer):
    pytest.importorskip("torch", reason="torch comes with the bench extra")
    problem = Training(layer, hidden_size=8, task="mnist", updates=2)
    names = [name for name in runner.layer_frameworks(layer, 2) if runner.is_ours(name) or "eager" in name]
    with runner.at_work(problem, names, threads=2) as processes:
        assert [process.name for process in processes] == names


def test_tables_take_the_best_of_ours_and_of_the_peers(tmp_path, monkeypatch, pictures):
    monkeypatch.setattr(report, "output", tmp_path)

    def row(threads, **medians):
        times = {name.replace("_", " "): {"median_ms": ms, "first_run_s": 1.0} for name, ms in medians.items()}
        full = {"PT": "PyTorch eager, matrix", "JAX": "JAX scan, matrix"}
        times = {full.get(name, name): time for name, time in times.items()}
        return {"B": 1, "T": 2, "H": 3, "threads": threads, "times": times}

    rows = [row(1, ours=3.0, PT=8.0, JAX=5.0), row(2, ours=2.0, PT=10.0, JAX=4.0)]
    table = speed._table(rows)
    assert "| 1, 2, 3 | 2.00 (ours, 2 threads) | 4.00 (JAX scan, matrix, 2 threads) | **0.50** | 0.25 |" in table
    speed.draw(rows, "fast_weights", "speed")
    assert (tmp_path / "speed.png").stat().st_size > 0


def test_the_stepper_is_compared_with_the_fastest_peer_of_each_size():
    def row(batch_size, hidden_size, stepper, functional, plain, jax):
        us = {"Stepper": stepper, "step": functional, "plain NumPy": plain, "JAX jit, donated": jax}
        return {"B": batch_size, "H": hidden_size, "threads": 2, "us": us, "slowest_us": 24.6}

    table = step._table([row(1, 20, 8.0, 40.0, 20.0, 10.0), row(64, 256, 90.0, 50.0, 25.0, 30.0)])
    assert "| 1, 20 | 2 | 8.0 | 25 | 10.0 (JAX jit, donated) | **0.80** | 0.8 | 2.00 |" in table
    assert "| 64, 256 | 2 | 90.0 | 25 | 25.0 (plain NumPy) | **3.60** | 1.2 | 2.00 |" in table
    assert f"| geometric mean |  |  |  |  | **{(0.8 * 3.6) ** 0.5:.2f}** | 0.8 |  |" in table
    assert "| 64, 256 | 2 | 90.0 | 50.0 | 25.0 | 30.0 |" in table


def test_the_forward_pass_is_compared_with_the_fastest_peer_of_each_size():
    def row(threads, **measured):
        times = {
            name: {"median_ms": ms, "first_run_s": 1.0, "peak_mb": mb}
            for name, (ms, mb) in zip(("ours", "JAX scan, attention"), measured.values(), strict=True)
        }
        return {"B": 1, "T": 1024, "H": 28, "I": 100, "threads": threads, "times": times}

    table = inference._table([row(1, ours=(3.0, 2.5), peer=(4.0, 9.0)), row(2, ours=(2.0, 3.5), peer=(1.0, 8.0))])
    assert (
        "| 1, 1024, 28 | 2.00 (ours, 2 threads) | 1.00 (JAX scan, attention, 2 threads) | **2.00** | - | 0.5 | 2.5 "
        "| 8.0 |" in table
    )
    assert "| 1, 1024, 28 | 1 | 3.00 (1.0), 2 MB | 4.00 (1.0), 9 MB |" in table


def test_steps_and_forward_passes_are_measured(store, monkeypatch, capsys):
    monkeypatch.setattr(speed, "take_turns", functools.partial(runner.take_turns, rounds=1, turn_seconds=0.01))
    monkeypatch.setattr(step, "RUNS", 1)
    peers = {"autograd": "no_such_package", "jax": "no_such_package", "torch": "no_such_package"}
    for name, entry in runner.ENTRIES.items():
        monkeypatch.setitem(runner.ENTRIES, name, entry._replace(package=peers.get(entry.package, entry.package)))
    assert main(["step", "--threads", "1", "--sizes", "2,5"]) == 0
    (row,) = json.loads((store / "step-2x5.json").read_text())["figures"]
    assert row["slowest_us"] > 0
    assert row["us"]["Stepper"] > 0
    assert "| 2, 5 | 1 |" in (store / "step-2x5.md").read_text()
    assert main(["inference", "--threads", "1", "--sizes", "2,3,4"]) == 2
    assert "no peer is installed" in capsys.readouterr().err


def test_the_stepper_is_watched_for_long(store, capsys):
    assert main(["step", "--endure", "60"]) == 0
    rows = json.loads((store / "step-endurance.json").read_text())["figures"]
    assert [row["steps"] for row in rows] == list(range(6, 66, 6))
    assert all(row["mb"] > 0 and row["us"] > 0 and 0 < row["error"] < 1e-5 for row in rows)
    assert main(["step", "--endure", "61"]) == 2
    assert "endure: expected a multiple of 10 steps, got 61" in capsys.readouterr().err


def test_actors_are_timed_in_turns(store, monkeypatch, capsys):
    asked = []

    def frames_per_second(layer, size, visible, count, frames):
        asked.append((size, count))
        return 1000 * count

    monkeypatch.setattr(actors, "_frames_per_second", frames_per_second)
    assert main(["actors", "--actors", "2", "1"]) == 0
    assert asked == [(size, count) for size in (16, 24) for _ in range(actors.ROUNDS) for count in (1, 2)]
    assert "| 24, 5 | 1,000 | 2,000 | 2.00 |" in (store / "actors.md").read_text()


def test_a_run_of_agents_is_timed():
    assert actors._frames_per_second("irnn", 16, 3, 1, 2000) > 0


def test_figure_5_has_every_seed_and_when_an_agent_passes_0_9(store, tmp_path, pictures):
    for seed, (reward, group) in enumerate([(0.99, ""), (0.95, ""), (0.5, "layer-norm")]):
        folder = tmp_path / str(seed)
        folder.mkdir()
        settings = {"layer": "irnn", "size": 16, "visible": 3, "hidden_size": 128, "seed": seed}
        settings |= {"recurrent_scale": 0.9, "entropy_weight": 0.01, "optimizer": "adam", "learning_rate": 1e-3}
        curve = [{"frames": 1e6 * n, "mean_reward": reward * n / 10} for n in range(1, 11)]
        result = {"task": "catch", "settings": settings, "mean_reward": reward, "curve": curve}
        result |= {"frames": 10_000_000, "frames_per_second": 5e4, "seconds": 200.0}
        (folder / "result.json").write_text(json.dumps(result))
        assert main(["add", str(folder), *(["--group", group] if group else [])]) == 0
    assert "catch/irnn-N16-R128-seed0" in [run["run"] for run in stored.read("runs.jsonl")]
    made = agents.figure_5(missing := [])
    assert "| ReLU RNN | 0.990, 0.950 | 0.95 | 10.0, 10.0 | - | 10,000,000 | 50,000 | W = 0.9 I, β 0.01, adam" in made
    assert "| 16, 3 | ReLU RNN, layer norm | 0.500 | - | - | - | 10,000,000 | 50,000 |" in made
    assert "figure 5, N = 16, ReLU RNN: 2 of 3 seeds" in missing
    assert (store / "figure5.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[1]", "it holds a list instead of an object"),
        (b"null", "it holds a NoneType instead of an object"),
        (b'{"run": "a"', "Expecting"),
        (b"\xff", "codec can't decode"),
        (b"<<<<<<< HEAD", "Expecting value"),
        (b"", "Expecting value"),
        (b'{"task": "retrieval"}', "it lacks run"),
        (b'{"run": [1], "task": "retrieval", "settings": {}, "seconds": 1, "curve": {}}', "its run is [1]"),
        (b'{"run": "", "task": "retrieval", "settings": {}, "seconds": 1, "curve": {"a": [1]}}', "its name is ''"),
        (b"[" * 100_000, "recursion"),
        (None, "retrieval/fast_weights-K4-R50-seed0 is in an earlier line, too"),
    ],
)
def test_a_bad_line_of_the_store_is_named_and_nothing_is_added(line, words, store, tmp_path, capsys):
    """None repeats the first line, as a merge of two branches may."""
    stored.add(finished_run(tmp_path / "0", 0.1))
    other = finished_run(tmp_path / "1", 0.1, seed=1)
    for file in ("runs.jsonl", "retrieval.jsonl"):
        path = store / file
        whole = path.read_bytes()
        path.write_bytes(whole + (whole.rstrip() if line is None else line) + b"\n")
        before = {each.name: each.read_bytes() for each in store.iterdir()}
        for command in (["add", str(other)], ["mcnemar", "retrieval/a", "retrieval/b"]):
            assert main(command) == 2
            said = capsys.readouterr().err
            assert said.startswith(f"bench: {path}, line 2: expected what bench add stores: "), said
            assert words in said
        assert {each.name: each.read_bytes() for each in store.iterdir()} == before
        path.write_bytes(whole)


def test_a_run_without_a_line_in_the_file_of_its_task_is_named(store, tmp_path, capsys):
    stored.add(finished_run(tmp_path / "0", 0.1))
    for text in ("", None):
        path = store / "retrieval.jsonl"
        path.write_text(text) if text is not None else path.unlink()
        assert main(["mcnemar", "retrieval/a", "retrieval/b"]) == 2
        expected = f"bench: {path}: expected a line of retrieval/fast_weights-K4-R50-seed0, as in runs.jsonl, found"
        assert capsys.readouterr().err.startswith(expected)


def test_what_would_make_the_store_unreadable_is_not_added(store, tmp_path):
    folder = finished_run(tmp_path / "0", 0.1)
    result = json.loads((folder / "result.json").read_text())
    for changed, words in (
        ({name: value for name, value in result.items() if name != "seconds"}, "it lacks seconds"),
        (result | {"task": "../retrieval"}, "its task is '../retrieval'"),
        (result | {"task": 5}, "its task is 5"),
        (result | {"curve": []}, "its curve is empty"),
        (result | {"seconds": "3"}, "its seconds is '3'"),
        (result | {"settings": result["settings"] | {"seed": "0/../x"}}, "its name is"),
        (result | {"settings": result["settings"] | {"layer": ""}}, "its name is"),
        (result | {"settings": result["settings"] | {"initial": 5}}, "int"),
        (result | {"origin": "a run"}, "'str' object"),
        (result | {"command": 5}, "expected string"),
        (result | {"test_error": float("nan")}, "not JSON compliant"),
        (result | {"curve": [{"update": 1, "train_loss": float("inf")}]}, "not JSON compliant"),
    ):
        (folder / "result.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=words):
            stored.add(folder)
        assert not list(store.glob("*"))
    (folder / "result.json").write_text(json.dumps(result | {"run": "another name"}))
    assert stored.add(folder) == stored.read("runs.jsonl")[0]["run"] == stored.read("retrieval.jsonl")[0]["run"]


def test_settings_without_a_seed_and_answers_without_data_are_named(store, tmp_path, capsys):
    name = stored.add(finished_run(tmp_path / "0", 0.1))
    (line,) = stored.read("runs.jsonl")
    (curve,) = stored.read("retrieval.jsonl")
    stored.write("retrieval.jsonl", [curve | {"wrong_answers": {}}])
    assert main(["mcnemar", name, "retrieval/other"]) == 2
    assert f"got {name}, which has none stored" in capsys.readouterr().err
    stored.write("runs.jsonl", [line | {"settings": {}}])
    assert main(["mcnemar", name, "retrieval/other"]) == 2
    assert "line 1: expected what bench add stores: its settings have no seed" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"best": {}}', '{"best": {}, "task": "retrieval", "trials": 5}'])
def test_a_damaged_search_is_named_and_not_added(content, store, tmp_path, capsys):
    (tmp_path / "search.json").write_text(content)
    assert main(["add", str(tmp_path)]) == 2
    assert f"folders: expected a complete search in {tmp_path / 'search.json'}: " in capsys.readouterr().err
    assert not store.exists()


def test_a_search_has_the_name_of_its_folder_from_wherever_it_is_added(store, tmp_path, monkeypatch):
    (folder := tmp_path / "rates").mkdir()
    (folder / "search.json").write_text('{"task": "retrieval", "trials": [], "best": {}, "search": "other"}')
    monkeypatch.chdir(folder)
    assert stored.add(Path()) == stored.read("searches.jsonl")[0]["search"] == "search/rates"


def test_runs_that_are_added_at_once_are_all_stored(store, tmp_path):
    folders = [finished_run(tmp_path / str(seed), 0.1, seed) for seed in range(8)]
    with ThreadPoolExecutor(len(folders)) as pool:
        names = list(pool.map(stored.add, folders))
    assert [run["run"] for run in stored.read("runs.jsonl")] == names
    assert len(stored.load("retrieval")) == len(folders)


def test_a_run_is_stored_whole_or_not_at_all_and_nothing_unfinished_is_left(store, tmp_path, monkeypatch):
    stored.add(finished_run(tmp_path / "a", 0.1))
    (store / "runs.jsonl.writing-0123abcd").touch()  # by a process that was killed
    before = {file: (store / file).read_bytes() for file in ("runs.jsonl", "retrieval.jsonl")}
    again = finished_run(tmp_path / "b", 0.2)
    for full in before:

        def whole(path, full=full):
            if path.name == full:
                raise OSError(errno.ENOSPC, "no space left")
            return files.whole(path)

        with monkeypatch.context() as patched:
            patched.setattr(stored, "whole", whole)
            with pytest.raises(OSError, match="no space left"):
                stored.add(again, replace=True)
        assert {path.name: path.read_bytes() for path in store.iterdir()} == before
    stored.add(again, replace=True)
    (run,) = stored.load("retrieval")
    assert run["test_error"] == run["curve"][-1]["test_nll"] == 0.2


def test_runs_with_different_test_sets_are_neither_joined_nor_compared(store, tmp_path, capsys):
    first = {"name": "mnist", "sizes": [9, 9, 10], "test_sha256": "ab"}
    others = [first | {"name": "fashion"}, first | {"sizes": [9, 9, 5]}, first | {"test_sha256": "cd"}]
    for seed, data in enumerate([first, *others]):
        folder = finished_run(tmp_path / str(seed), 0.1, seed)
        result = json.loads((folder / "result.json").read_text()) | {"task": "mnist", "data": data}
        del result["settings"]["pairs"]
        (folder / "result.json").write_text(json.dumps(result | {"wrong_answers": {"3": 1}}))
        assert main(["add", str(folder)]) == (2 if seed else 0)
        assert not seed or "differs in its test set" in capsys.readouterr().err
        assert main(["add", str(folder), "--group", f"data{seed}"]) == 0
        names = ["mnist/fast_weights-R50-seed0", f"mnist-data{seed}/fast_weights-R50-seed{seed}"]
        assert main(["mcnemar", *names]) == (2 if seed else 0)
        assert not seed or "expected two of the same test set" in capsys.readouterr().err


def test_a_line_with_any_character_is_read_again(store, tmp_path):
    command = "python -m tasks retrieval --out \u2028\x85ü"
    folder = finished_run(tmp_path / "0", 0.1)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"command": command}))
    name = stored.add(folder)
    (run,) = stored.load("retrieval")
    assert (run["run"], run["command"]) == (name, command)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("reproduce table1 --jobs 0", "--jobs: expected a whole number of at least 1, got '0'"),
        ("step --threads x", "--threads: expected a whole number of at least 1, got 'x'"),
        ("step --sizes 1,0", "--sizes: expected B,H, whole numbers of at least 1, got '1,0'"),
        ("inference --sizes 1,2", "--sizes: expected B,T,H, whole numbers of at least 1, got '1,2'"),
        ("speed --sizes 1,a,3", "--sizes: expected B,T,H, whole numbers of at least 1, got '1,a,3'"),
        ("profile --size 0,0,0", "--size: expected B,T,H, whole numbers of at least 1, got '0,0,0'"),
    ],
)
def test_a_wrong_number_on_the_command_line_is_explained(words, message, capsys):
    with pytest.raises(SystemExit):
        main(words.split())
    assert f"error: argument {message}\n" in capsys.readouterr().err


def test_a_search_cannot_be_compared_like_a_run(store, tmp_path, capsys):
    stored.write(stored.SEARCHES, [{"search": "search/a", "task": "retrieval", "trials": [], "best": {}}])
    assert main(["mcnemar", "search/a", "search/b"]) == 2
    assert "expected the name of a stored run" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "words"), [("{", "JSONDecodeError"), ("{}", "KeyError('figures')"), ("[]", "a list")])
def test_a_damaged_measurement_of_the_store_is_named(text, words, store, capsys):
    store.mkdir()
    (store / "speed.json").write_text(text)
    assert main(["paper"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"bench: {store / 'speed.json'}: expected what bench speed --store writes, got ")
    assert words in said
