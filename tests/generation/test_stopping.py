"""Where a text ends: stop strings, sentences, paragraphs, lines - whatever pieces the text comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlite.errors import UsageError
from gptlite.generation.stopping import StopFilter, Stopping

# -- Stop strings

LETTERS = st.text("ab\n", max_size=30)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@pytest.mark.row("G09", "G10")
@given(chunks=st.lists(st.text("ab\n", max_size=5), max_size=15), stop=STOPS)
def test_a_stop_string_never_gets_through_and_nothing_else_is_lost(chunks: list[str], stop: list[str]) -> None:
    whole = "".join(chunks)
    stop_filter = StopFilter(stop)
    out = ""
    for chunk in chunks:
        out += stop_filter.push(chunk)
        # What is out cannot be taken back: it must hold nothing of a stop string that completes later.
        assert not any(s in out for s in stop)
    out += stop_filter.finish()
    assert not any(s in out for s in stop)
    if stop_filter.stopped:
        assert any(whole.startswith(s, len(out)) for s in stop)
    else:
        assert out == whole


@pytest.mark.row("G09")
@given(text=LETTERS, stop=STOPS)
def test_no_more_is_held_back_than_needed(text: str, stop: list[str]) -> None:
    stop_filter = StopFilter(stop)
    stop_filter.push(text)
    if not stop_filter.stopped:
        held = stop_filter.held
        assert held == "" or any(s.startswith(held) and s != held for s in stop)


def test_after_a_stop_nothing_comes() -> None:
    stop_filter = StopFilter(["."])
    assert (stop_filter.push("one. two"), stop_filter.push(" three"), stop_filter.finish()) == ("one", "", "")


# -- Sentences, paragraphs, lines


def cut(text: str, unit: str, size: int = 1, stop: tuple[str, ...] = ()) -> tuple[str, bool]:
    """What gets through of a text in pieces of `size` characters, and whether it was stopped."""
    stopping, out = Stopping(stop, unit), ""
    for at in range(0, len(text), size):
        out += stopping.push(text[at : at + size])
        if stopping.stopped:
            return out, True
    return out + stopping.finish(), stopping.stopped


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("She sat. He left.", "She sat."),
        ("She sat .\nHe left .", "She sat ."),
        (" and left! Then", " and left!"),
        ("Why? Because", "Why?"),
        ("Really?! Yes", "Really?!"),
        ("Well... I think", "Well..."),
        ("Well… I think", "Well…"),
        ("“Go.” He went.", "“Go.”"),
        ('He said "go." Then', 'He said "go."'),
        ("(She sat.) Then", "(She sat.)"),
        ("„Geh!“ Er ging.", "„Geh!“"),
        ("Pi is 3.14 or so. Yes", "Pi is 3.14 or so."),
        ("Mr. Smith met J. R. R. Tolkien, e.g. in St. Ives. Then", "Mr. Smith met J. R. R. Tolkien, e.g. in St. Ives."),
        ("So do I. Then", "So do I."),
        ("他走了。她也走了。", "他走了。"),
        ("「行くの？」と言った", "「行くの？」"),
        ("真的！？好", "真的！？"),
        ("वह गया। वह", "वह गया।"),
        ("هل ذهب؟ نعم", "هل ذهب؟"),
        ("وہ گیا۔ وہ", "وہ گیا۔"),
        ("Գնաց։ Եկավ", "Գնաց։"),
        ("A heading\n\nThe text. More", "A heading"),
        ("\n\nThe text. More", "\n\nThe text."),
        (". The next one. More", "."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 99])
def test_a_sentence_ends_behind_its_full_stop(text: str, sentence: str, size: int) -> None:
    assert cut(text, "sentence", size) == (sentence, True)


@pytest.mark.parametrize("text", ["no end", "3.14", "Mr. ", "a.b", " \n ", "He said ", "end.", "end. ”x"[:4]])
def test_text_that_ends_before_its_sentence_is_all_there(text: str) -> None:
    assert cut(text, "sentence") == (text, False)


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("line", "one two\nthree", "one two"),
        ("line", "one \r\nthree", "one"),
        ("line", "\n \none\ntwo", "\n \none"),
        ("paragraph", "one\ntwo. three\n\nfour", "one\ntwo. three"),
        ("paragraph", "\n\none\n \t\ntwo", "\n\none"),
        ("paragraph", "one\r\n\r\ntwo", "one"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 99])
def test_lines_and_paragraphs_end_before_their_line_break(unit: str, text: str, expected: str, size: int) -> None:
    assert cut(text, unit, size) == (expected, True)


def test_a_document_has_no_end_of_its_own() -> None:
    text = "One. Two.\n\nThree.\n"
    assert cut(text, "document") == (text, False)


PIECES = st.lists(st.sampled_from([*"aI.! \n”", "Mr", "。", "」", "…", "\n\n", "3"]), max_size=25)


@given(PIECES, st.sampled_from(["sentence", "paragraph", "line"]), st.lists(st.integers(0, 40), max_size=8))
def test_how_a_text_is_cut_changes_nothing(pieces: list[str], unit: str, cuts: list[int]) -> None:
    text = "".join(pieces)
    whole = cut(text, unit, len(text) + 1)
    assert cut(text, unit) == whole
    stopping, out, at = Stopping((), unit), "", 0
    for end in [*sorted(cuts), len(text)]:
        out += stopping.push(text[at:end])
        at = max(at, end)
    assert (out + stopping.finish(), stopping.stopped) == whole
    assert text.startswith(whole[0]) and (whole[0] == text or whole[1])


def test_a_long_row_of_full_stops_is_one_end() -> None:
    assert cut("." * 500 + " then", "sentence") == ("." * 500, True)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("One. Two END", "END", "One."),
        ("One END two.", "END", "One "),
        ("One EN. Two", "END", "One EN."),
        ("One. Two", ".", "One"),
    ],
)
@pytest.mark.parametrize("size", [1, 99])
def test_what_comes_first_ends_the_text(text: str, stop: str, expected: str, size: int) -> None:
    assert cut(text, "sentence", size, (stop,)) == (expected, True)


def test_in_what_is_skipped_nothing_ends() -> None:
    stopping = Stopping(["END"], "sentence")
    assert stopping.skip("One. END Mr") == "One. END Mr"
    assert stopping.push(". Two. Three") == ". Two."
    assert stopping.stopped


def test_a_sentence_that_ends_where_skipping_ends_is_enough() -> None:
    stopping = Stopping((), "sentence")
    stopping.skip("One.")
    assert (stopping.push(" Two. Three"), stopping.stopped) == ("", True)


@pytest.mark.row("G10")
@pytest.mark.parametrize(("stop", "unit"), [(["end", ""], "document"), ([], "word"), ([], "")])
def test_what_ends_no_text_is_a_usage_error(stop: list[str], unit: str) -> None:
    with pytest.raises(UsageError, match="`stop"):
        Stopping(stop, unit)
