"""Threads that divide a step: the same results whoever computes them, in order, and errors of all of them."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from gptlite.kernels.workers import MOST_PARTS, Workers, parts_for


@pytest.mark.parametrize("active", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(active: int) -> None:
    workers = Workers(3)
    workers.active = active

    def late(i: int) -> int:
        time.sleep(0.002 * (10 - i))
        return i

    assert workers.map(late, range(10)) == list(range(10))


def test_as_many_threads_compute_as_are_active_each_on_one_thread_of_torch() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen: set[str] = set()
    meeting = threading.Barrier(2, timeout=10)

    def note(_: int) -> int:
        meeting.wait()
        seen.add(threading.current_thread().name)
        return torch.get_num_threads()

    workers = Workers(3)
    workers.active = 2
    try:
        assert workers.map(note, range(4)) == [1] * 4
        assert len(seen) == 2
        assert torch.get_num_threads() == 3, "the caller's threads are as before"
        assert Workers(1).map(lambda _: torch.get_num_threads(), [0]) == [3], "a step that is not divided uses them all"
    finally:
        torch.set_num_threads(before)


def test_nothing_is_recorded_for_gradients() -> None:
    x = torch.ones(3, requires_grad=True)
    meeting = threading.Barrier(2, timeout=10)

    def double(_: int) -> torch.Tensor:
        meeting.wait()
        return x * 2

    assert not any(y.requires_grad for y in Workers(2).map(double, range(2)))
    assert (x * 2).requires_grad


@pytest.mark.parametrize("fails_in", ["the caller", "a helper"])
def test_an_error_is_raised_when_nobody_computes_any_more(fails_in: str) -> None:
    caller, computing, begun = threading.current_thread(), [0], [0]
    meeting = threading.Barrier(2, timeout=10)

    def work(i: int) -> None:
        computing[0] += 1
        begun[0] += 1
        if i < 2:
            meeting.wait()
        if (threading.current_thread() is caller) == (fails_in == "the caller"):
            computing[0] -= 1
            raise ValueError(str(i))
        time.sleep(0.05)
        computing[0] -= 1

    with pytest.raises(ValueError):
        Workers(2).map(work, range(1000) if fails_in == "the caller" else range(3))
    assert computing == [0] and begun[0] < 10


def test_a_few_threads_divide_a_step_and_many_do_not() -> None:
    assert [parts_for(n) for n in (1, 2, MOST_PARTS, MOST_PARTS + 1)] == [1, 2, MOST_PARTS, 1]
