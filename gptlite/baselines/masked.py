"""The other branch: a model that reads both sides of a word and fills gaps, as BERT does (Devlin et al. 2019).

Its blocks are those of a `GPT` without the causal mask. It learns to guess 15 % of the tokens of a text: of these, 80 %
are replaced by a token of its own, the mask, 10 % by another token, and 10 % stay, so no place is known to be right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlite.config import ModelConfig
from gptlite.errors import UsageError
from gptlite.kv_cache import KVCache
from gptlite.model import GPT, Attention, Block, Rotation
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence

CHOSEN, REPLACED, CHANGED = 0.15, 0.8, 0.1  # share of tokens that are guessed; and of these, masked, and changed
ROWS_AT_ONCE = 32


class BothSides(Attention):
    """Attention in which every token asks all others."""

    def forward(
        self, x: Tensor, rotation: Rotation | None, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.project(x, rotation)
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.n_kv_heads < self.n_heads)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, -1))


class Masked(GPT):
    """A two-sided model: token ids (B, T) to logits (B, T, V + 1), the scores of the token that stands at each place.

    - `config`: that of a causal model; the mask is one more token, `mask`.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__(dataclasses.replace(config, vocab_size=config.vocab_size + 1), dropout)
        self.mask = config.vocab_size
        for layer, block in enumerate(self.transformer.blocks):
            assert isinstance(block, Block)
            block.attn = BothSides(self.config, layer)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        if cache is not None:
            raise UsageError("a model that reads both sides cannot go on from a `cache`: each new token changes all.")
        return super().forward(tokens)

    def fill(self, ids: Sequence[int], n: int) -> list[int]:
        """`n` tokens after `ids`, each the likeliest for a mask at the end: what comes closest to writing."""
        written = list(ids)
        for _ in range(n):
            context = [*written, self.mask][-self.config.context_length :]
            with torch.no_grad():
                logits = self(torch.tensor([context], device=self.head.weight.device))[0, -1]
            written.append(int(logits[: self.mask].argmax()))
        return written[len(ids) :]


def corrupt(tokens: Tensor, mask: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) with some of them masked or changed, and which ones are to be guessed (B, T), at least one."""
    chosen = torch.rand(tokens.shape, generator=generator) < CHOSEN
    chosen[0, 0] |= ~chosen.any()
    how = torch.rand(tokens.shape, generator=generator)
    other = torch.randint(mask, tokens.shape, generator=generator)
    read = torch.where(chosen & (how < REPLACED), mask, tokens)
    return torch.where(chosen & (how >= REPLACED) & (how < REPLACED + CHANGED), other, read), chosen


def guess(model: Masked, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits (N, V + 1) of the tokens that are to be guessed among tokens (B, T), and what they are (N,)."""
    read, chosen = corrupt(tokens.cpu(), model.mask, generator)
    chosen = chosen.to(tokens.device)
    hidden = model.transformer(read.to(tokens.device))
    return model.head(hidden[chosen]), tokens[chosen]


def masked_loss(model: Masked, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Nats per token that was to be guessed among tokens (B, T)."""
    logits, targets = guess(model, tokens, generator)
    return F.cross_entropy(logits.float(), targets)


@torch.no_grad()
def embed(
    model: Masked, tokenizer: Tokenizer, places: Sequence[Occurrence], prefix: Sequence[int], *, hidden: bool = False
) -> np.ndarray:
    """(n, D): the state at the last token of each word, after all blocks; both sides of its text were read.

    - `prefix`: ids that are read before each text. `hidden`: with the mask in place of each token of the word.
    Of a text longer than the context, the part around the word is read.
    """
    model.eval()
    found = np.zeros((len(places), model.config.dim), dtype=np.float32)
    rows = [_window(model, tokenizer, place, prefix, hidden) for place in places]
    for batch in _equally_long([ids for ids, _ in rows]):
        ids = torch.tensor([rows[i][0] for i in batch], device=model.head.weight.device)
        states = model.transformer(ids).float().cpu().numpy()
        for i, row in zip(batch, states, strict=True):
            found[i] = row[rows[i][1]]
    return found


def _window(
    model: Masked, tokenizer: Tokenizer, place: Occurrence, prefix: Sequence[int], hidden: bool
) -> tuple[list[int], int]:
    """The ids that are read for a word, and where its last token is among them."""
    ids, spans = tokenizer.encode_with_spans(place.text)
    covering = [i for i, (start, end) in enumerate(spans) if start < place.end and end > place.start]
    at = covering[-1]
    if hidden:
        ids = [model.mask if i in covering else token for i, token in enumerate(ids)]
    room = model.config.context_length - len(prefix)
    first = max(0, min(at - room // 2, len(ids) - room))
    return [*prefix, *ids[first : first + room]], len(prefix) + at - first


def _equally_long(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of rows of one length, some at a time, so that nothing is padded."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batch: list[int] = []
    for i in order:
        if batch and (len(rows[batch[0]]) != len(rows[i]) or len(batch) == ROWS_AT_ONCE):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
