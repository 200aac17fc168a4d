"""Texts, one after the other, from arguments, files and pipes, and the places of words in them."""

from __future__ import annotations

import codecs
import io
import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from gptlite.cli.shared import options, rows, sources
from gptlite.cli.shared.rows import Row
from gptlite.errors import CorpusError, GptliteError, LimitError, UsageError, system_reason
from gptlite.text.options import TextOptions
from gptlite.text.words import Occurrence, find_word, parse_marked, parts_of

EXAMPLE = 'give at least one text, such as: gptlite embed "on the river [bank] ." "into the [bank] ."'
LONGEST_LINE = 128 << 20  # bytes
READ_SIZE = 1 << 16  # bytes
AT_ONCE = 1024  # words that are embedded together
SAMPLE_OF_WORDS = 500  # that a message chooses from
T = TypeVar("T")


class Texts:
    """The texts that are arguments, then those of files: one after the other, empty ones too.

    A file has a text a line, or is a table: .jsonl, .csv or .tsv, see `rows`; - is standard input. `n_damaged` counts
    texts with bytes that are not UTF-8. Files are in `encoding`; CRLF in texts is read as `line_ends` says.
    """

    def __init__(
        self, arguments: Sequence[str], files: Sequence[str], lossy: bool = False, encoding: str | None = None,
        line_ends: sources.LineEnds | None = None,
    ) -> None:  # fmt: skip
        self.arguments = [options.check_text(text, "a text") for text in arguments]
        self.files, self.lossy, self.n_damaged = files, lossy, 0
        self.encoding = TextOptions(encoding=encoding).encoding
        self.line_ends = line_ends or sources.LineEnds()
        self.lines: Lines | None = None  # that are being read
        for i, text in enumerate(self.arguments):
            if not text.strip():
                raise UsageError(f"text {i + 1} is empty; {EXAMPLE}")
        if not arguments and not files:
            raise UsageError(EXAMPLE)

    def __iter__(self) -> Iterator[str | Row]:
        for text in self.arguments:
            if text == "-":
                yield from self._read("-")
            else:
                yield self.line_ends.read(text)
        for file in self.files:
            yield from self._read(file)

    def must_wait(self) -> bool:
        """Has the next text not been written yet by whoever writes them?"""
        return self.lines is not None and self.lines.must_wait()

    def _read(self, name: str) -> Iterator[str | Row]:
        with sources.open_text(name, "texts", self.encoding, lossy=self.lossy) as source:
            self.lines = Lines(source)
            lines = (self._decode(line, i, name) for i, line in enumerate(self.lines))
            kind = Path(name).suffix.lower()
            if kind == ".jsonl":
                yield from map(self.line_ends.read_row, rows.from_json(lines, name))
            elif kind in (".csv", ".tsv"):
                yield from map(self.line_ends.read_row, rows.from_table(lines, name, tabs=kind == ".tsv"))
            else:
                yield from lines
            self.lines = None

    def _decode(self, line: bytes, i: int, name: str) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            if not self.lossy:
                raise CorpusError(
                    f"line {i + 1:,} of the texts is not UTF-8: {error.reason} at its byte {error.start:,}; "
                    f"{sources.advice(name, line)}"
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
            raise CorpusError(f"cannot read the texts: {system_reason(error)}.") from error
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


class Found(NamedTuple):
    """One word in one text, or the text without it: then `place` is None, and `word` what was looked for.

    `is_blank`: the text is white space alone.
    """

    text_index: int
    place: Occurrence | None
    columns: Mapping[str, Any] = {}
    word: str = ""
    is_blank: bool = False


class Finder:
    """The words in one text after the other; at least one item for each text.

    - `words` to look for; without any, what stands between the marks. A row that names its word has that one.
    - `unit`: "word"; or "sentence", the whole of each text; or "token", every token, which needs `spans_of`.
    - `limit`: stop after that many words.
    - `skip_missing`: no item for a text without any.
    `n_words`, `n_empty` and `n_blank` count words, texts without any, and texts of white space. Raises `UsageError` at
    the end when no text had any.
    """

    def __init__(
        self,
        texts: Iterable[str | Row],
        words: Sequence[str],
        *,
        mark: tuple[str, str] = ("[", "]"),
        unit: str = "word",
        limit: int | None = None,
        skip_missing: bool = False,
    ) -> None:
        self.texts, self.words, self.mark, self.unit, self.limit = texts, words, mark, unit, limit
        self.skip_missing = skip_missing
        self.spans_of: Callable[[str], Sequence[tuple[int, int]]] | None = None
        self.n_words = self.n_empty = self.n_blank = 0

    def __iter__(self) -> Iterator[Found]:
        others: set[str] = set()  # some of the words that are there instead
        for i, row in enumerate(self.texts):
            row = Row(row) if isinstance(row, str) else row
            places = self._find(row, i)
            if not places:
                is_blank = not row.text.strip()
                self.n_blank += is_blank
                self.n_empty += not is_blank
                word = row.word or (self.words[0] if len(self.words) == 1 and self.unit == "word" else "")
                if not self.skip_missing:
                    yield Found(i, None, row.columns, word, is_blank)
            for place in places:
                self.n_words += 1
                yield Found(i, place, row.columns, place.word)
                if self.n_words == self.limit:
                    return
            if not self.n_words and len(others) < SAMPLE_OF_WORDS:
                others.update(row.text[:10_000].split())
        if not self.n_words:
            raise self._nothing_found(others)

    def _find(self, row: Row, i: int) -> list[Occurrence]:
        text = row.text
        if self.unit == "token":
            assert self.spans_of is not None
            return parts_of(text, i, self.spans_of(text))
        if self.unit == "sentence":
            start = len(text) - len(text.lstrip())
            return [Occurrence(i, text, start, len(text.rstrip()))] if text.strip() else []
        if row.spans is not None:
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


def check_marks(arguments: Sequence[str], words: Sequence[str]) -> None:
    """Raises `UsageError` for an argument that has none of `words`, but one in brackets."""
    for i, text in enumerate(arguments):
        if any(find_word(text, i, word) for word in words):
            continue
        try:
            marked = parse_marked(text, i)
        except UsageError:  # brackets of the text itself
            continue
        if marked:
            raise UsageError(
                f"text {i + 1} marks the word '{marked[0].word}' and has no '{words[0]}'; leave out --word, or the "
                "brackets."
            )


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
