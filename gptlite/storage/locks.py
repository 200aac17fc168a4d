"""Locks that the kernel releases when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file; False where another process has it and `wait` is off.

    Windows and some network file systems have no such locks; there, nothing is locked and the answer is True.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: hold the lock of the directory `path`. Raises `OSError`."""
    if os.name == "nt":  # directories cannot be opened, and there are no such locks
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock_file(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
