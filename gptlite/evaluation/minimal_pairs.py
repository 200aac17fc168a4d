"""Minimal pairs: of two texts that differ in one point, which is more probable? (BLiMP, Warstadt et al. 2020)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
TIE = 1e-6  # bits; closer than that, two surprisals are equal but for rounding


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs in which the good text is the more probable one; a tie counts one half.

    `low` and `high` are the bounds of the 95 % bootstrap interval over pairs (Efron 1979, percentile method).
    """

    share: float
    low: float
    high: float
    pairs: int
    ties: int


def judge(good_bits: float, bad_bits: float) -> float:
    """1.0 where the good text takes fewer bits, 0.0 where it takes more, 0.5 for a tie; NaN where either is unknown."""
    if math.isnan(good_bits) or math.isnan(bad_bits):
        return math.nan
    if abs(good_bits - bad_bits) <= TIE:
        return 0.5
    return float(good_bits < bad_bits)


def accuracy(judgements: Sequence[float], seed: int = 0) -> Accuracy:
    """Accuracy over the judgements (each 0, 0.5 or 1) with its interval, which is the same for the same seed.

    Where all pairs are judged alike, every resample is alike and the interval would have no width, as if a few pairs
    had settled the matter. There its open end is that of the rule of three: 3 / n (Hanley & Lippman-Hand 1983).
    """
    values = np.asarray(judgements, dtype=np.float64)
    n = len(values)
    if not n:
        return Accuracy(math.nan, math.nan, math.nan, 0, 0)
    share = float(values.mean())
    if (values == values[0]).all():
        width = min(1.0, 3 / n)
        low, high = max(0.0, share - width), min(1.0, share + width)
    else:
        kinds, counts = np.unique(values, return_counts=True)
        draws = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES) @ kinds / n
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Accuracy(share, float(low), float(high), n, int((values == 0.5).sum()))
