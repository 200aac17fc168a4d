"""How much of each step comes from companion texts: the background's share over a run, and what counts as an epoch."""

from __future__ import annotations

from typing import Literal

from gptlite.config import LARGEST_COMPANION
from gptlite.training.plan import Plan
from gptlite.training.reason import Reason

BACKGROUND: Literal["background"] = "background"
REPLAY = "replay"

# A text that is read up to about this often still teaches as much each time as nearly new text (Muennighoff et al.
# 2023); beyond it the background gets the windows.
OWN_EPOCHS = 6.0
LEAST_OWN, MOST_OWN = 0.05, 0.5  # share of the user's own text while the learning rate does not fall
END_FACTOR, MOST_OWN_AT_END = 6.0, 0.8  # how much more of it there is at the end, where the rate is small


def background_shares(own_tokens: int, background_tokens: int, total_tokens: float) -> tuple[float, float]:
    """The background's share of a step, at first and at the end, in a run that reads `total_tokens`.

    A background that is shorter than the text gets no more than its part of both together.
    """
    own = min(MOST_OWN, max(LEAST_OWN, OWN_EPOCHS * own_tokens / max(1.0, total_tokens)))
    own = max(own, min(0.9, own_tokens / (own_tokens + background_tokens)))
    at_end = max(own, min(MOST_OWN_AT_END, END_FACTOR * own))
    return round(1 - own, 3), round(1 - at_end, 3)


def with_background(plan: Plan, own_tokens: int, background_tokens: int, total_tokens: float) -> Plan:
    """`plan` with the shares of the background, of what `replay` leaves of a step, and the reason for them."""
    replay = plan.train.replay
    first, last = (
        round(min(share * (1 - replay), LARGEST_COMPANION - replay), 3)
        for share in background_shares(own_tokens, background_tokens, total_tokens)
    )
    reason = Reason(BACKGROUND, {"first": first, "last": last})
    return plan.with_train(reason, background_share=first, background_end=last)


def tokens_per_epoch(name: str, n_tokens: int, own_tokens: int, replay: float) -> int:
    """How many tokens of a companion text belong to an epoch of the whole mixture."""
    return n_tokens if name == BACKGROUND else min(n_tokens, round(own_tokens * replay / (1 - replay)))
