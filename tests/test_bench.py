"""The store of measured runs and the tables made from it."""

from __future__ import annotations

import json

import pytest

from bench import paper, results
from bench.__main__ import main

PAPERS = {"training_size": 100_000, "validation_size": 10_000, "test_size": 20_000, "pairs": 4}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STORE", tmp_path / "results")
    monkeypatch.setattr(paper, "STORE", tmp_path / "results")
    return tmp_path / "results"


def finished_run(folder, error, seed=0, **settings):
    folder.mkdir()
    all_settings = PAPERS | {
        "layer": "fast_weights", "hidden_size": 50, "seed": seed, "decay": 0.9, "rate": 0.1, "inner_steps": 1,
        "learning_rate": 1e-3, "epochs": 2,
    } | settings  # fmt: skip
    curve = [{"update": u, "validation_error": e} for u, e in ((10, 0.5), (20, error))]
    result = {"task": "retrieval", "settings": all_settings, "test_error": error, "curve": curve}
    (folder / "result.json").write_text(json.dumps(result | {"key_blind_floor": {"error": 0.6165, "nll": 1.187}}))
    return folder


def test_the_table_has_the_paper_the_median_and_every_seed(store, tmp_path, capsys):
    runs = [finished_run(tmp_path / str(seed), error, seed) for seed, error in enumerate((0.01, 0.0, 0.005))]
    runs.append(finished_run(tmp_path / "other", 0.9, pairs=2))
    assert main(["add", *map(str, runs)]) == 0
    assert len(list((store / "retrieval").iterdir())) == 4
    capsys.readouterr()
    assert main(["paper"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "| 50 |" in line)
    assert "| 0.00 % | **0.500 %** | 1.000 %, 0.000 %, 0.500 % |" in row
    assert (store / "table1.md").exists()
    assert (store / "table1.png").exists()


def test_a_table_without_runs_says_so(store):
    assert paper.make().count("missing") == 3


def test_a_run_does_not_replace_or_join_another_unasked(store, tmp_path, capsys):
    first, second = finished_run(tmp_path / "a", 0.1), finished_run(tmp_path / "b", 0.2, epochs=3)
    assert main(["add", str(first)]) == 0
    assert main(["add", str(second)]) == 2
    assert "keep the new one apart with --group NAME" in capsys.readouterr().err
    assert results.load("retrieval")[0]["test_error"] == 0.1
    odd_seed = finished_run(tmp_path / "c", 0.2, seed=1, epochs=3)
    assert main(["add", str(odd_seed)]) == 2
    assert "differs in epochs; keep it apart with --group NAME" in capsys.readouterr().err
    assert main(["add", "--group", "ablation", str(second)]) == 0
    assert len(results.load("retrieval")) == 1
    assert results.load("retrieval-ablation")[0]["test_error"] == 0.2
    assert main(["add", "--replace", str(second)]) == 0
    assert results.load("retrieval")[0]["test_error"] == 0.2


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    assert "paper" in capsys.readouterr().out


def test_an_unfinished_run_is_refused(store, tmp_path, capsys):
    assert main(["add", str(tmp_path)]) == 2
    assert "expected the output folder of a finished run" in capsys.readouterr().err
