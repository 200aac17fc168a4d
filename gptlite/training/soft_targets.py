"""Soft targets: what a 5-gram says of each token of the training text, learned beside the text itself.

A text that is read many times is memorised: the model becomes sure of tokens that only this text has there. A 5-gram
counted on the other parts of the text knows what else could follow, and a model whose loss has the cross entropy with
its probabilities as a second term goes on to improve. This is distillation (Hinton et al. 2015) from a teacher that
costs seconds, and it does with exact counts what noise in the data does at random (Xie et al. 2017, "Data Noising as
Smoothing in Neural Network Language Models").

The teacher must not have counted what it predicts, or it would be as sure as the text.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gptlite.baselines.kneser_ney import ORDER, KneserNey
from gptlite.config import TrainConfig
from gptlite.device import Hardware
from gptlite.errors import LimitError
from gptlite.kernels.fused import MOST_SHARES, FusedLoss
from gptlite.kernels.workers import Workers
from gptlite.text.batches import Batches
from gptlite.text.pairs import PairBatches
from gptlite.training.divided import DividedLoss, plain_loss
from gptlite.training.optimizer import Loss, distilled_loss
from gptlite.training.scaling_law import LONG_TEXT

PARTS = 10  # of the text; each is predicted by n-grams counted on the others
BYTES_PER_TOKEN = 4 * MOST_SHARES  # of the text, in memory
PROBABILITIES_AT_ONCE = 1 << 22  # numbers
LARGEST_TEXT = 1 << 22  # tokens: about 1 GB of soft targets
# The share of their weight that is left at the end of a run, for texts of at least `LONG_TEXT` tokens. Shorter texts
# keep the weight, because less was worse for those that were tried (docs/lab/log.md).
LAST_WEIGHT = 0.2


@dataclass
class SoftTargets:
    """The likeliest tokens at each place of the stream and their probabilities, in 16 bits.

    - `ids`, `shares` (N, K): token i of the stream follows those before it with these probabilities.
    - `weight`: of these in the loss, 0 to 1; it changes in the course of a run (`weight_at`).
    """

    ids: Tensor
    shares: Tensor
    weight: float

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (P, K) and probabilities (P, K) at `positions` (P,)."""
        positions = positions.to(self.ids.device)
        return self.ids[positions].long(), self.shares[positions].float()


def weight_at(progress: float, config: TrainConfig, text_tokens: int) -> float:
    """The weight of soft targets at `progress` (0 to 1) of a run.

    It is constant for texts of fewer than `LONG_TEXT` tokens. For longer ones it falls to a fifth while the learning
    rate falls to zero.
    """
    if text_tokens < LONG_TEXT:
        return config.ngram_weight
    fall = min(1.0, max(0.0, 1.0 - progress) / config.decay) if config.decay else 1.0
    return config.ngram_weight * (LAST_WEIGHT + (1 - LAST_WEIGHT) * fall)


def ngram_targets(
    ids: np.ndarray,
    vocab_size: int,
    weight: float,
    progress: Callable[[float], None] = lambda _: None,
    workers: Workers | None = None,
) -> SoftTargets:
    """The soft targets of a 5-gram for the stream `ids` (N,). Raises `LimitError` for a text that is too long.

    - `progress`: gets fractions from 0 to 1. `workers`: divide the parts of the text among them.
    """
    if len(ids) > LARGEST_TEXT:
        raise LimitError(
            f"`ngram_weight` is for small texts, of at most {LARGEST_TEXT:,} tokens, and this one has {len(ids):,}; "
            "leave it out."
        )
    n, k = len(ids), min(MOST_SHARES, vocab_size)
    top = torch.empty(n, k, dtype=torch.int16 if vocab_size <= 1 << 15 else torch.int32)
    shares = torch.empty(n, k, dtype=torch.float16)
    workers = workers or Workers()

    def keep_likeliest(part: slice) -> None:
        for where, rows in part_estimates(ids, vocab_size, part):
            values, best = torch.from_numpy(rows).topk(k, dim=1)
            top[where], shares[where] = best.to(top.dtype), values.half()

    parts = cut_into_parts(n, PARTS)
    for i in range(0, len(parts), workers.active):
        at_once = parts[i : i + workers.active]
        workers.map(keep_likeliest, at_once)
        progress(at_once[-1].stop / n)
    return SoftTargets(top, shares, weight)


def cut_into_parts(n: int, parts: int) -> list[slice]:
    """`parts` slices of a stream of `n` tokens, about equally long."""
    edges = [i * n // parts for i in range(parts + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(edges)]


def part_estimates(ids: np.ndarray, vocab_size: int, part: slice) -> Iterator[tuple[slice, np.ndarray]]:
    """The probabilities of all tokens at each place of a part of the stream `ids` (N,), by n-grams counted on the rest.

    Yields places from the first to the last, and their probabilities (places, V).
    """
    at_once = max(1, PROBABILITIES_AT_ONCE // vocab_size)
    model = KneserNey(np.concatenate([ids[: part.start], ids[part.stop :]]), vocab_size)
    for first in range(part.start, part.stop, at_once):
        last, before = min(part.stop, first + at_once), max(0, first - ORDER + 1)
        yield slice(first, last), model.distributions(ids[before:last])[first - before :]


def with_targets(loss_of: Loss, targets: SoftTargets | None) -> Loss:
    """`loss_of` with soft targets too, for windows that come with their places (`with_places`)."""
    if targets is None:
        return loss_of
    if isinstance(loss_of, FusedLoss | DividedLoss):
        return loss_of.with_teacher(targets)
    return partial(distilled_loss, teacher=targets)


def without_targets(loss_of: Loss, hardware: Hardware, workers: Workers) -> Loss:
    """`loss_of` of a run for another model of the same shape and windows without places: what torch compiled for the
    model of the run, and soft targets, are left out."""
    return loss_of.with_teacher(None) if isinstance(loss_of, FusedLoss) else plain_loss(hardware, workers)


def with_places(batch: Tensor, step: int, batches: Batches | PairBatches, targets: SoftTargets | None) -> Tensor:
    """The windows of a step, (B, T + 1), or with soft targets (B, 2, T + 1): tokens, and their places in the stream."""
    if targets is None:
        return batch
    assert isinstance(batches, Batches)  # pairs have no soft targets
    return torch.stack([batch, torch.from_numpy(batches.places(step))], dim=1)
