"""README and docs: tables from the store, links, length, and the Python blocks, each of which runs by itself."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec

import numpy as np
import pytest

from bench import pages, paper, report
from bench import store as stored
from bench.__main__ import main
from tasks.teaching import chapters

PAGES = {str(path.relative_to(pages.ROOT)): path for path in pages.pages(pages.ROOT)}
BLOCKS = {
    f"{name} {number}": block
    for name, path in PAGES.items()
    if path.parent != chapters.FOLDER  # a chapter's blocks are one program: test_tutorial.py runs them
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE), 1)
}
LINK = re.compile(r"\]\(([^()\s]+)\)")


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    return paper.for_pages()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("name", PAGES)
def test_tables_between_markers_equal_the_stores(name, tables):
    text = PAGES[name].read_text()
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(pages.MARKED.findall(text))
    assert pages.filled(text, tables) == text, "run python -m bench paper --store"


def test_every_table_for_pages_is_shown_on_one(tables):
    shown = {name for path in PAGES.values() for _, name, _ in pages.MARKED.findall(path.read_text())}
    assert set(tables) <= shown


def test_no_cell_is_missing_and_faces_and_agents_have_the_three_seeds_that_pages_claim(tables):
    def seeds(name: str, column: int) -> set[int]:
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables[name].splitlines()[2:]]
        return {len(row[column].split(", ")) for row in rows}

    assert seeds("table3-seeds", 2) == seeds("figure5", 2) == {3}
    assert not any("missing" in table for table in tables.values())
    assert not any("not run" in tables[name] for name in ("table2", "table3", "figure5"))


def test_bench_paper_writes_pages_only_into_the_store(tmp_path, monkeypatch, capsys):
    for name in ("STORE", "SCRATCH"):
        monkeypatch.setattr(stored, name, tmp_path / name)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(report, "output", tmp_path)
    page = tmp_path / "docs" / "a" / "page.md"
    page.parent.mkdir(parents=True)
    before = "x\n<!-- table: table1 -->\nold\n<!-- end -->\ny\n"
    for path in (page, tmp_path / "README.md"):
        path.write_text(before)
    assert main(["paper"]) == 0
    assert page.read_text() == before
    assert main(["paper", "--store"]) == 0
    assert "pages with new tables: README.md, docs/a/page.md" in capsys.readouterr().out
    after = page.read_text()
    assert after.startswith("x\n<!-- table: table1 -->\n\n| layer | R = 20, paper |")
    assert after.endswith(" |\n\n<!-- end -->\ny\n")
    assert main(["paper", "--store"]) == 0
    assert "pages with new tables: none" in capsys.readouterr().out
    assert page.read_text() == after


@pytest.mark.parametrize("name", ["table9", "nothing.md"])
def test_an_unknown_table_is_refused(name, tables):
    with pytest.raises(ValueError, match=f"table: expected a name among table1, .*; got '{name}'"):
        pages.filled(f"<!-- table: {name} -->\n<!-- end -->\n", tables)


def test_a_file_of_the_store_gives_its_first_table(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "STORE", tmp_path)
    (tmp_path / "speed.md").write_text("Words:\n\n| a |\n| --- |\n| 1 |\n\n| b |\n| --- |\n| 2 |\n")
    text = pages.filled("<!-- table: speed.md --><!-- end -->\n<!-- table: speed.md -->\n<!-- end -->\n", {})
    assert text.endswith("<!-- table: speed.md -->\n\n| a |\n| --- |\n| 1 |\n\n<!-- end -->\n")


# ----------------------------------------------------------------------------------------------------- links and length


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_and_picture_exists(name):
    path = PAGES[name]
    for target in LINK.findall(without_code(path.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        file, _, fragment = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert linked.is_relative_to(pages.ROOT.resolve()), target
        if fragment:
            assert fragment in anchors(linked.read_text()), target


def test_the_readme_has_at_most_130_lines():
    assert len(PAGES["README.md"].read_text().splitlines()) <= 130


def test_the_readme_has_both_commands():
    text = PAGES["README.md"].read_text()
    assert '    pip install -e ".[tasks]" && python -m tasks retrieval\n' in text
    assert '    pip install -e ".[test]" && python -m pytest\n' in text


# -------------------------------------------------------------------------------------------------------------- scripts


def options_agree(names: dict) -> bool:
    """Return whether the page's PyTorch module equals the layer without layer norm, and with several inner steps."""
    fw, x = names["fw"], names["x"]
    for layer_norm, inner_steps in ((False, 1), (True, 2)):
        params = fw.fast_weights.init(names["rng"], 3, 20, layer_norm=layer_norm, dtype="float64")
        h, _ = fw.fast_weights.forward(params, x, decay=0.9, rate=0.01, inner_steps=inner_steps)
        states = names["FastWeights"](params, 0.9, 0.01, inner_steps)(names["torch"].tensor(x)).detach().numpy()
        np.testing.assert_allclose(states, h, rtol=0, atol=1e-12 * abs(h).max())
    return True


WHAT_THEY_REACH = {
    "README.md 1": lambda names: names["h"].shape == (11, 8, 20),
    "README.md 2": lambda names: names["loss"] < 0.1,
    "docs/guide.md 1": lambda names: names["h_t"].shape == (8, 20),
    "docs/guide.md 4": lambda names: abs(names["decay"] - 0.9) < 0.1 and abs(names["rate"] - 0.1) < 0.1,
    "docs/guide.md 5": lambda names: (
        names["difference"] < 1e-12 * max(np.abs(g).max() for g in names["whole"].values())
    ),
    "docs/guide.md 9": lambda names: names["loss"] < 0.03,
    "docs/guide.md 12": lambda names: names["loss"] < 0.1,
    "docs/guide.md 13": lambda names: (
        names["loss"] < 1.2 and (names["same"] == names["net"].forward(names["params"], names["tokens"])[0]).all()
    ),
    "docs/guide.md 14": lambda names: np.allclose(
        np.concatenate([names["y"], names["rest"]])[:, 0], names["whole"][:, 0], atol=1e-6
    ),
    "docs/guide.md 15": lambda names: names["rewards"].mean() > 0.9,
    "docs/guide.md 16": lambda names: names["rewards"][-1].mean() > 0.5,
    "docs/pytorch.md 3": options_agree,
}


def missing(block: str) -> str:
    """Return which packages of PyTorch and ONNX a block needs and this environment lacks. The export needs two more."""
    imports = (node for node in ast.parse(block).body if isinstance(node, ast.Import))
    imported = {alias.name for node in imports for alias in node.names}
    needed = imported & {"torch", "onnxruntime"} | ({"onnx", "onnxscript"} if "torch.onnx.export" in block else set())
    return ", ".join(sorted(each for each in needed if find_spec(each) is None))


@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")  # PyTorch 2.13's own, in torch.onnx.export
@pytest.mark.parametrize("name", BLOCKS)
def test_every_python_block_runs_by_itself(name):
    if lacking := missing(BLOCKS[name]):
        pytest.skip(f"needs {lacking}")
    names: dict = {"__name__": "__main__"}
    exec(compile(BLOCKS[name], name, "exec"), names)
    assert WHAT_THEY_REACH.get(name, lambda _: True)(names)


def test_every_script_that_is_checked_is_there():
    assert set(WHAT_THEY_REACH) <= set(BLOCKS)


def test_only_the_page_on_pytorch_may_be_skipped(monkeypatch):
    monkeypatch.setattr(f"{__name__}.find_spec", lambda name: None)
    lacking = {name: packages for name, block in BLOCKS.items() if (packages := missing(block))}
    assert lacking == {
        "docs/pytorch.md 1": "torch",
        "docs/pytorch.md 2": "torch",
        "docs/pytorch.md 3": "onnx, onnxruntime, onnxscript, torch",
    }
