"""Where a text ends: before a stop string, or after its first sentence, paragraph or line.

Filters between the tokens' text and the reader. What is out cannot be taken back, so each lets through what is certain
and holds back the rest until it is; however the text is cut into pieces, the pieces that come out are the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gptlite.errors import UsageError

UNITS = ("document", "paragraph", "line", "sentence")

# Unicode's Sentence_Terminal, of scripts in use. Those after which a space is written stand inside words and numbers
# too (3.14); the others stand nowhere else.
SPACED = ".!?…‼‽⁇⁈⁉．؟"
UNSPACED = "。！？｡।॥۔።፧፨။។៕։᠃᠉܀߹෴"
CLOSING = "\"'”’“‘»›«‹)]}」』】〕〉》〗〙）］｝｣〞〟＂＇"
ABBREVIATIONS = frozenset(
    "mr mrs ms mx messrs dr prof rev hon st mt sr jr gen col capt lt sgt vs cf viz approx".split()  # noqa: SIM905
)
LONGEST_CONTEXT = 64  # characters of what is out, in which an abbreviation or a row of full stops may begin


# Each matches up to the end of its unit, and looks at what must follow. White space alone is no unit.
LINE_END = r"\S(?=[^\S\n]*\n)"
PARAGRAPH_END = r"\S(?=[^\S\n]*\n[^\S\n]*\n)"


def _sentence_end() -> re.Pattern[str]:
    every, closing = re.escape(SPACED + UNSPACED), re.escape(CLOSING)
    spaced = rf"[{every}]+[{closing}]*(?=\s)"
    unspaced = rf"[{every}]*[{UNSPACED}][{every}]*[{closing}]*(?=[^{every}{closing}])"
    return re.compile(rf"{spaced}|{unspaced}|{PARAGRAPH_END}")


ENDS = {"line": re.compile(LINE_END), "paragraph": re.compile(PARAGRAPH_END), "sentence": _sentence_end()}


class Stopping:
    """Lets text through up to the first of `stop`, which is left out, or the first end of `unit`, which is not.

    - `unit`: "sentence", "paragraph", "line", or "document", which only the model itself can end.
    `stopped` says that the text has ended. Raises `UsageError` for an empty stop string and for an unknown unit.
    """

    def __init__(self, stop: Sequence[str] = (), unit: str = "document") -> None:
        if "" in stop:
            raise UsageError("`stop` needs a text: every text has an empty one at once.")
        if unit not in UNITS:
            raise UsageError(f"`stop_at` must be one of {', '.join(UNITS)}, not '{unit}'.")
        self.strings = StopFilter(stop)
        self.unit = UnitFilter(ENDS[unit]) if unit in ENDS else None

    @property
    def stopped(self) -> bool:
        return self.strings.stopped or (self.unit is not None and self.unit.stopped)

    def push(self, text: str) -> str:
        text = self.strings.push(text)
        if self.unit is None:
            return text
        return self.unit.push(text) + (self.unit.finish() if self.strings.stopped else "")

    def finish(self) -> str:
        """What is still held back, now that no more text comes."""
        text = self.strings.finish()
        return text if self.unit is None else self.unit.push(text) + self.unit.finish()

    def skip(self, text: str) -> str:
        """`text` itself, in which nothing ends."""
        if self.unit is not None:
            self.unit.skip(text)
        return text


class StopFilter:
    """Lets text through up to the stop string that begins first, however the text is cut into pieces.

    What may be the beginning of a stop string is held back until it is known; so is the end, while a stop string that
    has come may lie inside a longer one that began before it.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = list(stop)
        self.held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        if self.stopped:
            return ""
        self.held += text
        first = self._first()
        open_at = min((at for s in self.stop if (at := _beginning(self.held, s)) is not None), default=len(self.held))
        if first is not None and first <= open_at:
            return self._end(first)
        text, self.held = self.held[:open_at], self.held[open_at:]
        return text

    def finish(self) -> str:
        """What is still held back, now that no more text comes."""
        first = None if self.stopped else self._first()
        if first is not None:
            return self._end(first)
        text, self.held = self.held, ""
        return text

    def _first(self) -> int | None:
        return min((at for s in self.stop if (at := self.held.find(s)) >= 0), default=None)

    def _end(self, at: int) -> str:
        text, self.held, self.stopped = self.held[:at], "", True
        return text


def _beginning(text: str, stop: str) -> int | None:
    """Where the longest end of `text` that begins `stop`, but is not all of it, stands."""
    for at in range(max(0, len(text) - len(stop) + 1), len(text)):
        if stop.startswith(text[at:]):
            return at
    return None


class UnitFilter:
    """Lets text through up to the first end that a pattern finds; white space waits for what comes after it."""

    def __init__(self, ends: re.Pattern[str]) -> None:
        self.ends = ends
        self.out = ""  # the last of what was let through
        self.held = ""  # white space after it
        self.stopped = False

    def push(self, text: str) -> str:
        if self.stopped or not text:
            return ""
        begin = len(self.out)
        text = self.out + self.held + text
        end = self._end(text, begin)
        if end is not None:
            self.stopped, self.held = True, ""
            return text[begin:end]
        known = max(begin, len(text.rstrip()))
        self.out, self.held = text[max(0, known - LONGEST_CONTEXT) : known], text[known:]
        return text[begin:known]

    def finish(self) -> str:
        text, self.held = self.held, ""
        return text

    def skip(self, text: str) -> None:
        self.out = (self.out + text)[-LONGEST_CONTEXT:]

    def _end(self, text: str, begin: int) -> int | None:
        """Where the unit ends, at `begin` or later: what stands before is out, and was no end."""
        for match in self.ends.finditer(text):
            if match.end() >= begin and not (match[0] == "." and _is_abbreviation(text[: match.start()])):
                return match.end()
        return None


def _is_abbreviation(before: str) -> bool:
    """Does what stands before a full stop make it that of an abbreviation: an initial, e.g, Mrs?"""
    word = re.search(r"[\w.]*$", before[-LONGEST_CONTEXT:])
    letters = word[0].lstrip("_").split(".") if word else [""]
    if all(len(letter) == 1 and letter.lower() != letter.upper() for letter in letters):
        return letters[-1] not in ("I", "i") or len(letters) > 1
    return letters[-1].lower() in ABBREVIATIONS
