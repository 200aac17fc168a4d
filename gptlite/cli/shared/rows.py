"""Texts that come as rows of a table or as objects of JSON, with the words that they name and their other columns."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptlite.errors import CorpusError, LimitError
from gptlite.text.words import find_word, word_at

TEXT_COLUMNS = ("text", "sentence")
PLACE_COLUMNS = ("span", "start", "end", "word_index", "word")
LONGEST_CELL = 128 << 20  # characters


@dataclass(frozen=True)
class Row:
    """A text of a table.

    - `spans`: where its words are, if the row names any; empty where it names one that the text lacks; None where it
      names none.
    - `word`: the word that the row names, if it does.
    - `columns`: everything else in the row, by name.
    """

    text: str
    spans: list[tuple[int, int]] | None = None
    word: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])


def from_json(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Each line an object with a "text" and perhaps a "span" [start, end], a "word_index" or a "word"."""
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number:,}"
        if not line.strip():
            yield Row("")
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise CorpusError(f'{where} is not an object such as {{"text": "on the bank .", "span": [7, 11]}}.')
        yield _row(row, where)


def from_table(lines: Iterable[str], name: str, *, tabs: bool) -> Iterator[Row]:
    """Rows under the names of their columns: text or sentence, perhaps start and end, word_index or word.

    With tabs, quotes mean nothing; with commas, a cell may be quoted and then have line breaks. Raises `CorpusError`.
    """
    csv.field_size_limit(LONGEST_CELL)
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    reader = csv.reader((f"{line}\n" for line in lines), **dialect)
    first = 1  # the line in which a row begins
    names: list[str] = []
    try:
        names = [column.strip() for column in next(reader, [])]
        columns = [_known(column) for column in names]
        if not any(column in columns for column in TEXT_COLUMNS):
            raise CorpusError(
                f"{name} has no column text or sentence; its first line must name the columns, and names: "
                f"{', '.join(names[:20]) or 'none'}."
            )
        first = reader.line_num + 1
        for cells in reader:
            where, first = f"{name}, line {first:,}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) > len(columns):
                raise CorpusError(
                    f"{where} has {len(cells):,} cells, and the first line names {len(columns):,} columns; a text with "
                    f"{'a tab' if tabs else 'a comma'} in it must be {'without it' if tabs else 'in quotes'}."
                )
            yield _row(dict(zip(columns, cells, strict=False)), where, table=True)
    except csv.Error as error:
        if "end of data" in str(error) or "expected after" in str(error):
            raise CorpusError(
                f"{name}, line {first:,}: a quote is opened there that is not closed as it should be."
            ) from error
        if "field limit" in str(error):
            raise LimitError(f"{name}, line {first:,}: a cell is longer than {LONGEST_CELL >> 20} MiB.") from error
        raise CorpusError(f"{name}, line {first:,} is not a row of a table: {error}.") from error


def _known(column: str) -> str:
    """The name of a column; those with a meaning in lower case."""
    return column.lower() if column.lower() in (*TEXT_COLUMNS, *PLACE_COLUMNS) else column


def _row(row: dict[str, Any], where: str, *, table: bool = False) -> Row:
    """The text of a row, with its words if it names any. In a table an empty cell is one that is missing."""
    places = {name: row.pop(name, None) for name in PLACE_COLUMNS}
    texts = {name: row.pop(name, None) for name in TEXT_COLUMNS}
    text = next((value for value in texts.values() if value not in (None, "")), "" if table else texts["text"])
    if not isinstance(text, str):
        raise CorpusError(f'{where} has no "text".')
    if re.search("[\ud800-\udfff]", text):
        raise CorpusError(f"{where} holds half of a surrogate pair, which is no character.")
    if table:
        places = {name: _number(value) if name != "word" else value or None for name, value in places.items()}
    span, start, end, index, word = (places[name] for name in PLACE_COLUMNS)
    if span is None and not (start is None and end is None):
        span = [start, end]
    if span is not None:
        return Row(text, [_span(span, text, where)], columns=row)
    if index is not None:
        place = word_at(text, 0, number) if (number := _whole(index)) is not None else None
        if place is None:
            raise CorpusError(f"{where}: word_index must be from 0 to {len(text.split()) - 1}, the words of its text.")
        return Row(text, [(place.start, place.end)], columns=row)
    if word is not None:
        if not isinstance(word, str):
            raise CorpusError(f"{where}: the word must be text.")
        return Row(text, [(o.start, o.end) for o in find_word(text, 0, word)], word, row)
    return Row(text, columns=row)


def _span(span: Any, text: str, where: str) -> tuple[int, int]:
    numbers = [_whole(x) for x in span] if isinstance(span, list) and len(span) == 2 else [None, None]
    start, end = numbers
    if start is None or end is None or not 0 <= start < end <= len(text):
        raise CorpusError(
            f"{where}: a span is [start, end] with 0 <= start < end <= {len(text):,}, the characters of its text."
        )
    return start, end


def _number(cell: str | None) -> Any:
    """A cell as a whole number, also as pandas writes it in a column with gaps: 4.0."""
    match = re.fullmatch(r"(\d{1,9})(?:\.0*)?", (cell or "").strip())
    return int(match[1]) if match else cell or None


def _whole(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None
