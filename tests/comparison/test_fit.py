"""The search for a learning rate, and training until a time is used, on a network that is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gptlite.comparison import fit as fitting
from gptlite.comparison.fit import best_rate, fit, sweep


@pytest.mark.parametrize(("best", "tried"), [(4e-3, 3), (8e-3, 3), (1e-3, 5), (1.0, 5)])
def test_neighbours_of_the_best_rate_are_tried(best: float, tried: int) -> None:
    trials = sweep(lambda rate: abs(math.log2(rate / best)), 4e-3, lambda *_: None)
    assert len(trials) == tried and trials[0].learning_rate == 4e-3
    nearest = min(trials, key=lambda trial: abs(math.log2(trial.learning_rate / best)))
    assert best_rate(trials) == nearest.learning_rate
    assert best_rate(trials, 0.05) == pytest.approx(0.26 * nearest.learning_rate, rel=0.05)  # of a 20 times longer run


def test_no_rate_above_the_highest_is_tried() -> None:
    trials = sweep(lambda rate: abs(math.log2(rate / 8e-3)), 2e-3, lambda *_: None, 2e-3)
    assert [trial.learning_rate for trial in trials] == [2e-3, 1e-3]


def test_a_rate_that_diverges_is_never_the_best() -> None:
    trials = sweep(lambda rate: math.inf if rate > 1e-3 else 2.0, 2e-3, lambda *_: None)
    assert best_rate(trials) <= 1e-3


class Counter:
    """Steps that take a tenth of a second on a clock of their own; the score falls and rises again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, losses: float = 1.0) -> None:
        self.now, self.steps, self.losses = 0.0, 0, losses
        self.progress: list[float] = []
        self.model: Any = self
        self.loaded: int | None = None
        monkeypatch.setattr(fitting.pauses, "now", lambda: self.now)

    def step(self, batch: torch.Tensor, progress: float, step_share: float) -> float:
        self.steps += 1
        self.now += 0.1
        self.progress.append(progress)
        return self.losses if self.steps < 8 else self.losses * 1.0

    def weights(self) -> int:
        return self.steps

    def load_state_dict(self, weights: int) -> None:
        self.loaded = weights


def batch(step: int) -> torch.Tensor:
    return torch.zeros(2, 5, dtype=torch.long)


def test_only_steps_count_and_the_best_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Counter(monkeypatch)

    def score() -> float:
        network.now += 100.0  # scoring is not training
        return abs(network.steps - 6) + 1.0

    fitted = fit(network, batch, 1.0, score, lambda *_: None, scored_at=(0.0, 0.3, 0.6, 1.0))  # type: ignore[arg-type]
    assert (fitted.steps, fitted.tokens) == (10, 80) and fitted.seconds == pytest.approx(1.0)
    assert fitted.points[0].tokens == 0 and fitted.points[-1].tokens == 80
    assert fitted.best == min(p.bits_per_byte for p in fitted.points) and network.loaded in (6, 7)
    assert network.progress[0] == 0 and network.progress[-1] < 1


def test_training_ends_where_the_loss_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Counter(monkeypatch, math.nan)
    fitted = fit(network, batch, 1.0, lambda: 3.0, lambda *_: None)  # type: ignore[arg-type]
    assert fitted.diverged and fitted.steps == 1 and fitted.best == math.inf
