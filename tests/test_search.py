"""Searches and the options of layers, as they are used from the command line."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import numpy
import optuna
import pytest

from tasks import retrieval
from tasks.__main__ import main
from tasks.running import runs
from tasks.running.locks import locked
from tasks.searching import search, space
from tasks.searching.study import Search

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = ["--training-size", "640", "--validation-size", "50", "--test-size", "50", "--hidden-size", "8"]
SMALL += ["--batch-size", "64", "--epochs", "1"]
GRID = ["search", "retrieval", "--grid", "learning_rate=1e-3,1e-2", "layer=irnn,lstm", *SMALL]


def trials(database):
    """The trials in the database; all connections are closed again."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    try:
        return optuna.load_study(storage=storage, study_name="search-retrieval").trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.fixture(scope="module")
def searched(undrawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "grid"
    assert main([*GRID, "--jobs", "2", "--out", str(folder)]) == 0
    return folder


def test_a_grid_tries_every_combination_once_and_keeps_the_best(searched):
    found = json.loads((searched / "search.json").read_text())
    tried = {(trial["learning_rate"], trial["layer"]) for trial in found["trials"]}
    assert len(found["trials"]) == 4
    assert tried == {(rate, layer) for rate in (1e-3, 1e-2) for layer in ("irnn", "lstm")}
    best = min(found["trials"], key=lambda trial: trial["validation_nll"])
    settings = json.loads((searched / "best.json").read_text())
    assert (settings["learning_rate"], settings["layer"]) == (best["learning_rate"], best["layer"])
    assert settings["hidden_size"] == 8
    assert found["best"]["validation_nll"] == best["validation_nll"]
    assert (searched / "search.png").stat().st_size > 0
    for key in ("command", "commit", "machine", "finished"):
        assert found[key]


def test_the_table_leads_from_number_to_settings_value_and_folder(searched):
    """A trial is judged by its best epoch on the validation set."""
    rows = json.loads((searched / "search.json").read_text())["trials"]
    assert [row["folder"] for row in rows] == ["trial-0000", "trial-0001", "trial-0002", "trial-0003"]
    for row, trial in zip(rows, trials(searched / "study.db"), strict=True):
        folder = searched / row["folder"]
        settings = json.loads((folder / "settings.json").read_text())
        curve = json.loads((folder / "result.json").read_text())["curve"]
        assert row["number"] == trial.number
        assert {name: row[name] for name in trial.params} == trial.params
        assert {name: settings[name] for name in trial.params} == trial.params
        assert row["validation_nll"] == trial.value == min(line["validation_nll"] for line in curve)
        assert (searched / f"{row['folder']}.log").exists()


def test_the_same_search_again_has_nothing_to_do(searched, capsys):
    before = (searched / "trial-0001" / "result.json").stat().st_mtime_ns
    assert main([*GRID, "--jobs", "2", "--out", str(searched)]) == 0
    assert len(trials(searched / "study.db")) == 4
    assert (searched / "trial-0001" / "result.json").stat().st_mtime_ns == before
    assert "the best of 4" in capsys.readouterr().out


def test_another_search_in_its_place_is_refused(searched, capsys):
    assert main([*GRID, "--pairs", "2", "--out", str(searched)]) == 2
    said = capsys.readouterr().err
    assert "pairs: expected 4, with which the study 'search-retrieval' was begun, got 2; begin a new one with" in said


def test_its_best_settings_train_and_can_be_changed(searched, tmp_path, capsys):
    best, own = str(searched / "best.json"), ["--training-size", "640", "--validation-size", "60", "--epochs", "2"]
    assert main(["retrieval", "--settings", best, "--seed", "5", *own, "--out", str(tmp_path / "run")]) == 0
    stored = json.loads((tmp_path / "run" / "settings.json").read_text())
    wanted = json.loads(Path(best).read_text())
    assert {name: value for name, value in stored.items() if wanted.get(name) != value} == {
        "seed": 5, "command": stored["command"], "training_size": 640, "validation_size": 60, "test_size": 20_000,
        "epochs": 2,
    }  # fmt: skip
    (tmp_path / "other.json").write_text('{"task": "another"}')
    assert main(["retrieval", "--settings", str(tmp_path / "other.json"), "--out", str(tmp_path / "no")]) == 2
    assert "settings: expected" in capsys.readouterr().err


def test_its_best_settings_train_for_the_tasks_own_time_and_on_all_its_data(searched):
    """The search's few epochs and little data are not in best.json, unless they were searched."""
    kept = runs.settings_from(searched / "best.json", retrieval.Settings, settings=searched / "best.json")
    own = retrieval.Settings()
    for name in search.BUDGET:
        assert getattr(kept, name, None) == getattr(own, name, None)
    assert (kept.hidden_size, kept.batch_size) == (8, 64)
    base = retrieval.Settings(epochs=2, test_size=50)
    over_epochs = Search(base, [], {"epochs": [1, 3]}, None, searched, False)
    assert search._to_train_with(over_epochs, {"epochs": 3})["epochs"] == 3
    assert search._own_budget(over_epochs) == "--test-size=50"


def test_random_settings_lie_in_their_ranges(tmp_path):
    over = ["learning_rate=1e-3..1e-2:log", "hidden_size=6..9", "layer=irnn,lstm"]
    assert main(["search", "retrieval", "--random", "3", "--over", *over, *SMALL, "--out", str(tmp_path / "s")]) == 0
    made = trials(tmp_path / "s" / "study.db")
    assert len(made) == 3
    for trial in made:
        assert 1e-3 <= trial.params["learning_rate"] <= 1e-2
        assert trial.params["hidden_size"] in (6, 7, 8, 9)
        assert trial.params["layer"] in ("irnn", "lstm")
    assert len({trial.params["learning_rate"] for trial in made}) == 3


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_a_search_that_was_stopped_resumes_its_trials(how, tmp_path, capsys):
    """A search that is killed leaves no process behind: its trial sees it and ends with a checkpoint."""
    folder = tmp_path / "s"
    command = [sys.executable, "-m", "tasks", "search", "retrieval", "--grid", "learning_rate=1e-3,2e-3"]
    command += [*SMALL[:-1], "40", "--out", str(folder)]
    first, log = folder / "trial-0000", folder / "trial-0000.log"
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (first / "checkpoint.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if how == "killed":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=60)[0].decode()
    while "interrupted; " not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "interrupted; " in log.read_text()
    if how != "killed":
        assert process.returncode == 130, printed
        assert "resume with: python -m tasks search" in printed
        assert json.loads((folder / "search.json").read_text())["left"] == 2
    lines = (first / "metrics.jsonl").read_text()
    assert main(command[3:]) == 0
    assert "the best of 2 trials: " in capsys.readouterr().out
    assert (first / "metrics.jsonl").read_text().startswith(lines)
    assert "--resume" not in json.loads((first / "result.json").read_text())["command"]
    states = [trial.state.name for trial in trials(folder / "study.db")]
    assert states.count("COMPLETE") == 2
    assert len(json.loads((folder / "search.json").read_text())["trials"]) == 2


def test_a_trial_that_diverges_is_as_bad_as_can_be(tmp_path):
    command = ["search", "retrieval", "--grid", "learning_rate=1e-3,1e30", *SMALL, "--layer", "irnn"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    values = sorted(trial.value for trial in trials(tmp_path / "s" / "study.db"))
    assert values[1] == float("inf")
    found = json.loads((tmp_path / "s" / "search.json").read_text())
    assert found["best"]["learning_rate"] == 1e-3
    assert [trial["validation_nll"] for trial in found["trials"] if trial["learning_rate"] > 1] == [None]


def test_equal_losses_are_no_trouble_and_settings_of_a_file_count(tmp_path, pictures):
    """Testing after each epoch does not change what is learned."""
    base = {"task": "retrieval"} | retrieval.Settings(layer="irnn", hidden_size=6).as_json()
    (tmp_path / "base.json").write_text(json.dumps(base))
    command = ["search", "retrieval", "--grid", "test_curve=True,False", *SMALL[:-6], *SMALL[-4:]]
    command += ["--settings", str(tmp_path / "base.json"), "--hidden-size", "7"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    best = json.loads((tmp_path / "s" / "best.json").read_text())
    assert (best["layer"], best["hidden_size"], best["batch_size"]) == ("irnn", 7, 64)
    assert (tmp_path / "s" / "search.png").exists()


def test_what_cannot_be_run_is_found_before_anything_is(tmp_path, capsys):
    grid = ["layer=irnn,associative_lstm", "recurrent_scale=0.5,0.9"]
    assert main(["search", "retrieval", "--grid", *grid, *SMALL, "--out", str(tmp_path / "s")]) == 2
    assert "recurrent_scale: the layer associative_lstm" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_trial_that_was_killed_is_made_again(tmp_path, monkeypatch, capsys):
    """And while it cannot be made, the search says why, and ends with 1."""
    command = ["search", "retrieval", "--grid", "learning_rate=1e-3,2e-3", *SMALL, "--jobs", "2"]
    command += ["--layer", "irnn", "--out", str(tmp_path / "s")]
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/bin/false")
        assert main(command) == 1
    message = capsys.readouterr().err
    assert "expected its run to end with code 0, got 1; its log is " in message
    assert "resume with: python -m tasks search retrieval --grid" in message
    assert json.loads((tmp_path / "s" / "search.json").read_text())["left"] == 2
    assert main(command) == 0
    found = json.loads((tmp_path / "s" / "search.json").read_text())
    assert (found["left"], len(found["trials"])) == (0, 2)


def test_two_searches_of_one_storage_share_the_work(tmp_path):
    command = ["search", "retrieval", "--random", "3", "--over", "learning_rate=1e-3..1e-2", *SMALL, "--layer", "irnn"]
    command += ["--storage", f"sqlite:///{tmp_path}/shared.db"]
    for name in ("one", "other"):
        assert main([*command, "--out", str(tmp_path / name)]) == 0
    made = trials(tmp_path / "shared.db")
    assert len(made) == 3
    assert len({trial.params["learning_rate"] for trial in made}) == 3
    best = [json.loads((tmp_path / name / "best.json").read_text()) for name in ("one", "other")]
    assert best[0] == best[1]


def test_ten_settings_and_any_folder_name(tmp_path):
    """Folders are named by the trial's number, and the database gets its path as it is."""
    over = ["learning_rate=1e-4..1e-2:log", "rate=0.02..0.5:log", "decay=0.8..1.0", "hold=0.1..0.9", "clip_norm=0.5..9"]
    over += ["recurrent_scale=0.01..1:log", "weight_decay=1e-4..1e-1:log", "inner_steps=1..2", "seed=0..99"]
    over += ["hidden_size=8..12"]
    folder = Path(os.path.relpath(tmp_path / "50%25 of {it}? #1: a=b&c"))
    assert main(["search", "retrieval", "--random", "1", "--over", *over, *SMALL, "--out", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.json", "search.json", "search.png", "study.db", "trial-0000", "trial-0000.log",
    ]  # fmt: skip
    assert os.listdir(tmp_path) == [folder.name]


def test_the_folder_of_a_run_is_not_taken_for_a_search(tmp_path, capsys):
    (tmp_path / "settings.json").touch()
    assert main(["search", "retrieval", "--grid", "rate=0.1", *SMALL, "--out", str(tmp_path)]) == 2
    assert f"got {tmp_path}, which holds a run; choose another" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_one_search_at_a_time_uses_a_folder(searched, capsys):
    with locked(searched):
        assert main([*GRID, "--out", str(searched)]) == 2
    said = capsys.readouterr().err
    assert f"out: {searched} is in use by process {os.getpid()} on " in said
    assert "; wait until it ends, or choose another --out" in said


def test_searches_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search.time, "strftime", lambda form: form)
    assert [search._folder(None, "retrieval").name for _ in range(3)] == [
        f"search-retrieval-%Y%m%d-%H%M%S{suffix}" for suffix in ("", "-2", "-3")
    ]


@pytest.mark.parametrize(
    ("does", "code", "message"),
    [
        ("rm -r {folder}", 5, "{folder} cannot be read or written: "),
        ("head -c 9999 /dev/zero > {folder}/study.db", 7, "storage: cannot be used any more: "),
        ("kill -9 $$", 1, "trial-0000: expected its run to end with code 0, it was ended by SIGKILL, perhaps for lack"),
        ("rmdir {folder}/trial-0000 && echo > {folder}/trial-0000", 5, "{folder} cannot be read or written: "),
        ("echo no room >&2; exit 4", 1, "trial-0000: expected its run to end with code 0, got 4: no room; its log is "),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_sentence(does, code, message, tmp_path, monkeypatch, capsys):
    """With a program in place of the trial that does it."""
    folder = tmp_path / "s"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{does.format(folder=folder)}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    command = ["search", "retrieval", "--grid", "learning_rate=1e-3", *SMALL, "--out", str(folder)]
    assert main(command) == code
    error = capsys.readouterr().err.strip()
    assert message.format(folder=folder) in error
    assert len(error.splitlines()) == 1
    assert error.endswith("resume with: python -m tasks " + " ".join(command))


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, capsys):
    def full(path, value):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(search, "write_json", full)
    assert main(["search", "retrieval", "--grid", "learning_rate=1e-3", *SMALL, "--out", str(tmp_path / "s")]) == 4
    assert "No space left on device: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either --grid NAME=V,V ... or --random N"),
        (["--grid", "learning_rate=1", "--random", "3"], "expected either --grid"),
        (["--random", "3"], "over: expected with --random N"),
        (["--random", "0", "--over", "rate=0.1..0.2"], "random: expected at least 1, got 0"),
        (["--grid", "speed=1,2"], "expected NAME=VALUES, once each, with one of "),
        (["--grid", "rate"], "expected NAME=VALUES"),
        (["--grid", "rate=0.1..0.2"], "grid: expected rate=V,V"),
        (["--grid", "rate=0.1", "rate=0.2"], "once each"),
        (["--grid", "out=a,b"], "expected NAME=VALUES"),
        (["--grid", "rate=0.1", "--storage", ""], "storage: expected text, got none"),
        (["--grid", "rate=0.1", "--study", ""], "study: expected text, got none"),
        (["--grid", "rate=0.1", "--resume", "somewhere"], "resume: expected a folder"),
        (["--grid", "rate=0.1", "--settings", "nowhere.json"], "settings: expected a file of settings"),
    ],
)
def test_bad_searches_are_named(arguments, message, tmp_path, capsys):
    assert main(["search", "retrieval", *arguments, "--out", str(tmp_path / "s")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_every_layer_that_does_not_use_an_option_is_named():
    varied = {"layer": ["lstm", "irnn"], "decay": [0.5, 0.6], "forget_bias": [1.0, 2.0]}
    assert space.without_effect(varied, retrieval.Settings()) == {"decay": "the layer lstm and the layer irnn"}


@pytest.mark.parametrize("options", [["--rate", "0.2"], ["--rate=0.2"], ["--no-test-curve"]])
def test_an_option_that_is_varied_too_is_named(options, tmp_path, capsys):
    name = "rate" if "rate" in options[0] else "test_curve"
    grid = ["rate=-1"] if name == "rate" else ["test_curve=True", "seed=-1"]  # refused, so that nothing is run
    assert main(["search", "retrieval", "--grid", *grid, *options, "--out", str(tmp_path / "s")]) == 2
    option = f"--{name.replace('_', '-')}"
    assert f"search: {option} has no effect, because {name} is varied" in capsys.readouterr().err


def test_values_are_checked_before_anything_is_run(tmp_path, capsys):
    assert (
        main(["search", "retrieval", "--grid", "seed=1,2", "--storage", "nonsense", "--out", str(tmp_path / "n")]) == 2
    )
    assert "storage: expected a database that Optuna can use, got nonsense" in capsys.readouterr().err
    assert not (tmp_path / "n").exists()
    for grid, message in (("layer=lstm,gru", "gru"), ("learning_rate=1,-1", "expected a finite number of at least 0")):
        assert main(["search", "retrieval", "--grid", grid, "--out", str(tmp_path / "s")]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*GRID, "--out", str(tmp_path / "file" / "s")]) == 2
    assert "out: expected a folder that can be written, got " in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


# --------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("layer", get_args(get_type_hints(retrieval.Settings)["layer"]))
def test_every_layer_trains_the_task(layer, tmp_path, capsys):
    assert main(["retrieval", "--layer", layer, *SMALL, "--test-curve", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["curve"][-1]["test_nll"] == pytest.approx(result["test_nll"])
    assert (tmp_path / "run" / "attention.png").exists() == (layer == "fast_weights")


def test_options_reach_the_layer_that_has_them():
    settings = retrieval.Settings(layer="associative_lstm", hidden_size=20, heads=2, copies=5, shared_value=True)
    of_layer = settings.of_layer()
    assert of_layer["init_options"] == {"forget_bias": 1.0, "heads": 2, "shared_value": True}
    assert of_layer["options"] == {"copies": 5, "shared_value": True, "recurrent_value": True}
    assert retrieval.Settings(layer="irnn").of_layer()["init_options"] == {}
    normalized = retrieval.Settings(layer="lstm", layer_norm=True).of_layer()
    assert normalized["init_options"] == {"layer_norm": True, "forget_bias": 1.0}
    normalized = retrieval.Settings(layer="associative_lstm", layer_norm=True).of_layer()
    assert normalized["init_options"] == {
        "layer_norm": True, "forget_bias": 1.0, "heads": 3, "shared_value": False,
    }  # fmt: skip


def test_a_variant_of_the_associative_lstm_is_trained():
    settings = retrieval.Settings(
        layer="associative_lstm", hidden_size=8, heads=2, shared_value=True, recurrent_value=False
    )
    net = retrieval.network(settings)
    params = net.init(numpy.random.default_rng(0))
    data = retrieval.generate(numpy.random.default_rng(1), 4, settings.pairs)
    _, grads = net.loss_and_gradients(params, data.inputs, data.labels)
    assert grads["layer"]["W"].any(axis=(1, 2)).tolist() == [True] * 7 + [False] + [True] * 4 + [False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "lstm", "recurrent_scale": 0.5}, "recurrent_scale: the layer lstm"),
        ({"layer": "associative_lstm", "hidden_size": 21}, "hidden_size: expected an even number"),
        ({"layer": "associative_lstm", "hidden_size": 20, "copies": 0}, "copies: expected at least 1"),
    ],
)
def test_options_that_a_layer_lacks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        retrieval.Settings(**options)
