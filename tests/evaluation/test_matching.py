"""Runs in common with a long text: found as by a search by hand, wherever files and blocks end, in bounded time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_text
from hypothesis import given, settings
from hypothesis import strategies as st
from support.copies import PASSAGE, longest_from, noise, open_files

from gptlite.evaluation import matching
from gptlite.evaluation.matching import match_lengths
from gptlite.evaluation.memorisation import check, locate
from gptlite.randomness import mix
from gptlite.text.corpus import Text

# -- Every length, against a search by hand

LETTERS = (
    st.text(st.sampled_from("ab"), max_size=40)
    | st.text(st.just("a"), max_size=40)
    | st.text(st.sampled_from("aé河🙂\r\n"), max_size=30)
)


@pytest.mark.parametrize(
    ("seed", "deep", "stride"), [(1, 256, 64), (2, 3, 64), (4, 1, 3), (1, 1, 64), (2, 1, 1), (1, 2, 5)]
)
def test_every_match_is_as_long_as_a_search_by_hand_finds_it(
    seed: int, deep: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "BLOCK", 7)
    monkeypatch.setattr(matching, "DEEP", deep)
    monkeypatch.setattr(matching, "STRIDE", stride)

    @settings(max_examples=80, deadline=None)
    @given(st.lists(LETTERS, min_size=1, max_size=3), st.lists(LETTERS.filter(str.strip), min_size=1, max_size=3))
    def holds(texts: list[str], documents: list[str]) -> None:
        for old in Path.cwd().glob("*.txt"):
            old.unlink()
        train = open_files(**{f"d{i}": document for i, document in enumerate(documents)})
        characters = Text.characters
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Text, "characters", lambda self: characters(self, read_size=3))
            found = match_lengths(texts, train, seed)
        for text, matches in zip(texts, found, strict=True):
            expected = [longest_from(text, i, documents) for i in range(len(text))]
            known = seed
            while 1 < known > max(expected, default=0):  # then shorter seeds are tried
                known //= 2
            assert [e if e >= known else 0 for e in expected] == [m if m >= known else 0 for m in matches]
            assert all(m in (0, e) for m, e in zip(matches, expected, strict=True))

    holds()


def test_a_copy_is_found_at_every_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "BLOCK", 256)
    for offset in range(0, 600, 7):
        train = open_files(d=noise(offset) + PASSAGE + noise(600 - offset, seed=1))
        (copied,) = check([f"0123{PASSAGE}4567"], train).texts
        assert (copied.longest, copied.runs[0].start, copied.runs[0].source.column) == (len(PASSAGE), 4, offset + 1)


def test_a_long_copy_among_many_that_look_like_it() -> None:
    """A grammar whose sentences are all alike in part; one stretch of them is there word for word."""
    text = make_text(3000, seed=1)
    train = open_files(d=text)
    sample = make_text(20, seed=2) + text[50_000:58_000] + make_text(20, seed=3)
    start = len(make_text(20, seed=2))
    (matches,) = match_lengths([sample], train, 16)
    assert matches.max() >= 8000
    for i in (0, 100, start - 9, start, start + 5000, start + 7990, len(sample) - 30):
        expected = longest_from(sample, i, [text])
        assert matches[i] == (expected if expected >= 16 else 0)


@pytest.mark.parametrize("most", [1, 1 << 19])
def test_text_that_repeats_itself_is_matched_exactly(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "MOST_FOLLOWED", most)
    monkeypatch.setattr(matching, "DEEP", 20)
    train = open_files(a="ab" * 150 + "x" + "ab" * 40 + "a" * 90, b="same line\n" * 30 + "a" * 50)
    documents = ["ab" * 150 + "x" + "ab" * 40 + "a" * 90, "same line\n" * 30 + "a" * 50]
    for sample in ("ab" * 100 + "y" + "a" * 120, "line\nsame " * 20, "a" * 60 + "ab" * 170):
        (found,) = match_lengths([sample], train, 16)
        expected = [longest_from(sample, i, documents) for i in range(len(sample))]
        assert found.tolist() == [e if e >= 16 else 0 for e in expected]


# -- Cost


def test_memory_does_not_grow_with_the_training_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "BLOCK", 1 << 16)
    peaks = []
    for n_lines in (10_000, 40_000):
        train = open_files(d="".join(f"{mix(i)} {mix(-i)}\n" for i in range(n_lines)))
        tracemalloc.start()
        match_lengths([make_text(20)], train, 16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert train.n_bytes > 1.5e6 and peaks[1] < 1.1 * peaks[0]


REPEATING: dict[str, Callable[[int], str]] = {
    "one character": lambda n: "a" * n,
    "one line": lambda n: "same line\n" * (n // 10),
    "runs of some lengths": lambda n: "".join("a" * (mix(i) % 900 + 1) + "b" for i in range(n // 450))[:n],
}


@pytest.mark.parametrize("kind", REPEATING)
def test_time_does_not_grow_with_the_product_of_the_lengths(kind: str) -> None:
    """Of 400,000 characters, where 50,000 took more than a minute when every place was followed to its end."""
    train, sample = open_files(d=REPEATING[kind](400_000)), REPEATING[kind](20_000)
    began = time.process_time()
    (copied,) = check([sample], train).texts
    assert copied.longest == len(sample) and time.process_time() - began < 20


def test_places_of_a_passage_in_repeating_text_are_counted_quickly() -> None:
    began = time.process_time()
    (source,) = locate(["a" * 20_000], open_files(d="b" + "a" * 1_000_000 + "b" + "a" * 20_001))
    assert (source.count, source.column) == (980_001 + 2, 2)
    assert time.process_time() - began < 5
