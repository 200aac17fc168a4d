"""What a file holds other than prose: binary formats by their first bytes, markup and data by their first lines."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

SAMPLE = 1 << 14  # characters of a file that are looked at
COLUMNS, ROWS = 3, 4  # from which on equally long rows are taken for a table where the name says nothing

# Patterns of the first bytes of what people pass by mistake, and what to do about it.
BINARY: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip; unpack it first, for example with gunzip"),
    (b"BZh[1-9]1AY&SY", "bzip2; unpack it first with bunzip2"),
    (b"\xfd7zXZ\x00", "xz; unpack it first with unxz"),
    (b"[(]\xb5/\xfd", "zstandard; unpack it first with unzstd"),
    (b"PK\x03\x04", "a zip archive (perhaps .docx or .epub); extract its text first"),
    (b"%PDF", "a PDF; extract its text first, for example with pdftotext"),
    (b"\x89PNG", "a PNG picture"),
    (b"\x7fELF", "a program"),
    (b"PAR1\x15", "a Parquet table; export its text column first"),
    (b"SQLite format 3\x00", "an SQLite database; export its text first"),
    (b"\x80[\x02-\x05]", "a pickle; export its text with the program that wrote it"),
    (b".{4}\x00{4}{", "a model in safetensors"),  # the length of its header, and the header
    (b"GGUF.\x00{3}", "a model in GGUF"),
)
# Encodings that a byte order mark names. UTF-32 first: its mark begins with that of UTF-16.
MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
SUFFIXES = {".html": "HTML", ".htm": "HTML", ".xhtml": "HTML", ".xml": "XML"}


def binary_kind(head: bytes) -> str | None:
    """What the first 16 bytes of a file say that it is, and what to do; None for what may be text."""
    return next((kind for magic, kind in BINARY if re.match(magic, head, re.DOTALL)), None)


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte order mark names, UTF-8 excepted."""
    return next((encoding for mark, encoding in MARKS if head.startswith(mark)), None)


def markup_kind(sample: str, path: Path) -> str | None:
    """The format of a file whose keys, tags or commas would be learned as text; None for prose.

    - `sample`: the first characters of the file.
    """
    sample = sample[:SAMPLE].lstrip("\ufeff \t\r\n")
    lines = [line for line in sample.split("\n") if line.strip()]
    whole = lines[:-1] if len(lines) > 1 else lines  # the sample may end inside a line
    start = sample[:200].lower()
    if start.startswith("{\\rtf"):
        return "RTF"
    if start.startswith(("<!doctype html", "<html")) or "<html" in start:
        return "HTML"
    if start.startswith("<?xml"):
        return "XML"
    if whole and all(_is_json(line) for line in whole[:3]) and sample[0] in "{[":
        return "JSON"
    if sample[:1] in ("{", "[") and re.match(r'\{\s*"[^"\n]*"\s*:|\[\s*(\{\s*"|\[|"[^"\n]*"\s*,)', sample):
        return "JSON"
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is not None and re.search(r"<[a-zA-Z/!][^<>\n]*>", sample):
        return kind
    return next((name for name, mark in (("TSV", "\t"), ("CSV", ",")) if _is_table(whole, mark)), None)


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), (dict, list))
    except (ValueError, RecursionError):
        return False


def _is_table(lines: list[str], delimiter: str) -> bool:
    """Do all of several lines have the same number of cells, more than two, none of which begins with a space?"""
    if len(lines) < ROWS:
        return False
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return False
    lengths = {len(row) for row in rows if row}
    spaced = any(cell.startswith(" ") for row in rows for cell in row[1:])
    return len(lengths) == 1 and lengths.pop() >= COLUMNS and not spaced
