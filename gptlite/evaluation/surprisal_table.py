"""Rows of a table of surprisals: one per word, token, region or text, for one model or several.

The columns and their formulas:

- `position`: number of the unit in its text, from 0.
- `word` (or `token`, `region`, `sentence`): the unit itself; `kind`: word, punctuation, space, token, region, sentence.
- `surprisal_bits`: -log2 p. Of words, regions and texts with the probability of their end (`evaluation.boundaries`),
  unless `raw`. In another base the name says so: `surprisal_nats`, `surprisal_dits`.
- `entropy_bits`: the entropy of what could come next, before the first token of the unit.
- `rank`: of the first token among all tokens, 1 for the likeliest.
- `n_tokens`, `n_characters`: of the unit; characters without white space around it.
- `count`: occurrences of the word in the training text, as far as the model keeps them; empty where it does not.
- `log10_per_million`: log10 of (count + 1) per million of the words that were counted.
- `seen`: tokens that the model saw before the unit. `cut`: 1 where earlier ones were beyond its context, else 0.

Several models: `surprisal_bits.NAME` for each, then the mean and the standard deviation (n - 1) over them. The other
columns are those of the first model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlite.errors import UsageError
from gptlite.evaluation.surprisals import ScoredText, Unit, bits, regions_of, sentence_of, tokens_of, words_of

UNITS = ("word", "token", "region", "sentence")
BASES = {"2": ("bits", 1.0), "e": ("nats", math.log(2)), "10": ("dits", math.log10(2))}


class Frequencies:
    """How often words stand in a training text.

    - `words`: pairs of a word and its count; empty where they are not known.
    """

    def __init__(self, words: Iterable[tuple[str, int]] = ()) -> None:
        self.counts: Mapping[str, int] = dict(words)
        self.total = sum(self.counts.values())

    def of(self, word: str) -> tuple[int | None, float | None]:
        """The count and the log10 of occurrences per million, (None, None) where nothing is known."""
        if not self.total:
            return None, None
        count = self.counts.get(word, 0)
        return count, math.log10((count + 1) / self.total * 1e6)


@dataclass(frozen=True)
class Layout:
    """What a row stands for and how its surprisal is given.

    - `unit`: one of `UNITS`; `raw`: sums over tokens.
    - `base`: "2", "e" or "10"; `models`: their names where there are several, () for one.
    """

    unit: str = "word"
    raw: bool = False
    base: str = "2"
    models: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order, without those that come along from the input."""
        measure = f"surprisal_{BASES[self.base][0]}"
        measures = [measure]
        if self.models:
            measures = [*(f"{measure}.{name}" for name in self.models), f"{measure}.mean", f"{measure}.sd"]
        return [
            "position", self.unit, "kind", *measures, f"entropy_{BASES[self.base][0]}", "rank", "n_tokens",
            "n_characters", "count", "log10_per_million", "seen", "cut",
        ]  # fmt: skip

    def units(self, scored: ScoredText, regions: Sequence[tuple[int, int]] = ()) -> list[Unit]:
        """The units of one text: characters `regions` where a row is a region."""
        if self.unit == "token":
            return tokens_of(scored)
        if self.unit == "sentence":
            return [sentence_of(scored, raw=self.raw)]
        if self.unit == "region":
            return regions_of(scored, regions, raw=self.raw)
        return words_of(scored, raw=self.raw)

    def units_of_all(self, scored: Sequence[ScoredText], regions: Sequence[tuple[int, int]] = ()) -> list[list[Unit]]:
        """For each model, the units of one text, which are the same for all models.

        Raises `UsageError` where tokens cannot be compared.
        """
        units = [self.units(each, regions) for each in scored]
        if self.unit == "token" and any(each.ids.tolist() != scored[0].ids.tolist() for each in scored[1:]):
            raise UsageError("the models cut the text into different tokens; compare words, regions or sentences.")
        return _aligned(scored, units, self.raw) if len(scored) > 1 and self.unit == "word" else units

    def rows(
        self, scored: Sequence[ScoredText], frequencies: Frequencies, regions: Sequence[tuple[int, int]] = ()
    ) -> list[dict[str, Any]]:
        """The rows of one text, as every model has scored it. Raises `UsageError` where tokens cannot be compared."""
        units = self.units_of_all(scored, regions)
        factor = BASES[self.base][1]
        found = []
        for position, together in enumerate(zip(*units, strict=True)):
            values = [unit.surprisal * factor for unit in together]
            found.append(self._row(position, together[0], values, scored[0], frequencies))
        return found

    def _row(
        self, position: int, unit: Unit, values: list[float], scored: ScoredText, frequencies: Frequencies
    ) -> dict[str, Any]:
        shown = unit.text if self.unit == "token" else unit.text.strip() or unit.text
        count, frequency = frequencies.of(shown) if unit.kind == "word" else (None, None)
        measures = values
        if self.models:
            measures = [*values, float(np.mean(values)), float(np.std(values, ddof=1))]
        has_tokens = unit.last > unit.first
        first = unit.first
        cells = [
            position, shown, unit.kind, *(None if math.isnan(value) else value for value in measures),
            float(scored.entropy[first]) * BASES[self.base][1] if has_tokens else None,
            int(scored.rank[first]) if has_tokens else None,
            unit.last - unit.first, len(unit.text.strip()), count, frequency,
            int(scored.seen[first]) if has_tokens else None, int(scored.is_cut[first]) if has_tokens else None,
        ]  # fmt: skip
        return dict(zip(self.columns, cells, strict=True))


def _aligned(scored: Sequence[ScoredText], units: Sequence[list[Unit]], raw: bool) -> list[list[Unit]]:
    """The same units for all models: where one model has two words in one token, the others' two words are one too."""
    if all([(u.start, u.end) for u in each] == [(u.start, u.end) for u in units[0]] for each in units[1:]):
        return list(units)
    ends = set.intersection(*({unit.end for unit in each} for each in units))
    found: list[list[Unit]] = []
    for text, each in zip(scored, units, strict=True):
        merged: list[Unit] = []
        first: Unit | None = None
        for unit in each:
            first = first or unit
            if unit.end in ends:
                value = bits(text, first.first, unit.last, raw=raw)
                kind = first.kind if first is unit else "word"
                whole = text.text[first.start : unit.end]
                merged.append(Unit(whole, kind, first.start, unit.end, first.first, unit.last, value))
                first = None
        found.append(merged)
    return found
