"""What a saved model knows of its own vectors: the space they lie in, what cosines are worth in it, which words it saw.

All of it is measured while the model is saved, so that vectors made later mean the same whatever they are shown with.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from gptlite.embedding.similarity import CORRECTIONS, MOST_COMPONENTS, correct, measure, unit
from gptlite.errors import NumericsError
from gptlite.model import GPT
from gptlite.text.token_files import spread_ids
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import UNSPACED, word_pattern
from gptlite.tracing import trace

STATISTICS_TOKENS = 8192
N_PAIRS = 4000
SAME_WORD_PAIRS = 2000
COUNTED_TOKENS = 1 << 21  # that words are counted in, in stretches spread over a longer text
MOST_TOKENS, COUNTED_AT_ONCE = 1 << 24, 1 << 18  # that tokens are counted in
MOST_WORDS, LONGEST_WORD = 50_000, 100  # and characters


def measure_statistics(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> dict[str, Tensor]:
    """What cosines of this model are worth, from the first tokens of `ids` (N,), usually the held-out text:

    - `mean`, `std` (L + 1, D) and principal `components` (L + 1, K, D) of the hidden states of each layer
    - `unrelated` (L + 1, 4, 2): mean and standard deviation of the cosine between random positions with different
      tokens, after each of the four `similarity.CORRECTIONS`; `unrelated_quantiles` (L + 1, 4, 101)
    - `same_word`, `same_word_quantiles`: the same for one word in two random places

    The first position of a window and separators are left out: they are outliers of their own kind. Raises
    `NumericsError` for a model that does not compute numbers.
    """
    words, states = _states(model, tokenizer, ids)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(max(1, len(words)), (2, N_PAIRS if len(words) else 0), generator=generator)
    pairs = pairs[:, words[pairs[0]] != words[pairs[1]]]
    places = {
        "unrelated": (pairs[0].numpy(), pairs[1].numpy()),
        "same_word": tuple(p.numpy() for p in _same_word_pairs(words, tokenizer, generator)),
    }
    layers: list[dict[str, np.ndarray]] = []
    for vectors in states.numpy():
        space = measure(vectors) if len(vectors) else _empty_space(vectors.shape[1])
        layer = dict(space)
        for name, (first, second) in places.items():
            cosines = [
                (unit(correct(vectors[first], c, space)) * unit(correct(vectors[second], c, space))).sum(axis=1)
                for c in CORRECTIONS
            ]
            layer[name] = np.array([_moments(x) for x in cosines], dtype=np.float32)
            layer[f"{name}_quantiles"] = np.array([_quantiles(x) for x in cosines], dtype=np.float32)
        layers.append(layer)
    return {name: torch.from_numpy(np.stack([layer[name] for layer in layers])) for name in layers[0]}


def count_tokens(ids: np.ndarray, vocab_size: int) -> Tensor:
    """How often each token stands in `ids` (N,): (V,) int64. Of more than 16 million, a part counts."""
    counts, ids = np.zeros(vocab_size, dtype=np.int64), spread_ids(ids, MOST_TOKENS)
    for start in range(0, len(ids), COUNTED_AT_ONCE):  # counting makes a copy that is four times as large
        counts += np.bincount(ids[start : start + COUNTED_AT_ONCE], minlength=vocab_size)
    return torch.from_numpy(counts)


def count_words(tokenizer: Tokenizer, ids: np.ndarray) -> list[tuple[str, int]]:
    """The words of a text of tokens `ids` (N,) that occur at least twice, most frequent first, at most 50,000.

    A word is a run of letters, digits and marks. Scripts without spaces have none that letters alone could show: there
    every token made of their characters is one. Of more than 2 million tokens, stretches spread over the text count.
    """
    ids = spread_ids(ids, COUNTED_TOKENS)
    counts: Counter[str] = Counter()
    for start in range(0, len(ids), COUNTED_AT_ONCE):
        text = tokenizer.decode(ids[start : start + COUNTED_AT_ONCE].tolist())
        counts.update(match[0] for match in word_pattern().finditer(text) if not UNSPACED.search(match[0]))
    for token, n in enumerate(np.bincount(ids, minlength=1)):
        text = tokenizer.decode([token]) if n else ""
        if text and all(UNSPACED.match(character) and character.isalpha() for character in text):
            counts[text] += int(n)
    frequent = [(word, n) for word, n in counts.items() if n > 1 and len(word) <= LONGEST_WORD]
    return sorted(frequent, key=lambda item: (-item[1], item[0]))[:MOST_WORDS]


def _states(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> tuple[Tensor, Tensor]:
    """Tokens (N,) and their hidden states (L + 1, N, D)."""
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
    states = torch.cat(hidden, dim=1).flatten(1, 2)[:, usable]
    if not states.isfinite().all():
        raise NumericsError(
            "the model's hidden states are not finite, so nothing is saved; go on from an earlier step with a "
            "smaller `lr`."
        )
    return words[usable], states


def _same_word_pairs(words: Tensor, tokenizer: Tokenizer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to 2,000 pairs of positions with the same token, one pair a token that begins a word and occurs twice."""
    first, second = [], []
    shuffle = torch.randperm(len(words), generator=generator)
    where: dict[int, list[int]] = {}
    for i, token in zip(shuffle.tolist(), words[shuffle].tolist(), strict=True):
        where.setdefault(token, []).append(i)
    for token, places in where.items():
        text = tokenizer.decode([token])
        if len(places) > 1 and text.startswith(" ") and text.strip().isalpha() and len(first) < SAME_WORD_PAIRS:
            first.append(places[0])
            second.append(places[1])
    if not first:  # no spaces in this language: any token that occurs twice
        repeated = [places for places in where.values() if len(places) > 1][:SAME_WORD_PAIRS]
        first, second = [p[0] for p in repeated], [p[1] for p in repeated]
    return torch.tensor(first, dtype=torch.long), torch.tensor(second, dtype=torch.long)


def _empty_space(dim: int) -> dict[str, np.ndarray]:
    zeros = np.zeros((1 + min(MOST_COMPONENTS, dim), dim), dtype=np.float32)
    return {"mean": zeros[0], "std": zeros[0], "components": zeros[1:]}


def _moments(x: np.ndarray) -> tuple[float, float]:
    return (float(x.mean()), float(x.std())) if len(x) else (0.0, 0.0)


def _quantiles(x: np.ndarray) -> np.ndarray:
    return np.quantile(x, np.linspace(0, 1, 101)) if len(x) else np.zeros(101)
