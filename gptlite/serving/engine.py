"""One thread that writes the texts of all requests side by side, and tells whoever waits for them.

Requests come from other threads. A request with many texts takes turns with the others for free rows. What is written
is read by `Job.states`; nobody who reads slowly is waited for, because a text is never longer than its request says.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gptlite.errors import GptliteError
from gptlite.generation.continuous import SideBySide, Text


class Busy(GptliteError):
    """More texts are asked for than may wait."""


@dataclass(frozen=True)
class State:
    """What there is of a text: its characters, its number of tokens, and why it ended, None while it has not."""

    text: str = ""
    n_tokens: int = 0
    finish_reason: str | None = None


class Job:
    """The texts of one request.

    - `states`: of each text; each is replaced, never changed. `error`: why no text comes any more, or None.
    - `wake` is called, in the thread of whoever was told, when there is something new: every piece of a text with
      `streams`, else the end of all.
    """

    def __init__(self, texts: Sequence[Text], wake: Callable[[], None] = lambda: None, streams: bool = False) -> None:
        self.texts, self.wake, self.streams = list(texts), wake, streams
        self.states = [State(finish_reason=text.row.sample.finish_reason) for text in texts]  # of no token: at once
        self.waiting = deque(i for i, state in enumerate(self.states) if not state.finish_reason)
        self.numbers = {text: i for i, text in enumerate(texts)}
        self.n_left = len(self.waiting)  # texts that have not ended
        self.error: Exception | None = None
        self.cancelled = False

    @property
    def finished(self) -> bool:
        """Has each text ended, or is there an error?"""
        return self.error is not None or all(state.finish_reason for state in self.states)

    def update(self, text: Text) -> bool:
        """Note what has become of a text; is it news for the one who waits?"""
        i, sample = self.numbers[text], text.row.sample
        before = self.states[i]
        self.states[i] = State(sample.text, len(sample.tokens), sample.finish_reason)
        self.n_left -= bool(sample.finish_reason)
        return (self.streams and len(sample.text) > len(before.text)) or self._has_ended(sample.finish_reason)

    def _has_ended(self, finish_reason: str | None) -> bool:
        return bool(finish_reason) and (self.streams or not self.n_left)


class Engine:
    """Writes the texts of jobs in a thread of its own, at most as many at once as `side_by_side` has rows.

    - `most`: texts that may be asked for and not finished.
    - `tell` is called in that thread with jobs that have news; `report` with an error that is no fault of a request.
    """

    def __init__(
        self,
        side_by_side: SideBySide,
        most: int,
        tell: Callable[[list[Job]], None],
        report: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.side_by_side, self.most, self.tell, self.report = side_by_side, most, tell, report
        self.changed = threading.Condition()
        self.queue: deque[Job] = deque()  # jobs of which a text has no row yet
        self.jobs: dict[Text, Job] = {}  # of the texts that have one
        self.n_waiting = 0  # texts that were asked for and have not ended
        self.n_ended = 0  # texts that were written to their end, since the start
        self.is_closed = False
        self.thread = threading.Thread(target=self._run, name="gptlite-engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Write the texts of a job. Raises `Busy` where too many texts wait."""
        with self.changed:
            if self.is_closed or self.n_waiting + job.n_left > self.most:
                raise Busy(f"{self.n_waiting:,} texts are being written or waited for; try again later.")
            self.n_waiting += job.n_left
            if job.waiting:
                self.queue.append(job)
                self.changed.notify()

    def cancel(self, job: Job) -> None:
        """Write no more for a job; its rows are free before the next token is drawn."""
        with self.changed:
            job.cancelled = True
            self.changed.notify()

    def close(self) -> None:
        """Stop writing, and wait for the thread."""
        with self.changed:
            self.is_closed = True
            self.changed.notify()
        if self.thread.ident is not None:
            self.thread.join()

    def _run(self) -> None:
        while True:
            with self.changed:
                self._drop_cancelled()
                while not (self.queue or self.jobs or self.is_closed):
                    self.changed.wait()
                if self.is_closed:
                    return
                self._admit()
            if self.jobs:
                self._advance()

    def _drop_cancelled(self) -> None:
        for job in {*self.queue, *self.jobs.values()}:
            if job.cancelled:
                self._drop(job)

    def _drop(self, job: Job) -> None:
        """Forget what a job has not finished."""
        self.n_waiting -= job.n_left
        job.n_left = 0
        job.waiting.clear()
        if job in self.queue:
            self.queue.remove(job)
        for text in [text for text, owner in self.jobs.items() if owner is job]:
            self.side_by_side.remove(text)
            del self.jobs[text]

    def _admit(self) -> None:
        """Give free rows to texts that wait, one of each job in turn."""
        while self.queue and self.side_by_side.free:
            job = self.queue.popleft()
            text = job.texts[job.waiting.popleft()]
            self.side_by_side.add(text)
            self.jobs[text] = job
            if job.waiting:
                self.queue.append(job)

    def _advance(self) -> None:
        try:
            written = self.side_by_side.advance()
        except Exception as error:  # whose fault it is cannot be told: all who share the pass are told
            self._fail(error)
            return
        news: dict[Job, None] = {}
        ended = 0
        for text in written:
            job = self.jobs[text]
            if job.update(text):
                news[job] = None
            if text.row.sample.finish_reason:
                del self.jobs[text]
                ended += 1
        if ended:
            with self.changed:
                self.n_waiting -= ended
                self.n_ended += ended
        if news:
            self.tell(list(news))

    def _fail(self, error: Exception) -> None:
        with self.changed:
            failed = list(dict.fromkeys(self.jobs.values()))
            for job in failed:
                job.error = error
                self._drop(job)
        self.report(error)
        self.tell(failed)


def wake_all(jobs: Iterable[Job]) -> None:
    """Call the `wake` of each."""
    for job in jobs:
        job.wake()
