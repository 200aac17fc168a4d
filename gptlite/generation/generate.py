"""Autoregressive decoding: read the prompt once, then one token after another.

`generate_ids` yields ids; `Generation` turns them into text over it, ends it, and keeps a record.

The model sees at most `context_length` tokens. When that window is full, its newer half is read again and writing
goes on from there, so a text can be of any length.

What is written for a prompt and a seed depends on nothing else: not on the other rows of its batch, nor on whether the
text is streamed. Rows share no padding, and `reproducible` draws what the model says of a row alone.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from gptlite.config import ModelConfig, SamplingConfig
from gptlite.generation.constraints import Constraints
from gptlite.generation.decoding import Decoding, choose_decoding
from gptlite.generation.logprobs import Alternative, Recorder
from gptlite.generation.reproducible import Draw, make_sampler
from gptlite.generation.stopping import Stopping
from gptlite.model import GPT
from gptlite.randomness import derive
from gptlite.text.pairs import encode_messages
from gptlite.text.tokenizer import Tokenizer

LONGEST_PIECE = 1 << 18  # characters of a prompt that are tokenized at once
LARGEST_BATCH = 32  # rows; more gain little
CACHE_BYTES = 512 << 20  # that the keys and values of a batch may take
BATCHES_AT_ONCE = 16  # of many prompts: as many are sorted by length, so that like ones share a batch


@torch.inference_mode()
def reread(model: GPT, tokens: Tensor) -> Tensor:
    """Logits (V,) of what comes after tokens (T,), read alone and at once: they decide where a draw is in doubt."""
    return model.head(model.transformer(tokens[None])[0, -1])


def generate_ids(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    sampler: Draw,
    done: Collection[int] = (),
    decoding: Decoding | None = None,
) -> Iterator[list[int | None]]:
    """Continue each of `prompts` (at least one id each) in a row of its own; yields the next id of each row, for ever.

    The rows begin side by side: as many ids as the shortest prompt has are read at once, and then a longer prompt is
    read on, id by id, beside rows that write. So nothing is padded, and no row knows of another. While a row still
    reads, or when it is in `done`, which may grow meanwhile, its next id is None. Rows that are done are computed no
    further.
    """
    context = model.config.context_length
    device = next(model.parameters()).device
    decoder = (decoding or Decoding(model)).start(len(prompts))
    lengths = [min(len(prompt), context) for prompt in prompts]
    window = torch.zeros(len(prompts), context + 1, dtype=torch.long)  # what the model sees, and the id after it
    for row, prompt in enumerate(prompts):
        window[row, : lengths[row]] = torch.tensor(prompt[-context:])
    window, end = window.to(device), min(lengths)
    numbers = list(range(len(prompts)))  # of the rows that are computed; the first dimension of window, lengths, logits

    # Weights of 8 bits are another model, and the decoder that has them rounds each row alike in any company.
    rounded = decoding is not None and decoding.packed is not None and decoding.packed.dtype == "int8"

    def reread_row(number: int) -> Tensor:
        return reread(model, window[numbers.index(number), :end])

    logits = decoder.prefill(window[:, :end])
    while True:
        rows = [row for row, length in enumerate(lengths) if length <= end and numbers[row] not in done]
        if rows:
            drawn = [numbers[row] for row in rows]
            decide = None if rounded else reread_row
            tokens = sampler(logits if len(rows) == len(numbers) else logits[rows], drawn, decide)
            window[rows, end] = tokens
            ids = dict(zip(drawn, tokens.tolist(), strict=True))
            yield [ids.get(number) for number in range(len(prompts))]
        going = [row for row, number in enumerate(numbers) if number not in done]
        if 0 < len(going) < len(numbers):
            decoder.keep(going)
            window, lengths, numbers = window[going], [lengths[row] for row in going], [numbers[row] for row in going]
        end += 1
        if end <= context:
            logits = decoder.step(window[:, end - 1])
        else:
            half = max(1, context // 2)
            window[:, :half] = window[:, end - half : end].clone()
            end = half
            lengths = [0] * len(numbers)
            logits = decoder.prefill(window[:, :end])


def rows_at_once(config: ModelConfig) -> int:
    """How many rows a batch has where nobody says: keys and values must not fill the memory."""
    row = 8 * config.n_layers * config.n_kv_heads * config.context_length * config.head_dim
    return max(1, min(LARGEST_BATCH, CACHE_BYTES // row))


@dataclass
class Sample:
    """One continuation. `finish_reason` is "length", or "stop" where the model or a stop ended the text.

    `text` has whole characters only: where the last one is cut off, its bytes are in `tokens` alone.
    `logprobs` and `top` have an entry for each token where they were asked for: see `logprobs.Recorder`.
    """

    text: str = ""
    finish_reason: str | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[Alternative]] = field(default_factory=list)


@dataclass(frozen=True)
class Chunk:
    """A piece of sample number `sample`, in whole characters; the pieces joined are its text."""

    sample: int
    text: str


class Generation:
    """Iterate to get `Chunk`s as they are written; `samples` is complete when the iteration ends.

    - `seed` and the number of a sample determine it; the other samples do not matter.
    - `numbers`: which samples, from 0 on; by default the first `config.num_samples`.
    - `stop`: texts before which a sample ends; `stop_at`: the unit of text after which it ends (stopping.UNITS).
    - `decoding`: how the model decodes; None lets `choose_decoding` decide when the iteration begins.
    - `keep=False` leaves the samples' text and tokens empty, so that memory does not grow however long the text gets.
    - `batch_size`: samples that are written side by side.
    - `prompt_ids`: the ids of the prompt, where they are not those of `tokenize_prompt`.
    - `logprobs` keeps each token's log-probability, and this many of the likeliest alternatives; None keeps neither.
    Raises `UsageError` for an empty stop string, an unknown unit, and a bias of what is no token.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        prompt: str,
        config: SamplingConfig,
        *,
        seed: int,
        numbers: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        stop_at: str = "document",
        keep: bool = True,
        batch_size: int | None = None,
        logprobs: int | None = None,
        decoding: Decoding | None = None,
        prompt_ids: Sequence[int] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.prompt, self.seed, self.logprobs, self._decoding = prompt, seed, logprobs, decoding
        self.batch_size = batch_size or rows_at_once(model.config)
        self.prompt_ids = tokenize_prompt(tokenizer, prompt) if prompt_ids is None else list(prompt_ids)
        self.numbers = list(range(config.num_samples) if numbers is None else numbers)
        self.seeds = [derive(seed, number) for number in self.numbers]
        self.rows = [Row(self.prompt_ids, s, tokenizer, config, Stopping(stop, stop_at), keep) for s in self.seeds]
        self.samples = [row.sample for row in self.rows]
        find_constraints(config, tokenizer)  # what is wrong with it is said now

    @property
    def decoding(self) -> Decoding:
        if self._decoding is None:
            self._decoding = choose_decoding(self.model, self.config.max_new_tokens)
        return self._decoding

    def __iter__(self) -> Iterator[Chunk]:
        for first in range(0, len(self.rows), self.batch_size):
            batch = self.rows[first : first + self.batch_size]
            for i, text in write(self.model, self.tokenizer, batch, self.config, self.logprobs, self.decoding):
                yield Chunk(first + i, text)


def generate_together(generations: Iterable[Generation], batch_size: int | None = None) -> Iterator[Generation]:
    """Write what several requests to one model ask for, in batches that they share; yields each, complete, in order.

    Memory is bounded however many there are: they are taken some hundred at a time.
    """
    generations = iter(generations)
    while first := next(generations, None):
        size = batch_size or first.batch_size
        group = [first, *islice(generations, max(0, BATCHES_AT_ONCE * size // len(first.rows) - 1))]
        rows = sorted((row for each in group for row in each.rows), key=lambda row: len(row.prompt))
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            for _ in write(first.model, first.tokenizer, batch, first.config, first.logprobs, first.decoding):
                pass
        yield from group


def write(
    model: GPT,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    config: SamplingConfig,
    logprobs: int | None = None,
    decoding: Decoding | None = None,
) -> Iterator[tuple[int, str]]:
    """Write all rows, side by side; yields which row gets which text."""
    done = {i for i, row in enumerate(rows) if row.sample.finish_reason}
    prompts = [row.prompt for row in rows]
    sampler = make_sampler(config, [row.seed for row in rows], prompts, find_constraints(config, tokenizer))
    recorder = None if logprobs is None else Recorder(sampler, logprobs)
    ids = generate_ids(model, prompts, recorder or sampler, done, decoding)
    while len(done) < len(rows):
        for i, (row, token) in enumerate(zip(rows, next(ids), strict=True)):
            if token is None or i in done:
                continue
            text = row.push(token)
            if recorder and len(row.sample.tokens) > len(row.sample.logprobs):
                row.sample.logprobs.append(recorder.chosen[i])
                row.sample.top.append(recorder.top[i])
            if row.sample.finish_reason:
                done.add(i)
            if text:
                yield i, text


@functools.lru_cache(maxsize=1)
def find_constraints(config: SamplingConfig, tokenizer: Tokenizer) -> Constraints:
    """The constraints that all batches of one command share."""
    return Constraints(config, tokenizer)


class Row:
    """One text that is being written: from ids to the text that is let through."""

    def __init__(
        self,
        prompt: list[int],
        seed: int,
        tokenizer: Tokenizer,
        config: SamplingConfig,
        stopping: Stopping,
        keep: bool,
    ) -> None:
        self.prompt, self.seed, self.tokenizer, self.config = prompt, seed, tokenizer, config
        self.stopping, self.keep = stopping, keep
        self.decoder = tokenizer.stream()
        self.n_tokens = 0
        self.sample = Sample(finish_reason=None if config.max_new_tokens else "length")

    def push(self, token: int) -> str:
        """The text that one more id lets through; sets the sample's `finish_reason` when it is the last."""
        if token in self.tokenizer.end_ids or token >= self.tokenizer.vocab_size:
            text = self._end()
            self.sample.finish_reason = "stop"
        else:
            self.n_tokens += 1
            text = self.decoder.push(token)
            text = self.stopping.skip(text) if self.n_tokens <= self.config.min_new_tokens else self.stopping.push(text)
            if self.keep:
                self.sample.tokens.append(token)
            if not self.stopping.stopped and self.n_tokens == self.config.max_new_tokens:
                text += self._end()
                self.sample.finish_reason = "length"
            if self.stopping.stopped:
                self.sample.finish_reason = "stop"
        if self.keep:
            self.sample.text += text
        return text

    def _end(self) -> str:
        """What is still held back for a stop string. A character whose last bytes never came is left out of the text;
        its tokens stay in the sample."""
        return self.stopping.finish()


def tokenize_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a prompt; no prompt is the beginning of a document. A model of pairs gets it as a prompt to answer."""
    if tokenizer.pairs:
        messages, opened = tokenizer.pairs.prompt(text)
        return encode_messages(tokenizer, messages, opened)
    return plain_prompt(tokenizer, text)


def plain_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a prompt that is continued as it stands, whatever the model was trained on."""
    return [*tokenizer.opening, *_encode(tokenizer, tokenizer.begin(text))] or [tokenizer.separator_id]


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text of any length, piece by piece: the tokenizer needs some hundred bytes of memory a character."""
    ids: list[int] = []
    start = 0
    while start < len(text):
        end = start + LONGEST_PIECE
        if end < len(text):
            safe = tokenizer.safe_cut.search(text, end, end + LONGEST_PIECE)
            end = safe.start() if safe else end + LONGEST_PIECE
        ids += tokenizer.encode(text[start:end])
        start = end
    return ids


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    config: SamplingConfig,
    *,
    seed: int,
    stop: Sequence[str] = (),
    stop_at: str = "document",
    batch_size: int | None = None,
    logprobs: int | None = None,
    dtype: str = "fp32",
    compile: str = "auto",
) -> list[Sample]:
    """Write `config.num_samples` continuations of a prompt, without streaming.

    - `seed`, `stop`, `stop_at`, `batch_size`, `logprobs`: as in `Generation`.
    - `dtype`: "fp32", or "int8" for weights of 8 bits; `compile`: "auto", "on" or "off". See `choose_decoding`.
    Raises `UsageError` for values that make no sense.
    """
    decoding = choose_decoding(model, config.max_new_tokens, dtype=dtype, compile=compile)
    generation = Generation(
        model, tokenizer, prompt, config, seed=seed, stop=stop, stop_at=stop_at, batch_size=batch_size,
        logprobs=logprobs, decoding=decoding,
    )  # fmt: skip
    for _ in generation:
        pass
    return generation.samples
