"""The same ids from logits that differ in their last bits: draws that these could change are made again.

Which id is drawn must not depend on how the logits were computed. Sums of floating-point numbers do: a matrix product
for 16 rows rounds differently from one for a single row, a pass with a cache differently from one without. So each draw
is examined: could logits that differ by no more than such roundings have led to another id? Then the draw is in doubt,
and is made again from logits that are always computed in the same way. This happens about once in some thousand tokens,
and every way to compute a text gives the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gptlite.config import GREEDY, SamplingConfig
from gptlite.generation.constraints import Constraints
from gptlite.generation.sampling import (
    IN_LIMITS,
    Array,
    Nucleus,
    Options,
    Sampler,
    checked,
    draw,
    inverse_cdf,
    keep,
    take,
    typicality,
)

# How far off a logit may be, as a share of the row's largest. Computed with and without a cache, alone and beside 15
# others, logits of trained models differ by at most 0.2 of this, of random ones with large weights by 1.5; the log-odds
# that a draw is compared with, which may be off by twice this, differ by 0.04 and 0.4 of that.
ROUNDING = 2.0**-18
LARGEST_LOGIT = 1e4  # infinite ones take no part in this

Reread = Callable[[int], Tensor]  # the number of a row to its logits (V,), computed in the way that decides


class ReproducibleSampler(Sampler):
    """A `Sampler` that makes draws in doubt again, from what `reread` gives for a row."""

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None, reread: Reread | None = None) -> Tensor:
        """As `Sampler`; without `reread` no draw is in doubt."""
        if reread is None:
            return super().__call__(logits, rows)
        rows = range(len(self.seeds)) if rows is None else rows
        values = checked(logits)
        scores, random, slack = self.weigh(values, rows)
        ids, doubtful = choose(scores, random, self.config, slack)
        for i in doubtful.nonzero()[0].tolist():
            ids[i] = self.draw_again(rows[i], reread(rows[i]))
        self.remember(rows, ids)
        return torch.from_numpy(ids).to(logits.device)

    def weigh(self, values: Array, rows: Sequence[int]) -> tuple[Array, Array, Array]:
        """What `choose` decides on: scores (R, V), random numbers (R,), and how far off each score may be (R, 1)."""
        return self._scores(values, rows), self._random_numbers(rows), self._slack(values)

    def draw_again(self, row: int, logits: Tensor) -> int:
        """The id of a row whose draw is in doubt, from the logits (V,) that decide."""
        scores = self._scores(checked(logits.unsqueeze(0)), [row])
        return int(draw(scores, self._random_numbers([row]), self.config)[0])

    def _slack(self, logits: Array) -> Array:
        """How far off each score may be (R, 1)."""
        penalty = self.config.repetition_penalty
        largest = np.minimum(np.abs(logits).max(axis=1, keepdims=True), LARGEST_LOGIT)
        return (ROUNDING * max(penalty, 1 / penalty)) * largest


Draw = Callable[[Tensor, Sequence[int], Reread | None], Tensor]  # what a ReproducibleSampler is


def make_sampler(
    config: SamplingConfig,
    seeds: Sequence[int],
    prompts: Sequence[Sequence[int]] | None = None,
    constraints: Constraints | None = None,
) -> ReproducibleSampler:
    """The sampler of rows of text that each have a seed of their own; arguments as of `Sampler`."""
    return ReproducibleSampler(config, seeds, prompts, constraints)


def draw_together(
    samplers: Sequence[ReproducibleSampler], logits: Tensor, rereads: Sequence[Callable[[], Tensor] | None]
) -> list[int]:
    """The next ids of R texts, which have a sampler of one row each, from logits (R, V).

    - `rereads`: what computes the logits (V,) that decide where a draw is in doubt; None: no draw is.
    Texts whose filters are the same are drawn at once, which takes little longer than drawing one of them.
    """
    values, ids = checked(logits), [0] * len(samplers)
    alike: dict[tuple[float, ...], list[int]] = {}
    for i, sampler in enumerate(samplers):
        c = sampler.config
        alike.setdefault((c.temperature, c.top_k, c.top_p, c.min_p, c.typical_p), []).append(i)
    for group in alike.values():
        weighed = [samplers[i].weigh(values[i : i + 1], [0]) for i in group]
        scores, random, slack = map(np.concatenate, zip(*weighed, strict=True))
        drawn, doubtful = choose(scores, random, samplers[group[0]].config, slack)
        for i, token, is_doubtful in zip(group, drawn.tolist(), doubtful.tolist(), strict=True):
            again = rereads[i] if is_doubtful else None
            ids[i] = token if again is None else samplers[i].draw_again(0, again())
            samplers[i].remember([0], np.array([ids[i]]))
    return ids


@IN_LIMITS
def choose(scores: Array, random: Array, config: SamplingConfig, slack: Array) -> tuple[Array, Array]:
    """The ids (R,) that `sampling.draw` draws, and which of these draws are in doubt (R,).

    - `slack` (R, 1): how far off each score may be.
    """
    room = 2 * slack * (1 + ROUNDING)  # of differences of scores; these are rounded too
    if config.temperature <= GREEDY:
        if scores.shape[1] == 1:
            return scores.argmax(axis=1), np.zeros(len(random), dtype=bool)
        second, best = np.partition(scores, -2, axis=1)[:, -2:].T
        return scores.argmax(axis=1), best - second <= room[:, 0]
    room = room / config.temperature
    options = keep(scores, config, room)
    at = inverse_cdf(options.weights * options.kept, random)
    return take(options.ids, at)[:, 0], _is_doubtful(options, find_bounds(options, config, room), at, random, room)


def find_bounds(options: Options, config: SamplingConfig, room: Array) -> tuple[Array, Array]:
    """Which ids (R, n) the filters surely keep, and which they may keep, when scores are a little off.

    - `room` (R, 1): how far off the logarithm of the ratio of two probabilities may be.
    All with a z above the strictest `sure` are kept, and none below the strictest `may`.
    """
    z, size = options.z, options.all_z.shape[1]
    sure = may = np.full((len(z), 1), -math.inf)
    if 0 < config.top_k < size:
        k = size - config.top_k
        parted = np.partition(options.all_z, (k - 1, k), axis=1)
        sure, may = parted[:, [k - 1]] + room, parted[:, [k]] - room
    if options.nucleus is not None:
        sure_p, may_p = _top_p_bounds(options, options.nucleus, config.top_p, room, sure, may)
        sure, may = np.maximum(sure, sure_p), np.maximum(may, may_p)
    if config.min_p > 0:
        edge = math.log(config.min_p)
        sure, may = np.maximum(sure, edge + room), np.maximum(may, edge - room)
    is_sure, is_possible = z > sure, z >= may
    if config.typical_p == 1:
        return is_sure, is_possible
    unclear = (is_possible & ~is_sure).any(axis=1) | _is_typical_unclear(options, config.typical_p, room)
    return options.kept & ~unclear[:, None], options.kept | unclear[:, None]


def _top_p_bounds(
    options: Options, nucleus: Nucleus, p: float, room: Array, sure: Array, may: Array
) -> tuple[Array, Array]:
    """The z (R, 1) above which top-p surely keeps, and from which on it may keep.

    - `sure`, `may`: the same of top-k.
    """
    least = most = nucleus.mass  # what the weights that top-k leaves come to, at least and at most
    if ((may > -math.inf) & (may + room <= sure)).any():  # top-k might keep another id
        least, most = _mass_from(options.all_z, np.nextafter(sure, math.inf)), _mass_from(options.all_z, may)
    odds, n = (1 - p) / p, nucleus.z.shape[1]
    n_sure = (nucleus.before < least / (1 + odds * np.exp(room))).sum(axis=1, keepdims=True)
    n_may = (nucleus.before < most / (1 + odds * np.exp(-room))).sum(axis=1, keepdims=True)
    sure = np.where(n_sure < n, take(nucleus.z, np.minimum(n_sure, n - 1)), -math.inf)
    return sure + room, take(nucleus.z, n_may - 1) - room


def _mass_from(z: Array, lowest: Array) -> Array:
    """What the weights of all ids from z = `lowest` on come to (R, 1)."""
    return (np.exp(z.astype(np.float32)) * (z >= lowest)).sum(axis=1, dtype=np.float64, keepdims=True)


def _is_typical_unclear(options: Options, typical_p: float, room: Array) -> Array:
    """Might typical-p keep other ids of those that are eligible? (R,) booleans."""
    p, distance = typicality(options)
    order = np.argsort(distance, axis=1, kind="stable")
    ordered, distances = take(p, order), take(distance, order)
    before = ordered.cumsum(axis=1) - ordered
    n_kept = (before < typical_p).sum(axis=1, keepdims=True)
    spread = np.where(p > 0, p * distance, 0.0).sum(axis=1, keepdims=True)  # how fast the entropy moves
    close = np.abs(distances - take(distances, n_kept - 1)) <= 2 * room * (2 + spread)
    near = np.abs(_logit(before) - math.log(typical_p / (1 - typical_p))) <= room
    return (close.sum(axis=1) > 1) | near.any(axis=1)


def _is_doubtful(options: Options, bounds: tuple[Array, Array], at: Array, random: Array, room: Array) -> Array:
    """Might a draw come to another id than that at `at` (R, 1), with scores that are a little off? (R,) booleans.

    When no logarithm of a ratio of two probabilities is off by more than `room`, then neither is that of the odds of
    any set of ids. So the random number must keep that distance, on the scale of log-odds, from both ends of the share
    of its id. These ends are taken where they would be if, of the ids that are not sure, only those that push them
    towards the number were kept.
    """
    is_sure, is_possible = bounds
    certain = options.weights * is_sure
    weight = take(certain, at)  # (R, 1)
    through = certain.cumsum(axis=1)
    below, total = take(through, at) - weight, through[:, -1:]
    perhaps = options.weights * (is_possible & ~is_sure)
    through = perhaps.cumsum(axis=1)
    perhaps_below, perhaps_above = take(through, at), through[:, -1:] - take(through, at)
    begin, end = (below + perhaps_below) / (total + perhaps_below), (below + weight) / (total + perhaps_above)
    odds = _logit(np.hstack((begin, random[:, None], end)))
    return ~((odds[:, 1:] - odds[:, :-1] > room).all(axis=1) & (weight[:, 0] > 0))


def _logit(p: Array) -> Array:
    """The log-odds of probabilities, which sums may have rounded to a little above 1 or below 0."""
    return np.log(np.abs(p / (1 - p)))
