"""Many texts side by side that begin and end at any time, as a server needs it ("continuous batching", Yu et al. 2022).

`generate.write` begins all rows of a batch together. Here a text takes a free row whenever there is one: each pass
reads the last token of every text that is written, and fills up with parts of prompts that are still read. So nobody
waits for another text to end, and a long prompt delays the others by no more than a part of it.

A text is the one that `generate` writes for its prompt and seed, whatever is written beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gptlite.config import SamplingConfig
from gptlite.generation.constraints import Constraints
from gptlite.generation.decoding import Decoding, EagerDecoder
from gptlite.generation.generate import Row, reread
from gptlite.generation.logprobs import logprobs_of
from gptlite.generation.packed import CompiledDecoder
from gptlite.generation.reproducible import ReproducibleSampler, draw_together, make_sampler
from gptlite.generation.stopping import Stopping
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

PROMPT_PART = 256  # ids of a prompt that the model as it is reads at once


class Part(NamedTuple):
    """Ids that a pass reads in a row, from a position on. `wanted`: are the logits of what comes next?"""

    row: int
    ids: Sequence[int]
    position: int
    wanted: bool


class RowDecoder(Protocol):
    """Rows at positions of their own. `n_at_once`: how many ids a pass reads at most."""

    n_at_once: int

    def read(self, parts: Sequence[Part]) -> Tensor:
        """Read parts of different rows; logits (W, V) after those that are wanted."""
        ...


class CompiledRows:
    """All parts in one call of machine code."""

    def __init__(self, decoder: CompiledDecoder) -> None:
        self.decoder, self.n_at_once = decoder, decoder.n_at_once

    def read(self, parts: Sequence[Part]) -> Tensor:
        ids = [i for part in parts for i in part.ids]
        rows = [part.row for part in parts for _ in part.ids]
        positions = [part.position + n for part in parts for n in range(len(part.ids))]
        ends = torch.tensor([len(part.ids) for part in parts]).cumsum(0) - 1
        wanted = ends[torch.tensor([part.wanted for part in parts])]
        return self.decoder.read(torch.tensor(ids), torch.tensor(rows), torch.tensor(positions), wanted)


class EagerRows:
    """The model as it is, called for each part by itself."""

    def __init__(self, model: GPT, n_rows: int) -> None:
        self.model, self.n_at_once = model, PROMPT_PART + n_rows
        self.rows = [EagerDecoder(model, 1) for _ in range(n_rows)]

    def read(self, parts: Sequence[Part]) -> Tensor:
        logits: list[Tensor] = []
        for part in parts:
            row, ids = self.rows[part.row], torch.tensor([part.ids])
            read = row.read_on(ids) if part.position else row.prefill(ids)
            if part.wanted:
                logits.append(read)
        return torch.cat(logits) if logits else torch.empty(0, self.model.config.vocab_size)


@dataclass(eq=False)
class Text:
    """A text that is being written.

    - `row`: what makes text of its ids. `sampler`: what draws them. `logprobs`: as of `Generation`.
    - `window`: the ids that the model sees, of which it has read `n_read` in the row `place`; -1: it has none yet.
    """

    row: Row
    sampler: ReproducibleSampler
    logprobs: int | None = None
    window: list[int] = field(default_factory=list[int])
    n_read: int = 0
    place: int = -1


def begin_text(
    prompt: Sequence[int],
    seed: int,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    constraints: Constraints,
    stopping: Stopping,
    logprobs: int | None = None,
) -> Text:
    """A text that continues the ids of a prompt (at least one). `seed`: that of the sample, as `Generation.seeds`."""
    row = Row(list(prompt), seed, tokenizer, config, stopping, keep=True)
    return Text(row, make_sampler(config, [seed], [row.prompt], constraints), logprobs)


class SideBySide:
    """At most `n_rows` texts of one model. Not for several threads."""

    def __init__(self, decoding: Decoding, n_rows: int) -> None:
        self.model, self.context = decoding.model, decoding.model.config.context_length
        self.texts: list[Text] = []
        self.free = list(range(n_rows))
        # Weights of 8 bits are another model, and their decoder rounds each row alike in any company.
        self.rounded = decoding.packed is not None and decoding.packed.dtype == "int8"
        decoder = decoding.start(n_rows) if decoding.packed is not None else None
        self.decoder: RowDecoder = (
            CompiledRows(decoder) if isinstance(decoder, CompiledDecoder) else EagerRows(self.model, n_rows)
        )

    def add(self, text: Text) -> None:
        """Give a text one of the `free` rows."""
        text.place, text.window, text.n_read = self.free.pop(), text.row.prompt[-self.context :], 0
        self.texts.append(text)

    def remove(self, text: Text) -> None:
        """Write a text no further."""
        if text in self.texts:
            self.texts.remove(text)
            self.free.append(text.place)

    def advance(self) -> list[Text]:
        """One pass; the texts that got a token by it. Those that have ended are removed."""
        parts = self._choose_parts()
        logits = self.decoder.read([part for _, part in parts])
        for text, part in parts:
            text.n_read += len(part.ids)
        drawing = [text for text, part in parts if part.wanted]
        if drawing:
            self._draw(drawing, logits)
        for text in drawing:
            if text.row.sample.finish_reason:
                self.remove(text)
        return drawing

    def _choose_parts(self) -> list[tuple[Text, Part]]:
        """What the next pass reads: a token of each text that is written, then what fits of the prompts, oldest first.

        A text of which nothing fits waits for the next pass.
        """
        parts: list[tuple[Text, Part]] = []
        room = self.decoder.n_at_once
        for text in sorted(self.texts, key=lambda text: len(text.window) - text.n_read > 1):  # stable: oldest first
            ids = text.window[text.n_read : text.n_read + room]
            if ids:
                wanted = text.n_read + len(ids) == len(text.window)
                parts.append((text, Part(text.place, ids, text.n_read, wanted)))
                room -= len(ids)
        return parts

    def _draw(self, texts: Sequence[Text], logits: Tensor) -> None:
        rereads = [None if self.rounded else (lambda text=text: self._reread(text)) for text in texts]
        ids = draw_together([text.sampler for text in texts], logits, rereads)
        for i, (text, token) in enumerate(zip(texts, ids, strict=True)):
            text.row.push(token)
            sample = text.row.sample
            if text.logprobs is not None and len(sample.tokens) > len(sample.logprobs):
                (chosen,), (top,) = logprobs_of(logits[i : i + 1], torch.tensor([token]), text.logprobs)
                sample.logprobs.append(chosen)
                sample.top.append(top)
            text.window.append(token)
            if len(text.window) > self.context:  # full: its newer half is read again, as `generate_ids` does it
                text.window, text.n_read = text.window[-max(1, self.context // 2) :], 0

    def _reread(self, text: Text) -> Tensor:
        return reread(self.model, torch.tensor(text.window, device=self.model.head.weight.device))
