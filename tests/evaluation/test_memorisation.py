"""Copies of the training text: what is found is what a search by hand finds, wherever files and blocks end."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from conftest import make_text
from hypothesis import given, settings
from hypothesis import strategies as st
from support.copies import PASSAGE, longest_from, noise, open_files

from gptlite.errors import CorpusError
from gptlite.evaluation import memorisation
from gptlite.evaluation.memorisation import (
    LENGTHS,
    UNSPACED_LENGTHS,
    check,
    locate,
    longest_runs,
    share_in_runs,
)
from gptlite.text.corpus import Piece, Text

# -- What is counted


def test_shares_count_the_characters_in_long_enough_runs() -> None:
    train = open_files(d=f"{noise(500)} {PASSAGE[:60]} {noise(500, 1)} {PASSAGE[60:87]} {noise(300, 2)}")
    sample = "#" * 40 + PASSAGE[:60] + "#" * 40 + PASSAGE[60:87] + "#" * 33
    (copied,) = check([sample], train).texts
    assert LENGTHS == (25, 50, 100)
    assert copied.shares == {25: 87 / 200, 50: 60 / 200, 100: 0}
    assert [(run.start, run.end, run.text) for run in copied.runs] == [(40, 100, PASSAGE[:60])]
    assert copied.characters == 200


def test_runs_that_overlap_count_once() -> None:
    """abc and bcd are both copied, abcd is not: four characters in runs of three."""
    assert share_in_runs(np.array([3, 3, 2, 1, 0, 0, 0, 0]), 3) == 4 / 8
    assert longest_runs(np.array([3, 3, 2, 1, 0, 0, 0, 0]), 2) == [(0, 3)]


def test_random_text_is_no_copy() -> None:
    text, sample = make_text(200), noise(300)
    (copied,) = check([sample], open_files(d=text)).texts
    assert 0 < copied.longest == max(longest_from(sample, i, [text]) for i in range(300)) < 8
    assert set(copied.shares.values()) == {0}
    assert copied.runs[0].text in text


def test_a_text_from_the_training_text_is_all_copy() -> None:
    text = make_text(2000)
    (copied,) = check([text[3000:4000]], open_files(d=text)).texts
    assert copied.longest == 1000 and set(copied.shares.values()) == {1}


def test_nothing_written_is_nothing_copied() -> None:
    report = check(["", ""], open_files(d=make_text()), open_files(h=make_text(seed=1)))
    assert [(c.characters, c.longest, c.runs) for c in report.texts] == [(0, 0, ())] * 2
    assert report.held_out == () and report.share(50) == 0 and report.longest == 0


def test_all_samples_together_count_by_their_length() -> None:
    text = make_text(500)
    report = check([text[:900], noise(100)], open_files(d=text))
    assert report.share(50) == 0.9 and report.longest == 900


def test_chinese_is_measured_in_shorter_runs_and_whole_characters() -> None:
    rng = random.Random(0)
    text = "".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(4000))
    # The first character of the passage begins with the bytes that the one before it in the corpus begins with.
    train = open_files(d=text)
    (copied,) = check(["龘" * 20 + text[1000:1015] + "龘" * 15], train).texts
    assert tuple(copied.shares) == UNSPACED_LENGTHS == (10, 20, 40)
    assert (copied.longest, copied.shares[10], copied.shares[20]) == (15, 0.3, 0)
    assert copied.runs[0].source.column == 1001


def test_a_run_does_not_end_inside_a_character() -> None:
    """ö and ô begin with the same byte."""
    train = open_files(d=f"{noise(100)}{PASSAGE} schö{noise(100)}")
    (copied,) = check([f"{PASSAGE} schôn"], train).texts
    assert copied.runs[0].text == f"{PASSAGE} sch"


LINE = "=" * 70


def test_runs_without_letters_do_not_count() -> None:
    """Lines of signs, empty lines and tables of numbers are alike everywhere."""
    table = "".join(f"{i * 7919 % 1000:5}\n" for i in range(40))
    sample = f"{noise(100)}\n{LINE}\n{noise(100, 1)}\n{table}"
    train = open_files(d=f"{noise(100, 2)}\n{LINE}\n{noise(100, 3)}\n{table}")
    (copied,) = check([sample], train).texts
    assert copied.shares == {25: 0, 50: 0, 100: 0}
    assert copied.longest < 25 and all(character.isalpha() for run in copied.runs for character in run.text[1:-1])


def test_words_about_a_line_of_signs_count() -> None:
    sample = f"{LINE}{PASSAGE}{LINE}"
    (copied,) = check([sample], open_files(d=f"{noise(50)}{LINE}{PASSAGE}{LINE}{noise(50, 1)}")).texts
    assert copied.longest == len(sample)
    assert len(PASSAGE) / len(sample) < copied.shares[25] < (len(PASSAGE) + 40) / len(sample)


# -- The baseline


def test_the_baseline_is_held_out_text_of_the_same_length() -> None:
    train, text = open_files(d=make_text(300)), make_text(100, seed=1)
    report = check([noise(70), noise(50)], train, open_files(h=text))
    pieces = [text[i * len(text) // 16 :][:60] for i in range(16)]
    expected = [max(longest_from(piece, i, [make_text(300)]) for i in range(60)) for piece in pieces]
    assert [(c.characters, c.longest, c.runs) for c in report.held_out] == [(60, length, ()) for length in expected]


@pytest.mark.parametrize(("size", "n"), [(400, 1), (999, 1), (1000, 1), (1001, 1)])
def test_short_held_out_text_is_one_piece(size: int, n: int) -> None:
    held_out = open_files(h=noise(1000))
    assert [len(piece) for piece in memorisation.take_pieces(held_out, size)] == [min(size, 1000)] * (1000 // size or n)


# -- Places


def test_places_are_those_an_editor_shows() -> None:
    train = open_files(a="one\r\ntwo\r\n\r\nthe río Tajo flows\r\n", b="x\ny the río Tajo flows, the río Tajo flows")
    (source,) = locate(["río Tajo flows"], train)
    assert (source.file.name, source.line, source.column, source.count) == ("a.txt", 4, 5, 3)


def test_line_ends_are_part_of_the_text() -> None:
    train = open_files(d=f"{noise(90)}\r\n{PASSAGE}\r\n{PASSAGE}\r\n")
    (copied,) = check([f"{PASSAGE}\r\n{PASSAGE}"], train).texts
    assert copied.longest == 2 * len(PASSAGE) + 2
    (copied,) = check([f"{PASSAGE}\n{PASSAGE}"], train).texts
    assert [(run.text, run.source.count) for run in copied.runs] == [(f"\n{PASSAGE}", 2), (PASSAGE, 2)]


def test_no_run_goes_from_one_file_into_the_next() -> None:
    train = open_files(a=f"{noise(50)}{PASSAGE[:40]}", b=f"{PASSAGE[40:]}{noise(50, 1)}")
    (copied,) = check([PASSAGE], train).texts
    assert [(run.text, run.source.file.name) for run in copied.runs[:1]] == [(PASSAGE[40:], "b.txt")]


def test_half_a_surrogate_pair_is_no_boundary() -> None:
    (copied,) = check([f"\ud800{PASSAGE}\ud800"], open_files(a=PASSAGE, b=PASSAGE)).texts
    assert [(run.text, run.source.count) for run in copied.runs] == [(PASSAGE, 2)]


def test_places_in_the_later_parts_of_a_file() -> None:
    text = open_files(d="first\nsecond here\nthird here")
    (document,) = {piece.document for piece in text.pieces}
    part = Text((Piece(document, document.size - len("here\nthird here"), document.size),))
    (source, other) = locate(["here", "third"], part)
    assert (source.line, source.column, source.count) == (2, 8, 2)
    assert (other.line, other.column) == (3, 1)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab\n"), min_size=1, max_size=60), st.data())
def test_all_places_are_counted_wherever_blocks_end(text: str, data: st.DataObject) -> None:
    if not text.strip():
        return
    start = data.draw(st.integers(0, len(text) - 1))
    passage = text[start : start + data.draw(st.integers(1, 10))]
    train, characters = open_files(d=text), Text.characters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "characters", lambda self: characters(self, read_size=4))
        (source,) = locate([passage], train)
    assert source.count == sum(text.startswith(passage, i) for i in range(len(text)))
    at = text.index(passage)
    assert (source.line, source.column) == (text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def test_a_text_that_changes_meanwhile_is_an_error() -> None:
    train = open_files(d=make_text())
    Path("d.txt").write_text("something else")
    with pytest.raises(CorpusError, match="changed while it was being read"):
        check(["a sample of some length"], train)
