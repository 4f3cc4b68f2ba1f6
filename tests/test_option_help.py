"""The text of --help: groups, whole lines, and every option once with its whole docstring and default."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest

from tasks.__main__ import TASKS, main
from tasks.running import option_help
from tasks.running.layers import TAKES

KINDS: dict[str, Any] = {name: importlib.import_module(f"tasks.{name}").Settings for name in TASKS}
OF_THE_ASSOCIATIVE_LSTM = ("copies", "heads", "shared_value", "recurrent_value")  # a layer that catch does not offer


def helped(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("task", [*TASKS, "search", "report"])
def test_no_line_is_wider_than_the_terminal_and_no_default_stands_alone(task, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    printed = helped(capsys, task)
    assert max(map(len, printed.splitlines())) <= columns
    assert not re.search(r"default:\n|-\n", printed)


def test_the_list_of_tasks_fits_a_terminal(capsys):
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("task", TASKS)
def test_every_option_stands_once_in_its_group_with_its_whole_docstring(task, capsys):
    kind = KINDS[task]
    printed, docs = helped(capsys, task), option_help.documented(kind)
    parts = re.split(r"^(\w+):\n", printed, flags=re.MULTILINE)
    titles, texts = parts[1::2], dict(zip(parts[1::2], parts[2::2], strict=True))
    assert titles == list(option_help.GROUPS)
    for field in fields(kind):
        pattern = rf"^  --{field.name.replace('_', '-')}[ ,]"
        found = [title for title in titles if re.search(pattern, texts[title], re.MULTILINE)]
        layers = get_args(get_type_hints(kind)["layer"])
        some_layers = {name for takes in TAKES.values() for names in takes for name in names}
        used = {name for layer in layers for names in TAKES[layer] for name in names}
        if field.name == "continues" or field.name in some_layers - used:
            assert not found, "no command line can use it"
            continue
        (title,) = found
        assert field.name in option_help.GROUPS[title]
        text = " ".join(texts[title].split())
        assert " ".join(docs[field.name].split()) + " (" in text
        assert f"default: {field.default})" in text


def test_an_option_that_some_layers_use_names_them(capsys):
    layers = get_args(get_type_hints(KINDS["mnist"])["layer"])
    printed = " ".join(helped(capsys, "mnist").split())
    for name in {name for takes in TAKES.values() for names in takes for name in names}:
        users = ", ".join(layer for layer in layers if name in sum(TAKES[layer], ()))
        if not users:
            assert f" --{name.replace('_', '-')} " not in printed, name
            continue
        assert re.search(rf" --{name.replace('_', '-')}[ ,][^(]* \(for {users}; default: ", printed), name


def test_the_help_of_retrieval_alone_mentions_asking(capsys):
    line = "With --ask TEXT --from RUN, a trained network answers instead."
    assert [task for task in TASKS if line in helped(capsys, task).splitlines()] == ["retrieval"]


def test_help_lists_the_values_of_the_settings_file_as_defaults(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"task": "retrieval", "learning_rate": 0.125}')
    printed = helped(capsys, "retrieval", "--settings", str(tmp_path / "settings.json"))
    assert "default: 0.125)" in " ".join(printed.split())
    shown = option_help.text(replace(KINDS["retrieval"](), epochs=77), "program")
    assert shown.startswith("usage: program [options]\n")
    assert "(default: 77)" in shown
