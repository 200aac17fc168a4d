"""Look-ups in the static word vectors that are saved with a step, without torch.

A word that the text has not, or too rarely, gets a vector from its pieces: the mean of the vectors of the words that
share its runs of 3 to 5 letters, the rarer a run the more weight (after the subword vectors of Bojanowski et al. 2017).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.embedding.similarity import unit
from gptlite.embedding.static import WordVectors, least_count
from gptlite.errors import UsageError, plural

PIECES = (3, 4, 5)  # letters; the ends of a word count as one each


@dataclass(frozen=True)
class StaticWords:
    """The word vectors of the step in `path`."""

    path: Path
    saved: SavedWords

    @cached_property
    def counts(self) -> dict[str, int]:
        return dict(zip(self.saved.words, self.saved.counts.tolist(), strict=True))

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word, without case."""
        return {word.casefold(): i for i, word in reversed(list(enumerate(self.saved.words)))}

    def word_vectors(self, min_count: int | None = None, correction: str | None = None) -> WordVectors:
        """The words seen `min_count` times or more (by default 20, less on a small text), all of them answers.

        Raises `UsageError` where there are none.
        """
        least = least_count(self.counts, min_count)
        n = int((self.saved.counts >= least).sum())
        if not n:
            raise UsageError(f"no word was seen {plural(least, 'time')} in the text of {self.path}; lower `min_count`.")
        words, vectors = self.saved.words[:n], self.saved.vectors[:n]
        return WordVectors(
            "words",
            words,
            vectors,
            correction=correction or "none",
            counts=self.counts,
            spell=self.vectors,
            least=least,
            any_case=True,
        )

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """(n, D): the vectors of words, from their pieces where the text lacks them; zeros where no piece is known."""
        return np.stack([self._vector(word) for word in words]) if words else self.saved.vectors[:0]

    def kin(self, word: str, k: int = 3) -> list[str] | None:
        """The words whose pieces a word's vector is made of, those that count most first; None if it has its own."""
        if word.casefold() in self.rows:
            return None
        weights = self._weights(word)
        return [self.saved.words[i] for i in np.argsort(-weights, kind="stable")[:k] if weights[i] > 0]

    def _vector(self, word: str) -> np.ndarray:
        row = self.rows.get(word.casefold())
        if row is not None:
            return self.saved.vectors[row]
        return self._weights(word) @ unit(self.saved.vectors)

    @cached_property
    def _spelled(self) -> list[str]:
        return [f"\n{word.casefold()}\n" for word in self.saved.words]

    def _weights(self, word: str) -> np.ndarray:
        """How much each of the N words counts in the vector of `word`; they sum to 1, or are all 0."""
        spelled = f"\n{word.casefold()}\n"
        pieces = Counter(spelled[i : i + n] for n in PIECES for i in range(len(spelled) - n + 1))
        weights = np.zeros(len(self._spelled), dtype=np.float32)
        for piece, times in pieces.items():
            having = np.array([piece in other for other in self._spelled])
            if n := int(having.sum()):
                weights[having] += times * np.log(1 + len(having) / n) / n
        return weights / max(weights.sum(), np.float32(1e-12))
