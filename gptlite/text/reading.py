"""One file of text: opened with care, checked to its last byte, and read again in parts.

A file is read once to check it (its encoding, not binary) and to take its digest. A file that has changed since then
is refused.

The text of a file is UTF-8 without its byte order mark. Where the file is in another encoding, or its CRLF line ends
are read as line feeds, it is converted whenever it is read; an index of places where conversion can begin makes every
part of it quick to reach.
"""

from __future__ import annotations

import bisect
import codecs
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gptlite.errors import CorpusError, StorageError, system_reason
from gptlite.text import encodings, formats
from gptlite.text.encodings import Converter
from gptlite.text.options import UTF8, TextOptions
from gptlite.text.records import Layout, Source

READ_SIZE = 1 << 18  # bytes read at a time
BOM = codecs.BOM_UTF8
REPLACEMENT = "\ufffd"
SEPARATORS = (b"<|endoftext|>", b"<|end_of_text|>", b"<|eot_id|>")  # that other tools write between documents


@dataclass(frozen=True)
class Document:
    """One checked file: bytes [start, size) of its text; `digest` is the sha256 of the whole file.

    In a converted document, `start` and `size` count bytes of the converted text, otherwise those of the file.
    """

    path: Path
    name: str
    start: int
    size: int
    digest: str
    stamp: tuple[int, ...]  # of the file system, to notice a change between two readings
    replaced: int = 0  # stretches of bytes that the encoding does not allow, each read as U+FFFD
    encoding: str = UTF8
    n_crlf: int = 0  # line ends CRLF that are read as line feeds
    separator: str | None = None  # ends a document inside the file
    kind: str | None = None  # of markup or data, where the file is not prose
    seen: str | None = None  # a separator of other tools that stands in the text as text
    source: Source | None = None  # the file of records, or the compressed one, that this text was made from
    index: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)  # (in the file, in the text)

    @property
    def converted(self) -> bool:
        return bool(self.encoding != UTF8 or self.n_crlf)

    @property
    def file_size(self) -> int:
        return self.source.size if self.source else self.stamp[2] or self.size

    @property
    def file(self) -> Path:
        """The file that the user has."""
        return self.source.path if self.source else self.path

    @property
    def layout(self) -> Layout | None:
        """How records are read; None for other files."""
        return self.source.layout if self.source else None


class WrongEncoding(CorpusError):
    """A file that may be text, but not in the encoding in which it is read."""


def check_file(
    path: Path, name: str | None = None, options: TextOptions | None = None, *, nul: bool = False
) -> Document:
    """Read the whole file once; raise `CorpusError` with file, offset and remedy unless it is text.

    - `options`: how it is read; UTF-8 with line feeds where none are given.
    - `nul`: let NUL pass.
    """
    options = options or TextOptions()
    name = name or str(path)
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        head = read_some(file, 16, name, 0)
        if not head:
            raise CorpusError(f"{name} is empty.")
        if kind := formats.binary_kind(head):
            raise CorpusError(f"{name} is not plain text: it looks like {kind}.")
        if options.encoding is None and (marked := formats.marked_encoding(head)):
            kind = f"{marked.upper()}; read it with `encoding={marked!r}`"
            raise WrongEncoding(f"{name} is not plain text: it looks like {kind}.")
        file.seek(0)
        checked = _Check(path, name, options, nul)
        while raw := read_some(file, READ_SIZE, name, checked.offset):
            checked.add(raw)
            if before.st_size and checked.offset > before.st_size:
                break  # it grows, perhaps as fast as it is read
        checked.add(b"", final=True)
        after = os.fstat(file.fileno())
    if _stamp(before) != _stamp(after):
        raise _changed(name)
    return checked.document(_stamp(after))


class _Check:
    """What is known of a file after the blocks that were added."""

    def __init__(self, path: Path, name: str, options: TextOptions, nul: bool) -> None:
        self.path, self.name, self.options, self.nul = path, name, options, nul
        self.digest = hashlib.sha256()
        errors = "replace" if options.lossy else "strict"
        self.decoder = codecs.getincrementaldecoder(options.codec)(errors)
        self.converter = Converter(options.codec, line_feeds=not options.keep_line_ends, lossy=options.lossy)
        self.offset = self.size = self.lines = self.replaced = 0  # size: of the text
        self.tails = b"", b""  # the last bytes of the file, and of the text
        self.start, self.kind, self.seen = 0, None, None
        self.n_separators = 0
        self.index = [(0, 0)]

    def add(self, raw: bytes, final: bool = False) -> None:
        utf8 = self.options.codec == UTF8
        content = decode(self.decoder, raw, self, final=final)
        if not self.nul:
            self._refuse_nul(raw if utf8 else content.encode(UTF8, "replace"))
        self.replaced += content.count(REPLACEMENT)
        if utf8:  # those that stand in the file itself
            self.replaced -= (self.tails[0] + raw).count(REPLACEMENT.encode())
        text = self.converter.feed(raw, final)
        if not self.size and text:
            self.start = len(BOM) if text.startswith(BOM) else 0
            if not (self.options.as_text or self.options.noted):
                self.kind = formats.markup_kind(content, self.path)
        self._look_for_separators(text)
        self.digest.update(raw)
        self.lines += content.count("\n")
        self.offset += len(raw)
        self.size += len(text)
        self.tails = raw[-2:], (self.tails[1] + text)[-1024:]
        if not final and (pending := self.converter.n_pending()) is not None:
            self.index.append((self.offset - pending, self.size))

    def _refuse_nul(self, text: bytes) -> None:
        at = text.find(b"\x00")
        if at >= 0:
            raise CorpusError(
                f"{self.name} looks binary: NUL byte at offset {self.offset + at:,}; if it is text all the same, use "
                "`lossy=True`."
            )

    def _look_for_separators(self, text: bytes) -> None:
        if self.options.separator is not None:
            wanted = self.options.separator.encode()
            tail = self.tails[1][len(self.tails[1]) - len(wanted) + 1 :] if len(wanted) > 1 else b""
            self.n_separators += (tail + text).count(wanted)
        elif self.seen is None:
            both = self.tails[1] + text
            self.seen = next((mark.decode() for mark in SEPARATORS if mark in both), None)

    def document(self, stamp: tuple[int, ...]) -> Document:
        converted = self.converter.n_crlf or self.options.codec != UTF8
        return Document(
            self.path,
            self.name,
            self.start,
            self.size,
            self.digest.hexdigest(),
            stamp,
            self.replaced,
            encoding=self.options.codec,
            n_crlf=self.converter.n_crlf,
            separator=self.options.separator if self.n_separators else None,
            kind=self.kind,
            seen=self.seen,
            index=tuple(self.index) if converted else (),
        )


def decode(decoder: codecs.IncrementalDecoder, raw: bytes, checked: _Check, final: bool = False) -> str:
    """The next characters of a file that is being checked. Raises `CorpusError` with the place of a wrong byte."""
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(raw, final)
    except UnicodeDecodeError as error:
        at = checked.offset - pending + error.start
        line = 1 + checked.lines + raw[: max(0, error.start - pending)].count(b"\n")
        byte = error.object[error.start]
        where = f"byte 0x{byte:02X} at offset {at:,} (line {line:,})"
        if checked.options.encoding is not None:
            raise WrongEncoding(f"{checked.name} is not {checked.options.encoding}: {where}.") from None
        raise WrongEncoding(f"{checked.name} is not UTF-8: {where}; {_advice(checked.path, at)}") from None


def _advice(path: Path, at: int) -> str:
    """Which other encodings the file may be in; the sample ends after the wrong byte at offset `at`."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, at - encodings.SAMPLE // 2))
            file.readline()
            sample = file.read(encodings.SAMPLE) if file.tell() <= at else b""
            file.seek(0)
            whole = iter(lambda: file.read(READ_SIZE), b"")
            return encodings.advice(sample or file.read(encodings.SAMPLE), whole)
    except OSError:
        return "read it with `lossy=True`, or convert it to UTF-8 first."


def read_range(document: Document, start: int, end: int, read_size: int = READ_SIZE) -> Iterator[bytes]:
    """Bytes [start, end) of the text of a file, in parts.

    Raises `CorpusError` when it is not the file that was checked.
    """
    try:
        with open_regular(document.path) as file:
            parts = _read_converted if document.converted else _read_plain
            left = end - start
            for raw in parts(file, document, start, end, read_size):
                left -= len(raw)
                yield raw
            status = os.fstat(file.fileno())
    except OSError as error:
        raise CorpusError(f"cannot read {document.name}: {system_reason(error)}.") from error
    if left or _stamp(status) != document.stamp:
        raise _changed(document.name)


def _read_plain(file: BinaryIO, document: Document, start: int, end: int, read_size: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left and (raw := read_some(file, min(read_size, left), document.name, end - left)):
        left -= len(raw)
        yield raw


def _read_converted(file: BinaryIO, document: Document, start: int, end: int, read_size: int) -> Iterator[bytes]:
    where, position = document.index[bisect.bisect_right(document.index, start, key=lambda entry: entry[1]) - 1]
    file.seek(where)
    converter = Converter(document.encoding, line_feeds=document.n_crlf > 0, lossy=True)
    ended = False
    while position < end and not ended:
        raw = read_some(file, read_size, document.name, where)
        where, ended = where + len(raw), not raw
        text = converter.feed(raw, final=ended)
        part = text[max(0, start - position) : end - position]
        position += len(text)
        if part:
            yield part


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _changed(name: str) -> CorpusError:
    return CorpusError(f"{name} changed while it was being read; try again when nothing writes to it.")


def open_regular(path: Path) -> BinaryIO:
    """Open for reading without waiting for a writer of a pipe; only regular files are text."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorpusError(f"{path} is not a regular file; to read a pipe, use - (standard input).")
    return os.fdopen(descriptor, "rb")


def read_some(file: BinaryIO, size: int, name: str, offset: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise StorageError(
            f"cannot read {name} at offset {offset:,}: {system_reason(error)}; is its disk failing?"
        ) from error
