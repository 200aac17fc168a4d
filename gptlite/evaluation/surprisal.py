"""How surprising a token was, in bits, and the five steps in which that is shown wherever it is."""

from __future__ import annotations

import math
from bisect import bisect_right

# Bits at which the steps begin: 2 is one of four, 11 a blind guess among 2,048 tokens. Small models write most of their
# tokens below 4, so that a page stays calm.
STEPS = (2, 4, 7, 10)
STEP_NAMES = ("under 2", "2 to 4", "4 to 7", "7 to 10", "10 or more")


def bits_of(logprob: float) -> float:
    """How many bits a token of this log-probability (in nats) tells."""
    return -logprob / math.log(2)


def step_of(bits: float) -> int:
    """The step, from 0 to 4, of so many bits."""
    return bisect_right(STEPS, bits)
