"""How much of a text stands, character for character, in the text that a model was trained on, and where.

For every character of a text: the longest run from there on that stands somewhere in the training text. This gives the
longest copied run, and the share of the text that lies in copied n-grams of characters, a measure that knows no words
and so serves every script. People repeat each other too, so a share says little until it stands beside that of held-out
text of the same length (McCoy et al. 2023, "How much do language models copy from their training data?").

The text is short and the training text long, so the short one is indexed, and the long one passes by once:

1. A rolling hash finds where the training text has a seed of the text, 8 or 16 characters: at few of its places.
2. From there, all places at once are followed through the suffix array of the text, a character at a time.
3. What is known of one suffix holds for its neighbours as far as they agree with it.

So nothing is kept on disk, and memory hardly grows with the training text. Of 100 MB, the check took 3 s and 96 MB;
tokenizing took 35 s and 120 MB, and a suffix array of all of it by libdivsufsort 13 s and 500 MB, text included, before
anything is looked up (benchmarks/copies.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gptlite.randomness import mix
from gptlite.text.corpus import Piece, Text
from gptlite.text.words import UNSPACED

# Characters of the n-grams that are counted: in English about 5, 10 and 20 words. A character of a script without
# spaces says more; there the same words take 10, 20 and 40.
LENGTHS, UNSPACED_LENGTHS = (25, 50, 100), (10, 20, 40)
PIECES, LONGEST_PIECE = 16, 20_000  # of held-out text that are measured, and characters of one
DEEP = 256  # characters from which on matches are followed one by one
SHOWN_RUNS = 3  # of each text whose places are looked up
BLOCK = 1 << 19  # characters of training text looked at together
BUCKET_BITS = 22  # of the rolling hash
BOUNDARY = "\ud800"  # between documents: half a pair of surrogates, which no file holds
NO_CHARACTER = 0x110000  # the first of the codes that end the texts of an index
WEIGHTS = np.array([mix(i) for i in range(max(LENGTHS))], dtype=np.uint64)


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
    spans = [longest_runs(found, lengths[1]) for found in matches[: len(texts)]]
    passages = [text[start:end] for text, found in zip(texts, spans, strict=True) for start, end in found]
    sources = iter(locate(passages, train))
    runs = [
        tuple(Run(start, end, text[start:end], next(sources)) for start, end in found)
        for text, found in zip(texts, spans, strict=True)
    ]
    copies = [
        Copies(len(found), int(found.max(initial=0)), {n: share_in_runs(found, n) for n in lengths})
        for found in matches
    ]
    return Report(
        lengths,
        tuple(Copies(c.characters, c.longest, c.shares, r) for c, r in zip(copies, runs, strict=False)),
        tuple(copies[len(texts) :]),
    )


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


def share_in_runs(matches: np.ndarray, n: int) -> float:
    """Of a text with these `match_lengths` (N,): the share of characters in runs of at least n that were found."""
    starts = np.flatnonzero(matches >= n)
    edges = np.zeros(len(matches) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + matches[starts], -1)
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


# Finding


def match_lengths(texts: Sequence[str], train: Text, seed: int) -> list[np.ndarray]:
    """For each text, and each of its characters: how long the longest run from there on is that stands in `train`.

    Exact where the run has at least `seed` characters (a power of two); shorter ones count as none, unless the text has
    no others: then its longest run is exact too, and every one that has more than half of its length.
    """
    found = _match(texts, train, seed)
    while seed > 1 and (rest := [i for i, text in enumerate(texts) if text and found[i].max() < seed]):
        seed //= 2
        for i, better in zip(rest, _match([texts[i] for i in rest], train, seed), strict=True):
            found[i] = better
    return found


def _match(texts: Sequence[str], train: Text, seed: int) -> list[np.ndarray]:
    index = _Index(texts, seed)
    best = np.zeros(len(index.suffixes), dtype=np.int64)
    if len(index.seeds):
        for codes, n_starts in _stretches(train, max(seed, *map(len, texts))):
            ranks, lengths = index.follow(codes, n_starts)
            np.maximum.at(best, ranks, lengths)
    matches = index.spread(best)
    matches[matches < seed] = 0  # of these, only some were seen
    ends = np.cumsum([len(text) + 1 for text in texts])
    return [matches[end - len(text) - 1 : end - 1] for text, end in zip(texts, ends, strict=True)]


def _stretches(text: Text, reach: int) -> Iterator[tuple[np.ndarray, int]]:
    """Codes of a text, and how many of them have `reach` more behind them, or the end; each is such a one once."""
    held: list[str] = []
    size = 0
    for first, block in text.characters():
        held += [BOUNDARY, block] if first else [block]
        size += len(block) + 1
        if size >= BLOCK + 2 * reach:
            joined = "".join(held)
            yield _codes(joined), len(joined) - reach
            held, size = [joined[-reach:]], reach
    joined = "".join(held) + BOUNDARY
    yield _codes(joined), len(joined)


def _codes(text: str) -> np.ndarray:
    """The code points (N,) of a text."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)


class _Index:
    """Several texts of M characters, an end after each included, as a suffix array that begins at their seeds.

    - `codes` (M,): the texts, each with an end that no other text has.
    - `suffixes` (M,): where the suffixes begin, in the order of what they say; a place in it is a rank.
    - `common` (M - 1,): how many codes two neighbours agree in.
    - `seeds` (G, seed): the different seeds; ranks [low, high) of the suffixes that begin with each.
    """

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        texts = [text.replace(BOUNDARY, "\udfff") for text in texts]  # neither stands in any training text
        ends = [np.array([NO_CHARACTER + i], dtype=np.uint32) for i in range(len(texts))]
        self.seed = seed
        self.codes = np.concatenate([part for t, end in zip(texts, ends, strict=True) for part in (_codes(t), end)])
        self.suffixes, self.common = _sort_suffixes(self.codes)
        self._collect_seeds()

    def _collect_seeds(self) -> None:
        n_windows = max(0, len(self.codes) - self.seed + 1)
        low = np.flatnonzero(np.append(True, self.common < self.seed))
        high = np.append(low[1:], len(self.codes))
        ends = np.flatnonzero(self.codes >= NO_CHARACTER)
        first = self.suffixes[low]
        whole = ends[np.searchsorted(ends, first)] - first >= self.seed
        low, high, first = low[whole], high[whole], first[whole]
        windows = sliding_window_view(self.codes, self.seed) if n_windows else np.empty((0, self.seed), np.uint32)
        prints = _fingerprint(windows[first])
        order = np.argsort(prints)
        self.prints, self.low, self.high = prints[order], low[order], high[order]
        self.seeds = windows[first[order]]
        self.has_bucket = np.zeros(1 << BUCKET_BITS, dtype=bool)
        self.has_bucket[_buckets(self.codes, self.seed)[first]] = True

    def follow(self, codes: np.ndarray, n_starts: int) -> tuple[np.ndarray, np.ndarray]:
        """For places among the first `n_starts` of `codes`: a rank, and how many codes its suffix shares with them.

        Of places whose match only goes on with that of the place before, no more is said than is known by then.
        """
        at = np.flatnonzero(self.has_bucket[_buckets(codes, self.seed)[:n_starts]])
        windows = sliding_window_view(codes, self.seed)[at] if len(at) else self.seeds[:0]
        group = np.minimum(np.searchsorted(self.prints, _fingerprint(windows)), len(self.prints) - 1)
        real = (self.seeds[group] == windows).all(axis=1)
        at, low, high = at[real], self.low[group[real]], self.high[group[real]]
        lengths = np.full(len(at), self.seed)
        active, depth = np.arange(len(at)), self.seed
        while len(active):
            place, size = at[active], high[active] - low[active]
            wanted = codes[place + depth]
            lower = self._first_from(low[active], high[active], depth, wanted)
            upper = self._first_from(lower, high[active], depth, wanted + 1)
            longer = lower < upper
            # Where the suffixes that match here are all preceded by the match of the place before, they go on with it.
            implied = np.zeros(len(active), dtype=bool)
            implied[1:] = longer[:-1] & (place[1:] == place[:-1] + 1) & ((upper - lower)[:-1] == size[1:])
            depth += 1
            grown = active[longer]
            low[grown], high[grown], lengths[grown] = lower[longer], upper[longer], depth
            active = active[longer & ~implied]
            if depth >= DEEP:  # few are left: what a suffix shares with nobody else is compared at once
                alone = high[active] - low[active] == 1
                for i in active[alone].tolist():
                    rest = self.codes[self.suffixes[low[i]] + depth :]
                    lengths[i] = depth + _count_equal(rest, codes[at[i] + depth :])
                active = active[~alone]
        return low, lengths

    def _first_from(self, low: np.ndarray, high: np.ndarray, depth: int, wanted: np.ndarray) -> np.ndarray:
        """The first of the ranks [low, high) whose suffix has at least `wanted` at `depth`, else `high`; each (K,)."""
        low, high = low.copy(), high.copy()
        while len(open_ := np.flatnonzero(low < high)):
            middle = (low[open_] + high[open_]) // 2
            below = self.codes[self.suffixes[middle] + depth] < wanted[open_]
            low[open_[below]] = middle[below] + 1
            high[open_[~below]] = middle[~below]
        return low

    def spread(self, best: np.ndarray) -> np.ndarray:
        """The longest match (M,) of each place in the texts, from what was found at some ranks (M,)."""
        best = self._share_with_neighbours(best)
        matches = np.empty_like(best)
        matches[self.suffixes] = best
        places = np.arange(len(matches))
        matches = np.maximum.accumulate(matches + places) - places  # one character on, a match is one shorter
        best = self._share_with_neighbours(matches[self.suffixes])
        matches[self.suffixes] = best
        return matches

    def _share_with_neighbours(self, best: np.ndarray) -> np.ndarray:
        values, common = best.tolist(), self.common.tolist()
        for i in range(1, len(values)):
            values[i] = max(values[i], min(values[i - 1], common[i - 1]))
        for i in range(len(values) - 2, -1, -1):
            values[i] = max(values[i], min(values[i + 1], common[i]))
        return np.array(values, dtype=np.int64)


def _count_equal(one: np.ndarray, other: np.ndarray) -> int:
    """How many elements two arrays have in common at their beginning."""
    start, step, end = 0, DEEP, min(len(one), len(other))
    while start < end:
        size = min(step, end - start)
        unequal = one[start : start + size] != other[start : start + size]
        if unequal.any():
            return start + int(unequal.argmax())
        start, step = start + size, 2 * step
    return end


def _sort_suffixes(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The suffix array (M,) of codes whose last stands nowhere else, and how many codes neighbours share (M - 1,).

    By doubling (Manber & Myers 1993): the order of stretches of 2n codes follows from that of stretches of n.
    """
    levels = [np.unique(codes, return_inverse=True)[1]]  # [t][i]: the rank of the 2**t codes that begin at i
    while levels[-1].max() + 1 < len(codes):
        step = 1 << (len(levels) - 1)
        following = np.append(levels[-1][step:] + 1, np.zeros(step, dtype=np.int64))
        levels.append(np.unique(levels[-1] * (len(codes) + 1) + following, return_inverse=True)[1])
    suffixes = np.argsort(levels[-1])
    one, other = suffixes[:-1].copy(), suffixes[1:].copy()
    common = np.zeros(len(one), dtype=np.int64)
    for t in range(len(levels) - 2, -1, -1):
        equal = levels[t][one] == levels[t][other]
        for places in (one, other, common):
            places[equal] += 1 << t
    return suffixes, common


def _buckets(codes: np.ndarray, n: int) -> np.ndarray:
    """A hash of `BUCKET_BITS` bits of every n codes, n a power of two: (N - n + 1,), fast rather than good."""
    hashed, factor, step = codes, 0x9E3779B1, 1
    while step < n:
        hashed = hashed[:-step] * np.uint32(factor) + hashed[step:]
        factor, step = factor * factor & 0xFFFFFFFF, 2 * step
    return hashed * np.uint32(0x85EBCA6B) >> np.uint32(32 - BUCKET_BITS)


def _fingerprint(windows: np.ndarray) -> np.ndarray:
    """64 bits (K,) for each row of `windows` (K, n). Two of a million rows share theirs with a chance of 3e-8."""
    return windows.astype(np.uint64) @ WEIGHTS[: windows.shape[1]]


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
                at = stretch.find(passage, max(0, len(tail) - len(passage) + 1))
                if at >= 0 and passage not in first:
                    here = _Cursor()
                    here.line, here.column = cursor.line, cursor.column
                    here.advance(stretch[:at])
                    first[passage] = piece, here.line, here.column
                while at >= 0:
                    count[passage] += 1
                    at = stretch.find(passage, at + 1)
            tail = stretch[max(0, len(stretch) - reach) :]
            cursor.advance(stretch[: len(stretch) - len(tail)])
    return [Source(*_in_file(*first[passage]), count[passage]) for passage in passages]


def _in_file(piece: Piece, line: int, column: int) -> tuple[Path, int, int]:
    """The place in the file, of a line and column in a piece of it."""
    before = _Cursor()
    document = piece.document
    if piece.start > document.start:
        for _, block in Text((Piece(document, document.start, piece.start),)).characters():
            before.advance(block)
    return document.path, before.line + line - 1, column + (before.column - 1 if line == 1 else 0)
