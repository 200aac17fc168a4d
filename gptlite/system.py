"""What systems differ in: calls that only Unix or only Linux has, each with what other systems get in its place.

Other such calls have homes of their own: links, flushing and renaming in storage/durable.py, locks in storage/locks.py,
free memory in device.py, machine code in kernels/. tests/platforms/test_homes.py lists them all. `cli/process.py`
imports this module before anything else, so it imports only what Python has imported by then.
"""

from __future__ import annotations

# Python's `signal` without its enumerations, which take longer to import than all the rest.
import _signal as signal  # pyright: ignore[reportMissingImports]
import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import subprocess
    from typing import TypedDict

    class Group(TypedDict):
        start_new_session: bool
        creationflags: int


# Signals after which a command saves and ends. SIGHUP exists on Unix only, SIGBREAK (Ctrl-Break) on Windows only.
ENDING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
CLOSED_PIPE = getattr(signal, "SIGPIPE", 13)  # the signal that ends a program when the reader of its output has left
OPEN_FILES = "/proc/self/fd"  # Linux: a folder whose entries are the open files of this process, by descriptor
NEW_GROUP = 0x200  # CREATE_NEW_PROCESS_GROUP of Windows
PR_SET_PDEATHSIG = 1  # of Linux's prctl


# -- Processes


def count_processors() -> int:
    """Processors that this process may use; where the system does not say, those of the computer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_group() -> Group:
    """Options of `subprocess.Popen` for a process that a terminal's Ctrl-C does not reach.

    Unix: a session of its own. Windows: a process group of its own.
    """
    is_windows = os.name == "nt"
    return {"start_new_session": not is_windows, "creationflags": NEW_GROUP if is_windows else 0}


def ask_to_end(process: subprocess.Popen[bytes], number: int) -> None:
    """Send the signal `number` to a process that has an `own_group`, and wake it if it is stopped. Raises `OSError`.

    Windows gets Ctrl-Break instead: other signals would end the process without its handler.
    """
    if os.name == "nt":
        process.send_signal(signal.CTRL_BREAK_EVENT)  # pyright: ignore[reportAttributeAccessIssue]
        return
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that has an `own_group`, and on Unix its children too, at once. Nothing happens if it has ended."""
    if process.poll() is not None:
        return
    with contextlib.suppress(OSError):  # it ended in between
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def wake_when_parent_ends() -> None:
    """Linux: when the parent process ends, this one goes on if it was stopped. Nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


def is_gone(parent: int) -> bool:
    """Has the process `parent`, which started this one, ended?"""
    if os.name != "nt":  # an orphan gets another parent
        return os.getppid() != parent
    import psutil  # on Windows a process keeps the number of a parent that has ended

    return not psutil.pid_exists(parent)


def end_by_signal() -> None:
    """Send SIGTERM to this process, so that its handler runs."""
    if os.name == "nt":  # os.kill would end the process without its handler
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_reader() -> None:
    """End silently when the reader of the output has left, as in `gptlite generate | head`. Nothing on Windows."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


# -- Memory and open files


def peak_memory() -> int | None:
    """The most bytes of main memory that this process has had; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows, which has the peak of the working set
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def allow_open_files(n: int) -> None:
    """Let this process have n files and connections open, as far as the system allows. Windows has no such limit."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = n if hard == resource.RLIM_INFINITY else min(n, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_of(descriptor: int) -> str | None:
    """A path that opens the same file again, even if it has been deleted; None where the system has no such paths."""
    path = f"{OPEN_FILES}/{descriptor}"
    return path if os.path.exists(path) else None


def place_of(descriptor: int) -> str | None:
    """Where an open file or directory is now; None where the system does not say."""
    try:
        return os.readlink(f"{OPEN_FILES}/{descriptor}")
    except OSError:
        return None
