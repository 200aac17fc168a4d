"""How many threads a run computes with where other programs want the processors too: before the plan, and during a run.

Threads that divide a step (kernels/workers.py) meet once per step and lose little beside other programs. Threads of
torch's operators wait for each other in each of them, and then fewer threads may be quicker.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, use_threads
from gptlite.errors import plural
from gptlite.kernels.workers import Workers, parts_for
from gptlite.training import compile, pauses
from gptlite.training.optimizer import Loss, mean_loss
from gptlite.training.request import Request
from gptlite.training.speed import measure_speed
from gptlite.training.watcher import Watcher

PROBE = ModelConfig.preset("qwen3", "small", 1024, n_layers=4, dim=128), TrainConfig()  # what threads are timed with
UNDISTURBED = 0.8  # share of the time in which threads run; with less, other programs are at work
LISTENING_SECONDS = 0.15

# During a run
FEWEST_STEPS, FEWEST_SECONDS = 3, 0.5  # that are timed together
ROUNDS = 2  # of a trial, in each of which every number of threads is timed once
GAIN = 1.1  # times as fast, for another number of threads to be taken
PAUSE = 20  # times the length of a trial until the next one; it doubles after each trial that changes nothing
DRIFT, SHORT_PAUSE = 1.5, 5  # when steps have become so many times slower or faster, the pause is as short as this


def settle_threads(hardware: Hardware, seconds: float | None, watcher: Watcher) -> Hardware:
    """`hardware` with the quickest number of threads, where steps are not divided among them.

    Measured for a time budget of `seconds` and where `threads` was not given. A number of steps keeps all threads, so
    that its bits do not depend on what else runs.
    """
    if seconds is None or "threads" not in hardware.open or hardware.processes > 1 or hardware.device.type != "cpu":
        return hardware
    if hardware.threads == 1 or parts_for(hardware.threads) > 1:
        return hardware
    watcher.phase("measuring this machine", 0.0)
    if _undisturbed(hardware) >= UNDISTURBED:
        return hardware
    speeds: dict[int, float] = {}
    for threads in sorted({1, hardware.threads // 2, hardware.threads}):
        now = use_threads(hardware, threads)
        loss_of = compile.fused_loss(*PROBE, now) or mean_loss
        speeds[threads] = measure_speed(*PROBE, now, 0.0, loss_of).tokens_per_second
    fastest = max(speeds, key=lambda threads: speeds[threads])
    if fastest != hardware.threads:
        watcher.notice(
            f"other programs keep the processors busy, so training begins with {fastest} of "
            f"{plural(hardware.threads, 'thread')}; `threads={hardware.threads}` uses all."
        )
    return use_threads(hardware, fastest)


class ThreadControl:
    """Chooses how many of `most` threads compute, by the times of steps, and again when these change.

    - `use`: sets the number of threads; `now`: how many compute at present, by default all.
    - `free`: may the number change? Otherwise times are only summed up.

    While fewer threads run than there are, or threads do not get the processors, there is a trial from time to time:
    one, half and all threads are timed in turn, and the fastest number is taken. Alone on a machine there is none.
    """

    def __init__(
        self,
        most: int = 1,
        use: Callable[[int], None] = lambda _: None,
        now: int = 0,
        watcher: Watcher | None = None,
        free: bool = True,
    ) -> None:
        self.most, self.use, self.watcher = most, use, watcher or Watcher()
        self.now = min(now, most) or most
        self.free = free and most > 1
        self.numbers = sorted({1, most // 2 or 1, most})
        self.steps, self.wall, self.processor = 0, 0.0, 0.0  # since the last look
        self.total_wall, self.total_processor, self.total_seconds, self.total_steps = 0.0, 0.0, 0.0, 0
        self.before = self.now
        self.legs: list[int] = []  # of a trial: the numbers of threads that are still to be timed
        self.speeds: dict[int, list[float]] = {}  # steps per second in the trial
        self.trial_seconds = self.waited = self.pause = 0.0
        self.speed: float | None = None  # steps per second, a running mean
        self.speed_then: float | None = None  # after the last trial
        self.told = False
        if self.now != most:
            use(self.now)

    @property
    def share(self) -> float | None:
        """The share of the time of all steps in which the threads that computed had a processor; None before a step."""
        return self.total_processor / self.total_wall if self.total_wall else None

    @property
    def seconds_per_step(self) -> float:
        """The mean of all steps."""
        return self.total_seconds / max(1, self.total_steps)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """While this is open, a step is taken."""
        wall, processor = pauses.now(), time.process_time()
        yield
        self.stepped(pauses.now() - wall, time.process_time() - processor)

    def stepped(self, wall: float, processor: float) -> None:
        """A step took `wall` seconds and `processor` seconds of all processors."""
        self.total_wall += wall * self.now
        self.total_processor += processor
        self.total_seconds, self.total_steps = self.total_seconds + wall, self.total_steps + 1
        self.steps, self.wall, self.processor = self.steps + 1, self.wall + wall, self.processor + processor
        if not self.free or self.steps < FEWEST_STEPS or self.wall < FEWEST_SECONDS:
            return
        speed, share, wall = self.steps / self.wall, self.processor / (self.wall * self.now), self.wall
        self.steps, self.wall, self.processor = 0, 0.0, 0.0
        if self.legs:
            self.trial_seconds += wall
            self.speeds.setdefault(self.legs.pop(0), []).append(speed)
            self._set(self.legs[0] if self.legs else self._fastest())
            return
        self.speed = speed if self.speed is None else 0.7 * self.speed + 0.3 * speed
        if self.now == self.most and share >= UNDISTURBED:
            self.pause = 0.0  # when another program begins to work, a trial follows at once
        elif self._is_due(wall):
            self.legs, self.speeds, self.before, self.trial_seconds = self.numbers * ROUNDS, {}, self.now, 0.0
            self._set(self.legs[0])

    def _is_due(self, wall: float) -> bool:
        """After `wall` more seconds without a trial: is it time for one?"""
        self.waited += wall
        self.speed_then = self.speed_then or self.speed
        assert self.speed is not None and self.speed_then is not None
        drifted = not 1 / DRIFT < self.speed / self.speed_then < DRIFT
        return self.waited >= (min(self.pause, SHORT_PAUSE * self.trial_seconds) if drifted else self.pause)

    def _fastest(self) -> int:
        """The number of threads to take after a trial, which is over."""
        speeds = {threads: sum(each) / len(each) for threads, each in self.speeds.items()}
        best = max(speeds, key=lambda threads: speeds[threads])
        changes = best != self.before and speeds[best] > GAIN * speeds[self.before]
        self.pause = max(PAUSE * self.trial_seconds, 0.0 if changes else 2 * self.pause)
        self.waited, self.speed, self.speed_then = 0.0, None, None
        if changes and best < self.most and not self.told:
            self.told = True
            self.watcher.notice(
                f"other programs keep the processors busy, so training computes with {best} of "
                f"{plural(self.most, 'thread')} for now."
            )
        return best if changes else self.before

    def _set(self, threads: int) -> None:
        if threads != self.now:
            self.now = threads
            self.use(threads)


def control_threads(
    hardware: Hardware, workers: Workers, loss_of: Loss, config: TrainConfig, request: Request, now: int
) -> ThreadControl:
    """The control of a run's threads.

    Their number does not change where it was asked for, where several processes train, in steps that torch has
    compiled for a number of threads, and where the bits of a number of steps depend on it.

    - `now`: as many as computed when the run was saved, 0 for a new one.
    """
    asked = request.threads is not None
    if workers.parts > 1:
        return ThreadControl(
            workers.parts, lambda n: setattr(workers, "active", n), 0 if asked else now, request.watcher, free=not asked
        )
    fixed = config.seconds is None or hardware.processes > 1 or (hardware.compile and not hardware.fused)
    if asked or fixed or hardware.device.type != "cpu":
        return ThreadControl(hardware.threads, free=False)
    most = max(hardware.threads, hardware.most_threads)

    def use(threads: int) -> None:
        torch.set_num_threads(threads)
        if hardware.fused:
            loss_of.threads = threads  # type: ignore[attr-defined]

    return ThreadControl(most, use, now or hardware.threads, request.watcher)


def _undisturbed(hardware: Hardware) -> float:
    """The share of the time in which this process runs when it wants to, on all of its threads."""
    a = torch.ones(512, 512)
    torch.mm(a, a)  # the first time, threads are started
    worked, began = time.process_time(), time.monotonic()
    while time.monotonic() - began < LISTENING_SECONDS:
        torch.mm(a, a)
    return (time.process_time() - worked) / ((time.monotonic() - began) * hardware.threads)
