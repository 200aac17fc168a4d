"""One vector a word, from a model's token table or from another program's file, and what can be looked up in them.

The model itself is never built, and torch never imported: an answer comes in the time that Python takes to start.

A word's vector in the table is the mean of the embedding rows of its tokens, in the form in which it stands inside a
sentence. So any word has one, also one that the text never had. But only a word that is one token has a row that
learned from its own sentences; the mean of several is shared with all words of a like spelling. Answers are therefore
looked for among the words that are one token.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptlite.checkpoint import word_vectors
from gptlite.checkpoint.runs import read_model
from gptlite.checkpoint.saved_step import read_token_table, read_tokenizer, read_words
from gptlite.distribution import install_hint
from gptlite.embedding.similarity import correct, measure, nearest, parse_correction, unit
from gptlite.errors import UsageError, plural
from gptlite.storage.reader import Reader
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import UNSPACED, in_sentence

CORRECTION = "abtt"  # of cosines between static vectors, unless another is asked for
FEW_WORDS = 100  # fewer have no components to speak of, only a mean
FEWEST_ANSWERS = 10  # words that are one token; with fewer of them, all words are answers
MIN_COUNTS = (20, 10, 5, 2)  # how often a word was seen: the first that leaves ENOUGH_WORDS
ENOUGH_WORDS = 500
RANDOM_PAIRS = 4000
MEASURED = 50_000  # words, of those in a file of many more


class Word(NamedTuple):
    """A word that a look-up found: its cosine, and how often the text had it, if that is known."""

    word: str
    cosine: float
    seen: int | None


class WordVectors:
    """Words with one vector each, most frequent first, compared by cosine after a correction.

    - `vectors` (N, D): raw; the correction leaves `directions` (N, D), of length 1. By default it is "abtt", or of
      fewer than a hundred words "center".
    - `answers`: the rows (n,) that a look-up may answer with, and that the correction is measured on; all by default.
    - `counts`: how often words were seen, of more words than these if they are known, most frequent first.
    - `spell` makes raw vectors (n, D) of n words that are not among them, zeros where it cannot; without it they are a
      `UsageError`.
    - `least`: how often each of the words was seen at least; 0 where that is not known.
    - `any_case`: the words stand for all their forms in upper and lower case.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        vectors: np.ndarray,
        *,
        correction: str | None = None,
        answers: np.ndarray | None = None,
        counts: Mapping[str, int] | None = None,
        spell: Callable[[Sequence[str]], np.ndarray] | None = None,
        least: int = 0,
        any_case: bool = False,
    ) -> None:
        self.least, self.any_case = least, any_case
        self.name, self.words, self.vectors = name, list(words), vectors
        self.counts, self.spell = counts or {}, spell
        self.index = {word: i for i, word in reversed(list(enumerate(words)))}  # of equal words the first counts
        self.answers = np.arange(len(self.words)) if answers is None else answers
        correction = correction or ("center" if len(self.answers) < FEW_WORDS else CORRECTION)
        kind, n_components = parse_correction(correction, vectors.shape[1])
        self.correction = f"abtt:{n_components}" if kind == "abtt" else kind
        self.space = measure(vectors[self.answers[:MEASURED]]) if kind != "none" and len(self.answers) else {}
        if not self.space:
            self.correction = "none"

    @cached_property
    def directions(self) -> np.ndarray:
        """(N, D), float32: corrected, of length 1."""
        return self._corrected(self.vectors)

    @cached_property
    def unrelated(self) -> tuple[float, float]:
        """Mean and standard deviation of the cosine of two answers drawn at random."""
        n = len(self.answers)
        first, second = np.random.default_rng(0).integers(max(1, n), size=(2, RANDOM_PAIRS if n > 1 else 0))
        first, second = self.answers[first[first != second]], self.answers[second[first != second]]
        cosines = (self.directions[first] * self.directions[second]).sum(axis=1)
        return (float(cosines.mean()), float(cosines.std())) if len(cosines) else (0.0, 0.0)

    def seen(self, word: str) -> int | None:
        """How often the text had the word; None where that is not known."""
        return self.counts.get(self.known(word), 0) if self.counts else None

    def known(self, word: str) -> str:
        """The word as it is spelled here: accents may be characters of their own, or part of their letters."""
        forms = spellings(word)
        if self.any_case:
            forms = [self._folded.get(form.casefold(), form) for form in forms]
        return next((form for form in forms if form in self.index or form in self.counts), word)

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {word.casefold(): word for word in reversed([*self.words, *self.counts])}

    def has(self, word: str) -> bool:
        """Is there a vector for the word, be it one of its tokens or pieces?"""
        return self.known(word) in self.index or (self.spell is not None and bool(self.spell([word]).any()))

    def direction(self, word: str) -> np.ndarray:
        """(D,): its corrected vector of length 1. Raises `UsageError` for a word that has none."""
        word = self.known(word)
        if word in self.index:
            return self.directions[self.index[word]]
        vectors = None if self.spell is None else self.spell([word])
        if vectors is None or not vectors.any():
            raise UsageError(f"{self.name} has no vector for '{word}'.")
        return self._corrected(vectors)[0]

    def similarity(self, a: str, b: str) -> float:
        """The cosine of the corrected vectors of two words. Raises `UsageError` for a word that has none."""
        return float(self.direction(a) @ self.direction(b))

    def keyed_vectors(self) -> Any:
        """The raw vectors as gensim's `KeyedVectors`, with counts. Raises `UsageError` where gensim is missing."""
        if find_spec("gensim") is None:
            raise UsageError(f"`keyed_vectors` needs the package gensim; install it: {install_hint('word2vec')}.")
        from gensim.models import KeyedVectors

        made = KeyedVectors(self.vectors.shape[1], dtype=np.float32)
        made.add_vectors(self.words, self.vectors)
        for word in self.words if self.counts else ():
            made.set_vecattr(word, "count", self.counts.get(word, 0))
        return made

    def nearest(self, word: str, k: int = 10) -> list[Word]:
        """The k answers with the largest cosine to `word`, best first, without itself."""
        known = self.known(word)
        return self._rank(self.direction(word), k, lambda other: other == known)

    def analogy(self, a: str, b: str, c: str, k: int = 10) -> list[Word]:
        """The k answers nearest to a - b + c, each of length 1, without the three in any case.

        king - man + woman asks what is to "woman" as "king" is to "man": 3CosAdd (Mikolov et al. 2013).
        """
        given = {self.known(word).casefold() for word in (a, b, c)}
        wanted = self.direction(a) - self.direction(b) + self.direction(c)
        return self._rank(wanted, k, lambda other: other.casefold() in given)

    def odd(self, words: Sequence[str]) -> list[Word]:
        """The words by their mean cosine to the others: the first is the one that belongs least."""
        if len(words) < 3:
            raise UsageError(f"which word does not belong is a question about three or more, not {len(words)}.")
        rows = np.stack([self.direction(word) for word in words])
        cosines = rows @ rows.T
        means = (cosines.sum(axis=1) - cosines.diagonal()) / (len(words) - 1)
        order: list[int] = np.argsort(means, kind="stable").tolist()
        return [Word(words[i], float(means[i]), self.seen(words[i])) for i in order]

    def case_variants(self, word: str) -> list[Word]:
        """The words that differ from `word` in upper and lower case alone, with their cosines to it."""
        word = self.known(word)
        folded = word.casefold()
        known = self.counts or self.index
        variants = [other for other in known if other != word and other.casefold() == folded]
        if not variants:
            return []
        query = self.direction(word)
        return [Word(v, float(self.direction(v) @ query), self.seen(v)) for v in variants]

    def _rank(self, query: np.ndarray, k: int, given: Callable[[str], bool]) -> list[Word]:
        rows = self.answers[np.array([not given(self.words[i]) for i in self.answers], dtype=bool)]
        ranking = nearest(query, self.directions[rows], k)
        return [Word(self.words[rows[i]], cosine, self.seen(self.words[rows[i]])) for i, cosine in ranking]

    def _corrected(self, vectors: np.ndarray) -> np.ndarray:
        return unit(correct(vectors, self.correction, self.space)).astype(np.float32)


def spellings(word: str) -> list[str]:
    """A word as it is given, and with its accents as part of their letters and as characters of their own."""
    return [word, *(unicodedata.normalize(form, word) for form in ("NFC", "NFD"))]


@dataclass(frozen=True)
class TokenTable:
    """The embedding rows (V, D) of a saved model, its tokenizer, and the words of its text with their counts."""

    path: Path
    rows: np.ndarray
    tokenizer: Tokenizer
    counts: Mapping[str, int]
    saved: word_vectors.SavedWords | None = None

    def tokens(self, word: str) -> tuple[str, ...]:
        """The text of the tokens that a word's vector is the mean of."""
        return tuple(self.tokenizer.decode([i]) for i in self.tokenizer.encode(in_sentence(word)))

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """(n, D), float32: for each word the mean of the rows of its tokens."""
        return self._means(self.ids(words))

    def words(self, min_count: int | None = None) -> tuple[list[str], int]:
        """The words seen at least so often, most frequent first, and how often that is.

        Unless `min_count` is given it is 20, or less on a small text: 10, 5 or 2, until there are 500 words. A model
        made elsewhere has no counts; there, tokens that are words take their place, and the number is 0.
        """
        if not self.counts:
            return self._whole_tokens(), 0
        min_count = least_count(self.counts, min_count)
        return [word for word, seen in self.counts.items() if seen >= min_count], min_count

    def word_vectors(self, min_count: int | None = None, correction: str | None = None) -> WordVectors:
        """The vectors of `words(min_count)`; answers are those of one token. Raises `UsageError` where there are none.

        Where fewer than ten words are one token, all are answers.
        """
        words, least = self.words(min_count)
        if not words:
            raise UsageError(f"no word was seen {plural(least, 'time')} in the text of {self.path}; lower `min_count`.")
        ids = self.ids(words)
        whole = np.flatnonzero([len(tokens) == 1 for tokens in ids])
        return WordVectors(
            "token table",
            words,
            self._means(ids),
            correction=correction,
            answers=whole if len(whole) >= FEWEST_ANSWERS else None,
            counts=self.counts,
            spell=self.vectors,
            least=least,
        )

    def ids(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens of each word, in the form in which it stands inside a sentence."""
        return self.tokenizer.encode_batch([in_sentence(word) for word in words])

    def _means(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        if not ids:
            return np.zeros((0, self.rows.shape[1]), dtype=np.float32)
        lengths = np.array([len(tokens) for tokens in ids])
        sums = np.add.reduceat(self.rows[np.concatenate(ids)], np.cumsum(lengths) - lengths, axis=0)
        return (sums / lengths[:, None]).astype(np.float32)

    def _whole_tokens(self) -> list[str]:
        texts = (self.tokenizer.decode([i]) for i in range(self.tokenizer.vocab_size))
        return list(dict.fromkeys(text.strip() for text in texts if _is_word(text)))


def least_count(counts: Mapping[str, int], wish: int | None) -> int:
    """How often words must be seen: as asked, or the first of `MIN_COUNTS` that leaves 500 words."""
    if wish is not None:
        return wish
    enough = (n for n in MIN_COUNTS if sum(seen >= n for seen in counts.values()) >= ENOUGH_WORDS)
    return next(enough, MIN_COUNTS[-1])


def read_table(model: str | Path | None = None, *, unless_words: bool = False) -> TokenTable:
    """The token table of the model that `runs.find_model` finds: verified as `checkpoint.load` does, without torch.

    - `unless_words`: where the step has word vectors, those are read (`.saved`) and the rows of the table are not.

    Raises `CheckpointError`.
    """

    def read(path: Path) -> TokenTable:
        with Reader(path) as reader:
            saved = word_vectors.read(reader) if unless_words else None
            if saved is not None:
                return TokenTable(path, np.zeros((0, 0), np.float32), read_tokenizer(reader), {}, saved)
            rows, tokenizer = read_token_table(reader)
            return TokenTable(path, rows, tokenizer, dict(read_words(reader)))

    return read_model(model, read)


def _is_word(token: str) -> bool:
    word = token.removeprefix(" ")
    return word.isalpha() and (word != token or all(map(UNSPACED.match, word)))
