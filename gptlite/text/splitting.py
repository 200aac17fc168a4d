"""Which part of a text is held out: whole documents, spread over all of them, or the end of each.

Four kinds of split are known; a run records its own, so that it is resumed with the same one.

- "documents": whole documents, about evenly spread in the order of the files. Used for two documents or more where that
  gives at least half and at most twice the share asked.
- "ends": the end of each document. Used for a single file, and where whole documents would be too much or too little.
- "records": whole records, in stretches that are evenly spread over each file of records; other files lose their ends.
- "tail": the last bytes of the whole text, from the next start of a line on; only in runs that recorded no kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gptlite.errors import UsageError, plural
from gptlite.text.corpus import CONTINUATIONS, Piece, Text, record_start
from gptlite.text.reading import read_range

SMALLEST = 100  # bytes held out; scores on less say nothing
NEAR = 1 << 16  # bytes on either side of the place in which a boundary is looked for
LARGEST_SHARE = 0.9
MOST_STRETCHES = 256  # of records that are held out of one file
RECORDS_TOGETHER = 4  # in a stretch, where there are enough: of fewer, the boundaries decide how many are held out


@dataclass(frozen=True)
class Split:
    """A text to train on and the text held out from it, and the kind of split that made them."""

    train: Text
    held_out: Text
    kind: str


def parse_share(val: str | float, name: str = "val") -> float | None:
    """The share in `val`, such as "10%" or 0.1; None for the name of a file.

    Raises `UsageError` for a share that is not above 0 and at most 90 %, and for a number that may mean a share.
    """
    if isinstance(val, str):
        number = val.strip().removesuffix("%")
        try:
            share = float(number)
        except ValueError:
            return None
        if not val.strip().endswith("%"):
            return None
        share /= 100
    else:
        share = float(val)
    if not 0 < share <= LARGEST_SHARE:
        raise UsageError(f"`{name}` is {val}, but a share must be more than 0% and at most 90% of the text.")
    return share


def split(text: Text, share: float, kind: str | None = None) -> Split:
    """Hold out about `share` (0 to 0.9) of the bytes of `text`: at least half and at most twice as much.

    - `kind`: that of the run to resume; None chooses.
    Raises `UsageError` where the text is too short for the share.
    """
    if kind == "tail":
        return Split(*text.split(share), kind)
    asked = round(text.n_bytes * share)
    if asked < SMALLEST:
        raise UsageError(_too_little(text.n_bytes, f"{100 * share:g}% of", asked))
    if kind == "records" or (kind is None and any(piece.document.layout for piece in text.pieces)):
        train, held_out = _whole_records(text.pieces, share)
        if not _within(held_out.n_bytes, asked, text.n_bytes):
            raise UsageError(_too_little(text.n_bytes, "whole records of", held_out.n_bytes))
        return Split(train, held_out, "records")
    chosen = _whole_documents(text.pieces, share) if kind != "ends" and len(text.pieces) > 1 else set()
    held_out = Text(tuple(piece for i, piece in enumerate(text.pieces) if i in chosen))
    if kind == "documents" or _within(held_out.n_bytes, asked, text.n_bytes):
        return Split(Text(tuple(p for i, p in enumerate(text.pieces) if i not in chosen)), held_out, "documents")
    train, tails = _cut_ends(text.pieces, share)
    if not _within(tails.n_bytes, asked, text.n_bytes):
        raise UsageError(_too_little(text.n_bytes, f"the ends of {len(text.pieces):,} documents, of", tails.n_bytes))
    return Split(train, tails, "ends")


def describe(found: Split) -> str | None:
    """One line about a split of several documents; None where there is only one."""
    documents = {piece.document for piece in (*found.train.pieces, *found.held_out.pieces)}
    if found.kind == "records":
        size = found.held_out.n_bytes
        share = 100 * size / (size + found.train.n_bytes)
        return f"held out: whole records spread over the {plural(len(documents), 'file')}, {share:.1f}% of the text."
    if found.kind == "tail" or len(documents) < 2:
        return None
    n, size = len(found.held_out.pieces), found.held_out.n_bytes
    share = 100 * size / (size + found.train.n_bytes)
    what = f"{n:,} of {len(documents):,} files" if found.kind == "documents" else f"the end of {plural(n, 'file')}"
    return f"held out: {what}, spread over all of them, {share:.1f}% of the text."


def _within(size: int, asked: int, whole: int) -> bool:
    return max(asked / 2, SMALLEST / 2) <= size <= min(2 * asked, (asked + whole) / 2)


def _too_little(whole: int, what: str, size: int) -> str:
    enough = min(LARGEST_SHARE, -(-1000 * SMALLEST // max(1, whole)) / 1000)
    return (
        f"{what} the text to hold out are {size:,} bytes, too few to score a model; "
        f"use `val='{100 * enough:g}%'` or more, or a file of its own."
    )


def _whole_documents(pieces: Sequence[Piece], share: float) -> set[int]:
    """Places of the documents held out: one is taken whenever at least half of its size is due by then."""
    chosen: set[int] = set()
    due = 0.0
    for i, piece in enumerate(pieces):
        size = piece.end - piece.start
        due += share * size
        if due >= size / 2:
            chosen.add(i)
            due -= size
    return chosen


def _whole_records(pieces: Sequence[Piece], share: float) -> tuple[Text, Text]:
    """Stretches of whole records to train on, and those between them to hold out."""
    train: list[Piece] = []
    held_out: list[Piece] = []
    for piece in pieces:
        document, size = piece.document, piece.end - piece.start
        if document.layout is None or document.source is None:
            heads, tails = _cut_ends([piece], share)
            train, held_out = [*train, *heads.pieces], [*held_out, *tails.pieces]
            continue
        n_records = max(1, document.source.n_records)
        n = max(1, min(MOST_STRETCHES, int(n_records * share / RECORDS_TOGETHER)))
        start, half = piece.start, size // (2 * n_records)
        for i in range(n):
            due = piece.start + size * (i + 1) // n
            cut = max(start, record_start(piece, due - round(size * share / n) - half))
            end = piece.end if i == n - 1 else max(cut, record_start(piece, due - half))
            train += [Piece(document, start, cut)] if cut > start else []
            held_out += [Piece(document, cut, end)] if end > cut else []
            start = end
    return Text(tuple(train)), Text(tuple(held_out))


def _cut_ends(pieces: Sequence[Piece], share: float) -> tuple[Text, Text]:
    """All pieces without their ends, and the ends; what is due of a short piece is taken from the next one."""
    heads: list[Piece] = []
    tails: list[Piece] = []
    due = 0.0
    for piece in pieces:
        due += share * (piece.end - piece.start)
        cut = _boundary(piece, round(due)) if due >= 1 else piece.end
        due -= piece.end - cut
        if cut > piece.start:
            heads.append(Piece(piece.document, piece.start, cut))
        if cut < piece.end:
            tails.append(Piece(piece.document, cut, piece.end))
    return Text(tuple(heads)), Text(tuple(tails))


def _boundary(piece: Piece, asked: int) -> int:
    """Where to cut a piece so that from half to twice the `asked` bytes lie after it; its end where that cannot be.

    The nearest end of a document is preferred, then the nearest start of a line, then the nearest space, and last the
    nearest start of a character.
    """
    size = piece.end - piece.start
    target = piece.end - asked
    low = max(piece.end - 2 * asked, piece.start + max(1, (size - asked) // 2), target - NEAR)
    high = min(piece.end - (asked + 1) // 2, target + NEAR)
    if not low <= target <= high:
        return piece.end
    before = max(piece.start, low - 1024)  # a separator that ends at `low` begins before it
    raw = b"".join(read_range(piece.document, before, min(piece.end, high + 4)))
    separator = piece.document.separator
    for mark in (separator.encode() if separator else None, b"\n", b" "):
        if mark is None:
            continue
        # A line starts after its line feed; a space stays with the word after it, as the tokenizer wants it.
        places = _places(raw, mark, 0 if mark == b" " else len(mark))
        near = [before + at for at in places if low <= before + at <= high]
        if near:
            return min(near, key=lambda place: (abs(place - target), place))
    at = target - before
    while raw[at : at + 1] and raw[at] in CONTINUATIONS:
        at -= 1
    return before + at


def _places(raw: bytes, mark: bytes, shift: int) -> list[int]:
    places, at = [], raw.find(mark)
    while at >= 0:
        places.append(at + shift)
        at = raw.find(mark, at + 1)
    return places
