"""What a person wants more of, less of, or never: biases of tokens, banned texts, phrases that do not come again."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gptlite.config import SamplingConfig
from gptlite.errors import UsageError
from gptlite.storage.validation import shown
from gptlite.text.tokenizer import Tokenizer

MOST_PIECES = 6  # of a text, in a message


class Steering:
    """What a configuration means for the ids of one tokenizer. Raises `UsageError` for a bias of what is no token.

    - `biases`: what is added to the logits of ids; `bans`: which ids would complete a banned text, or None.
    - `end_ids` end a document, `separator_id` among them; so do ids from `vocab_size` on, which spell nothing.
    """

    def __init__(self, config: SamplingConfig, tokenizer: Tokenizer) -> None:
        self.biases = [(find_token(tokenizer, token), bias) for token, bias in config.logit_bias]
        self.bans = Bans(config.bans, tokenizer.token_bytes) if config.bans else None
        self.separator_id, self.end_ids = tokenizer.separator_id, tokenizer.end_ids
        self.vocab_size = tokenizer.vocab_size
        self._bias: NDArray[np.float64] | None = None

    def bias(self, vocab_size: int) -> NDArray[np.float64] | None:
        """What is always added to logits of so many ids (V,); None where that is nothing."""
        if self._bias is None and (self.biases or self.bans):
            self._bias = np.zeros(vocab_size)
            for token, bias in self.biases:
                self._bias[token] += bias
            if self.bans:
                self._bias[self.bans.inside] = -math.inf
        return self._bias


def find_token(tokenizer: Tokenizer, token: str | int) -> int:
    """The id of a token that is given as its text or its id. Raises `UsageError`, and says what would do."""
    if isinstance(token, int):
        if not 0 <= token < tokenizer.vocab_size:
            raise UsageError(f"there is no token #{token}: the vocabulary ends at #{tokenizer.vocab_size - 1}.")
        return token
    spelled, table = token.encode(), tokenizer.token_bytes
    if spelled in table:
        return table.index(spelled)
    pieces = [shown(table[i].decode(errors="replace")) for i in tokenizer.encode(token)]
    named = " ".join(pieces if len(pieces) <= MOST_PIECES else [*pieces[:MOST_PIECES], "..."])
    hint = f"; {shown(' ' + token)} is one" if b" " + spelled in table else ""
    raise UsageError(f"a logit bias is for one token, and {shown(token)} is {len(pieces)} here: {named}{hint}.")


class Bans:
    """Which ids would complete a banned text, given what has been written.

    The texts are compared as bytes, so it does not matter how a text is cut into tokens; a text whose beginning is in
    the prompt is not completed either. What has been written counts as its longest end that begins a banned text: its
    state, at first the one of the prompt (Aho & Corasick 1975).
    """

    def __init__(self, texts: Iterable[str], token_bytes: Sequence[bytes]) -> None:
        self.texts = [text.encode() for text in texts]
        self.token_bytes = token_bytes
        self.beginnings = {text[:n] for text in self.texts for n in range(1, len(text))}
        self.longest = max(map(len, self.texts), default=0)
        self.inside = [i for i, token in enumerate(token_bytes) if any(text in token for text in self.texts)]
        self.order = sorted(range(len(token_bytes)), key=token_bytes.__getitem__)
        self.sorted = [token_bytes[i] for i in self.order]
        self._completing: dict[bytes, list[int]] = {b"": []}
        self._next: dict[tuple[bytes, int], bytes] = {}

    def state_after(self, ids: Sequence[int]) -> bytes:
        """The state after a prompt."""
        end = b""
        for token in reversed(ids):
            if len(end) >= self.longest:
                break
            end = self.token_bytes[token] + end
        return self._state(end)

    def next_state(self, state: bytes, token: int) -> bytes:
        if token >= len(self.token_bytes):
            return state
        if (state, token) not in self._next:
            self._next[state, token] = self._state(state + self.token_bytes[token])
        return self._next[state, token]

    def completing(self, state: bytes) -> list[int]:
        """Ids that complete a text begun before them; besides `inside`, the ids that hold a whole one."""
        if state not in self._completing:
            ids = {
                token
                for text in self.texts
                for n in range(1, len(text))
                if state.endswith(text[:n])
                for token in self._beginning_with(text[n:])
            }
            self._completing[state] = sorted(ids)
        return self._completing[state]

    def _state(self, written: bytes) -> bytes:
        for at in range(max(0, len(written) - self.longest), len(written)):
            if written[at:] in self.beginnings:
                return written[at:]
        return b""

    def _beginning_with(self, start: bytes) -> list[int]:
        first = bisect_left(self.sorted, start)
        last = bisect_right(self.sorted, start, lo=first, key=lambda token: token[: len(start)])
        return self.order[first:last]


class Phrases:
    """The phrases of `n` tokens that a text has: which ids would repeat one."""

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
