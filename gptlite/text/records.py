"""Files of records to plain text: .jsonl, .csv, .tsv and .parquet, and .gz, .xz or .zst of any file.

A record is a document of its own: a text, a pair of a prompt and an answer, or the messages of a chat. `convert` writes
the records of a file one after the other, whatever its size, with control characters between their parts (`RECORD`,
`MARKS`), which the records themselves do not keep.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import importlib
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from gptlite.distribution import install_hint
from gptlite.errors import CorpusError, UsageError
from gptlite.text.options import TextOptions

RECORD = "\x1e"  # ends a record
MARKS = {"system": "\x1c", "user": "\x1d", "assistant": "\x1f"}  # each begins a part of a record: whose words follow
ROLES = {mark: role for role, mark in MARKS.items()}
MARK = re.compile(f"([{''.join(ROLES)}])")
CONTROLS = str.maketrans(dict.fromkeys((RECORD, *MARKS.values(), "\0"), "\ufffd"))
AS_LINES = str.maketrans(dict.fromkeys(MARKS.values(), "\n"))  # the parts as plain text shows them

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".xz", ".zst")
PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("source", "target"))
EXPECTED = "text, prompt and completion, question and answer, instruction and output, source and target, or messages"
LONGEST_RECORD = 64 << 20  # bytes of a line
PARQUET_ROWS = 1024  # that are in memory together, besides what is packed of them
ZSTD_STEP = 128  # bytes that are unpacked at once: 4 of them can stand for 128 KiB
DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True)
class Layout:
    """Which fields of a record are read, and as what.

    - `kind`: text, pairs, messages, or given (a text with conditions).
    - `fields`: the names of the text, of prompt and answer, or of the messages; `given`: those of the conditions.
    """

    kind: str
    fields: tuple[str, ...]
    given: tuple[str, ...] = ()

    def describe(self) -> str:
        """What was recognised, such as "pairs (question, answer)"."""
        noun = {"text": "texts", "given": "texts", "messages": "conversations"}.get(self.kind, "pairs")
        conditions = f", given {', '.join(self.given)}" if self.given else ""
        return f"{noun} ({', '.join(self.fields)}{conditions})"

    @property
    def has_answers(self) -> bool:
        return self.kind != "text"


@dataclass(frozen=True)
class Source:
    """The file that was converted: its size and sha256, and how many records it has; none of a compressed text."""

    path: Path
    size: int
    digest: str
    n_records: int = 0
    layout: Layout | None = None


def format_of(path: Path) -> str | None:
    """.jsonl, .csv, .tsv or .parquet, or "" for another compressed file; None for a file that is read as it is."""
    name = path.name.lower()
    packed = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    found = next((suffix for suffix in FORMATS if name.removesuffix(packed).endswith(suffix)), "")
    return found if found or packed else None


def convert(path: Path, name: str, options: TextOptions, out: IO[bytes]) -> Source:
    """Write the text of `path` to `out`: its records, or what a compressed text unpacks to.

    - `name`: of the file in messages.
    Raises `CorpusError` that names file, line and what was expected there; `UsageError` where a library is missing.
    """
    kind = format_of(path)
    with open(path, "rb") as file:
        counted = _Counted(file)
        with _unpacked(path, name, counted) as raw:
            layout, n = None, 0
            if kind == "" or (options.as_text and kind != ".parquet"):
                while block := _read(raw, name):
                    out.write(block)
            else:
                for where, record in _RECORDS[kind or ""](raw, name, options):
                    layout = layout or choose_layout(record, options, where)
                    out.write((_written(record, layout, options, where) + RECORD).encode())
                    n += 1
                if layout is None:
                    raise CorpusError(f"{name} holds no records.")
        counted.finish()
    return Source(path, counted.size, counted.digest.hexdigest(), n, layout)


class _Counted(io.RawIOBase):
    """A file whose bytes are counted and taken into a digest as they are read, each once."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.file.read(len(buffer))
        buffer[: len(block)] = block
        self.size += len(block)
        self.digest.update(block)
        return len(block)

    def finish(self) -> None:
        """Read what is left, or all of a file of which nothing was read here."""
        if not self.size:
            self.file.seek(0)
        while self.read(1 << 20):
            pass


class _Frames(io.RawIOBase):
    """What the frames of a .zst file hold, one after the other. Raises `EOFError` where the last one is cut off.

    - `library`: zstandard, whose own reader stops in silence after the first frame, and at the end of half a frame.
    """

    def __init__(self, file: BinaryIO, library: Any) -> None:
        self.file, self.library = file, library
        self.frame: Any = None
        self.packed, self.content = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.content:
            self.packed = self.packed or self.file.read(ZSTD_STEP)
            if not self.packed:
                if self.frame is not None:
                    raise EOFError
                return 0
            self._unpack()
        n = min(len(buffer), len(self.content))
        buffer[:n], self.content = self.content[:n], self.content[n:]
        return n

    def _unpack(self) -> None:
        self.frame = self.frame or self.library.ZstdDecompressor().decompressobj()
        try:
            self.content = memoryview(self.frame.decompress(self.packed))
        except self.library.ZstdError as error:
            raise OSError(str(error)) from error
        self.packed = b""
        if self.frame.eof:
            self.packed, self.frame = self.frame.unused_data, None


@contextlib.contextmanager
def _unpacked(path: Path, name: str, counted: _Counted) -> Iterator[BinaryIO]:
    suffix, raw = path.suffix.lower(), io.BufferedReader(counted, 1 << 18)
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=raw) as file:
            yield file  # type: ignore[misc]
    elif suffix == ".xz":
        with lzma.LZMAFile(raw) as file:
            yield file  # type: ignore[misc]
    elif suffix == ".zst":
        library = _library("zstandard", f"{name} is packed with zstandard")
        yield io.BufferedReader(_Frames(raw, library), 1 << 18)
    elif suffix == ".parquet":
        yield counted.file  # its table of contents stands at the end
    else:
        yield raw


def _library(module: str, why: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{why}; install what reads it: {install_hint('records')}.") from error


def _read(raw: BinaryIO, name: str, size: int = 1 << 18) -> bytes:
    try:
        return raw.read(size)
    except DAMAGED as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> CorpusError:
    return CorpusError(f"{name} cannot be unpacked, with {_unpacker(name)}: {str(error) or 'it ends too early'}.")


# -- From bytes to records: a name of the place and a mapping of fields


Records = Iterator[tuple[str, Mapping[str, Any]]]


def _lines(raw: BinaryIO, name: str, options: TextOptions) -> Iterator[str]:
    """Lines with their ends. Raises `CorpusError` for what is no text and for lines that never end."""
    errors = "replace" if options.lossy else "strict"
    codec = "utf-8-sig" if options.codec == "utf-8" else options.codec
    lines, number = io.TextIOWrapper(raw, codec, errors=errors, newline="\n"), 0
    try:
        while True:
            number += 1
            line = lines.readline(LONGEST_RECORD)
            if len(line) >= LONGEST_RECORD:
                raise CorpusError(f"{name}, line {number:,}: the line is longer than {LONGEST_RECORD >> 20} MiB.")
            if not line:
                return
            yield line
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise CorpusError(
            f"{name}, near line {number:,}: byte 0x{wrong:02X} is not {options.encoding or 'UTF-8'}; name another "
            "`encoding`, or use `lossy=True`."
        ) from error
    except DAMAGED as error:
        raise _damaged(name, error) from error
    finally:
        with contextlib.suppress(ValueError):
            lines.detach()  # whoever opened the file closes it


def _from_jsonl(raw: BinaryIO, name: str, options: TextOptions) -> Records:
    for number, line in enumerate(_lines(raw, name, options), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number:,}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise CorpusError(f"{where}: expected a JSON object, but {reason}.") from error
        if not isinstance(record, dict):
            raise CorpusError(f"{where}: expected a JSON object, not {_kind(record)}.")
        yield where, record


def _from_table(delimiter: str) -> Callable[[BinaryIO, str, TextOptions], Records]:
    def read(raw: BinaryIO, name: str, options: TextOptions) -> Records:
        csv.field_size_limit(LONGEST_RECORD)
        rows = csv.reader(_lines(raw, name, options), delimiter=delimiter, strict=True)
        head: list[str] | None = None
        begin = 1  # the line of the row
        try:
            for row in rows:
                where, begin = f"{name}, line {begin:,}", rows.line_num + 1
                if not row:
                    continue
                if head is None:
                    head = _head([cell.strip() for cell in row], where)
                elif len(row) != len(head):
                    raise CorpusError(f"{where}: expected {len(head)} columns as in the first line, not {len(row)}.")
                else:
                    yield where, dict(zip(head, row, strict=True))
        except csv.Error as error:
            raise CorpusError(f"{name}, line {begin:,}: expected a row of a table, but {error}.") from error

    return read


def _head(names: list[str], where: str) -> list[str]:
    if not all(names):
        raise CorpusError(f"{where}: expected a name for each column, and one is empty.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CorpusError(f"{where}: expected each column once, and {twice!r} stands there twice.")
    return names


def _from_parquet(raw: BinaryIO, name: str, _: TextOptions) -> Records:
    why = f"{name} is a Parquet table"
    arrow, parquet = _library("pyarrow", why), _library("pyarrow.parquet", why)
    number = 0
    try:
        content = raw if Path(name).suffix.lower() == ".parquet" else io.BytesIO(_read(raw, name, -1))
        for batch in parquet.ParquetFile(content).iter_batches(PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield f"{name}, row {number:,}", record
    except (OSError, ValueError, arrow.ArrowException) as error:
        reason = str(error).partition("\n")[0][:100].rstrip(".")
        raise CorpusError(f"{name} is not a Parquet table that can be read: {reason}.") from error


_RECORDS: dict[str, Callable[[BinaryIO, str, TextOptions], Records]] = {
    ".jsonl": _from_jsonl,
    ".csv": _from_table(","),
    ".tsv": _from_table("\t"),
    ".parquet": _from_parquet,
}

# -- From records to text


def choose_layout(record: Mapping[str, Any], options: TextOptions, where: str) -> Layout:
    """How the records of a file are read, from the fields of the first one. Raises `CorpusError`."""
    given = options.given_fields
    if options.pairs:
        return Layout("pairs", options.pair_fields, given)
    if options.text_field:
        return Layout("given" if given else "text", (options.text_field,), given)
    if "messages" in record:
        return Layout("messages", ("messages",), given)
    for names in PAIRS:
        if record.keys() >= {*names}:
            more = ("input",) if names[0] == "instruction" and "input" in record else ()
            return Layout("pairs", (names[0], *more, names[1]), given)
    if "text" in record:
        return Layout("given" if given else "text", ("text",), given)
    found = ", ".join(str(name)[:30] for name in list(record)[:6]) or "none"
    raise CorpusError(
        f"{where}: expected the fields {EXPECTED}, and it has {found}; name others with `pairs` or `text_field`, or "
        "read the file as plain text with `as_text=True`."
    )


def header(conditions: Mapping[str, str]) -> str:
    """What a model is told of the conditions of a text: a line for each."""
    return "\n".join(f"{name}: {value}" for name, value in conditions.items())


def _written(record: Mapping[str, Any], layout: Layout, options: TextOptions, where: str) -> str:
    """A record as it is kept. Raises `CorpusError` where it does not fit the layout."""

    def text_of(name: str, *, empty: bool = False) -> str:
        return _text(record, name, where, options, empty=empty)

    if layout.kind == "text":
        return text_of(layout.fields[0])
    parts = [("system", header({name: _condition(record, name, where, options) for name in layout.given}))]
    parts = parts if layout.given else []
    if layout.kind == "given":
        parts += [("assistant", text_of(layout.fields[0]))]
    elif layout.kind == "pairs":
        prompt, *more, answer = layout.fields
        asked = [text_of(prompt), *(text_of(name, empty=True) for name in more)]
        parts += [("user", "\n".join(filter(None, asked))), ("assistant", text_of(answer))]
    else:
        parts = _messages(record.get("messages"), parts, where, options)
    return "".join(MARKS[role] + content for role, content in parts)


def _messages(found: Any, parts: list[tuple[str, str]], where: str, options: TextOptions) -> list[tuple[str, str]]:
    """Roles and contents of a conversation, after `parts`."""
    if isinstance(found, str):  # a cell of a table
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(found)
    if not isinstance(found, list) or not found:
        raise CorpusError(f"{where}: expected messages to be a list with an object each, not {_kind(found)}.")
    for number, message in enumerate(found, 1):
        at = f"{where}, message {number}"
        if not isinstance(message, dict):
            raise CorpusError(f"{at}: expected an object with role and content, not {_kind(message)}.")
        role = message.get("role")
        if role not in MARKS:
            raise CorpusError(f"{at}: expected the role system, user or assistant, not {_kind(role)}.")
        if role == "system" and number > 1:
            raise CorpusError(f"{at}: expected the role system in the first message only.")
        content = _text(message, "content", at, options)
        if role == "system" and parts:  # conditions and a system message are one part
            parts = [("system", f"{parts[0][1]}\n{content}")]
        else:
            parts = [*parts, (str(role), content)]
    if parts[-1][0] != "assistant":
        raise CorpusError(f"{where}: expected the last message to be the assistant's.")
    if not any(role == "user" for role, _ in parts):
        raise CorpusError(f"{where}: expected a message of the user before the assistant's.")
    return parts


def _text(record: Mapping[str, Any], name: str, where: str, options: TextOptions, *, empty: bool = False) -> str:
    if name not in record:
        raise CorpusError(f"{where}: expected the field {name!r}, which is missing.")
    value = record[name]
    if value is None and empty:
        return ""
    if not isinstance(value, str):
        raise CorpusError(f"{where}: expected a text in {name!r}, not {_kind(value)}.")
    if not (value.strip() or empty):
        raise CorpusError(f"{where}: expected a text in {name!r}, which is empty.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: {name!r} holds half of a character.") from error
    value = value if options.keep_line_ends else value.replace("\r\n", "\n")
    return value.translate(CONTROLS)


def _condition(record: Mapping[str, Any], name: str, where: str, options: TextOptions) -> str:
    value = record.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return " ".join(_text(record, name, where, options).split())


def _kind(value: Any) -> str:
    """A value in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        noun = "a list" if isinstance(value, list) else "an object"
        return noun if value else f"an empty {noun.split()[1]}"
    if isinstance(value, (int, float)):
        return f"the number {value}"[:40]
    return repr(value[:30]) if isinstance(value, str) else type(value).__name__  # of Parquet, such as bytes or date


def parts_of(record: str) -> list[tuple[str, str]]:
    """(role, content) of each part of a record that `convert` wrote."""
    _, *found = MARK.split(record)
    return [(ROLES[mark], content) for mark, content in zip(found[::2], found[1::2], strict=True)]


def _unpacker(name: str) -> str:
    """The program whose format the end of the name stands for."""
    return {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}.get(Path(name).suffix.lower(), "its suffix")
