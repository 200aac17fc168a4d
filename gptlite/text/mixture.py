"""Batches mixed from several texts: the user's own, and companions in shares that follow the progress of the run.

Which windows a step takes depends on the seed, the step, the progress and how many windows each text has given so far.
That number is saved with the step, so a resumed run meets the same windows. Each text is read in epochs of its own,
every window of an epoch once, as in `Batches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptlite.errors import CorpusError
from gptlite.randomness import derive, uniform
from gptlite.text.batches import Batches
from gptlite.text.token_files import TokenFile


@dataclass(frozen=True)
class Share:
    """The share of a step's windows that a companion text has: `first` up to the progress `hold`, `last` at the end.

    In between it changes on a straight line.
    """

    first: float
    last: float
    hold: float = 1.0

    def at(self, progress: float) -> float:
        if progress <= self.hold or self.hold >= 1:
            return self.first
        done = (min(1.0, progress) - self.hold) / (1 - self.hold)
        return self.first + done * (self.last - self.first)

    @property
    def mean(self) -> float:
        """Over a whole run."""
        return self.hold * self.first + (1 - self.hold) * (self.first + self.last) / 2


@dataclass(frozen=True)
class Ingredient:
    """A companion text as tokens.

    - `name`: what it is to the user: background or replay.
    - `tokens_per_epoch`: how many of its tokens count as part of an epoch.
    """

    name: str
    tokens: TokenFile
    share: Share
    tokens_per_epoch: int


class Mixture(Batches):
    """The batches of a text and its companions; the methods of `Batches` are about the text itself.

    Raises `CorpusError` where one of the texts is shorter than one window.
    """

    def __init__(
        self,
        tokens: TokenFile,
        ingredients: Sequence[Ingredient],
        *,
        context: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        members: int = 1,
        accumulate: int = 1,
    ) -> None:
        super().__init__(tokens, context=context, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.parts = members * accumulate if members > 1 else 1  # of a batch, each with its share of every text
        for each in ingredients:
            if each.tokens.n_tokens < context + 1:
                raise CorpusError(
                    f"the text for `{each.name}` has {each.tokens.n_tokens:,} tokens, but one window needs "
                    f"{context + 1:,}; use a smaller `context_length`, or leave `{each.name}` out."
                )
        self.ingredients = tuple(ingredients)
        self.companions = tuple(
            Batches(each.tokens, context=context, batch_size=batch_size, seed=derive(seed, i + 1))
            for i, each in enumerate(ingredients)
        )

    @property
    def steps_per_epoch(self) -> float:
        others = sum(each.tokens_per_epoch for each in self.ingredients)
        return (self.windows_per_epoch + others / self.context) / self.batch_size

    @property
    def streams(self) -> list[np.ndarray]:
        return [self.ids, *(companion.ids for companion in self.companions)]

    def draw(self, step: int, progress: float, tokens: int, drawn: list[int]) -> tuple[Tensor, list[int]]:
        """Windows (B, context + 1) of all texts, of which this rank gets its share, and the new `drawn`."""
        drawn = drawn or [0] * len(self.companions)
        own = tokens // self.context - sum(drawn)  # windows of the text itself so far
        counts = self._count(step, progress)
        places = [(self, own + i) for i in range(self.batch_size - sum(counts))]
        for companion, before, n in zip(self.companions, drawn, counts, strict=True):
            places += [(companion, before + i) for i in range(n)]
        first, last = (r * self.batch_size // self.world_size for r in (self.rank, self.rank + 1))
        mine = places[first:last]
        parts = [
            text.windows([position for source, position in mine if source is text]) for text in (self, *self.companions)
        ]
        order = [i for part in range(self.parts) for i in range(part, len(mine), self.parts)]
        return torch.cat(parts)[order], [before + n for before, n in zip(drawn, counts, strict=True)]

    def _count(self, step: int, progress: float) -> list[int]:
        """How many windows of a step come from each companion; fractions are rounded at random, by the seed."""
        counts: list[int] = []
        for i, each in enumerate(self.ingredients):
            wanted = int(self.batch_size * each.share.at(progress) + uniform(self.seed, step, i))
            counts.append(min(wanted, self.batch_size - sum(counts)))
        return counts
