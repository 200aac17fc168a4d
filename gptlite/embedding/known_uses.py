"""What the uses of a word in the text that a model learned are like: a few groups of them for each word.

Much of what stands around a word has nothing to do with its sense, so two uses of one sense may have little in common.
The text has shown many uses, and those of one sense are often like the same ones of these. The uses of a word are
therefore grouped by likeness (multi-prototype vectors, Reisinger & Mooney 2010), and a use is also described by the
groups that it is like (after Erk & Pado 2010, who describe it by the single uses). Nothing but the text decides what
the groups are: they are not senses, and there are mostly more of them than a word has senses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlite.checkpoint.context_encoder import Uses
from gptlite.embedding.similarity import unit

MOST_GROUPS, FEWEST_USES = 8, 8  # groups of a word, and uses of it for each of them
MOST_USES = 256  # of one word, which say enough
ROUNDS = 8  # of k-means
WORDS_AT_ONCE = 32
SHARPNESS = 0.1  # of cosines: a group that is so much less alike weighs 1/e of another


class KnownUses:
    """Groups of the uses of words, numbered as the word vectors of the step."""

    def __init__(self, saved: Uses) -> None:
        self.saved, self.centres = saved, unit(saved.centres)  # (M, E), of length 1

    def of_word(self, word: int) -> np.ndarray:
        """The groups (k, E) of a word by its number; none of a number that no word has."""
        ends = self.saved.ends
        return self.centres[ends[word - 1] if word else 0 : ends[word]] if 0 <= word < len(ends) else self.centres[:0]

    def like(self, uses: np.ndarray, words: np.ndarray) -> np.ndarray:
        """(n, E), of length 1: the mean of the groups of `words` (n,) that `uses` (n, E), of length 1, are like.

        A use of a word that has no groups is itself.
        """
        found = np.array(uses)
        for word in np.unique(words).tolist():
            if len(centres := self.of_word(word)):
                here = words == word
                cosines = uses[here] @ centres.T
                weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / SHARPNESS)
                found[here] = unit(weights @ centres)
        return found


def choose_uses(words: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Which of n uses are grouped, whose words have the numbers `words` (n,), for up to 32 words at a time.

    Each time: the numbers of the words (B,); their uses (B, m) in a random order, -1 where a word has fewer than m; and
    how many groups each word gets. Words with the most groups come first.
    """
    order = np.random.default_rng(seed).permutation(len(words))
    order = order[np.argsort(words[order], kind="stable")]
    numbers, begins, counts = np.unique(words[order], return_index=True, return_counts=True)
    groups = np.minimum(MOST_GROUPS, counts // FEWEST_USES)
    by_size = np.lexsort((-counts, -groups))
    for k in range(MOST_GROUPS, 1, -1):
        alike = by_size[groups[by_size] == k]
        for start in range(0, len(alike), WORDS_AT_ONCE):
            chosen = alike[start : start + WORDS_AT_ONCE]
            uses = np.full((len(chosen), min(MOST_USES, counts[chosen].max())), -1)
            for row, i in zip(uses, chosen.tolist(), strict=True):
                some = order[begins[i] : begins[i] + min(MOST_USES, counts[i])]
                row[: len(some)] = some
            yield numbers[chosen], uses, k


def group_uses(uses: Tensor, n_groups: int) -> Tensor:
    """(B, k, E), of length 1: the centres of k groups of each word's uses (B, m, E) of length 1, or 0 where there are
    no more: spherical k-means (Dhillon & Modha 2001) that begins with the first k uses."""
    centres = uses[:, :n_groups]
    real = uses.abs().sum(dim=2, keepdim=True) > 0
    for _ in range(ROUNDS):
        nearest = (uses @ centres.mT).argmax(dim=2)
        sums = (F.one_hot(nearest, n_groups) * real).to(uses.dtype).mT @ uses
        lengths = sums.norm(dim=2, keepdim=True)
        centres = torch.where(lengths > 0, sums / lengths.clamp_min(1e-12), centres)
    return centres


def join_groups(of_words: dict[int, np.ndarray], dim: int) -> KnownUses:
    """The groups (k, E) of each word by its number, E = `dim`, as one table."""
    n = max(of_words, default=-1) + 1
    counts = np.array([len(of_words.get(i, ())) for i in range(n)], dtype=np.int64)
    rows = [of_words[i] for i in sorted(of_words)]
    centres = np.concatenate(rows) if rows else np.zeros((0, dim))
    return KnownUses(Uses(centres.astype(np.float32), np.cumsum(counts)))
