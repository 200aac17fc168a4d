"""The clock of a run: how much of its budget is used, and how much is left. Pauses (pauses.py) do not count."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptlite.config import TrainConfig
from gptlite.training import pauses
from gptlite.training.plan import SAVES
from gptlite.training.state import State

LEAVING_SECONDS = 0.3  # that a process takes before its clock starts and to end
SAVE_SECONDS = 30.0  # at least, between the saves of a run whose budget is time


@dataclass(frozen=True)
class Clock:
    """Progress from 0 to 1 through the budget of a run, and how much of it is left.

    - `seconds`: the time budget less what the process needs to leave, None where steps are the budget.
    - `total_steps`: the budget in steps; where time is the budget, the steps after which the run ends though time is
      left, 0 for no such end.
    - `saves`: how often the run is saved, unless `save_every` says otherwise.
    - `started`: when the command began, as `pauses.now` has it.
    - `elapsed_before`: seconds of the run before it was resumed.
    """

    seconds: float | None
    total_steps: int
    saves: int
    started: float
    elapsed_before: float = 0.0

    @classmethod
    def for_budget(
        cls, config: TrainConfig, steps_per_epoch: float, started: float, elapsed_before: float = 0.0
    ) -> Clock:
        seconds, saves = config.seconds, SAVES
        if seconds is not None:
            seconds -= min(LEAVING_SECONDS, 0.02 * seconds)
            saves = min(SAVES, max(2, int(seconds / SAVE_SECONDS)))
        return cls(seconds, config.total_steps(steps_per_epoch), saves, started, elapsed_before)

    def elapsed(self) -> float:
        """Seconds since the command began, those before a resume included and those of pauses left out."""
        return self.elapsed_before + pauses.now() - self.started

    def progress(self, state: State) -> float:
        """The fraction of the loop's budget that is used: of its steps or of its time, whichever is more."""
        of_steps = state.step / self.total_steps if self.total_steps else 0.0
        if self.seconds is None:
            return of_steps
        end = self.seconds - state.reserve
        return max(of_steps, (self.elapsed() - state.loop_started) / max(1e-9, end - state.loop_started))

    def step_share(self, progress: float, state: State, windows: int) -> float:
        """The fraction of the loop's budget that the step at `progress` takes, a step of `windows` windows.

        With a time budget it is the mean of the steps so far; the first one is taken to last as long as three forward
        passes.
        """
        if self.seconds is None:
            return 1 / self.total_steps
        if state.step:
            return progress / state.step
        loop = max(1e-9, self.seconds - state.reserve - state.loop_started)
        return min(1.0, 3 * windows * state.seconds_per_window / loop)

    def over(self, state: State, seconds_per_step: float) -> bool:
        """Is the loop's budget used, or so nearly that another step would end further from it than this one?"""
        if self.progress(state) >= 1:
            return True
        return self.seconds is not None and self.seconds - state.reserve - self.elapsed() < seconds_per_step / 2

    def remaining(self, state: State, seconds_per_step: float) -> float:
        """Seconds left of the time budget, or an estimate of those that the steps take, whichever is less."""
        left = math.inf if self.seconds is None else max(0.0, self.seconds - self.elapsed())
        if self.total_steps:
            left = min(left, max(0, self.total_steps - state.step) * seconds_per_step + state.reserve)
        return left
