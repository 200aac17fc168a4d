"""Threads: the quickest number of them, where none was asked for and time is the budget."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gptlite.device import Hardware, choose_hardware
from gptlite.training import threads as deciding
from gptlite.training.speed import Speed
from gptlite.training.watcher import Watcher


class Notices(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def four_threads() -> Iterator[Hardware]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield choose_hardware("cpu")
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which others work and one thread is quickest."""
    monkeypatch.setattr(deciding, "_undisturbed", lambda _: 0.5)
    monkeypatch.setattr(deciding, "measure_speed", lambda model, train, now, *_: Speed(1.0, 100.0 / now.threads))


def test_beside_other_programs_the_quickest_number_of_threads_is_taken_and_told(four_threads: Hardware) -> None:
    notices = Notices()
    settled = deciding.settle_threads(four_threads, 60.0, notices)
    assert settled.threads == 1 == torch.get_num_threads()
    assert notices.told == [
        "other programs keep the processors busy, so training uses 1 of 4 threads; `threads=4` uses all."
    ]


def test_where_all_are_quickest_nothing_is_said(four_threads: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "measure_speed", lambda model, train, now, *_: Speed(1.0, 100.0 * now.threads))
    notices = Notices()
    assert deciding.settle_threads(four_threads, 60.0, notices) == four_threads
    assert (torch.get_num_threads(), notices.told) == (4, [])


def test_alone_on_a_machine_nothing_is_timed(four_threads: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "_undisturbed", lambda _: 0.95)
    assert deciding.settle_threads(four_threads, 60.0, Watcher()) == four_threads


@pytest.mark.parametrize(("seconds", "threads"), [(None, None), (60.0, 4)], ids=["a number of steps", "as asked"])
def test_bits_and_wishes_come_first(four_threads: Hardware, seconds: float | None, threads: int | None) -> None:
    hardware = choose_hardware("cpu", threads=threads)
    assert deciding.settle_threads(hardware, seconds, Watcher()).threads == 4


@pytest.mark.parametrize("threads", [1, 2])
def test_the_share_of_time_in_which_threads_run(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert 0 < deciding._undisturbed(choose_hardware("cpu")) < 1.2
    torch.set_num_threads(before)
