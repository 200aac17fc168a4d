"""Static vectors made of contexts: for each word, the mean of what the model expected wherever the word stood.

The state that predicts a word (one token before it) has seen only the context, never the word's own spelling, so its
mean over many places says in which contexts the word stands, and words that stand in the same contexts get the same
mean. In our models it agrees with human judgements far better than the state at the word, whose first business is the
word itself (docs/lab/vectors.md has the figures; Bommasani et al. 2020 average states at the word, in BERT).

What stands to the right of a word comes in through its neighbours: in each round a word gets the mean of the vectors of
the words within ten places of it, rare ones weighing more (word2vec's subsampling, Mikolov et al. 2013). After each
step the principal axes are brought nearer to one length, as is usual in latent semantic analysis (Caron 2001).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptlite.embedding.similarity import unit
from gptlite.errors import CorpusError, plural
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import find_words
from gptlite.tracing import trace

MIN_COUNT = 5
ROUNDS = 2
WINDOW = 10  # words to either side
POWER = 0.25  # of the singular values of the principal axes
FREQUENT = 1e-4  # share of the text above which a word weighs less as a neighbour
SHARED_HISTORY = 4  # a quarter of each window is read again, so that each state has that much history
BATCH = 32  # windows
CHUNK = 1 << 14  # words


@dataclass(frozen=True)
class Contexts:
    """What stood around the words (n) of a text, most frequent first.

    - `counts` (n,); `means` (n, D): the mean of the states that predict the word.
    - `stream`: the text as numbers of words, -1 for those that are too rare, in pieces.
    """

    words: list[str]
    counts: np.ndarray
    means: np.ndarray
    stream: list[np.ndarray]


def read_contexts(
    model: GPT,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    min_count: int = MIN_COUNT,
    layer: int | None = None,
    at_word: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> Contexts:
    """Run the model over `texts` and keep what it expected at the words that stand at least `min_count` times.

    - `layer`: whose states, after so many blocks; the last one by default.
    - `at_word`: instead of the state that predicts the word, the state at its last token.
    Of the text, only a number for each word is held in memory; `progress` is told the characters read after each text.
    Raises `CorpusError` when no two words are frequent enough.
    """
    numbers: dict[str, int] = {}
    sums = Sums(model.config.dim)
    stream: list[np.ndarray] = []
    n_characters = 0
    for text in texts:
        ids, before, last, found = _words_of(tokenizer, text)
        places = last if at_word else before
        words = np.fromiter((numbers.setdefault(word, len(numbers)) for word in found), np.int32, len(found))
        stream.append(words)
        for first, states in _states(model, ids, layer):
            inside = slice(*np.searchsorted(places, [first, first + len(states)]))
            sums.add(words[inside], states[places[inside] - first])
        n_characters += len(text)
        progress(n_characters)
    counts = np.bincount(np.concatenate(stream), minlength=len(numbers)) if numbers else np.zeros(0, dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    kept = order[counts[order] >= min_count]
    if len(kept) < 2:
        raise CorpusError(
            f"too few words stand {plural(min_count, 'time')} in the text; take a longer one or a lower count."
        )
    renumbered = np.full(len(numbers), -1, dtype=np.int32)
    renumbered[kept] = np.arange(len(kept))
    names = list(numbers)
    words_kept = [names[i] for i in kept]
    return Contexts(words_kept, counts[kept], sums.means(len(numbers))[kept], [renumbered[part] for part in stream])


def average_vectors(
    contexts: Contexts, *, rounds: int = ROUNDS, window: int = WINDOW, power: float = POWER
) -> np.ndarray:
    """(n, D): a static vector for each word of `contexts`. With no `rounds`, of what predicts the word alone."""
    vectors = equalise(contexts.means, power)
    for _ in range(rounds):
        vectors = equalise(_neighbours(vectors, contexts, window), power)
    return vectors


def equalise(vectors: np.ndarray, power: float) -> np.ndarray:
    """Vectors (n, D) about their mean, turned to their principal axes, singular values raised to `power`.

    A power of 1 keeps all distances, 0 makes all axes equally long (whitening).
    """
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    variances = np.maximum(variances, 1e-9 * max(variances[-1], 1e-12))
    return (centred @ axes * variances ** ((power - 1) / 2)).astype(np.float32)


class Sums:
    """Sums of vectors by the number of their word, for any number of words."""

    def __init__(self, dim: int) -> None:
        self.total, self.n = torch.zeros(1024, dim), torch.zeros(1024)

    def add(self, words: np.ndarray, vectors: Tensor) -> None:
        """Add `vectors` (n, D), of words with these numbers (n,)."""
        if not len(words):
            return
        while int(words.max()) >= len(self.n):
            self.total = torch.cat([self.total, torch.zeros_like(self.total)])
            self.n = torch.cat([self.n, torch.zeros_like(self.n)])
        index = torch.from_numpy(words.astype(np.int64))
        self.total.index_add_(0, index, vectors)
        self.n.index_add_(0, index, torch.ones(len(index)))

    def means(self, n_words: int) -> np.ndarray:
        """(n, D); zeros for a word that has none."""
        return (self.total / self.n[:, None].clamp(min=1))[:n_words].numpy()


def _words_of(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Ids of a separator and the text; the positions of the token before each word and of its last one; the words.

    In scripts without spaces, tokens of their characters are the words, as in `statistics.count_words`.
    """
    ids, spans = tokenizer.encode_with_spans(text)
    starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    found = find_words(text, spans)
    first = np.searchsorted(ends, [start for start, _ in found], side="right")  # reaches beyond the start of the word
    last = np.searchsorted(starts, [end for _, end in found], side="left")  # one further, for the separator
    return np.array([tokenizer.separator_id, *ids], dtype=np.int64), first, last, [text[a:b] for a, b in found]


@torch.inference_mode()
def _states(model: GPT, ids: np.ndarray, layer: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """(first position, states (n, D) of a layer) for stretches that cover all of `ids` (N,) once."""
    context, device = model.config.context_length, next(model.parameters()).device
    length = min(context, len(ids))
    starts = [*range(0, len(ids) - length, context - context // SHARED_HISTORY), len(ids) - length]
    done = 0
    for i in range(0, len(starts), BATCH):
        some = starts[i : i + BATCH]
        tokens = torch.from_numpy(np.stack([ids[start : start + length] for start in some])).to(device)
        hidden = model.transformer(tokens) if layer is None else trace(model, tokens, head=False).hidden[layer]
        for start, states in zip(some, hidden.float().cpu(), strict=True):
            yield done, states[done - start :]
            done = start + length


def _neighbours(vectors: np.ndarray, contexts: Contexts, window: int) -> np.ndarray:
    """(n, D): for each word the mean over its places of the sum of its neighbours' unit vectors, by their weight."""
    counts = contexts.counts
    weight = np.minimum(1, np.sqrt(FREQUENT * counts.sum() / counts)).astype(np.float32)
    weighted = np.concatenate([unit(vectors) * weight[:, None], np.zeros((1, vectors.shape[1]), np.float32)])
    sums = Sums(vectors.shape[1])
    for words in contexts.stream:
        for first in range(0, len(words), CHUNK):
            begin = max(0, first - window)
            here = words[begin : first + CHUNK + window]
            own = weighted[here]
            upto = np.concatenate([np.zeros((1, own.shape[1])), np.cumsum(own, axis=0, dtype=np.float64)])
            at = np.arange(first - begin, min(first + CHUNK, len(words)) - begin)
            last = np.minimum(at + window + 1, len(here))
            around = upto[last] - upto[np.maximum(at - window, 0)] - own[at]
            known = here[at] >= 0
            sums.add(here[at][known], torch.from_numpy(around[known].astype(np.float32)))
    return sums.means(len(vectors))
