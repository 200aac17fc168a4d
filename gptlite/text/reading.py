"""One file of text: opened with care, checked to its last byte, and read again in parts.

A file is read once to check it (UTF-8, not binary) and to take its digest; a file that has changed since is refused.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gptlite.errors import CorpusError, StorageError, UsageError

READ_SIZE = 1 << 18  # bytes read at a time
BOM = codecs.BOM_UTF8
REPLACEMENT = "\ufffd"

# Patterns of the first bytes of what people pass by mistake, and what to do about it.
KINDS: tuple[tuple[bytes, str], ...] = (
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
    (b"\xff\xfe\x00\x00", "UTF-32; convert it first with iconv -f UTF-32 -t UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32; convert it first with iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16; convert it first with iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16; convert it first with iconv -f UTF-16 -t UTF-8"),
)


@dataclass(frozen=True)
class Document:
    """One checked file: bytes [start, size) of it are text; `digest` is the sha256 of the whole file."""

    path: Path
    name: str
    start: int
    size: int
    digest: str
    stamp: tuple[int, ...]  # of the file system, to notice a change between two readings
    replaced: int = 0  # stretches of bytes that are no UTF-8, each read as U+FFFD


def check_file(path: Path, name: str | None = None, *, lossy: bool = False, nul: bool = False) -> Document:
    """Read the whole file once; raise `CorpusError` with file, offset and remedy unless it is UTF-8 text.

    `lossy` lets bytes pass that are no UTF-8, and counts them; `nul` lets NUL pass.
    """
    name = name or str(path)
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        head = read_some(file, 16, name, 0)
        if not head:
            raise CorpusError(f"{name} is empty.")
        for magic, kind in KINDS:
            if re.match(magic, head, re.DOTALL):
                raise CorpusError(f"{name} is not plain text: it looks like {kind}.")
        file.seek(0)
        digest = hashlib.sha256()
        decoder = codecs.getincrementaldecoder("utf-8")("replace" if lossy else "strict")
        offset = lines = replaced = 0
        tail = b""
        while raw := read_some(file, READ_SIZE, name, offset):
            digest.update(raw)
            at = -1 if nul else raw.find(b"\x00")
            if at >= 0:
                raise CorpusError(
                    f"{name} looks binary: NUL byte at offset {offset + at:,}; if it is text all the same, add --lossy."
                )
            replaced += decode(decoder, raw, name, offset, lines).count(REPLACEMENT)
            replaced -= (tail + raw).count(REPLACEMENT.encode())  # those that stand in the file itself
            tail = raw[-2:]
            offset += len(raw)
            if before.st_size and offset > before.st_size:
                break  # it grows, perhaps as fast as it is read
            lines += raw.count(b"\n")
        replaced += decode(decoder, b"", name, offset, lines, final=True).count(REPLACEMENT)
        after = os.fstat(file.fileno())
    if _stamp(before) != _stamp(after):
        raise _changed(name)
    start = len(BOM) if head.startswith(BOM) else 0
    return Document(path, name, start, offset, digest.hexdigest(), _stamp(after), replaced)


def read_range(document: Document, start: int, end: int, read_size: int = READ_SIZE) -> Iterator[bytes]:
    """Bytes [start, end) of a file, in parts. Raises `CorpusError` when it is not the file that was checked."""
    try:
        with open_regular(document.path) as file:
            file.seek(start)
            left = end - start
            while left and (raw := read_some(file, min(read_size, left), document.name, end - left)):
                left -= len(raw)
                yield raw
            status = os.fstat(file.fileno())
    except OSError as error:
        raise CorpusError(f"cannot read {document.name}: {error.strerror or error}.") from error
    if left or _stamp(status) != document.stamp:
        raise _changed(document.name)


def spool_stdin(directory: Path) -> Path:
    """Copy standard input to a file in `directory` and return its path; the caller removes it."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("- reads standard input, but nothing is piped into it; try: cat FILES | gptlite train -")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix="stdin-", suffix=".txt", delete=False) as spool:
            path = Path(spool.name)
            try:
                while raw := sys.stdin.buffer.read(READ_SIZE):
                    spool.write(raw)
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        raise StorageError(f"cannot keep standard input in {directory}: {error.strerror or error}.") from error
    return path


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
            f"cannot read {name} at offset {offset:,}: {error.strerror or error}; is its disk failing?"
        ) from error


def decode(
    decoder: codecs.IncrementalDecoder, raw: bytes, name: str, offset: int, lines: int, final: bool = False
) -> str:
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(raw, final)
    except UnicodeDecodeError as error:
        at = offset - pending + error.start
        line = 1 + lines + raw[: max(0, error.start - pending)].count(b"\n")
        byte = error.object[error.start]
        raise CorpusError(
            f"{name} is not UTF-8: byte 0x{byte:02X} at offset {at:,} (line {line:,}); "
            "convert it first, for example with iconv -f LATIN1 -t UTF-8, or add --lossy."
        ) from None
