"""The shares of background text: little of a short text at first, more at the end, and room for replayed text."""

from __future__ import annotations

import dataclasses

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


@pytest.mark.parametrize("replay", [0.0, 0.3, 0.9])
def test_background_and_replay_leave_room_for_the_text_itself(replay: float) -> None:
    plan = Plan(MODEL, dataclasses.replace(TrainConfig(), replay=replay), ())
    mixed = mixing.with_background(plan, 1_000, 10_000_000, 1e8)
    assert mixed.train.background_share + replay <= LARGEST_COMPANION + 1e-9
    assert mixed.train.background_end <= mixed.train.background_share
    assert "from the background" in mixed.reasons[-1].sentence()


def test_an_epoch_has_all_of_the_background_and_a_share_of_the_replayed_text() -> None:
    assert mixing.tokens_per_epoch("background", 900, 100, 0.0) == 900
    assert mixing.tokens_per_epoch("replay", 900, 70, 0.3) == 30
    assert mixing.tokens_per_epoch("replay", 20, 70, 0.3) == 20
