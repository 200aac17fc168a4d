"""Finding words in texts: by brackets around them, or by name. Places are spans of characters."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from gptlite.errors import UsageError

# Thai to Myanmar, Khmer, Japanese and Chinese: written without spaces, so a word may begin and end anywhere.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
JOINER = "\u200d"  # makes one picture of two emoji
EXTENDS = re.compile("[\u200c\u200d\U0001f3fb-\U0001f3ff]")  # joiners and skin tones


@dataclass(frozen=True)
class Occurrence:
    """One word in one text: the characters [start, end) of `text`."""

    text_index: int
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        return self.text[self.start : self.end]


def parse_marked(text: str, text_index: int, mark: tuple[str, str] = ("[", "]")) -> list[Occurrence]:
    """The words between marks, in the text without them: "a [bank] ." marks "bank" in "a bank ."; \\[ is literal."""
    opening, closing = mark
    pattern = re.compile(
        rf"\\(?P<literal>{re.escape(opening)}|{re.escape(closing)})"
        rf"|(?P<open>{re.escape(opening)})|(?P<close>{re.escape(closing)})"
    )
    clean, spans, start, position = "", [], None, 0
    for match in pattern.finditer(text):
        clean += text[position : match.start()]
        position = match.end()
        if match["literal"]:
            clean += match["literal"]
        elif match["open"] and start is None:
            start = len(clean)
        elif match["close"] and start is not None and len(clean) > start:
            spans.append((start, len(clean)))
            start = None
        else:
            raise UsageError(
                f"text {text_index + 1}: the marks {opening} and {closing} do not pair up around a word; "
                f"write \\{match[0]} for the character itself."
            )
    if start is not None:
        raise UsageError(f"text {text_index + 1}: the mark {opening} is never closed by {closing}.")
    clean += text[position:]
    return [Occurrence(text_index, clean, *span) for span in spans]


def find_word(text: str, text_index: int, word: str) -> list[Occurrence]:
    """Where `word` stands in `text` as a whole word; "bank#2" is the second place. Lower case matches any case.

    A word is whole when no letter, digit or "_" joins it on either side, and when it does not end inside a character.
    """
    name, _, nth = word.rpartition("#")
    if not (name and nth.isascii() and nth.isdigit()):
        name, nth = word, ""
    if not name:
        return []
    pattern = re.compile(re.escape(name), re.IGNORECASE if name == name.lower() else 0)
    found: list[Occurrence] = []
    position = 0
    while match := pattern.search(text, position):
        whole = not _joined(text, match.start()) and not _joined(text, match.end())
        if whole:
            found.append(Occurrence(text_index, text, *match.span()))
        position = match.end() if whole else match.start() + 1
    return found[int(nth) - 1 : int(nth)] if nth else found


def _joined(text: str, at: int) -> bool:
    """Do the characters before and after position `at` belong to one word? After Unicode's Annex 29, but simpler:

    - A mark, a joiner or a skin tone belongs to the character before it, and what follows a joiner to the joiner.
    - Letters, digits and connectors such as "_" join. Apostrophes and hyphens do not: "Ada" is found in "Ada's".
    - Characters of scripts without spaces never join, so that a word is found between any two of them.
    """
    if not 0 < at < len(text):
        return False
    if _extends(text[at]) or text[at - 1] == JOINER:
        return True
    before = at - 1
    while before > 0 and _extends(text[before]):
        before -= 1
    return _joins(text[before]) and _joins(text[at])


def _extends(character: str) -> bool:
    return unicodedata.category(character).startswith("M") or bool(EXTENDS.match(character))


def _joins(character: str) -> bool:
    return (character.isalnum() or unicodedata.category(character) == "Pc") and not UNSPACED.match(character)


@cache
def word_pattern() -> re.Pattern[str]:
    """A run of letters, digits and the marks that go with them, as `find_word` joins them."""
    marks = "".join(chr(c) for c in range(0x300, 0x20000) if unicodedata.category(chr(c)).startswith("M"))
    return re.compile(rf"(?:\w|[{re.escape(marks)}])+")
