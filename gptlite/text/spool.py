"""Standard input as a file that can be read more than once, and that does not outlive the process.

Where the system can open a file without a name again, the copy has none: when the process ends, however it ends, the
text is gone. Elsewhere it is a file that is locked while it is in use and removed afterwards. Files that killed
processes have left are removed by the next process that reads standard input.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlite import system
from gptlite.errors import StorageError, UsageError, system_reason
from gptlite.storage.locks import HAS_FLOCK, lock_file
from gptlite.text.reading import READ_SIZE

PREFIX = "stdin-"


@contextmanager
def spooled_stdin(directory: Path) -> Iterator[Path]:
    """The path of a copy of standard input in `directory`, for as long as the context lasts.

    Raises `UsageError` where standard input is a terminal, and `StorageError` where there is no space.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("- reads standard input, but nothing is piped into it; try: cat FILES | gptlite train -")
    descriptor, name = -1, None
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            sweep(directory)
            descriptor, name = tempfile.mkstemp(dir=directory, prefix=PREFIX, suffix=".txt")
            path = Path(name)
            lock_file(descriptor, shared=True)
            if (again := system.name_of(descriptor)) is not None:
                path.unlink(missing_ok=True)
                path, name = Path(again), None
            with os.fdopen(os.dup(descriptor), "wb") as file:
                while raw := sys.stdin.buffer.read(READ_SIZE):
                    file.write(raw)
        except OSError as error:
            raise StorageError(f"cannot keep standard input in {directory}: {system_reason(error)}.") from error
        yield path
    finally:
        if descriptor >= 0:
            os.close(descriptor)  # first, because Windows deletes no open file
        if name is not None:
            Path(name).unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Remove copies of standard input that no process has locked."""
    for path in directory.glob(f"{PREFIX}*.txt"):
        with contextlib.suppress(OSError):
            if not HAS_FLOCK:
                path.unlink()  # fails where a process has it open
                continue
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if lock_file(descriptor, wait=False):
                    path.unlink()
            finally:
                os.close(descriptor)


def scratch_file(directory: Path) -> tuple[Path, int]:
    """The path and the descriptor of an empty file that is gone when the descriptor is closed, or the process ends.

    Raises `OSError`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sweep(directory)
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=PREFIX, suffix=".txt")
    lock_file(descriptor, shared=True)
    if (again := system.name_of(descriptor)) is not None:
        Path(name).unlink(missing_ok=True)
        return Path(again), descriptor
    atexit.register(_unlink, Path(name))
    return Path(name), descriptor


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows deletes no open file; the next process that reads standard input does
        path.unlink(missing_ok=True)
