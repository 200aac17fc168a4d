"""Passages of a text that also stand in another text, exactly or nearly so, and the text without them.

Both texts are compared as letters and digits alone, in one case: spaces, line ends, punctuation and capitals make no
difference. A passage counts as a copy where, of some `PASSAGE` letters in a row, at least `COPIED` lie in runs of
`GRAM` letters that stand in the other text too. In English that is about twenty words of which one in five may differ.
Removing works on lines, and in lines longer than `UNIT` bytes on parts of them.

The n-grams are compared by hashes of 64 bits, so a difference may go unnoticed once in some 10^13 comparisons. Time and
memory grow with the sum of the lengths. Removing overlaps by n-grams is usual for training data of language models
(Brown et al. 2020, appendix C, with 13 words; Lee et al. 2022, "Deduplicating Training Data Makes Language Models
Better").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gptlite.randomness import mix
from gptlite.text.corpus import CONTINUATIONS, Piece, Text
from gptlite.text.reading import Document, read_range
from gptlite.text.words import UNSPACED

# Letters and digits in the runs that are compared, in a passage, and in a line that counts though it is shorter than a
# passage; in scripts without spaces a character says more.
GRAM, PASSAGE, LINE = 16, 100, 25
UNSPACED_GRAM, UNSPACED_PASSAGE, UNSPACED_LINE = 6, 40, 10
COPIED, COPIED_LINE = 0.7, 0.9  # of a passage, and of a shorter line
UNIT = 1000  # bytes of the longest part that is removed as a whole
AT_ONCE = 1 << 22  # letters that are compared at once
SAMPLE = 1 << 16  # letters that show the script
NO_LETTERS = re.compile(r"[\W_]+")
BUCKET_BITS = 22


@dataclass(frozen=True)
class Unit:
    """A line, or a part of a longer one: bytes [start, end) of a piece of the text."""

    piece: int
    start: int
    end: int
    line: int  # of the document, from 1; in pieces that begin inside it, of the piece


@dataclass
class Removal:
    """A text without its copied passages, and what was taken out."""

    text: Text
    passages: int = 0
    n_bytes: int = 0
    first: tuple[Document, int] | None = None  # the first passage: its file and line
    by_piece: dict[int, list[tuple[int, int]]] = field(default_factory=dict, repr=False)


def remove_copies(text: Text, held_out: Text) -> Removal:
    """`text` without the passages that also stand in `held_out`, exactly or nearly so.

    Each remaining part is a piece of its own. Raises `CorpusError` when a file changed since it was opened.
    """
    letters = [normalise(unit) for _, unit in _units(held_out)]
    index = _Index("".join(letters))
    copied = _merge(list(_copied(text, index))) if len(index.prints) else []
    if not copied:
        return Removal(text)
    ranges: dict[int, list[tuple[int, int]]] = {}
    for unit in copied:
        ranges.setdefault(unit.piece, []).append((unit.start, unit.end))
    kept: list[Piece] = []
    for i, piece in enumerate(text.pieces):
        start = piece.start
        for first, last in ranges.get(i, []):
            if first > start:
                kept.append(Piece(piece.document, start, first))
            start = last
        if start < piece.end:
            kept.append(Piece(piece.document, start, piece.end))
    where = text.pieces[copied[0].piece].document, copied[0].line
    return Removal(Text(tuple(kept)), len(copied), sum(unit.end - unit.start for unit in copied), where, ranges)


def normalise(raw: bytes) -> str:
    """The letters and digits of some bytes of UTF-8, in one case and in one spelling."""
    return NO_LETTERS.sub("", unicodedata.normalize("NFKC", raw.decode("utf-8", errors="replace")).casefold())


def _merge(units: list[Unit]) -> list[Unit]:
    """Units that follow each other as one."""
    merged: list[Unit] = []
    for unit in units:
        if merged and (merged[-1].piece, merged[-1].end) == (unit.piece, unit.start):
            merged[-1] = Unit(unit.piece, merged[-1].start, unit.end, merged[-1].line)
        else:
            merged.append(unit)
    return merged


def _units(text: Text) -> Iterator[tuple[Unit, bytes]]:
    """The lines of a text, long ones in parts, with their bytes."""
    for i, piece in enumerate(text.pieces):
        held, start, line = b"", piece.start, 1
        for raw in read_range(piece.document, piece.start, piece.end):
            *lines, held = _lines(held + raw)
            for part in lines:
                for unit in _parts(part):
                    yield Unit(i, start, start + len(unit), line), unit
                    start += len(unit)
                line += part.endswith(b"\n")
        for unit in _parts(held):
            yield Unit(i, start, start + len(unit), line), unit
            start += len(unit)


def _lines(raw: bytes) -> list[bytes]:
    """The lines with their line feeds, and last what follows the last one."""
    lines = raw.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + lines[-1:]


def _parts(line: bytes) -> Iterator[bytes]:
    """A line in parts of at most about `UNIT` bytes, cut before a space, or else before a character."""
    while len(line) > UNIT:
        cut = line.rfind(b" ", UNIT // 2, UNIT)
        if cut < 0:
            cut = UNIT
            while cut > 1 and line[cut] in CONTINUATIONS:
                cut -= 1
        yield line[:cut]
        line = line[cut:]
    if line:
        yield line


class _Index:
    """The n-grams of a text of letters, and how long a passage of its script is."""

    def __init__(self, letters: str) -> None:
        sample = letters[:SAMPLE]
        unspaced = 2 * len(UNSPACED.findall(sample)) > len(sample)
        self.gram, self.passage, self.line = (
            (UNSPACED_GRAM, UNSPACED_PASSAGE, UNSPACED_LINE) if unspaced else (GRAM, PASSAGE, LINE)
        )
        self.prints = np.unique(_fingerprints(_codes(letters), self.gram))
        self.has_bucket = np.zeros(1 << BUCKET_BITS, dtype=bool)
        self.has_bucket[self.prints >> np.uint64(64 - BUCKET_BITS)] = True

    def covered(self, codes: np.ndarray) -> np.ndarray:
        """Which of `codes` (N,) lie in an n-gram that the text has."""
        prints = _fingerprints(codes, self.gram)
        at = np.flatnonzero(self.has_bucket[prints >> np.uint64(64 - BUCKET_BITS)])
        places = np.searchsorted(self.prints, prints[at])
        at = at[self.prints[np.minimum(places, len(self.prints) - 1)] == prints[at]]
        return _spread(at, self.gram, len(codes))


def _codes(letters: str) -> np.ndarray:
    return np.frombuffer(letters.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)


def _fingerprints(codes: np.ndarray, n: int) -> np.ndarray:
    """A hash (N - n + 1,) of each run of `n` codes; none where there are fewer."""
    n_runs = max(0, len(codes) - n + 1)
    prints = np.zeros(n_runs, dtype=np.uint64)
    for i in range(n):
        prints += codes[i : i + n_runs].astype(np.uint64) * np.uint64(mix(i) | 1)
    prints ^= prints >> np.uint64(29)
    return prints * np.uint64(mix(n) | 1)


def _spread(at: np.ndarray, n: int, size: int) -> np.ndarray:
    """Which of `size` places lie in a run of `n` that begins at one of `at`."""
    steps = np.zeros(size + 1, dtype=np.int32)
    np.add.at(steps, at, 1)
    np.add.at(steps, np.minimum(at + n, size), -1)
    return np.cumsum(steps[:-1]) > 0


def _copied(text: Text, index: _Index) -> Iterator[Unit]:
    """The units that are copies, in order. Stretches of text that are compared at once overlap by a passage."""
    units: list[Unit] = []
    letters: list[str] = []
    size, told = 0, -1
    numbered = enumerate(_units(text))
    offset = 0
    for number, (unit, raw) in numbered:
        units.append(unit)
        letters.append(normalise(raw))
        size += len(letters[-1])
        if size >= AT_ONCE:
            for i in _copied_units(letters, index):
                if offset + i > told:
                    told = offset + i
                    yield units[i]
            keep, overlap = 0, 0
            while keep < len(units) - 1 and overlap < 2 * index.passage:
                keep += 1
                overlap += len(letters[-keep])
            units, letters, size = units[-keep:], letters[-keep:], overlap
            offset = number + 1 - keep
    for i in _copied_units(letters, index):
        if offset + i > told:
            yield units[i]


def _copied_units(letters: list[str], index: _Index) -> Iterator[int]:
    """Places of the units that are copies; a unit without letters between two of them is one too."""
    lengths = np.array([len(unit) for unit in letters], dtype=np.int64)
    ends = np.cumsum(lengths)
    covered = index.covered(_codes("".join(letters)))
    sums = np.concatenate([[0], np.cumsum(covered)])
    n = index.passage
    dense = np.flatnonzero(sums[n:] - sums[:-n] >= COPIED * n) if len(covered) >= n else np.empty(0, dtype=np.int64)
    copied = np.concatenate([[0], np.cumsum(_spread(dense, n, len(covered)) & covered)])
    in_passages, in_runs = copied[ends] - copied[ends - lengths], sums[ends] - sums[ends - lengths]
    whole = (lengths >= index.line) & (in_runs >= COPIED_LINE * lengths)
    marked = whole | ((lengths > 0) & ((in_passages >= n / 2) | (2 * in_passages >= lengths)) & (in_passages > 0))
    lettered = np.flatnonzero(lengths > 0)
    empty = np.flatnonzero(lengths == 0)
    if len(lettered):
        before = np.searchsorted(lettered, empty) - 1
        after = np.minimum(before + 1, len(lettered) - 1)
        inside = (before >= 0) & (before + 1 < len(lettered))
        marked[empty] = inside & marked[lettered[np.maximum(before, 0)]] & marked[lettered[after]]
    yield from np.flatnonzero(marked).tolist()
