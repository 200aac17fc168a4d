"""Rows of a table as text, with commas or tabs between cells, which readers undo to the cells that were written.

A cell that holds the separator, a quote or a line break is quoted, and quotes in it are doubled (RFC 4180; with tabs in
the same way). Python's `csv`, pandas and R's `read.csv` and `read.delim` read such a table back row for row. What they
make of a cell is theirs: by default pandas and R take NA for a missing value, quoted or not; pass `na_filter=False` to
pandas, `na.strings=""` to R.

A spreadsheet computes a text that begins with =, +, - or @, which may run a program or send data away. Such a text gets
an apostrophe before it, after which spreadsheets show it as text, unless `raw` is true. Numbers are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

SEPARATORS = {".csv": ",", ".tsv": "\t"}
FORMULA = re.compile(r"\s*[=+@-].", re.DOTALL)
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def line(cells: Iterable[object], separator: str, *, raw: bool = False) -> str:
    """One row with its line end.

    - `cells`: texts, or numbers, which are written as `str` makes them; None is an empty cell.
    - `raw`: write texts that a spreadsheet would compute as they are.
    """
    return separator.join([_written(value, separator, raw) for value in cells]) + "\n"


def lines(rows: Iterable[Iterable[object]], separator: str, *, raw: bool = False) -> Iterator[str]:
    """The rows of a table, the names of the columns first."""
    return (line(row, separator, raw=raw) for row in rows)


def cell(text: str, separator: str, *, raw: bool = False) -> str:
    """One cell, quoted where it has to be."""
    if not raw and FORMULA.match(text) and not NUMBER.fullmatch(text):
        text = f"'{text}"
    if separator in text or '"' in text or "\n" in text or "\r" in text:
        text = text.replace('"', '""')
        return f'"{text}"'
    return text


def _written(value: object, separator: str, raw: bool) -> str:
    if isinstance(value, int | float):
        return str(value)  # needs no quotes and is no formula
    return "" if value is None else cell(str(value), separator, raw=raw)
