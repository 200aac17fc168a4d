"""A second plan in the first tenth of a run, where steps are much slower or faster than when the plan was made.

Other programs may begin or end their work after the plan has timed its steps. Until a tenth of the time is over and
nothing is saved, a model of another size may still win more than the steps that are lost with the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptlite.config import ModelConfig, TrainConfig
from gptlite.training import plan as planning
from gptlite.training.ensemble import of_one_member
from gptlite.training.estimate import Estimate, speed_key
from gptlite.training.reason import Reason
from gptlite.training.speed import Speed, guess_speed

EARLIEST, LATEST = 0.04, 0.1  # progress between which a run looks at its speed, once
FEWEST_STEPS = 5  # whose speed is believed, if a tenth of the run is longer than that
SLOWER, FASTER = 0.6, 1.7  # times the speed that was planned with
GAIN = 0.02  # bits per byte that the second plan must promise to win


class Replanned(Exception):
    """Training begins again with another plan.

    - `expected`: what it leads to in the whole time, from the speeds of this run's steps.
    """

    def __init__(self, plan: planning.Plan, expected: planning.Expected) -> None:
        super().__init__()
        self.plan, self.expected = plan, expected


@dataclass
class Replanner:
    """What a second plan rests on. `done`: it was looked for."""

    estimate: Estimate
    architecture: str | None
    size: str | None
    overrides: Mapping[str, Any]
    done: bool = False

    def look(self, progress: float, steps: int, elapsed: float, seconds_per_step: float) -> None:
        """Raises `Replanned` where another plan than the first is better from now on.

        - `progress`: of the run, 0 to 1, after so many `steps`; `elapsed`: seconds of the whole run so far.
        """
        enough = steps >= FEWEST_STEPS and progress >= EARLIEST
        if self.done or not (enough or (steps >= 2 and progress >= LATEST)):
            return
        self.done = True
        plan, planned = self.estimate.plan, self.estimate.expected.tokens_per_second
        now = plan.train.batch_size * plan.model.context_length / seconds_per_step
        too_late = progress > LATEST and steps > FEWEST_STEPS  # of a few long steps, not much is lost
        if too_late or SLOWER < now / planned < FASTER or plan.train.seconds is None:
            return
        second = self._plan(plan, plan.train.seconds - elapsed, now / planned)
        if second is not None:
            raise second

    def _plan(self, plan: planning.Plan, seconds: float, ratio: float) -> Replanned | None:
        """The best plan for so many `seconds` at `ratio` times the speeds that were measured, if it is worth it."""
        facts, total = self.estimate.facts, plan.train.seconds

        def measure(model: ModelConfig, train: TrainConfig) -> Speed:
            known = self.estimate.speeds.get(speed_key(model, train))
            if known is not None:
                speed = known.tokens_per_second
            else:
                planned, _ = of_one_member(plan.model, plan.train)
                per_guess = self.estimate.expected.tokens_per_second / guess_speed(planned, facts.hardware)
                speed = per_guess * guess_speed(of_one_member(model, train)[0], facts.hardware)
            return Speed(train.batch_size * model.context_length / (ratio * speed), ratio * speed)

        best = planning.make_plan(
            facts,
            architecture=self.architecture,
            size=self.size,
            overrides={**self.overrides, "seconds": seconds},
            measure=measure,
        )
        best = planning.one_window_each(best, facts.hardware.processes)
        speed = measure(best.model, best.train)
        bits = planning.predicted(facts, best, speed)
        if bits > planning.predicted(facts, plan, measure(plan.model, plan.train)) - GAIN:
            return None
        reason = Reason("speed", {"ratio": ratio, "seconds": seconds})
        best = best.with_train(reason, seconds=total)
        return Replanned(best, planning.expect(facts, best, speed))
