"""gptlite concordance: places of a word under each other, with and without senses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Outcome, make_text
from rich.cells import cell_len

from gptlite.embedding.senses import CLEAR, Senses

TEXTS = ("Ada finds the bank and the river .", "Bela paints the song and the bank .", "A bank , they said")


@pytest.fixture
def kwic(gptlite: Command) -> Command:
    """Options and, as the lines of a pipe, texts."""

    def call(texts: tuple[str, ...], *options: object, word: str = "bank") -> Outcome:
        return gptlite("concordance", word, "-", *options, stdin="".join(f"{text}\n" for text in texts).encode())

    return call


def columns(line: str, word: str) -> int:
    """Where a word begins, in columns of the terminal."""
    return cell_len(line[: line.rindex(word)])


# -- Without senses


def test_words_stand_under_each_other(kwic: Command) -> None:
    """And no model is needed."""
    outcome = kwic(TEXTS)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert len({columns(line, "bank") for line in lines}) == 1
    assert lines[0].endswith("Ada finds the bank and the river .")


@pytest.mark.parametrize(
    ("order", "numbers"), [("text", "123"), ("left", "321"), ("right", "321")], ids=["text", "left", "right"]
)
def test_lines_are_sorted(kwic: Command, order: str, numbers: str) -> None:
    """By the nearest word first: "A bank" before "the bank", and of those "and the" before "finds the"."""
    lines = kwic(TEXTS, "--sort", order).out.splitlines()
    if order == "right":
        numbers = "321" if "," < "." else numbers
    assert [line.split()[0] for line in lines] == list(numbers)


@pytest.mark.parametrize("width", [40, 64, 120])
@pytest.mark.parametrize(
    "around",
    ["plain words of no interest ", "河岸在这里很陡，", "нет слов ", "e\u0301te\u0301 ", "🙂👍🏽 "],
    ids=range(5),
)
def test_wide_characters_keep_the_columns(kwic: Command, width: int, around: str) -> None:
    texts = (f"{around * 9} bank {around * 9}", f"{around} bank {around * 9}", "bank", f"x{around * 9} bank")
    lines = kwic(texts, "--width", width).out.splitlines()
    assert len(lines) == 4
    assert len({columns(line, "bank") for line in lines}) == 1
    assert max(cell_len(line) for line in lines) <= width


def test_a_pipe_gets_120_columns(kwic: Command) -> None:
    (line,) = kwic(("word " * 50 + "bank" + " word" * 50,)).out.splitlines()
    assert 110 < len(line) <= 120 and line.count("…") == 2


def test_lines_are_limited_and_spread_over_the_text(gptlite: Command) -> None:
    Path("many.txt").write_text("".join(f"bank {i}\n" for i in range(100)))
    outcome = gptlite("concordance", "bank", "many.txt", "--limit", 4)
    assert [line.split()[-1] for line in outcome.out.splitlines()] == ["0", "25", "50", "75"]
    assert outcome.err == "4 of 100 places shown; --limit 100 shows more.\n"
    assert len(gptlite("concordance", "bank", "many.txt").out.splitlines()) == 40


@pytest.mark.parametrize("text", ["the [bold]bank[/bold]", "the \x1b[2J bank", "[/] bank", "\u202ebank"])
def test_texts_are_neither_markup_nor_commands(kwic: Command, text: str) -> None:
    outcome = kwic((text,))
    assert outcome.code == 0
    assert outcome.out.split() == ["1", *text.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e").split()]


def test_json_has_a_line_for_each_place(kwic: Command) -> None:
    result = json.loads(kwic(TEXTS, "--json").out)
    assert result["n_found"] == 3
    assert result["lines"][0] == {
        "text_index": 0, "span": [14, 18], "left": "Ada finds the ", "word": "bank", "right": " and the river .",
    }  # fmt: skip


def test_several_files_and_tables_are_read(gptlite: Command) -> None:
    Path("a.txt").write_text("the bank\nno such word\n")
    Path("b.csv").write_text('id,text,word\n1,"the river, the bank",river\n')
    result = json.loads(gptlite("concordance", "bank", "a.txt", "b.csv", "--json").out)
    assert [(line["text_index"], line["left"]) for line in result["lines"]] == [(0, "the "), (2, "the river, the ")]


def test_without_files_it_is_the_text_of_the_run(gptlite: Command, trained_run: Path) -> None:
    result = json.loads(gptlite("concordance", "bank", "-m", trained_run, "--limit", 100_000, "--json").out)
    text = make_text()
    assert 0.9 * text.count("bank") < result["n_found"] <= text.count("bank"), "but for what was held out"
    lines = {f"{line['left']}{line['word']}{line['right']}" for line in result["lines"]}
    assert lines <= set(text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sort", "size"), "'--sort'"),
        (("--sort", "sense"), "--senses 2"),
        (("--limit", "0"), "--limit"),
        (("--width", "10"), "--width"),
        (("--senses", "1"), "--senses must be 2 or more, or auto, not 1"),
        (("--senses", "two"), "--senses must be a number from 2 on, or auto, not 'two'"),
        (("--layer", "1"), "--layer does nothing with lines of FILE; it goes with: --senses."),
        (("-m", "x"), "--model does nothing with lines of FILE"),
    ],
    ids=str,
)
def test_bad_requests_are_errors(kwic: Command, arguments: tuple[str, ...], message: str) -> None:
    outcome = kwic(TEXTS, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_word_that_is_missing_is_told_what_is_there(kwic: Command) -> None:
    outcome = kwic(TEXTS, word="brook")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'brook' is not in the texts" in outcome.err


# -- With senses


@pytest.fixture
def grouped(gptlite: Command, trained_run: Path) -> Command:
    Path("lines.txt").write_text(make_text(200, seed=5))

    def call(*arguments: object, stdin: bytes | None = None) -> Outcome:
        return gptlite("concordance", "-m", trained_run, "bank", "lines.txt", *arguments, stdin=stdin)

    return call


def parsed(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_senses_come_with_their_evidence(grouped: Command, trained_run: Path) -> None:
    result = parsed(grouped("--senses", 2, "--json"))
    assert set(result) == {
        "schema", "n_found", "n_grouped", "model", "layer", "n_layers", "pool", "context", "correct", "clear",
        "silhouette", "control", "groups", "lines",
    }  # fmt: skip
    assert sum(group["n_places"] for group in result["groups"]) == result["n_grouped"] == result["n_found"]
    assert {line["sense"] for line in result["lines"]} == {0, 1}
    assert len(result["lines"]) == result["n_found"] < 40
    assert len(parsed(grouped("--senses", 2, "--limit", 10, "--json"))["lines"]) in (9, 10, 11)
    share = (result["silhouette"] - result["control"]) / (1 - result["control"])
    assert result["clear"] == (share >= CLEAR)
    assert parsed(grouped("--senses", 2, "--json")) == result, "the same every time"


@pytest.mark.parametrize("clear", [True, False])
def test_a_split_is_shown_only_where_there_is_one(
    grouped: Command, clear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Senses, "clear", clear)
    outcome = grouped("--senses", 2)
    assert outcome.code == 0
    assert ("no clear split" in outcome.out) == (not clear)
    assert [f"sense {i}" in outcome.out for i in (1, 2, 3)] == [clear, clear, False]
    lines = [line for line in outcome.out.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert "sense 2" in grouped("--senses", 2, "--sort", "sense").out
    if not clear:
        numbers = [int(line.split()[0]) for line in lines if "senses of" not in line]
        assert numbers == sorted(numbers)


def test_typical_places_come_first(grouped: Command) -> None:
    lines = parsed(grouped("--senses", 2, "--json"))["lines"]
    for sense in (1, 2):
        fits = [line["typical"] for line in lines if line["sense"] == sense]
        assert fits == sorted(fits, reverse=True)


def test_a_sense_can_be_sorted_too(grouped: Command) -> None:
    lines = parsed(grouped("--senses", 2, "--sort", "right", "--json"))["lines"]
    for sense in (1, 2):
        following = [line["right"].casefold().split() for line in lines if line["sense"] == sense]
        assert following == sorted(following)


@pytest.mark.parametrize(("clear", "n_senses"), [(True, 2), (False, 1)])
def test_the_number_of_senses_can_be_found(
    grouped: Command, clear: bool, n_senses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Senses, "clear", clear)
    monkeypatch.setattr(Senses, "share", property(lambda found: -found.n_senses))  # two groups are the clearest
    result = parsed(grouped("--senses", "auto", "--json"))
    assert len(result["groups"]) == n_senses == len({line["sense"] for line in result["lines"]})
    out = grouped("--senses", "auto").out
    assert out.startswith("2 senses of" if clear else "one sense of") and ("sense 2" in out) == clear
    numbers = [int(line.split()[0]) for line in out.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert clear or numbers == sorted(numbers)


def test_senses_are_of_both_sides_unless_an_option_is_about_states(grouped: Command) -> None:
    assert parsed(grouped("--senses", 2, "--json"))["context"] == "both"
    for options in (("--layer", 1), ("--pool", "mean"), ("--correct", "center")):
        assert parsed(grouped("--senses", 2, *options, "--json"))["context"] == "left"


def test_few_places_are_one_sense(gptlite: Command, trained_run: Path) -> None:
    stdin = "\n".join(TEXTS).encode()
    outcome = gptlite("concordance", "bank", "-", "--senses", "auto", "-m", trained_run, stdin=stdin)
    assert outcome.code == 0 and outcome.out.startswith("one sense of 3 places")


def test_too_few_places_for_senses_is_said(gptlite: Command, trained_run: Path) -> None:
    stdin = "\n".join(TEXTS).encode()
    outcome = gptlite("concordance", "bank", "-", "--senses", 2, "-m", trained_run, stdin=stdin)
    assert (outcome.code, outcome.out) == (2, "")
    assert "at least 8 occurrences of the word, and here are 3" in outcome.err
