"""Time in a run: how much of the budget is used, and how long the process was stopped meanwhile.

A laptop that sleeps or a job that is suspended (SIGSTOP) does not train, so that time counts neither towards the budget
nor in any measured duration. It is noticed by a thread that looks at the clock every `INTERVAL` seconds: where it could
not look for more than `LONGEST_GAP` seconds, and the process used hardly any processor time in between, the process was
stopped.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from gptlite.config import TrainConfig
from gptlite.training.plan import MILESTONES
from gptlite.training.state import State

INTERVAL = 0.2  # seconds
LONGEST_GAP = 1.0  # seconds; a busy machine delays a thread by less
BUSY = 0.4  # processor seconds per second: work that kept the thread from looking uses more, a stopped process none
LEAVING_SECONDS = 0.3  # that a process takes before its clock starts and to end
MILESTONE_SECONDS = 30.0  # a short run has fewer milestones


class _Pauses:
    """How long this process has been stopped while at least one run was under way."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users, self.seconds = 0, 0.0
        self.wall = self.processor = 0.0  # as they were when last looked at
        self.ended = threading.Event()

    def now(self) -> float:
        with self.lock:
            wall = time.monotonic()
            if self.users:
                processor = time.process_time()
                gap = wall - self.wall
                if gap > LONGEST_GAP and processor - self.processor < BUSY * gap:
                    self.seconds += gap
                self.wall, self.processor = wall, processor
            return wall - self.seconds

    def begin(self) -> None:
        with self.lock:
            self.users += 1
            if self.users > 1:
                return
            self.seconds = 0.0
            self.wall, self.processor = time.monotonic(), time.process_time()
            self.ended = threading.Event()
        threading.Thread(target=self._look, args=(self.ended,), name="gptlite-clock", daemon=True).start()

    def end(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.ended.set()

    def _look(self, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL):
            self.now()


_pauses = _Pauses()


def now() -> float:
    """Seconds on the scale of `time.monotonic`, less those in which the process was stopped."""
    return _pauses.now()


def paused() -> float:
    """Seconds in which the process was stopped so far."""
    _pauses.now()
    return _pauses.seconds


@contextlib.contextmanager
def noticing_pauses() -> Iterator[None]:
    """While this is open, `now` stands still when the process is stopped."""
    _pauses.begin()
    try:
        yield
    finally:
        _pauses.end()


@dataclass(frozen=True)
class Clock:
    """Progress from 0 to 1 through the budget of a run, and how much of it is left.

    - `seconds`: the time budget less what the process needs to leave, None where steps are the budget.
    - `total_steps`: the budget in steps, 0 where time is the budget.
    - `milestones`: how often the run is scored and saved.
    - `started`: when the command began, as `now` has it; `elapsed_before`: seconds of the run before it was resumed.
    """

    seconds: float | None
    total_steps: int
    milestones: int
    started: float
    elapsed_before: float = 0.0

    @classmethod
    def for_budget(
        cls, config: TrainConfig, steps_per_epoch: float, started: float, elapsed_before: float = 0.0
    ) -> Clock:
        seconds, milestones = config.seconds, MILESTONES
        if seconds is not None:
            seconds -= min(LEAVING_SECONDS, 0.02 * seconds)
            milestones = min(MILESTONES, max(2, int(seconds / MILESTONE_SECONDS)))
        return cls(seconds, total_steps(config, steps_per_epoch), milestones, started, elapsed_before)

    def elapsed(self) -> float:
        """Seconds since the command began, those before a resume included and those of pauses left out."""
        return self.elapsed_before + now() - self.started

    def progress(self, state: State) -> float:
        """The fraction of the loop's budget that is used: of its steps, or of its time."""
        if self.seconds is None:
            return state.step / self.total_steps
        end = self.seconds - state.reserve
        return (self.elapsed() - state.loop_started) / max(1e-9, end - state.loop_started)

    def over(self, state: State, seconds_per_step: float) -> bool:
        """Is the loop's budget used, or so nearly that another step would end further from it than this one?"""
        progress = self.progress(state)
        if self.seconds is None or progress >= 1:
            return progress >= 1
        loop = self.seconds - state.reserve - state.loop_started
        return (1 - progress) * loop < seconds_per_step / 2

    def remaining(self, state: State, seconds_per_step: float) -> float:
        """Seconds left of the time budget, or an estimate of them."""
        if self.seconds is not None:
            return max(0.0, self.seconds - self.elapsed())
        return max(0, self.total_steps - state.step) * seconds_per_step + state.reserve


def total_steps(config: TrainConfig, steps_per_epoch: float) -> int:
    """The budget in steps; 0 where time is the budget."""
    if config.epochs is not None:
        return max(1, round(config.epochs * steps_per_epoch))
    return config.steps or 0
