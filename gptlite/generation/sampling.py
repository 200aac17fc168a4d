"""From logits to the next id: penalties, temperature, top-k, top-p, min-p, typical-p, and one random number a token.

Which id is drawn must not depend on how the logits were computed. Sums of floating-point numbers do: a matrix product
for 16 rows rounds otherwise than one for a single row, a cache otherwise than none. So each draw is looked at: would
logits that differ by no more than such roundings have led to another id? Then the draw is in doubt, and is made again
from logits that are always computed in one and the same way. It happens about once in some thousand tokens, and every
way to compute a text gives the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlite.config import GREEDY, SamplingConfig
from gptlite.errors import CheckpointError
from gptlite.generation.constraints import Constraints, Phrases
from gptlite.randomness import uniform

# By how much a logit may be off, as a share of the row's largest. Computed with and without a cache, alone and beside
# 15 others, logits of trained models differ by at most 0.2 of this, of random ones with large weights by 1.5; the
# log-odds that a draw is compared with, which may be off by twice this, differ by 0.04 and 0.4 of that.
ROUNDING = 2.0**-18
LARGEST_LOGIT = 1e4  # infinite ones take no part in this

Array = NDArray[Any]
IN_LIMITS = np.errstate(all="ignore")  # logarithms of 0, divisions by it, and what overflows mean what they should
Reread = Callable[[int], Tensor]  # the number of a row to its logits (V,), computed in the way that decides
Draw = Callable[[Tensor, Sequence[int], Reread | None], Tensor]  # what a Sampler is


class Sampler:
    """What `make_sampler` makes: a function from logits to ids that remembers what each row has drawn."""

    def __init__(
        self,
        config: SamplingConfig,
        seeds: Sequence[int],
        prompts: Sequence[Sequence[int]],
        constraints: Constraints | None,
    ) -> None:
        self.config, self.seeds, self.prompts, self.constraints = config, list(seeds), prompts, constraints
        self.n_drawn = [0] * len(self.seeds)
        self.bans = constraints.bans if constraints else None
        self.states = [self.bans.state_after(prompt) for prompt in prompts] if self.bans else []
        self.words = constraints.words if constraints else None
        self.word_states = [self.words.state_after(prompt) for prompt in prompts] if self.words else []
        n = config.no_repeat_ngram
        self.phrases = [Phrases(n, prompt) for prompt in prompts] if n else []
        self.seen: Array | None = None  # (rows, V) booleans: is the id in the prompt or the text?
        self.counts: Array | None = None  # (rows, V): how often is it in the text?

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None, reread: Reread | None = None) -> Tensor:
        """The next id of each of `rows`, which the logits (R, V) belong to; of all rows where none are named.

        Without `reread` no draw is in doubt.
        Raises `CheckpointError` for logits that are not numbers: some weight is not one.
        """
        rows = range(len(self.seeds)) if rows is None else rows
        draws = np.array([uniform(self.seeds[row], self.n_drawn[row]) for row in rows])
        values = _checked(logits)
        slack = None if reread is None else self._slack(values)
        ids, doubtful = choose(self._scores(values, rows), draws, self.config, slack)
        if reread is not None:
            for i in doubtful.nonzero()[0].tolist():
                scores = self._scores(_checked(reread(rows[i]).unsqueeze(0)), rows[i : i + 1])
                ids[i] = choose(scores, draws[i : i + 1], self.config)[0][0]
        self._remember(rows, ids)
        return torch.from_numpy(ids).to(logits.device)

    def _slack(self, logits: Array) -> Array:
        """By how much each score may be off (R, 1)."""
        penalty = self.config.repetition_penalty
        largest = np.minimum(np.abs(logits).max(axis=1, keepdims=True), LARGEST_LOGIT)
        return (ROUNDING * max(penalty, 1 / penalty)) * largest

    def _scores(self, scores: Array, rows: Sequence[int]) -> Array:
        """Logits (R, V) after penalties and biases, without what must not come now."""
        config, at = self.config, slice(None) if len(rows) == len(self.seeds) else list(rows)
        if (penalty := config.repetition_penalty) != 1:
            penalised = np.where(scores > 0, scores / penalty, scores * penalty)
            scores = np.where(self._seen(scores.shape[1])[at], penalised, scores)
        if config.presence_penalty or config.frequency_penalty:
            counts = self._counts(scores.shape[1])[at]
            scores = scores - config.presence_penalty * (counts > 0) - config.frequency_penalty * counts
        if self.constraints is not None:
            scores = self._constrained(scores, rows, self.constraints)
        return scores

    def _constrained(self, scores: Array, rows: Sequence[int], constraints: Constraints) -> Array:
        bias = constraints.bias(scores.shape[1])
        forbidden = [(i, token) for i, row in enumerate(rows) for token in self._forbidden(row, scores.shape[1])]
        if bias is None and not forbidden and not self.words:
            return scores
        scores = scores.copy() if bias is None else scores + bias
        if self.words:
            for i, row in enumerate(rows):
                ids, values = self.words.at(self.word_states[row])
                scores[i, ids] += values
        if forbidden:
            scores[tuple(np.array(forbidden).T)] = -math.inf
        scores[scores.max(axis=1) == -math.inf, constraints.separator_id] = 0.0  # where nothing may come, the text ends
        return scores

    def _forbidden(self, row: int, vocab_size: int) -> Iterator[int]:
        """Ids that must not come next in this row, besides those that never may."""
        if self.bans:
            yield from self.bans.completing(self.states[row])
        if self.phrases:
            yield from self.phrases[row].repeating()
        if self.constraints and self.n_drawn[row] < self.config.min_new_tokens:
            yield from self.constraints.end_ids
            yield from range(self.constraints.vocab_size, vocab_size)

    def _seen(self, vocab_size: int) -> Array:
        if self.seen is None:
            self.seen = np.zeros((len(self.seeds), vocab_size), dtype=bool)
            for row, prompt in enumerate(self.prompts):
                self.seen[row, list(prompt)] = True
        return self.seen

    def _counts(self, vocab_size: int) -> Array:
        if self.counts is None:
            self.counts = np.zeros((len(self.seeds), vocab_size))
        return self.counts

    def _remember(self, rows: Sequence[int], ids: Array) -> None:
        if self.seen is not None:
            self.seen[list(rows), ids] = True
        if self.counts is not None:
            self.counts[list(rows), ids] += 1
        for row, token in zip(rows, ids.tolist(), strict=True):
            self.n_drawn[row] += 1
            if self.bans:
                self.states[row] = self.bans.next_state(self.states[row], token)
            if self.words:
                self.word_states[row] = self.words.next_state(self.word_states[row], token)
            if self.phrases:
                self.phrases[row].push(token)


def make_sampler(
    config: SamplingConfig,
    seeds: Sequence[int],
    prompts: Sequence[Sequence[int]] | None = None,
    constraints: Constraints | None = None,
) -> Sampler:
    """A function from logits (R, V) to ids (R,), for rows of text that each have a seed of their own.

    What a row draws depends on its seed, its own logits and its own text only, never on its neighbours in the batch.
    - `prompts`: the ids that each row begins with, which some penalties and all bans look at.
    - `constraints`: biases, bans, and what ends a document; of all rows.
    """
    return Sampler(config, seeds, prompts or [()] * len(seeds), constraints)


def distribution(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Probabilities (B, V), float64, that are drawn from: temperature, top-k, top-p, min-p and typical-p in turn.

    top-k keeps the k likeliest and all that are as likely as the last of them; top-p the fewest whose probabilities
    reach p, of equals those with lower ids (Holtzman et al. 2020); min-p those at least p times as likely as the
    likeliest (Nguyen et al. 2024); typical-p the fewest whose probabilities reach p, from those whose surprisal is
    nearest to the entropy on (Meister et al. 2023). At least one always stays, and without typical-p the likeliest.
    """
    options = _keep(_checked(logits), config, None)
    probabilities = np.zeros(tuple(logits.shape))
    np.add.at(probabilities, (np.arange(len(logits))[:, None], options.ids), options.weights * options.kept)
    return torch.from_numpy(probabilities / probabilities.sum(axis=1, keepdims=True))


def _checked(logits: Tensor) -> Array:
    """Logits (R, V) as float64. Raises `CheckpointError` where they are not numbers."""
    logits = logits.detach().cpu()
    values = (logits if logits.dtype == torch.float64 else logits.float()).numpy().astype(np.float64)
    if not np.isfinite(values.max(axis=1)).all():  # nor is the largest, if any is not a number
        raise CheckpointError(
            "the model's predictions are not numbers, so its weights are damaged; use another step of the run."
        )
    return values


def choose(scores: Array, draws: Array, config: SamplingConfig, slack: Array | None = None) -> tuple[Array, Array]:
    """The ids (R,) that draws (R,) from [0, 1) come to, given scores (R, V); and which of them are in doubt (R,).

    - `slack` (R, 1): by how much each score may be off. Without it nothing is in doubt.
    """
    none = np.zeros(len(draws), dtype=bool)
    room = None if slack is None else 2 * slack * (1 + ROUNDING)  # of differences of scores; these round too
    if config.temperature <= GREEDY:
        if room is None or scores.shape[1] == 1:
            return scores.argmax(axis=1), none
        second, best = np.partition(scores, -2, axis=1)[:, -2:].T
        return scores.argmax(axis=1), best - second <= room[:, 0]
    room = None if room is None else room / config.temperature
    options = _keep(scores, config, room)
    at = _inverse_cdf(options.weights * options.kept, draws)
    ids = _take(options.ids, at)[:, 0]
    return ids, none if room is None else _doubtful(options, at, draws, room)


class Options(NamedTuple):
    """What may be drawn in each of R rows: n ids, in order, with a weight in proportion to the probability.

    Those that are not `kept` were filtered out. With scores that are a little off, all that are `sure` would be kept,
    and none but those that `may`. Rows with fewer ids are filled up with weights of 0.
    """

    ids: Array  # (R, n)
    weights: Array  # (R, n), of the likeliest 1
    kept: Array  # (R, n) booleans
    sure: Array  # (R, n) booleans
    may: Array  # (R, n) booleans


@IN_LIMITS
def _keep(scores: Array, config: SamplingConfig, room: Array | None) -> Options:
    """What the filters keep. `room` (R, 1): by how much the log of two probabilities' ratio may be off.

    Top-k, top-p and min-p keep the likeliest, each down to some z, so the strictest of them decides. With scores that
    are a little off, all above the strictest `sure` are kept, and none below the strictest `may`.
    """
    size, slack = scores.shape[1], 0.0 if room is None else room
    z = (scores - scores.max(axis=1, keepdims=True)) / config.temperature
    cut = sure = may = np.full((len(z), 1), -math.inf)
    if 0 < config.top_k < size:
        k = size - config.top_k
        parted = np.partition(z, (k - 1, k), axis=1)
        cut, sure, may = parted[:, [k]], parted[:, [k - 1]] + slack, parted[:, [k]] - slack
    lowest, mass, masses = may, None, None
    if config.top_p < 1:
        shares = np.exp(z.astype(np.float32))  # single precision is enough for sums, and ten times as quick
        mass = _sum(shares, z, cut)
        masses = (mass, mass, mass)  # what top-k leaves: at least, likely, and at most
        if room is not None and config.top_k and (cut <= sure).any():
            masses = (_sum(shares, z, np.nextafter(sure, math.inf)), mass, _sum(shares, z, may))
        # All that are less likely than this come to less than 1 - p together.
        lowest = np.maximum(lowest, np.log(mass * ((1 - config.top_p) / size)) - slack)
    if config.min_p > 0:
        edge = math.log(config.min_p)
        cut, sure, may = np.maximum(cut, edge), np.maximum(sure, edge + slack), np.maximum(may, edge - slack)
        lowest = np.maximum(lowest, may)
    ids, z = _candidates(z, lowest)
    if masses is not None:
        cut_p, n_kept, sure_p, may_p = _top_p(z, config.top_p, masses, room)
        cut, sure, may = np.maximum(cut, cut_p), np.maximum(sure, sure_p), np.maximum(may, may_p)
        kept = z >= cut
        for row in (kept.sum(axis=1) > n_kept[:, 0]).nonzero()[0]:  # of equals the first ones
            equals = (z[row] == cut[row]).nonzero()[0]
            kept[row, equals[int(n_kept[row, 0] - kept[row].sum()) :]] = False
    else:
        kept = z >= cut
    options = Options(ids, np.exp(z), kept, z > sure, z >= may)
    return options if config.typical_p == 1 else _typical(options, config.typical_p, room)


def _sum(shares: Array, z: Array, lowest: Array) -> Array:
    """The shares of all ids from z = `lowest` on, together (R, 1)."""
    return (shares * (z >= lowest)).sum(axis=1, dtype=np.float64, keepdims=True)


def _candidates(z: Array, lowest: Array) -> tuple[Array, Array]:
    """The ids (R, n) from z = `lowest` on, in order, and their z.

    To sort a hundred numbers instead of a whole vocabulary is most of what makes drawing quick.
    """
    n_rows, size = z.shape
    if (lowest == -math.inf).all():
        return np.broadcast_to(np.arange(size), z.shape), z
    row, column = (z >= lowest - ROUNDING).nonzero()
    if n_rows == 1:
        return column[None], z[:, column]
    counts = np.bincount(row, minlength=n_rows)
    at = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
    ids = np.zeros((n_rows, counts.max()), dtype=np.int64)
    few = np.full(ids.shape, -math.inf)
    ids[row, at], few[row, at] = column, z[row, column]
    return ids, few


def _top_p(
    z: Array, p: float, masses: tuple[Array, Array, Array], room: Array | None
) -> tuple[Array, Array, Array, Array]:
    """The z down to which top-p keeps, how many that are, and the z of `sure` and `may`, each (R, 1).

    - `masses`: the least, the likely and the largest that all weights may come to.
    """
    least, mass, most = masses
    ordered = np.full((len(z), z.shape[1] + 1), -math.inf)
    ordered[:, :-1] = -np.sort(-z, axis=1)
    weights = np.exp(ordered)
    before = weights.cumsum(axis=1) - weights
    n_kept = (before < p * mass).sum(axis=1, keepdims=True)
    cut = _take(ordered, n_kept - 1)
    if room is None:
        return cut, n_kept, cut, cut
    odds = (1 - p) / p
    n_sure = (before < least / (1 + odds * np.exp(room))).sum(axis=1, keepdims=True)
    n_may = (before < most / (1 + odds * np.exp(-room))).sum(axis=1, keepdims=True)
    sure = _take(ordered, np.minimum(n_sure, z.shape[1])) + room
    return cut, n_kept, sure, _take(ordered, n_may - 1) - room


def _typical(options: Options, typical_p: float, room: Array | None) -> Options:
    """Of those kept, the ones whose surprisal is nearest to the entropy; in a row where these are unsure, all are."""
    p = options.weights * options.kept
    p /= p.sum(axis=1, keepdims=True)
    surprisal = -np.log(p)  # (R, n), infinite for those dropped
    entropy = np.where(p > 0, p * surprisal, 0.0).sum(axis=1, keepdims=True)
    distance = np.abs(surprisal - entropy)
    order = np.argsort(distance, axis=1, kind="stable")
    ordered, distances = _take(p, order), _take(distance, order)
    before = ordered.cumsum(axis=1) - ordered
    n_kept = (before < typical_p).sum(axis=1, keepdims=True)
    rank = np.empty_like(order)
    rank[np.arange(len(order))[:, None], order] = np.arange(order.shape[1])
    kept = options.kept & (rank < n_kept)
    if room is None:
        return options._replace(kept=kept)
    spread = np.where(p > 0, p * distance, 0.0).sum(axis=1, keepdims=True)  # how fast the entropy moves
    close = np.abs(distances - _take(distances, n_kept - 1)) <= 2 * room * (2 + spread)
    near = np.abs(_logit(before) - math.log(typical_p / (1 - typical_p))) <= room
    doubtful = (options.may & ~options.sure).any(axis=1) | (close.sum(axis=1) > 1) | near.any(axis=1)
    return options._replace(kept=kept, sure=kept & ~doubtful[:, None], may=kept | doubtful[:, None])


def _logit(p: Array) -> Array:
    """The log-odds of probabilities, which sums may have rounded to a little above 1 or below 0."""
    return np.log(np.abs(p / (1 - p)))


def _take(values: Array, at: Array) -> Array:
    """values[r, at[r, i]]; as np.take_along_axis, in a fifth of its time."""
    return values[np.arange(len(at))[:, None], at]


def _inverse_cdf(weights: Array, draws: Array) -> Array:
    """Where (R, 1) the cumulative weight passes each draw (R,) from [0, 1)."""
    cumulative = weights.cumsum(axis=1)
    total = cumulative[:, -1:]
    # Rounding must never reach the total itself: behind it there are only ids that were dropped.
    targets = np.minimum(draws[:, None] * total, np.nextafter(total, 0.0))
    return (cumulative <= targets).sum(axis=1, keepdims=True)


@IN_LIMITS
def _doubtful(options: Options, at: Array, draws: Array, room: Array) -> Array:
    """Might a draw come to another id than that at `at` (R, 1), with scores that are a little off? (R,) booleans.

    When no log of a ratio of two probabilities is off by more than `room`, then neither is the log of the odds of
    any set of ids. So the draw must keep that distance, on the scale of log-odds, from both ends of its id's share,
    and these are taken where they would be if of the unsure ids only those that push towards the draw belonged there.
    """
    certain = options.weights * options.sure
    weight = _take(certain, at)  # (R, 1)
    through = certain.cumsum(axis=1)
    below, total = _take(through, at) - weight, through[:, -1:]
    perhaps = options.weights * (options.may & ~options.sure)
    through = perhaps.cumsum(axis=1)
    perhaps_below, perhaps_above = _take(through, at), through[:, -1:] - _take(through, at)
    begin, end = (below + perhaps_below) / (total + perhaps_below), (below + weight) / (total + perhaps_above)
    odds = _logit(np.hstack((begin, draws[:, None], end)))
    return ~((odds[:, 1:] - odds[:, :-1] > room).all(axis=1) & (weight[:, 0] > 0))
