"""The report of runs: its figures, references, escapes and errors, and the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bench import references, store
from bench.published import TABLE_1
from tasks import catch, faces, fast_slow, keyvalue, longrecall, mnist, mqar, retrieval, text
from tasks.__main__ import TASKS, main
from tasks.reporting import charts, markup
from tasks.reporting.cells import cells
from tasks.reporting.measures import MEASURES, References
from tasks.reporting.reading import Run
from tests.small import SEQUENCES, options

SETTINGS = {
    each.Settings.task: each.Settings
    for each in (retrieval, mnist, faces, catch, keyvalue, mqar, longrecall, text, fast_slow)
}  # fmt: skip
KINDS_OF_DAMAGE = {
    "settings.json": ("{", "expected the settings of a run"),
    "result.json": ('{"task": "retrieval", "curve": []}', "test_error: expected a finite number, got None"),
    "metrics.jsonl": ('{"update": 1}\n', "evaluation 1: epoch: expected a finite number, got None"),
    "attention.png": ("no picture", "expected a picture, PNG or GIF"),
    "search.json": (
        '{"task": "chess"}',
        "task: expected one of retrieval, mnist, faces, catch, keyvalue, mqar, longrecall, text, fast_slow, "
        "got 'chess'",
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a tiny run with R = 20, which is in table 1."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    size = ["--hidden-size", "20", "--batch-size", "8", "--epochs", "2"]
    assert main(["retrieval", *SEQUENCES, *size, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the tiny run, to change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def report(folder: Path, *runs: Path) -> str:
    """The page of these runs."""
    path = folder / "report.html"
    assert main(["report", *map(str, runs), "--out", str(path)]) == 0
    return path.read_text(encoding="utf-8")


def words(page: str) -> str:
    """The text of a page, without its tags."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def a_run(**settings) -> Run:
    return Run(Path("run"), retrieval.Settings(**settings), {}, None, [], [])


# -------------------------------------------------------------------------------------------------------------- content


def test_a_report_has_the_result_the_papers_number_and_what_differs_and_names_no_address(finished, tmp_path):
    page = report(tmp_path, finished)
    text, result = words(page), json.loads((finished / "result.json").read_text())
    assert f"test error {100 * result['test_error']:.3f} %" in text
    assert f"paper, table 1 {TABLE_1['fast_weights'][20]:.2f} %" in text
    assert "training_size 24 100,000 Number of training sequences." in text
    assert result["command"] in text.replace("&#x27;", "'")
    assert result["commit"] in text
    assert "http:" not in page
    assert "https:" not in page
    assert "#000000" not in page, "black text and lines cannot be read on dark"
    assert page.count("data:image/png") == 1, "attention.png, but not learning_curve.png, which the page draws itself"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_report_of_its_finished_and_unfinished_runs(task, tmp_path):
    folder = tmp_path / "run"
    assert main([*options(task, tmp_path), "--out", str(folder)]) == 0
    measure, result = MEASURES[task], json.loads((folder / "result.json").read_text())
    text = words(report(tmp_path, folder))
    assert f"{measure.title} {measure.text(measure.of(result))}" in text
    assert measure.loss == "validation_nll" or "nats" not in text
    (folder / "result.json").unlink()
    (tmp_path / "report.html").unlink()
    text = words(report(tmp_path, folder))
    assert "Not finished" in text
    assert re.search(r"progress (2 of 2 (epochs|tasks)|\d+ of 960 frames)", text)


def test_a_run_that_was_stopped_before_its_first_evaluation_has_a_report(copy, tmp_path):
    for name in ("result.json", "metrics.jsonl"):
        (copy / name).unlink()
    text = words(report(tmp_path, copy))
    assert "progress 0 of 2 epochs" in text
    assert "No run has a curve yet." in text


def test_several_runs_share_the_charts_and_name_what_differs(finished, copy, tmp_path):
    for name in ("settings.json", "result.json"):
        stored = json.loads((copy / name).read_text())
        stored.get("settings", stored)["rate"] = 0.25
        (copy / name).write_text(json.dumps(stored))
    page = report(tmp_path, finished, copy)
    assert page.count('aria-label="Validation error (%)"') == 1
    text = words(page)
    assert "What differs between the runs runs rate" in text
    assert "Fast weights, R = 20, rate 0.1" in text
    assert "Fast weights, R = 20, rate 0.25" in text


def test_a_search_lists_its_trials_best_first(tmp_path):
    trials = [
        {"number": n, "state": "COMPLETE", "rate": rate, "validation_nll": nll}
        for n, rate, nll in ((0, 0.1, 0.5), (1, 0.2, None), (2, 0.3, 0.25))
    ]
    found = {"task": "retrieval", "settings": {}, "space": {"rate": [0.1, 0.2, 0.3]}, "trials": trials, "left": 1}
    (tmp_path / "search.json").write_text(json.dumps(found))
    text = words(report(tmp_path, tmp_path))
    assert "2 0.3 0.2500 0 0.1 0.5000 1 0.2 diverged" in text
    assert "1 settings are left" in text


# ----------------------------------------------------------------------------------------------------------- references


def test_the_references_of_a_run_are_the_stored_runs_of_its_settings_and_the_papers_cell():
    found = references.of(retrieval.Settings(seed=7))
    stored = {run["settings"]["seed"]: 100 * run["test_error"] for run in store.load("retrieval")
              if run["settings"]["layer"] == "fast_weights" and run["settings"]["hidden_size"] == 50}  # fmt: skip
    assert found.same is not None
    assert found.same.figures == stored
    assert found.table is None, "the table's runs have these settings"
    assert found.paper is not None
    assert found.paper.figure == TABLE_1["fast_weights"][50]


def test_stored_runs_with_other_settings_name_them_and_another_network_is_not_in_the_paper():
    longer = references.of(retrieval.Settings(epochs=21))
    assert longer.same is None
    assert longer.table is not None
    assert "with epochs 20 instead of 21" in longer.table.note
    assert longer.paper is not None
    for other in ({"layer_norm": False}, {"rate": 0.0}, {"pairs": 8}, {"hidden_size": 30}):
        assert references.of(retrieval.Settings(**other)).paper is None, other
    assert references.of(mnist.Settings(wipe=False)).paper is None
    assert references.of(retrieval.Settings(pairs=8)).table is None
    theirs = references.of(keyvalue.Settings(layer="delta", feature_map="dpfp-1", repeat=True, keys=200)).paper
    assert theirs.text == "0.1709"
    for other in ({"decay": 0.99}, {"hidden_size": 32}, {"keys": 21}):
        assert references.of(keyvalue.Settings(**other)).paper is None, other


@pytest.mark.parametrize(
    ("settings", "text"),
    [(mnist.Settings(layer="lstm"), "12.00 %"), (faces.Settings(layer="lstm"), "81.32 %"), (catch.Settings(), "0.99")],
)
def test_every_task_has_its_number_of_the_paper(settings, text):
    paper = references.of(settings).paper
    assert paper is not None
    assert paper.text == text


def test_every_task_has_a_measure():
    assert set(MEASURES) == set(TASKS) == set(SETTINGS)


# ---------------------------------------------------------------------------------------------------------------- cells


def test_runs_that_differ_in_the_seed_alone_are_one_cell_and_no_two_cells_look_the_same():
    runs = [a_run(seed=seed, rate=rate) for rate in (0.1, 0.2) for seed in (0, 1)] + [a_run(layer="lstm")]
    (found,) = cells(runs, lambda _: References()).values()
    assert [len(cell.runs) for cell in found] == [2, 2, 1]
    assert [cell.look.label for cell in found] == [
        "Fast weights, R = 50, rate 0.1", "Fast weights, R = 50, rate 0.2", "LSTM, R = 50"
    ]  # fmt: skip
    many = charts.looks([(str(n), "lstm") for n in range(2 * len(charts.DASHES))])
    assert len({(look.dashes, look.opacity) for look in many}) == len(many)


# -------------------------------------------------------------------------------------------------------------- escapes


def test_text_of_runs_is_escaped(finished, tmp_path):
    folder = tmp_path / "<script>alert(1)<" / "script>"
    shutil.copytree(finished, folder)
    for name in ("settings.json", "result.json"):
        stored = json.loads((folder / name).read_text())
        stored["command"] = "<script>alert(2)</script>"
        stored.get("settings", stored)["initial"] = "<img src=x onerror=alert(3)>"
        (folder / name).write_text(json.dumps(stored))
    page = report(tmp_path, folder)
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert "&lt;img src=x onerror=alert(3)&gt;" in page
    assert "<script" not in page
    assert "<img src=x" not in page


def test_tags_escape_text_and_attributes_but_no_html():
    inside = markup.tag("b", "a<b", title='"&')
    assert inside == '<b title="&quot;&amp;">a&lt;b</b>'
    assert (
        markup.tag("p", inside, None, "&", class_="x", hidden=True, id=None) == f'<p class="x" hidden>{inside}&amp;</p>'
    )


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", KINDS_OF_DAMAGE)
def test_a_damaged_folder_is_refused_with_the_file_and_the_cause(name, copy, tmp_path, capsys):
    content, cause = KINDS_OF_DAMAGE[name]
    if name == "metrics.jsonl":
        (copy / "result.json").unlink()
    (copy / name).write_text(content)
    capsys.readouterr()
    assert main(["report", str(copy), "--out", str(tmp_path / "report.html")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tasks: runs: expected ")
    assert said.count("\n") == 1
    assert str(copy / name) in said
    assert cause in said
    assert not (tmp_path / "report.html").exists()


def test_what_is_no_run_and_a_file_that_exists_are_refused(finished, tmp_path, capsys):
    (tmp_path / "old.html").write_text("old")
    (tmp_path / "empty").mkdir()
    for words_, message in (
        ([tmp_path / "empty"], "which holds no settings.json"),
        ([finished / "result.json"], "which is a file; name its folder"),
        ([tmp_path / "none"], "which does not exist"),
        ([finished, finished], "expected different folders"),
        ([finished, "--out", tmp_path / "old.html"], "which exists; delete it or choose another --out"),
        ([finished, "--out", tmp_path / "new.txt"], "expected a file that ends in .html"),
    ):
        capsys.readouterr()
        assert main(["report", *map(str, words_)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert (tmp_path / "old.html").read_text() == "old"


def test_without_out_a_new_file_is_written_to_runs(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda text, *_: text.replace("%Y%m%d-%H%M%S", "now"))
    for name in ("report-now.html", "report-now-2.html"):
        assert main(["report", str(finished)]) == 0
        assert capsys.readouterr().out.startswith(f"report: runs/{name} (")
        assert (tmp_path / "runs" / name).is_file()


# -------------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason='needs Playwright: pip install -e ".[browser]"')
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium, which is not installed")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", *quiet])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen_shows_its_curves_and_requests_nothing(
    width, browser, finished, copy, tmp_path, pictures
):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    Image.new("RGB", (1500, 40)).save(copy / "attention.png")
    copy.rename(folder)
    report(tmp_path, folder, *([finished] if width == 390 else []))
    page = browser.new_page(viewport={"width": width, "height": 844}, is_mobile=width == 390)
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "report.html").as_uri())
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert not problems
    for summary in page.locator("summary").all():
        summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
    chart = page.get_by_role("img", name="Validation error (%)")
    box = chart.bounding_box()
    assert box["width"] > 250
    assert box["height"] > 120
    assert chart.get_by_text("updates").is_visible()
    drawn = chart.locator("g[id*=line2d] > path[style*='stroke: #d55e00']")
    assert drawn.count() == (2 if width == 390 else 1)
    assert all(line.bounding_box()["width"] > 50 for line in drawn.all())
    page.close()


def test_text_is_light_on_dark_if_the_reader_prefers_it(browser, finished, tmp_path):
    report(tmp_path, finished)
    shades = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((tmp_path / "report.html").as_uri())
        inks = "[...document.querySelectorAll('h1, .chart text')].map(each => [getComputedStyle(each)"
        inks = f"{inks}[each.tagName == 'H1' ? 'color' : 'fill'], getComputedStyle(document.body).backgroundColor])"
        shades[scheme] = {tuple(map(brightness, pair)) for pair in page.evaluate(inks)}
        page.close()
    assert all(ink < 60 and ground > 200 for ink, ground in shades["light"])
    assert all(ink > 200 and ground < 60 for ink, ground in shades["dark"])


def brightness(colour: str) -> float:
    """The mean of red, green and blue of a computed colour."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
