"""Runs of several seeds: their range, the sign test of pairs, the bold figure of a column, and counted trials."""

from __future__ import annotations

import pytest

from bench import mcnemar, published, searches, seeds, tables


def run(seed, error, layer="irnn", size=50, **more):
    settings = {"layer": layer, "hidden_size": size, "seed": seed, "learning_rate": 1e-3, "epochs": 1}
    about = {"run": f"mnist/{layer}-R{size}-seed{seed}", "settings": settings, "updates": 1, "seconds": 1.0}
    return about | {"test_error": error, "test_nll": error, "data": {"name": "FER-2013"}} | more


@pytest.mark.parametrize(
    ("figures", "text"),
    [([3.0], "3.0 %"), ([5.0, 1.0], "3.0 % (1.0 to 5.0)"), ([9.0, 1.0, 2.0], "2.0 % (1.0 to 9.0)"),
     ([0.0] * 5, "0.0 % (0.0 to 0.0)")],
)  # fmt: skip
def test_a_cell_has_the_median_and_with_several_seeds_their_range(figures, text):
    assert seeds.median_and_range(figures, 1) == text


def test_the_sign_test_is_exact_and_symmetric():
    assert seeds.sign_test(0, 0) == seeds.sign_test(3, 3) == 1.0
    assert seeds.sign_test(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert seeds.sign_test(9, 1) == seeds.sign_test(1, 9)
    assert [seeds.sign_test(n, 0) for n in (3, 5)] == [0.25, 0.0625]


def test_pairs_have_the_same_seed_and_are_counted_by_size_and_together():
    ours = [run(seed, 0.1, "multilevel", size) for size in (50, 100) for seed in (0, 1)]
    theirs = [run(1, 0.2), run(0, 0.1), run(2, 0.0), run(1, 0.3, size=100)]
    table = seeds.table_of_pairs((ours, "multilevel"), [("IRNN", theirs, "irnn")], [50, 100, 200], ["test error"])
    assert table.splitlines()[2:] == [
        "| IRNN | 50 | 2 | 1 / 1 / 0 | 1 |",
        "| IRNN | 100 | 1 | 1 / 0 / 0 | 1 |",
        "| IRNN | all | 3 | 2 / 1 / 0 | 0.5 |",
    ]


def test_the_best_median_of_a_column_is_bold_and_no_other():
    errors = {"irnn": (0.4, 0.4, 0.1), "lstm": (0.3, 0.2, 0.3), "convnet": (0.5,)}
    runs = [run(seed, error, layer, 200) for layer, each in errors.items() for seed, error in enumerate(each)]
    accuracies, _ = tables.medians_and_seeds(3, runs, published.TABLE_3, 0, [])
    assert "| IRNN | 81.11 % | 60.00 % (60.00 to 90.00) | 3 |" in accuracies
    assert "| LSTM | 81.32 % | **70.00 %** (70.00 to 80.00) | 3 |" in accuracies
    test_errors, every_seed = tables.medians_and_seeds(2, runs, published.TABLE_2, 0, [])
    assert "| **30.00 %** (20.00 to 30.00) | 0, 0, 3 |" in test_errors
    assert test_errors.count("**") == accuracies.count("**") == 2
    assert (
        "| IRNN | 200 | 40.00 %, 40.00 %, 10.00 % | 1 | 1 s | Adam 0.001, 1 epochs | 0.4000, 0.4000, 0.1000 |"
        in every_seed
    )


def test_mcnemars_table_has_pairs_with_answers_and_counts_the_others():
    first, second = (run(seed, 0.1, wrong_answers=wrong) for seed, wrong in enumerate(({"3": 1, "5": 2}, {"5": 7})))
    table = mcnemar.table({"two seeds": [(first, second), (first, run(2, 0.1))], "nothing": []})
    assert table.splitlines()[2:] == [
        "| two seeds | `mnist/irnn-R50-seed0` | `mnist/irnn-R50-seed1` | 1 | 1 | 0 | 1 |",
        "| two seeds | 1 of 2 pairs without stored answers | - | - | - | - | - |",
    ]


def test_trials_of_a_task_are_counted_by_how_they_ended():
    trials = [{"validation_nll": 0.5, "state": "COMPLETE"}, {"validation_nll": None, "state": "COMPLETE"}]
    trials += [{"validation_nll": None, "state": "PRUNED"}] * 3
    search = {"search": "search/x", "finished": "2026-11-24T03:05:00+0000", "task": "mnist", "trials": trials}
    search |= {"options": ["--layer", "lstm"], "space": {"learning_rate": [1e-3]}}
    line = "| LSTM | 2026-11-24T03:05 | `--layer lstm` | learning_rate | 5 | 1 | 3 | 1 |"
    assert searches.trials([search, search | {"task": "faces"}], "mnist").splitlines()[2:] == [f"{line} none known |"]
    assert f"{line} biases decayed |" in searches.trials([search | {"wrong": "biases decayed"}], "mnist")
