"""The chain of checks itself, and that it catches what it is there to catch."""

from __future__ import annotations

import re
import sys

import numpy
import pytest

from fastweights_np import audit
from fastweights_np.audit import explain, mutants
from fastweights_np.audit.run import other_links
from fastweights_np.network import LAYERS


@pytest.mark.parametrize("what", [*LAYERS, "fast_weight_programmer", "transformer", "the others"])
def test_every_link_holds(what):
    layers = tuple(LAYERS)
    if what == "the others":
        links = other_links(layers, quick=False, move=lambda tree: tree)
    else:
        links = audit.run(layers=[what], others=False)
    for link in links:
        assert link.passed, f"{link.title}: {link.worst:.1e} at {link.where}"


def test_relative_error_finds_the_worst_entry_and_never_passes_what_is_not_finite():
    assert audit.relative_error(numpy.array([1.0, 2.5]), numpy.array([1.0, 2.0])) == (0.2, (1,))
    assert audit.relative_error(numpy.array([numpy.nan]), numpy.array([1.0]))[0] == numpy.inf
    assert audit.relative_error(numpy.zeros(2), numpy.zeros(3))[0] == numpy.inf
    empty_row = audit.Link(1, "", "", 1e-12)
    assert not empty_row.passed, "a row that compared nothing has checked nothing"


def test_a_missing_library_is_named_with_the_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "autograd", None)
    for words in (["--quick"], ["F6"]):
        assert audit.main(words) == 2
        printed = capsys.readouterr()
        assert "pip install autograd scipy" in printed.err
        assert not printed.out
    assert audit.main(["F6", "--lines"]) == 0


def test_the_command_passes_an_unbroken_copy_and_prints_the_table(tmp_path, capsys):
    """So that a mutant that fails does so for its mutation."""
    with mutants.mutated(mutants.Mutant("ops.py", "", ""), tmp_path) as unbroken:
        assert unbroken.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "3 backward = autograd" in printed
    assert "every link holds" in printed


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_every_mutant_of_a_backward_pass_is_caught(name, tmp_path):
    assert mutants.caught_by(mutants.MUTANTS[name], tmp_path), "the chain of gradient checks let this mutant through"


def test_every_number_is_listed_and_some_are_explained(capsys):
    assert audit.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "equation-1  A(t) = λ A(t-1) + η h(t) h(t)ᵀ (1)"
    listed = [line.split()[0] for line in lines]
    assert listed[:5] == [f"equation-{n}" for n in range(1, 6)]
    assert {"L1", "F6", "V3", "N2", "I1", "M4", "A5"} <= set(listed)
    assert audit.main(["i2"]) == 0
    printed = capsys.readouterr().out
    assert "**(I2)** `dh(t) = Wᵀ dz(t+1)`" in printed
    assert "plain/irnn.py:" in printed
    assert "\nirnn.py:" in printed
    assert "xp.matmul(dz, W, out=dh_next)" in printed
    assert re.search(r"4 backward = finite differences +irnn", printed)
    irnn = (
        r"irnn: W not transposed: caught by backward = autograd, irnn: error .*\n"
        r"    irnn\.py:\d+: xp\.matmul\(dz, W, out=dh_next\)  ->  xp\.matmul\(dz, W\.T, out=dh_next\)\n"
    )
    assert re.search(irnn, printed)
    assert "3 backward = autograd, irnn, worst by array: W " in printed
    assert printed.endswith("I2: every row holds, every mutant is caught\n")


def test_a_line_that_a_user_breaks_is_seen_and_no_mutant_counts_as_caught_by_it(tmp_path, capsys):
    broken = mutants.MUTANTS["plain irnn: recurrence dropped"]
    with mutants.mutated(broken, tmp_path) as edited:
        assert edited.main(["I2"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("I2: 1 row FAILS; the mutants are left out, because")


def test_every_mutant_is_shown_with_its_place():
    for mutant in mutants.MUTANTS.values():
        file, number, shown = re.fullmatch(r"(\S+):(\d+): (.*\S)  ->  .*\S", str(mutant)).groups()
        line = (mutants.PACKAGE / file).read_text().splitlines()[int(number) - 1]
        assert mutant.line.splitlines()[0].strip() in line
        assert shown == " ".join(mutant.line.split())


def test_every_mutant_has_its_numbers_and_every_number_a_mutant():
    derived = set(explain._derived())
    broken = [set(mutant.numbers.split()) for mutant in mutants.MUTANTS.values()]
    assert all(numbers and numbers <= derived for numbers in broken)
    assert set().union(*broken) == derived


@pytest.mark.parametrize(
    "number", [*(f"equation-{n}" for n in range(1, 6)), *explain.PARAGRAPH.findall(explain._derivation())]
)
def test_every_number_has_its_paragraph_and_its_lines_in_plain_and_fast_files(number):
    key = number.removeprefix("equation-")
    paragraph = "\n".join(explain._equation(key)) if number != key else explain._paragraph(number)
    assert f"({key}" in paragraph
    plain = list((mutants.PACKAGE / "plain").glob("*.py"))
    for paths in (list(mutants.PACKAGE.glob("*.py")), plain):
        cited = [str(each) for each in explain._citations(key, sorted(paths))]
        # equation (3) is used by the fast memory alone, and the plain layers have no lengths and resets
        assert cited or (key in ("3", "S1", "S2") and paths is plain)


def test_an_unknown_number_is_named(capsys):
    for number in ("F99", "equation-6", "6"):
        assert audit.main([number]) == 2
        assert (
            f"number: expected one that --list names, such as F6 or equation-2, got {number!r}"
            in capsys.readouterr().err
        )


@pytest.mark.parametrize("number", [number for number in explain._derived() if number not in ("S1", "S2")])
def test_the_plain_files_have_the_forward_and_the_backward_line_of_every_number(number):
    cited = list(explain._citations(number, sorted((mutants.PACKAGE / "plain").glob("*.py"))))
    assert {each.backward for each in cited} == {False, True}


def test_lines_go_with_a_number(capsys):
    assert audit.main(["F3", "--lines"]) == 0
    printed = capsys.readouterr().out
    for line in ("dh = times(A.swapaxes(1, 2), r)", "da = da + r", "dA = dA + outer(r, queries[s])", "da += r"):
        assert line in printed
    for wrong in (["--lines"], ["F3", "--list"]):
        with pytest.raises(SystemExit):
            audit.main(wrong)
