"""The lock of a run: one trainer at a time, and only in the directory that it locked.

A lock follows the file, a path does not: `run` may be deleted, moved or made anew while its trainer works. So the
trainer keeps the directory open and writes through that descriptor, which no other directory can take the place of, and
before it announces anything it sees whether the path still leads there.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import filelock

from gptlite import system
from gptlite.errors import RunInUseError, StorageError, system_reason
from gptlite.storage import durable, locks

NAME = "LOCK"
OWNER = re.compile(r"process \d+ since [\d: -]+")
TRIES = 10  # at a directory that is deleted or moved each time between its opening and its locking


class RunLostError(StorageError):
    """The directory of a run was deleted, moved or replaced while its trainer worked."""


class RunLock:
    """A run directory, made where there is none, locked and held open until `close`.

    - `at`: the descriptor of the directory to write through; None on systems without such calls.
    Raises `RunInUseError` when another process holds the lock, and `StorageError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at: int | None = None
        self._beside: filelock.BaseFileLock | None = None  # what is locked where the system has no flock
        for _ in range(TRIES):
            self._open()
            try:
                self._take()
                if self._is_here():
                    return
            except BaseException:
                self.close()
                raise
            self.close()  # somebody deleted or moved the directory after it was opened
        raise StorageError(f"cannot lock {path}: it is deleted or moved again and again.")

    def close(self) -> None:
        os.close(self._lock)
        if self._beside is not None:
            self._beside.release()
            self._beside = None
        if self.at is not None:
            os.close(self.at)
            self.at = None

    def check(self) -> None:
        """Before a write. Raises `RunLostError` where the LOCK in the directory is no longer the one that is held."""
        if self._same(self._stat(NAME if self.at is not None else self.path / NAME, self.at)):
            return
        here = self._stat(self.path)
        if here is None or self.at is None or not os.path.samestat(here, os.fstat(self.at)):
            self.check_place()
        raise RunLostError(
            f"{self.path / NAME} was deleted or replaced, so another process may train there; nothing more is "
            "written. Earlier steps are intact."
        )

    def check_place(self, saved: str = "") -> None:
        """After a write, perhaps of the step `saved`. Raises `RunLostError` where the path leads elsewhere."""
        if self._is_here():
            return
        kept = f"{saved} is saved there" if saved else "the steps saved so far are there"
        where = self._moved_to()
        raise RunLostError(
            f"{self.path} was moved to {where} while it was trained in; {kept}, and training can be resumed there."
            if where is not None
            else f"{self.path} was deleted or replaced while it was trained in; nothing more is written."
        )

    def _open(self) -> None:
        try:
            durable.make_directory(self.path)
            self.at = durable.open_directory(self.path)
            flags = os.O_RDWR | os.O_CREAT | durable.CAREFULLY | getattr(os, "O_NONBLOCK", 0)
            place = self.path / NAME if self.at is None else NAME
            self._lock = os.open(place, flags, 0o666, dir_fd=self.at)
        except OSError as error:
            if self.at is not None:
                os.close(self.at)
                self.at = None
            raise StorageError(f"cannot write to {self.path}: {system_reason(error)}.") from error

    def _take(self) -> None:
        """Lock the open file, and write into it who has it, for people."""
        try:
            durable.check_own_file(self._lock)
        except OSError as error:
            if os.fstat(self._lock).st_nlink:
                raise StorageError(f"cannot lock {self.path / NAME}: {error.strerror}.") from error
        try:
            self._beside = locks.hold(self._lock, self.path)
        except locks.HeldElsewhereError as error:
            owner = OWNER.match(os.read(self._lock, 100).decode(errors="replace"))
            raise RunInUseError(
                f"another process trains in {self.path}{f' ({owner[0]})' if owner else ''}; "
                "wait for it, or choose another directory with `out`."
            ) from error
        with contextlib.suppress(OSError):  # on a full disk nobody learns who it is
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())

    def _is_here(self) -> bool:
        """Does the path lead to the file that is locked?"""
        return self._same(self._stat(self.path / NAME))

    def _same(self, facts: os.stat_result | None) -> bool:
        return facts is not None and os.path.samestat(facts, os.fstat(self._lock))

    def _stat(self, place: Path | str, at: int | None = None) -> os.stat_result | None:
        try:
            return os.stat(place, dir_fd=at, follow_symlinks=False)
        except OSError:
            return None

    def _moved_to(self) -> Path | None:
        """Where the directory is now; None where it was deleted, or nobody says."""
        if self.at is None or not self._same(self._stat(NAME, self.at)):
            return None
        place = system.place_of(self.at)
        return Path(place) if place and self._same(self._stat(Path(place) / NAME)) else None
