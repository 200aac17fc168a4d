"""The process around a command: how it starts and leaves, and what signals do to it.

Imported before anything else. Until `start` has set its handlers, Ctrl-C shows Python's traceback, so this module
imports only what Python has imported by then, or what takes microseconds.
"""

from __future__ import annotations

# Python's `signal` without its enumerations, which take longer to import than all the rest.
import _signal as signal  # pyright: ignore[reportMissingImports]
import atexit
import contextlib
import gc
import os
import sys
import time

from gptlite.system import ENDING_SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import NoReturn

IMPORTS = "<frozen importlib._bootstrap>"  # the file that every import passes through
GARBAGE_THRESHOLD = 50_000  # new objects between looks for garbage: imports make a million and hardly any is garbage
RESTORED = b"\r\x1b[K\x1b[?25h"  # an empty line and a cursor, for a terminal that showed a bar


class Ended(SystemExit):
    """A signal ends the command before there is anything to save."""

    code: int  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


_began: float | None = None


def began() -> float:
    """`time.monotonic()` when the process began; now, where somebody else's process calls a command."""
    return time.monotonic() if _began is None else _began


def start() -> None:
    """The command `gptlite`: from here on Ctrl-C is answered with a sentence, never with a traceback."""
    global _began
    _began = time.monotonic()
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL):  # not so in a script's &
        signal.signal(signal.SIGINT, _interrupted)
    for number in ENDING_SIGNALS:  # as Ctrl-C does, these remove files that are half written and restore the terminal
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _ended)
    gc.set_threshold(GARBAGE_THRESHOLD)
    _open_standard_files()
    try:
        from gptlite.cli.main import main

        main()
    except SystemExit as ended:
        if isinstance(ended.code, int):
            atexit._run_exitfuncs()
            leave(ended.code)  # to take torch apart would last half a second
        raise
    finally:
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) in (_interrupted, _ended):
                signal.signal(number, signal.SIG_DFL)  # nothing is left to be said


def is_launched() -> bool:
    """Is this one of several processes that torchrun, or gptlite itself, has started?"""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def follows() -> bool:
    """Is it one of several, and not the first, which speaks for all?"""
    return is_launched() and os.environ["RANK"] != "0"


def leave(code: int) -> NoReturn:
    """End now, with threads that still work, and without freeing what the system frees anyway."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


class Stop:
    """Turns the first signal into a wish, once the trainer asks for wishes; before that, it ends the command.

    The second one ends the process at once, which is safe: saved steps survive it. `tell` says so to a person.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell
        self.signal: int | None = None
        self.asked = False
        self.numbers = [
            number for number in ENDING_SIGNALS if signal.getsignal(number) != signal.SIG_IGN
        ]  # nohup's wish

    def __call__(self) -> int | None:
        self.asked = True
        return self.signal

    def handle(self, number: int, frame: FrameType | None) -> None:
        for each in self.numbers:
            signal.signal(each, signal.SIG_DFL)
        self.signal = number  # also where a library swallows what is raised below
        if not self.asked:
            _leave_imports(number, frame)
            raise Ended(number)
        with contextlib.suppress(Exception):  # the terminal may be gone, which is what SIGHUP says
            self.tell()


@contextlib.contextmanager
def stoppable(tell: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Let the trainer finish its step and save when a signal arrives."""
    stop = Stop(tell)
    before = {number: signal.signal(number, stop.handle) for number in stop.numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(number: int, frame: FrameType | None) -> None:
    _leave_imports(number, frame)
    raise KeyboardInterrupt


def _ended(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # the next one ends at once
    _leave_imports(number, frame)
    raise Ended(number)


def _leave_imports(number: int, frame: FrameType | None) -> None:
    """End at once in the midst of an import: libraries have much to say about one that is interrupted."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTS:
            with contextlib.suppress(OSError):
                os.write(2, (RESTORED if os.isatty(2) else b"") + b"gptlite: error: interrupted.\n")
            os._exit(128 + number)
        frame = frame.f_back


def _open_standard_files() -> None:
    """Occupy what a shell's >&- has closed, or the next file to be opened gets what libraries write to file 2."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
