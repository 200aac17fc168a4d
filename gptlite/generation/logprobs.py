"""What a model thought of each token that it wrote, and which part of the text that token spells.

Log-probabilities are natural logarithms (nats) of the model's own distribution, the softmax of its logits: before
temperature, cuts, penalties and whatever else decides what is drawn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from gptlite.text.tokenizer import Tokenizer

Alternative = tuple[int, float]  # an id and its log-probability


class Recorder:
    """A sampler, logits (B, V) to ids (B,), that remembers for each row what the model thought.

    After each call `chosen` has the log-probability of each row's id, and `top` the `k` likeliest ids of each row, the
    likeliest first; fewer where the vocabulary is smaller. What is impossible is not among them. Whatever else the
    sampler takes is handed on; the first of it may be the numbers of the rows, else they are 0 to B - 1.
    """

    def __init__(self, sampler: Callable[..., Tensor], k: int = 0) -> None:
        self.sampler, self.k = sampler, k
        self.chosen: dict[int, float] = {}
        self.top: dict[int, list[Alternative]] = {}

    def __call__(self, logits: Tensor, *rest: Any) -> Tensor:
        before = logits.clone()  # a sampler may change the logits in place
        ids = self.sampler(logits, *rest)
        rows = rest[0] if rest else range(len(ids))
        chosen, top = logprobs_of(before, ids, self.k)
        self.chosen, self.top = dict(zip(rows, chosen, strict=True)), dict(zip(rows, top, strict=True))
        return ids


def logprobs_of(logits: Tensor, ids: Tensor, k: int) -> tuple[list[float], list[list[Alternative]]]:
    """The log-probabilities of ids (B,) under logits (B, V), and the `k` likeliest ids of each row, which are fewer
    where the vocabulary is smaller or others are impossible."""
    logprobs = logits.cpu().double().log_softmax(dim=-1)
    chosen = logprobs.gather(-1, ids.cpu()[:, None])[:, 0]
    values, likeliest = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
    pairs = map(zip, likeliest.tolist(), values.tolist())
    return chosen.tolist(), [[(i, p) for i, p in top if p > -math.inf] for top in pairs]


class Attribution:
    """Which tokens spell which part of a text, in whatever portions the text comes out.

    Tokens are added as they are drawn; a part is what one of them completes, so characters stay whole. Its
    log-probability is that of all the tokens since the part before: the probability of several bytes is their product.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.decoder = tokenizer.stream()
        self.parts: deque[tuple[str, float]] = deque()
        self.unfinished = 0.0  # log-probability of the bytes that no character has come of yet

    def add(self, token: int, logprob: float) -> None:
        self.unfinished += logprob
        if text := self.decoder.push(token):
            self.parts.append((text, self.unfinished))
            self.unfinished = 0.0

    def take(self, text: str) -> Iterator[tuple[str, float]]:
        """`text`, which begins where the last one ended, in parts with their log-probabilities."""
        while text:
            part, logprob = self.parts.popleft() if self.parts else (text, self.unfinished)
            if len(part) > len(text):  # the rest is still held back, or a stop string begins there
                self.parts.appendleft((part[len(text) :], logprob))
            yield part[: len(text)], logprob
            text = text[len(part) :]


def count_spelling(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> int:
    """How many of `ids` spell `text`, which they begin with: up to the one that completes its last character.

    Where a stop string has cut the text, the tokens after it are left out; one that spells the end of the text and the
    beginning of the stop string belongs to the text. So do tokens at the end that spell a part of one more character.
    """
    decoder = tokenizer.stream()
    if "".join(map(decoder.push, ids)) == text:
        return len(ids)
    decoder, length = tokenizer.stream(), 0
    for n, token in enumerate(ids):
        if length >= len(text):
            return n
        length += len(decoder.push(token))
    return len(ids)
