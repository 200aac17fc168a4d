"""The shares of background text: little of a short text at first, and more of it at the end."""

from __future__ import annotations

import pytest

from gptlite.config import LARGEST_COMPANION, ModelConfig, TrainConfig
from gptlite.training import mixing
from gptlite.training.plan import Plan

MODEL = ModelConfig.preset("qwen3", "tiny", vocab_size=320)


@pytest.mark.parametrize("own", [1_000, 50_000, 2_000_000])
@pytest.mark.parametrize("total", [10_000, 1_000_000, 100_000_000])
def test_the_share_of_the_text_itself_never_falls(own: int, total: float) -> None:
    first, last = mixing.background_shares(own, 10_000_000, total)
    assert 0 < last <= first <= LARGEST_COMPANION


def test_a_longer_run_takes_more_from_the_background() -> None:
    shares = [mixing.background_shares(50_000, 1_000_000, total) for total in (1e5, 1e6, 1e7, 1e8)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_a_short_background_gets_no_more_than_its_part() -> None:
    first, last = mixing.background_shares(300_000, 100_000, 1e8)
    assert last <= first <= 0.251


def test_the_plan_says_the_shares() -> None:
    plan = mixing.with_background(Plan(MODEL, TrainConfig(), ()), 1_000, 10_000_000, 1e8)
    assert (plan.train.background_share, plan.train.background_end) == mixing.background_shares(1_000, 10_000_000, 1e8)
    assert "from the background" in plan.reasons[-1].sentence()
