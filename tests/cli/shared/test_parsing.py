"""Help as a word, errors as one sentence, and options that swallow their neighbours."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from conftest import Command
from support.commands import COMMANDS

from gptlite.cli.shared import parsing


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("help", "gptlite"),
        ("help info", "gptlite info"),
        ("words", "gptlite words"),
        ("words help odd", "gptlite words odd"),
    ],
)
def test_help_is_a_word_too(gptlite: Command, words: str, page: str) -> None:
    outcome = gptlite(*words.split())
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Usage: {page} " in outcome.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian", "no such command 'trian'; did you mean 'train'?"),
        ("help trian", "no such command 'trian'; did you mean 'train'?"),
        ("nonsense", "no such command 'nonsense'; see gptlite --help."),
        ("info a b", "got unexpected extra argument (b); see gptlite info --help."),
    ],
)
def test_bad_use_is_one_sentence(gptlite: Command, line: str, said: str) -> None:
    outcome = gptlite(*line.split())
    assert (outcome.code, outcome.err) == (2, f"gptlite: error: {said}\n")


def test_several_suggestions_are_one_question() -> None:
    asked = parsing.sentence("No such option: --tme (Possible options: --time, --type, --typed)", "x")
    assert asked == "no such option: --tme; did you mean --time, --type or --typed?"
    assert parsing.sentence("No such command 'a'. Did you mean 'b', 'c'?", "x").endswith("; did you mean 'b' or 'c'?")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("generate --prompt -m X", "--prompt needs a value, but the option -m follows it"),
        ("generate --stop --temperature 2", "--stop needs a value, but the option --temperature follows it"),
        ("train corpus.txt --val --max_steps 3", "--val needs a value, but the option --max_steps follows it"),
        ("eval corpus.txt -m -q", "-m needs a value, but the option -q follows it."),
    ],
)
def test_an_option_is_no_value(gptlite: Command, line: str, said: str) -> None:
    """Else -m would be the text, and X one more prompt."""
    outcome = gptlite(*line.split())
    assert outcome.code == 2
    assert said in outcome.err


def test_a_command_written_as_an_option_is_named(gptlite: Command) -> None:
    outcome = gptlite("words", "--steps", "king")
    assert outcome.code == 2 and outcome.err == "gptlite: error: no such option: --steps; did you mean steps?\n"


def test_a_value_may_look_like_an_option_behind_an_equals_sign(gptlite: Command) -> None:
    for line in ("generate --prompt=-m", "generate --prompt -1", "generate --stop - --prompt --", "generate -- -m -q"):
        assert "follows it" not in gptlite(*line.split(), *(["-m", "gone"] if "-- -" not in line else [])).err


def test_switches_show_neither_a_type_nor_a_default(gptlite: Command) -> None:
    for command in ("train", "info", "generate"):
        page = gptlite(command, "--help").out
        assert "<bool>" not in page
        assert "(off)" not in page.split("--resume")[-1].split("\n")[0]
        assert re.search(r"--json +Print", page)


# -- Empty values

PATHS = {"DIR", "FILE", "FILES", "FOLDER", "RUN", "5%|FILE", "WORD"}
NAMED = [
    (name, parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.metavar in PATHS or (parameter.metavar == "NAME" and parameter.name == "encoding")
]


@pytest.mark.parametrize(("name", "parameter"), NAMED, ids=lambda value: getattr(value, "name", value))
def test_an_empty_value_is_refused(gptlite: Command, name: str, parameter: Any) -> None:
    is_option = parameter.param_type_name == "option"
    words = [parameter.opts[-1], ""] if is_option else []
    for other in COMMANDS[name].params:
        words += [""] if other is parameter and not is_option else ["x"] if other.required else []
    outcome = gptlite(*name.split(), *words)
    assert (outcome.code, outcome.out) == (2, "")
    spelled = parameter.opts[-1] if is_option else parameter.metavar
    assert outcome.err == f"gptlite: error: {spelled} is empty; is a variable of the shell not set?\n"


@pytest.mark.parametrize(
    "line", ["-o '' x.txt", "--out= x.txt", "--output '' x.txt", "x.txt ''", "--init-from '' x.txt", "-qo '' x.txt"]
)
def test_every_spelling_of_an_empty_value_is_refused(gptlite: Command, line: str) -> None:
    outcome = gptlite("train", *shlex.split(line))
    assert outcome.code == 2
    assert "is empty; is a variable of the shell not set?" in outcome.err


def test_an_empty_text_is_one(gptlite: Command) -> None:
    assert "shell" not in gptlite("generate", "", "-m", "gone").err
    assert "shell" not in gptlite("generate", "--stop", "", "-m", "gone").err
