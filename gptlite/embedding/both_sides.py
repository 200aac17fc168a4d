"""Vectors of words that know both sides of their sentence: states of the causal model and bags of word vectors.

A causal state knows what stands to the left of a word and nothing else. What stands around it on both sides is told by
bags: sums of the static vectors of the words near it, frequent ones weighing less (smoothed inverse frequency, SIF;
Arora et al. 2017). The parts are

    the state at the word           its last token has read the word and all to the left
    the state that predicts it      one token earlier, which has never seen the word's own spelling
    the near bag                    up to 20 words to either side, without the word itself, distant ones weighing less
    the wide bag                    up to 50 words to either side, all weighing the same: the subject of a passage

each standardised in every dimension and brought to one length; all weigh the same, so the cosine of two vectors is the
mean of four cosines. `left_part` is the state alone. Where a step has a context encoder (context_encoder.py), its
vector is one more part, and another is the groups of the word's uses in the text that this use is like
(known_uses.py); then the parts of the cosine weigh as `WITH_ENCODER` says. What such a cosine is worth is measured when
a step is saved (`statistics.measure_statistics`). docs/lab/vectors.md has the figures of each part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.embedding.similarity import correct, unit
from gptlite.text.words import UNSPACED, Occurrence, word_pattern

REACH = 40  # characters in which a word is looked for
SMOOTHING = 1e-3  # a share of the text: a word that has it weighs half of a rare one
NEAR = np.arange(1, 21, dtype=np.float32) ** -0.5  # what a neighbour at distance 1, 2, ... weighs in the near bag
WIDE = np.ones(50, dtype=np.float32)  # and in the wide one
# Of the cosine: the state at the word, the state that predicts it, the near bag, the wide one, the context encoder, and
# the known uses of the word.
WITHOUT_ENCODER = (0.25, 0.25, 0.25, 0.25)
WITH_ENCODER = (0.06, 0.06, 0.09, 0.195, 0.345, 0.25)
USE = (0.1, 0.2, 0.6)  # of the cosine of two uses, for what they are like: both bags and the context encoder


class ContextBags:
    """Sums of the vectors of the words around a word; `words` are those that a step was saved with.

    A word has two bags, side by side: the near one (W,) and the wide one (W,).
    """

    def __init__(self, words: SavedWords) -> None:
        self.words = words
        share = words.counts / max(1, words.counts.sum())
        self.weights = SMOOTHING / (SMOOTHING + share)
        self.index = {word.casefold(): i for i, word in reversed(list(enumerate(words.words)))}

    @property
    def dim(self) -> int:
        return self.words.vectors.shape[1]

    @cached_property
    def standardised(self) -> np.ndarray:
        """(N, W): the vectors of length 1, so that a weighted word of running text has mean 0 and deviation 1."""
        directions = unit(self.words.vectors.astype(np.float64))
        mass = self.words.counts * self.weights
        mass = mass / max(mass.sum(), 1e-12)
        centred = directions - mass @ directions
        return centred / np.maximum(np.sqrt(mass @ centred**2), 1e-6)

    def vectors(self, places: Sequence[Occurrence]) -> np.ndarray:
        """(n, 2 W), float32: the bags of each place; zeros where no word near it has a vector."""
        bags, n = np.zeros((len(places), 2, self.dim), dtype=np.float32), len(WIDE)
        for near, wide, place in zip(bags[:, 0], bags[:, 1], places, strict=True):
            left = words_of(place.text[max(0, place.start - REACH * n) : place.start])[::-1][:n]
            right = words_of(place.text[place.end : place.end + REACH * n])[:n]
            for words in (left, right):
                weighted = self._weighted(words)
                near += NEAR[: len(words)] @ weighted[: len(NEAR)]
                wide += WIDE[: len(words)] @ weighted
        return bags.reshape(len(places), -1)

    def of_words(self, parts: Sequence[Sequence[str]]) -> np.ndarray:
        """(n, 2 W), float32: the bags of each of the n words of texts, `parts`, that no bag reaches out of."""
        gap = [""] * len(WIDE)  # no word, so it has no vector
        words = [word for part in parts for word in (*part, *gap)]
        weighted = self._weighted(words)
        bags = [_sums(weighted, weights) for weights in (NEAR, WIDE)]
        return np.concatenate(bags, axis=1)[[i for i, word in enumerate(words) if word]]

    def numbers(self, words: Iterable[str]) -> np.ndarray:
        """(n,): the rows of words among those of the step, in any case; -1 for others."""
        return np.array([self.index.get(word.strip().casefold(), -1) for word in words], dtype=np.int64)

    def _weighted(self, words: Sequence[str]) -> np.ndarray:
        """(n, W), float32: the vectors of words, times the weights of their frequencies; zeros of unknown words."""
        rows = [self.index.get(word, -1) for word in words]
        return self._table[rows] if rows else self._table[:0]

    @cached_property
    def _table(self) -> np.ndarray:
        """(N + 1, W), float32: the weighted vector of each word, and zeros at the end."""
        weighted = self.standardised * self.weights[:, None]
        return np.concatenate([weighted, np.zeros((1, self.dim))]).astype(np.float32)


def _sums(weighted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, W): for each row of `weighted` (n, W), the sum of those around it, times the `weights` of their distances."""
    sums = np.zeros_like(weighted)
    for distance, weight in enumerate(weights[: len(weighted)].tolist(), 1):
        sums[:-distance] += weight * weighted[distance:]
        sums[distance:] += weight * weighted[:-distance]
    return sums


def join(
    at: np.ndarray, before: np.ndarray, bags: np.ndarray, space: Mapping[str, np.ndarray],
    encoded: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:  # fmt: skip
    """(n, 2 D + 2 W), float32: one vector of the states at the words and before them (n, D) and their bags (n, 2 W).

    - `space`: `mean` and `std` (D,) of the layer that the states are from. Vectors have length 1 where the bags have
      any word, else less.
    - `encoded`: the vectors of a context encoder (n, W), and of the known uses (n, 3 W), which come last:
      (n, 2 D + 6 W).
    """
    states = [correct(part, "zscore", space) for part in (at, before)]
    parts = [*states, *np.split(bags, 2, axis=1), *(encoded or ())]
    return _weigh(parts, WITHOUT_ENCODER if encoded is None else WITH_ENCODER)


def use_vectors(bags: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    """(n, 3 W), float32, of length 1: uses of a word as `KnownUses` compares them, by their bags (n, 2 W) and the
    vectors of a context encoder (n, W)."""
    return unit(_weigh([*np.split(bags, 2, axis=1), encoded], USE))


def _weigh(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Parts (n, .) side by side, float32, each with the length of the root of its weight."""
    weighted = [np.sqrt(weight) * unit(part) for part, weight in zip(parts, weights, strict=True)]
    return np.concatenate(weighted, axis=1).astype(np.float32)


def left_part(vectors: np.ndarray, dim: int) -> np.ndarray:
    """(n, D): of vectors of `join`, the standardised state at the word, the part that the model alone computed."""
    return vectors[:, :dim]


def words_of(text: str) -> list[str]:
    """The words of a text without case; each character of a script without spaces is one."""
    spaced = UNSPACED.sub(lambda character: f" {character[0]} ", text.casefold())
    return word_pattern().findall(spaced)
