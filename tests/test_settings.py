"""Settings: their types, wherever they come from, and the options that have no effect on a run."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from bench import store
from tasks import catch, retrieval
from tasks.__main__ import TASKS, main
from tasks.running import command_line, runs

KINDS: dict[str, Any] = {name: importlib.import_module(f"tasks.{name}").Settings for name in TASKS}
WRONG = {
    bool: ["False", "true", 1, 0, 1.0, [], {}],
    int: ["3", 2.5, 3.0, True, [3], 10**400],
    float: ["0.5", True, float("nan"), float("inf"), -float("inf"), [0.5], 10**400],
    str: [3, True, ["a"]],
    Path: [3, True, ["a"]],
}


def wrong_values(hint: Any) -> list[Any]:
    """Values that are not of this type."""
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    values = [] if type(None) in hints else [None]
    for each in hints:
        values += ["none of them", 1] if get_origin(each) is Literal else WRONG.get(each, [])
    return values


@pytest.mark.parametrize(("task", "name"), [(task, field.name) for task in KINDS for field in fields(KINDS[task])])
def test_a_value_of_another_type_is_refused_wherever_it_comes_from(task, name, tmp_path):
    kind, path = KINDS[task], tmp_path / "settings.json"
    for value in wrong_values(get_type_hints(kind)[name]):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*, got "):
            kind(**{name: value})
        if name not in ("out", "resume", "settings", "continues"):  # these are no settings of a file
            path.write_text(json.dumps({"task": task, name: value}))
            with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {name}: expected .*, got "):
                runs.settings_from(path, kind, settings=path)


def test_a_whole_number_is_a_number_and_text_is_a_path(tmp_path):
    settings = retrieval.Settings(learning_rate=1, out=str(tmp_path))
    assert settings.learning_rate == 1
    assert settings.out == tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"task": "retrieval", "colour": 1}', "unknown setting colour"),
        (b'{"task": "retrieval", "out": "x"}', "unknown setting out"),
        (b'{"task": "retrieval", "seed": 1, "seed": 2}', "holds 'seed' more than once"),
        (b'{"task": "retrieval", "learning_rate": NaN}', "learning_rate: expected a finite number, got nan"),
        (b'{"task": "retrieval", "learning_rate": 1e999}', "learning_rate: expected a finite number, got inf"),
        (b'{"task": "retrieval", "layer_norm": "False"}', "layer_norm: expected True or False or None, got 'False'"),
        (b'{"task": "mnist"}', "it belongs to task 'mnist'"),
        (b'{"seed": 1}', "it belongs to task None"),
        (b'["task"]', "it holds a list instead of an object"),
        (b"3", "it holds a int instead of an object"),
        (b"", "Expecting value"),
        (b'{"task": "retr', "Unterminated string"),
        (b"\xff\xfe{}", "can't decode"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"task": "retrieval", "settings": 3}', "settings: expected named values, got 3"),
        (b" " * (runs.LARGEST + 1), "it has more than 10,000,000 bytes"),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.parametrize("option", ["settings", "resume"])
def test_a_bad_settings_file_is_named(option, content, message, tmp_path, capsys):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    assert main(["retrieval", f"--{option}", str(path if option == "settings" else tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert str(path) in said
    assert [file.name for file in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "retrieval", "--layer lstm --decay 0.5",
            "decay: the layer lstm does not use it; expected its default, 0.9, got 0.5; leave --decay=0.5 out, or pass "
            "--decay=0.9",
        ),
        (
            "mnist", "--layer irnn --no-wipe",
            "wipe: the layer irnn does not use it; expected its default, True, got False; leave --no-wipe out, or pass "
            "--wipe",
        ),
        ("faces", "--layer convnet --glimpse-type", "leave --glimpse-type out, or pass --no-glimpse-type"),
        ("mnist", "--inner-steps 0", "inner_steps: expected at least 1 for the layer multilevel, got 0; pass --rate 0"),
        ("retrieval", "--layer irnn --copies 7", "copies: the layer irnn does not use it"),
        ("retrieval", "--shared-value", "shared_value: the layer fast_weights does not use it"),
        ("mnist", "--layer lstm --no-recurrent-value", "recurrent_value: the layer lstm does not use it"),
        ("retrieval", "--layer associative_lstm --heads 1 --shared-value", "shared_value: a layer with one head does"),
        ("retrieval", "--forget-bias 2", "forget_bias: the layer fast_weights does not use it"),
        ("mnist", "--layer convnet --layer-norm True", "layer_norm: the layer convnet does not use it"),
        ("retrieval", "--layer-norm False --normalize-preliminary", "a layer without layer norm does not use it"),
        ("retrieval", "--schedule constant --hold 0.2", "hold: the constant schedule"),
        ("mnist", "--layer convnet --inner-steps 2", "inner_steps: the layer convnet"),
        ("faces", "--layer lstm --rate 0.1", "rate: the layer lstm"),
        ("catch", "--layer irnn --rate 0.1", "rate: the layer irnn"),
        ("catch", "--threads 4", "threads: the method a3c does not use it"),
        ("retrieval", "--rate 0 --decay 0.5", "decay: a layer with rate 0 does not use it"),
        ("retrieval", "--inner-steps 0 --decay 0.5", "decay: a layer without inner steps"),
        ("mnist", "--inner-steps 0 --rate 0.2", "rate: a layer without inner steps"),
        ("retrieval", "--initial a --recurrent-scale 0.5", "recurrent_scale: a run that"),
        ("faces", "--layer lstm --initial a --forget-bias 2", "forget_bias: a run that starts from"),
        ("catch", "--steps 99", "steps: expected at most the 15 decisions of an episode, got 99"),
    ],
)  # fmt: skip
def test_an_option_without_effect_is_refused(task, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([task, *options.split()])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("task", "word", "symbol", "option"),
    [
        ("retrieval", "--eta", "η", "--rate"),
        ("mnist", "--lambda=0.9", "λ", "--decay"),
        ("faces", "-S", "S", "--inner-steps"),
        ("catch", "--R", "R", "--hidden-size"),
        ("retrieval", "-K", "K", "--pairs"),
        ("catch", "--γ", "γ", "--discount"),
        ("catch", "-N", "N", "--size"),
    ],
)
def test_a_symbol_of_the_paper_is_answered_by_its_option(task, word, symbol, option, capsys):
    assert main([task, word, "2"]) == 2
    expected = f"tasks: {symbol}: expected the option {option}, got {word}; use {option}\n"
    assert capsys.readouterr().err == expected


def test_every_option_of_a_layer_is_refused_for_the_layers_without_it():
    other = {"decay": 0.5, "rate": 0.5, "inner_steps": 2, "normalize_preliminary": True, "layer_norm": True,
             "recurrent_scale": 0.3, "forget_bias": 2.0, "copies": 2, "heads": 2,
             "shared_value": True, "recurrent_value": False}  # fmt: skip
    for kind in KINDS.values():
        has = {field.name for field in fields(kind)}
        for layer in get_args(get_type_hints(kind)["layer"]):
            for name, value in other.items():
                if name not in has:
                    continue
                if name in kind.unused({field.name: field.default for field in fields(kind)} | {"layer": layer}):
                    with pytest.raises(ValueError, match=f"{name}: the layer {layer} does not use it"):
                        kind(layer=layer, **{name: value})
                else:
                    kind(layer=layer, **{name: value})


def test_an_option_without_effect_in_a_file_is_named_and_left_at_its_default(tmp_path, capsys):
    """Older versions had other defaults, and stored all of them."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"task": "retrieval", "layer": "lstm", "decay": 0.5}))
    assert runs.settings_from(path, retrieval.Settings, settings=path).decay == 0.9
    assert f"{path}: decay 0.5 is ignored: the layer lstm does not use it" in capsys.readouterr().err


def test_the_settings_of_every_stored_run_still_load(tmp_path, capsys):
    made = [found for file in (store.RUNS, store.SEARCHES) for found in store.read(file) if "settings" in found]
    assert len(made) > 150
    path = tmp_path / "result.json"
    for found in made:
        path.write_text(json.dumps({"task": found["task"], "settings": found["settings"]}))
        settings = runs.settings_from(path, KINDS[found["task"]], settings=path)
        for name, value in settings.as_json().items():
            used = name in found["settings"] and name not in settings.unused(vars(settings))
            stored = found["settings"].get(name)
            stored = str(Path(stored).absolute()) if name == "initial" and stored else stored
            assert not used or stored == value, (found, name)


def test_a_file_names_the_layer_before_options_are_judged(tmp_path):
    """--forget-bias belongs to the file's lstm, not to the default layer."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"task": "retrieval", "layer": "lstm"}))
    asked = command_line.settings_asked_for(
        retrieval.Settings, ["--settings", str(path), "--forget-bias", "2"], "program"
    )
    assert (asked.layer, asked.forget_bias) == ("lstm", 2.0)


def test_settings_beside_resume_are_refused(tmp_path):
    with pytest.raises(ValueError, match="settings: expected none with --resume"):
        command_line.settings_asked_for(retrieval.Settings, ["--settings", "a", "--resume", "b"], "program")


def test_what_a_machine_decides_may_stand_in_a_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(
        json.dumps({"task": "catch", "method": "a2c", "threads": 2, "checkpoint_every": 1, "device": "cpu"})
    )
    assert runs.settings_from(path, catch.Settings, settings=path).threads == 2
