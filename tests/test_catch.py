"""Catch: the game, its Gymnasium environment, and agents that learn it, alone and several at once."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.synchronize import SemLock
from pathlib import Path

import gymnasium
import numpy
import pytest
from gymnasium.utils.env_checker import check_env

import tasks.games.catch_environment
from fastweights_np import checkpoint
from fastweights_np.trees import flatten
from tasks import catch
from tasks.__main__ import main
from tasks.games import agents
from tasks.games.catch_game import Catch, Rules
from tasks.running import machine, runs

ROOT = Path(__file__).parent.parent
SMALL = ["--size", "6", "--visible", "2", "--hidden-size", "12", "--games", "16"]


# ----------------------------------------------------------------------------------------------------------------- game


def test_the_ball_falls_a_row_a_frame_and_is_seen_for_the_first_frames_only():
    game = Catch(Rules(size=6, visible=2), games=5)
    game.reset(numpy.random.default_rng(0))
    column = game.ball.copy()
    for frame in range(6):
        screen = game.screen().reshape(5, 6, 6)
        assert (screen[numpy.arange(5), frame, column] == 1).all()
        assert (screen[:, :5].sum(axis=(1, 2)) == (1 if frame < 5 else 0)).all()
        assert (game.seen().reshape(5, 6, 6) == (screen if frame < 2 else 0)).all()
        if frame < 5:
            assert not game.over
            rewards = game.step(numpy.full(5, 1))
            assert (rewards == 0).all() or frame == 4
    assert game.over
    with pytest.raises(RuntimeError, match="games that are not over"):
        game.step(numpy.ones(5, int))


def test_the_reward_shows_whether_the_paddle_touches_the_ball():
    game = Catch(Rules(size=4, paddle_width=2), games=4)
    game.reset(numpy.random.default_rng(0))
    game.ball, game.paddle = numpy.arange(4), numpy.full(4, 1)  # the paddle is at columns 1 and 2
    for _ in range(2):
        game.step(numpy.full(4, 1))
    numpy.testing.assert_array_equal(game.step(numpy.full(4, 1)), [-1, 1, 1, -1])


@pytest.mark.parametrize(("start", "columns"), [("center", {1}), ("random", {0, 1, 2})])
def test_balls_start_anywhere_and_paddles_where_the_rules_say(start, columns):
    game = Catch(Rules(size=4, paddle_width=2, paddle_start=start), games=100)
    game.reset(numpy.random.default_rng(0))
    assert set(game.ball) == {0, 1, 2, 3}
    assert set(game.paddle) == columns


def test_the_paddle_moves_as_it_is_told_and_stays_on_the_screen():
    game = Catch(Rules(size=4, paddle_width=2), games=3)
    game.reset(numpy.random.default_rng(0))
    numpy.testing.assert_array_equal(game.paddle, [1, 1, 1])
    game.step(numpy.array([0, 1, 2]))
    numpy.testing.assert_array_equal(game.paddle, [0, 1, 2])
    game.step(numpy.array([0, 0, 2]))
    numpy.testing.assert_array_equal(game.paddle, [0, 0, 2])


@pytest.mark.parametrize(("size", "papers"), [(16, -0.75), (24, -0.83)])
def test_chance_is_the_papers(size, papers):
    rules = Rules(size=size)
    assert rules.chance == pytest.approx(papers, abs=0.005)
    game, rng = Catch(rules, games=4000), numpy.random.default_rng(0)
    game.reset(rng)
    while not game.over:
        rewards = game.step(numpy.ones(4000, int))  # stays where it is, which is anywhere
    assert rewards.mean() == pytest.approx(rules.chance, abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size: expected at least 2"),
        ({"paddle_width": 20}, "paddle_width: expected at most size, 16, got 20"),
        ({"paddle_start": "left"}, "paddle_start: expected one of center, random; got 'left'"),
        ({"visible": -1}, "visible: expected at least 0"),
        ({"visible": 17}, "visible: expected at most size, 16, got 17"),
    ],
)
def test_rules_that_make_no_game_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Rules(**options)


# ---------------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize("render_mode", [None, "rgb_array", "ansi"])
def test_the_environment_passes_gymnasiums_own_check(render_mode):
    check_env(gymnasium.make("fastweights_np/Catch-v0", size=6, visible=2, render_mode=render_mode).unwrapped)


def test_the_environment_plays_the_same_game():
    env = gymnasium.make("fastweights_np/Catch-v0", size=6, visible=2)
    seen, _ = env.reset(seed=3)
    game = Catch(Rules(6, 2), 1)
    game.reset(numpy.random.Generator(numpy.random.PCG64(numpy.random.SeedSequence(3))))
    numpy.testing.assert_array_equal(seen.reshape(1, -1), game.seen())
    for action in (0, 2, 2, 1, 0):
        seen, reward, over, _, _ = env.step(action)
        assert reward == game.step(numpy.array([action]))[0]
        assert over == game.over
        numpy.testing.assert_array_equal(seen.reshape(1, -1), game.seen())


def test_the_environment_draws_what_there_is():
    env = gymnasium.make("fastweights_np/Catch-v0", size=4, visible=1, render_mode="ansi")
    env.reset(seed=0)
    assert env.render().split("\n")[3] == ".##."
    env.step(1)
    assert env.render().split("\n")[3] == ".oo."
    with pytest.raises(ValueError, match="render_mode: expected None or one of rgb_array, ansi; got 'human'"):
        tasks.games.catch_environment.CatchEnvironment(render_mode="human")
    with pytest.raises(ValueError, match="action: expected 0, 1 or 2"):
        env.unwrapped.step(3)


# --------------------------------------------------------------------------------------------------------------- agents


def trained(folder, *options):
    assert main(["catch", *SMALL, *options, "--out", str(folder)]) == 0
    result = json.loads((folder / "result.json").read_text())
    return result, checkpoint.load(folder / "checkpoint.npz")[0]


def same(one, other):
    for name, leaf in flatten(one).items():
        numpy.testing.assert_array_equal(leaf, flatten(other)[name], err_msg=name)


@pytest.mark.parametrize("options", [["--layer", "fast_weights"], ["--layer", "lstm", "--steps", "2"]])
def test_one_actor_is_deterministic_and_plays_as_the_learner_alone_does(tmp_path, options):
    """A3C with one actor, in a process of its own, is A2C."""
    options = [*options, "--frames", "1000"]
    result, alone = trained(tmp_path / "a2c", *options, "--method", "a2c")
    again, one = trained(tmp_path / "a3c", *options, "--actors", "1")
    same(alone, one)
    assert result["curve"] == again["curve"]
    assert result["frames"] == 1056  # whole batches of 16 games of 6 frames
    assert result["updates"] == 11 * (1 if "fast_weights" in options else 3)


def test_it_learns(tmp_path, pictures):
    result, _ = trained(tmp_path / "run", "--frames", "60000", "--method", "a2c", "--learning-rate", "5e-3")
    assert result["chance"] == pytest.approx(-1 / 3)
    assert result["mean_reward"] > 0.5
    assert result["test_reward_greedy"] > 0.5
    for file in ("learning_curve.png", "episode.png", "episode.gif"):
        assert (tmp_path / "run" / file).stat().st_size > 0


def test_several_actors_share_what_they_learn(tmp_path, monkeypatch):
    names, make_name = [], SemLock._make_name
    monkeypatch.setattr(SemLock, "_make_name", staticmethod(lambda: names.append(make_name()) or names[-1]))
    result, arrays = trained(tmp_path / "run", "--frames", "40000", "--actors", "2", "--learning-rate", "5e-3")
    batches = arrays["counts"]["batches"]
    assert (batches > 0).all()
    assert result["frames"] == batches.sum() * 16 * 6 >= 40000
    assert result["curve"][-1]["mean_reward"] > result["chance"]
    gc.collect()
    left = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    ours = {f"sem.{name.removeprefix('/')}" for name in names}  # other programs may hold semaphores of their own
    assert names
    assert not [name for name in left if name in ours or name.startswith(f"pym-{os.getpid()}-")]


def started(folder, *options):
    command = [sys.executable, "-m", "tasks", "catch", *SMALL, "--checkpoint-every", "0.1", *options]
    process = subprocess.Popen(
        [*command, "--out", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 60
    while (
        not (folder / "checkpoint.npz").exists()
        or not checkpoint.load(folder / "checkpoint.npz")[0]["counts"]["batches"].all()
    ):
        assert time.monotonic() < limit, process.communicate()
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def children(process) -> list[int]:
    """Return the actors of a run: its children, except the one that multiprocessing keeps for itself."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="actors are found by /proc, which is Linux's")
def test_when_an_actor_is_killed_the_run_ends_with_a_good_checkpoint_and_goes_on(tmp_path, capfd):
    folder = tmp_path / "run"
    process = started(folder, "--actors", "2", "--frames", "100000000")
    actors = children(process)
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == runs.FAILED
    assert "ended by signal 9; the checkpoint holds" in said
    assert f"--resume {folder}" in said
    assert not any(map(lives, actors)), "no actor is left"
    arrays, info = checkpoint.load(folder / "checkpoint.npz")
    played = arrays["counts"]["batches"].sum() * 16 * 6
    # what was asked for is not reached in a test: a shorter run in its place
    settings = json.loads((folder / "settings.json").read_text()) | {"frames": int(played) + 5000}
    (folder / "settings.json").write_text(json.dumps(settings))
    checkpoint.save(
        folder / "checkpoint.npz", arrays, info | {"settings": info["settings"] | {"frames": settings["frames"]}}
    )
    assert main(["catch", "--resume", str(folder)]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["frames"] >= played + 5000


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(result, arrays) of a run that was not stopped; by A2C, which one actor of A3C equals."""
    return trained(tmp_path_factory.mktemp("straight") / "run", "--frames", "16000", "--method", "a2c")


@pytest.mark.parametrize("how", [["--method", "a2c"], ["--actors", "1"]])
def test_stopped_and_resumed_it_ends_as_the_run_that_was_not_stopped(straight, tmp_path, monkeypatch, how):
    play_on = catch._Training._play_on

    def stopping(training):
        going = play_on(training)
        if training.shared.frames():
            os.kill(os.getpid(), signal.SIGINT)
        return going

    with monkeypatch.context() as patched:
        patched.setattr(agents, "POLL", 0.01)
        patched.setattr(catch._Training, "_play_on", stopping)
        words = ["catch", *SMALL, "--frames", "16000", *how, "--out", str(tmp_path / "run")]
        assert main(words) == runs.INTERRUPTED
    assert main(["catch", "--resume", str(tmp_path / "run")]) == 0
    arrays, _ = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    result, expected = straight
    same(expected, arrays)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["curve"] == result["curve"]


def test_a_killed_run_leaves_no_actor(tmp_path):
    process = started(tmp_path / "run", "--actors", "2", "--frames", "100000000")
    actors = children(process)
    process.kill()  # perhaps while it writes a checkpoint, for which the actors wait
    limit = time.monotonic() + 20
    while any(map(lives, actors)):
        assert time.monotonic() < limit, "actors outlive the run"
        time.sleep(0.05)
    process.communicate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "a2c", "--actors", "2"], "actors: expected 1 for a2c, got 2"),
        (["--device", "cuda"], "device: expected cpu for a3c"),
        (["--frames", "0"], "frames: expected at least 1, got 0"),
        (["--discount", "1.5"], "discount: expected a number from 0 to 1, got 1.5"),
        (["--paddle-width", "9"], "paddle_width: expected at most size, 6, got 9"),
        (["--visible", "9"], "visible: expected at most size, 6, got 9"),
    ],
)
def test_bad_settings_say_what_is_wrong(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as ended:
        main(["catch", *SMALL, *options, "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_more_actors_than_the_machine_can_carry_are_refused(tmp_path, capsys):
    most = machine.MOST * machine.cores()
    assert main(["catch", *SMALL, "--actors", str(most + 1), "--out", str(tmp_path / "run")]) == 2
    assert f"actors: expected at most {most}, 16 for each of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", [["--actors", "2"], ["--method", "a2c"]])
@pytest.mark.parametrize("frames", ["100000", "1"])
def test_what_is_not_finite_is_told_and_never_saved(tmp_path, capsys, how, frames):
    """Within the run, or by its very last update."""
    options = ["--learning-rate", "1e30", "--clip-norm", "1e30", "--frames", frames, "--checkpoint-every", "0"]
    with numpy.errstate(all="ignore"):
        assert main(["catch", *SMALL, *options, *how, "--out", str(tmp_path / "run")]) == runs.DIVERGED
    said = capsys.readouterr().err
    assert "expected a finite number" in said or "expected finite" in said
    assert "lower --learning-rate" in said
    if (tmp_path / "run" / "checkpoint.npz").exists():
        arrays, _ = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
        assert all(numpy.isfinite(leaf).all() for leaf in flatten(arrays["params"]).values())
    assert not (tmp_path / "run" / "result.json").exists()


def test_ctrl_c_in_a_terminal_is_for_the_run_alone_even_while_actors_start(tmp_path):
    """It reaches all processes of the group; before the actors are there, and when they are."""
    for wait in (0.0, 0.3):
        folder = tmp_path / str(wait)
        command = [sys.executable, "-m", "tasks", "catch", *SMALL, "--actors", "2", "--frames", "100000000"]
        process = subprocess.Popen(
            [*command, "--out", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout.readline().startswith("catch: writing to")
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said
        assert process.returncode == runs.INTERRUPTED
        assert "interrupted" in said


def test_if_an_actor_cannot_be_started_all_end_at_once(tmp_path, monkeypatch, capsys):
    start, started_before = agents.multiprocessing.process.BaseProcess.start, []

    def fails_at_the_second(process):
        if started_before:
            raise BlockingIOError("no more processes")
        started_before.append(process)
        start(process)

    monkeypatch.setattr(agents.multiprocessing.process.BaseProcess, "start", fails_at_the_second)
    options = ["--actors", "2", "--frames", "100000000", "--out", str(tmp_path / "run")]
    assert main(["catch", *SMALL, *options]) == 2
    assert "no more processes" in capsys.readouterr().err
    assert started_before[0].exitcode == 0


def test_settings_that_are_left_open_stay_so(tmp_path):
    """So that another layer, method, or machine may fill them in; a search over layers is a case of it."""
    stored = catch.Settings(layer="fast_weights").as_json()
    assert (stored["recurrent_scale"], stored["actors"]) == (None, None)
    assert replace(catch.Settings(), layer="lstm", method="a2c").a3c_config().agent.layer == "lstm"
    assert catch.Settings().a3c_config().agent.init_options["recurrent_scale"] == 0.5
    assert catch.Settings(layer="irnn").a3c_config().agent.init_options["recurrent_scale"] == 0.9
    assert catch.Settings(layer="irnn", recurrent_scale=1.0).a3c_config().agent.init_options["recurrent_scale"] == 1.0


def test_a_run_whose_checkpoint_is_lost_is_not_begun_anew_by_resuming(tmp_path, capsys):
    result, _ = trained(tmp_path / "run", "--frames", "2000", "--method", "a2c")
    assert main(["catch", "--resume", str(tmp_path / "run")]) == 0
    again = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (again["seconds"], again["curve"]) == (result["seconds"], result["curve"]), "nothing was played"
    (tmp_path / "run" / "checkpoint.npz").unlink()
    assert main(["catch", "--resume", str(tmp_path / "run")]) == 2
    assert "checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("layer", ["fast_weights", "lstm"])
def test_the_smallest_game_and_the_shortest_run_have_all_their_files(layer, tmp_path, pictures):
    """With one decision an agent has nothing before it to attend to."""
    options = ["--size", "2", "--visible", "0", "--paddle-width", "1", "--games", "2", "--frames", "1"]
    words = ["catch", *options, "--method", "a2c", "--hidden-size", "4", "--layer", layer, "--out", str(tmp_path)]
    assert main(words) == 0
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["frames"] == 1
    assert (tmp_path / "episode.png").stat().st_size > 0


def test_the_last_tenth_equals_the_runs(tmp_path):
    settings = catch.Settings(size=6, hidden_size=8, games=10, frames=6000, method="a2c")
    training = catch._Training(settings, settings.a3c_config(), tmp_path)
    sums = training.shared.sums[0]
    sums[:90, 0], sums[90:, 0], sums[:, -1] = -1.0, 0.5, 1.0
    sums[95] = 3 * sums[95]  # three batches began in it
    assert training.last_reward() == pytest.approx(0.5)
    sums[90:] = 0
    assert training.last_reward() == -1.0, "no game began in the last tenth"


def test_a_search_over_agents_prefers_more_reward(tmp_path, undrawn):
    options = ["search", "catch", "--grid", "learning_rate=0.0,5e-3", *SMALL, "--frames", "5000", "--method", "a2c"]
    options += ["--jobs", "2"]
    assert main([*options, "--out", str(tmp_path / "search")]) == 0
    found = json.loads((tmp_path / "search" / "search.json").read_text())
    assert found["best"]["learning_rate"] == 5e-3
    assert found["best"]["mean_reward"] == max(trial["mean_reward"] for trial in found["trials"])
    for trial in found["trials"]:
        result = json.loads((tmp_path / "search" / trial["folder"] / "result.json").read_text())
        assert trial["frames_to_learn"] == result["frames_to_learn"] == catch.frames_to_learn(result["curve"])


def test_an_agent_has_learned_when_its_mean_reward_first_is_0_9():
    curve = [{"frames": 100 * n, "mean_reward": reward} for n, reward in enumerate((-0.5, 0.89, 0.9, 0.2, 0.95))]
    assert catch.frames_to_learn(curve) == 200
    assert catch.frames_to_learn(curve[:2]) is None


def test_the_shared_state_refuses_what_belongs_to_another_run(tmp_path):
    config = catch.Settings(size=6, hidden_size=8, actors=1, frames=100).a3c_config()
    shared = agents.SharedState(config, 1)
    other = agents.SharedState(replace(config, agent=replace(config.agent, hidden_size=9)), 1)
    with pytest.raises(ValueError, match=r"params/layer/W: expected float32 of shape \(8, 8\).*got .*\(9, 9\)"):
        shared.load(tmp_path, other.arrays())


def test_no_metrics_are_written_before_the_first_checkpoint(tmp_path, monkeypatch):
    """A run that is killed between the two would seem to have lost its checkpoint."""
    folder, seen, write = tmp_path / "run", [], catch.files.write_text

    def write_text(path, text):
        if Path(path).name == "metrics.jsonl":
            seen.append((folder / "checkpoint.npz").exists())
        write(path, text)

    monkeypatch.setattr(catch.files, "write_text", write_text)
    options = ["--frames", "4000", "--method", "a2c", "--checkpoint-every", "1e9"]
    assert main(["catch", *SMALL, *options, "--out", str(folder)]) == 0
    assert seen
    assert all(seen)
