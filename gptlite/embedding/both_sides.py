"""Vectors of words that know both sides of their sentence: two states of the causal model and a bag of word vectors.

A causal state knows what stands to the left of a word and nothing else. What stands around it on both sides is told by
a bag: the sum of the static vectors of the words near it, frequent ones weighing less (smoothed inverse frequency, SIF;
Arora et al. 2017), distant ones too. The parts are

    the state at the word           its last token has read the word and all to the left
    the state that predicts it      one token earlier, which has never seen the word's own spelling
    the bag                         up to `WINDOW` words to either side, without the word itself

each standardised in every dimension and brought to one length; the bag weighs as much as both states together, so the
cosine of two vectors is the mean of the bags' cosine and the mean cosine of the states. `left_part` is the state alone.
docs/lab/vectors.md has the figures of each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.embedding.similarity import correct, unit
from gptlite.text.words import UNSPACED, Occurrence, word_pattern

WINDOW = 20  # words to either side
REACH = 40 * WINDOW  # characters in which they are looked for
SMOOTHING = 1e-3  # a share of the text: a word that has it weighs half of a rare one
DECAY = 0.5  # a neighbour at distance d weighs 1 / d to this power


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

    def vectors(self, places: Sequence[Occurrence]) -> np.ndarray:
        """(n, W), float32: the bag of each place; zeros where no word near it has a vector."""
        bags = np.zeros((len(places), self.dim))
        for bag, place in zip(bags, places, strict=True):
            left = _words(place.text[max(0, place.start - REACH) : place.start])[::-1]
            right = _words(place.text[place.end : place.end + REACH])
            for side in (left[:WINDOW], right[:WINDOW]):
                for distance, word in enumerate(side, 1):
                    if (i := self.index.get(word)) is not None:
                        bag += self.standardised[i] * (self.weights[i] / distance**DECAY)
        return bags.astype(np.float32)


def join(at: np.ndarray, before: np.ndarray, bags: np.ndarray, space: Mapping[str, np.ndarray]) -> np.ndarray:
    """(n, 2 D + W), float32: one vector of the states at the words and before them (n, D) and their bags (n, W).

    - `space`: `mean` and `std` (D,) of the layer that the states are from. Vectors have length 1 where the bag has any
      word, else less.
    """
    states = [unit(correct(part, "zscore", space)) / 2 for part in (at, before)]
    return np.concatenate([*states, unit(bags) / np.sqrt(2)], axis=1).astype(np.float32)


def left_part(vectors: np.ndarray, dim: int) -> np.ndarray:
    """(n, D): of vectors of `join`, the standardised state at the word, the part that the model alone computed."""
    return vectors[:, :dim]


def _words(text: str) -> list[str]:
    spaced = UNSPACED.sub(lambda character: f" {character[0]} ", text.casefold())
    return word_pattern().findall(spaced)
