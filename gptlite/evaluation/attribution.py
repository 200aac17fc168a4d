"""Which of several models a text resembles most: the one that needs the fewest bits per byte.

That attributes texts to authors where there is a model of each (Stropkay et al. 2025, arXiv 2510.21958). How far the
answer depends on the passages that happen to stand in the text, the bootstrap over blocks of the text says (Efron 1979,
percentile method). All models are compared on the same blocks of bytes, whatever their tokens are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_BYTES = 500  # about a paragraph
MOST_BLOCKS = 1000  # of a longer text the blocks are longer, so that resampling takes no longer
RESAMPLES = 10_000
LEVEL = 0.95
DRAWN_AT_ONCE = 1 << 22  # counts of blocks in memory


@dataclass(frozen=True)
class Attribution:
    """Of a text and M models, in bits per byte.

    - `bits_per_byte` (M,); `best`, `second`: indices of the models with the fewest.
    - `share_best` (M,): the share of resamples in which each model is the best one; None for a text of one block.
    - `difference`: bits per byte of the second less those of the best; `low` and `high`: the bounds of its 95 %
      interval, None for a text of one block.
    """

    bits_per_byte: tuple[float, ...]
    best: int
    second: int
    difference: float
    n_blocks: int
    share_best: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None


def count_blocks(n_bytes: int) -> int:
    """How many blocks a text of `n_bytes` is cut into."""
    return min(MOST_BLOCKS, max(1, round(n_bytes / BLOCK_BYTES)))


def block_bits(token_bits: np.ndarray, token_bytes: np.ndarray, n_blocks: int) -> np.ndarray:
    """The bits (n_blocks,) of equal parts of a text.

    - `token_bits`, `token_bytes` (N,): of its tokens, in order. A token's bits are spread evenly over its bytes, so
      that one across the edge of two blocks counts in both; the sum stays what it was.
    """
    ends = np.concatenate([[0.0], np.cumsum(token_bytes, dtype=np.float64)])
    sums = np.concatenate([[0.0], np.cumsum(token_bits, dtype=np.float64)])
    return np.diff(np.interp(np.linspace(0.0, ends[-1], n_blocks + 1), ends, sums))


def attribute(bits: np.ndarray, n_bytes: float, seed: int = 0) -> Attribution:
    """Compare M >= 2 models by the `bits` (M, B) that they need for the B blocks of a text of `n_bytes`.

    The interval is the same for the same `seed`. Raises `ValueError` for fewer models, or for numbers that are not
    finite.
    """
    n_models, n_blocks = bits.shape
    if n_models < 2:
        raise ValueError("an attribution compares two models or more.")
    if not np.isfinite(bits).all():
        raise ValueError("the bits of a block are not finite numbers.")
    per_byte = bits.sum(axis=1) / n_bytes
    best, second = (int(i) for i in np.argsort(per_byte, kind="stable")[:2])
    difference = float(per_byte[second] - per_byte[best])
    found = tuple(float(x) for x in per_byte)
    if n_blocks < 2:
        return Attribution(found, best, second, difference, n_blocks)
    drawn = _resample(bits, seed) / n_bytes
    wins = drawn == drawn.min(axis=1, keepdims=True)  # models that tie share a resample
    shares = (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(drawn[:, second] - drawn[:, best], tails)
    return Attribution(
        found, best, second, difference, n_blocks, tuple(float(x) for x in shares), float(low), float(high)
    )


def _resample(bits: np.ndarray, seed: int) -> np.ndarray:
    """The bits (RESAMPLES, M) of texts made of B blocks that are drawn with replacement, the same for all models."""
    n_blocks = bits.shape[1]
    rng = np.random.default_rng(seed)
    rows = max(1, DRAWN_AT_ONCE // n_blocks)
    parts: Sequence[np.ndarray] = [
        rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=min(rows, RESAMPLES - first)) @ bits.T
        for first in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(parts)
