"""Files and standard input that commands read: opened without waiting, as UTF-8 whatever their encoding.

with sources.open_text("-", "texts", encoding) as source:      # a stream of UTF-8
text = sources.read_text(name, "the prompt", limit, encoding)  # all of it, without a byte order mark

ends = sources.LineEnds([model])
text = ends.read(text)                                         # line feeds for CRLF, as the model learned them
ends.say(messages)                                             # once, where a text changed
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import stat
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any, BinaryIO, cast

from gptlite.cli.shared import console
from gptlite.cli.shared.rows import Row
from gptlite.errors import CorpusError, GptliteError, LimitError, UsageError, system_reason
from gptlite.text import encodings
from gptlite.text.options import UTF8, TextOptions

READ_SIZE = 1 << 16  # bytes


def open_text(name: str, what: str, encoding: str | None = None, *, lossy: bool = False) -> BinaryIO:
    """The file `name` to read from, or standard input for -; `what` says in errors what is read. Never waits.

    - `encoding`: of the file; it is read as UTF-8 all the same. None is UTF-8, which is not checked here.
    - `lossy`: bytes that another encoding does not allow are read as U+FFFD.
    Raises `UsageError` for an encoding that Python does not know. Reading raises `CorpusError` for wrong bytes.
    """
    codec = TextOptions(encoding=encoding).codec
    source = _open(name, what)
    if codec == UTF8:
        return source
    return cast(BinaryIO, io.BufferedReader(_Decoded(source, codec, lossy, name)))


def _open(name: str, what: str) -> BinaryIO:
    if name == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(f"- reads {what} from standard input, but nothing is piped into it.")
        return sys.stdin.buffer
    try:
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise CorpusError(f"cannot read {what} from {name}: {system_reason(error)}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorpusError(f"cannot read {what} from {name}: it is not a regular file; for a pipe use - instead.")
    return os.fdopen(descriptor, "rb")


class _Decoded(encodings.Transcoded):
    """A file in another encoding, read as UTF-8. Reading raises `CorpusError` for bytes that the encoding lacks."""

    def __init__(self, source: BinaryIO, encoding: str, lossy: bool, name: str) -> None:
        super().__init__(source, encoding, lossy)
        self.encoding, self.name = encoding, name

    def readinto(self, buffer: Any, /) -> int:
        try:
            return super().readinto(buffer)
        except UnicodeDecodeError as error:
            wrong = error.object[error.start]
            raise CorpusError(
                f"{_called(self.name)} is not {self.encoding}: byte 0x{wrong:02X}: {error.reason}."
            ) from None

    def close(self) -> None:
        super().close()
        self.source.close()


def read_text(name: str, what: str, limit: int, encoding: str | None = None) -> str:
    """All text of a file, or of standard input for -, without a byte order mark.

    - `limit`: bytes as UTF-8. Raises `LimitError` for more, and `CorpusError` where it cannot be read.
    """
    try:
        with open_text(name, what, encoding) as source:
            content = source.read(limit + 1)
    except OSError as error:
        raise CorpusError(f"cannot read {what} from {_called(name)}: {system_reason(error)}.") from error
    if len(content) > limit:
        raise LimitError(f"{_called(name)} is longer than {limit >> 20} MiB; give a part of it as {what}.")
    return decode(content, name)


def decode(content: bytes, name: str) -> str:
    """The text of all bytes of a file. Raises `CorpusError`, which names the encodings that it may be in."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{_called(name)} is not UTF-8: {error.reason} at byte {error.start:,}"
        raise CorpusError(f"{where}; {encodings.advice(content, lossy=False)}") from error


def advice(name: str, raw: bytes) -> str:
    """What to do about the file `name`, which is not UTF-8; of standard input only the bytes `raw` are known."""
    if name == "-":
        return encodings.advice(raw)
    try:
        with _open(name, "texts") as source:
            head = source.read(encodings.SAMPLE)
            rest = iter(lambda: source.read(READ_SIZE), b"")
            if b"\0" in head or len(head) - len(head.decode(errors="ignore").encode()) > 3:  # not only a cut character
                return encodings.advice(head, rest)
            return encodings.advice(raw, itertools.chain([head], rest))
    except (OSError, GptliteError):
        return encodings.advice(raw)


def _called(name: str) -> str:
    return "standard input" if name == "-" else name


class LineEnds:
    """CRLF in texts for models: read as line feeds, as training does, unless all of their runs kept CRLF.

    - `models`: what -m says of each, or None for the newest; empty where no model reads the texts. They are looked for
      when the first CRLF is met.
    """

    def __init__(self, models: Sequence[str | None] = ()) -> None:
        self.models, self.n_changed = models, 0

    @cached_property
    def kept(self) -> bool:
        return bool(self.models) and all(_keeps_line_ends(model) for model in self.models)

    def read(self, text: str) -> str:
        if "\r\n" not in text or self.kept:
            return text
        self.n_changed += 1
        return text.replace("\r\n", "\n")

    def read_row(self, row: Row) -> Row:
        """The row with its text so read, and the places of its words in that."""
        text = self.read(row.text)
        if text == row.text:
            return row
        spans = None if row.spans is None else [self.move(row.text, span) for span in row.spans]
        return dataclasses.replace(row, text=text, spans=spans)

    def move(self, before: str, span: tuple[int, int]) -> tuple[int, int]:
        """Where characters [start, end) of a text are once it is read. To be called after `read`."""
        if self.kept:
            return span
        start, end = (place - before.count("\r\n", 0, place) for place in span)
        return start, end

    def say(self, messages: console.Messages) -> None:
        """Say once that texts were changed, if they were."""
        if self.n_changed:
            texts = console.plural(self.n_changed, "text")
            messages.notice(f"CRLF line ends are read as line feeds in {texts}, as in training.")


def _keeps_line_ends(model: str | None) -> bool:
    """Was the model trained on a text whose CRLF line ends were kept?"""
    from gptlite.checkpoint import runs

    try:
        run = runs.Run(runs.find_model(model).parent)
        return run.is_run() and TextOptions.of_run(run.read_info()).keep_line_ends
    except GptliteError:
        return False  # reading the model says what is wrong with it
