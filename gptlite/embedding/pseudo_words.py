"""Pseudo-words (Schuetze 1998): homonyms made of a text, whose senses need no judge.

Two unrelated words of the text become one new word wherever they stand, in what is trained on and in what is held out,
so every use is labelled by the word that stood there. How well vectors of the uses tell the two apart is scored by

- auc       the chance that two uses of one sense are closer than two uses of different senses (a static vector: .500)
- centroid  nearest of the two senses' mean vectors, each use left out of its own mean
- majority  what always choosing the more frequent sense scores, the most that a static vector can reach
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from gptlite.embedding.similarity import unit
from gptlite.errors import CorpusError
from gptlite.text.words import Occurrence, find_word

WORD = re.compile(r"\b[a-z]{4,}\b")  # whole words: of "Spanish" no part
FEWEST, MOST = 12, 60  # uses of each sense in the held-out text
FEWEST_TRAINED = 60  # uses of each sense in the text to train on


def usable_words(train: str, val: str) -> list[str]:
    """The words that are frequent enough in both texts, and not so frequent that they have no sense of their own."""
    in_train, in_val = (Counter(WORD.findall(text)) for text in (train, val))
    return sorted(w for w, n in in_val.items() if FEWEST <= n <= 4 * MOST and in_train[w] >= FEWEST_TRAINED)


def choose_senses(train: str, val: str, n: int, rng: random.Random) -> dict[str, str]:
    """Original word -> pseudo-word, for n pairs of words drawn by chance. Raises `CorpusError` for too few words."""
    usable = usable_words(train, val)
    if len(usable) < 2 * n:
        raise CorpusError(f"only {len(usable)} words are frequent enough for {n} pseudo-words; take fewer.")
    chosen = rng.sample(usable, 2 * n)
    pairs = zip(chosen[::2], chosen[1::2], strict=True)
    return {word: f"{a}{b}" for a, b in pairs for word in (a, b)}


def merge_words(text: str, senses: Mapping[str, str]) -> str:
    """The text with each word of a pair replaced by the pseudo-word of both."""
    return WORD.sub(lambda match: senses.get(match[0], match[0]), text)


def occurrences(val: str, senses: Mapping[str, str], most: int = MOST) -> tuple[list[Occurrence], list[str]]:
    """Pseudo-words in the lines of the held-out text, at most `most` of each sense, and what stood at each place."""
    places: list[Occurrence] = []
    labels: list[str] = []
    seen: Counter[str] = Counter()
    for i, line in enumerate(val.splitlines()):
        originals = [match[0] for match in WORD.finditer(line) if match[0] in senses]
        merged = merge_words(line, senses)
        by_word: dict[str, list[Occurrence]] = {}
        for original in originals:
            word = senses[original]
            if word not in by_word:
                by_word[word] = find_word(merged, i, word)
            place = by_word[word].pop(0)
            seen[original] += 1
            if seen[original] <= most:
                places.append(place)
                labels.append(original)
    return places, labels


def separation(vectors: np.ndarray, places: Sequence[Occurrence], labels: Sequence[str]) -> dict[str, float]:
    """Mean scores over the pseudo-words, of vectors (n, D) whose original words are `labels`."""
    vectors, names = unit(vectors), np.array([place.word for place in places])
    sense = np.array(labels)
    results: list[tuple[float, float, float]] = []
    for word in np.unique(names):
        here, of = vectors[names == word], sense[names == word]
        same = of[:, None] == of[None, :]
        above = np.triu(np.ones_like(same), 1).astype(bool)
        cosines = here @ here.T
        kinds = np.unique(of)
        counts = {kind: int((of == kind).sum()) for kind in kinds}
        if len(kinds) < 2 or min(counts.values()) < 2:
            continue
        sums = {kind: here[of == kind].sum(axis=0) for kind in kinds}
        right = 0
        for x, kind in zip(here, of, strict=True):
            means = {k: (sums[k] - x * (k == kind)) / (counts[k] - (k == kind)) for k in kinds}
            right += max(means, key=lambda k: float(unit(means[k]) @ x)) == kind
        auc = area_under_curve(cosines[same & above], cosines[~same & above])
        results.append((auc, right / len(here), max(counts.values()) / len(here)))
    return dict(zip(("auc", "centroid", "majority"), np.mean(results, axis=0).round(4).tolist(), strict=True))


def area_under_curve(high: np.ndarray, low: np.ndarray) -> float:
    """The chance that one of `high` is above one of `low`; ties count half (Mann & Whitney 1947)."""
    low = np.sort(low)
    below, upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + upto).sum() / (2 * len(high) * len(low)))
