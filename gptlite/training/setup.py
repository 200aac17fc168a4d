"""What does not change during a run: where it is kept, its plan, the machine, the data and who watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from gptlite.checkpoint import word_vectors
from gptlite.checkpoint.runs import Run
from gptlite.device import Hardware
from gptlite.embedding import statistics
from gptlite.embedding.both_sides import ContextBags
from gptlite.embedding.word_vectors import affordable_tokens, make_word_vectors
from gptlite.evaluation.scoring import AnswerWindows, Window, sliding_windows
from gptlite.kernels.workers import Workers
from gptlite.model import GPT
from gptlite.text.batches import Batches
from gptlite.text.pairs import PairBatches
from gptlite.text.tokenizer import Tokenizer
from gptlite.training.clock import Clock
from gptlite.training.ensemble import Ensemble
from gptlite.training.optimizer import Loss, mean_loss
from gptlite.training.plan import Plan
from gptlite.training.replan import Replanner
from gptlite.training.run_log import RunLog
from gptlite.training.soft_targets import SoftTargets
from gptlite.training.table_history import TableHistory
from gptlite.training.threads import ThreadControl
from gptlite.training.watcher import Watcher

WORD_VECTORS_SHARE = 0.04  # of a time budget, for static word vectors


@dataclass(frozen=True)
class Setup:
    """The constants of a run, in every process that trains it.

    - `val_ids`: (M,) the held-out text as tokens; `byte_scale`: its bytes per byte that they spell.
    - `targets`: soft targets beside the tokens of the text, which `loss_of` knows.
    - `ensemble`: the members that are trained, where the model has some; `collect` gives it their weights.
    - `loss_of`: computes the loss of a training step, compiled or not; `workers`: the threads that divide it.
    - `replanner`: looks for a second plan in the first tenth of the run.
    - `threads`: chooses how many threads compute.
    - `baselines`: what run.json says of them, measured before training.
    - `saved_word_vectors`: the file of static word vectors of the step that a run goes on from.
    - `history`: the token table at some steps, which it collects.
    - `should_stop`: a signal number when the run is to end, else None; asked after every step.
    """

    run: Run
    plan: Plan
    hardware: Hardware
    tokenizer: Tokenizer
    batches: Batches | PairBatches
    val_ids: np.ndarray
    clock: Clock
    log: RunLog
    watcher: Watcher
    should_stop: Callable[[], int | None] = lambda: None
    byte_scale: float = 1.0
    replanner: Replanner | None = None
    ensemble: Ensemble | None = None
    loss_of: Loss = mean_loss
    workers: Workers = field(default_factory=Workers)
    threads: ThreadControl = field(default_factory=ThreadControl)
    targets: SoftTargets | None = None
    baselines: Mapping[str, Any] | None = None
    saved_word_vectors: bytes | None = None
    history: TableHistory = field(default_factory=TableHistory)

    def collect(self, model: GPT) -> GPT:
        """`model`, which is about to be looked at, with the weights that its members have by now."""
        if self.ensemble is not None:
            self.ensemble.copy_to(model)
        return model

    @cached_property
    def word_vectors(self) -> bytes | None:
        """The file of static word vectors, which no step changes; None where the text has hardly any words."""
        if self.saved_word_vectors is not None:
            return self.saved_word_vectors
        most = affordable_tokens(self.plan.train.seconds, WORD_VECTORS_SHARE)
        made = make_word_vectors(self.tokenizer, self.all_ids, most_tokens=most)
        return made and word_vectors.to_bytes(made.words, made.counts, made.vectors)

    @property
    def all_ids(self) -> np.ndarray:
        """(N,): the ids of everything that is trained on, the text itself last."""
        own, *others = self.batches.streams
        return np.concatenate([*others, own]) if others else own

    @cached_property
    def bags(self) -> ContextBags | None:
        """Bags of these word vectors, for vectors that know both sides."""
        file = self.word_vectors
        where = self.run.path / word_vectors.NAME
        return None if file is None else ContextBags(word_vectors.from_bytes(file, where))

    @cached_property
    def windows(self) -> Sequence[Window]:
        """The windows in which all held-out text is scored."""
        if self.tokenizer.pairs:  # of each answer, from the beginning of its record
            return AnswerWindows(self.val_ids, self.tokenizer, self.plan.model.context_length)
        return sliding_windows(len(self.val_ids), self.plan.model.context_length)

    @cached_property
    def token_counts(self) -> Tensor:
        """(V,): how often each token occurs in the training text."""
        return statistics.count_tokens(self.all_ids, self.plan.model.vocab_size)

    @cached_property
    def words(self) -> list[tuple[str, int]]:
        """The words of the training text, and how often each occurs."""
        return statistics.count_words(self.tokenizer, self.all_ids)

    @cached_property
    def held_out_bytes(self) -> int:
        """Bytes of held-out text that can be scored: those of all tokens but the first, of pairs the answers'."""
        lengths = np.array(self.tokenizer.byte_lengths(self.plan.model.vocab_size))
        if self.tokenizer.pairs:
            ends = ((w.start + w.length + 1, w.scored) for w in self.windows)
            return int(sum(lengths[self.val_ids[end - n : end]].sum() for end, n in ends))
        return round(int(lengths[self.val_ids[1:]].sum()) * self.byte_scale)
