"""Where `gptlite embed` finds its texts, and the words in them."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from gptlite.cli.shared import options
from gptlite.errors import CorpusError, GptliteError, LimitError, UsageError
from gptlite.text.words import Occurrence, find_word, parse_marked, parts_of, word_at

EXAMPLE = 'give at least one text, such as: gptlite embed "on the river [bank] ." "into the [bank] ."'
LONGEST_LINE = 128 << 20  # bytes
READ_SIZE = 1 << 16  # bytes
TEXT_COLUMNS = ("text", "sentence")
AT_ONCE = 1024  # words that are embedded together
SAMPLE_OF_WORDS = 500  # that a message chooses from
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A text that came with the spans of its words."""

    text: str
    spans: list[tuple[int, int]]


class Texts:
    """The texts that are arguments, then those of a file: one after the other, empty ones too.

    A file has a text a line. In .jsonl each line is an object with a "text" and perhaps a "span" [start, end], a
    "word_index" or a "word"; in .csv and .tsv the first line names the columns: text (or sentence), perhaps start and
    end, word_index or word. A row that names no word is a text like any other.
    `n_damaged` counts those with bytes that are not UTF-8.
    """

    def __init__(self, arguments: list[str], file: str | None, lossy: bool) -> None:
        self.arguments = [options.check_text(text, "a text") for text in arguments]
        self.file, self.lossy, self.n_damaged = file, lossy, 0
        self.lines: Lines | None = None  # that are being read
        for i, text in enumerate(self.arguments):
            if not text.strip():
                raise UsageError(f"text {i + 1} is empty; {EXAMPLE}")
        if not arguments and file is None:
            raise UsageError(EXAMPLE)

    def __iter__(self) -> Iterator[str | Row]:
        for text in self.arguments:
            if text == "-":
                yield from self._read("-")
            else:
                yield text
        if self.file is not None:
            yield from self._read(self.file)

    def must_wait(self) -> bool:
        """Has the next text not been written yet by whoever writes them?"""
        return self.lines is not None and self.lines.must_wait()

    def _read(self, name: str) -> Iterator[str | Row]:
        with options.open_text(name, "texts") as source:
            self.lines = Lines(source)
            lines = (self._decode(line, i) for i, line in enumerate(self.lines))
            kind = Path(name).suffix.lower()
            if kind == ".jsonl":
                yield from (_from_json(line, f"{name}, line {i + 1:,}") for i, line in enumerate(lines))
            elif kind in (".csv", ".tsv"):
                yield from _from_table(lines, name, tabs=kind == ".tsv")
            else:
                yield from lines
            self.lines = None

    def _decode(self, line: bytes, i: int) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            if not self.lossy:
                raise CorpusError(
                    f"line {i + 1:,} of the texts is not UTF-8: {error.reason} at its byte {error.start:,}; "
                    "--lossy reads it all the same."
                ) from error
        self.n_damaged += 1
        return line.decode("utf-8", errors="replace")


class Lines:
    """Lines as soon as they are there, without their ends and without a byte order mark."""

    def __init__(self, source: BinaryIO) -> None:
        self.source: Any = source
        self.ready: deque[bytes] = deque()
        self.begun: list[bytes] = []  # pieces of a line whose end has not come
        self.n_begun, self.ended = 0, False

    def __iter__(self) -> Iterator[bytes]:
        first = True
        while True:
            while not self.ready and not self.ended:
                self._fill()
            if not self.ready:
                return
            yield self.ready.popleft().removeprefix(codecs.BOM_UTF8 if first else b"").rstrip(b"\r")
            first = False

    def must_wait(self) -> bool:
        while not self.ready and not self.ended and self._readable():
            self._fill()
        return not self.ready and not self.ended

    def _readable(self) -> bool:
        try:
            return bool(select.select([self.source], [], [], 0)[0])
        except io.UnsupportedOperation:  # bytes in memory
            return True
        except OSError:  # Windows does not say it of pipes
            return False

    def _fill(self) -> None:
        """Read what is there. Raises `CorpusError` and `LimitError`."""
        try:
            piece = self.source.read1(READ_SIZE) or b""
        except OSError as error:
            raise CorpusError(f"cannot read the texts: {error.strerror or error}.") from error
        *whole, rest = piece.split(b"\n")
        if whole:
            self.ready.extend([b"".join([*self.begun, whole[0]]), *whole[1:]])
            self.begun, self.n_begun = [], 0
        self.begun.append(rest)
        self.n_begun += len(rest)
        if self.n_begun > LONGEST_LINE or (whole and len(self.ready[-len(whole)]) > LONGEST_LINE):
            raise LimitError(f"a line of the texts is longer than {LONGEST_LINE >> 20} MiB; break it up.")
        if not piece:
            self.ended = True
            if self.n_begun:
                self.ready.append(b"".join(self.begun))


def _from_json(line: str, where: str) -> str | Row:
    if not line.strip():
        return line
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise CorpusError(f'{where} is not an object such as {{"text": "on the bank .", "span": [7, 11]}}.')
    return _row(row, where)


def _from_table(lines: Iterable[str], name: str, tabs: bool) -> Iterator[str | Row]:
    """Rows of a table. Quotes mean nothing where tabs separate."""
    quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    rows = csv.reader((f"{line}\n" for line in lines), delimiter="\t" if tabs else ",", quoting=quoting)
    try:
        columns = [column.strip().lower() for column in next(rows, [])]
        if not any(column in columns for column in TEXT_COLUMNS):
            raise CorpusError(
                f"{name} has no column text or sentence; its first line must name the columns, and names: "
                f"{', '.join(columns[:20]) or 'none'}."
            )
        for cells in rows:
            row: dict[str, Any] = {c: cell for c, cell in zip(columns, cells, strict=False) if cell}
            for number in ("start", "end", "word_index"):
                if re.fullmatch(r"\d{1,9}", row.get(number, "")):
                    row[number] = int(row[number])
            if "start" in row and "end" in row:
                row["span"] = [row["start"], row["end"]]
            row["text"] = next((row[c] for c in TEXT_COLUMNS if c in row), "")
            yield _row(row, f"{name}, line {rows.line_num:,}")
    except csv.Error as error:
        raise CorpusError(f"{name}, line {rows.line_num:,} is not a row of a table: {error}.") from error


def _row(row: dict[str, Any], where: str) -> str | Row:
    """The text of a row, with its words if it names any."""
    text, span, index, word = (row.get(name) for name in ("text", "span", "word_index", "word"))
    if not isinstance(text, str):
        raise CorpusError(f'{where} has no "text".')
    if re.search("[\ud800-\udfff]", text):
        raise CorpusError(f"{where} holds half of a surrogate pair, which is no character.")
    if span is not None:
        numbers = isinstance(span, list) and len(span) == 2 and all(type(x) is int for x in span)
        if not numbers or not 0 <= span[0] < span[1] <= len(text):
            raise CorpusError(
                f"{where}: a span is [start, end] with 0 <= start < end <= {len(text):,}, the characters of its text."
            )
        return Row(text, [(span[0], span[1])])
    if index is not None:
        place = word_at(text, 0, index) if type(index) is int else None
        if place is None:
            raise CorpusError(f"{where}: word_index must be from 0 to {len(text.split()) - 1}, the words of its text.")
        return Row(text, [(place.start, place.end)])
    if word is not None:
        if not isinstance(word, str):
            raise CorpusError(f"{where}: the word must be text.")
        return Row(text, [(o.start, o.end) for o in find_word(text, 0, word)])
    return text


class Finder:
    """The words in one text after the other, each with the number of its text; None for a text without one.

    - `words` to look for; without any, what stands between the marks.
    - `unit`: "word"; or "sentence", the whole of each text; or "token", every token, which needs `spans_of`.
    - `limit`: stop after so many.
    Raises `UsageError` at the end when no text had any.
    """

    def __init__(
        self,
        texts: Iterable[str | Row],
        words: list[str],
        *,
        mark: tuple[str, str] = ("[", "]"),
        unit: str = "word",
        limit: int | None = None,
    ) -> None:
        self.texts, self.words, self.mark, self.unit, self.limit = texts, words, mark, unit, limit
        self.spans_of: Callable[[str], Sequence[tuple[int, int]]] | None = None
        self.n_words = self.n_empty = 0

    def __iter__(self) -> Iterator[tuple[int, Occurrence | None]]:
        others: set[str] = set()  # some of the words that are there instead
        for i, row in enumerate(self.texts):
            places = self._find(row, i)
            if not places:
                self.n_empty += 1
                yield i, None
            for place in places:
                self.n_words += 1
                yield i, place
                if self.n_words == self.limit:
                    return
            if not self.n_words and len(others) < SAMPLE_OF_WORDS:
                others.update((row if isinstance(row, str) else row.text)[:10_000].split())
        if not self.n_words:
            raise self._nothing_found(others)

    def _find(self, row: str | Row, i: int) -> list[Occurrence]:
        text = row if isinstance(row, str) else row.text
        if self.unit == "token":
            assert self.spans_of is not None
            return parts_of(text, i, self.spans_of(text))
        if self.unit == "sentence":
            start = len(text) - len(text.lstrip())
            return [Occurrence(i, text, start, len(text.rstrip()))] if text.strip() else []
        if isinstance(row, Row):
            return [Occurrence(i, text, *span) for span in row.spans]
        if self.words:
            return [place for word in self.words for place in find_word(text, i, word)]
        return parse_marked(text, i, self.mark)

    def _nothing_found(self, others: set[str]) -> UsageError:
        if not others:
            return UsageError(EXAMPLE)
        if not self.words:
            if self.mark != ("[", "]"):
                return UsageError(f"no text has a word between the marks {self.mark[0]} and {self.mark[1]}.")
            return UsageError('mark the word with brackets, "the [bank] of", or name it with --word.')
        import difflib

        near = difflib.get_close_matches(self.words[0], sorted(others), n=8, cutoff=0.3) or sorted(others)[:8]
        return UsageError(f"the word '{self.words[0]}' is not in the texts; they have, for example: {', '.join(near)}.")


def in_batches(items: Iterable[T], must_wait: Callable[[], bool]) -> Iterator[list[T]]:
    """Up to 1,024 items together, and fewer when the next one has to be waited for, or is an error."""
    batch: list[T] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == AT_ONCE or must_wait():
                yield batch
                batch = []
    except GptliteError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
