"""Randomness without state: numbers and shuffles that are pure functions of their arguments.

What depends on no state has none to save, so a run that is resumed meets the same batches, and sample 37 of 100 can be
drawn alone.
"""

from __future__ import annotations

MASK = (1 << 64) - 1


def mix(x: int) -> int:
    """A 64-bit number that depends on every bit of x (the step of SplitMix64, Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def derive(seed: int, *path: int) -> int:
    """The seed of one part of a whole: derive(seed, 3) for sample 3, derive(seed, epoch) for an epoch."""
    for step in path:
        seed = mix(mix(seed) + step)
    return seed


def uniform(seed: int, *path: int) -> float:
    """A number from [0, 1), of the 2^53 that are equally far apart: uniform(seed, t) for the draw of step t."""
    return (derive(seed, *path) >> 11) * 2.0**-53


def shuffled(i: int, n: int, key: int) -> int:
    """Where i goes in the shuffle of range(n) that `key` names: a permutation that needs no memory.

    A four-round Feistel network permutes the numbers below a power of four; results of n and above are sent through
    again until they fall below n ("cycle walking", Black & Rogaway 2002).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for round_ in range(4):
            left, right = right, left ^ (derive(key, round_, right) & mask)
        i = left << half | right
        if i < n:
            return i
