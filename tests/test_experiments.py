"""The tables and figures of experiments that are not in the paper: capacity by size, sensitivity, factorial."""

from __future__ import annotations

from itertools import product

import numpy
import pytest

from bench import capacity, factorial, report, sensitivity
from bench.plans.retrieval import DECAYS, INNER_STEPS, RATES, sensitivity_group


def run(error, layer="fast_weights", size=50, pairs=4):
    return {"test_error": error, "settings": {"layer": layer, "hidden_size": size, "pairs": pairs}}


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """A dict of runs by their group, which the modules load in place of the store."""
    groups = {}
    for module in (capacity, factorial, sensitivity):
        monkeypatch.setattr(module, "load", lambda group: groups.get(group, []))
    monkeypatch.setattr(report, "output", tmp_path)
    return groups


def test_random_codes_err_as_an_explicit_memory_does():
    rng, size, pairs, samples = numpy.random.default_rng(1), 10, 12, 4000
    k, v = rng.standard_normal((samples, pairs, size)), rng.standard_normal((samples, 10, size))
    k, v = (codes / numpy.linalg.norm(codes, axis=-1, keepdims=True) for codes in (k, v))
    digits = rng.integers(10, size=(samples, pairs))
    wrong = 0
    for n in range(samples):
        A = sum(numpy.outer(v[n, digits[n, j]], k[n, j]) for j in range(pairs))
        wrong += (v[n] @ A @ k[n, 0]).argmax() != digits[n, 0]
    assert capacity.error_of_random_codes(size, pairs) == pytest.approx(100 * wrong / samples, abs=2)


def test_capacity_by_size_has_the_mean_of_the_runs_next_to_random_codes(stored, monkeypatch):
    monkeypatch.setattr(capacity, "error_of_random_codes", lambda size, pairs: size + pairs / 100)
    stored[capacity.NO_DECAY] = [run(0.1, size=20), run(0.2, size=20), run(0.5, size=20, pairs=26)]
    lines = capacity.table_by_size().splitlines()
    assert "| Fast weights, R = 20, 60 epochs | 15.00 % | not run | not run | not run | not run | 50.00 % |" in lines
    assert "| random codes, H = 20 | 20.04 % | 20.08 % | 20.12 % | 20.16 % | 20.20 % | 20.26 % |" in lines
    assert lines[-1].startswith("| key-blind floor | 61.65 % |")
    missing = []
    capacity.make(missing)
    assert "capacity, λ = 1, R = 20, K = 8" in missing
    assert "capacity, λ = 1, R = 20, K = 26" not in missing


def test_sensitivity_has_every_seed_and_says_what_is_missing(stored, tmp_path, pictures):
    assert sensitivity.table() == ""
    stored["retrieval-sensitivity-decay0.9-rate0.1-S2"] = [run(0.25), run(0.5)]
    assert "| 2 | 0.9 | not run | 25.000 %, 50.000 % | not run | not run |" in sensitivity.table().splitlines()
    missing = []
    sensitivity.make(missing)
    assert "sensitivity, λ = 0.9, η = 0.1, S = 1" in missing
    assert "sensitivity, λ = 0.9, η = 0.1, S = 2" not in missing
    assert not (tmp_path / "sensitivity.png").exists(), "a heat map of holes"
    for decay, rate, S in product(DECAYS, RATES, INNER_STEPS):
        stored[sensitivity_group(decay, rate, S)] = [run(decay * rate / S)]
    sensitivity.make([])
    assert (tmp_path / "sensitivity.png").exists()


def test_the_factorial_has_a_row_for_each_combination_of_factors(stored):
    assert factorial.table() == ""
    stored["mnist-factorial-memory-V"] = [run(0.01, "multilevel"), run(0.02, "multilevel")]
    stored["mnist-factorial"] = [run(0.09, "multilevel", 200)]
    lines = factorial.table().splitlines()
    assert len(lines) == 2 + 8
    assert "| yes | no | yes | 1.00 %, 2.00 % | not run | not run |" in lines
    assert "| no | no | no | not run | not run | 9.00 % |" in lines


def test_the_factorial_is_tested_in_pairs_of_one_seed_and_size(stored):
    def answered(name, seed, wrong, size=50):
        settings = {"layer": "multilevel", "hidden_size": size, "seed": seed}
        return {"run": name, "settings": settings, "wrong_answers": wrong}

    assert factorial.table_of_tests() == ""
    stored["mnist-factorial-memory-V"] = [answered("with", 0, [1, 2]), answered("other size", 1, [1], 100)]
    stored["mnist-factorial-V"] = [answered("without", 0, [1, 3, 4, 5, 6, 7, 8]), answered("other seed", 1, [])]
    stored["mnist-factorial-memory-wipe-V"] = [answered("all", 0, [9])]
    lines = factorial.table_of_tests().splitlines()
    assert "| memory, where there is V | `with` | `without` | 1 | 1 | 6 | 0.12 |" in lines
    assert "| wipe, where there are memory and V | `all` | `with` | 0 | 1 | 2 | 1 |" in lines
    assert len(lines) == 2 + 3


def test_glimpse_types_are_compared_with_the_same_layer_without_them(stored):
    digits, irnn = [run(0.03, "lstm"), run(0.5, "irnn")], [run(0.015, "irnn")]
    assert factorial.table_of_glimpse_types(digits, irnn) == ""
    stored[factorial.GLIMPSE_TYPE] = [run(0.02, "lstm")]
    lines = factorial.table_of_glimpse_types(digits, irnn).splitlines()
    assert "| LSTM | no | 3.00 % | not run | not run |" in lines
    assert "| LSTM | yes | 2.00 % | not run | not run |" in lines
    assert "| IRNN, layer norm | no | 1.50 % | not run | not run |" in lines
