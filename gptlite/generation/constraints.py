"""What is to come more often, less often or never: biases of ids and texts, banned texts, repeated phrases."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gptlite.config import SamplingConfig
from gptlite.errors import UsageError
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import UNSPACED

LONGEST_CHARACTER = 4  # bytes in UTF-8


class Constraints:
    """What a `SamplingConfig` means for the ids of one tokenizer. Raises `UsageError` for a bias of an id that is none.

    - `biases`: what is added to the logits of ids. `words`: the same for texts, or None.
    - `bans`: which ids would complete a banned text, or None.
    - `end_ids` end a document, `separator_id` among them; so do ids from `vocab_size` on, which have no text.
    """

    def __init__(self, config: SamplingConfig, tokenizer: Tokenizer) -> None:
        self.separator_id, self.end_ids = tokenizer.separator_id, tokenizer.end_ids
        self.vocab_size = tokenizer.vocab_size
        self.biases = [(self._checked(token), bias) for token, bias in config.logit_bias if isinstance(token, int)]
        texts = [(token, bias) for token, bias in config.logit_bias if isinstance(token, str)]
        vocabulary = Vocabulary(tokenizer.token_bytes) if texts or config.bans else None
        self.words = WordBiases(texts, vocabulary) if vocabulary and texts else None
        self.bans = Bans(config.bans, vocabulary) if vocabulary and config.bans else None
        self._bias: NDArray[np.float64] | None = None

    def bias(self, vocab_size: int) -> NDArray[np.float64] | None:
        """What is always added to the logits of `vocab_size` ids (V,); None where that is nothing."""
        if self._bias is None and (self.biases or self.bans):
            self._bias = np.zeros(vocab_size)
            for token, bias in self.biases:
                self._bias[token] += bias
            if self.bans:
                self._bias[self.bans.inside] = -math.inf
        return self._bias

    def _checked(self, token: int) -> int:
        if not 0 <= token < self.vocab_size:
            raise UsageError(f"there is no token #{token}: the vocabulary ends at #{self.vocab_size - 1}.")
        return token


class Vocabulary:
    """The bytes of each id, also in alphabetical order, to find the ids that begin with something."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self.token_bytes = token_bytes
        self.order = sorted(range(len(token_bytes)), key=token_bytes.__getitem__)
        self.sorted = [token_bytes[i] for i in self.order]

    def beginning_with(self, start: bytes) -> list[int]:
        first = bisect_left(self.sorted, start)
        last = bisect_right(self.sorted, start, lo=first, key=lambda token: token[: len(start)])
        return self.order[first:last]

    def containing(self, text: bytes) -> list[int]:
        return [i for i, token in enumerate(self.token_bytes) if text in token]

    def end_of(self, ids: Sequence[int], length: int) -> bytes:
        """At least the last `length` bytes of what `ids` spell, where they spell that many."""
        end = b""
        for token in reversed(ids):
            if len(end) >= length:
                break
            if token < len(self.token_bytes):
                end = self.token_bytes[token] + end
        return end


class WordBiases:
    """Which ids would complete a text that has a bias, given what has been written.

    A text is compared as bytes, so it does not matter how it is cut into tokens or whether a space stands before it.
    Where it begins with a letter, no letter may stand before it, and where it ends with one, none may follow it in the
    same token: "the" is the word, not a part of "bathe" or "them". In scripts without spaces it may stand anywhere.
    The bias is added to the ids that complete the text, once for each time that they do.
    """

    def __init__(self, biases: Iterable[tuple[str, float]], vocabulary: Vocabulary) -> None:
        self.biases = [(text.encode(), bias, _joins(text[0]), _joins(text[-1])) for text, bias in biases]
        self.vocabulary = vocabulary
        self.length = max(len(text) for text, *_ in self.biases) + LONGEST_CHARACTER
        self._inside = [vocabulary.containing(text) for text, *_ in self.biases]
        self._found: dict[tuple[object, ...], tuple[NDArray[np.int64], NDArray[np.float64]]] = {}

    def state_after(self, ids: Sequence[int]) -> bytes:
        """What must be remembered of a prompt: its last bytes."""
        return self.vocabulary.end_of(ids, self.length)[-self.length :]

    def next_state(self, state: bytes, token: int) -> bytes:
        if token >= len(self.vocabulary.token_bytes):
            return state
        return (state + self.vocabulary.token_bytes[token])[-self.length :]

    def at(self, state: bytes) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ids (N,) that complete a text after `state`, and what is added to their logits (N,)."""
        begun = [[n for n in range(1, len(text)) if state.endswith(text[:n])] for text, *_ in self.biases]
        lefts = [[_ends_in_letter(state[: len(state) - n]) for n in (0, *some)] for some in begun]
        key = (*map(tuple, begun), *map(tuple, lefts))
        if key not in self._found:
            found: dict[int, float] = {}
            for (text, bias, *joins), inside, some in zip(self.biases, self._inside, begun, strict=True):
                able = {*inside, *(i for n in some for i in self.vocabulary.beginning_with(text[n:]))}
                for token in able:
                    if times := _count(text, state, self.vocabulary.token_bytes[token], *joins):
                        found[token] = found.get(token, 0.0) + times * bias
            ids = sorted(found)
            self._found[key] = np.array(ids, dtype=np.int64), np.array([found[i] for i in ids], dtype=np.float64)
        return self._found[key]


def _count(text: bytes, before: bytes, token: bytes, joins_left: bool, joins_right: bool) -> int:
    """How often `text` stands in `before` + `token` as a word that ends inside the token."""
    whole, times = before + token, 0
    at = whole.find(text, max(0, len(before) - len(text) + 1))
    while at >= 0:
        after = whole[at + len(text) :].decode(errors="ignore")[:1]
        if not (joins_left and _ends_in_letter(whole[:at])) and not (joins_right and after and _joins(after)):
            times += 1
        at = whole.find(text, at + 1)
    return times


def _ends_in_letter(written: bytes) -> bool:
    end = written[-LONGEST_CHARACTER:].decode(errors="ignore")
    return bool(end) and _joins(end[-1])


def _joins(character: str) -> bool:
    """Does it make one word with a letter beside it?"""
    is_part = character.isalnum() or unicodedata.category(character)[0] == "M" or character == "_"
    return is_part and not UNSPACED.match(character)


class Bans:
    """Which ids would complete a banned text, given what has been written.

    The texts are compared as bytes, so it does not matter how a text is cut into tokens; a text whose beginning is in
    the prompt is not completed either. The state after what has been written is its longest end that begins a banned
    text (Aho & Corasick 1975).
    """

    def __init__(self, texts: Iterable[str], vocabulary: Vocabulary) -> None:
        self.texts = [text.encode() for text in texts]
        self.vocabulary, self.token_bytes = vocabulary, vocabulary.token_bytes
        self.beginnings = {text[:n] for text in self.texts for n in range(1, len(text))}
        self.longest = max(map(len, self.texts), default=0)
        self.inside = sorted({i for text in self.texts for i in vocabulary.containing(text)})
        self._completing: dict[bytes, list[int]] = {b"": []}
        self._next: dict[tuple[bytes, int], bytes] = {}

    def state_after(self, ids: Sequence[int]) -> bytes:
        """The state after a prompt."""
        return self._state(self.vocabulary.end_of(ids, self.longest))

    def next_state(self, state: bytes, token: int) -> bytes:
        if token >= len(self.token_bytes):
            return state
        if (state, token) not in self._next:
            self._next[state, token] = self._state(state + self.token_bytes[token])
        return self._next[state, token]

    def completing(self, state: bytes) -> list[int]:
        """Ids that complete a text begun before them; besides `inside`, the ids that contain a whole one."""
        if state not in self._completing:
            ids = {
                token
                for text in self.texts
                for n in range(1, len(text))
                if state.endswith(text[:n])
                for token in self.vocabulary.beginning_with(text[n:])
            }
            self._completing[state] = sorted(ids)
        return self._completing[state]

    def _state(self, written: bytes) -> bytes:
        for at in range(max(0, len(written) - self.longest), len(written)):
            if written[at:] in self.beginnings:
                return written[at:]
        return b""


class Phrases:
    """The phrases of `n` tokens in a text, and which ids would repeat one."""

    def __init__(self, n: int, ids: Iterable[int]) -> None:
        self.n = n
        self.last: deque[int] = deque(maxlen=n - 1)
        self.followers: dict[tuple[int, ...], list[int]] = {}
        for token in ids:
            self.push(token)

    def push(self, token: int) -> None:
        if len(self.last) == self.n - 1:
            self.followers.setdefault(tuple(self.last), []).append(token)
        self.last.append(token)

    def repeating(self) -> list[int]:
        return self.followers.get(tuple(self.last), []) if len(self.last) == self.n - 1 else []
