"""Locks between processes.

Where the system has `flock`, the kernel releases them when a process ends, however it ends. Windows has none. There,
filelock locks a file of its own, and `lock_file` has nothing to do: a file that a process has open can be neither
deleted nor renamed, which is what its callers lock it for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HAS_FLOCK = fcntl is not None
FILE = ".lock"  # what filelock locks in a directory where there is no flock


class HeldElsewhereError(Exception):
    """Another process holds the lock."""


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file; False where another process has it and `wait` is off.

    Windows and some network file systems have no such locks; there, nothing is locked and the answer is True.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def hold(descriptor: int, directory: Path) -> filelock.BaseFileLock | None:
    """Lock an open file of `directory` for as long as it is open; where there is no flock, a file beside it.

    Returns what to `release`, None where closing the file does that. Raises `HeldElsewhereError`, also where the file
    system has no locks.
    """
    if fcntl is None:
        beside = filelock.FileLock(directory / FILE, timeout=0)
        try:
            beside.acquire()
        except filelock.Timeout as error:
            raise HeldElsewhereError from error
        return beside
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise HeldElsewhereError from error
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: hold the lock of the directory `path`. Raises `OSError`."""
    if fcntl is None:
        with filelock.FileLock(path / FILE):
            yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock_file(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
