"""Threads that divide a training step: each computes parts of it, and they wait for each other once, at its end.

Inside an operator, threads wait for each other hundreds of times in a step. On a machine that other programs use too,
each of these waits may last until the scheduler runs the other thread again, which is several milliseconds. Here each
thread takes whole parts of the work, with torch on one thread, and takes the next one as soon as it is done.

How the work is divided depends on `parts` alone, and results come back in the order of the parts. So the bits of a
result do not depend on how many threads computed it, and that number may change from step to step.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MOST_PARTS = 4  # each part makes gradients of its own, and Python serves one thread at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """The calling thread and up to `parts` - 1 others.

    - `parts`: into how many parts a step is divided. With one part, torch's own threads do all the work.
    - `active`: how many threads compute at present, from 1 to `parts`.
    """

    def __init__(self, parts: int = 1) -> None:
        self.parts = self.active = parts
        self._pool: ThreadPoolExecutor | None = None

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The result of `work` on each item, in order; gradients are not recorded, and torch has one thread each.

        Raises what `work` raises, once no thread computes any more.
        """
        if self.parts == 1:
            return [work(item) for item in items]
        results: list[Result | None] = [None] * len(items)
        turn = itertools.count()  # its `next` is atomic

        @torch.no_grad()
        def take() -> None:
            while (i := next(turn)) < len(items):
                results[i] = work(items[i])

        helpers = min(self.active, len(items)) - 1
        if helpers > 0 and self._pool is None:
            self._pool = ThreadPoolExecutor(self.parts - 1, "gptlite-worker", _use_one_thread)
        with self.alone():
            futures = [self._pool.submit(take) for _ in range(helpers)] if self._pool else []
            try:
                take()
            except BaseException:
                next_free = len(items)
                while next(turn) < next_free:  # nothing is left for the others
                    pass
                raise
            finally:
                errors = [future.exception() for future in futures if not future.cancel()]
        for error in errors:
            if error is not None:
                raise error
        return results  # type: ignore[return-value]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While this is open, torch computes on one thread where a step is divided; otherwise nothing changes."""
        with one_thread() if self.parts > 1 else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """While this is open, torch's operators compute on one thread.

    For operators in which threads wait for each other very often, such as the QR decomposition: alone they take about
    as long on one thread, and beside other programs a hundredth of the time.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parts_for(threads: int) -> int:
    """Into how many parts a step is divided on `threads` threads; with more than `MOST_PARTS`, it is not."""
    return threads if threads <= MOST_PARTS else 1


def _use_one_thread() -> None:
    torch.set_num_threads(1)
