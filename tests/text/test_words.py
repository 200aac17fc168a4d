"""Words by marks of one's own, by number, as tokens: each is a span of characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlite.errors import UsageError
from gptlite.text.words import find_units, parse_marked, parse_marks, parts_of, word_at, word_starts


@pytest.mark.parametrize(
    ("marks", "text", "words"),
    [
        ("<b>,</b>", "on the <b>bank</b> of [it]", ["bank"]),
        ("<strong>,</strong>", "<strong>a b</strong> and <strong>c</strong>", ["a b", "c"]),
        ("*,*", "on the *bank* and the *river*", ["bank", "river"]),
        ("**,**", "on the **bank** *of*", ["bank"]),
        ("{,}", r"\{x\} {bank}", ["bank"]),
    ],
)
def test_marks_are_ones_own(marks: str, text: str, words: list[str]) -> None:
    assert [o.word for o in parse_marked(text, 0, parse_marks(marks))] == words


@pytest.mark.parametrize("marks", ["", "[", "[,", ",]", "\\,/"])
def test_marks_come_in_pairs(marks: str) -> None:
    with pytest.raises(UsageError, match="--mark"):
        parse_marks(marks)


@pytest.mark.parametrize(
    ("text", "index", "word"),
    [
        ("on the bank .", 2, "bank"),
        ("  on\tthe\nbank", 2, "bank"),
        ('the "bank," he said', 1, "bank"),
        ("Ada's bank-note", 1, "bank-note"),
        ("Ada's bank", 0, "Ada's"),
        ("a -- b", 1, "--"),
        ("去 （银行）", 1, "银行"),
        ("a हिन्दी।", 1, "हिन्दी"),
        ("one", 1, None),
        ("", 0, None),
        ("one", -1, None),
    ],
)
def test_words_have_numbers(text: str, index: int, word: str | None) -> None:
    place = word_at(text, 3, index)
    assert (place.word if place else None) == word
    assert place is None or place.text_index == 3


def test_tokens_are_words_without_the_space_around_them() -> None:
    spans = [(0, 3), (3, 8), (8, 9), (9, 10), (9, 10), (10, 12)]
    assert [o.word for o in parts_of("the bank 银 .", 0, spans)] == ["the", "bank", " ", "银", "."]


@given(st.text())
def test_words_start_where_letters_do(text: str) -> None:
    starts = word_starts(text)
    assert starts == sorted(set(starts))
    assert all(text[at].isalnum() or text[at] == "_" for at in starts if text[at].isascii())
    assert len(word_starts(f"{text} one two")) == len(starts) + 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(don't) ...", "(|don't|)| |.|.|."),
        ("3,000.5, she's", "3,000.5|,| |she's"),
        ("so—well_x", "so|—|well_x"),
        ("天地。 x", "天|地|。| |x"),
        ("e\u0301t 👩\u200d👧!", "e\u0301t| |👩\u200d👧|!"),
    ],
)
def test_units_are_words_marks_and_space(text: str, expected: str) -> None:
    assert "|".join(text[start:end] for start, end, _ in find_units(text)) == expected


@given(st.text())
def test_units_have_every_character_once(text: str) -> None:
    units = find_units(text)
    assert "".join(text[start:end] for start, end, _ in units) == text
    for start, end, kind in units:
        assert (kind == "space") is text[start:end].isspace()
