"""How texts are read: everything that changes which characters come out of the same files."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlite.errors import CheckpointError, UsageError

UTF8 = "utf-8"
SAME_AS_UTF8 = ("utf-8", "utf-8-sig", "ascii")


@dataclass(frozen=True)
class TextOptions:
    """Options of reading. A run records them, so that a resumed run reads the same characters.

    - `lossy`: bytes that the encoding does not allow are read as U+FFFD; a file named directly may hold NULs.
    - `encoding`: of all files, a name that Python's `codecs` knows; None is UTF-8.
    - `keep_line_ends`: leave CRLF as it is, instead of reading it as a line feed.
    - `separator`: a string that ends a document inside a file and is no text itself, such as "<|endoftext|>".
    - `as_text`: say nothing about markup and data formats in the text.
    - `text_field`: the field of a record that is its text; `pairs`: those of its prompt and its answer; `given`: those
      of its conditions. Each a name or several, in a text with commas or a sequence.
    - `noted`: markup and data formats were spoken of before.
    - `keep_copies`: use files with equal contents as often as they are there, instead of once.
    Raises `UsageError` for an encoding that Python does not know and for an empty separator.
    """

    lossy: bool = False
    encoding: str | None = None
    keep_line_ends: bool = False
    separator: str | None = None
    as_text: bool = False
    keep_copies: bool = False
    text_field: str | None = None
    pairs: str | Sequence[str] | None = None
    given: str | Sequence[str] | None = None
    noted: bool = False

    def __post_init__(self) -> None:
        if self.encoding is not None:
            object.__setattr__(self, "encoding", _canonical(self.encoding))
        if self.separator is not None and not (self.separator.strip() and len(self.separator.encode()) <= 1000):
            raise UsageError("`separator` must be at most 1,000 bytes with visible characters, such as <|endoftext|>.")
        object.__setattr__(self, "pairs", _field_names(self.pairs, "pairs", 2))
        object.__setattr__(self, "given", _field_names(self.given, "given"))
        if self.pairs and self.text_field:
            raise UsageError("give only one of `pairs` and `text_field`.")

    @property
    def pair_fields(self) -> tuple[str, ...]:
        """The names of the fields of prompt and answer; none where they are recognised."""
        return tuple(self.pairs or ())

    @property
    def given_fields(self) -> tuple[str, ...]:
        """The names of the fields of the conditions."""
        return tuple(self.given or ())

    @property
    def codec(self) -> str:
        """The canonical name of the encoding."""
        return self.encoding or UTF8

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "noted"}

    @classmethod
    def of_run(cls, info: Mapping[str, Any]) -> TextOptions:
        """The options in a `run.json`. Runs of versions that recorded none kept line ends and copies.

        Raises `CheckpointError` for an encoding that is not known here.
        """
        stored = info.get("reading")
        if stored is None:
            return cls(lossy=bool(info.get("lossy")), keep_line_ends=True, as_text=True, keep_copies=True)
        try:
            as_text = stored.get("as_text", False) if "pairs" in stored else True  # older ones read records as text
            return cls(**{**stored, "as_text": as_text, "noted": True})
        except UsageError as error:
            raise CheckpointError(f"run.json says of the text what this gptlite does not know: {error}") from error

    def for_resume(self, info: Mapping[str, Any]) -> TextOptions:
        """The options of the run, where these, given with `resume`, do not ask for others. Raises `UsageError`."""
        stored = TextOptions.of_run(info)
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            if field.name != "as_text" and given != field.default and given != getattr(stored, field.name):
                was = getattr(stored, field.name)
                before = f"with {was!r}" if was else "without it"
                raise UsageError(
                    f"`{field.name}` is {given!r}, and the run was started {before}; leave it out, or start a new run."
                )
        return stored


def _field_names(names: str | Sequence[str] | None, what: str, n: int | None = None) -> tuple[str, ...] | None:
    """The names in "A,B" or a sequence. Raises `UsageError` where there are not `n`, or one is empty or there twice."""
    if names is None:
        return None
    found = tuple(part.strip() for part in (names.split(",") if isinstance(names, str) else names))
    if not all(found) or (n is not None and len(found) != n) or len(set(found)) != len(found):
        wanted = "two names of fields, such as question,answer" if n == 2 else "names of fields, such as author,year"
        raise UsageError(f"`{what}` must be {wanted}.")
    return found


def _canonical(name: str) -> str | None:
    """The name under which Python knows an encoding of text; None for UTF-8."""
    try:
        "".encode(name)
        found = codecs.lookup(name).name
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"`encoding` {name!r} is not known; use a name such as utf-8, gb18030, big5, cp932, euc_jp, cp949, cp1251, "
            "cp1252 or utf-16."
        ) from error
    return None if found in SAME_AS_UTF8 else found
