"""Finding words in texts: by brackets around them, or by name. Places are spans of characters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gptlite.errors import UsageError

# Thai to Myanmar, Khmer, Japanese and Chinese: written without spaces, so a word may begin and end anywhere.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


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
    """Where `word` stands in `text` as a whole word; "bank#2" is the second place. Lower case matches any case."""
    name, _, nth = word.rpartition("#")
    if not (name and nth.isascii() and nth.isdigit()):
        name, nth = word, ""
    flags = re.IGNORECASE if name == name.lower() else 0
    left = r"(?<!\w)" if name[:1].isalnum() and not UNSPACED.match(name[:1]) else ""
    right = r"(?!\w)" if name[-1:].isalnum() and not UNSPACED.match(name[-1:]) else ""
    found = [
        Occurrence(text_index, text, *m.span()) for m in re.finditer(f"{left}{re.escape(name)}{right}", text, flags)
    ]
    return found[int(nth) - 1 : int(nth)] if nth else found
