"""The explorer: the numbers that its page shows, who may open it, and the page as a user drives it in a browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fastweights_np import checkpoint
from tasks import asking
from tasks.__main__ import main
from tasks.exploring import command, drawing, networks, server, views
from tests.small import options

ROOT = Path(__file__).parents[1]
TEXT = "c9k8j3f1??c"


@pytest.fixture(scope="module")
def shipped():
    return networks.load(networks.SHIPPED)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The network of the smallest run of each task."""
    made = {}
    for task in ("retrieval", "mnist", "catch"):
        folder = tmp_path_factory.mktemp(task)
        run = folder / "run"
        assert main([*options(task, folder), "--out", str(run)]) == 0
        made[task] = networks.load(run)
    return made


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("options", [{}, {"decay": 0.0}, {"decay": 1.0, "rate": 0.3, "inner_steps": 3}])
@pytest.mark.parametrize("task", ["shipped", "retrieval", "mnist", "catch"])
def test_the_writes_add_up_to_a_and_the_scores_to_what_is_read(task, options, shipped, small):
    """Equations (1), (3) and (4)."""
    network = shipped if task == "shipped" else small[task]
    trace = network.trial(network.first, **options).trace
    A = np.zeros_like(trace.matrix(0))
    for n, writer in enumerate(trace.writers, 1):
        A = trace.decay * A + trace.rate * np.outer(trace.h[writer], trace.h[writer])
        np.testing.assert_allclose(trace.matrix(n), A, rtol=0, atol=1e-5 * trace.largest)
        total = sum(trace.term(n, k) for k in range(1, n + 1))
        np.testing.assert_allclose(total, A, rtol=0, atol=1e-5 * trace.largest)
        assert [trace.left(n, k) for k in (n, 1)] == pytest.approx([1, trace.decay ** (n - 1)])
    assert trace.largest == pytest.approx(max(abs(trace.matrix(n)).max() for n in range(len(trace.writers) + 1)))
    for t in range(len(trace.h)):
        n = trace.written_before[t]
        for s in range(trace.reads(t)):
            stored = trace.h[trace.writers[:n]]
            remembered = trace.remembered(t, s)
            np.testing.assert_allclose(trace.scores(t, s) @ stored, remembered, rtol=0, atol=1e-4 * trace.largest)
            np.testing.assert_allclose(trace.matrix(n) @ trace.state(t, s), remembered, rtol=0, atol=1e-4)
        if trace.reads(t):
            np.testing.assert_array_equal(trace.state(t, trace.reads(t)), trace.h[t])
            np.testing.assert_array_equal(trace.state(t, 0), np.maximum(trace.preactivation(t), 0))  # (2a)


def test_the_answer_is_the_one_of_ask(shipped):
    for text in (TEXT, "a1??a", "q8c9m8o2z0??o"):
        expected = asking.probabilities(networks.SHIPPED, text)
        np.testing.assert_array_equal(shipped.trial(text).probabilities, expected)


def test_the_shipped_network_answers_and_needs_its_memory(shipped):
    trial = shipped.trial(TEXT)
    assert (trial.label, trial.probabilities.argmax(), trial.trace.writers) == (9, 9, list(range(11)))
    assert trial.probabilities.max() > 0.99
    for without in ({"decay": 0.0}, {"rate": 0.0}, {"inner_steps": 0}):
        assert shipped.trial(TEXT, **without).probabilities[9] < 0.5, without
    strings = [shipped.another(seed) for seed in range(50)]
    assert sum(shipped.trial(text).probabilities.argmax() == shipped.trial(text).label for text in strings) >= 49


def test_the_shipped_run_says_how_it_was_made_and_is_small():
    result = json.loads((networks.SHIPPED / "result.json").read_text())
    assert result["command"] == "python -m tasks retrieval --out examples/models/retrieval-R50"
    assert result["test_error"] < 0.001
    assert not result["commit"].endswith("+changes")
    assert sum(file.stat().st_size for file in networks.SHIPPED.iterdir()) < 400_000


def test_a_digit_is_the_one_that_was_asked_for(small):
    network, seen = small["mnist"], set()
    for name, count in network.counts.items():
        for number in range(1, count + 1):
            trial = network.trial((name, number))
            assert network.classes[trial.label] == name
            seen.add(network.image((name, number)).tobytes())
        with pytest.raises(
            ValueError, match=f"number: expected 1 to {count}, the test images of {name}, got {count + 1}"
        ):
            network.steps((name, count + 1))
    assert len(seen) == sum(network.counts.values()) == 10, "each image once"
    assert all(network.steps(network.another(seed)) == 24 for seed in range(5))
    trace = trial.trace
    assert [t for t in range(24) if trace.stores[t]] == [0, 6, 12, 18]
    assert [t for t in range(24) if trace.reads(t)] == [5, 11, 17, 23]
    assert trial.inputs.shape == (24, 7, 7)


def test_a_game_is_played_to_its_end(small):
    network = small["catch"]
    for seed in (0, 1, 2):
        trial = network.trial(seed)
        assert trial.inputs.shape == (5, 6, 6)
        assert trial.probabilities.shape == (5, 3)
        assert trial.outcome in ("caught the ball", "missed the ball")
        assert {round(float(value), 2) for value in np.unique(trial.inputs[2:])} == {0, network.HIDDEN}
        np.testing.assert_array_equal(trial.probabilities, network.trial(seed).probabilities)


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("task", ["shipped", "retrieval", "mnist", "catch"])
def test_every_step_of_every_task_is_drawn(task, shipped, small):
    network = shipped if task == "shipped" else small[task]
    trained = network.trial(network.first)
    units = views.sorted_units(trained)
    assert sorted(units) == list(range(len(units)))
    for steps in (1, 3):
        trial = network.trial(network.first, inner_steps=steps)
        for t in range(len(trial.trace.h)):
            for s in range(max(trial.trace.reads(t), 1)):
                drawn = views.timeline(trial, t, s, units) + views.one_read(trial, t, s, units)
                drawn += views.matrices(trial, t, units) + views.answer(network, trial, trained, t)
                assert drawn.count("<section") == drawn.count("</section>") == 4
    assert network.run.name in views.heading(network)


def test_without_reads_nothing_is_attended(shipped):
    trial = shipped.trial(TEXT, inner_steps=0)
    assert "step 10 attends to nothing, because it does not read A" in views.timeline(trial, 10, 0, np.arange(50))
    assert "step 0 attends to nothing, because A is still zero" in views.timeline(
        shipped.trial(TEXT), 0, 0, np.arange(50)
    )


def test_what_a_user_types_is_escaped():
    drawn = views.error("<script>alert(1)</script> <img src=x onerror=alert(1)>")
    assert drawn.count("<") == 2, "the element of the message itself"


def test_colours_diverge_around_zero():
    colours = drawing.coloured(np.array([-2.0, -1, -0.5, 0, 0.5, 1, 2]), 1.0).astype(int)
    assert colours[3].tolist() == [255, 255, 255]
    assert (colours[:3, 2] > colours[:3, 0]).all(), "negative: blue"
    assert (colours[4:, 0] > colours[4:, 2]).all(), "positive: orange"
    assert colours[0].tolist() == colours[1].tolist()
    assert colours[5].tolist() == colours[6].tolist()


def test_formulas_are_html():
    assert drawing.math("h_s+1(t) λ^(t−τ) <") == (
        '<span class="fw-math">h<sub>s+1</sub>(t) λ<sup>t−τ</sup> &lt;</span>'
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "run: expected the output folder of a run, with settings.json, got "),
        ({"layer": "lstm"}, "run: expected a layer with fast weights, fast_weights or multilevel, got 'lstm' in "),
        ({"task": "chess"}, "run: expected a run of retrieval, mnist, faces or catch, got task 'chess' in "),
        ({"task": "catch"}, "run: expected a run of catch, got "),
    ],
)
def test_a_run_that_cannot_be_shown_is_refused(change, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "NEEDED", ())
    if change is not None:
        shutil.copytree(networks.SHIPPED, tmp_path, dirs_exist_ok=True)
        stored = json.loads((tmp_path / "settings.json").read_text())
        (tmp_path / "settings.json").write_text(json.dumps(stored | change))
    assert main(["explore", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"tasks: {words}")
    assert str(tmp_path) in said


def test_an_unfinished_run_has_a_note(tmp_path, shipped):
    assert shipped.note == ""
    shutil.copytree(networks.SHIPPED, tmp_path, dirs_exist_ok=True)
    arrays, info = checkpoint.load(tmp_path / "checkpoint.npz")
    checkpoint.save(tmp_path / "checkpoint.npz", arrays, info | {"curve": info["curve"][:3]})
    assert "the run is not finished (epoch 3 of 20)" in views.heading(networks.load(tmp_path))


def test_a_missing_marimo_is_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "NEEDED", ("no_such_package",))
    assert main(["explore"]) == 2
    assert capsys.readouterr().err == 'tasks: no_such_package is not installed; pip install -e ".[explore]"\n'


# --------------------------------------------------------------------------------------------------- this machine alone


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:80", None, True), ("localhost:80", None, True),
        ("localhost:80", "http://localhost:80", True),
        ("evil.example:80", None, False), ("", None, False), ("127.0.0.1.evil.example:80", None, False),
        ("localhost:80", "http://evil.example", False), ("localhost:80", "http://localhost:81", False),
        ("localhost:80", "null", False), ("evil.example:80", "http://evil.example:80", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_other_hosts_and_origins_are_refused(kind, host, origin, allowed):
    sent = []

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    given = {"host": host, "origin": origin}
    headers = [(name.encode(), value.encode()) for name, value in given.items() if value is not None]
    asyncio.run(server.local_only(page)({"type": kind, "headers": headers}, None, send))
    if allowed:
        assert sent[0]["status"] == 200
        assert dict(sent[0]["headers"])[b"content-security-policy"].startswith(b"default-src 'self'")
    elif kind == "http":
        assert sent[0]["status"] == 403
    else:
        assert sent == [{"type": "websocket.close", "code": 1008}]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LACKING = [name for name in ("marimo", "uvicorn", "playwright") if find_spec(name) is None]
LACKING += [] if CHROMIUM else ["chromium"]
needs_marimo = pytest.mark.skipif(find_spec("marimo") is None, reason="needs marimo")


@contextmanager
def explorer(folder: Path):
    """Start `python -m tasks explore`, and yield its address. Stop it by Ctrl-C."""
    words = [sys.executable, "-m", "tasks", "explore", "--no-browser"]
    environment = os.environ | dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(folder))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, **pipes)
    try:
        yield re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


@needs_marimo
def test_the_server_answers_this_machine_alone(tmp_path):
    with explorer(tmp_path) as url:
        with urllib.request.urlopen(url, timeout=30) as answered:
            assert answered.status == 200
            assert "frame-ancestors 'none'" in answered.headers["content-security-policy"]
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30)
        port = url.rpartition(":")[2].strip("/")
        done = subprocess.run(
            [sys.executable, "-m", "tasks", "explore", "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"tasks: port: expected a free one of 127.0.0.1, got {port}: ")


@pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_user_types_a_string_moves_the_sliders_and_sees_the_answer_change(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # milliseconds; a busy machine needs seconds
    with explorer(tmp_path) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(60_000)
        elsewhere, failed, dialogs = [], [], []
        page.on("request", lambda request: elsewhere.append(request.url))
        page.on("websocket", lambda socket: elsewhere.append(socket.url.replace("ws:", "http:")))
        page.on("requestfailed", lambda request: failed.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(url)
        answer, box = page.locator(".fw-big"), page.get_by_role("textbox")
        expect(answer).to_have_text("9")

        box.fill("t5b7x2??b")
        expect(answer).to_have_text("7")
        expect(page.get_by_text("What step 8 attends to")).to_be_visible()

        def slide(name, key):
            slider = page.get_by_role("slider", name=name)
            slider.focus()
            slider.press(key)

        slide("time step t", "Home")
        expect(page.get_by_text("What step 0 attends to")).to_be_visible()
        slide("time step t", "ArrowRight")
        expect(page.get_by_text("What step 1 attends to")).to_be_visible()
        expect(answer).to_have_text("7")
        slide("S, reads", "ArrowRight")
        expect(page.get_by_text("Read 1 of 2")).to_be_visible()
        slide("inner step s", "ArrowRight")
        expect(page.get_by_text("Read 2 of 2")).to_be_visible()
        page.get_by_role("button", name="As trained").click()
        expect(page.get_by_text("Read 1 of 1")).to_be_visible()

        slide("λ, decay", "Home")
        expect(page.get_by_text("Wrong. The right answer is 7.")).to_be_visible()
        slide("λ, decay", "End")
        expect(page.get_by_text("This is right.")).to_be_visible()

        error = page.locator(".fw-error")
        for bad in ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a1b2??c", "a1"):
            box.fill(bad)
            with pytest.raises(ValueError, match="ask: ") as refused:
                asking.tokens_of(bad)
            expect(error).to_have_text(str(refused.value))
            assert error.locator("*").count() == 0
            expect(answer).to_have_count(0)
        for width, height, text, value in ((1280, 800, TEXT, "9"), (390, 844, "t5b7x2??b", "7")):
            page.set_viewport_size({"width": width, "height": height})
            box.fill(text)
            expect(answer).to_have_text(value)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
        assert not dialogs
        assert not failed
        assert {each for each in elsewhere if not each.startswith((url, "data:", "blob:"))} == set()
