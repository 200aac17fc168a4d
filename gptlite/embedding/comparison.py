"""Word vectors side by side: their cosines, what these are worth in the model they are from, and what follows.

A cosine says little by itself: between hidden states even unrelated words may score 0.9, and one word in two places
never scores 1. So each cosine is placed among those that the model's own held-out text gave: pairs of one word in two
random places, or, for two different words, of unrelated words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlite.embedding.both_sides import left_part
from gptlite.embedding.similarity import (
    CORRECTIONS,
    correct,
    cosine_matrix,
    default_components,
    parse_correction,
    percentile,
)
from gptlite.errors import UsageError
from gptlite.text.words import same_form

if TYPE_CHECKING:  # nothing here needs torch
    from gptlite.embedding.contextual import WordVector

# Percentiles of a pair, and what it is called from there on.
USES = ((0, "clearly different uses"), (10, "rather different uses"), (30, "as alike as usual"),
        (70, "rather similar uses"), (90, "clearly similar uses"))  # fmt: skip
RELATIONS = ((0, "no more alike than unrelated words"), (84, "somewhat alike"), (97.5, "clearly alike"))


@dataclass(frozen=True)
class Pair:
    """Two of the vectors, by their numbers from 0.

    - `cosine` after the correction, `raw` without one, `static`: of the static vectors. `left`: of the z-scored states
      alone, where the vectors are of both sides, else None.
    - `percentile`: how many of a hundred pairs of the model's own text have a lower cosine, pairs of one word in two
      places if this is `same_word`, else of unrelated words. None where that was not measured.
    - `same_prefix`: the texts are equal up to the word, so the two vectors are one.
    - `same_tokens`: are they the same tokens? If one word is other tokens (`v alue`, `_value`), no percentile applies.
    """

    first: int
    second: int
    cosine: float
    raw: float
    static: float
    percentile: float | None
    same_word: bool
    same_prefix: bool
    same_tokens: bool = True
    unit: str = "word"
    left: float | None = None

    @property
    def verdict(self) -> str | None:
        """The percentile in words."""
        if self.same_prefix:
            return "the same vector"
        if self.percentile is None:
            return None
        names = USES if self.same_word else RELATIONS
        verdict = [name for lowest, name in names if self.percentile >= lowest][-1]
        return verdict.replace("words", "sentences") if self.unit == "sentence" else verdict


@dataclass(frozen=True)
class Embeddings:
    """The vectors of n words in the order of their texts.

    - `items`: the words, with `.occurrence`, `.tokens`, `.n_left`, `.words_left`, `.partial`, `.truncated`, ...
    - `layers`: which of their vectors count; of several, the mean.
    - `statistics`: what `statistics` measured about the model, as arrays; None for models made elsewhere.
    - `meta`: where the vectors are from, for files.
    - `unit`: what they are vectors of, "word", "token" or "sentence". The scale of sentences is their own.
    """

    items: Sequence[WordVector]
    layers: tuple[int, ...]
    statistics: Mapping[str, np.ndarray] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "word"

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Raw contextual vectors (n, D), float32."""
        return np.stack([v.at(self.layers) for v in self.items])

    @property
    def both_sides(self) -> bool:
        """Have the vectors read what stands on both sides of their words (`both_sides.join`)?"""
        return self.meta.get("context") == "both"

    def left_cosine(self) -> np.ndarray:
        """Of vectors of both sides: cosines (n, n) of the z-scored states at the words, which know the left side."""
        return cosine_matrix(left_part(self.vectors, self.items[0].static.shape[-1]))

    @cached_property
    def static(self) -> np.ndarray:
        """Static vectors (n, D), float32."""
        return np.stack([v.static for v in self.items])

    def cosine(self, correction: str = "zscore") -> np.ndarray:
        """Cosines (n, n) of the contextual vectors after a correction of `similarity`.

        Each of several layers is corrected by itself, since each has a scale of its own. Vectors of both sides are made
        of standardised parts, so their cosines are the same for all corrections. Raises `UsageError` for a
        correction other than "none" where the model has no statistics.
        """
        return cosine_matrix(self.corrected(correction))

    def corrected(self, correction: str = "zscore") -> np.ndarray:
        """The contextual vectors (n, D) after a correction, those of which `cosine` has the cosines."""
        name, _ = parse_correction(correction, self.items[0].static.shape[-1])
        if name == "none" or self.both_sides:
            return self.vectors
        if self.statistics is None:
            raise UsageError(f"the model has no statistics for '{correction}'; its cosines can only be raw: none.")
        return self._corrected(correction, self.statistics)

    def scale(self, correction: str = "zscore") -> dict[str, list[float]] | None:
        """Mean and standard deviation of the cosine between unrelated words, and of one word in two random places.

        None where it was not measured: of a model made elsewhere, for the mean of several layers, or without more or
        fewer components than "abtt" has.
        """
        return self._moments(self._measured(correction))

    def quantiles(self, correction: str = "zscore") -> dict[str, np.ndarray] | None:
        """The 0th to 100th percentiles (101,) of the cosines of each kind of pairs; None like `scale`."""
        measured = self._measured(correction)
        return None if measured is None else {kind: spread for kind, _, spread in measured}

    def left_scale(self) -> dict[str, list[float]] | None:
        """Of vectors of both sides: `scale` of the z-scored states at the words."""
        return self._moments(self._measured("zscore", left=True))

    def percentile(self, correction: str = "zscore") -> np.ndarray | None:
        """Where each of the cosines (n, n) stands, 0 to 100, among pairs of the model's own text; None like `scale`.

        Of one word (whatever its case) among pairs of one word in two random places, of two words among unrelated ones.
        NaN for one word in different tokens: what was measured is the same token in two places.
        """
        return self._percentile(self.cosine(correction), self._measured(correction))

    def left_percentile(self) -> np.ndarray | None:
        """Of vectors of both sides: where each `left_cosine` stands."""
        return self._percentile(self.left_cosine(), self._measured("zscore", left=True))

    def same_words(self) -> np.ndarray:
        """(n, n) booleans: is it one word, whatever its case and its spelling in Unicode? Never two sentences."""
        if self.unit == "sentence":
            return np.eye(len(self), dtype=bool)
        return _equal([same_form(v.occurrence.word) for v in self.items])

    def same_tokens(self) -> np.ndarray:
        """(n, n) booleans: are they the same tokens?"""
        return _equal([v.tokens for v in self.items])

    def pairs(self, correction: str = "zscore", most: int | None = None) -> list[Pair]:
        """All pairs in the order of their vectors; of more than `most`, half furthest apart, half closest."""
        n = len(self)
        first, second = np.triu_indices(n, 1)
        cosines, raw, static = self.cosine(correction), self.cosine("none"), cosine_matrix(self.static)
        left = self.left_cosine() if self.both_sides else None
        ranks, same, tokens = self.percentile(correction), self.same_words(), self.same_tokens()
        if most is not None and len(first) > most:
            order = np.argsort(cosines[first, second], kind="stable")
            chosen = np.sort(np.concatenate([order[: (most + 1) // 2], order[len(order) - most // 2 :]]))
            first, second = first[chosen], second[chosen]
        return [
            Pair(
                i, j, float(cosines[i, j]), float(raw[i, j]), float(static[i, j]),
                None if ranks is None or np.isnan(ranks[i, j]) else float(ranks[i, j]), bool(same[i, j]),
                self.same_prefix(i, j), bool(tokens[i, j]), self.unit, None if left is None else float(left[i, j]),
            )
            for i, j in zip(first.tolist(), second.tolist(), strict=True)
        ]  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the raw vectors; the suffix decides how, see `vector_files`. Raises `UsageError`, `StorageError`."""
        from gptlite.embedding import vector_files

        layers = self.layers[0] if len(self.layers) == 1 else self.layers
        vector_files.save_vectors(Path(path), self.items, layers, self.meta)

    def _measured(self, correction: str, *, left: bool = False) -> list[tuple[str, np.ndarray, np.ndarray]] | None:
        """What was measured of cosines after this correction, for each kind of pairs: its name, moments and quantiles.

        Unrelated pairs first, then those of one word, if they were measured. `left`: of both sides, the left alone.
        """
        dim = self.items[0].static.shape[-1]
        name, n_components = parse_correction(correction, dim)
        if self.statistics is None or len(self.layers) != 1 or n_components != default_components(dim):
            return None
        kinds = ("unrelated",) if self.unit == "sentence" else ("unrelated", "same_word")
        of_both = self.both_sides and not left
        names = [f"{'sentence_' if self.unit == 'sentence' else 'around_' if of_both else ''}{kind}" for kind in kinds]
        if names[0] not in self.statistics:
            return None
        layer = self.layers[0]
        at = (layer,) if of_both else (layer, CORRECTIONS.index(name))
        tables = [(self.statistics[name], self.statistics[f"{name}_quantiles"]) for name in names]
        return [(kind, moments[at], spread[at]) for kind, (moments, spread) in zip(kinds, tables, strict=True)]

    def _moments(self, measured: Sequence[tuple[str, np.ndarray, np.ndarray]] | None) -> dict[str, list[float]] | None:
        if measured is None:
            return None
        return {kind: [round(float(x), 4) for x in moments] for kind, moments, _ in measured}

    def _percentile(
        self, cosines: np.ndarray, measured: Sequence[tuple[str, np.ndarray, np.ndarray]] | None
    ) -> np.ndarray | None:
        if measured is None:
            return None
        ranks = [percentile(cosines, quantiles) for _, _, quantiles in measured]
        same = self.same_words()
        found = np.where(same, ranks[-1], ranks[0])
        found[same & ~self.same_tokens()] = np.nan
        return found

    def _corrected(self, correction: str, statistics: Mapping[str, np.ndarray]) -> np.ndarray:
        total = np.zeros_like(self.static)
        for layer in self.layers:
            space = {name: statistics[name][layer] for name in ("mean", "std", "components")}
            total += correct(np.stack([v.at(layer) for v in self.items]), correction, space)
        return total / len(self.layers)

    def same_prefix(self, i: int, j: int) -> bool:
        """Are the texts of vectors i and j equal up to the word, so that the two vectors are one?"""
        one, other = self.items[i], self.items[j]
        a, b = one.occurrence, other.occurrence
        if self.both_sides:  # equal ones say nothing of what a model can see
            return False
        same_text = a.start == b.start and a.text[: a.end] == b.text[: b.end]
        return same_text and one.tokens == other.tokens and np.array_equal(one.contextual, other.contextual)


def _equal(names: Sequence[object]) -> np.ndarray:
    """(n, n) booleans: which of n names are the same."""
    first: dict[object, int] = {}
    numbers = np.array([first.setdefault(name, i) for i, name in enumerate(names)], dtype=np.int64)
    return numbers[:, None] == numbers
