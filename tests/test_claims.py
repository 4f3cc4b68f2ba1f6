"""The table of the paper's claims: verdicts follow from the stored runs."""

from __future__ import annotations

import pytest

from bench import cells, claims, published
from bench import store as stored

WITHOUT = "supported, some controls not run"
NO_CONTROL = "IRNN, layer norm not run; LSTM, layer norm not run; A-LSTM, layer norm not run"


def run(layer, size, error, seed=0):
    curve = [{"update": 781, "validation_nll": error}]
    settings = {"layer": layer, "hidden_size": size, "seed": seed, "inner_steps": 1, "pairs": 4}
    return {"settings": settings, "test_error": error, "test_nll": error, "curve": curve}


def verdicts(monkeypatch, tmp_path, runs):
    monkeypatch.setattr(stored, "STORE", tmp_path)
    monkeypatch.setattr(cells, "retrieval", lambda: runs)
    lines = claims.table_and_tally()["claims"].splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[2:] for row in rows}


@pytest.mark.parametrize(("ours", "verdict"), [(0.01, "supported"), (0.02, "not supported"), (0.03, "not supported")])
def test_a_verdict_follows_from_the_medians(ours, verdict, monkeypatch, tmp_path):
    runs = [run(layer, 20, ours if layer == "fast_weights" else 0.02) for layer in published.TABLE_1]
    runs += [run("fast_weights", 20, error, seed) for seed, error in ((1, 0.001), (2, 0.9))]
    found = verdicts(monkeypatch, tmp_path, runs)
    here, control, reached = found["Retrieval, R = 20: fast weights have the lowest error"]
    assert here.startswith(f"Fast weights {100 * ours:.3f} % (0.100 to 90.000); IRNN 2.000 %; LSTM 2.000 %")
    assert (control, reached) == (NO_CONTROL, WITHOUT if verdict == "supported" else verdict)
    assert found["Retrieval, R = 20: IRNN does not learn to retrieve"][-1] == "not supported"


def test_a_control_can_overturn_a_claim(monkeypatch, tmp_path):
    runs = [run(layer, 50, 0.0 if layer == "fast_weights" else 0.7) for layer in published.TABLE_1]
    lowest = "Retrieval, R = 50: fast weights have the lowest error"
    soonest = "Retrieval, R = 50: fast weights need the fewest updates (here: to a loss of 0.1 nats)"
    found = verdicts(monkeypatch, tmp_path, runs)
    assert (found[lowest][-1], found[soonest][-1]) == (WITHOUT, WITHOUT)
    assert found[soonest][0] == "Fast weights 781; IRNN never; LSTM never; A-LSTM never"
    monkeypatch.setattr(claims.controls, "lstm_runs", lambda *_: [run("lstm", 50, 0.0)])
    found = verdicts(monkeypatch, tmp_path, runs)
    assert found[lowest][1:] == [
        NO_CONTROL.replace("LSTM, layer norm not run", "LSTM, layer norm 0.000 %", 1),
        "not supported",
    ]
    assert found[soonest][-1] == "not supported"


def test_without_runs_nothing_is_supported(monkeypatch, tmp_path):
    found = verdicts(monkeypatch, tmp_path, [])
    assert found["Retrieval, R = 100: fast weights have no test error"] == [
        "Fast weights not run",
        NO_CONTROL,
        "not supported",
    ]
    assert not [claim for claim, (*_, verdict) in found.items() if verdict.startswith("supported")]


@pytest.mark.parametrize(("twice", "verdict"), [((0.02, 0.3), "supported"), ((0.04, 0.3), "undecided")])
def test_results_are_similar_if_the_ranges_of_the_seeds_overlap(twice, verdict, monkeypatch, tmp_path):
    runs = [run("fast_weights", 50, error, seed) for seed, error in enumerate((0.01, 0.03))]
    found_runs = [run("fast_weights", 50, each) for each in twice]
    monkeypatch.setattr(claims, "load", lambda group: found_runs if "S2" in group else [])
    found = verdicts(monkeypatch, tmp_path, runs)
    here, _, reached = found["Retrieval, R = 50: more inner steps S have similar results"]
    assert here == f"S = 1 2.000 % (1.000 to 3.000); S = 2 {50 * sum(twice):.3f} % ({100 * twice[0]:.3f} to 30.000)"
    assert reached == verdict


def test_the_tally_counts_every_claim(monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "STORE", tmp_path)
    made = claims.table_and_tally()
    counts = [int(line.split("|")[2]) for line in made["claims-tally"].splitlines()[2:]]
    assert sum(counts) == len(made["claims"].splitlines()) - 2
