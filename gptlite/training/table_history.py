"""The token table at some steps of a run, for questions about how meaning emerges (`embedding/emergence.py`).

Kept are step 0, steps a factor apart (1, 2, 4, 8, ...; of short runs more, of long ones fewer), and the newest step
with a score. Which steps these are follows from the number of steps and scores alone, so a run that was stopped and
resumed keeps the same ones. They are held in memory and written just before a step is saved: a saved step never lacks
its past, and what a crash leaves of later steps is dropped on `resume`, when they come again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gptlite.checkpoint import table_history
from gptlite.checkpoint.run_lock import RunLostError
from gptlite.checkpoint.runs import Run
from gptlite.checkpoint.table_history import KeptTable
from gptlite.errors import CheckpointError, StorageError
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import in_sentence

MOST_GRID = 14  # steps, besides the first and the newest with a score
MOST_STEPS = MOST_GRID + 2
MOST_BYTES = 8 << 20  # of the file; of a larger table, the tokens of the most frequent words are kept
BYTES_BESIDE, HEADER_BYTES = 5, 4096  # for each row besides its D, and for the whole file
HALF_POWERS = 120  # of two: more steps than any run has

Words = Callable[[], Sequence[tuple[str, int]]]  # the words of the text and their counts, most frequent first


class TableHistory:
    """Rows of the token table at steps of a run.

    - `tokens` (n,): the ids whose rows are kept, ascending; chosen with the first table where they are not given.
    - `kept`: what is kept so far, in the order of the steps.
    """

    def __init__(self, tokens: np.ndarray | None = None, kept: Sequence[KeptTable] = ()) -> None:
        self.tokens, self.kept = tokens, list(kept)
        self._newest_score = max((table.step for table in kept if table.val_bits_per_byte is not None), default=0)
        self._unsaved = self._failed = False

    @classmethod
    def resumed(cls, run: Run, step: int, shape: tuple[int, int], notice: Callable[[str], None]) -> TableHistory:
        """What the file of a run has of the steps up to `step`, if its rows are those of a table of `shape` (V, D).

        A damaged file costs no more than what was in it, which a `notice` says.
        """
        try:
            found = table_history.read(run.path)
        except CheckpointError as error:
            notice(f"{error} Training goes on without the token tables of the steps before.")
            return cls()
        if found is None:
            return cls()
        tokens, tables = found
        if tokens[-1] >= shape[0] or tables[0].rows.shape[1] != shape[1]:
            return cls()
        return cls(tokens, [table for table in tables if table.step <= step])

    def due(self, step: int, scored: bool) -> bool:
        """Is the table of this step to be kept, for a while at least?"""
        return scored or step == 0 or step in grid(step)

    def add(
        self, step: int, table: np.ndarray, tokenizer: Tokenizer, words: Words, *, train_loss: float | None = None,
        val_bits_per_byte: float | None = None, last: bool = False,
    ) -> None:  # fmt: skip
        """Keep a `table` (V, D) of float32, and drop what is no longer needed. One that is not finite is left out.

        - `last`: it stays although it has no score.
        """
        if not np.isfinite(table).all():
            return
        if self.tokens is None:
            self.tokens = choose_tokens(table.shape, tokenizer, words)
        self.kept = [kept for kept in self.kept if kept.step < step]
        self.kept.append(KeptTable.of(step, table[self.tokens], train_loss, val_bits_per_byte))
        if val_bits_per_byte is not None or last:
            self._newest_score = step
        wanted = {0, self._newest_score, *grid(step)}
        self.kept = [kept for kept in self.kept if kept.step in wanted]
        self._unsaved = True

    def save(self, run: Run, notice: Callable[[str], None]) -> None:
        """Write the file where there is something new. A failure is a notice, once: no run ends for it."""
        if self.tokens is None or not self._unsaved:
            return
        try:
            run.write_table_history(table_history.to_bytes(self.tokens, self.kept))
        except RunLostError:  # the save that comes next finds that out, and says so
            return
        except StorageError as error:
            if not self._failed:
                notice(f"{error} Training goes on; each save tries again.")
            self._failed = True
        else:
            self._unsaved = self._failed = False


def grid(step: int) -> set[int]:
    """The steps up to `step` that are kept by then: at most `MOST_GRID`, a factor apart.

    What is wanted at a later step, of those up to an earlier one, was wanted then too.
    """
    powers = [round(2 ** (k / 2)) for k in range(HALF_POWERS) if round(2 ** (k / 2)) <= step]
    stride = 1
    while -(-len(powers) // stride) > MOST_GRID:
        stride *= 2
    return set(powers[::stride])


def most_bytes(vocab_size: int, dim: int) -> int:
    """The most bytes that the file of a run takes."""
    return min(vocab_size, _most_tokens(dim)) * MOST_STEPS * (dim + BYTES_BESIDE) + HEADER_BYTES


def _most_tokens(dim: int) -> int:
    return max(1, MOST_BYTES // (MOST_STEPS * (dim + BYTES_BESIDE)))


def choose_tokens(shape: tuple[int, ...], tokenizer: Tokenizer, words: Words) -> np.ndarray:
    """(n,): the ids of all V rows of a table of `shape` (V, D); of a large one, those in the most frequent words."""
    vocab_size, dim = shape
    most = _most_tokens(dim)
    if vocab_size <= most:
        return np.arange(vocab_size)
    chosen: set[int] = set()
    frequent = words()
    spelled = tokenizer.encode_batch([in_sentence(word) for word, _ in frequent])
    for tokens in sorted(spelled, key=len):  # stable: first the words of one token, which neighbours are chosen from
        if len(chosen) + len(set(tokens) - chosen) <= most:
            chosen.update(tokens)
    rest = (i for i in range(vocab_size) if i not in chosen)
    chosen.update(i for i, _ in zip(rest, range(most - len(chosen)), strict=False))
    return np.array(sorted(chosen))
