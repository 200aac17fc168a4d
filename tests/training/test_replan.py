"""A second plan in the first tenth of a run: made where steps are much slower or faster than planned, and worth it."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.training import plan as planning
from gptlite.training.estimate import Estimate
from gptlite.training.pipeline import train
from gptlite.training.replan import Replanned, Replanner
from gptlite.training.speed import Speed
from gptlite.training.watcher import Watcher

CPU = Hardware(torch.device("cpu"), False, 2, False, "a test")
FACTS = planning.Facts(n_bytes=1 << 24, n_tokens=1 << 23, vocab_size=1024, hardware=CPU)
FLOPS = 1e11


def timed(model: ModelConfig, train: TrainConfig) -> Speed:
    tokens_per_second = FLOPS / (6 * model.n_params)
    return Speed(train.batch_size * model.context_length / tokens_per_second, tokens_per_second)


def replanner(**overrides: Any) -> tuple[Replanner, float]:
    """For a plan of 10 minutes, and the seconds of its steps."""
    speeds: dict[tuple[ModelConfig, int], Speed] = {}

    def measure(model: ModelConfig, train: TrainConfig) -> Speed:
        speeds[model, train.batch_size] = timed(model, train)
        return speeds[model, train.batch_size]

    plan = planning.make_plan(FACTS, overrides={"seconds": 600.0, **overrides}, measure=measure)
    speed = timed(plan.model, plan.train)
    nothing: Any = None
    estimate = Estimate(plan, planning.expect(FACTS, plan, speed), 0, nothing, None, 0.0, FACTS, speeds)
    return Replanner(estimate, None, None, overrides), speed.seconds_per_step


@pytest.mark.parametrize("slower", [10.0, 20.0])
def test_on_a_machine_that_became_slower_a_smaller_model_is_trained(slower: float) -> None:
    replan, seconds_per_step = replanner()
    first = replan.estimate.plan
    with pytest.raises(Replanned) as found:
        replan.look(0.05, 20, 30.0, slower * seconds_per_step)
    second = found.value.plan
    assert second.model.n_params < first.model.n_params
    assert second.train.seconds == first.train.seconds == 600.0, "the clock goes on"
    assert found.value.expected.tokens_per_second < replan.estimate.expected.tokens_per_second
    assert second.reasons[-1].sentence() == (
        f"planned again for the last 570 s: steps are {slower:.1f} times slower than when they were timed"
    )


def test_on_a_machine_that_became_faster_a_larger_model_is_trained() -> None:
    replan, seconds_per_step = replanner()
    with pytest.raises(Replanned) as found:
        replan.look(0.05, 20, 30.0, seconds_per_step / 10)
    assert found.value.plan.model.n_params > replan.estimate.plan.model.n_params
    assert "10.0 times faster" in found.value.plan.reasons[-1].sentence()


@pytest.mark.parametrize(
    ("progress", "steps", "slower"),
    [(0.03, 20, 10.0), (0.05, 3, 10.0), (0.2, 1, 10.0), (0.2, 20, 10.0), (0.05, 20, 1.5), (0.05, 20, 0.7)],
    ids=["too early", "too few steps", "a single step", "too late", "hardly slower", "hardly faster"],
)
def test_otherwise_the_first_plan_stays(progress: float, steps: int, slower: float) -> None:
    replan, seconds_per_step = replanner()
    replan.look(progress, steps, 30.0, slower * seconds_per_step)


def test_it_is_looked_for_once_only() -> None:
    replan, seconds_per_step = replanner()
    replan.look(0.05, 20, 30.0, seconds_per_step)
    replan.look(0.06, 30, 36.0, 20 * seconds_per_step)


def test_a_shape_that_was_asked_for_stays() -> None:
    replan, seconds_per_step = replanner(n_layers=6, dim=256)
    replan.look(0.05, 20, 30.0, 20 * seconds_per_step)


@pytest.mark.slow
def test_a_run_begins_again_with_the_second_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are said to be a thousand times as fast as they are."""
    rng, corpus = random.Random(0), tmp_path / "corpus.txt"
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(2000)]
    corpus.write_text("\n".join(" ".join(rng.choices(words, k=9)) for _ in range(40_000)))
    told: list[str] = []
    shapes: list[int] = []

    class Listener(Watcher):
        def notice(self, text: str) -> None:
            told.append(text)

        def planned(self, plan: planning.Plan, run: Path, hardware: Hardware) -> None:
            shapes.append(plan.model.n_params)

    def boast(model: ModelConfig, train: TrainConfig, *_: Any) -> Speed:
        speed = timed(model, train)
        return dataclasses.replace(speed, tokens_per_second=1000 * speed.tokens_per_second)

    monkeypatch.setattr("gptlite.training.estimate.measure_speed", boast)
    result = train(str(corpus), out="run", time=20.0, watcher=Listener(), compile="off")
    assert len(shapes) == 2 and shapes[1] < shapes[0] and sum("planned again" in text for text in told) == 1
    stored = json.loads(Path("run/run.json").read_text())
    assert stored["n_parameters"] == shapes[1] == result["n_parameters"]
    assert stored["plan"]["reasons"][-1].startswith("planned again")
    assert 15 < result["seconds"] < 21
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert train(out="run", resume=True)["step"] == result["step"]
