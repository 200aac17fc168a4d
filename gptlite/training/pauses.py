"""Time without pauses: a laptop that sleeps or a job that is suspended (SIGSTOP) does not train.

That time counts neither towards a budget nor in any measured duration. A thread looks at the clock every `INTERVAL`
seconds: where it could not look for more than `LONGEST_GAP` seconds, and the process used hardly any processor time in
between, the process was stopped.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

INTERVAL = 0.2  # seconds
LONGEST_GAP = 1.0  # seconds; a busy machine delays a thread by less
BUSY = 0.4  # processor seconds per second: work that kept the thread from looking uses more, a stopped process none


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
