"""Word vectors, static and contextual, of the same word in different sentences.

A *static* vector is the word's row in the embedding table (the mean of its rows, if it has several tokens): one vector
whatever the sentence, as in Word2Vec. A *contextual* vector is the hidden state at the word: a function of everything
to its left, and of nothing to its right, because attention is causal.

How alike vectors are is the business of `similarity`; what a cosine is worth in a model, of `calibration`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gptlite.corpus import SAFE_CUT
from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.model import GPT
from gptlite.tokenizer import Tokenizer
from gptlite.tracing import trace
from gptlite.words import Occurrence

PREFIX = "\n"  # read before each text: a first position is special, and a line's start is what it most looks like
POOLS = ("last", "mean", "first")
LONGEST_WORD = 65_536  # characters


@dataclass(frozen=True)
class WordVector:
    """The vectors of one occurrence.

    - `contextual` (L + 1, D): after 0, 1, ... L blocks; `static` (D,).
    - `tokens`: the text of the tokens that cover the word; `partial` when they reach outside of it.
    - `n_left`: tokens the model had seen before this word.
    - `expected`: the likeliest next tokens at this point.
    """

    occurrence: Occurrence
    contextual: np.ndarray
    static: np.ndarray
    tokens: tuple[str, ...]
    partial: bool
    n_left: int
    expected: tuple[str, ...]


def resolve_layer(layer: str, n_layers: int) -> int:
    """ "mid" (half of the blocks), "last", a number from 0 (below block 1) to L, or a negative one from the end."""
    if layer == "mid":
        return (n_layers + 1) // 2
    if layer == "last":
        return n_layers
    if not re.fullmatch(r"-?\d+", layer) or not -n_layers - 1 <= int(layer) <= n_layers:
        raise UsageError(f"--layer must be mid, last, or a number from 0 to {n_layers} (or -1 to -{n_layers + 1}).")
    return int(layer) % (n_layers + 1)


def static_vector(model: GPT, tokenizer: Tokenizer, word: str) -> np.ndarray:
    """(D,): the mean of the embedding rows of " " + word, the form in which a word stands inside a sentence."""
    rows = model.transformer.embed.weight[tokenizer.encode(" " + word)]
    return rows.detach().float().mean(dim=0).cpu().numpy()


def embed(
    model: GPT, tokenizer: Tokenizer, occurrences: Sequence[Occurrence], *, pool: str = "last", n_expected: int = 4
) -> list[WordVector]:
    """Vectors of all `occurrences`, each by itself as `embed_word` does."""
    return [embed_word(model, tokenizer, o, pool=pool, n_expected=n_expected) for o in occurrences]


def embed_word(
    model: GPT, tokenizer: Tokenizer, occurrence: Occurrence, *, pool: str = "last", n_expected: int = 4
) -> WordVector:
    """The vectors of one word, from its text up to the end of the word: what follows cannot change them.

    - `pool`: which of a word's tokens count: the `last` one has seen the whole word; `mean`, `first`.
    Of a text longer than the model's context the last tokens up to the word are read. Raises `LimitError` for a word
    of more than 65,536 characters and `CheckpointError` for a model that does not compute numbers.
    """
    if pool not in POOLS:
        raise UsageError(f"--pool must be one of {', '.join(POOLS)}, not '{pool}'.")
    if len(occurrence.word) > LONGEST_WORD:
        raise LimitError(
            f"text {occurrence.text_index + 1}: a word of {len(occurrence.word):,} characters is too long; "
            f"{LONGEST_WORD:,} are the most."
        )
    context = model.config.context_length
    ids, covering, partial = _tokens_up_to_word(tokenizer, occurrence, context)
    window = [*tokenizer.encode(PREFIX), *ids][-context:]
    shift = len(window) - len(ids)  # of positions in ids to positions in the window
    seen = trace(model, torch.tensor([window], device=next(model.parameters()).device))
    positions = [i + shift for i in covering if i + shift >= 0]
    hidden = torch.stack([h[0, positions] for h in seen.hidden]).float().cpu()  # (L + 1, n, D)
    if not hidden.isfinite().all():
        raise CheckpointError(
            "the model's hidden states are not numbers, so its weights are damaged; use another step of the run."
        )
    pooled = {"last": hidden[:, -1], "first": hidden[:, 0], "mean": hidden.mean(dim=1)}[pool]
    assert seen.logits is not None
    likeliest = seen.logits[0, -1, : tokenizer.vocab_size].topk(min(n_expected, tokenizer.vocab_size)).indices
    return WordVector(
        occurrence,
        pooled.numpy(),
        static_vector(model, tokenizer, occurrence.word),
        tuple(tokenizer.decode([ids[i]]) for i in covering),
        partial,
        max(0, covering[0] + min(0, context - len(ids))),
        tuple(tokenizer.decode([i]) for i in likeliest.tolist()),
    )


def _tokens_up_to_word(tokenizer: Tokenizer, occurrence: Occurrence, context: int) -> tuple[list[int], list[int], bool]:
    """`_covering_tokens` without the ids after the word, and without more of a long text than fills the context."""
    text, start, end = occurrence.text, occurrence.start, occurrence.end
    reach = max(8 * context, 4096)  # characters to both sides of the word
    while True:
        left = max(0, start - reach)
        if left and (safe := SAFE_CUT.search(text, left, start)):
            left = safe.start()
        near = Occurrence(occurrence.text_index, text[left : end + reach], start - left, end - left)
        ids, covering, partial = _covering_tokens(tokenizer, near)
        if left == 0 or covering[-1] >= context:
            return ids[: covering[-1] + 1], covering, partial
        reach *= 4


def _covering_tokens(tokenizer: Tokenizer, occurrence: Occurrence) -> tuple[list[int], list[int], bool]:
    """Ids of the text, the positions of the tokens that cover the word, and whether they reach outside of it.

    By overlap of character spans, never by equality: a token may carry the space before the word, a character may be
    several tokens with the same span, and a token may reach into the next character.
    """
    ids, spans = tokenizer.encode_with_spans(occurrence.text)
    start, end = occurrence.start, occurrence.end
    covering = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    if not occurrence.word.isspace():
        covering = [i for i in covering if tokenizer.token_bytes[ids[i]].strip()]
    if not covering:
        raise UsageError(f"text {occurrence.text_index + 1}: no token covers {occurrence.word!r}.")
    text = occurrence.text
    partial = any(text[spans[i][0] : start].strip() or text[end : spans[i][1]].strip() for i in covering)
    return ids, covering, partial
