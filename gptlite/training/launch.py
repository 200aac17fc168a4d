"""Starting the processes of a training on this machine, and ending them together.

Each process is a `gptlite` of its own that finds the others by environment variables, as torchrun sets them; the table
through which they meet (a `TCPStore`) is kept here. A signal to the launcher reaches every process once: they finish
their step and save. A second one ends them at once. They end when one of them fails, and when the launcher is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from gptlite import system
from gptlite.errors import ProcessError, UsageError, plural
from gptlite.system import ENDING_SIGNALS, count_processors

LAUNCHER = "GPTLITE_LAUNCHER"  # the environment variable that holds the launcher's process id
POLL_SECONDS = 0.1
WAIT_SECONDS = 20.0  # after a signal, before a person is told what is waited for
PEERS_SECONDS = 10.0  # in which the others notice by themselves that a process failed
GRACE_SECONDS = 600.0  # to finish a step and save it, after a signal
ORPHAN_SECONDS = 60.0  # the same where the launcher is gone

Notice = Callable[[str], None]


def count_processes(asked: int, n_gpus: int) -> int:
    """How many processes to start here when `asked` for; 0 means one for each GPU. Raises `UsageError` for too many."""
    most, what = (n_gpus, "GPU") if n_gpus else (count_processors(), "processor")
    if asked > most:
        raise UsageError(f"`gpus={asked}` is more than this machine has: {plural(most, what)}.")
    return asked or max(1, n_gpus)


def launch(arguments: Sequence[str], n: int, notice: Notice = lambda text: None) -> int:
    """Run `gptlite ARGUMENTS...` as `n` processes on this machine; the exit code of the first one that failed, or 0.

    - `notice`: told what keeps the processes from ending, where they take long after a signal.
    Raises `ProcessError` when one of them was killed.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    with _signals() as received:
        group = _Group()
        try:
            for rank in range(n):
                group.start([sys.executable, "-m", "gptlite", *arguments], _environment(rank, n, store.port))
            return _watch(group, received, notice)
        finally:
            group.kill()


@dataclass
class _Group:
    """The processes by rank, and those that ended, in the order in which they did."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        # A terminal's Ctrl-C reaches only the launcher, which passes it on once.
        self.processes.append(subprocess.Popen(command, env=environment, **system.own_group()))

    @property
    def running(self) -> list[int]:
        """Ranks of the processes that have not ended."""
        for rank, process in enumerate(self.processes):
            if rank not in self.ended and process.poll() is not None:
                self.ended.append(rank)
        return [rank for rank in range(len(self.processes)) if rank not in self.ended]

    @property
    def failure(self) -> tuple[int, int] | None:
        """Rank and code of the first process that ended with another code than 0."""
        codes = ((rank, self.processes[rank].returncode) for rank in self.ended)
        return next((found for found in codes if found[1]), None)

    def send(self, number: int) -> None:
        """Send a signal to all processes that run."""
        for rank in self.running:
            with contextlib.suppress(OSError):  # it has just ended
                system.ask_to_end(self.processes[rank], number)

    def kill(self) -> None:
        """End all that run, at once."""
        for rank in self.running:
            with contextlib.suppress(OSError):  # it has just ended
                self.processes[rank].kill()


def _watch(group: _Group, received: list[int], notice: Notice) -> int:
    """Wait for the end of all; signals that are `received` are passed on. Returns and raises as `launch`."""
    asked = failed = None  # when the first signal came, and when the first process failed
    told = ended_others = False
    while running := group.running:
        now = time.monotonic()
        if len(received) > 1:
            break
        if asked is None and received:
            asked = now
            group.send(received[0])
        elif asked is not None and now > asked + GRACE_SECONDS:
            break
        elif asked is not None and not told and now > asked + WAIT_SECONDS:
            told = True
            notice(
                f"{plural(len(running), 'process', 'processes')} of {len(group.processes)} did not finish the step and "
                f"save it within {WAIT_SECONDS:.0f} s of the signal; still waiting. A second signal ends them at once, "
                "and the newest saved step stays."
            )
        if failed is None and group.failure:
            failed = now
        elif failed is not None and not ended_others and now > failed + PEERS_SECONDS:
            ended_others = True
            group.send(signal.SIGTERM)
        elif failed is not None and now > failed + PEERS_SECONDS + WAIT_SECONDS:
            break
        time.sleep(POLL_SECONDS)
    failure = group.failure
    if group.running:
        group.kill()
        if failure is None:
            return 128 + received[0]
    if failure is None:
        return 0
    rank, code = failure
    if code > 0:  # it has said why
        return code
    name = signal.Signals(-code).name
    why = ", as a system does that runs out of memory" if name == "SIGKILL" else ""
    raise ProcessError(f"process {rank} of {len(group.processes)} was ended by {name}{why}.")


def _environment(rank: int, n: int, port: int) -> dict[str, str]:
    """What process `rank` of `n` is told, in the words of torchrun."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_PORT": port}
    return {
        "OMP_NUM_THREADS": str(max(1, count_processors() // n)),
        **os.environ,
        **{name: str(value) for name, value in place.items()},
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there already
        "TORCHELASTIC_RESTART_COUNT": "0",
        LAUNCHER: str(os.getpid()),
    }


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that asked for the end, in a list that grows; those that were ignored still are."""
    received: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
        numbers = [number for number in ENDING_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- What a process knows of those that were started with it


def processes() -> int:
    """How many processes were started together with this one, itself included; 1 where the environment does not say."""
    try:
        return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else 1
    except (KeyError, ValueError):
        return 1


def rank_and_host() -> str:
    """The number of this process among all, and its machine."""
    return f"{os.environ.get('RANK', '0')} on {socket.gethostname()}"


def processes_here() -> int:
    """How many of them run on this machine."""
    with contextlib.suppress(ValueError):
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return 1


def end_with_launcher() -> None:
    """Watch the launcher, ours or torchrun, from now on: when it is gone, save and end, as after SIGTERM.

    A process that somebody else started is left alone, for a shell that started it may be closed.
    """
    if LAUNCHER in os.environ:
        launcher = int(os.environ[LAUNCHER])
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
    else:
        return
    system.wake_when_parent_ends()
    threading.Thread(target=_wait_for_end_of, args=(launcher,), name="launcher", daemon=True).start()


def _wait_for_end_of(launcher: int) -> None:
    while not system.is_gone(launcher):
        time.sleep(POLL_SECONDS)
    system.end_by_signal()
    time.sleep(ORPHAN_SECONDS)
    os._exit(128 + signal.SIGTERM)  # it waits for a process that does not answer
