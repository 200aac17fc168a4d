"""From logits to the next id: penalties, biases, temperature, top-k, top-p, min-p, typical-p, and a random number.

Read `Sampler.__call__`, then `draw` and `keep`. `reproducible` has the sampler that `generate` uses: it gives the same
ids although the logits of a text differ in their last bits with the way in which they were computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlite.config import GREEDY, SamplingConfig
from gptlite.errors import CheckpointError
from gptlite.generation.constraints import Constraints, Phrases
from gptlite.randomness import uniform

Array = NDArray[Any]
ROUNDING = 2.0**-18  # more than single precision rounds a logarithm
IN_LIMITS = np.errstate(all="ignore")  # log 0, division by 0 and overflows give the infinities that are meant


class Sampler:
    """A function from logits (R, V) to ids (R,), for rows of text that each have a seed of their own.

    What a row draws depends only on its seed, its own logits and its own text, never on its neighbours in the batch.
    - `prompts`: the ids that each row begins with, which some penalties, biases of texts and bans look at.
    - `constraints`: biases, bans, and what ends a document; of all rows.
    """

    def __init__(
        self,
        config: SamplingConfig,
        seeds: Sequence[int],
        prompts: Sequence[Sequence[int]] | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        prompts = prompts or [()] * len(seeds)
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

    def __call__(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """The next id (R,) of each of `rows`, which the logits (R, V) belong to; of all rows where none are named.

        Raises `CheckpointError` for logits that are not numbers: some weight is not one.
        """
        rows = range(len(self.seeds)) if rows is None else rows
        ids = draw(self._scores(checked(logits), rows), self._random_numbers(rows), self.config)
        self.remember(rows, ids)
        return torch.from_numpy(ids).to(logits.device)

    def _random_numbers(self, rows: Sequence[int]) -> Array:
        """From [0, 1), one for each row (R,); a row's depend on its seed and on how many it has drawn."""
        return np.array([uniform(self.seeds[row], self.n_drawn[row]) for row in rows])

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
        forbidden = [(i, token) for i, row in enumerate(rows) for token in self._forbidden(row)]
        going_on = [i for i, row in enumerate(rows) if self.n_drawn[row] < self.config.min_new_tokens]
        if bias is None and not (forbidden or going_on or self.words):
            return scores
        scores = scores.copy() if bias is None else scores + bias
        if self.words:
            for i, row in enumerate(rows):
                ids, values = self.words.at(self.word_states[row])
                scores[i, ids] += values
        if forbidden:
            scores[tuple(np.array(forbidden).T)] = -math.inf
        for i in going_on:
            scores[i, list(constraints.end_ids)] = scores[i, constraints.vocab_size :] = -math.inf
        scores[scores.max(axis=1) == -math.inf, constraints.separator_id] = 0.0  # where nothing may come, the text ends
        return scores

    def _forbidden(self, row: int) -> Iterator[int]:
        """Ids that must not come next in this row, besides those that never may, and those that end it too early."""
        if self.bans:
            yield from self.bans.completing(self.states[row])
        if self.phrases:
            yield from self.phrases[row].repeating()

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

    def remember(self, rows: Sequence[int], ids: Array) -> None:
        """Count ids (R,) as what `rows` have drawn."""
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


def distribution(logits: Tensor, config: SamplingConfig) -> Tensor:
    """The probabilities (R, V), float64, that are drawn from: temperature, top-k, top-p, min-p, typical-p in turn.

    top-k keeps the k likeliest and all that are as likely as the last of them; top-p the fewest whose probabilities
    reach p, of equals those with lower ids (Holtzman et al. 2020); min-p those at least p times as likely as the
    likeliest (Nguyen et al. 2024); typical-p the fewest whose probabilities reach p, from those whose surprisal is
    nearest to the entropy on (Meister et al. 2023). At least one always stays, and without typical-p the likeliest.
    """
    options = keep(checked(logits), config)
    probabilities = np.zeros(tuple(logits.shape))
    np.add.at(probabilities, (np.arange(len(logits))[:, None], options.ids), options.weights * options.kept)
    return torch.from_numpy(probabilities / probabilities.sum(axis=1, keepdims=True))


def checked(logits: Tensor) -> Array:
    """Logits (R, V) as float64. Raises `CheckpointError` where they are not numbers."""
    logits = logits.detach().cpu()
    values = (logits if logits.dtype == torch.float64 else logits.float()).numpy().astype(np.float64)
    if not np.isfinite(values.max(axis=1)).all():  # nor is the largest, if any is not a number
        raise CheckpointError(
            "the model's predictions are not numbers, so its weights are damaged; use another step of the run."
        )
    return values


def draw(scores: Array, random: Array, config: SamplingConfig) -> Array:
    """The ids (R,) that random numbers (R,) from [0, 1) come to, given scores (R, V)."""
    if config.temperature <= GREEDY:
        return scores.argmax(axis=1)
    options = keep(scores, config)
    return take(options.ids, inverse_cdf(options.weights * options.kept, random))[:, 0]


class Nucleus(NamedTuple):
    """What top-p looks at: the options in descending order, and the weight of those before each."""

    mass: Array  # (R, 1): what all weights that top-k keeps come to
    z: Array  # (R, n)
    before: Array  # (R, n)


class Options(NamedTuple):
    """What may be drawn in each of R rows: n ids, ascending, with weights in proportion to their probabilities.

    Only those that are `kept` passed the filters. Rows with fewer ids are filled up with weights of 0.
    """

    ids: Array  # (R, n)
    z: Array  # (R, n): the logarithm of the weight
    weights: Array  # (R, n), of the likeliest 1
    eligible: Array  # (R, n) booleans: kept by all filters but typical-p
    kept: Array  # (R, n) booleans
    all_z: Array  # (R, V): of all ids
    nucleus: Nucleus | None  # of top-p


@IN_LIMITS
def keep(scores: Array, config: SamplingConfig, margin: Array | float = 0.0) -> Options:
    """Apply temperature and filters to scores (R, V).

    Top-k, top-p and min-p keep the likeliest ids, each down to some z, so the strictest of them decides; typical-p then
    chooses among these.
    - `margin` (R, 1): ids whose z is lower than that of a kept one by no more than this are listed too.
    """
    z = (scores - scores.max(axis=1, keepdims=True)) / config.temperature
    size, lowest, mass, nucleus = scores.shape[1], np.full((len(z), 1), -math.inf), None, None
    if 0 < config.top_k < size:
        lowest = np.partition(z, size - config.top_k, axis=1)[:, [size - config.top_k]]
    listed = lowest - margin
    if config.top_p < 1:
        weights = np.exp(z.astype(np.float32))  # single precision is enough for sums, and ten times as fast
        left = weights * (z >= lowest) if config.top_k else weights
        mass = left.sum(axis=1, dtype=np.float64, keepdims=True)
        # All ids that are less likely than this come to less than 1 - p together.
        listed = np.maximum(listed, np.log(mass * ((1 - config.top_p) / size)) - margin)
    if config.min_p > 0:
        lowest = np.maximum(lowest, math.log(config.min_p))
        listed = np.maximum(listed, math.log(config.min_p) - margin)
    ids, listed_z = _candidates(z, listed)
    kept, weights = listed_z >= lowest, np.exp(listed_z)
    if mass is not None:
        nucleus = _nucleus(listed_z, mass)
        kept &= _top_p(listed_z, nucleus, config.top_p)
    options = Options(ids, listed_z, weights, kept, kept, z, nucleus)
    return options if config.typical_p == 1 else options._replace(kept=_typical(options, config.typical_p))


def _candidates(z: Array, lowest: Array) -> tuple[Array, Array]:
    """The ids (R, n) from z = `lowest` on, in order, and their z.

    Sorting a hundred numbers instead of a whole vocabulary is most of what makes drawing fast.
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


def _nucleus(z: Array, mass: Array) -> Nucleus:
    ordered = -np.sort(-z, axis=1)
    weights = np.exp(ordered)
    return Nucleus(mass, ordered, weights.cumsum(axis=1) - weights)


def _top_p(z: Array, nucleus: Nucleus, p: float) -> Array:
    """Which are the fewest of the likeliest whose weights reach p of all; of equals the first ones."""
    n_kept = (nucleus.before < p * nucleus.mass).sum(axis=1, keepdims=True)
    lowest = take(nucleus.z, n_kept - 1)
    kept = z >= lowest
    for row in (kept.sum(axis=1) > n_kept[:, 0]).nonzero()[0]:
        equals = (z[row] == lowest[row]).nonzero()[0]
        kept[row, equals[int(n_kept[row, 0] - kept[row].sum()) :]] = False
    return kept


def _typical(options: Options, typical_p: float) -> Array:
    """Of those kept, the fewest whose probabilities reach `typical_p`, those nearest to the entropy first."""
    p, distance = typicality(options)
    order = np.argsort(distance, axis=1, kind="stable")
    ordered = take(p, order)
    kept = np.empty(p.shape, dtype=bool)
    kept[np.arange(len(p))[:, None], order] = ordered.cumsum(axis=1) - ordered < typical_p
    return options.eligible & kept


def typicality(options: Options) -> tuple[Array, Array]:
    """The probabilities (R, n) of the eligible ids, and how far their surprisals are from the entropy, in nats."""
    p = options.weights * options.eligible
    p /= p.sum(axis=1, keepdims=True)
    surprisal = -np.log(p)  # infinite for those dropped
    entropy = np.where(p > 0, p * surprisal, 0.0).sum(axis=1, keepdims=True)
    return p, np.abs(surprisal - entropy)


def take(values: Array, at: Array) -> Array:
    """values[r, at[r, i]]; as np.take_along_axis, in a fifth of its time."""
    return values[np.arange(len(at))[:, None], at]


def inverse_cdf(weights: Array, draws: Array) -> Array:
    """Where (R, 1) the cumulative weight passes each draw (R,) from [0, 1)."""
    cumulative = weights.cumsum(axis=1)
    total = cumulative[:, -1:]
    # Rounding must never reach the total itself: after it there are only ids that were dropped.
    targets = np.minimum(draws[:, None] * total, np.nextafter(total, 0.0))
    return (cumulative <= targets).sum(axis=1, keepdims=True)
