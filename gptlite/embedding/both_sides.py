"""Vectors of words that know both sides of their sentence: states of the causal model and a bag of word vectors.

A causal state knows what stands to the left of a word and nothing else. What stands around it on both sides is told by
a bag: the sum of the static vectors of the words near it, frequent ones weighing less (smoothed inverse frequency, SIF;
Arora et al. 2017), distant ones too. The parts are

    the state at the word           its last token has read the word and all to the left
    the state that predicts it      one token earlier, which has never seen the word's own spelling
    the bag                         up to `WINDOW` words to either side, without the word itself

each standardised in every dimension and brought to one length; the bag weighs as much as both states together, so the
cosine of two vectors is the mean of the bags' cosine and the mean cosine of the states. `left_part` is the state alone.
Where a step has a context encoder (context_encoder.py), its vector is one more part, the bag reaches further
(`WIDE`: 50 words, all of one weight), and the parts of the cosine weigh as `WITH_ENCODER` says.
What such a cosine is worth is measured when a step is saved (`statistics.measure_statistics`). docs/lab/vectors.md
has the figures of each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.embedding.similarity import correct, unit
from gptlite.text.words import UNSPACED, Occurrence, word_pattern

WINDOW = 20  # words to either side
REACH = 40  # characters per word in which they are looked for
SMOOTHING = 1e-3  # a share of the text: a word that has it weighs half of a rare one
NEARNESS = np.arange(1, WINDOW + 1, dtype=np.float32) ** -0.5  # what a neighbour at distance 1, 2, ... weighs
WIDE = np.ones(50, dtype=np.float32)  # the same of a bag that tells the subject of a passage
# Of the cosine: the state at the word, the state that predicts it, the bag, and the context encoder.
WITHOUT_ENCODER, WITH_ENCODER = (0.25, 0.25, 0.5), (0.05, 0.05, 0.3, 0.6)


class ContextBags:
    """Sums of the vectors of the words around a word; `words` are those that a step was saved with."""

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

    def vectors(self, places: Sequence[Occurrence], nearness: np.ndarray = NEARNESS) -> np.ndarray:
        """(n, W), float32: the bag of each place; zeros where no word near it has a vector.

        - `nearness`: what a neighbour at distance 1, 2, ... weighs; the bag has no words beyond.
        """
        bags, n = np.zeros((len(places), self.dim), dtype=np.float32), len(nearness)
        for bag, place in zip(bags, places, strict=True):
            left = words_of(place.text[max(0, place.start - REACH * n) : place.start])[::-1][:n]
            right = words_of(place.text[place.end : place.end + REACH * n])[:n]
            bag += nearness[: len(left)] @ self._weighted(left) + nearness[: len(right)] @ self._weighted(right)
        return bags

    def of_words(self, parts: Sequence[Sequence[str]], nearness: np.ndarray = NEARNESS) -> np.ndarray:
        """(n, W), float32: the bag of each of the n words of texts, `parts`, that no bag reaches out of."""
        gap = [""] * len(nearness)  # no word, so it has no vector
        words = [word for part in parts for word in (*part, *gap)]
        weighted = self._weighted(words)
        bags = np.zeros_like(weighted)
        for distance, weight in enumerate(nearness[: len(words)].tolist(), 1):
            bags[:-distance] += weight * weighted[distance:]
            bags[distance:] += weight * weighted[:-distance]
        return bags[[i for i, word in enumerate(words) if word]]

    def _weighted(self, words: Sequence[str]) -> np.ndarray:
        """(n, W), float32: the vectors of words, times the weights of their frequencies; zeros of unknown words."""
        rows = [self.index.get(word, -1) for word in words]
        return self._table[rows] if rows else self._table[:0]

    @cached_property
    def _table(self) -> np.ndarray:
        """(N + 1, W), float32: the weighted vector of each word, and zeros at the end."""
        weighted = self.standardised * self.weights[:, None]
        return np.concatenate([weighted, np.zeros((1, self.dim))]).astype(np.float32)


def join(
    at: np.ndarray, before: np.ndarray, bags: np.ndarray, space: Mapping[str, np.ndarray],
    encoded: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """(n, 2 D + W), float32: one vector of the states at the words and before them (n, D) and their bags (n, W).

    - `space`: `mean` and `std` (D,) of the layer that the states are from. Vectors have length 1 where the bag has any
      word, else less.
    - `encoded`: the vectors of a context encoder (n, K), which come last: (n, 2 D + W + K). The bags are wide then.
    """
    parts = [*(correct(part, "zscore", space) for part in (at, before)), bags, *([] if encoded is None else [encoded])]
    weights = WITHOUT_ENCODER if encoded is None else WITH_ENCODER
    weighted = [np.sqrt(weight) * unit(part) for part, weight in zip(parts, weights, strict=True)]
    return np.concatenate(weighted, axis=1).astype(np.float32)


def left_part(vectors: np.ndarray, dim: int) -> np.ndarray:
    """(n, D): of vectors of `join`, the standardised state at the word, the part that the model alone computed."""
    return vectors[:, :dim]


def words_of(text: str) -> list[str]:
    """The words of a text without case; each character of a script without spaces is one."""
    spaced = UNSPACED.sub(lambda character: f" {character[0]} ", text.casefold())
    return word_pattern().findall(spaced)
