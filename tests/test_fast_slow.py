"""The task fast_slow: episodes, contexts, evolution, stages, runs that end in the same bits, and its tables."""

from __future__ import annotations

import json
import os
import signal
from itertools import permutations as every

import numpy
import pytest

from bench import fast_slow as tables
from bench import fast_slow_claims, store
from bench.plans.fast_slow import BASES, FAST_SLOW
from fastweights_np import checkpoint
from fastweights_np.trees import flatten
from tasks import fast_slow
from tasks.__main__ import main
from tasks.contexts import base, episodes, evolution, stages
from tasks.contexts.channels import Rollouts, StateContexts
from tasks.contexts.episodes import Episodes, Family
from tasks.contexts.learner import Learner
from tasks.running import runs
from tests.small import options, without

FAMILY = Family(5)


def rng(seed: int = 0) -> numpy.random.Generator:
    return numpy.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------------------ episodes


def test_a_part_of_all_permutations_is_held_out_and_says_nothing_about_single_digits():
    whole = numpy.array(list(every(range(5))))
    held_out = whole[episodes.is_held_out(whole)]
    assert len(held_out) == 20
    for v in range(5):
        assert (numpy.bincount(held_out[:, v]) == 4).all()
    drawn = episodes.permutations(rng(), 50, 5, held_out=False)
    assert len(drawn) == 50
    assert not episodes.is_held_out(drawn).any()


def test_the_value_is_the_digit_of_the_queried_letter():
    drawn = episodes.draw(rng(), FAMILY, 40, 6)
    assert drawn.x.shape == (6 + 1 + episodes.THINK, 40, FAMILY.inputs)
    for n, value in enumerate(drawn.values):
        pairs = {int(step[:10].argmax()): int(step[10:15].argmax()) for step in drawn.x[:6, n]}
        assert len(pairs) == 6
        assert pairs[int(drawn.x[6, n, 15:25].argmax())] == value
        assert not drawn.x[7:, n].any()


def test_a_prompt_shows_each_line_of_its_permutation_before_the_pairs():
    pi = episodes.permutations(rng(), 8, 5, held_out=True)
    drawn = episodes.draw(rng(), FAMILY, 8, 2, episodes.prompts_of(rng(), FAMILY, pi))
    for n in range(8):
        lines = [(step[25:30].argmax(), step[30:].argmax()) for step in drawn.x[:6, n] if step.any()]
        assert sorted(lines) == list(enumerate(pi[n]))
    numpy.testing.assert_array_equal(drawn.x[6:], episodes.draw(rng(1), FAMILY, 8, 2).x * 0 + drawn.x[6:])


# ------------------------------------------------------------------------------------------------------------- contexts


def test_a_block_has_as_many_numbers_as_a_state_and_starts_without_effect():
    state, block = (StateContexts(rng(), kind, 2, 8, 5, 0.1, "float32").contexts for kind in ("state", "block"))
    sizes = [sum(value.size for value in each.values()) for each in (state, block)]
    assert sizes[0] == sizes[1] == 2 * 8 * 6
    assert not (block["U"] @ block["V"].swapaxes(1, 2)).any()


def test_a_group_is_all_rollouts_of_a_problem_with_all_contexts():
    rewards = numpy.array([[1.0, 1], [0, 0], [0, 0], [0, 0]])  # two contexts, of two problems each
    found = Rollouts(Episodes(numpy.zeros(0), numpy.zeros(2)), rewards * 0, rewards, rewards).advantages()
    numpy.testing.assert_allclose(found, [[1, 1], [0, 0], [-1, -1], [0, 0]], atol=1e-5)


def test_a_prompt_that_alone_solves_an_instance_keeps_it():
    scores = numpy.array([[1.0, 1, 0, 0], [1, 0.9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    numpy.testing.assert_allclose(evolution.frontier(scores), [1.25, 1.25, 1.25, 0.25])


def test_a_mutation_with_feedback_names_the_symbol_of_a_failed_instance():
    answers = numpy.array([3, 4])
    contexts = evolution.PromptContexts(rng(), FAMILY, 2, Episodes(numpy.zeros(0), answers), answers, feedback=True)
    contexts.scores[:, 0] = 1
    tokens = [contexts._token(rng(seed), 0) for seed in range(200)]
    lines = [divmod(token, 5) for token in tokens if token != FAMILY.blank]
    assert {a for _, a in lines} == {4}
    assert {v for v, _ in lines} == set(range(5))
    assert 0 < len(tokens) - len(lines) < 50


# --------------------------------------------------------------------------------------------------------------- stages


def test_the_second_task_by_the_weights_alone_follows_the_first_one():
    found = [stage.name for stage in stages.stages("both", 3, second=True)]
    assert found == ["task 1", "second", "task 2", "task 3"]
    assert [each.name for each in stages.stages("fast", 1, second=False)] == ["task 1"]


@pytest.mark.parametrize(
    ("method", "interleave", "kinds"),
    [
        ("slow", 6, "ssssssss"), ("random", 6, "ssssssss"), ("fast", 6, "ffffffff"), ("both", 2, "ffssffss"),
        ("both", 0, "bbbbbbbb"), ("fast_then_slow", 6, "ffffssss"), ("slow_then_fast", 6, "ssssffff"),
    ],
)  # fmt: skip
def test_the_channels_take_turns(method, interleave, kinds):
    letters = {"slow": "s", "fast": "f", "same": "b"}
    assert "".join(letters[stages.kind_of(method, n, 8, interleave)] for n in range(8)) == kinds
    acting = [stages.with_contexts(method, n, 8) for n in range(8)]
    assert acting == {"slow": [False] * 8, "slow_then_fast": [False] * 4 + [True] * 4}.get(method, [True] * 8)


# ----------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fast_slow")


def made(folder, name: str, *words: str) -> dict:
    given = options("fast_slow", folder)
    if "slow" in words:  # which has no contexts
        given = without(given, "--contexts", "--rank", "--interleave")
    elif "prompt" in words:
        given = without(given, "--rank")
    assert main([*given, *words, "--out", str(folder / name)]) == 0
    return json.loads((folder / name / "result.json").read_text())


def params_of(folder, group: str = "params") -> dict:
    return flatten(checkpoint.load(folder / "checkpoint.npz")[0][group])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("context", ["state", "block", "prompt"])
def test_contexts_alone_leave_the_weights_as_they_are(context, dtype, folder):
    words = ["--method", "both", "--context", context, "--learning-rate", "0", "--dtype", dtype]
    result = made(folder, f"fast-{context}-{dtype}", *words)
    (path,) = (folder / "bases").glob("base-5-8-*")
    for name, value in flatten(checkpoint.load(path)[0]).items():
        found = params_of(folder / f"fast-{context}-{dtype}")[name]
        numpy.testing.assert_array_equal(found, value)
        assert found.dtype == dtype
    assert all(line["kl"] == 0 for line in result["curve"])
    assert len(result["stages"]) == 2


def test_the_weights_after_the_first_task_are_kept_while_a_copy_learns_the_second(folder):
    made(folder, "first", "--method", "slow", "--tasks", "1")
    result = made(folder, "second", "--method", "slow", "--tasks", "1", "--second")
    assert [each["name"] for each in result["stages"]] == ["task 1", "second"]
    for name, value in params_of(folder / "first").items():
        numpy.testing.assert_array_equal(params_of(folder / "second")[name], value)


def test_a_penalty_keeps_the_policy_near_its_base(folder):
    rate = ["--method", "slow", "--tasks", "1", "--episodes", "1024", "--learning-rate", "0.01"]
    free = made(folder, "free", *rate)["stages"][0]["kl"]
    assert made(folder, "tied", *rate, "--kl-weight", "30")["stages"][0]["kl"] < free / 2


@pytest.mark.parametrize("words", [(), ("--context", "prompt"), ("--method", "slow", "--second")], ids=" ".join)
def test_an_interrupted_run_ends_in_the_same_bits(words, folder, monkeypatch):
    name = "-".join(["run", *words])
    whole = made(folder, f"{name}-whole", *words)
    original, count = Learner.update, 0

    def interrupted(self, *arguments):
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(Learner, "update", interrupted)
    with pytest.raises(AssertionError):
        made(folder, name, *words)
    assert main(["fast_slow", "--resume", str(folder / name)]) == 0
    result = json.loads((folder / name / "result.json").read_text())
    assert result["stages"] == whole["stages"]
    for group in ("params", "kept", "moments", "channel"):
        for key, value in params_of(folder / f"{name}-whole", group).items():
            numpy.testing.assert_array_equal(params_of(folder / name, group)[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rank 4", "rank: expected an odd number"),
        ("--rollouts 6", "rollouts: expected a multiple of 4, got 6"),
        ("--rollouts 4 --context prompt", "rollouts: expected a multiple of 8, got 4"),
        ("--episodes 255", "episodes: expected at least the 256 of one update, got 255"),
        ("--method slow --contexts 2", "contexts: the method slow does not use it"),
        ("--feedback", "feedback: the context state does not use it"),
        ("--digits 4", "digits: expected at least 5, got 4"),
        ("--tasks 9", "tasks: expected at most 8, got 9"),
        ("--pairs 11", "pairs: expected at most the 10 letters, got 11"),
        ("--device cuda", "device: expected cpu for fast_slow"),
        ("--method slow --rollouts 1", "rollouts: expected at least 2, got 1: one rollout has no advantage"),
        ("--contexts 1 --rollouts 1", "rollouts: expected at least 2, got 1"),
        ("--clip 0", "clip: expected a number above 0, got 0.0: with it, all gradients of the reward are zero"),
        ("--interleave 500", "interleave: expected less than the 500 updates of a task, got 500: the weights would"),
        ("--episodes 511 --method fast_then_slow", "episodes: expected at least 512 for fast_then_slow"),
        ("--episodes 511 --method slow_then_fast", "episodes: expected at least 512 for slow_then_fast"),
        ("--initial runs/one --base-seed 1", "base_seed: a run that starts from --initial does not use it"),
        ("--initial runs/one --base-updates 1", "base_updates: a run that starts from --initial does not use it"),
    ],
)
def test_settings_that_cannot_be_used_are_named(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["fast_slow", *words.split(), "--out", str(tmp_path / "run")])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_another_base_policy_is_refused(folder, capsys):
    made(folder, "other")
    (path,) = (folder / "bases").glob("base-5-8-*-3-0.npz")
    before = path.read_bytes()
    params = checkpoint.load(path)[0]
    params["layer"]["b"] += 1
    checkpoint.save(path, params)
    assert main(["fast_slow", "--resume", str(folder / "other")]) == 2
    assert "data: expected the base policy that" in capsys.readouterr().err
    path.write_bytes(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: params["layer"].pop("b"), "arrays/layer/b: expected float32 of shape (8,), got nothing"),
        (lambda params: params["layer"].update(b=numpy.zeros(9, "float32")), "(8,), got float32 of shape (9,)"),
        (lambda params: params["layer"].update(b=numpy.zeros(8)), "(8,), got float64 of shape (8,)"),
        (lambda params: params["layer"]["b"].fill(numpy.nan), "layer/b: expected an array of finite numbers"),
        (lambda params: params.update(layer=3), "expected"),
    ],
)
def test_a_file_that_is_no_base_policy_is_named(change, message, tmp_path, capsys):
    words = [*options("fast_slow", tmp_path), "--out", str(tmp_path / "run")]
    (path,) = (tmp_path / "bases").iterdir()
    params = checkpoint.load(path)[0]
    change(params)
    checkpoint.save(path, params)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert message in said
    assert "delete the file, to train the policy anew, or change --data-dir" in said
    assert not (tmp_path / "run").exists()


def test_pre_training_reports_its_accuracy_or_that_it_begins_anew(tmp_path, monkeypatch, capsys):
    config = base.BaseConfig(5, 8, 0.9, 0.5, 2, 0)
    monkeypatch.setattr(base, "shown_accuracy", lambda *_: 0.95)
    base.load(config, tmp_path / "good")
    assert capsys.readouterr().out.endswith("base policy: accuracy 95.0% where a permutation is shown\n")
    monkeypatch.undo()
    base.load(config, tmp_path / "low")
    assert "expected above 90%: a run can hardly learn; raise --base-updates" in capsys.readouterr().out

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        base.load(config, tmp_path / "stopped")
    assert "its training begins anew at the next start" in capsys.readouterr().out


def test_a_run_with_initial_weights_trains_no_base_policy(folder, monkeypatch):
    made(folder, "begun")
    monkeypatch.setattr(base, "train", None)
    words = without(options("fast_slow", folder), "--base-updates", "--data-dir")
    assert main([*words, "--initial", str(folder / "begun"), "--out", str(folder / "from-begun")]) == 0


def test_pre_training_adds_digits_and_keeps_the_logits_of_answers(monkeypatch):
    monkeypatch.setattr(base, "RIGHT", -1.0)  # every batch is right enough
    params = base.train(base.BaseConfig(5, 8, 0.9, 0.5, 5, 0))
    assert params["readout"]["output"].shape == (5, 8)
    assert 0 <= base.written_accuracy(base.BaseConfig(5, 8, 0.9, 0.5, 5, 0), params, 6, 50) <= 1


# --------------------------------------------------------------------------------------------------------------- tables


def a_run(row: str, seed: int, learned: int | None, second: int | None = None, kl: float = 0.5) -> dict:
    stage = {
        "reward": 0.99 if learned else 0.5, "neutral_reward": 0.3, "entropy": 0.1, "kl": kl, "base_accuracy": 0.995,
        "mean_reward": 0.9, "kl_when_learned": kl if learned else None,
    }  # fmt: skip
    found = [
        stage | {"name": name, "episodes_to_learn": time} for name, time in (("task 1", learned), ("second", second))
    ]
    settings = fast_slow.Settings(method="slow" if row.startswith("slow") else "both").as_json() | {"seed": seed}
    return {
        "run": f"{tables.ROWS[row].group(0)}/fast_weights-K6-R64-seed{seed}", "task": "fast_slow", "settings": settings,
        "seconds": 1.0, "written_accuracy": 0.995, "stages": found,
    }  # fmt: skip


def cells(table: str, start: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith(f"| {start}")
    ]


def test_tables_judge_by_thresholds_and_pairs_that_are_fixed_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "STORE", tmp_path)
    lines = [a_run("both", seed, 20_000 + seed, 50_000) for seed in range(5)]
    lines += [a_run("slow", seed, 40_000 if seed else None) for seed in range(5)]
    store.write(store.RUNS, lines)
    made = tables.tables()
    (line,) = cells(made["fast-slow-1"], "both, weights 3e-4 |")
    assert line[3:5] == ["5 of 5", "20 (20 to 20)"]
    (line,) = cells(made["fast-slow-1"], "weights alone, 3e-4 |")
    assert line[3:5] == ["4 of 5", "40 (40 to never)"]
    verdicts = {tuple(line[:2]): line[2] for line in cells(made["fast-slow-must"], "")}
    assert verdicts["both, weights 3e-4", "median episodes to 0.9 of at most 30,000"] == "20 (20 to 20) thousand: holds"
    assert verdicts["both, weights 3e-4", "second task in at least 4 seeds"] == "5 of 5: holds"
    assert verdicts["weights alone, 3e-4", "second task in at most 1 seed"] == "0 of 5: holds"
    claims = {
        line[0][:2]: line[2:]
        for line in cells(fast_slow_claims.tables()["fast-slow-claims-1"], "C")
        if "3e-4" in line[1]
    }
    assert claims["C1"] == ["undecided", "undecided", "20 (20 to 20)", "40 (40 to never); 5/0/0", *["not run"] * 4]
    assert claims["C3"][0] == "undecided", "one arm is not run"
    assert claims["C3"][3] == "0.500 (0.500 to never); 1/4/0"
    assert claims["C4"][2:4] == ["5 in 5 runs", "0 in 5 runs; 5/0/0"]
    lost = [a_run("slow-best", seed, 10_000, 60_000) for seed in range(5)]
    store.write(store.RUNS, [*lines, *lost])
    (line, _) = cells(fast_slow_claims.tables()["fast-slow-claims-1"], "C1")
    assert line[2:4] == ["not supported", "undecided"]
    assert len(tables.missing()) == len([cell for cell in FAST_SLOW if hasattr(cell, "seeds")]) - 3
    assert BASES == (0, 1)


def test_a_report_of_progress_counts_tasks(folder):
    settings = fast_slow.Settings(tasks=2, second=False, episodes=512, interleave=1)
    assert settings.reports == 2
    assert settings.evaluated == [2]
    assert runs.Objective("mean_reward", "", maximize=True).of({"mean_reward": 0.5, "curve": []}) == 0.5
