"""Timing a step: it leaves no trace, and its numbers belong together."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_config

from gptlite.config import ARCHITECTURES, TrainConfig
from gptlite.device import choose_hardware
from gptlite.system import peak_memory
from gptlite.training import speed
from gptlite.training.speed import measure_speed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_speed_is_tokens_over_seconds(architecture: str, optimizer: str) -> None:
    config, train = tiny_config(architecture), TrainConfig(batch_size=4, optimizer=optimizer)
    measured = measure_speed(config, train, choose_hardware("cpu"), seconds=0.01)
    assert measured.seconds_per_step > 0
    assert measured.tokens_per_second == pytest.approx(4 * config.context_length / measured.seconds_per_step)


def test_measuring_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    measure_speed(tiny_config("qwen3"), TrainConfig(batch_size=2, dropout=0.5), choose_hardware("cpu"), seconds=0.0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 2), (1e9, speed.MOST_STEPS + 1)])
def test_the_time_decides_how_many_steps_are_taken(seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(speed, "training_step", lambda *_, **__: taken.append(1))
    measure_speed(tiny_config("qwen3"), TrainConfig(batch_size=2), choose_hardware("cpu"), seconds)
    assert len(taken) == steps


def test_the_peak_of_memory_only_grows() -> None:
    before = peak_memory()
    assert before is None or before > 50 << 20
    large = torch.ones(64 << 20)  # 256 MiB
    after = peak_memory()
    assert after is None or (before is not None and after >= max(before, large.nbytes))
