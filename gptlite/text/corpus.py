"""Plain text files to checked documents, read in bounded memory.

Every byte is read once to check it (UTF-8, not binary) and to take its digest; after that, texts are ranges of bytes in
files, and whoever needs the characters iterates over blocks of them.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gptlite.errors import CorpusError, UsageError, plural, system_reason
from gptlite.paths import cache_directory
from gptlite.text.files import find_files
from gptlite.text.options import TextOptions
from gptlite.text.reading import READ_SIZE, Document, WrongEncoding, check_file, open_regular, read_range
from gptlite.text.records import AS_LINES, RECORD, Layout, convert, format_of, parts_of
from gptlite.text.spool import scratch_file, spooled_stdin
from gptlite.text.tokenizer_json import SAFE_CUT

SMALLEST_TEXT = 2048  # bytes; less teaches a model nothing
SHORTEST_STRETCH, MOST_STRETCHES = 1 << 16, 64  # bytes, and how many, when only a part of a long text is used
LONGEST_BLOCK = 1 << 22  # characters held while looking for a place to cut
STANDARD_INPUT = "standard input"
CONTINUATIONS = bytes(range(0x80, 0xC0))  # what follows the first byte of a character


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
            document, how = piece.document, ""
            if document.converted:
                how += f":{document.encoding}{':lf' if document.n_crlf else ''}"
            if document.layout is not None:
                how += f":{document.layout.describe()}"
            if document.separator is not None:
                how += f":separator={document.separator!r}"
            h.update(f"{document.digest}:{piece.start}:{piece.end}{how}\n".encode())
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

    def blocks(self, read_size: int = READ_SIZE, cut: re.Pattern[str] = SAFE_CUT) -> Iterator[tuple[bool, str]]:
        """(starts a document, characters) for blocks that tokenize independently, whatever `read_size` is.

        - `cut`: where a text may be cut; that of the tokenizer (`Tokenizer.safe_cut`), or one that serves most of them.
        Raises `CorpusError` when a file changed since it was checked.
        """
        for piece in self.pieces:
            yield from _blocks_of(piece, read_size, cut)

    def characters(self, read_size: int = READ_SIZE) -> Iterator[tuple[bool, str]]:
        """(starts a piece, characters): everything that stands in the files, separators inside them too."""
        for piece in self.pieces:
            for i, part in enumerate(_characters_of(piece, read_size)):
                yield not i, part

    @property
    def layout(self) -> Layout | None:
        """That of the pairs, conversations or texts with conditions that this text consists of; None for prose.

        Raises `CorpusError` where files hold one and the other.
        """
        found = {piece.document.layout: piece.document for piece in self.pieces}
        paired = {layout.kind: document for layout, document in found.items() if layout and layout.has_answers}
        others = [document for layout, document in found.items() if not (layout and layout.has_answers)]
        if not paired:
            return None
        first, *more = paired.values()
        if others or more:
            other = (others or more)[0]
            raise CorpusError(
                f"{first.name} holds {first.layout and first.layout.describe()}, and {other.name} does not; train on "
                "files of one kind."
            )
        return first.layout

    def records(self) -> Iterator[list[tuple[str, str]]]:
        """Of each record the (role, content) of its parts."""
        for piece in self.pieces:
            held = ""
            for part in _characters_of(piece, READ_SIZE):
                *whole, held = (held + part).split(RECORD)
                yield from map(parts_of, whole)

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
    options: TextOptions | None = None,
    called: Mapping[Path, str] | None = None,
) -> Text:
    """Check the files, folders and patterns named by `arguments` and return them as one text.

    Files come in the order of their paths, each once, and of files with equal contents the first one. In a folder,
    files that are not text are passed over with a `notice`, and so are folders that gptlite wrote; a file named
    directly must be text. `called` gives files another name in messages.
    Raises `CorpusError`, `StorageError` or `UsageError`.
    """
    called, options = called or {}, options or TextOptions()
    names = ", ".join(called.get(Path(argument), argument) for argument in arguments[:3])
    names += f" and {len(arguments) - 3:,} more" if len(arguments) > 3 else ""
    if not arguments:
        raise UsageError("name at least one text file, folder or pattern, or - for standard input.")
    found = _Found(options)
    paths, found.outputs = find_files(arguments)
    for path, named in paths:
        found.add(path, named, called.get(path))
    found.report(notice)
    if not found.documents:
        if found.undecoded:
            raise CorpusError(f"{names}: no UTF-8 text files there; {found.undecoded[0][1]}")
        raise CorpusError(f"{names}: no text files there.")
    text = Text(tuple(Piece(d, d.start, d.size) for d in found.documents if d.size > d.start))
    if all(not block.strip() for _, block in text.blocks()):
        raise CorpusError(f"{names}: contains only white space.")
    if text.n_bytes < smallest:
        raise CorpusError(
            f"{names}: {text.n_bytes:,} bytes of text are too few to learn from; "
            f"give at least {smallest:,} (100,000 or more make a useful model)."
        )
    return text


class _Found:
    """The documents among the files that were added, and what there is to say about the others."""

    def __init__(self, options: TextOptions) -> None:
        self.options = options
        self.documents: list[Document] = []
        self.outputs: list[Path] = []  # folders that gptlite wrote
        self.twice: list[Path] = []
        self.copies: list[Path] = []
        self.skipped: list[Path] = []
        self.undecoded: list[tuple[Path, WrongEncoding]] = []
        self._files: set[tuple[int, int]] = set()
        self._digests: set[str] = set()

    def add(self, path: Path, named: bool, name: str | None = None) -> None:
        """Check a file; one that was not `named` directly may be something else than text."""
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in self._files:
                self.twice.append(path)
                return
            document = self._check(path, name, named)
        except OSError as error:
            raise CorpusError(f"cannot read {path}: {system_reason(error)}.") from error
        except WrongEncoding as error:
            if named:
                raise
            self.undecoded.append((path, error))
            return
        except CorpusError:
            if named:
                raise
            self.skipped.append(path)
            return
        self._files.add((status.st_dev, status.st_ino))
        if document.digest in self._digests and not self.options.keep_copies:
            self.copies.append(path)
            return
        self._digests.add(document.digest)
        self.documents.append(document)

    def _check(self, path: Path, name: str | None, named: bool) -> Document:
        if format_of(path) is None or (self.options.as_text and path.suffix.lower() in (".jsonl", ".csv", ".tsv")):
            return check_file(path, name, self.options, nul=self.options.lossy and named)
        with open_regular(path):  # what is no file is refused in the usual words
            pass
        scratch, descriptor = scratch_file(cache_directory())
        try:
            with open(scratch, "wb") as out:
                source = convert(path, name or str(path), self.options, out)
            inner = self.options if source.layout is None else TextOptions(as_text=True, keep_line_ends=True)
            checked = check_file(scratch, name or str(path), inner, nul=source.layout is not None)
        except BaseException:
            os.close(descriptor)
            raise
        separator = RECORD if source.layout else checked.separator
        document = replace(checked, digest=source.digest, source=source, separator=separator)
        weakref.finalize(document, os.close, descriptor)
        return document

    def report(self, notice: Callable[[str], None]) -> None:
        """Say what was left out or changed: a sentence for each kind, however many files there are."""

        def are(which: Sequence[object]) -> str:
            return "is" if len(which) == 1 else "are"

        documents = self.documents
        mended = [d.name for d in documents if d.replaced]
        replaced, encoding = sum(d.replaced for d in documents), self.options.encoding or "UTF-8"
        for what, noun, rest, which in (
            ("passed over", "folder", "that gptlite wrote", self.outputs),
            ("passed over", "file", f"that {are(self.skipped)} not text", self.skipped),
            ("left out", "file", f"that {are(self.twice)} there under another name too", self.twice),
            ("left out", "copy", "of another file", self.copies),
            ("left out the byte order mark of", "file", "", [d.name for d in documents if d.start]),
            (f"put {replaced:,} \ufffd for bytes that are not {encoding} in", "file", "", mended),
        ):
            if which:
                counted = f"{what} {plural(len(which), noun)} {rest}".rstrip()
                notice(f"{counted}, such as {which[0]}.")
        for layout in dict.fromkeys(d.layout for d in documents if d.layout):
            alike = [d for d in documents if d.layout == layout]
            n = sum(d.source.n_records for d in alike if d.source)
            notice(f"read {n:,} {layout.describe()} in {_count(alike)}, such as {alike[0].name}.")
        if self.undecoded:
            paths = [path for path, _ in self.undecoded]
            notice(f"passed over {_count(paths)} that {are(paths)} not {encoding}: {self.undecoded[0][1]}")
        if crlf := [d.name for d in documents if d.n_crlf]:
            notice(
                f"CRLF line ends are read as line feeds in {_count(crlf)}, such as {crlf[0]}; "
                "`keep_line_ends=True` keeps them."
            )
        if seen := [d for d in documents if d.seen]:
            notice(
                f"{seen[0].seen} stands in {_count(seen)}, such as {seen[0].name}, and is read as text; "
                f"`separator={seen[0].seen!r}` ends a document there."
            )
        for kind in sorted({d.kind for d in documents if d.kind}):
            alike = [d.name for d in documents if d.kind == kind]
            notice(
                f"{_count(alike)}, such as {alike[0]}, {'looks' if len(alike) == 1 else 'look'} like {kind}: its keys, "
                "tags and separators are read as text. Extract the text first, or confirm it with `as_text=True`."
            )


def _count(which: Sequence[object]) -> str:
    return plural(len(which), "file")


@contextmanager
def opened(
    arguments: Sequence[str],
    spool: Path,
    *,
    notice: Callable[[str], None] = lambda _: None,
    smallest: int = SMALLEST_TEXT,
    options: TextOptions | None = None,
    was_read_before: bool = False,
) -> Iterator[Text]:
    """`open_text`, with a copy of standard input ("-") in the folder `spool` for as long as the context lasts.

    Raises `CorpusError` where the separator is nowhere in the text, unless the options are those of a run that read it
    (`was_read_before`), whose digests say more exactly what has changed.
    """
    with ExitStack() as stack:
        standard_input = stack.enter_context(spooled_stdin(spool)) if "-" in arguments else Path()
        paths = [str(standard_input) if argument == "-" else argument for argument in arguments]
        called = {standard_input: STANDARD_INPUT}
        text = open_text(paths, notice=notice, smallest=smallest, options=options, called=called)
        separated = was_read_before or any(piece.document.separator for piece in text.pieces)
        if options and options.separator and not separated:
            raise CorpusError(f"the text does not contain the `separator` {options.separator!r}; leave it out.")
        fields = [name for name in ("pairs", "text_field", "given") if options and getattr(options, name)]
        if fields and not was_read_before and not any(piece.document.layout for piece in text.pieces):
            raise UsageError(
                f"`{fields[0]}` names fields of records, and there is no .jsonl, .csv, .tsv or .parquet file."
            )
        yield text


def _blocks_of(piece: Piece, read_size: int, safe: re.Pattern[str]) -> Iterator[tuple[bool, str]]:
    """(starts a document, characters) of one piece."""
    if piece.document.separator is None:
        first = True
        for block in _cut_into_blocks(_characters_of(piece, read_size), safe):
            yield first, block
            first = False
        return
    for document in _documents_of(piece, piece.document.separator, read_size):
        first = True
        parts = (part.translate(AS_LINES) for part in document) if piece.document.layout else document
        for block in _cut_into_blocks(parts, safe):
            yield first, block
            first = False


def _characters_of(piece: Piece, read_size: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for raw in read_range(piece.document, piece.start, piece.end, read_size):
        yield decoder.decode(raw)
    yield decoder.decode(b"", final=True)


def _documents_of(piece: Piece, separator: str, read_size: int) -> Iterator[Iterator[str]]:
    """The documents between separators, without the line ends beside these; each must be read before the next one."""
    parts = _characters_of(piece, read_size)
    held, ended = "", False

    def document() -> Iterator[str]:
        nonlocal held, ended
        begun = False
        while True:
            if not begun:
                held = held.lstrip("\r\n")
            at = held.find(separator)
            if at >= 0 or ended:
                content, held = (held[:at], held[at + len(separator) :]) if at >= 0 else (held, "")
                yield content.rstrip("\r\n") if at >= 0 else content
                return
            # Whatever may be the beginning of a separator, and the line ends before it, waits for what follows.
            safe = len(held[: max(0, len(held) - len(separator) + 1)].rstrip("\r\n"))
            if safe:
                begun = True
                content, held = held[:safe], held[safe:]
                yield content
            part = next(parts, None)
            ended = part is None
            held += part or ""

    while held or not ended:
        yield document()


def _cut_into_blocks(parts: Iterator[str], safe: re.Pattern[str]) -> Iterator[str]:
    held, searched = "", 0  # there is no safe cut among the first `searched` characters
    for part in parts:
        held += part
        cut = _last_cut(held, safe, searched)
        if not cut and len(held) > LONGEST_BLOCK:
            cut = len(held)  # megabytes without a boundary: cut anyway, memory stays bounded
        if cut:
            yield held[:cut]
            held = held[cut:]
        searched = max(0, len(held) - 1)
    if held:
        yield held


def _last_cut(text: str, safe: re.Pattern[str], searched: int = 0) -> int:
    """Index of the last `safe` cut in `text`, or 0; its end is never one, because what follows is unknown.

    - `searched`: characters at the beginning that are known to have none.
    """
    size = 4096
    while True:
        start = max(searched, len(text) - size)
        cuts = [m.start() for m in safe.finditer(text, start)]
        # A match at `start` itself may rest on a look-behind before the window, which finditer does see.
        cuts = [cut for cut in cuts if 0 < cut < len(text)]
        if cuts:
            return cuts[-1]
        if start == searched:
            return 0
        size *= 8


def record_start(piece: Piece, target: int) -> int:
    """The first start of a record at byte `target` or after it; the end of the piece where there is none."""
    if target <= piece.start:
        return piece.start
    position = target - 1
    for raw in read_range(piece.document, position, piece.end):
        if (at := raw.find(RECORD.encode())) >= 0:
            return position + at + 1
        position += len(raw)
    return piece.end


def _line_start(piece: Piece, target: int) -> int:
    """The first line start after byte `target`, or, if none is near, the first character start from there.

    Of records, the first start of one.
    """
    if piece.document.layout is not None:
        return record_start(piece, target)
    near = b"".join(read_range(piece.document, target, min(piece.end, target + (1 << 16))))
    newline = near.find(b"\n")
    if newline >= 0 and target + newline + 1 < piece.end:
        return target + newline + 1
    inside = len(near) - len(near.lstrip(CONTINUATIONS))  # bytes of the character that the target is in
    return target + inside
