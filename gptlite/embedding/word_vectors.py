"""Static vectors of whole words, made of the training text alone: which words stand near which, in few dimensions.

Each word gets a row of positive pointwise mutual information (PPMI) with the words up to `WINDOW` places away. A
neighbour at distance d counts 1/d, frequent words count less (the subsampling of Mikolov et al. 2013, in expectation),
and the probability of a context is smoothed by the power 3/4 (Levy, Goldberg & Dagan 2015). A truncated singular value
decomposition (randomised: Halko, Martinsson & Tropp 2011) leaves `DIM` dimensions, the singular values raised to the
power `POWER`. On a few megabytes of text such vectors agree with people better than skip-gram
(docs/lab/vectors.md).

Upper and lower case are one word, shown in its most frequent form. In scripts without spaces, the tokens made of whole
characters are the words.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.kernels.workers import one_thread
from gptlite.text.token_files import spread_ids
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import UNSPACED, find_words, word_pattern

WINDOW = 20  # words to either side
DIM = 100
POWER = 0.25
SMOOTHING = 0.75
FREQUENT = 1e-4  # share of the text above which a word counts less
MIN_COUNTS, ENOUGH_WORDS = (5, 2), 500  # the first of these counts that leaves enough words
MOST_TOKENS = 1 << 21  # that are read, in stretches spread over a longer text
MOST_WORDS, LONGEST_WORD = 20_000, 100  # and characters
OVERSAMPLING, ITERATIONS = 40, 6  # with 2 iterations, seeds differ by .05 of Spearman on WordSim
TOKENS_AT_ONCE = 1 << 16
# What no context crosses inside a document: an empty line, or the end of a line that is the end of a sentence.
BREAK = re.compile(r"\n\s*\n|[.!?…。！？][\"'”’»)\]]*\s*\n")
TOKENS_PER_SECOND = 60_000  # a low estimate of how fast vectors are made, on one core


@dataclass(frozen=True)
class WordStream:
    """A text as numbers of words, most frequent first, in parts that no context crosses: -1 is a word too rare."""

    words: list[str]
    counts: np.ndarray
    parts: list[np.ndarray]
    n_words: int


def make_word_vectors(
    tokenizer: Tokenizer, ids: np.ndarray, *, most_tokens: int = MOST_TOKENS, dim: int = DIM, seed: int = 0
) -> SavedWords | None:
    """Vectors (N, at most `dim`) of the frequent words of a text of tokens `ids`; None if there are fewer than two.

    - `most_tokens`: of a longer text, stretches spread over it are read.
    The same arguments give the same vectors on one machine.
    """
    stream = read_stream(tokenizer, spread_ids(ids, min(most_tokens, MOST_TOKENS)))
    if len(stream.words) < 2:
        return None
    vectors = factorise(*mutual_information(stream), len(stream.words), dim, seed)
    return SavedWords(stream.words, stream.counts, vectors)


def affordable_tokens(seconds: float | None, share: float) -> int:
    """How many tokens can be read in a `share` of a budget of `seconds`; None is no budget of time."""
    return MOST_TOKENS if seconds is None else min(MOST_TOKENS, max(1, int(share * seconds * TOKENS_PER_SECOND)))


def read_stream(tokenizer: Tokenizer, ids: np.ndarray) -> WordStream:
    """The words of a text of tokens; no part goes on across the end of a document or a `BREAK`."""
    pattern = word_pattern()
    numbers: dict[str, int] = {}
    parts: list[np.ndarray] = []
    for text in itertools.chain.from_iterable(map(BREAK.split, _documents(tokenizer, ids))):
        if UNSPACED.search(text):
            found = [text[a:b] for a, b in find_words(text, tokenizer.encode_with_spans(text)[1])]
        else:
            found = pattern.findall(text)
        if found:
            parts.append(np.fromiter((numbers.setdefault(w, len(numbers)) for w in found), np.int64, len(found)))
    if not parts:
        return WordStream([], np.zeros(0, dtype=np.int64), [], 0)
    forms = list(numbers)
    seen = np.bincount(np.concatenate(parts), minlength=len(forms))
    shown: dict[str, str] = {}
    totals: Counter[str] = Counter()
    for i in np.argsort(-seen, kind="stable").tolist():
        shown.setdefault(forms[i].casefold(), forms[i])
        totals[forms[i].casefold()] += int(seen[i])
    least = next((n for n in MIN_COUNTS if sum(t >= n for t in totals.values()) >= ENOUGH_WORDS), MIN_COUNTS[-1])
    kept = [(word, n) for word, n in totals.most_common() if n >= least and len(word) <= LONGEST_WORD][:MOST_WORDS]
    rank = {word: i for i, (word, _) in enumerate(kept)}
    renumbered = np.array([rank.get(form.casefold(), -1) for form in forms], dtype=np.int64)
    counts = np.array([n for _, n in kept], dtype=np.int64)
    return WordStream([shown[w] for w, _ in kept], counts, [renumbered[p] for p in parts], int(seen.sum()))


def mutual_information(stream: WordStream, window: int = WINDOW) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values (n,) of the PPMI matrix (N, N) of a stream; rows rise."""
    n = len(stream.words)
    gap = np.full(window, -1)
    places = np.concatenate([piece for part in stream.parts for piece in (part, gap)])
    keys, weights = np.zeros(0, dtype=np.int64), np.zeros(0)
    for distance in range(1, min(window, len(places) - 1) + 1):
        left, right = places[:-distance], places[distance:]
        known = (left >= 0) & (right >= 0)
        found, times = np.unique(left[known] * n + right[known], return_counts=True)
        keys, weights = _sum_equal(np.concatenate([keys, found]), np.concatenate([weights, times / distance]))
    row, column = keys // n, keys % n
    keys, weights = _sum_equal(np.concatenate([keys, column * n + row]), np.concatenate([weights, weights]))
    row, column = keys // n, keys % n
    kept = np.minimum(1, np.sqrt(FREQUENT * stream.n_words / stream.counts))
    weights = weights * kept[row] * kept[column]
    totals = np.bincount(row, weights, n)
    smoothed = np.bincount(column, weights, n) ** SMOOTHING
    smoothed /= max(smoothed.sum(), 1e-300)
    values = np.log(weights) - np.log(totals[row]) - np.log(smoothed[column])
    positive = values > 0
    return row[positive], column[positive], values[positive].astype(np.float32)


def factorise(
    row: np.ndarray, column: np.ndarray, values: np.ndarray, n: int, dim: int = DIM, seed: int = 0
) -> np.ndarray:
    """(n, at most `dim`): the left singular vectors of a sparse matrix (n, n), times singular values to `POWER`."""
    width = min(dim + OVERSAMPLING, n)
    order = np.lexsort((row, column))
    forward, backward = _Sparse(row, column, values, n), _Sparse(column[order], row[order], values[order], n)
    basis = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    basis = _orthonormal(forward @ basis)
    for _ in range(ITERATIONS):
        basis = _orthonormal(forward @ _orthonormal(backward @ basis))
    small = backward @ basis
    with one_thread():
        _, lengths, turned = torch.linalg.svd(small, full_matrices=False)
    vectors = (basis @ turned.T)[:, :dim] * lengths[:dim] ** POWER
    # A sign is arbitrary; this one makes the largest component of each axis positive.
    signs = torch.sign(vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)))
    return (vectors * torch.where(signs == 0, 1.0, signs)).numpy()


@one_thread()
def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis (n, k) of the space that `columns` (n, k) span."""
    return torch.linalg.qr(columns)[0]


class _Sparse:
    """A sparse matrix (n, n) for products with dense ones, on any build of torch."""

    def __init__(self, row: np.ndarray, column: np.ndarray, values: np.ndarray, n: int) -> None:
        self.columns, self.values = torch.from_numpy(column.astype(np.int64)), torch.from_numpy(values)
        self.begins = torch.from_numpy(np.searchsorted(row, np.arange(n)))

    def __matmul__(self, dense: Tensor) -> Tensor:
        if not len(self.values):
            return torch.zeros_like(dense)
        return F.embedding_bag(self.columns, dense, self.begins, mode="sum", per_sample_weights=self.values)


def _documents(tokenizer: Tokenizer, ids: np.ndarray) -> Iterator[str]:
    """The text of each document, long ones in pieces."""
    begins = [0, *(np.flatnonzero(ids == tokenizer.separator_id) + 1).tolist(), len(ids) + 1]
    for begin, end in itertools.pairwise(begins):
        for first in range(begin, end - 1, TOKENS_AT_ONCE):
            yield tokenizer.decode(ids[first : min(first + TOKENS_AT_ONCE, end - 1)].tolist())


def _sum_equal(keys: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, place = np.unique(keys, return_inverse=True)
    return unique, np.bincount(place, weights, len(unique))
