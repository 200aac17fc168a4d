"""How often a run is scored, and on how much of the held-out text: within the share of its time that is for scores."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from gptlite.config import TrainConfig
from gptlite.evaluation.scoring import Score, Window
from gptlite.training import held_out
from gptlite.training.clock import Clock
from gptlite.training.state import State
from gptlite.training.team import ALONE


def look(monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any], seconds_per_window: float) -> tuple[State, Clock]:
    """The state after the untrained model was looked at, on a machine that takes so long for a window."""

    def evaluate(model: Any, windows: list[Window], state: State, *_: Any) -> Score:
        state.seconds_per_window = seconds_per_window
        return Score(nats=6.0 * 64 * len(windows), tokens=64 * len(windows), bytes=128 * len(windows))

    monkeypatch.setattr(held_out, "evaluate", evaluate)
    clock = Clock.for_budget(TrainConfig(**budget), 100.0, 0.0)
    setup: Any = SimpleNamespace(
        windows=[Window(64 * i, 64, 64) for i in range(5000)], clock=clock, baselines=None,
        tokenizer=SimpleNamespace(pairs=None),
        plan=SimpleNamespace(model=SimpleNamespace(context_length=64), train=TrainConfig(**budget)),
    )  # fmt: skip
    monkeypatch.setattr(held_out, "save_seconds", lambda model, train: 0.1)
    state = State()
    held_out.first_look(SimpleNamespace(), state, ALONE, setup)  # type: ignore[arg-type]
    return state, clock


@pytest.mark.parametrize("seconds", [10.0, 20.0, 60.0, 90.0, 240.0, 300.0, 3600.0])
def test_a_run_of_any_time_has_ten_scores_within_their_share(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    state, clock = look(monkeypatch, {"seconds": seconds}, 0.003)
    assert state.scores >= 10 and state.scores % clock.saves == 0, "each save has a score"
    spent = state.scores * state.quick_windows * 0.003
    assert spent <= held_out.EVALUATION_SHARE * seconds or state.quick_windows == held_out.FEWEST_QUICK_WINDOWS
    assert spent <= 2 * held_out.EVALUATION_SHARE * seconds


def test_a_slow_machine_has_fewer_scores_and_steps_have_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    state, clock = look(monkeypatch, {"seconds": 10.0}, 1.0)
    assert (state.scores, clock.saves) == (2, 2)
    assert look(monkeypatch, {"steps": 40}, 1.0)[0].scores == 10


def test_a_run_that_goes_on_for_longer_is_scored_as_often_as_its_new_time_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, _ = look(monkeypatch, {"seconds": 10.0}, 0.1)
    assert state.scores == 2
    for budget in ({"seconds": 600.0}, {"steps": 50}):
        train = TrainConfig(**budget)
        clock = Clock.for_budget(train, 100.0, 0.0)
        setup: Any = SimpleNamespace(clock=clock, plan=SimpleNamespace(train=train))
        held_out.go_on(state, setup)
        assert state.scores == clock.saves == 10


def test_the_untrained_model_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = look(monkeypatch, {"steps": 40}, 0.01)
    assert state.untrained_loss == 6.0 and state.untrained_bits_per_byte == pytest.approx(3.0 / math.log(2))
