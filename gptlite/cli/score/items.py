"""The texts that `gptlite score` reads: lines of a text, or rows of a table whose other columns come along."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlite.cli.shared import sources
from gptlite.errors import CorpusError, GptliteError
from gptlite.text.options import TextOptions

TEXT_COLUMNS = ("text", "sentence")
LONGEST_CELL = 1 << 27  # characters
MARK = re.compile(r"\\\||\s*\|\s*")
SPAN = re.compile(r"\s*(\d{1,9})\s*[-:,]\s*(\d{1,9})\s*")


@dataclass(frozen=True)
class Item:
    """One row: where it stands, its columns, and the text or texts to be scored.

    - `values`: all columns, unchanged; `texts`: one, or for pairs the good and the bad one.
    - `regions`: characters [start, end) of each text.
    """

    where: str
    file: str
    values: dict[str, Any]
    texts: tuple[str, ...]
    regions: tuple[list[tuple[int, int]], ...]


@dataclass
class Items:
    """The rows of files, one after the other.

    - `columns`: the names of the columns of a text; the first of them that a file has. Lines of text have one column.
    - `pairs`: the names of two columns instead, in alternatives: [("good", "bad"), ...].
    - `marked`: regions stand between | in the text; `spans_column`: or in a column, as "0-5 6-11" or [[0, 5], [6, 11]].
    - `skip_bad`: count a row that cannot be scored, in `skipped`, and go on.
    - `encoding`: of the files; None is UTF-8. `line_ends`: how CRLF inside a text is read.
    Raises `CorpusError` with file and line for a row that cannot be scored.
    """

    files: Sequence[str]
    columns: Sequence[str] = TEXT_COLUMNS
    pairs: Sequence[tuple[str, str]] = ()
    marked: bool = False
    spans_column: str | None = None
    skip_bad: bool = False
    lossy: bool = False
    encoding: str | None = None
    line_ends: sources.LineEnds = field(default_factory=sources.LineEnds)
    header: list[str] = field(default_factory=list[str])  # of the first row, without the columns of the text
    skipped: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.encoding = TextOptions(encoding=self.encoding).encoding

    def __iter__(self) -> Iterator[Item]:
        for name in self.files:
            with sources.open_text(name, "texts", self.encoding, lossy=self.lossy) as source:
                kind = Path(name).suffix.lower()
                lines = self._decoded(source, name)
                rows = {".jsonl": self._json, ".csv": self._table, ".tsv": self._table}.get(kind, self._lines)
                for where, values in rows(lines, name):
                    item = self._item(where, name, values)
                    if item is not None:
                        yield item

    def count(self) -> int | None:
        """How many rows the files have, those that cannot be scored included; None where standard input is read."""
        if "-" in self.files:
            return None
        try:
            return sum(self._count(name) for name in self.files)
        except (GptliteError, csv.Error):
            return None  # reading says what is wrong

    def _count(self, name: str) -> int:
        with sources.open_text(name, "texts", self.encoding, lossy=self.lossy) as source:
            kind = Path(name).suffix.lower()
            if kind not in (".csv", ".tsv"):
                return sum(1 for line in source if line.strip())
            csv.field_size_limit(LONGEST_CELL)
            lines = (line.decode("utf-8", errors="replace") for line in source)
            rows = csv.reader(lines, delimiter="\t" if kind == ".tsv" else ",", strict=True)
            return max(0, sum(1 for row in rows if row) - 1)

    def _decoded(self, source: Iterable[bytes], name: str) -> Iterator[str]:
        for number, line in enumerate(source, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace" if self.lossy else "strict")
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{name}, line {number:,}, is not UTF-8: {error.reason} at its byte {error.start:,}; "
                    f"{sources.advice(name, line)}"
                ) from error

    def _lines(self, lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.pairs:
            raise CorpusError(f"{name}: pairs are read from .csv, .tsv and .jsonl files with named columns.")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{name}, line {number:,}", {self.columns[0]: line.rstrip("\r\n")}

    def _json(self, lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{name}, line {number:,}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                self._refuse(f"{where}, is not JSON: {error}.")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                self._refuse(f'{where}, is not an object such as {{"text": "A sentence."}}.')

    def _table(self, lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        csv.field_size_limit(LONGEST_CELL)
        tabs = Path(name).suffix.lower() == ".tsv"
        rows = csv.reader(lines, delimiter="\t" if tabs else ",", strict=True)
        line = 1
        try:
            columns = [column.strip() for column in next(rows, [])]
            twice = {column for column in columns if columns.count(column) > 1}
            if twice:
                raise CorpusError(f"{name}: two columns are called {sorted(twice)[0]!r}.")
            while True:
                line = rows.line_num + 1
                cells = next(rows, None)
                if cells is None:
                    return
                if not cells:
                    continue
                if len(cells) != len(columns):
                    self._refuse(
                        f"{name}, line {line:,}, has {len(cells)} cells, and the first line names {len(columns)}."
                    )
                    continue
                yield f"{name}, line {line:,}", dict(zip(columns, cells, strict=True))
        except csv.Error as error:
            raise CorpusError(f"{name}, line {line:,}, begins a row that is not one of a table: {error}.") from error

    def _item(self, where: str, name: str, values: dict[str, Any]) -> Item | None:
        """The row with its texts; None for one that is skipped."""
        try:
            wanted = self._text_columns(where, values)
            texts, regions = [], []
            for column in wanted:
                text = values[column]
                if not isinstance(text, str) or re.search("[\ud800-\udfff]", text):
                    raise CorpusError(f"{where}: the column {column!r} holds no text.")
                places: list[tuple[int, int]] = []
                given, text = text, self.line_ends.read(text)
                if self.marked:
                    text, places = read_marks(text, where)
                if not text.strip():
                    raise CorpusError(f"{where}: the text is empty.")
                if self.spans_column is not None:
                    found = read_spans(values.get(self.spans_column), len(given), where, self.spans_column)
                    places = [self.line_ends.move(given, span) for span in found]
                texts.append(text)
                regions.append(places)
            others = [column for column in values if column not in wanted]
            self.header = self.header or others
            if unknown := [column for column in others if column not in self.header]:
                raise CorpusError(f"{where} has a column {unknown[0]!r} that the first row does not have.")
        except CorpusError as error:
            self._refuse(str(error))
            return None
        return Item(where, name, {c: values.get(c) for c in self.header}, tuple(texts), tuple(regions))

    def _text_columns(self, where: str, values: dict[str, Any]) -> Sequence[str]:
        alternatives = self.pairs or [(column,) for column in self.columns]
        lower = {column.lower(): column for column in values}
        for names in alternatives:
            if all(name.lower() in lower for name in names):
                return [lower[name.lower()] for name in names]
        wished = " or ".join(" and ".join(repr(name) for name in names) for names in alternatives)
        listed = ", ".join(list(values)[:20]) or "none"
        option = "" if self.pairs else "; name the column of the texts with `text_column`"
        raise CorpusError(f"{where}: there is no column {wished}; the columns are: {listed}{option}.")

    def _refuse(self, reason: str) -> None:
        if not self.skip_bad:
            raise CorpusError(f"{reason.rstrip('.')}; `skip_bad=True` goes on without such rows.")
        self.skipped.append(reason)


def read_marks(text: str, where: str) -> tuple[str, list[tuple[int, int]]]:
    r"""A text without its marks, and the regions between them: "The boy | left" is "The boy left", regions of 7 and 4.

    White space around a mark becomes one space, none stays none, so that texts without spaces can be marked; \| is the
    character. Raises `CorpusError` for an empty region.
    """
    clean, start, regions, position = "", 0, [], 0
    for match in MARK.finditer(text):
        clean += text[position : match.start()]
        position = match.end()
        if match[0] == r"\|":
            clean += "|"
            continue
        regions.append((start, len(clean)))
        if len(match[0]) > 1 and clean and not clean[-1].isspace():
            clean += " "
        start = len(clean)
    clean += text[position:]
    regions.append((start, len(clean)))
    if any(not clean[a:b].strip() for a, b in regions):
        raise CorpusError(f"{where}: each mark | of the text needs a region before it and one after it.")
    return clean, regions


def read_spans(value: Any, length: int, where: str, column: str) -> list[tuple[int, int]]:
    """The regions in a cell: "0-5 6-11", or [[0, 5], [6, 11]] in JSON. Raises `CorpusError`."""
    spans: list[Any] = []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            parts = [SPAN.fullmatch(part) for part in re.split(r"[;\s]+", value.strip())]
            value = [[int(m[1]), int(m[2])] if m else part for m, part in zip(parts, parts, strict=True)]
    if isinstance(value, list):
        spans = value if all(isinstance(span, list) for span in value) else [value]
    found = [tuple(s) for s in spans if isinstance(s, list) and len(s) == 2 and all(type(x) is int for x in s)]
    if not found or len(found) != len(spans):
        raise CorpusError(f"{where}: the column {column!r} must hold spans of characters such as 0-5 6-11.")
    if outside := [(a, b) for a, b in found if not 0 <= a < b <= length]:
        raise CorpusError(
            f"{where}: the span {outside[0][0]}-{outside[0][1]} is outside the text, which ends at {length:,}."
        )
    return [(a, b) for a, b in found]


def in_batches(items: Iterable[Item], size: int, must_end: Callable[[], bool] = lambda: False) -> Iterator[list[Item]]:
    """Up to `size` items together."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size or must_end():
            yield batch
            batch = []
    if batch:
        yield batch
