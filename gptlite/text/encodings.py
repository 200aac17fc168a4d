"""Encodings other than UTF-8: which ones a file may be in, and its bytes as UTF-8."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable
from typing import Any, BinaryIO

from gptlite.text.formats import marked_encoding
from gptlite.text.options import UTF8

SAMPLE = 1 << 16  # bytes from which the encoding is guessed
MOST_NAMED = 3  # encodings in a message
READ_SIZE = 1 << 16


def plausible(sample: bytes) -> list[str]:
    """The encodings in which a sample reads as text, the most plausible first, by `charset-normalizer`'s measures.

    It tries all encodings that Python knows and orders those that decode the sample without an error by how much the
    result is like text of some language.
    """
    if (marked := marked_encoding(sample)) is not None:
        return [marked]
    import charset_normalizer  # takes a moment, and most texts are UTF-8

    found = [match.encoding for match in charset_normalizer.from_bytes(sample)]
    return [codecs.lookup(name).name for name in found if name not in ("utf_8", "ascii")]


def advice(sample: bytes, rest: Iterable[bytes] = (), *, lossy: bool = True) -> str:
    """What to do about bytes that are not UTF-8: the encodings that decode all of them, and the options that help.

    - `sample`: the first bytes, of which some are not UTF-8; `rest`: all bytes that follow, read only where needed.
    - `lossy`: whether the caller has an option of that name.
    """
    decoders = {name: codecs.getincrementaldecoder(name)() for name in plausible(sample)[: 2 * MOST_NAMED]}
    for raw in (sample, *rest):
        for name in list(decoders):
            try:
                decoders[name].decode(raw)
            except UnicodeDecodeError:
                del decoders[name]
    names = list(decoders)[:MOST_NAMED]
    if not names:
        remedy = "read it with `lossy=True`, or convert it to UTF-8 first" if lossy else "convert it to UTF-8 first"
        return f"no other encoding decodes all of it as text; {remedy}."
    others = f" (then {', '.join(names[1:])})" if len(names) > 1 else ""
    otherwise = ", or read it with `lossy=True`" if lossy else ""
    return f"it reads as {names[0]}{others}: use `encoding={names[0]!r}`{otherwise}."


class Converter:
    """Bytes of a file in, bytes of its text out: UTF-8, with line feeds for CRLF where `line_feeds` says so."""

    def __init__(self, encoding: str, *, line_feeds: bool, lossy: bool) -> None:
        self.decoder = None if encoding == UTF8 else codecs.getincrementaldecoder(encoding)(_errors(lossy))
        self.initial = self.decoder.getstate() if self.decoder else (b"", 0)
        self.line_feeds, self.n_crlf, self.held = line_feeds, 0, b""

    def feed(self, raw: bytes, final: bool = False) -> bytes:
        """The text of the next bytes. Raises `UnicodeDecodeError` unless lossy; UTF-8 is passed on unchecked."""
        text = raw if self.decoder is None else self.decoder.decode(raw, final).encode(UTF8, "replace")
        if not self.line_feeds:
            return text
        text, self.held = self.held + text, b""
        if text.endswith(b"\r") and not final:
            text, self.held = text[:-1], b"\r"
        if n := text.count(b"\r\n"):
            self.n_crlf += n
            text = text.replace(b"\r\n", b"\n")
        return text

    def n_pending(self) -> int | None:
        """How many bytes at the end of what was fed have not come out; None where decoding cannot begin there."""
        if self.decoder is None:
            return len(self.held)
        pending, state = self.decoder.getstate()
        return None if self.held or state != self.initial[1] else len(pending)


def _errors(lossy: bool) -> str:
    return "replace" if lossy else "strict"


class Transcoded(io.RawIOBase):
    """A stream in another encoding, read as UTF-8. Raises `UnicodeDecodeError` unless `lossy`."""

    def __init__(self, source: BinaryIO, encoding: str, lossy: bool = False) -> None:
        self.source, self.converter = source, Converter(encoding, line_feeds=False, lossy=lossy)
        self.ready, self.ended = b"", False
        self.read_some = getattr(source, "read1", source.read)  # what is there, without waiting for more

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.source.fileno()

    def readinto(self, buffer: Any, /) -> int:
        while not self.ready and not self.ended:
            raw = self.read_some(READ_SIZE)
            self.ended = not raw
            self.ready = self.converter.feed(raw or b"", final=self.ended)
        n = min(len(buffer), len(self.ready))
        buffer[:n], self.ready = self.ready[:n], self.ready[n:]
        return n
