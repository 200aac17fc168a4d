"""The senses of a word, induced from its vectors: occurrences in k groups, and whether the groups are really there.

Word sense induction as clustering (Schütze 1998). Any cloud of points can be cut in k; so the cut is compared with the
cuts of clouds that have the same shape and no groups. With a context encoder, whose vectors of one word differ mostly
by sense, it is decided by how much less alike the occurrences are than those of other words. Arrays are (n, D): n
occurrences of one word, corrected as for cosines. NumPy alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gptlite.embedding.similarity import cosine_matrix, unit
from gptlite.errors import UsageError
from gptlite.text.words import UNSPACED, word_pattern

FEWEST = 4  # occurrences a sense, on average
MOST_SENSES = 20
MOST_CHOSEN = 5  # when their number is not given
RESTARTS, ROUNDS = 8, 100  # of k-means
CONTROLS = 20  # clouds without groups
# Of the way from the control to 1: made-up homonyms come 0.6 far, words of one sense 0.45 at most. No lower bound tells
# the pseudo-words of real text from its words (docs/lab/log.md).
CLEAR = 0.5
# The likeness below which a word has several senses, and by how much more groups must raise the silhouette to be more
# senses: pseudo-words of two senses (docs/lab/log.md).
SEVERAL, MORE_SENSES = 0.14, 0.05
WINDOW = 10  # words to both sides of an occurrence that count as its context
PRIOR = 0.1  # of a word's frequency in all contexts, that is believed of each sense before counting


@dataclass(frozen=True)
class Senses:
    """The groups found in n occurrences.

    - `labels` (n,): 0 is the largest group, then by size; `typical` (n,): the cosine to the centre of one's own group.
    - `silhouette`: how much nearer an occurrence is to its own group than to the next one, on average, from -1 to 1
      (Rousseeuw 1987, with cosine distances).
    - `control`: the largest silhouette that k groups reached in clouds that have none.
    - `likeness`: see the function; None where it is not known.
    The groups are `clear` where the likeness is low; where it is not known, where the silhouette is far above the
    control.
    """

    labels: np.ndarray
    typical: np.ndarray
    silhouette: float
    control: float
    likeness: float | None = None

    @property
    def n_senses(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def share(self) -> float:
        """How far the silhouette is from the control to 1, the largest there can be."""
        return (self.silhouette - self.control) / max(1 - self.control, 1e-12)

    @property
    def clear(self) -> bool:
        return self.share >= CLEAR if self.likeness is None else self.likeness < SEVERAL


def likeness(vectors: np.ndarray, same_word: np.ndarray) -> float:
    """How much alike the occurrences of a word are, 0 to 1: the share of pairs of one word in two places that are less
    alike than all but a quarter of the pairs of `vectors` (n, D).

    - `same_word` (101,): quantiles of the cosines of pairs of one word, as `statistics.measure_statistics` has them.
    """
    cosines = cosine_matrix(vectors)[np.triu_indices(len(vectors), 1)]
    return float(np.interp(np.quantile(cosines, 0.25), same_word, np.linspace(0, 1, len(same_word))))


def induce_senses(vectors: np.ndarray, n_senses: int, *, same_word: np.ndarray | None = None, seed: int = 0) -> Senses:
    """Group vectors (n, D) into k senses, the same way for the same seed. Raises `UsageError` for too few.

    - `same_word`: see `likeness`; None of vectors whose likeness does not tell how many senses a word has.
    """
    n, k = len(vectors), n_senses
    if not 2 <= k <= MOST_SENSES:
        raise UsageError(f"`n_senses` must be between 2 and {MOST_SENSES}, not {k}.")
    if n < FEWEST * k:
        raise UsageError(f"{k} senses need at least {FEWEST * k} occurrences of the word, and here are {n}.")
    rng = np.random.default_rng(seed)
    points = unit(np.asarray(vectors, dtype=np.float64))
    labels = cluster(points, k, rng)
    control = max(_silhouette_of(shapeless(points, rng), k, rng) for _ in range(CONTROLS))
    order = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    labels = np.argsort(order)[labels]
    typical = (points * _centres(points, labels, k)[labels]).sum(axis=1)
    alike = None if same_word is None else likeness(points, same_word)
    return Senses(labels, typical, float(silhouettes(points, labels).mean()), control, alike)


def choose_senses(vectors: np.ndarray, *, same_word: np.ndarray | None = None, seed: int = 0) -> Senses:
    """Group vectors (n, D) into as many senses as there are clear groups, from 1 to 5: those furthest above their
    control or, where `same_word` is known, the fewest whose silhouette is nearly the largest.

    Where no number of groups is clear there is one sense, and `silhouette` and `control` are those of two groups; fewer
    than 8 occurrences are one sense, with both 0. `same_word`: see `induce_senses`.
    """
    most = min(MOST_CHOSEN, len(vectors) // FEWEST)
    tried = [induce_senses(vectors, k, same_word=same_word, seed=seed) for k in range(2, most + 1)]
    clear = [found for found in tried if found.clear]
    if clear and same_word is None:
        return max(clear, key=lambda found: found.share)
    if clear:
        enough = max(found.silhouette for found in clear) - MORE_SENSES
        return next(found for found in clear if found.silhouette >= enough)
    points = unit(np.asarray(vectors, dtype=np.float64))
    labels = np.zeros(len(points), dtype=np.int64)
    typical = points @ _centres(points, labels, 1)[0]
    return replace(tried[0], labels=labels, typical=typical) if tried else Senses(labels, typical, 0.0, 0.0)


def centre_forms(vectors: np.ndarray, forms: Sequence[object]) -> np.ndarray:
    """Vectors (n, D) without what sets their form apart, such as "bank" or "Bank", which are different tokens.

    Of all differences between occurrences those of their forms are the largest, and they are no senses.
    """
    centred = np.array(vectors, dtype=np.float64)
    for form in set(forms):
        rows = [i for i, other in enumerate(forms) if other == form]
        centred[rows] += vectors.mean(axis=0) - vectors[rows].mean(axis=0)
    return centred


def cluster(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Labels (n,) of k groups of unit vectors (n, D): spherical k-means (Dhillon & Modha 2001), the best of 8 starts.

    Starts are drawn far from each other (k-means++, Arthur & Vassilvitskii 2007).
    """
    best, best_fit = np.zeros(len(points), dtype=np.int64), -np.inf
    for _ in range(RESTARTS):
        centres = _far_apart(points, k, rng)
        labels = np.full(len(points), -1)
        for _ in range(ROUNDS):
            cosines = points @ centres.T  # (n, k)
            before, labels = labels, cosines.argmax(axis=1)
            fits = cosines.max(axis=1)
            for empty in np.setdiff1d(np.arange(k), labels):  # takes the place that fits worst where it is
                worst = fits.argmin()
                labels[worst], fits[worst] = empty, np.inf
            if (labels == before).all():
                break
            centres = _centres(points, labels, k)
        fit = float((points * centres[labels]).sum())
        if fit > best_fit:
            best, best_fit = labels, fit
    return best


def silhouettes(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,): the silhouette of each of the unit vectors (n, D), with cosine distances; 0 for one that is alone.

    A mean of cosines is the cosine with a mean, so no distances between pairs are needed.
    """
    sizes = np.bincount(labels)
    n, own = len(points), sizes[labels]
    sums = np.stack([points[labels == group].sum(axis=0) for group in range(len(sizes))])
    products = points @ sums.T  # (n, k)
    rows = np.arange(n)
    within = 1 - (products[rows, labels] - 1) / np.maximum(own - 1, 1)
    distances = 1 - products / np.maximum(sizes, 1)
    distances[:, sizes == 0] = np.inf
    distances[rows, labels] = np.inf
    nearest = distances.min(axis=1)
    return np.where(own > 1, (nearest - within) / np.maximum(np.maximum(nearest, within), 1e-12), 0.0)


def shapeless(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many unit vectors (n, D), from one normal distribution with the mean and covariance of `points`.

    One bell-shaped cloud is what "no groups" means here (after Liu et al. 2008, "SigClust").
    """
    n = len(points)
    mean = points.mean(axis=0)
    noise = rng.standard_normal((n, n)) / np.sqrt(max(1, n - 1))
    return unit(mean + noise @ (points - mean))


def same_above_different(cosines: np.ndarray, same: np.ndarray) -> float:
    """How often a pair that belongs together has the larger of two cosines: the area under the ROC curve, 0.5 is luck.

    - `cosines` (m,) of pairs, and `same` (m,): which of them belong together. Ties count half; NaN without both kinds.
    """
    values, ranks = np.unique(cosines, return_inverse=True)
    counts = np.bincount(ranks, minlength=len(values))
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    n_same, n_other = int(same.sum()), int((~same).sum())
    if not n_same or not n_other:
        return float("nan")
    return float((mean_rank[ranks][same].sum() - n_same * (n_same + 1) / 2) / (n_same * n_other))


def separate(vectors: np.ndarray, senses: np.ndarray, groups: np.ndarray) -> float:
    """How well vectors (n, D) of one word tell its known senses (n,) apart: `same_above_different` of their cosines.

    Only pairs of different `groups` (n,) count, such as the names in the sentences: what shares one is alike for that.
    """
    cosines = cosine_matrix(vectors)
    first, second = np.triu_indices(len(cosines), 1)
    counts = groups[first] != groups[second]
    first, second = first[counts], second[counts]
    return same_above_different(cosines[first, second], senses[first] == senses[second])


def context_words(text: str, start: int, end: int) -> list[str]:
    """Up to ten words on both sides of the characters [start, end), in lower case; of Chinese and its like characters.

    Words of one line only: what stands on the next may be of another matter.
    """
    reach = 20 * WINDOW  # characters are enough for ten words
    left = text[max(0, start - reach) : start].rpartition("\n")[2]
    right = text[end : end + reach].partition("\n")[0]
    return _words(left)[-WINDOW:] + _words(right)[:WINDOW]


def typical_words(contexts: Sequence[Sequence[str]], labels: np.ndarray, n_words: int = 6) -> list[list[str]]:
    """For each group the words that set its contexts apart from those of the others, most telling first.

    Words are ranked by the log-odds of standing in a context of the group or in one of the others, in standard errors,
    with all contexts together as the prior (Monroe et al. 2008, "Fightin' words"); at least two contexts must agree.
    """
    k = int(labels.max(initial=0)) + 1
    found = [Counter[str]() for _ in range(k)]
    for words, label in zip(contexts, labels.tolist(), strict=True):
        found[label].update(set(words))  # a context counts once, so that one repetitive text does not speak for many
    everything = sum(found, Counter[str]())
    total, prior_total = everything.total(), PRIOR * everything.total()
    telling: list[list[str]] = []
    for counts in found:
        n = counts.total()
        scores: dict[str, float] = {}
        for word, count in counts.items():
            if count < 2:
                continue
            prior, others = PRIOR * everything[word], everything[word] - count
            here = (count + prior) / (n + prior_total - count - prior)
            there = (others + prior) / (total - n + prior_total - others - prior)
            scores[word] = np.log(here / there) / np.sqrt(1 / (count + prior) + 1 / (others + prior))
        best = sorted(scores, key=lambda word: (-scores[word], word))
        telling.append([word for word in best[:n_words] if scores[word] > 1])
    return telling


def _silhouette_of(points: np.ndarray, k: int, rng: np.random.Generator) -> float:
    return float(silhouettes(points, cluster(points, k, rng)).mean())


def _far_apart(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    centres = [points[rng.integers(len(points))]]
    while len(centres) < k:
        distances = np.clip(1 - points @ np.stack(centres).T, 0, None).min(axis=1)
        total = distances.sum()
        chosen = rng.choice(len(points), p=distances / total) if total > 0 else rng.integers(len(points))
        centres.append(points[chosen])
    return np.stack(centres)


def _centres(points: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    return unit(np.stack([points[labels == group].sum(axis=0) for group in range(k)]))


def _words(text: str) -> list[str]:
    spaced = UNSPACED.sub(lambda character: f" {character[0]} ", text.lower())
    return word_pattern().findall(spaced)
