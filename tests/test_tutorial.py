"""The tutorial: its chapters run and print what they show, and its page needs no network and fits a telephone."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from bench.capacity import error_of_random_codes
from tasks.__main__ import main
from tasks.teaching import chapters, command, page

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
ROUNDING = 1e-12  # differences below it are rounding errors, which depend on the machine
CHROMIUM = os.environ.get("CHROMIUM") or which("chromium") or which("google-chrome")


def agrees(printed: str, shown: str) -> bool:
    """Return whether two texts are equal, except that numbers may differ by 1 in their last place, or by rounding."""

    def number(text: str) -> tuple[float, float]:
        digits, _, exponent = text.partition("e")
        return float(text), 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))

    pairs = list(zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=False))
    same = NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    for (got, _), (expected, place) in ((number(one), number(other)) for one, other in pairs):
        same &= abs(got - expected) <= 1.001 * place or max(abs(got), abs(expected)) < ROUNDING
    return same


@pytest.fixture(scope="module")
def ran() -> dict[str, list[chapters.Block]]:
    """Return the blocks of each chapter after one run."""
    return {path.stem: list(chapters.run(path)) for path in chapters.paths()}


@pytest.fixture(scope="module")
def written(ran, tmp_path_factory) -> Path:
    """Return the page of these runs."""
    out = tmp_path_factory.mktemp("tutorial") / "tutorial.html"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chapters, "run", lambda path: ran[path.stem])
        assert command.main(["--out", str(out)], "tutorial") == 0
    return out


# ------------------------------------------------------------------------------------------------------------ chapters


@pytest.mark.parametrize("path", chapters.paths(), ids=lambda path: path.stem)
def test_a_chapter_prints_what_it_shows(path, ran):
    assert ran[path.stem]
    for block in ran[path.stem]:
        assert agrees(block.printed, block.shown), "run python -m tasks tutorial --store"


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a 1.23", "a 1.22", True), ("a 1.23", "a 1.21", False), ("b 1.23", "a 1.23", False), ("7 %", "9 %", False),
        ("4e-16", "2e-15", True), ("4e-16", "2e-01", False), ("nan", "1", False), ("1 2", "1", False), ("1", "", False),
    ],
)  # fmt: skip
def test_what_counts_as_the_same_output(printed, shown, same):
    assert agrees(printed, shown) is same


def lines(ran, chapter: str) -> list[list[str]]:
    """Return the words of all lines that a chapter prints."""
    return [line.split() for block in ran[chapter] for line in block.printed.splitlines()]


def test_half_lives_in_the_prose(ran):
    text, table = (chapters.FOLDER / "2-attention.md").read_text(), lines(ran, "2-attention")
    half_life = {row[0]: row[1] for row in table if len(row) == 4 and row[0].startswith("0.")}
    kept = [int(row[-1]) for row in table if row[:2] == ["λ", "="]]
    assert f"With λ = 0.9 a state loses half its weight every {half_life['0.90']} steps" in text
    ages = [f"0 to {count - 1}" for count in kept]
    assert f"These are the ages {ages[0]}, {ages[1]} and {ages[2]}." in text
    three = [half_life[decay] for decay in ("0.80", "0.90", "0.95")]
    assert f"are {three[0]}, {three[1]}\nand {three[2]}" in text or "are {}, {} and {}".format(*three) in text
    assert [int(float(each)) + 1 for each in three] == kept


def test_only_the_right_line_for_the_gradient_passes_the_check(ran):
    verdicts = [" ".join(row) for row in lines(ran, "4-gradient")]
    assert [verdict.endswith(": right") for verdict in verdicts] == [False, True, False, False, False]
    assert all(verdict.endswith((": right", ": not yet")) for verdict in verdicts)


def test_a_reader_who_writes_the_line_passes(tmp_path, monkeypatch, capsys):
    chapter = chapters.FOLDER / "4-gradient.md"
    text = chapter.read_text().replace("return np.zeros_like(dA)", "return np.outer(r, q) + decay * dA")
    for number in range(1, 4):
        (tmp_path / f"{number}-other.md").write_text("")
    (tmp_path / chapter.name).write_text(text)
    monkeypatch.setattr(chapters, "FOLDER", tmp_path)
    assert main(["tutorial", "4"]) == 0
    assert re.match(r"relative error \de-1\d: right\n", capsys.readouterr().out)
    (tmp_path / chapter.name).write_text(text.replace("np.outer(r, q)", "np.outer(r)"))
    assert main(["tutorial", "4"]) == 1
    said = capsys.readouterr().err
    line = 1 + text.splitlines().index("    return np.outer(r, q) + decay * dA  # replace this line")
    assert f'4-gradient.md", line {line}' in said
    assert "TypeError" in said


def test_capacity_in_the_prose_equals_that_of_random_codes(ran):
    """The chapter's memory is the one of bench/capacity.py."""
    rows = [row for row in lines(ran, "5-capacity") if len(row) == 6 and row[-1] == "%"]
    assert len(rows) == 6
    for size, pairs, expected, ratio, error, _ in rows:
        assert float(ratio) == pytest.approx(float(expected), rel=0.03)
        assert float(error) == pytest.approx(error_of_random_codes(int(size), int(pairs)), abs=0.5)
    held = {int(row[2][:-1]): int(row[3]) for row in lines(ran, "5-capacity") if row[:2] == ["H", "="]}
    assert set(held) == {20, 50, 100}
    assert all(0.3 * size < pairs < 0.5 * size for size, pairs in held.items())
    text = (chapters.FOLDER / "5-capacity.md").read_text()
    assert "So the memory holds about 0.4 $`H`$ random pairs." in text
    by_decay = {row[2]: row[3:] for row in lines(ran, "5-capacity") if row[:2] == ["λ", "="]}
    assert (
        f"With λ = 0.97 the error is {by_decay['0.97'][1]} % at age 5, and\n{by_decay['0.97'][3]} % at age 60" in text
    )


def test_no_chapter_takes_longer_than_five_minutes_to_read():
    for path in chapters.paths():
        words = re.sub(r"^```.*?^```|^\|.*?$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE).split()
        assert len(words) < 900, path.name


def test_store_writes_output_and_figure_and_a_second_time_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "FOLDER", tmp_path)
    path = tmp_path / "1-a.md"
    (tmp_path / "figures").mkdir()
    code = "import matplotlib.pyplot as plt\nprint(1 + 1)\nplt.plot([0, 1])\n"
    path.write_text(f"# A\n\n```python\n{code}```\n\n![a line](figures/1.svg)\n\nText.\n")
    assert main(["tutorial", "--store"]) == 0
    first, figure = path.read_text(), (tmp_path / "figures" / "1.svg").read_bytes()
    assert first == f"# A\n\n```python\n{code}```\n\n```text\n2\n```\n\n![a line](figures/1.svg)\n\nText.\n"
    assert main(["tutorial", "--store"]) == 0
    assert (path.read_text(), (tmp_path / "figures" / "1.svg").read_bytes()) == (first, figure)


@pytest.mark.parametrize("code", ["import matplotlib.pyplot as plt\nplt.plot([0, 1])\n", "\n\n![](a.svg)\n"])
def test_a_figure_without_a_name_or_a_name_without_a_figure_is_refused(code, tmp_path):
    path = tmp_path / "1-a.md"
    block, _, name = code.partition("\n\n")
    path.write_text(f"```python\n{block}\n```\n\n{name}")
    with pytest.raises(ValueError, match=r"1-a.md:1: expected a figure after the block that draws it"):
        list(chapters.run(path))


def test_a_page_that_cannot_be_written_is_one_sentence(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "page", lambda *_: "")
    (tmp_path / "file").write_text("")
    assert main(["tutorial", "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert capsys.readouterr().err.startswith("tasks: out: expected files that can be written: ")


def test_without_its_packages_the_tutorial_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "latex2mathml", None)
    assert main(["tutorial"]) == 2
    assert 'pip install -e ".[tutorial]"' in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- page


class _Page(HTMLParser):
    """The elements of a page: names, addresses that they load or lead to, and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.append(tag)
        self.ids.add(given.get("id") or "")
        self.loads.append(given.get("src") or "")
        self.leads.append(given.get("href") or "" if tag == "a" else "")
        assert tag not in ("script", "link", "iframe", "object")


def test_the_page_contains_everything_it_needs(written, ran):
    text = written.read_text()
    found = _Page(text)
    figures = [block.figure for blocks in ran.values() for block in blocks if block.figure]
    assert len(figures) == found.names.count("img") == 7
    assert all(each.startswith("data:image/svg+xml;base64,") for each in found.loads if each)
    assert "url(" not in text
    assert "@import" not in text
    assert all(each.startswith("https://") or each.removeprefix("#") in found.ids for each in found.leads)
    assert {f"#{path.stem}" for path in chapters.paths()} <= set(found.leads)
    for left in ("$`", "```", r"\lambda", r"\begin", "&amp;amp;"):
        assert left not in text


def test_every_formula_is_mathml(written):
    sources = [path.read_text() for path in [command.INTRODUCTION, *chapters.paths()]]
    count = sum(len(re.findall(r"\$`[^`]+`\$|^```math", text, re.MULTILINE)) for text in sources)
    math = re.findall(r"<math.*?</math>", written.read_text())
    assert len(math) == count > 100
    assert not any(re.search(r"\\|>&<|&amp;", each) for each in math)  # a command that latex2mathml does not know


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if not CHROMIUM:
        pytest.skip("needs Chromium, in PATH or named by CHROMIUM")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (320, 568)])
def test_a_browser_shows_the_page_without_a_network(width, height, written, browser):
    view = browser.new_page(viewport={"width": width, "height": height})
    asked, said = [], []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: said.append(message.text))
    view.goto(written.as_uri())
    assert [address for address in asked if not address.startswith("data:")] == [written.as_uri()]
    assert said == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    sizes = view.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().toJSON())")
    assert min(size["width"] for size in sizes) > 3
    assert min(size["height"] for size in sizes) > 5
    images = view.evaluate("[...document.images].map(i => i.naturalWidth * i.getBoundingClientRect().width)")
    assert len(images) == 7
    assert min(images) > 0
    # a heading or paragraph is nowhere cut off, and code is at least 11 pixels high
    assert np.max(view.evaluate("[...document.querySelectorAll('h1, h2, p, li')].map(e => e.scrollWidth)")) <= width
    assert view.evaluate("parseFloat(getComputedStyle(document.querySelector('.code pre')).fontSize)") > 11
    view.get_by_role("link", name="The gradient of A").first.click()
    assert view.url.endswith("#4-gradient")
    view.locator("[id='4-gradient'] summary").click()
    assert view.locator("[id='4-gradient'] details .code").is_visible()
    view.close()
