"""Plain text files to checked documents, read in bounded memory.

Every byte is read once to check it (UTF-8, not binary) and to take its digest; after that, texts are ranges of bytes in
files, and whoever needs the characters iterates over blocks of them.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gptlite.errors import CorpusError, StorageError, UsageError
from gptlite.text import demo_language

SMALLEST_TEXT = 2048  # bytes; less teaches a model nothing
READ_SIZE = 1 << 18  # bytes read at a time
SHORTEST_STRETCH, MOST_STRETCHES = 1 << 16, 64  # bytes, and how many, when only a part of a long text is used
LONGEST_BLOCK = 1 << 22  # characters held while looking for a place to cut
BOM = codecs.BOM_UTF8
CONTINUATIONS = bytes(range(0x80, 0xC0))  # what follows the first byte of a character
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

# Files that stand together only in folders that gptlite wrote: a run, a saved step, the tokens of a text.
RUN = frozenset({"run.json", "LOCK"})
OUTPUTS = (RUN, frozenset({"config.json", "tokenizer.json"}), frozenset({"facts.json", "ids.bin"}))

# Places where GPT-2's pattern always ends a piece, so that the text on both sides tokenizes as if it stood alone:
# before a space or line end that follows a character, and between CJK punctuation and an ideograph.
SAFE_CUT = re.compile(r"(?<=\S)(?=[ \n])|(?<=[。，、；：！？])(?=[一-鿿])")


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


@dataclass(frozen=True)
class Piece:
    """Bytes [start, end) of one document."""

    document: Document
    start: int
    end: int


@dataclass(frozen=True)
class Text:
    """An ordered collection of pieces, each a document of its own for the tokenizer."""

    pieces: tuple[Piece, ...]

    @property
    def n_bytes(self) -> int:
        return sum(piece.end - piece.start for piece in self.pieces)

    @property
    def digest(self) -> str:
        """sha256 over what is in the text: changes when any byte, boundary or order of it changes."""
        h = hashlib.sha256()
        for piece in self.pieces:
            h.update(f"{piece.document.digest}:{piece.start}:{piece.end}\n".encode())
        return h.hexdigest()

    def split(self, fraction: float) -> tuple[Text, Text]:
        """Everything but the last `fraction` of the bytes, and that tail, cut at a line's start if one is near."""
        target = self.n_bytes - round(self.n_bytes * fraction)
        return self._cut(0, target), self._cut(target, self.n_bytes)

    def spread(self, max_bytes: int) -> Text:
        """All of the text, or stretches of it with about `max_bytes` together, evenly from beginning to end."""
        if self.n_bytes <= max_bytes:
            return self
        n_stretches = max(1, min(MOST_STRETCHES, max_bytes // SHORTEST_STRETCH))
        firsts = [self.n_bytes * i // n_stretches for i in range(n_stretches)]
        return Text(tuple(p for first in firsts for p in self._cut(first, first + max_bytes // n_stretches).pieces))

    def _cut(self, first: int, last: int) -> Text:
        """What lies between bytes `first` and `last`, both moved to the next line's start if one is near."""
        found: list[Piece] = []
        position = 0
        for piece in self.pieces:
            length = piece.end - piece.start
            start, end = max(0, first - position), min(length, last - position)
            if start < end:
                start = _line_start(piece, piece.start + start) if start else piece.start
                end = _line_start(piece, piece.start + end) if end < length else piece.end
                if start < end:
                    found.append(Piece(piece.document, start, end))
            position += length
        return Text(tuple(found))

    def blocks(self, read_size: int = READ_SIZE) -> Iterator[tuple[bool, str]]:
        """(starts a document, characters) for blocks that tokenize independently, whatever `read_size` is.

        Raises `CorpusError` when a file changed since it was checked.
        """
        for piece in self.pieces:
            first = True
            for block in _blocks_of(piece, read_size):
                yield first, block
                first = False

    def sample(self, max_bytes: int) -> Iterator[str]:
        """Blocks of text, all of them or about `max_bytes` evenly spread over the whole."""
        every = max(1, -(-self.n_bytes // max_bytes))
        for i, (_, block) in enumerate(self.blocks()):
            if i % every == 0:
                yield block


def open_text(
    arguments: Sequence[str],
    *,
    notice: Callable[[str], None] = lambda _: None,
    smallest: int = SMALLEST_TEXT,
    lossy: bool = False,
    called: Mapping[Path, str] | None = None,
) -> Text:
    """Check the files, folders and patterns named by `arguments` and return them as one text.

    Files come in the order of their paths, each once. In a folder, files that are not text are passed over with a
    `notice`, and so are folders that gptlite wrote; a file named directly must be text. With `lossy`, bytes that are no
    UTF-8 are read as U+FFFD, and a file named directly may hold NULs. `called` gives files another name in messages.
    Raises `CorpusError`, `StorageError` or `UsageError`.
    """
    called = called or {}
    names = ", ".join(called.get(Path(argument), argument) for argument in arguments[:3])
    names += f" and {len(arguments) - 3:,} more" if len(arguments) > 3 else ""
    if not arguments:
        raise UsageError("name at least one text file, folder or pattern, or - for standard input.")
    documents: list[Document] = []
    seen: set[tuple[int, int]] = set()
    twice: list[Path] = []
    skipped: list[Path] = []
    paths, outputs = _paths(arguments)
    for path, named in paths:
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                twice.append(path)
                continue
            documents.append(check_file(path, called.get(path), lossy=lossy, nul=lossy and named))
            seen.add((status.st_dev, status.st_ino))
        except OSError as error:
            raise CorpusError(f"cannot read {path}: {error.strerror or error}.") from error
        except CorpusError:
            if named:
                raise
            skipped.append(path)
    _report(notice, outputs, skipped, twice, documents)
    if not documents:
        raise CorpusError(f"{names}: no text files there.")
    text = Text(tuple(Piece(d, d.start, d.size) for d in documents if d.size > d.start))
    if all(not block.strip() for _, block in text.blocks()):
        raise CorpusError(f"{names}: contains only white space.")
    if text.n_bytes < smallest:
        raise CorpusError(
            f"{names}: {text.n_bytes:,} bytes of text are too few to learn from; "
            f"give at least {smallest:,} (100,000 or more make a useful model)."
        )
    return text


def _report(
    notice: Callable[[str], None],
    outputs: Sequence[Path],
    skipped: Sequence[Path],
    twice: Sequence[Path],
    documents: Sequence[Document],
) -> None:
    """Say what was left out or changed: a sentence for each kind, however many files there are."""
    marked = [d.name for d in documents if d.start]
    mended = [d.name for d in documents if d.replaced]
    replaced = sum(d.replaced for d in documents)
    for what, which in (
        ("passed over {} folder(s) that gptlite wrote", outputs),
        ("passed over {} file(s) that are not text", skipped),
        ("counted {} file(s) once that are there under another name too", twice),
        ("left out the byte order mark of {} file(s)", marked),
        (f"put {replaced:,} � for bytes that are not UTF-8 in {{}} file(s)", mended),
    ):
        if which:
            notice(f"{what.format(len(which))}, such as {which[0]}.")


@contextmanager
def opened(
    arguments: Sequence[str],
    spool: Path,
    *,
    notice: Callable[[str], None] = lambda _: None,
    smallest: int = SMALLEST_TEXT,
    lossy: bool = False,
) -> Iterator[Text]:
    """`open_text`, with standard input ("-") kept in a file of the folder `spool` for as long as the context lasts."""
    spooled: list[Path] = []
    try:
        paths = []
        for argument in arguments:
            if argument == "-" and not spooled:
                spooled.append(spool_stdin(spool))
            paths.append(str(spooled[0]) if argument == "-" else argument)
        called = dict.fromkeys(spooled, "standard input")
        yield open_text(paths, notice=notice, smallest=smallest, lossy=lossy, called=called)
    finally:
        for path in spooled:
            path.unlink(missing_ok=True)


def check_file(path: Path, name: str | None = None, *, lossy: bool = False, nul: bool = False) -> Document:
    """Read the whole file once; raise `CorpusError` with file, offset and remedy unless it is UTF-8 text.

    `lossy` lets bytes pass that are no UTF-8, and counts them; `nul` lets NUL pass.
    """
    name = name or str(path)
    with _open_regular(path) as file:
        before = os.fstat(file.fileno())
        head = _read_some(file, 16, name, 0)
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
        while raw := _read_some(file, READ_SIZE, name, offset):
            digest.update(raw)
            at = -1 if nul else raw.find(b"\x00")
            if at >= 0:
                raise CorpusError(
                    f"{name} looks binary: NUL byte at offset {offset + at:,}; if it is text all the same, add --lossy."
                )
            replaced += _decode(decoder, raw, name, offset, lines).count(REPLACEMENT)
            replaced -= (tail + raw).count(REPLACEMENT.encode())  # those that stand in the file itself
            tail = raw[-2:]
            offset += len(raw)
            if before.st_size and offset > before.st_size:
                break  # it grows, perhaps as fast as it is read
            lines += raw.count(b"\n")
        replaced += _decode(decoder, b"", name, offset, lines, final=True).count(REPLACEMENT)
        after = os.fstat(file.fileno())
    if _stamp(before) != _stamp(after):
        raise _changed(name)
    start = len(BOM) if head.startswith(BOM) else 0
    return Document(path, name, start, offset, digest.hexdigest(), _stamp(after), replaced)


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


def _paths(arguments: Iterable[str]) -> tuple[list[tuple[Path, bool]], list[Path]]:
    """(path, was it named directly?) of all files, sorted by path; and the folders that gptlite wrote, passed over.

    What a model wrote teaches it nothing: naming a file or folder of a run raises `UsageError`.
    """
    found: dict[Path, bool] = {}
    outputs: set[Path] = set()
    for argument in arguments:
        path = Path(argument)
        if glob.has_magic(argument) and not os.path.lexists(path):
            matches = [Path(p) for p in glob.glob(argument, recursive=True) if os.path.isfile(p)]
            if not matches:
                raise UsageError(f"no file matches the pattern {argument!r}.")
            ours = {run for p in matches if (run := _run_around(p))}
            inside = [p for p in matches if not ours or not _run_around(p)]
        elif run := _run_around(path):
            raise UsageError(f"{argument} is of the run {run}, which gptlite wrote itself; name a text of your own.")
        elif os.path.isdir(path):
            inside, ours = _walk(path)
            if not inside and not ours:
                raise CorpusError(f"{argument} is a folder without files.")
        else:
            found[path] = True
            continue
        outputs |= ours
        for p in inside:
            found.setdefault(p, False)
    return sorted(found.items(), key=lambda item: os.fsencode(item[0])), sorted(outputs)


def _walk(folder: Path) -> tuple[list[Path], set[Path]]:
    """The files in a folder and below, but for hidden ones; and the folders there that gptlite wrote."""

    def fail(error: OSError) -> None:
        raise CorpusError(f"cannot read {error.filename}: {error.strerror or error}.") from error

    files: list[Path] = []
    outputs: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=fail):
        if any(marks <= {*names} for marks in OUTPUTS):
            outputs.add(Path(place))
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        files += [path for path in paths if path.is_file()]
    return files, outputs


def _run_around(path: Path) -> Path | None:
    """The run directory that `path` is, or lies in."""
    for folder in (path.absolute(), *path.absolute().parents):
        if all(os.path.isfile(folder / name) for name in RUN):
            return folder
    return None


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _changed(name: str) -> CorpusError:
    return CorpusError(f"{name} changed while it was being read; try again when nothing writes to it.")


def _open_regular(path: Path) -> BinaryIO:
    """Open for reading without waiting for a writer of a pipe; only regular files are text."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorpusError(f"{path} is not a regular file; to read a pipe, use - (standard input).")
    return os.fdopen(descriptor, "rb")


def _read_some(file: BinaryIO, size: int, name: str, offset: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise StorageError(
            f"cannot read {name} at offset {offset:,}: {error.strerror or error}; is its disk failing?"
        ) from error


def _decode(
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


def _read(piece: Piece, read_size: int) -> Iterator[bytes]:
    document = piece.document
    try:
        with _open_regular(document.path) as file:
            file.seek(piece.start)
            left = piece.end - piece.start
            while left and (raw := _read_some(file, min(read_size, left), document.name, piece.end - left)):
                left -= len(raw)
                yield raw
            status = os.fstat(file.fileno())
    except OSError as error:
        raise CorpusError(f"cannot read {document.name}: {error.strerror or error}.") from error
    if left or _stamp(status) != document.stamp:
        raise _changed(document.name)


def _blocks_of(piece: Piece, read_size: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held = ""
    for raw in _read(piece, read_size):
        held += decoder.decode(raw)
        cut = _last_safe_cut(held)
        if not cut and len(held) > LONGEST_BLOCK:
            cut = len(held)  # megabytes without a boundary: cut anyway, memory stays bounded
        if cut:
            yield held[:cut]
            held = held[cut:]
    held += decoder.decode(b"", final=True)
    if held:
        yield held


def _last_safe_cut(text: str) -> int:
    """Index of the last safe cut in `text`, 0 if there is none; the end is never safe, for what follows is unknown."""
    size = 4096
    while True:
        start = max(0, len(text) - size)
        cuts = [m.start() for m in SAFE_CUT.finditer(text, start)]
        # A match at `start` itself may rest on a look-behind before the window, which finditer does see.
        cuts = [cut for cut in cuts if 0 < cut < len(text)]
        if cuts:
            return cuts[-1]
        if start == 0:
            return 0
        size *= 8


def _line_start(piece: Piece, target: int) -> int:
    """The first line start after byte `target`, or, if none is near, the first character start from there."""
    near = b"".join(_read(Piece(piece.document, target, min(piece.end, target + (1 << 16))), READ_SIZE))
    newline = near.find(b"\n")
    if newline >= 0 and target + newline + 1 < piece.end:
        return target + newline + 1
    inside = len(near) - len(near.lstrip(CONTINUATIONS))  # bytes of the character that the target is in
    return target + inside


def demo_text(directory: Path, homonyms: bool = False) -> Path:
    """A file with the language reference that ships inside CPython, about 0.4 MB of English prose about Python.

    Paragraphs that the reference repeats are written once, so that none is both trained on and held out.
    - `homonyms`: a file with sentences of `speakers` instead.
    """
    content = (
        demo_language.as_text(demo_language.make_sentences(demo_language.N_SENTENCES, 0))
        if homonyms
        else _python_reference()
    )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ("homonyms.txt" if homonyms else "python-reference.txt")
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8", newline="\n")
    return path


def _python_reference() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python was packaged without pydoc_data, the text of --demo; give a text file of your own instead."
        ) from error
    seen: set[str] = set()
    paragraphs: list[str] = []
    for topic in sorted(topics):
        for paragraph in topics[topic].strip().split("\n\n"):
            if paragraph.strip() not in seen:
                seen.add(paragraph.strip())
                paragraphs.append(paragraph)
    return "\n\n".join(paragraphs) + "\n"
