"""The fastest number of threads before a run, and its changes during one, on a machine of simulated step times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gptlite.config import TrainConfig
from gptlite.device import Hardware, choose_hardware
from gptlite.kernels.workers import Workers
from gptlite.training import threads as deciding
from gptlite.training.request import Request
from gptlite.training.speed import Speed
from gptlite.training.watcher import Watcher


class Notices(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def six_threads() -> Iterator[Hardware]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield choose_hardware("cpu")
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which others work and one thread is quickest."""
    monkeypatch.setattr(deciding, "_undisturbed", lambda _: 0.5)
    monkeypatch.setattr(deciding, "measure_speed", lambda model, train, now, *_: Speed(1.0, 100.0 / now.threads))


def test_beside_other_programs_the_quickest_number_of_threads_is_taken_and_told(six_threads: Hardware) -> None:
    notices = Notices()
    settled = deciding.settle_threads(six_threads, 60.0, notices)
    assert (settled.threads, settled.most_threads, torch.get_num_threads()) == (1, 6, 1)
    assert notices.told == [
        "other programs keep the processors busy, so training begins with 1 of 6 threads; `threads=6` uses all."
    ]


def test_where_all_are_quickest_nothing_is_said(six_threads: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "measure_speed", lambda model, train, now, *_: Speed(1.0, 100.0 * now.threads))
    notices = Notices()
    settled = deciding.settle_threads(six_threads, 60.0, notices)
    assert settled == dataclasses.replace(six_threads, most_threads=6)
    assert (torch.get_num_threads(), notices.told) == (6, [])


def test_alone_on_a_machine_nothing_is_timed(six_threads: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "_undisturbed", lambda _: 0.95)
    assert deciding.settle_threads(six_threads, 60.0, Watcher()) == six_threads


@pytest.mark.parametrize(("seconds", "threads"), [(None, None), (60.0, 6)], ids=["a number of steps", "as asked"])
def test_bits_and_wishes_come_first(six_threads: Hardware, seconds: float | None, threads: int | None) -> None:
    hardware = choose_hardware("cpu", threads=threads)
    assert deciding.settle_threads(hardware, seconds, Watcher()).threads == 6


@pytest.mark.parametrize("threads", [1, 2])
def test_the_share_of_time_in_which_threads_run(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert 0 < deciding._undisturbed(choose_hardware("cpu")) < 1.2
    torch.set_num_threads(before)


def test_threads_that_divide_steps_are_not_timed_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "measure_speed", lambda *_: pytest.fail("they lose little beside other programs"))
    before = torch.get_num_threads()
    hardware = dataclasses.replace(choose_hardware("cpu"), threads=2)
    assert deciding.settle_threads(hardware, 60.0, Watcher()) == hardware
    torch.set_num_threads(before)


# -- During a run


class Machine:
    """Processors on which steps take as long as they are said to; a `control` decides how many threads compute."""

    def __init__(self, most: int = 2) -> None:
        self.notices = Notices()
        self.control = deciding.ThreadControl(most, lambda _: None, watcher=self.notices)
        self.clock, self.used = 0.0, dict.fromkeys(range(1, most + 1), 0.0)  # seconds with each number of threads

    def run(self, seconds: float, step: dict[int, float], share: float) -> dict[int, float]:
        """Steps of so many seconds with each number of threads, each of which runs for a `share` of the time."""
        end, before = self.clock + seconds, dict(self.used)
        while self.clock < end:
            threads = self.control.now
            self.control.stepped(step[threads], step[threads] * threads * share)
            self.clock += step[threads]
            self.used[threads] += step[threads]
        return {threads: self.used[threads] - before[threads] for threads in before}


QUIET, BUSY = {1: 0.16, 2: 0.09}, {1: 0.25, 2: 0.7}


def test_two_threads_one_and_back() -> None:
    machine = Machine()
    assert machine.run(60, QUIET, 0.95)[1] == 0, "alone on a machine nothing is tried"
    busy = machine.run(120, BUSY, 0.5)
    assert machine.control.now == 1 and busy[1] > 0.85 * 120
    assert machine.run(120, QUIET, 0.95)[2] > 0.75 * 120 and machine.control.now == 2
    assert machine.notices.told == [
        "other programs keep the processors busy, so training computes with 1 of 2 threads for now."
    ]


def test_where_two_threads_are_faster_beside_others_too_trials_become_rare() -> None:
    machine = Machine()
    used = machine.run(600, {1: 0.38, 2: 0.25}, 0.35)
    assert machine.control.now == 2 and 0 < used[1] < 0.03 * 600
    assert machine.notices.told == []


def test_a_difference_that_chance_could_make_changes_nothing() -> None:
    machine = Machine()
    machine.run(100, {1: 0.24, 2: 0.25}, 0.5)
    assert machine.control.now == 2


def test_of_eight_threads_half_may_be_the_fastest() -> None:
    machine = Machine(8)
    machine.run(60, {n: {1: 0.5, 4: 0.2}.get(n, 0.6) for n in range(1, 9)}, 0.5)
    assert machine.control.now == 4


def test_a_long_step_is_a_trial_of_its_own_seconds() -> None:
    """Three steps are timed even if each takes seconds, and never more than half of the time is lost to a trial."""
    machine = Machine()
    used = machine.run(600, {1: 4.0, 2: 12.0}, 0.5)
    assert machine.control.now == 1 and used[2] < 0.4 * 600


def test_the_share_of_the_processors_is_that_of_all_steps() -> None:
    control = deciding.ThreadControl(2)
    assert control.share is None
    control.stepped(1.0, 2.0)
    control.stepped(1.0, 1.0)
    assert control.share == pytest.approx(0.75)


def request(**asked: Any) -> Request:
    return Request.of("x", **asked)


def test_where_bits_or_wishes_depend_on_the_number_it_stays() -> None:
    two, timed, steps = choose_hardware("cpu"), TrainConfig(seconds=60.0), TrainConfig(seconds=None, steps=5)
    two = dataclasses.replace(two, threads=2)

    def free(workers: int, config: TrainConfig, hardware: Hardware = two, **asked: Any) -> bool:
        loss: Any = None
        return deciding.control_threads(hardware, Workers(workers), loss, config, request(**asked), 0).free

    assert free(2, timed) and free(2, steps), "threads that divide a step do not change its bits"
    assert free(1, timed) and not free(1, steps)
    assert not free(2, timed, threads=2) and not free(1, timed, threads=2)
    assert not free(1, timed, dataclasses.replace(two, processes=2))
    assert not free(1, timed, dataclasses.replace(two, compile=True)), "torch compiles for a number of threads"


def test_a_resumed_run_goes_on_with_as_many_threads_as_computed_before() -> None:
    workers, loss = Workers(2), Workers()
    hardware = dataclasses.replace(choose_hardware("cpu"), threads=2)
    control = deciding.control_threads(hardware, workers, loss, TrainConfig(seconds=60.0), request(), 1)  # type: ignore[arg-type]
    assert (control.now, workers.active) == (1, 1)
