"""The logs of a run: `metrics.jsonl`, and TensorBoard's where it was asked for. A failing log never ends a run."""

from __future__ import annotations

import time
from typing import Any

from gptlite.checkpoint.run_lock import RunLostError
from gptlite.checkpoint.runs import EVENTS, Run
from gptlite.errors import GptliteError, StorageError
from gptlite.training.tensorboard import EventLog
from gptlite.training.watcher import Watcher


class RunLog:
    """Appends to the logs until one of them cannot be written, which is said once.

    - `save_failed`: the last save failed, which was said then.

    - `active`: False in all processes but the first, which write nothing.
    """

    def __init__(self, run: Run, watcher: Watcher, active: bool = True) -> None:
        self.run, self.watcher, self.active = run, watcher, active
        self.events: EventLog | None = None
        self.save_failed = False

    def open_events(self, elapsed: float) -> None:
        """Begin TensorBoard's log with what the run has logged so far.

        - `elapsed`: seconds of the run until now.
        """
        try:
            self.events = EventLog(self.run.path / EVENTS, time.time() - elapsed, self.run.read_log())
        except GptliteError as error:
            self.watcher.notice(f"{error} Training goes on without TensorBoard's log.")

    def write(self, line: dict[str, Any]) -> None:
        """Append a line. Raises `RunLostError` when the run directory was deleted or moved."""
        if self.active:
            try:
                self.run.log(line)
            except RunLostError:
                raise
            except StorageError as error:
                self.active = False
                self.watcher.notice(f"{error} Training goes on without its log.")
        if self.events is not None:
            try:
                self.events.write(line)
            except StorageError as error:
                self.events = None
                self.watcher.notice(f"{error} Training goes on without TensorBoard's log.")
