"""Which tokens can begin a new word, given the text before them: what a word's probability needs besides its tokens.

With tokens that begin with a space, the probability of the tokens " the" is not that of the word "the": " the" may go
on to be "theory". That the word ends is decided by the next token, so p(word) takes in the probability that what comes
next begins a word or ends the text, and gives up the same share of what came before (Pimentel & Meister 2024, "How to
Compute the Probability of a Word"; Oh & Schuler 2024, "Leading Whitespaces of Language Models' Subword Vocabulary Pose
a Confound for Calculating Word Probabilities"):

    p(word) = p(its tokens) * p(a boundary | text with the word) / p(a boundary | text before the word)

The product over a text telescopes to the probability of its tokens and of a boundary after the last one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import UNSPACED, find_units

MIDDLE = "'’.‐‑-"  # marks inside a word where a letter follows (words.find_units)

# What the text before ends with. Of a text that does not begin, all tokens but the rest of a character can be first.
BEGINNING, WORD, DIGIT, MIDDLE_OF_WORD, SPACE, OTHER, INCOMPLETE = range(7)
N_ENDINGS = 7

# The usual characters at the end of a text, which leave no doubt.
_USUAL = {chr(code): DIGIT if chr(code).isdecimal() else WORD for code in range(128) if chr(code).isalnum()}
_USUAL |= dict.fromkeys(" \t\n\r", SPACE)

# One text for each ending, to which tokens are appended to see whether they go on with its last word.
_EXAMPLES = {WORD: "a", DIGIT: "a1", MIDDLE_OF_WORD: "a-", OTHER: "("}


class Boundaries:
    """For each way in which a text can end, the tokens that begin a new word after it.

    - `masks` (7, V): booleans; row i is for the ending i of `ending_of`. The separator and the tokens that end a
      document are boundaries after every text; other ids that spell nothing are not.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, split: str = "unicode") -> None:
        """- `split`: "unicode" for the words of `find_units`; "whitespace" for whatever stands between white space."""
        self.tokenizer = tokenizer
        is_boundary = _begins_with_space if split == "whitespace" else _begins_a_word
        self.masks = np.zeros((N_ENDINGS, vocab_size), dtype=bool)
        begins: dict[tuple[int, str], bool] = {}
        for token, spelled in enumerate(tokenizer.token_bytes[:vocab_size]):
            if not spelled:
                continue
            if 0x80 <= spelled[0] < 0xC0:  # goes on with a character
                continue
            head = _head(spelled)
            self.masks[BEGINNING, token] = True
            self.masks[SPACE, token] = True
            for ending, example in _EXAMPLES.items():
                key = ending, head
                if key not in begins:
                    begins[key] = is_boundary(example, head)
                self.masks[ending, token] = begins[key]
        self.masks[:, [i for i in tokenizer.end_ids if i < vocab_size]] = True

    def endings_of(self, text: str, spans: Sequence[tuple[int, int]], before: str = "") -> list[int]:
        """How the text ends before its first token and after each one; `before` stands before it."""
        found = [self.ending_of(before[-16:])]
        for i, (start, end) in enumerate(spans):
            following = spans[i + 1] if i + 1 < len(spans) else None
            is_whole = following is None or following[0] >= end or following[0] == start == end
            usual = _USUAL.get(text[end - 1]) if is_whole and end else None
            if usual is None:
                tail = text[max(0, end - 16) : end]
                usual = self.ending_of(tail if end >= 16 else before[-16:] + tail, is_whole)
            found.append(usual)
        return found

    def ending_of(self, text: str, is_whole: bool = True) -> int:
        """How `text` ends; `is_whole`: its last character is complete."""
        if not is_whole:
            return INCOMPLETE
        if not text:
            return BEGINNING
        last = text[-1]
        if (usual := _USUAL.get(last)) is not None:
            return usual
        if last.isspace():
            return SPACE
        tail = text[-16:]
        start, _, kind = find_units(tail)[-1]
        if kind == "word" and not UNSPACED.match(tail[start]):
            return DIGIT if last.isdecimal() else WORD
        if len(tail) > 1 and last in MIDDLE and start > 0 and find_units(tail)[-2][2] == "word":
            return MIDDLE_OF_WORD
        return OTHER


def _head(spelled: bytes) -> str:
    """The first characters of a token, of those that are whole; a character that is begun only stands for itself."""
    text = spelled.decode("utf-8", errors="ignore")
    if not text:  # the beginning of one character
        return _character_begun(spelled)
    return text[:3]


def _character_begun(spelled: bytes) -> str:
    """A character that begins with these bytes: the first one that is assigned, as what all of them are."""
    for fill in range(0x80, 0xC0):
        missing = {0xC: 2, 0xD: 2, 0xE: 3, 0xF: 4}.get(spelled[0] >> 4, 1) - len(spelled)
        try:
            character = (spelled + bytes([fill] * missing)).decode("utf-8")
        except UnicodeDecodeError:
            continue
        if unicodedata.category(character) != "Cn":
            return character
    return "\ufffd"


def _begins_a_word(text: str, more: str) -> bool:
    """Does `more` begin a unit of its own after `text`? A mark that joins only before a letter does so by itself."""
    return any(start == len(text) for start, _, _ in find_units(text + more))


def _begins_with_space(text: str, more: str) -> bool:
    return more[0].isspace()
