"""Autoregressive decoding: read the prompt once, then one token after another.

`generate_ids` yields ids; `generate` turns them into text under it, stops at stop strings, and keeps a record.

The model sees at most `context_length` tokens. When that window is full, its newer half is read again and writing
goes on from there, so a text can be of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptlite.cache import KVCache
from gptlite.config import SamplingConfig
from gptlite.corpus import SAFE_CUT
from gptlite.errors import UsageError
from gptlite.model import GPT
from gptlite.sampling import Sampler, make_sampler, sample_seeds
from gptlite.tokenizer import Tokenizer

LONGEST_PIECE = 1 << 18  # characters of a prompt that are tokenized at once


@torch.inference_mode()
def prefill(model: GPT, tokens: Tensor, cache: KVCache) -> Tensor:
    """Read tokens (B, T) into an empty cache; return the logits (B, V) of what comes next."""
    cache.reset()
    return model.head(model.transformer(tokens, cache)[:, -1])


@torch.inference_mode()
def decode_step(model: GPT, tokens: Tensor, cache: KVCache) -> Tensor:
    """Read one more token of each row, tokens (B,); return the logits (B, V) of what comes next."""
    return model.head(model.transformer(tokens[:, None], cache)[:, -1])


def generate_ids(model: GPT, prompt: Sequence[int], n_rows: int, sampler: Sampler) -> Iterator[list[int]]:
    """Continue `prompt` (at least one id) in `n_rows` rows; yields the next id of each row, for ever."""
    context = model.config.context_length
    device = next(model.parameters()).device
    cache = KVCache(model.config, n_rows, device=device)
    history = torch.tensor([list(prompt[-context:])] * n_rows, device=device)  # (B, T)
    logits = prefill(model, history, cache)
    while True:
        tokens = sampler(logits)
        yield tokens.tolist()
        history = torch.cat((history[:, -context:], tokens[:, None].to(device)), dim=1)
        if cache.position < context:
            logits = decode_step(model, history[:, -1], cache)
        else:
            logits = prefill(model, history[:, -max(1, context // 2) :], cache)


@dataclass
class Sample:
    """One continuation. `finish_reason` is "length", or "stop" for a stop string or the end of the document."""

    text: str = ""
    finish_reason: str | None = None
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Chunk:
    """A piece of sample number `sample`, complete characters only; the pieces joined are its text."""

    sample: int
    text: str


class Generation:
    """Iterate to get `Chunk`s as they are written; `samples` is complete when the iteration ends.

    - `seed` and the number of a sample determine it; the other samples do not matter.
    - `keep=False` leaves the samples' text and tokens empty, so that memory does not grow however long the text gets.
    Raises `UsageError` for an empty stop string.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        prompt: str,
        config: SamplingConfig,
        *,
        seed: int,
        stop: Sequence[str] = (),
        keep: bool = True,
    ) -> None:
        if "" in stop:
            raise UsageError("--stop needs a text: every text has an empty one at once.")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.stop, self.keep = list(stop), keep
        ids = [*tokenizer.opening, *_encode(tokenizer, tokenizer.begin(prompt))]
        self.prompt_ids = ids or [tokenizer.separator_id]  # no prompt: a new document
        self.seeds = sample_seeds(seed, config.num_samples)
        self.samples = [Sample() for _ in self.seeds]

    def __iter__(self) -> Iterator[Chunk]:
        decoders = [self.tokenizer.stream() for _ in self.samples]
        filters = [StopFilter(self.stop) for _ in self.samples]
        rows = generate_ids(self.model, self.prompt_ids, len(self.samples), make_sampler(self.config, self.seeds))
        for _ in range(self.config.max_new_tokens):
            for i, (sample, token) in enumerate(zip(self.samples, next(rows), strict=True)):
                if sample.finish_reason:
                    continue
                if token in self.tokenizer.end_ids or token >= self.tokenizer.vocab_size:
                    text = filters[i].push(decoders[i].finish()) + filters[i].finish()
                    sample.finish_reason = "stop"
                else:
                    text = filters[i].push(decoders[i].push(token))
                    sample.finish_reason = "stop" if filters[i].stopped else None
                    if self.keep:
                        sample.tokens.append(token)
                yield from self._chunk(i, text)
            if all(sample.finish_reason for sample in self.samples):
                return
        for i, sample in enumerate(self.samples):
            if not sample.finish_reason:
                text = filters[i].push(decoders[i].finish()) + filters[i].finish()
                sample.finish_reason = "stop" if filters[i].stopped else "length"
                yield from self._chunk(i, text)

    def _chunk(self, i: int, text: str) -> Iterator[Chunk]:
        if self.keep:
            self.samples[i].text += text
        if text:
            yield Chunk(i, text)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text of any length, piece by piece: the tokenizer needs some hundred bytes of memory a character."""
    ids: list[int] = []
    start = 0
    while start < len(text):
        end = start + LONGEST_PIECE
        if end < len(text):
            safe = SAFE_CUT.search(text, end, end + LONGEST_PIECE)
            end = safe.start() if safe else end + LONGEST_PIECE
        ids += tokenizer.encode(text[start:end])
        start = end
    return ids


class StopFilter:
    """Lets text through up to the stop string that begins first, however the text is cut into pieces.

    What may be the beginning of a stop string is held back until it is known; so is the end, while a stop string that
    has come may lie inside a longer one that began before it.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
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


def generate(
    model: GPT, tokenizer: Tokenizer, prompt: str, config: SamplingConfig, *, seed: int, stop: Sequence[str] = ()
) -> list[Sample]:
    """All samples at once, without streaming."""
    generation = Generation(model, tokenizer, prompt, config, seed=seed, stop=stop)
    for _ in generation:
        pass
    return generation.samples
