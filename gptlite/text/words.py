"""Finding words in texts: by brackets around them, or by name. Places are spans of characters."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from gptlite.errors import UsageError

# Thai to Myanmar, Khmer, Japanese and Chinese: written without spaces, so a word may begin and end anywhere.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
JOINER = "\u200d"  # makes one picture of two emoji
WORD = re.compile(rf"(?=\w){UNSPACED.pattern}|[^\W{UNSPACED.pattern[1:-1]}]+")
SKIN_TONES = "\U0001f3fb-\U0001f3ff"
# Soft hyphen, joiners, marks of direction, tags of flags; not U+200B, which parts words.
INVISIBLE = "\u00ad\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0020-\U000e007f"
EXTENDS = re.compile(f"[{INVISIBLE}{SKIN_TONES}]")
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n+")


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

    def trimmed(self) -> Occurrence:
        """The same place without white space at its ends, which is no part of a word; white space alone stays."""
        word = self.word
        stripped = word.strip()
        if not stripped or len(stripped) == len(word):
            return self
        start = self.start + len(word) - len(word.lstrip())
        return replace(self, start=start, end=start + len(stripped))


def parse_marked(text: str, text_index: int, mark: tuple[str, str] = ("[", "]")) -> list[Occurrence]:
    """The words between marks, in the text without them: "a [bank] ." marks "bank" in "a bank ."; \\[ is literal.

    Opening and closing mark may be the same, as in "a *bank* .". White space at the ends of a mark is not the word's.
    """
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
        elif match[0] == closing and start is not None and len(clean) > start:
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
    return [Occurrence(text_index, clean, *span).trimmed() for span in spans]


def parse_marks(text: str) -> tuple[str, str]:
    """The two marks of "<b>,</b>". Raises `UsageError`."""
    opening, _, closing = text.partition(",")
    if not opening or not closing or "\\" in text:
        raise UsageError(f"`mark` takes two marks with a comma between them, such as '<b>,</b>', not '{text}'.")
    return opening, closing


def find_word(text: str, text_index: int, word: str) -> list[Occurrence]:
    """Where `word` stands in `text` as a whole word; "bank#2" is the second place. Lower case matches any case.

    - A word is whole when no letter, digit or "_" joins it on either side, and when it does not end inside a character.
    - "é" is found however it is written, as one character or as "e" and an accent. Soft hyphens and other invisible
      characters inside a word do not count, nor does white space at the ends of `word`.
    - "C#2" is the text C#2 where it stands in the text, and else the second "C".
    """
    word = word.strip()
    name, _, nth = word.rpartition("#")
    if not (name and nth.isascii() and nth.isdigit()):
        return _find_whole(text, text_index, word)
    return _find_whole(text, text_index, word) or _find_whole(text, text_index, name)[int(nth) - 1 : int(nth)]


def _find_whole(text: str, text_index: int, name: str) -> list[Occurrence]:
    if not name:
        return []
    pattern = _spelled(name)
    found: list[Occurrence] = []
    position = 0
    while match := pattern.search(text, position):
        whole = not _joined(text, match.start()) and not _joined(text, match.end())
        if whole:
            found.append(Occurrence(text_index, text, *match.span()))
        position = match.end() if whole else match.start() + 1
    return found


@lru_cache(maxsize=256)
def _spelled(word: str) -> re.Pattern[str]:
    """A word in all spellings that Unicode calls equivalent (NFC, NFD), with invisible characters anywhere in it."""
    composed = re.sub(f"[{INVISIBLE}]", "", unicodedata.normalize("NFC", word)) or word
    letters: list[str] = []
    for character in composed:
        if letters and unicodedata.category(character).startswith("M"):
            letters[-1] += character
        else:
            letters.append(character)
    forms = (dict.fromkeys((letter, unicodedata.normalize("NFD", letter))) for letter in letters)
    spelled = (f"(?:{'|'.join(map(re.escape, each))})" for each in forms)
    pattern = "".join(f"{letter}[{INVISIBLE}]*" for letter in spelled)
    return re.compile(pattern, re.IGNORECASE if word == word.lower() else 0)


def word_at(text: str, text_index: int, word_index: int) -> Occurrence | None:
    """The word of that number, from 0, between white space, without the punctuation around it; None if there is none.

    That is how the data sets WiC and Usim name words.
    """
    for i, match in enumerate(re.finditer(r"\S+", text)):
        if i == word_index:
            letters = [at for at in range(*match.span()) if _joins(text[at]) or _extends(text[at])]
            letters += [at for at in range(*match.span()) if UNSPACED.match(text[at])]
            start, end = (min(letters), max(letters) + 1) if letters else match.span()
            return Occurrence(text_index, text, start, end)
    return None


def parts_of(text: str, text_index: int, spans: Sequence[tuple[int, int]]) -> list[Occurrence]:
    """One occurrence for each of the spans that tokens have, without white space around it; once for equal ones.

    Tokens of white space alone are occurrences too.
    """
    found: dict[tuple[int, int], None] = {}
    for start, end in spans:
        part = text[start:end]
        if stripped := part.strip():
            start += len(part) - len(part.lstrip())
            end = start + len(stripped)
        if end > start:
            found[start, end] = None
    return [Occurrence(text_index, text, *span) for span in found]


def word_starts(text: str) -> list[int]:
    """Where words begin, in rising order; each letter of a script without spaces is a word."""
    starts = (match.start() for match in WORD.finditer(text))
    return [at for at in starts if not (at and _extends(text[at - 1]))]


def find_units(text: str) -> list[tuple[int, int, str]]:
    """All of `text` in units [start, end), each a "word", "punctuation" or "space".

    Apostrophes, hyphens and full stops inside a word are part of it, as are commas inside a number; any other mark is a
    unit. Every character of a script without spaces is a word. Marks and joiners go with the character before them.
    """
    return [(*match.span(), match.lastgroup or "") for match in unit_pattern().finditer(text)]


def find_words(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The words [start, end) of a text whose tokens have these `spans`.

    A word is a match of `word_pattern`; in scripts without spaces, each token made of their characters is one.
    """
    starts, ends = zip(*spans, strict=True) if spans else ((), ())
    found: list[tuple[int, int]] = []
    for match in word_pattern().finditer(text):
        if UNSPACED.search(match[0]):
            inside = slice(bisect_left(starts, match.start()), bisect_right(ends, match.end()))
            tokens = sorted(set(zip(starts[inside], ends[inside], strict=False)))
            found += [(a, b) for a, b in tokens if b > a and all(map(UNSPACED.match, text[a:b]))]
        else:
            found.append(match.span())
    return found


def in_sentence(word: str) -> str:
    """A word as it stands inside a sentence: after a space, unless its script has none."""
    return word if UNSPACED.match(word) else f" {word}"


def same_form(word: str) -> str:
    """What all spellings of a word have in common: composed (NFC), without invisible characters, and without case."""
    return unicodedata.normalize("NFC", re.sub(f"[{INVISIBLE}]", "", word).casefold())


def _joined(text: str, at: int) -> bool:
    """Do the characters before and after position `at` belong to one word? After Unicode's Annex 29, but simpler:

    - A mark, a joiner, a soft hyphen or another invisible character, or a skin tone belongs to the character before it,
      and what follows a joiner to the joiner.
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
def unit_pattern() -> re.Pattern[str]:
    """What `find_units` tells apart."""
    letter = rf"[^\W{UNSPACED.pattern[1:-1]}]"
    extends = f"(?:{JOINER}.|[{_marks()}{EXTENDS.pattern[1:-1]}])"
    run = rf"{letter}(?:{letter}|{extends})*"
    return re.compile(
        rf"(?P<space>\s+)|(?P<word>{UNSPACED.pattern}{extends}*|{run}(?:(?:['’.‐‑-]|(?<=\d),(?=\d)){run})*)"
        rf"|(?P<punctuation>.{extends}*)",
        re.DOTALL,
    )


@cache
def word_pattern() -> re.Pattern[str]:
    """A run of letters, digits and the marks that go with them, as `find_word` joins them."""
    return re.compile(rf"(?:\w|[{_marks()}{EXTENDS.pattern[1:-1]}])+")


@cache
def _marks() -> str:
    """The characters that belong to a letter before them, as they are written inside brackets of a pattern."""
    return re.escape("".join(chr(c) for c in range(0x300, 0x20000) if unicodedata.category(chr(c)).startswith("M")))
