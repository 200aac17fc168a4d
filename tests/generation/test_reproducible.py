"""Draws that roundings of the logits could change are found, and made again in one way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptlite.config import SamplingConfig
from gptlite.generation.reproducible import choose, make_sampler
from gptlite.generation.sampling import Sampler, draw

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def config(**options: float) -> SamplingConfig:
    return SamplingConfig(**{**PLAIN, **options})  # type: ignore[arg-type]


FILTERS = [
    {}, {"temperature": 0.0}, {"temperature": 0.3, "min_p": 0.05}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.3},
    {"typical_p": 0.6}, {"top_k": 5, "top_p": 0.8, "min_p": 0.1}, {"top_k": 4, "typical_p": 0.7},
]  # fmt: skip


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("slack", [1e-3, 1e-2, 0.1])
def test_what_is_beyond_doubt_does_not_change_when_logits_are_a_little_off(
    filters: dict[str, float], slack: float
) -> None:
    n, columns = 3000, 12
    rng = np.random.default_rng(round(1 / slack))
    logits = rng.normal(0, 2, (n, columns))
    logits[: n // 4] = logits[: n // 4].round(1)  # equals, and nearly equals
    draws, allowance = rng.random(n), np.full((n, 1), slack)
    ids, doubtful = choose(logits, draws, config(**filters), allowance)
    assert (ids == draw(logits, draws, config(**filters))).all()
    for off in (rng.uniform(-slack, slack, (n, columns)), rng.choice([-slack, slack], (n, columns))):
        changed = draw(logits + off, draws, config(**filters)) != ids
        assert not (changed & ~doubtful).any()
        assert slack < 0.1 or changed.any(), "else this shows nothing"
    assert doubtful.mean() < 90 * slack


def test_a_draw_in_doubt_is_made_from_what_is_read_again() -> None:
    logits = torch.tensor([[1.0, 1.0 + 1e-7, -5.0], [3.0, 1.0, 0.0]])
    asked = []

    def reread(row: int) -> torch.Tensor:
        asked.append(row)
        return torch.tensor([1.0, 1.0 - 1e-7, -5.0])

    greedy = config(temperature=0)
    assert make_sampler(greedy, [1, 2])(logits).tolist() == [1, 0]
    assert make_sampler(greedy, [1, 2, 3])(logits, [2, 1], reread).tolist() == [0, 0]
    assert asked == [2]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_plain_sampler_draws_the_same(filters: dict[str, float]) -> None:
    plain, reproducible = Sampler(config(**filters), [1, 2]), make_sampler(config(**filters), [1, 2])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        logits = torch.randn(2, 40, generator=generator) * 3
        assert plain(logits).tolist() == reproducible(logits, None, lambda row, logits=logits: logits[row]).tolist()
