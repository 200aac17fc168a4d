"""Help as a word, errors as one sentence, and options that swallow their neighbours."""

from __future__ import annotations

import re

import pytest
from conftest import Command

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


def test_a_value_may_look_like_an_option_behind_an_equals_sign(gptlite: Command) -> None:
    for line in ("generate --prompt=-m", "generate --prompt -1", "generate --stop - --prompt --", "generate -- -m -q"):
        assert "follows it" not in gptlite(*line.split(), *(["-m", "gone"] if "-- -" not in line else [])).err


def test_switches_show_neither_a_type_nor_a_default(gptlite: Command) -> None:
    for command in ("train", "info", "generate"):
        page = gptlite(command, "--help").out
        assert "<bool>" not in page
        assert "(off)" not in page.split("--resume")[-1].split("\n")[0]
        assert re.search(r"--json +Print", page)
