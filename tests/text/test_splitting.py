"""Splitting: what is held out is spread over the files, whole, and of about the size asked."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from conftest import make_text
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlite.errors import UsageError
from gptlite.text.corpus import Piece, Text
from gptlite.text.options import TextOptions
from gptlite.text.reading import check_file
from gptlite.text.splitting import SMALLEST, describe, parse_share, split


def text_of(*contents: str, options: TextOptions | None = None) -> Text:
    documents = []
    for i, content in enumerate(contents):
        path = Path(f"{i:03d}.txt")
        path.write_bytes(content.encode())
        documents.append(check_file(path, options=options or TextOptions(keep_line_ends=True)))
    return Text(tuple(Piece(d, d.start, d.size) for d in documents if d.size > d.start))


def read(text: Text) -> str:
    return "".join(block for _, block in text.blocks())


# Whole documents


def test_documents_are_held_out_whole_and_from_everywhere() -> None:
    """Not the end of the alphabet: folders of a project differ."""
    text = text_of(*(make_text(20 + i % 7, seed=i) for i in range(100)))
    found = split(text, 0.05)
    assert found.kind == "documents"
    places = [int(piece.document.name[:3]) for piece in found.held_out.pieces]
    assert 4 <= len(places) <= 6 and places[0] < 20 and places[-1] >= 80
    assert all(10 <= b - a <= 30 for a, b in itertools.pairwise(places))
    assert all(p.start == p.document.start and p.end == p.document.size for p in found.held_out.pieces)
    assert not {p.document for p in found.train.pieces} & {p.document for p in found.held_out.pieces}
    assert found.train.n_bytes + found.held_out.n_bytes == text.n_bytes
    assert split(text, 0.05) == found
    said = describe(found)
    assert said is not None and said.startswith(f"held out: {len(places)} of 100 files, spread over all of them, ")


def test_of_a_few_long_files_the_end_of_each_is_held_out() -> None:
    text = text_of(*(make_text(300, seed=i) for i in range(3)))
    found = split(text, 0.05)
    assert found.kind == "ends"
    assert [p.document.name for p in found.held_out.pieces] == ["000.txt", "001.txt", "002.txt"]
    for head, tail in zip(found.train.pieces, found.held_out.pieces, strict=True):
        assert head.end == tail.start and tail.end == tail.document.size
        size = tail.document.size
        assert 0.025 * size <= tail.end - tail.start <= 0.1 * size
    assert describe(found) == "held out: the end of 3 files, spread over all of them, 5.0% of the text."


def test_of_one_file_the_end_is_held_out_at_a_line() -> None:
    content = make_text(400)
    found = split(text_of(content), 0.05)
    assert found.kind == "ends" and describe(found) is None
    assert read(found.train) + read(found.held_out) == content
    assert read(found.train).endswith("\n")
    assert abs(found.held_out.n_bytes - 0.05 * len(content)) < 40


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.text(st.sampled_from("ab \n天é"), max_size=400), min_size=1, max_size=12),
    st.floats(0.01, 0.9),
)
def test_a_split_loses_nothing_and_keeps_to_the_share(contents: list[str], share: float) -> None:
    text = text_of(*(content for content in contents if content), "some more text " * 30)
    asked = round(share * text.n_bytes)
    try:
        found = split(text, share)
    except UsageError:
        assert asked < SMALLEST or len(text.pieces) > 1
        return
    assert asked / 2 - 1 <= found.held_out.n_bytes <= 2 * asked
    assert found.train.n_bytes + found.held_out.n_bytes == text.n_bytes
    for piece in (*found.train.pieces, *found.held_out.pieces):  # decoded strictly: no character is cut
        piece.document.path.read_bytes()[piece.start : piece.end].decode()
    assert split(text, share, found.kind) == found


# The size of what is held out


@pytest.mark.parametrize(
    "content",
    [
        "word " * 420 + "\nx\n",
        "[\n" + '{"key": "some value here"}, ' * 2400 + "\n]\n",
        "A sentence of prose on a single line. " * 300 + "\nTHE END",
        "x" * 5000 + "\n",
        "天地玄黄" * 2000 + "\n。",
    ],
    ids=["words", "json", "prose", "no boundary", "no space"],
)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_at_least_half_and_at_most_twice_the_share_is_held_out(content: str, share: float) -> None:
    text = text_of(content)
    found = split(text, share)
    asked = share * text.n_bytes
    assert asked / 2 - 1 <= found.held_out.n_bytes <= 2 * asked + 1
    assert found.train.n_bytes >= (text.n_bytes - asked) / 2 - 1
    assert read(found.train) + read(found.held_out) == content
    if " " in content:
        assert read(found.held_out)[0] == " " or read(found.train)[-1] == "\n", "no word is cut"


@pytest.mark.row("C43")
@pytest.mark.parametrize("share", [0.00001, 0.001, 0.0099])
def test_too_little_to_hold_out_is_refused_with_the_share_that_would_do(share: float) -> None:
    text = text_of("some words here\n" * 625)
    with pytest.raises(UsageError, match=r"bytes, too few to score a model; use `val='1%'` or more") as raised:
        split(text, share)
    assert f"{round(share * 10_000):,} bytes" in str(raised.value)
    assert split(text, 0.01).held_out.n_bytes >= 50


def test_a_run_that_recorded_no_kind_keeps_its_tail() -> None:
    text = text_of(*(make_text(20, seed=i) for i in range(40)))
    found = split(text, 0.05, "tail")
    assert (found.train, found.held_out) == text.split(0.05)
    assert describe(found) is None


def test_the_recorded_kind_decides() -> None:
    text = text_of(*(make_text(20, seed=i) for i in range(40)))
    assert split(text, 0.05).kind == "documents"
    assert split(text, 0.05, "ends").kind == "ends"
    assert len(split(text, 0.05, "ends").held_out.pieces) > 2


def test_a_separator_is_a_better_boundary_than_a_line() -> None:
    story = make_text(3) + "<|endoftext|>\n"
    text = text_of(story * 60, options=TextOptions(separator="<|endoftext|>"))
    found = split(text, 0.1)
    assert len(story) * 5 <= found.held_out.n_bytes <= len(story) * 7
    assert read(found.held_out).startswith(make_text(1)[:5])
    assert found.held_out.n_bytes % len(story) in (0, 1), "whole documents"


# Shares as they are written


@pytest.mark.parametrize(("val", "share"), [("5%", 0.05), ("10 %", 0.1), (0.1, 0.1), ("12.5%", 0.125), (0.9, 0.9)])
def test_shares(val: str | float, share: float) -> None:
    assert parse_share(val) == pytest.approx(share)


@pytest.mark.parametrize("val", ["val.txt", "x%", "0.1", "", "-"])
def test_names_are_no_shares(val: str) -> None:
    assert parse_share(val) is None


@pytest.mark.parametrize("val", ["0%", "91%", "-5%", "nan%", 0, 0.95, 1, -0.1])
def test_impossible_shares_are_refused(val: str | float) -> None:
    with pytest.raises(UsageError, match="more than 0% and at most 90%"):
        parse_share(val)
