"""The trials of a search without their processes: which are drawn, which wait, which count."""

from __future__ import annotations

import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tasks import mnist, retrieval
from tasks.__main__ import main
from tasks.running import runs, typed
from tasks.running.command_line import settings_asked_for
from tasks.running.locks import locked
from tasks.searching import space, study
from tasks.searching.space import Range
from tasks.searching.study import Search, Study
from tasks.searching.workers import Workers

TWO = {"inner_steps": Range(1, 2, False)}
GRID = {"layer": ["irnn", "lstm"], "seed": [1, 2, 3]}


@pytest.fixture
def opened():
    """Opens studies; closes them at the end."""
    made: list[Study] = []

    def open_(folder, varied, random=None, base=None, url=None, name=None):
        folder.mkdir(exist_ok=True)
        search = Search(base or retrieval.Settings(), [], varied, random, folder, prune=False)
        made.append(Study(search, url, name))
        return made[-1]

    yield open_
    for each in made:
        each.close()


def finish(trials: Study, value=0.5) -> list[dict]:
    """Finish all that is left; return the settings in order."""
    done = []
    while (trial := trials.next()) is not None:
        done.append(trial.params)
        trials.finish(trial, value)
    return done


def numbers(trials: Study, *states: TrialState) -> list[int]:
    return [trial.number for trial in trials.trials(*states)]


# ----------------------------------------------------------------------------------------------------- what is searched


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("epochs=1,2", [1, 2]),
        ("epochs=1..5", Range(1, 5, False)),
        ("learning-rate=1,1e-3", [1.0, 1e-3]),
        ("learning_rate=1e-3..1:log", Range(1e-3, 1.0, True)),
        ("forget_bias=-1e-5..2", Range(-1e-5, 2.0, False)),
        ("layer_norm=None,True,False", [None, True, False]),
        ("recurrent_scale=None,1", [None, 1.0]),
        ("normalize_preliminary=True,False", [True, False]),
        ("layer=lstm,irnn", ["lstm", "irnn"]),
    ],
)
def test_values_have_the_settings_own_type(word, values):
    (found,) = space.parse([word], retrieval.Settings(), ranges=True).values()
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("rate=0.2..0.1", "over: expected rate=LOW..HIGH"),
        ("rate=0.1..0.1", "over: expected rate=LOW..HIGH"),
        ("rate=0.0..0.1:log", "over: expected rate=LOW..HIGH"),
        ("rate=-1..0.1:log", "over: expected rate=LOW..HIGH"),
        ("rate=0.1..0.2:", "over: expected rate=LOW..HIGH"),
        ("rate=0.1..0.2:exp", "over: expected rate=LOW..HIGH"),
        ("forget_bias=-1e308..1e308", "over: expected forget_bias=LOW..HIGH"),
        ("recurrent_scale=None..1", "over: expected recurrent_scale=LOW..HIGH"),
        ("layer=irnn..lstm", "over: expected layer=LOW..HIGH"),
        ("normalize_preliminary=False..True", "over: expected normalize_preliminary=LOW..HIGH"),
        ("rate=0.1..inf", "rate: expected a finite number, got 'inf'"),
        ("rate=nan..1", "rate: expected a finite number, got 'nan'"),
        ("rate=..1", "rate: expected a finite number, got ''"),
        ("rate=0..1..2", "rate: expected a finite number, got '1..2'"),
        ("rate=0.1,,0.2", "rate: expected a finite number, got ''"),
        ("rate=0.1,inf", "rate: expected a finite number, got 'inf'"),
        ("seed=1.0,2", "seed: expected a whole number, got '1.0'"),
        ("seed=1e3", "seed: expected a whole number, got '1e3'"),
        ("layer_norm=yes", "layer_norm: expected True or False or None, got 'yes'"),
        ("normalize_preliminary=1,0", "normalize_preliminary: expected True or False, got '1'"),
        ("layer=gru", "layer: expected one of fast_weights, irnn, lstm, associative_lstm, got 'gru'"),
        ("rate=0.1,0.10", "expected each value of rate once"),
        ("rate=", "expected NAME=VALUES, once each, with one of seed, "),
        ("rate", "expected NAME=VALUES"),
        ("=1,2", "expected NAME=VALUES"),
        ("speed=1", "expected NAME=VALUES"),
        ("out=a,b", "expected NAME=VALUES"),
        ("settings=a,b", "expected NAME=VALUES"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(word, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        space.parse([word], retrieval.Settings(), ranges=True)
    assert message in str(raised.value)


@pytest.mark.parametrize("end", ["decay=0.8..1.5", "decay=-0.5..1.0", "hold=0.5,2"])
def test_ends_that_the_task_refuses_are_found_at_the_start(end):
    base = retrieval.Settings()
    varied = space.parse([end, "seed=0..9"], base, ranges=True)
    with pytest.raises(ValueError, match=r"(decay|hold): expected"):
        space.check(varied, base, ranges=True)


def test_settings_that_no_trial_uses_are_found():
    base = retrieval.Settings()
    varied = space.parse(["forget_bias=0..2.5", "rate=0.02..0.5:log", "copies=2,4"], base, ranges=True)
    assert list(space.without_effect(varied, base)) == ["forget_bias", "copies"]
    varied = space.parse(["forget_bias=0..2.5", "layer=lstm,irnn"], base, ranges=True)
    assert not space.without_effect(varied, base)


def test_settings_are_written_as_the_task_reads_them():
    base = retrieval.Settings()
    chosen = {"forget_bias": -1e-05, "layer_norm": None, "normalize_preliminary": False, "layer": "lstm"}
    options = typed.words(type(base), chosen)
    assert options == ["--forget-bias=-1e-05", "--layer-norm=None", "--no-normalize-preliminary", "--layer=lstm"]
    read = settings_asked_for(retrieval.Settings, options, "python -m tasks retrieval")
    assert {name: getattr(read, name) for name in chosen} == chosen


# ----------------------------------------------------------------------------------------------------------- duplicates


def test_settings_are_drawn_once_until_there_are_no_others(opened, tmp_path, capsys):
    trials = opened(tmp_path / "s", TWO, random=6)
    assert sorted(chosen["inner_steps"] for chosen in finish(trials)) == [1, 2]
    assert "all 2 existing settings were tried" in capsys.readouterr().out
    assert (trials.left(), len(trials.best()), len(trials.rows())) == (0, 2, 2)


def test_several_jobs_never_draw_the_same(opened, tmp_path):
    """Twelve settings, in four threads, without waiting for one another."""
    trials = opened(tmp_path / "s", {"inner_steps": Range(1, 6, False), "pairs": [3, 4]}, random=12)
    with ThreadPoolExecutor(4) as pool:
        done = [chosen for work in [pool.submit(finish, trials) for _ in range(4)] for chosen in work.result()]
    assert len(done) == len({(chosen["inner_steps"], chosen["pairs"]) for chosen in done}) == 12
    assert numbers(trials) == list(range(12))


@pytest.mark.parametrize(("varied", "random"), [(GRID, None), ({"seed": Range(0, 5, False)}, 6)])
def test_searches_that_share_a_storage_never_run_the_same(varied, random, opened, tmp_path):
    """Begun at once: both list the same grid, or draw from the same few settings."""
    url = f"sqlite:///{tmp_path}/shared.db"
    study._storage(url, tmp_path).engine.dispose()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda name: opened(tmp_path / name, varied, random, url=url), ("one", "other")))
        done = [chosen for work in [pool.submit(finish, each) for each in both] for chosen in work.result()]
    assert len(done) == len({tuple(sorted(chosen.items())) for chosen in done}) == 6
    assert [each.left() for each in both] == [0, 0]


def test_settings_that_are_listed_twice_by_a_race_are_run_once(opened, tmp_path):
    trials = opened(tmp_path / "s", {"seed": [1, 2]})
    trials._add({"seed": 2})
    trials._add({"seed": 1})
    assert finish(trials) == [{"seed": 1}, {"seed": 2}]
    assert (len(trials.best()), trials.left()) == (2, 0)


def test_the_best_of_n_counts_settings_not_trials(opened, tmp_path):
    trials = opened(tmp_path / "s", {"seed": [1, 2]})
    finish(trials)
    for seed, value in ((1, 0.5), (2, 0.5), (2, 0.1)):
        trials._study.add_trial(
            optuna.create_trial(params={"seed": seed}, distributions=trials._distributions, value=value)
        )
    assert [trial.params for trial in trials.best()] == [{"seed": 1}, {"seed": 2}]


def test_draws_that_cannot_be_run_are_left_out_and_named(opened, tmp_path, capsys):
    base = retrieval.Settings(layer="associative_lstm", hidden_size=8)
    trials = opened(tmp_path / "s", {"hidden_size": Range(8, 13, False)}, random=6, base=base)
    assert sorted(chosen["hidden_size"] for chosen in finish(trials)) == [8, 10, 12]
    printed = capsys.readouterr().out
    assert printed.count("search: settings like these are skipped: hidden_size: expected an even number") == 1


def test_a_larger_n_draws_further_settings(opened, tmp_path):
    varied = {"rate": Range(0.1, 0.2, False)}
    first = finish(opened(tmp_path / "s", varied, random=2))
    more = opened(tmp_path / "s", varied, random=5)
    assert len(finish(more)) == 3
    assert len({trial.params["rate"] for trial in more.best()}) == 5
    assert {chosen["rate"] for chosen in first} <= {trial.params["rate"] for trial in more.best()}


# -------------------------------------------------------------------------------------------------------------- resumed


def test_a_trial_that_was_killed_waits_under_its_number(opened, tmp_path):
    """What it reported before is not reported twice, and nothing of it is counted."""
    killed = opened(tmp_path / "s", {"seed": [1, 2, 3]})
    killed.finish(killed.next(), 0.3)
    trial = killed.next()
    assert not killed.report(trial, 1, 0.7)
    again = opened(tmp_path / "s", {"seed": [1, 2, 3]})
    assert (numbers(again), numbers(again, TrialState.RUNNING), again.left()) == ([0, 1, 2], [], 2)
    resumed = again.next()
    assert (resumed.number, resumed.params) == (1, trial.params)
    again.report(resumed, 1, 0.7)
    again.report(resumed, 2, 0.6)
    again.finish(resumed, 0.2)
    assert finish(again) == [{"seed": 3}]
    assert [trial.number for trial in again.best()] == [1, 0, 2]


@pytest.mark.parametrize("owner", ["a dead search here", "a live search here", "a search on another machine"])
def test_only_what_is_dead_is_taken_from_another_search(owner, opened, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/shared.db"
    first = opened(tmp_path / "one", {"seed": [1, 2]}, url=url)
    if "another" in owner:
        first._owner[0] = "elsewhere"
    first.next()
    with closing(open(os.devnull)) if "live" not in owner else locked(tmp_path / "one"):
        other = opened(tmp_path / "other", {"seed": [1, 2]}, url=url)
    assert numbers(other, TrialState.WAITING) == ([0, 1] if "dead" in owner else [1])
    assert len(finish(other)) == (2 if "dead" in owner else 1)
    assert other.left() == (0 if "dead" in owner else 1)


def test_a_search_that_is_killed_before_its_first_heartbeat_does_not_stop_the_others_forever(opened, tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    killed, other = (opened(tmp_path / name, {"seed": [1, 2]}, url=url) for name in ("killed", "other"))
    with study._heartbeats_allowed():
        lost = killed._study.ask()  # killed here: the trial has started, and has no owner and no heartbeat
    assert other.next().params["seed"] == 2
    assert other.next() is None
    assert other.run_elsewhere() == [lost.number]
    with closing(sqlite3.connect(tmp_path / "shared.db", isolation_level=None)) as database:
        database.execute("update trial_heartbeats set heartbeat = datetime('now', '-1 day') where trial_id = 1")
    assert other.next().params["seed"] == 1


def test_a_trial_that_two_searches_have_is_finished_once(opened, tmp_path):
    first = opened(tmp_path / "s", {"seed": [1]})
    trial = first.next()
    second = opened(tmp_path / "s", {"seed": [1]})  # takes the first for dead
    second.finish(second.next(), 0.5)
    first.finish(trial, 0.5)
    first.wait_again(trial.number)
    assert numbers(first) == numbers(first, TrialState.COMPLETE) == [0]


def test_a_trial_waits_for_the_process_that_writes_to_its_folder(opened, tmp_path, capsys):
    """The process of a search that was just killed writes its checkpoint first."""
    workers = Workers(opened(tmp_path / "s", {"seed": [1]}), lambda: None)
    with ThreadPoolExecutor(2) as pool:
        with locked(tmp_path / "s"):
            released = pool.submit(workers._wait_for, tmp_path / "s")
            while "s: waiting: " not in capsys.readouterr().out:
                pass
            assert not released.done()
        assert released.result() is None
        with locked(tmp_path / "s"):
            stopped = pool.submit(workers._wait_for, tmp_path / "s")
            workers._end()
            assert isinstance(stopped.exception(), InterruptedError)


def test_the_folder_of_another_trial_is_not_taken_for_its_own(opened, tmp_path):
    trials = opened(tmp_path / "s", {"seed": [1]})
    workers, folder = Workers(trials, lambda: None), tmp_path / "s" / "trial-0000"
    trial = trials.next()
    assert workers._arguments(trial, folder) == ["retrieval", "--seed=1", f"--out={folder}"]
    (folder / "settings.json").write_text(json.dumps(retrieval.Settings(seed=1).as_json()))
    assert workers._arguments(trial, folder) == ["retrieval", f"--resume={folder}"]
    (folder / "settings.json").write_text(json.dumps(retrieval.Settings(seed=2).as_json()))
    with pytest.raises(ValueError, match=r"seed: expected 1 in .*, found 2: the run of another search"):
        workers._arguments(trial, folder)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"base": retrieval.Settings(pairs=3)}, "pairs: expected 4, .* got 3; begin a new one"),
        ({"varied": {"seed": [1, 3]}}, r"seed: expected \[1, 2\], .* got \[1, 3\]; begin a new one"),
        ({"base": mnist.Settings()}, "task: expected retrieval, .* got mnist"),
    ],
)
def test_another_search_is_refused(other, message, opened, tmp_path):
    opened(tmp_path / "s", {"seed": [1, 2]}, name="one")
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "s", **({"varied": {"seed": [1, 2]}, "name": "one"} | other))


def test_a_search_in_its_own_folder_keeps_its_data_and_a_shared_one_may_have_them_elsewhere(opened, tmp_path):
    here, there = (mnist.Settings(data_dir=tmp_path / name) for name in ("here", "there"))
    opened(tmp_path / "s", {"seed": [1, 2]}, base=here, name="one")
    with pytest.raises(ValueError, match=r"data_dir: expected .*here.* got .*there"):
        opened(tmp_path / "s", {"seed": [1, 2]}, base=there, name="one")
    url = f"sqlite:///{tmp_path}/shared.db"
    opened(tmp_path / "a", {"seed": [1, 2]}, base=here, url=url)
    opened(tmp_path / "b", {"seed": [1, 2]}, base=there, url=url)


def test_a_new_study_is_refused_the_folder_of_another(opened, tmp_path):
    opened(tmp_path / "s", {"seed": [1, 2]})
    (tmp_path / "s" / "search.json").write_text("{}")
    opened(tmp_path / "s", {"seed": [1, 2]})
    for other in ({"name": "other"}, {"url": f"sqlite:///{tmp_path}/other.db"}):
        with pytest.raises(ValueError, match="out: expected a new folder for the new study"):
            opened(tmp_path / "s", {"seed": [1, 2]}, **other)


# -------------------------------------------------------------------------------------------------------------- storage


NAMES = ["50%25 of {it}? #1", "a:b&c=1;@+", "'ü\"", "~ b\\s", "{%(x)s"]


@pytest.mark.parametrize("name", NAMES)
def test_the_database_is_in_the_folder_whatever_its_name(name, opened, tmp_path):
    folder = tmp_path / name
    assert len(finish(opened(folder, {"seed": [1]}))) == 1
    assert os.listdir(folder) == ["study.db"]
    assert os.listdir(tmp_path) == [name]
    assert opened(folder, {"seed": [1]}).left() == 0


def test_the_folder_can_be_relative_a_link_or_moved(opened, tmp_path):
    real = tmp_path / "real"
    finish(opened(real, {"seed": [1]}))
    (tmp_path / "link").symlink_to(real)
    assert opened(Path(os.path.relpath(real)), {"seed": [1]}).left() == 0
    assert opened(tmp_path / "link", {"seed": [1]}).left() == 0
    real.rename(tmp_path / "moved")
    assert opened(tmp_path / "moved", {"seed": [1]}).left() == 0


def test_a_locked_database_is_waited_for(opened, tmp_path):
    """Another program holds it for writing; without waiting the first write fails."""
    trials = opened(tmp_path / "s", {"seed": Range(0, 99, False)}, random=2)
    with closing(sqlite3.connect(tmp_path / "s" / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(finish, trials)
            assert not work.done()
            other.execute("COMMIT")
            assert len(work.result()) == 2


def test_pruning_is_off_unless_asked_for(tmp_path):
    def pruner(prune):
        made = Search(retrieval.Settings(), [], {"seed": [1, 2]}, None, tmp_path, prune)
        with closing(Study(made, f"sqlite:///{tmp_path}/{prune}.db", None)) as opened:
            return opened._study.pruner

    assert isinstance(pruner(False), optuna.pruners.NopPruner)
    assert isinstance(pruner(True), optuna.pruners.MedianPruner)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
@pytest.mark.parametrize("file", ["result.json", "settings.json"])
def test_files_that_no_trial_wrote_are_named(file, content, tmp_path, capsys):
    """A trial that waits finds them in its folder."""
    out = tmp_path / "s"
    command = ["search", "retrieval", "--grid", "learning_rate=1e-3", "--out", str(out)]
    (out / "trial-0000").mkdir(parents=True)
    (out / "trial-0000" / file).write_text(content)
    assert main(command) in (runs.FAILED, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert f"{out / 'trial-0000' / file}" in said or "the run of another search" in said
