"""Word vectors against people's judgement: similarity of pairs, and analogies, in the files they are published in.

What is evaluated is any matrix with a row a word, so vectors from anywhere are compared on the same questions. Words
without a row are left out and counted. Intervals say what the figure would be on other questions of the kind: of
correlations by the bootstrap (Efron 1979), of shares by formulas that hold for few questions (Wilson 1927; Bonett &
Price 2012 for the difference of two). Questions that share words make them somewhat too narrow.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gptlite.embedding.similarity import unit
from gptlite.errors import CorpusError, LimitError
from gptlite.text.words import same_form

RESAMPLES = 2000
CONFIDENCE = 95  # percent
Z = 1.959964  # standard deviations, to both sides, that have this share of a normal distribution
LARGEST_FILE = 64 << 20  # bytes
AT_ONCE = 1 << 22  # numbers held while resampling, or while analogies are answered
WORD_COLUMN = re.compile(r"(word|term|noun|verb|w|t)[ _-]?[12]", re.IGNORECASE)
PART_OF_SPEECH = re.compile(r"(.+)-[njvra]")  # "sun-n", as MEN has it


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Pairs:
    """Pairs of words, and how alike people find each (n,)."""

    words: tuple[tuple[str, str], ...]
    scores: np.ndarray


@dataclass(frozen=True)
class Analogies:
    """Questions "a is to b as c is to what", with the answer d: (a, b, c, d) of each, and its section."""

    questions: tuple[tuple[str, str, str, str], ...]
    sections: tuple[str, ...]


@dataclass(frozen=True)
class PairResult:
    """`used` (n,): which pairs have vectors; their `cosines` and people's `scores` (m,), and how these two agree.

    `spearman` is None where fewer than three pairs are left, or all are alike.
    """

    used: np.ndarray
    cosines: np.ndarray
    scores: np.ndarray
    spearman: float | None
    interval: Interval | None


@dataclass(frozen=True)
class AnalogyResult:
    """`used` (n,): which questions have vectors for all four words; `right` (n,): which of them were answered."""

    used: np.ndarray
    right: np.ndarray
    accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """How much better the first of two did on the `n` questions that both had vectors for."""

    n: int
    difference: float | None
    interval: Interval | None

    @property
    def is_shown(self) -> bool:
        """Is 0 outside of the interval?"""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


# -- Files


def parse_questions(content: bytes, name: object) -> Pairs | Analogies:
    """Pairs or analogies, whichever the file holds; errors call it `name`.

    - Pairs: a line "word word score" with tabs, commas, semicolons or spaces between; other columns are passed over.
      The score is the first column after the words that is a number. A first line may name the columns, and then says
      which are the words.
    - Analogies: four words a line, ": name" before each section (Mikolov et al. 2013).
    Empty lines and lines that begin with # are comments. Raises `CorpusError` that names the line.
    """
    if len(content) > LARGEST_FILE:
        raise LimitError(f"{name} has {len(content):,} bytes, more than lists of words have; is it the right file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{name} is not UTF-8: {error.reason} at byte {error.start:,}.") from error
    lines = [(i, line) for i, line in enumerate(text.splitlines(), start=1) if line.strip() and line.lstrip()[0] != "#"]
    if not lines:
        raise CorpusError(f"{name} holds no pairs of words and no analogies.")
    last = lines[-1][1].split()  # which names no columns
    four_words = len(last) == 4 and all(_number(word) is None for word in last)
    if four_words or any(line.startswith(":") for _, line in lines):
        return _parse_analogies(lines, name)
    return _parse_pairs(lines, name)


def _parse_analogies(lines: Sequence[tuple[int, str]], name: object) -> Analogies:
    questions: list[tuple[str, str, str, str]] = []
    sections: list[str] = []
    section = "all"
    for i, line in lines:
        if line.startswith(":"):
            section = line[1:].strip() or "unnamed"
            continue
        words = line.split()
        if len(words) != 4:
            raise CorpusError(f"{name}, line {i:,}: an analogy is four words, not {len(words)}.")
        questions.append((words[0], words[1], words[2], words[3]))
        sections.append(section)
    if not questions:
        raise CorpusError(f"{name} names sections of analogies but holds none.")
    return Analogies(tuple(questions), tuple(sections))


def _parse_pairs(lines: Sequence[tuple[int, str]], name: object) -> Pairs:
    try:
        rows = _split(lines)
    except csv.Error as error:
        raise CorpusError(f"{name} is no table of words: {error}.") from error
    head = [cell.strip() for cell in rows[0][1]]
    places = [j for j, cell in enumerate(head) if WORD_COLUMN.fullmatch(cell)]
    first, second = places if len(places) == 2 else (0, 1)
    named = len(places) == 2 or not any(_number(cell) is not None for cell in head[second + 1 :])
    rows = rows[1:] if named else rows
    example = rows[0][1] if rows else []
    column = next((j for j in range(second + 1, len(example)) if _number(example[j]) is not None), None)
    if column is None:
        raise CorpusError(f"{name}: its lines must be two words and a score.")
    pairs: list[tuple[str, str]] = []
    scores: list[float] = []
    for i, row in rows:
        score = _number(row[column]) if len(row) > column else None
        if score is None or not row[first].strip() or not row[second].strip():
            raise CorpusError(f"{name}, line {i:,}: two words and a score must stand there, as in the lines before.")
        pairs.append((row[first].strip(), row[second].strip()))
        scores.append(score)
    tagged = [[PART_OF_SPEECH.fullmatch(word) for word in pair] for pair in pairs]
    if all(a and b for a, b in tagged):
        pairs = [(a[1], b[1]) for a, b in tagged if a and b]
    return Pairs(tuple(pairs), np.array(scores))


def _split(lines: Sequence[tuple[int, str]]) -> list[tuple[int, list[str]]]:
    """The cells of each line, by the separator of the first one."""
    separator = next((s for s in "\t;," if s in lines[0][1]), None)
    if separator is None:
        return [(i, line.split()) for i, line in lines]
    return [(i, next(csv.reader([line], delimiter=separator))) for i, line in lines]


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text, re.ASCII) else None


# -- Figures


def evaluate_pairs(words: Mapping[str, int], vectors: np.ndarray, pairs: Pairs) -> PairResult:
    """Spearman's correlation of cosines and people's scores, over the pairs whose words have a row.

    - `words`: the row of each word in `vectors` (N, D), most frequent first. A word that is missing is looked for in
      other upper and lower case.
    """
    find = _Finder(words)
    rows = np.array([(find(a), find(b)) for a, b in pairs.words]).reshape(-1, 2)
    used = rows.min(axis=1) >= 0
    cosines = (unit(vectors[rows[used, 0]]) * unit(vectors[rows[used, 1]])).sum(axis=1).astype(np.float64)
    cosines = cosines.round(6)  # or the same pair the other way round would have another rank
    scores = pairs.scores[used]
    drawn = [spearman(cosines, scores, counts) for counts in _draw(len(scores))]
    figure = _figure(spearman(cosines, scores), len(scores))
    return PairResult(used, cosines, scores, figure, None if figure is None else _interval(np.concatenate(drawn)))


def compare_pairs(first: PairResult, second: PairResult) -> Difference:
    """Spearman's correlation of the first less that of the second, on the pairs that both used, resampled together."""
    both = first.used & second.used
    a, b = (result.cosines[both[result.used]] for result in (first, second))
    scores = first.scores[both[first.used]]
    difference = _figure(spearman(a, scores) - spearman(b, scores), len(scores))
    if difference is None:
        return Difference(len(scores), None, None)
    drawn = [spearman(a, scores, counts) - spearman(b, scores, counts) for counts in _draw(len(scores))]
    interval = Interval(0.0, 0.0) if np.array_equal(a, b) else _interval(np.concatenate(drawn))
    return Difference(len(scores), difference, interval)


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rank correlation of x (n,) and y (n,), of equal values the mean rank; (1,).

    With `counts` (B, n): of B resamples in which each pair stands so many times; (B,). NaN where it is not defined.
    """
    if counts is None:
        counts = np.ones((1, len(x)))
    ranks = [_ranks(values, counts) for values in (x, y)]
    total = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (r - (counts * r).sum(axis=1, keepdims=True) / total for r in ranks)
        return (counts * a * b).sum(axis=1) / np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean ranks (B, n) of values (n,) that stand `counts` (B, n) times each, without sorting each resample anew."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(values)]
    of_value = np.add.reduceat(counts[:, order], np.flatnonzero(new), axis=1) if len(values) else counts
    mean_rank = of_value.cumsum(axis=1) - of_value / 2 + 0.5
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    return mean_rank[:, group]


def evaluate_analogies(words: Mapping[str, int], vectors: np.ndarray, analogies: Analogies) -> AnalogyResult:
    """How often the word nearest to b - a + c, each of length 1, is d (3CosAdd, Mikolov et al. 2013).

    - `words`: the row of each word in `vectors` (N, D), most frequent first. All of them are possible answers but
      a, b and c. A word that is missing is looked for in other upper and lower case, which counts as the same answer.
    """
    find = _Finder(words)
    rows = np.array([[find(word) for word in question] for question in analogies.questions]).reshape(-1, 4)
    used = rows.min(axis=1) >= 0
    folded = {row: same_form(word) for word, row in words.items()}
    directions = unit(vectors).astype(np.float32)
    right = np.zeros(len(rows), dtype=bool)
    step = max(1, AT_ONCE // max(1, len(directions)))
    places = np.flatnonzero(used)
    for start in range(0, len(places), step):
        some = places[start : start + step]
        a, b, c, d = rows[some].T
        cosines = (directions[b] - directions[a] + directions[c]) @ directions.T  # of a longer vector: same order
        for given in (a, b, c):
            cosines[np.arange(len(some)), given] = -np.inf
        answers = cosines.argmax(axis=1)
        right[some] = [folded[i] == folded[j] for i, j in zip(answers.tolist(), d.tolist(), strict=True)]
    n = int(used.sum())
    if not n:
        return AnalogyResult(used, right, None, None)
    n_right = int(right[used].sum())
    return AnalogyResult(used, right, n_right / n, share_interval(n_right, n))


def compare_analogies(first: AnalogyResult, second: AnalogyResult) -> Difference:
    """Accuracy of the first less that of the second, on the questions that both had vectors for."""
    both = first.used & second.used
    n = int(both.sum())
    if not n:
        return Difference(0, None, None)
    gained, lost = (int((a.right & ~b.right)[both].sum()) for a, b in ((first, second), (second, first)))
    return Difference(n, (gained - lost) / n, paired_interval(gained, lost, n))


def share_interval(k: int, n: int) -> Interval:
    """The 95 % interval of a share of which k of n were seen: Wilson's, which is never a point, be it 0 of n or n."""
    share, extra = k / n, Z * Z / n
    middle = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def paired_interval(gained: int, lost: int, n: int) -> Interval:
    """The 95 % interval of the difference of two shares of the same n: `gained` only by the first, `lost` only there.

    Bonett & Price (2012) add one to both counts.
    """
    a, b = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return Interval(max(-1.0, a - b - half), min(1.0, a - b + half))


class _Finder:
    """The row of a word: as it is, else of the most frequent with the `same_form` (case, accents apart), else -1."""

    def __init__(self, words: Mapping[str, int]) -> None:
        self.words = words
        self.folded: dict[str, int] = {}
        for word, row in words.items():
            self.folded.setdefault(same_form(word), row)

    def __call__(self, word: str) -> int:
        return self.words[word] if word in self.words else self.folded.get(same_form(word), -1)


def _draw(n: int) -> Iterable[np.ndarray]:
    """How often each of n things stands in each of 2,000 resamples, some of them (B, n) at a time."""
    generator = np.random.default_rng(0)
    step = max(1, AT_ONCE // max(1, n))
    for start in range(0, RESAMPLES if n else 0, step):
        n_rows = min(step, RESAMPLES - start)
        drawn = generator.integers(n, size=(n_rows, n)) + n * np.arange(n_rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n_rows * n).reshape(n_rows, n)


def _figure(value: np.ndarray, n: int) -> float | None:
    """A correlation, or the difference of two; None where it says nothing."""
    return float(value[0]) if n > 2 and np.isfinite(value[0]) else None


def _interval(drawn: np.ndarray) -> Interval | None:
    """None where all resamples agree, such as those of a few pairs in perfect order: they tell nothing of others."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    low, high = np.quantile(drawn, [0.5 - CONFIDENCE / 200, 0.5 + CONFIDENCE / 200])
    return Interval(float(low), float(high)) if low < high else None
