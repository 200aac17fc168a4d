"""Words by marks of one's own, by number, as tokens: each is a span of characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlite.errors import UsageError
from gptlite.text.words import (
    Occurrence,
    find_units,
    find_word,
    parse_marked,
    parse_marks,
    parts_of,
    word_at,
    word_starts,
)


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
    with pytest.raises(UsageError, match="`mark`"):
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


@pytest.mark.parametrize("text", ["[value ]of", "[ value]", "[ value\n] of"])
def test_white_space_at_the_ends_of_a_mark_is_not_the_word(text: str) -> None:
    (place,) = parse_marked(text, 0)
    assert place.word == "value" and place.text == text.replace("[", "").replace("]", "")


def test_white_space_around_a_word_to_find_does_not_count() -> None:
    assert [o.word for o in find_word("see the value of", 0, "value ")] == ["value"]
    assert Occurrence(0, "see the value of", 7, 13).trimmed() == Occurrence(0, "see the value of", 8, 13)
    assert Occurrence(0, "a  b", 1, 3).trimmed().word == "  ", "white space alone stays what it is"


@pytest.mark.parametrize("wanted", ["caf\u00e9", "cafe\u0301", "CAF\u00c9".lower()])
@pytest.mark.parametrize("written", ["caf\u00e9", "cafe\u0301", "Caf\u00e9", "ca\u00adf\u00e9", "ca\u2060fe\u0301"])
def test_a_word_is_found_however_unicode_spells_it(wanted: str, written: str) -> None:
    (place,) = find_word(f"the {written} here", 0, wanted)
    assert place.word == written
    assert find_word(f"the {written}s here", 0, wanted) == []


def test_a_letter_is_not_found_without_its_accent() -> None:
    assert find_word("cafe\u0301", 0, "cafe") == []


@pytest.mark.parametrize("text", ["Zei\u00adtung", "Zei\u2060tung", "Zei\u00adtung\u00ad"])
def test_invisible_characters_do_not_part_a_word(text: str) -> None:
    assert [o.word for o in find_word(f"die {text} da", 0, "zeitung")] == [text]
    assert find_word(f"die {text} da", 0, "tung") == []
    assert len(word_starts(f"die {text} da")) == 3
    assert [text[a:b] for a, b, kind in find_units(text) if kind == "word"] == [text]


def test_a_space_of_no_width_parts_words() -> None:
    assert [o.word for o in find_word("a\u200bbank", 0, "bank")] == ["bank"]


def test_a_number_sign_may_be_part_of_the_word() -> None:
    text = "C#2 is older than C and C is older"
    assert [o.start for o in find_word(text, 0, "C#2")] == [0]
    assert [o.start for o in find_word("C is C", 0, "C#2")] == [5]
