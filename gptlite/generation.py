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
from gptlite.model import GPT
from gptlite.sampling import Sampler, make_sampler, sample_seeds
from gptlite.tokenizer import Tokenizer


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
    history = torch.tensor([list(prompt)] * n_rows, device=device)  # (B, T)
    logits = prefill(model, history[:, -context:], cache)
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
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.stop = [text for text in stop if text]
        self.prompt_ids = tokenizer.encode(prompt) or [tokenizer.separator_id]  # no prompt: a new document
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
                if token == self.tokenizer.separator_id or token >= self.tokenizer.vocab_size:
                    sample.finish_reason = "stop"
                    text = decoders[i].finish()
                else:
                    sample.tokens.append(token)
                    text = decoders[i].push(token)
                text = filters[i].push(text)
                if filters[i].stopped:
                    sample.finish_reason = "stop"
                elif sample.finish_reason:
                    text += filters[i].finish()
                sample.text += text
                if text:
                    yield Chunk(i, text)
            if all(sample.finish_reason for sample in self.samples):
                return
        for i, sample in enumerate(self.samples):
            if not sample.finish_reason:
                sample.finish_reason = "length"
                text = filters[i].push(decoders[i].finish())
                text += filters[i].finish()
                sample.text += text
                if text:
                    yield Chunk(i, text)


class StopFilter:
    """Lets text through up to the first stop string, holding back an end that may be the beginning of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        if self.stopped:
            return ""
        self.held += text
        found = [at for s in self.stop if (at := self.held.find(s)) >= 0]
        if found:
            self.stopped = True
            return self.held[: min(found)]
        keep = max((_overlap(self.held, s) for s in self.stop), default=0)
        text, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return text

    def finish(self) -> str:
        """What is still held back; it was not the beginning of a stop string after all."""
        text, self.held = ("" if self.stopped else self.held), ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


def generate(
    model: GPT, tokenizer: Tokenizer, prompt: str, config: SamplingConfig, *, seed: int, stop: Sequence[str] = ()
) -> list[Sample]:
    """All samples at once, without streaming."""
    generation = Generation(model, tokenizer, prompt, config, seed=seed, stop=stop)
    for _ in generation:
        pass
    return generation.samples
