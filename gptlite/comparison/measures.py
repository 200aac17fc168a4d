"""What is measured of a finished contender: scores with intervals, reach, speed, memory, copying, a sample."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gptlite.comparison import copying
from gptlite.comparison.predictors import Predictor
from gptlite.config import SamplingConfig
from gptlite.evaluation.scoring import Window
from gptlite.generation import sampling
from gptlite.randomness import uniform

NORMAL_95 = 1.96  # standard deviations on both sides that hold 95 % of a normal distribution
MOST_REACH_WINDOWS = 256
SAMPLED = 60  # tokens of a sample
TIMED, WARM = 24, 4  # tokens that are timed while writing, after some that are not


@dataclass(frozen=True)
class Sums:
    """Bits and bytes of N parts of a text (N,): scores, and how much they vary."""

    bits: np.ndarray
    bytes: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        total = float(self.bytes.sum())
        return float(self.bits.sum()) / total if total else math.nan

    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of a ratio of sums, from how the parts differ; None for fewer than five."""
        n, total = len(self.bits), float(self.bytes.sum())
        if n < 5 or not total:
            return None
        squares = float(((self.bits - self.bits_per_byte * self.bytes) ** 2).sum())
        error = NORMAL_95 * math.sqrt(n / (n - 1) * squares) / total
        return self.bits_per_byte - error, self.bits_per_byte + error


def score_windows(predictor: Predictor, ids: np.ndarray, windows: Sequence[Window], token_bytes: np.ndarray) -> Sums:
    """Bits and bytes of the scored targets of each of `windows`, which are equally long, of the stream `ids` (N,)."""
    if not windows:
        return Sums(np.zeros(0), np.zeros(0))
    length = windows[0].length
    stream = ids[np.add.outer([w.start for w in windows], np.arange(length + 1))].astype(np.int64)
    scored = length - np.array([w.scored for w in windows])
    sizes = token_bytes[stream[:, 1:]]
    counts = (np.arange(length) >= scored[:, None]) & (sizes > 0)  # separators are no text
    bits = predictor.bits(stream)
    return Sums(np.where(counts, bits, 0).sum(1), np.where(counts, sizes, 0).sum(1).astype(np.float64))


def measure_reach(predictor: Predictor, ids: np.ndarray, context: int, token_bytes: np.ndarray) -> list[dict[str, Any]]:
    """Bits per byte by how many tokens of the text stand before a token: 1, 2-3, 4-7, ... up to `context`.

    Windows do not overlap, and each is read from its beginning, so nothing before it is known.
    """
    n = max(0, (len(ids) - 1) // context)
    chosen = np.linspace(0, n - 1, min(n, MOST_REACH_WINDOWS)).round().astype(int) if n else np.zeros(0, dtype=int)
    stream = ids[np.add.outer(chosen * context, np.arange(context + 1))].astype(np.int64)
    sizes = token_bytes[stream[:, 1:]].astype(np.float64)
    bits = np.where(sizes > 0, predictor.bits(stream), 0)
    parts: list[dict[str, Any]] = []
    before: Sums | None = None
    for first in (2**k for k in range(context.bit_length()) if 2**k < context or k == 0):
        last = 2 * first - 1 if 2 * first < context else context
        sums = Sums(bits[:, first - 1 : last].sum(1), sizes[:, first - 1 : last].sum(1))
        if not sums.bytes.sum():
            continue
        interval = sums.interval()
        parts.append(
            {
                "first": first,
                "last": last,
                "bits_per_byte": sums.bits_per_byte,
                "bits_per_byte_interval": interval and list(interval),
                "helps": before is not None and _is_lower(sums, before),
            }
        )
        before = sums
    return parts


def _is_lower(sums: Sums, before: Sums) -> bool:
    """Does a token take fewer bits here than nearer to the beginning, beyond what differs by chance?

    The windows are the same, but not the tokens, so the two scores vary on their own.
    """
    one, two = sums.interval(), before.interval()
    if one is None or two is None:
        return False
    error = math.hypot((one[1] - one[0]) / 2, (two[1] - two[0]) / 2)
    return before.bits_per_byte - sums.bits_per_byte > error


def test_copying(predictor: Predictor, seed: int) -> list[dict[str, Any]]:
    """The share of names that are right at each distance: the likeliest of all names is the answer."""
    found: list[dict[str, Any]] = []
    for distance, (ids, names) in copying.tests(seed).items():
        answers = predictor.scores(ids)[:, : copying.N_NAMES].argmax(1)
        found.append(share(int((answers == names).sum()), len(names), distance))
    return found


def share(right: int, n: int, distance: int) -> dict[str, Any]:
    found = wilson(right, n)
    return {"distance": distance, "right": found["share"], "interval": found["interval"]}


def wilson(right: int, n: int) -> dict[str, Any]:
    """A share with its 95 % interval (Wilson 1927)."""
    p, z = right / n, NORMAL_95
    middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    interval = [max(0.0, (middle - width) / (1 + z * z / n)), min(1.0, (middle + width) / (1 + z * z / n))]
    return {"share": p, "interval": interval}


def write(predictor: Predictor, prompt: Sequence[int], seed: int, vocab_size: int, context: int) -> list[int]:
    """Ids that continue `prompt`, drawn with the same random numbers for every contender, as `generate` draws."""
    config = SamplingConfig()
    scores, written = predictor.begin(prompt), list[int]()
    for i in range(min(SAMPLED, context - len(prompt))):
        random = np.array([uniform(seed, i)])
        written.append(int(sampling.draw(scores[None, :vocab_size], random, config)[0]))
        if i + 1 < min(SAMPLED, context - len(prompt)):
            scores = predictor.append(written[-1])
    return written


def seconds_per_token(predictor: Predictor, ids: Sequence[int], context: int) -> float:
    """Median seconds for one more token while writing, after a text of half a context.

    On one thread: threads that wait for each other in so short a step measure how busy the machine is.
    """
    times: list[float] = []
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        predictor.begin(ids[: max(1, context // 2)])
        for token in ids[: max(2, min(TIMED + WARM, context - context // 2 - 1))]:
            began = time.perf_counter()
            predictor.append(token)
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(n_threads)
    return statistics.median(times[WARM:] or times)
