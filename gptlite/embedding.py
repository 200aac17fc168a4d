"""Word vectors, static and contextual, of the same word in different sentences.

A *static* vector is the word's row in the embedding table (the mean of its rows, if it has several tokens): one vector
whatever the sentence, as in Word2Vec. A *contextual* vector is the hidden state at the word: a function of everything
to its left, and of nothing to its right, because attention is causal.

Raw cosines between hidden states are all large (Ethayarajh 2019), so they are standardised per dimension with the
mean and standard deviation that training measured (Timkey & van Schijndel 2021), and shown beside what unrelated
words score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptlite.corpus import SAFE_CUT
from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.model import GPT
from gptlite.tokenizer import Tokenizer
from gptlite.tracing import trace
from gptlite.words import Occurrence

PREFIX = "\n"  # read before each text: a first position is special, and a line's start is what it most looks like
POOLS = ("last", "mean", "first")
STATISTICS_TOKENS = 8192
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


def cosine_matrix(vectors: np.ndarray) -> np.ndarray:
    """Cosines (n, n) of the rows of `vectors` (n, D)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-12)
    return unit @ unit.T


def nearest(query: np.ndarray, table: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The k rows of any `table` (V, D) with the largest cosine to `query` (D,), best first, of equals the upper one."""
    if k < 1:
        raise UsageError(f"the number of neighbours must be at least 1, not {k}.")
    lengths = np.linalg.norm(table, axis=1) * np.linalg.norm(query)
    cosines = table @ query / np.maximum(lengths, 1e-12)
    return [(int(i), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")[:k]]


def standardise(vectors: np.ndarray, statistics: Mapping[str, Tensor], layer: int) -> np.ndarray:
    """Vectors (n, D) of one layer with the mean taken off and each dimension divided by its standard deviation."""
    mean, std = statistics["mean"][layer].numpy(), statistics["std"][layer].numpy()
    return (vectors - mean) / np.maximum(std, 1e-6)


def measure_statistics(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> dict[str, Tensor]:
    """What cosines of this model are worth, from the first tokens of `ids` (N,), usually the held-out text:

    - `mean`, `std` (L + 1, D) of hidden states in each layer, for `standardise`
    - `unrelated` (L + 1, 4): cosine between random positions with different tokens: raw mean and standard deviation,
      standardised mean and standard deviation
    - `same_word` (L + 1, 4): the same for the same word in two random places

    The first position of a window and separators are left out: they are outliers of their own kind.
    """
    context = model.config.context_length
    n_windows = max(1, min(STATISTICS_TOKENS // context, len(ids) // context))
    length = min(context, len(ids))
    device = next(model.parameters()).device
    tokens = torch.from_numpy(ids[: n_windows * length].astype(np.int64)).view(n_windows, length)
    hidden: list[Tensor] = []
    for row in tokens.split(16):
        seen = trace(model, row.to(device), head=False)
        hidden.append(torch.stack(seen.hidden)[:, :, 1:].float().cpu())  # (L + 1, B, T - 1, D)
    words = tokens[:, 1:].flatten()
    usable = words != tokenizer.separator_id
    states = torch.cat(hidden, dim=1).flatten(1, 2)[:, usable]  # (L + 1, N, D)
    words = words[usable]
    mean, std = _moments(states)
    statistics = {"mean": mean, "std": std}
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(max(1, len(words)), (2, 4000 if len(words) else 0), generator=generator)
    pairs = pairs[:, words[pairs[0]] != words[pairs[1]]]
    standard = (states - mean[:, None]) / std[:, None].clamp(min=1e-6)
    for name, (first, second) in (
        ("unrelated", (pairs[0], pairs[1])),
        ("same_word", _same_word_pairs(words, tokenizer, generator)),
    ):
        columns = []
        for space in (states, standard):
            cosines = torch.nn.functional.cosine_similarity(space[:, first], space[:, second], dim=-1)
            columns += _moments(cosines)
        statistics[name] = torch.stack(columns, dim=1)
    return statistics


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the second dimension; zeros where there is nothing."""
    if x.shape[1] == 0:
        return torch.zeros_like(x.sum(dim=1)), torch.zeros_like(x.sum(dim=1))
    return x.mean(dim=1), x.std(dim=1, correction=0)


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


def _same_word_pairs(words: Tensor, tokenizer: Tokenizer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to 2,000 pairs of positions with the same token, one pair a token that begins a word and occurs twice."""
    first, second = [], []
    shuffle = torch.randperm(len(words), generator=generator)
    where: dict[int, list[int]] = {}
    for i, token in zip(shuffle.tolist(), words[shuffle].tolist(), strict=True):
        where.setdefault(token, []).append(i)
    for token, places in where.items():
        text = tokenizer.decode([token])
        if len(places) > 1 and text.startswith(" ") and text.strip().isalpha() and len(first) < 2000:
            first.append(places[0])
            second.append(places[1])
    if not first:  # no spaces in this language: any token that occurs twice
        repeated = [places for places in where.values() if len(places) > 1][:2000]
        first, second = [p[0] for p in repeated], [p[1] for p in repeated]
    return torch.tensor(first, dtype=torch.long), torch.tensor(second, dtype=torch.long)
