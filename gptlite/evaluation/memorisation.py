"""How much of a text stands, character for character, in the text that a model was trained on, and where.

For every character of a text: the longest run from there on that stands somewhere in the training text. This gives the
longest copied run, and the share of the text that lies in copied n-grams of characters, a measure that knows no words
and so serves every script. People repeat each other too, so a share says little until it stands beside that of held-out
text of the same length (McCoy et al. 2023, "How much do language models copy from their training data?").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptlite.evaluation.matching import LONGEST_SEED, match_lengths, match_seeds
from gptlite.text.corpus import Piece, Text
from gptlite.text.words import UNSPACED

# Characters of the n-grams that are counted: in English about 5, 10 and 20 words. A character of a script without
# spaces says more; there the same words take 10, 20 and 40.
LENGTHS, UNSPACED_LENGTHS = (25, 50, 100), (10, 20, 40)
PIECES, LONGEST_PIECE = 16, 20_000  # of held-out text that are measured, and characters of one
SAMPLED_PIECE, MOST_SEARCHED = 1000, 64 << 20  # characters, bytes: when held-out text is compared before training
SHOWN_RUNS = 3  # of each text whose places are looked up
LEAST_LETTERS = 0.2  # of the characters of a run: lines of signs and tables of numbers are alike everywhere


@dataclass(frozen=True)
class Source:
    """The first place of a run in the training text, line and column from 1, and at how many places it stands."""

    file: Path
    line: int
    column: int
    count: int


@dataclass(frozen=True)
class Run:
    """Characters [start, end) of a text, which stand in the training text and would not if they were one more."""

    start: int
    end: int
    text: str
    source: Source


@dataclass(frozen=True)
class Copies:
    """What of one text stands in the training text.

    - `longest`: characters of the longest copied run.
    - `shares`: for each n, the share of the characters that lie in a copied n-gram, 0 to 1.
    Runs and n-grams of which fewer than `LEAST_LETTERS` are letters, such as a line of signs, do not count.
    - `runs`: the longest ones that do not overlap, longest first; none for held-out text.
    """

    characters: int
    longest: int
    shares: dict[int, float]
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Report:
    """The copies in each text, and in each of the pieces of held-out text (none where there is no such text)."""

    lengths: tuple[int, int, int]  # characters of the n-grams
    texts: tuple[Copies, ...]
    held_out: tuple[Copies, ...]

    def share(self, n: int) -> float:
        """Of all texts together: the share of characters that lie in copied n-grams."""
        characters = sum(copies.characters for copies in self.texts)
        return sum(copies.shares[n] * copies.characters for copies in self.texts) / max(1, characters)

    @property
    def longest(self) -> int:
        return max((copies.longest for copies in self.texts), default=0)


def check(texts: Sequence[str], train: Text, held_out: Text | None = None) -> Report:
    """Look for runs of `texts` in `train`, and for runs of pieces of `held_out` as long as the texts are on average.

    - `train`, `held_out`: texts as `corpus.open_text` gives them, read block by block.
    No run reaches over the end of a document. Raises `CorpusError` when a file changed since it was opened.
    """
    lengths = choose_lengths(texts)
    written = [len(text) for text in texts if text]
    size = min(LONGEST_PIECE, round(sum(written) / max(1, len(written))))
    pieces = take_pieces(held_out, size) if held_out and size else []
    seed = 1 << (lengths[0].bit_length() - 1)
    matches = match_lengths([*texts, *pieces], train, seed)
    letters = [count_letters(text) for text in (*texts, *pieces)]
    lettered = [only_lettered(*each) for each in zip(matches, letters, strict=True)]
    spans = [longest_runs(found, lengths[1]) for found in lettered[: len(texts)]]
    passages = [text[start:end] for text, found in zip(texts, spans, strict=True) for start, end in found]
    sources = iter(locate(passages, train))
    runs = [
        tuple(Run(start, end, text[start:end], next(sources)) for start, end in found)
        for text, found in zip(texts, spans, strict=True)
    ]
    copies = [
        Copies(len(found), int(longest.max(initial=0)), {n: share_in_runs(found, n, known) for n in lengths})
        for found, longest, known in zip(matches, lettered, letters, strict=True)
    ]
    return Report(
        lengths,
        tuple(Copies(c.characters, c.longest, c.shares, r) for c, r in zip(copies, runs, strict=False)),
        tuple(copies[len(texts) :]),
    )


def share_copied(text: Text, train: Text) -> tuple[float, int]:
    """About how much of `text` (0 to 1) stands in `train` in runs of n characters or more, and that n.

    Of `text`, pieces spread over the whole are looked at, of `train` at most `MOST_SEARCHED` bytes, spread as well.
    """
    pieces = take_pieces(text, SAMPLED_PIECE)
    n = choose_lengths(pieces)[-1]
    matches = match_seeds(pieces, train.spread(MOST_SEARCHED), LONGEST_SEED)
    characters = sum(map(len, pieces))
    shares = [share_in_runs(found, n, count_letters(piece)) for found, piece in zip(matches, pieces, strict=True)]
    return sum(share * len(piece) for share, piece in zip(shares, pieces, strict=True)) / max(1, characters), n


def choose_lengths(texts: Sequence[str]) -> tuple[int, int, int]:
    """Characters of the n-grams to count in texts of this script."""
    letters = "".join("".join(texts).split())
    return UNSPACED_LENGTHS if 2 * len(UNSPACED.findall(letters)) > len(letters) else LENGTHS


def take_pieces(text: Text, size: int) -> list[str]:
    """At most 16 pieces of `size` characters, evenly spread over the text, none overlapping; all of a shorter text."""
    part = text.spread(max(1 << 20, 8 * PIECES * size))
    characters = "".join(block for _, block in part.characters())
    n = max(1, min(PIECES, len(characters) // size))
    return [characters[start : start + size] for start in (i * len(characters) // n for i in range(n))]


def count_letters(text: str) -> np.ndarray:
    """[i]: how many of the first i characters of a text (N,) are letters, (N + 1,)."""
    return np.cumsum([0, *map(str.isalpha, text)])


def only_lettered(matches: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """`matches` (N,), with 0 for the runs of which too few characters are letters (`LEAST_LETTERS`)."""
    places = np.arange(len(matches))
    return np.where(letters[places + matches] - letters[places] >= LEAST_LETTERS * matches, matches, 0)


def share_in_runs(matches: np.ndarray, n: int, letters: np.ndarray | None = None) -> float:
    """Of a text with these `match_lengths` (N,): the share of characters in n-grams that were found.

    - `letters`: those of `count_letters`, to leave out n-grams of too few letters.
    """
    starts = np.flatnonzero(matches >= n)
    if letters is not None:
        starts = starts[letters[starts + n] - letters[starts] >= LEAST_LETTERS * n]
    edges = np.zeros(len(matches) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + n, -1)
    return float((edges[:-1].cumsum() > 0).mean()) if len(matches) else 0.0


def longest_runs(matches: np.ndarray, shortest: int) -> list[tuple[int, int]]:
    """Spans of the longest runs that do not overlap, longest first: the first one, and up to two of `shortest`."""
    chosen: list[tuple[int, int]] = []
    for start in np.argsort(-matches, kind="stable").tolist():
        length = int(matches[start])
        if len(chosen) == SHOWN_RUNS or length < (shortest if chosen else 1):
            break
        if all(start >= end or start + length <= begin for begin, end in chosen):
            chosen.append((start, start + length))
    return chosen


# Places


class _Cursor:
    """Line and column of where a text has been read to, both from 1."""

    def __init__(self) -> None:
        self.line = self.column = 1

    def advance(self, text: str) -> None:
        breaks = text.count("\n")
        self.line += breaks
        self.column = len(text) - text.rfind("\n") if breaks else self.column + len(text)


def locate(passages: Sequence[str], text: Text) -> list[Source]:
    """Where each of `passages` stands first in `text`, and at how many places; all of them must stand there."""
    wanted = list(dict.fromkeys(passages))
    reach = max(map(len, wanted), default=1) - 1
    first: dict[str, tuple[Piece, int, int]] = {}
    count = dict.fromkeys(wanted, 0)
    for piece in text.pieces if wanted else ():
        cursor, tail = _Cursor(), ""
        for _, block in Text((piece,)).characters():
            stretch = tail + block
            for passage in wanted:
                at, n = _occurrences(stretch, passage, max(0, len(tail) - len(passage) + 1))
                if n and passage not in first:
                    here = _Cursor()
                    here.line, here.column = cursor.line, cursor.column
                    here.advance(stretch[:at])
                    first[passage] = piece, here.line, here.column
                count[passage] += n
            tail = stretch[max(0, len(stretch) - reach) :]
            cursor.advance(stretch[: len(stretch) - len(tail)])
    return [Source(*_in_file(*first[passage]), count[passage]) for passage in passages]


def _occurrences(text: str, passage: str, start: int) -> tuple[int, int]:
    """Where a passage stands first in `text` from `start` on, and how often, counted also where places overlap.

    In time that grows with the length of the text: where a passage follows itself at a distance of less than half its
    length, both repeat what is that long, and the end of the repetition tells how often the passage stands in it.
    """
    size, count = len(passage), 0
    first = at = text.find(passage, start)
    while at >= 0:
        count += 1
        following = text.find(passage, at + 1)
        if 0 < (period := following - at) <= size // 2:
            end = following + size
            end += _count_equal(text, end - period, end)
            count += (end - at - size) // period
            at = end - (end - at - size) % period - size  # the last of these
            following = text.find(passage, at + 1)
        at = following
    return first, count


def _count_equal(text: str, one: int, other: int) -> int:
    """How many characters from place `one` on are those from the later place `other` on."""
    equal, step = 0, 64
    while step:
        size = min(step, len(text) - other - equal)
        if size > 0 and text[one + equal : one + equal + size] == text[other + equal : other + equal + size]:
            equal += size
            step *= 2
        else:
            step = min(step, size) // 2
    return equal


def _in_file(piece: Piece, line: int, column: int) -> tuple[Path, int, int]:
    """The place in the file, of a line and column in a piece of it."""
    before = _Cursor()
    document = piece.document
    if piece.start > document.start:
        for _, block in Text((Piece(document, document.start, piece.start),)).characters():
            before.advance(block)
    return document.path, before.line + line - 1, column + (before.column - 1 if line == 1 else 0)
