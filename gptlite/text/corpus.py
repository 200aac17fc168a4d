"""Plain text files to checked documents, read in bounded memory.

Every byte is read once to check it (UTF-8, not binary) and to take its digest; after that, texts are ranges of bytes in
files, and whoever needs the characters iterates over blocks of them.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gptlite.errors import CorpusError, UsageError
from gptlite.text.files import find_files
from gptlite.text.reading import READ_SIZE, Document, check_file, read_range, spool_stdin

SMALLEST_TEXT = 2048  # bytes; less teaches a model nothing
SHORTEST_STRETCH, MOST_STRETCHES = 1 << 16, 64  # bytes, and how many, when only a part of a long text is used
LONGEST_BLOCK = 1 << 22  # characters held while looking for a place to cut
CONTINUATIONS = bytes(range(0x80, 0xC0))  # what follows the first byte of a character

# Places where GPT-2's pattern always ends a piece, so that the text on both sides tokenizes as if it stood alone:
# before a space or line end that follows a character, and between CJK punctuation and an ideograph.
SAFE_CUT = re.compile(r"(?<=\S)(?=[ \n])|(?<=[。，、；：！？])(?=[一-鿿])")


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
    paths, outputs = find_files(arguments)
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


def _blocks_of(piece: Piece, read_size: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held = ""
    for raw in read_range(piece.document, piece.start, piece.end, read_size):
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
    near = b"".join(read_range(piece.document, target, min(piece.end, target + (1 << 16))))
    newline = near.find(b"\n")
    if newline >= 0 and target + newline + 1 < piece.end:
        return target + newline + 1
    inside = len(near) - len(near.lstrip(CONTINUATIONS))  # bytes of the character that the target is in
    return target + inside
