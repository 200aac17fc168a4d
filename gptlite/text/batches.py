"""The batch of step s.

It is a pure function of (seed, step, rank). There is no iterator whose state could be lost: the
stream is a ring, cut into windows of the context's length from a start that differs in each epoch, and the windows of
an epoch come in a shuffled order, each exactly once. Where several models share a batch, each has epochs of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from gptlite.errors import CorpusError
from gptlite.randomness import derive, mix, shuffled
from gptlite.text.token_files import TokenFile


class Batches:
    """Random access to the training batches of one token file.

    - `context`: tokens a window; `batch_size`: windows a step over all ranks.
    - `members`: models that share a batch, as `training_step` divides it: first into `accumulate` parts.
    Raises `CorpusError` when the text is shorter than one window.
    """

    def __init__(
        self, tokens: TokenFile, *, context: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1,
        members: int = 1, accumulate: int = 1,
    ) -> None:  # fmt: skip
        if tokens.n_tokens < context + 1:
            raise CorpusError(
                f"the training text has {tokens.n_tokens:,} tokens, but one window needs {context + 1:,}; "
                f"use a `context_length` of {max(1, tokens.n_tokens - 1)} or less, or give more text."
            )
        self.ids = tokens.ids()
        self.context, self.batch_size, self.seed = context, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.members, self.accumulate = members, accumulate
        self.windows_per_epoch = tokens.n_tokens // context

    @property
    def steps_per_epoch(self) -> float:
        return self.windows_per_epoch / self.batch_size

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context

    def batch(self, step: int) -> Tensor:
        """Windows (B, context + 1) of int64 ids: inputs are [:, :-1], targets [:, 1:]; of B, the share of this rank."""
        return self.windows(self._positions(step))

    def draw(self, step: int, progress: float, tokens: int, drawn: list[int]) -> tuple[Tensor, list[int]]:
        """The batch of a step at `progress` (0 to 1) of the run, and `drawn`, which only a mixture changes.

        - `tokens`: those of all batches before; `drawn`: windows taken from each companion text so far (mixture.py).
        """
        return self.batch(step), drawn

    def epochs(self, tokens: int, drawn: list[int]) -> float:
        """How often the text was read after `tokens` tokens, of which the windows in `drawn` are of other texts."""
        return (tokens - sum(drawn) * self.context) / max(1, len(self.ids))

    @property
    def streams(self) -> list[np.ndarray]:
        """The ids (N,) of each text that batches are taken from, the user's own first."""
        return [self.ids]

    def places(self, step: int) -> np.ndarray:
        """Where the tokens (B, context + 1) of `batch` stand in the stream."""
        return self._places(self._positions(step))

    def _positions(self, step: int) -> range:
        first, last = (
            step * self.batch_size + r * self.batch_size // self.world_size for r in (self.rank, self.rank + 1)
        )
        return range(first, last)

    def windows(self, positions: Iterable[int]) -> Tensor:
        """The windows (n, context + 1) at these positions of the endless sequence of all epochs."""
        return torch.from_numpy(self.ids[self._places(positions)].astype(np.int64))

    def _places(self, positions: Iterable[int]) -> np.ndarray:
        starts = np.array([self._window_start(position) for position in positions], dtype=np.int64)
        return np.add.outer(starts, np.arange(self.context + 1)) % len(self.ids)  # the stream is a ring

    def _window_start(self, position: int) -> int:
        seed = self.seed
        if self.members > 1:
            member, position = self._of_member(position)
            seed = derive(seed, member)
        epoch, within = divmod(position, self.windows_per_epoch)
        key = derive(seed, epoch)
        phase = mix(key) % len(self.ids)
        return phase + shuffled(within, self.windows_per_epoch, key) * self.context

    def _of_member(self, position: int) -> tuple[int, int]:
        """Which member learns the window at a position of all batches, and its position among those of this member."""
        step, row = divmod(position, self.batch_size)
        rows = self.batch_size // (self.accumulate * self.members)
        part, row = divmod(row, rows)
        return part % self.members, (step * self.accumulate + part // self.members) * rows + row


def read_batch(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) of windows (B, T + 1), in which `~id` is a token that is read but not learned.

    Targets that are not learned are -100, which torch's losses leave out.
    """
    skipped = batch < 0
    return torch.where(skipped, ~batch, batch)[:, :-1], torch.where(skipped, -100, batch)[:, 1:]


def count_targets(batch: Tensor) -> int:
    """How many targets of windows (B, T + 1) are learned."""
    return int((batch[:, 1:] >= 0).sum())
