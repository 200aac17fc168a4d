"""Starting the processes of a training: signals, failures, and an end when the launcher is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import Command
from support.teams import TINY, metrics, train, wait_for_step

from gptlite.checkpoint.runs import Run
from gptlite.training import launch

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")


@pytest.mark.slow
def test_gptlite_starts_the_processes_itself(corpus_file: Path, tmp_path: Path) -> None:
    line = train("corpus.txt", *TINY, "--steps", "20", "--gpus", "2", "-o", "run", "--json")
    ended = subprocess.run([str(c) for c in line], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["step"] == 20 and "2 processes" in ended.stderr
    assert "torch" not in ended.stderr and "W1" not in ended.stderr, "the launcher says nothing of itself"


@pytest.mark.row("P27")
@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_and_ends_all(corpus_file: Path, tmp_path: Path) -> None:
    line = train("corpus.txt", *TINY, "--steps", "100k", "--gpus", "2", "-o", "run")
    process = subprocess.Popen([str(c) for c in line], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_step(tmp_path / "run", 1, log=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "which is saved; continue with: gptlite train --resume -o run --gpus 2" in err and "Traceback" not in err
    assert Run(tmp_path / "run").latest()


@pytest.mark.slow
def test_torchrun_starts_them(corpus_file: Path, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d")
    line = (*torchrun, "--rdzv-endpoint", "localhost:0", "-m", "gptlite", "train", "corpus.txt", *TINY)
    line = (*line, "--steps", "20", "-o", "run", "--json", "--logger", "tensorboard")
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["step"] == 20
    assert len(metrics(tmp_path / "run")) == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1, "the first process alone writes"


def test_gpus_asks_the_launcher(gptlite: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[list[str], int]] = []
    monkeypatch.setattr(sys, "argv", ["gptlite", "train", "corpus.txt"])
    monkeypatch.setattr(launch, "launch", lambda arguments, n, notice: launched.append((arguments, n)) or 5)
    monkeypatch.setattr(launch, "count_processors", lambda: 3)
    monkeypatch.setattr("gptlite.device.count_gpus", lambda: 0)
    assert gptlite("train", "corpus.txt", "--gpus", "2").code == 5, "the code of the processes"
    assert launched == [(["train", "corpus.txt"], 2)]
    outcome = gptlite("train", "corpus.txt", "--processes", "4")
    assert outcome.code == 2 and "more than this machine has: 3 processors" in outcome.err
    monkeypatch.setattr("gptlite.device.count_gpus", lambda: 8)
    assert gptlite("train", "corpus.txt", "--gpus", "auto").code == 5
    assert launched[1:] == [(["train", "corpus.txt"], 8)]
    outcome = gptlite("train", "corpus.txt", "--gpus", "9")
    assert outcome.code == 2 and "8 GPUs" in outcome.err


def test_who_was_started_as_one_of_several_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from gptlite.cli import process

    for place, launched, follows in (({}, False, False), ({"RANK": "0"}, True, False), ({"RANK": "1"}, True, True)):
        monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "2", **place})
        assert (process.is_launched(), process.follows()) == (launched, follows)
        assert launch.processes() == (2 if launched else 1)


# Signals and failures


def alive(pid: int) -> bool:
    """Does the process run? One that has ended and that nobody has asked about (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def ranks(launcher: int) -> list[int]:
    """The processes that a launcher started, by rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted((int(pid) for pid in children), key=lambda pid: int(read_environment(pid)["RANK"]))


def read_environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


@contextlib.contextmanager
def launched(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two processes that train and have logged, started by `gptlite train --gpus 2`; all are gone afterwards."""
    line = train("corpus.txt", *TINY, "--steps", "1M", "--gpus", "2", "-o", "run")
    process = subprocess.Popen([str(c) for c in line], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    started: list[int] = []
    try:
        wait_for_step(tmp_path / "run", 1, log=True)
        started = ranks(process.pid)
        yield process
    finally:
        process.kill()
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.row("P27")
@linux
@pytest.mark.slow
def test_a_stopped_process_is_woken_by_a_signal_to_the_launcher(corpus_file: Path, tmp_path: Path) -> None:
    with launched(tmp_path) as process:
        both = ranks(process.pid)
        os.kill(both[1], signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "which is saved; continue with" in err
        assert not any(map(alive, both))
    assert Run(tmp_path / "run").latest()


@pytest.mark.row("P27")
@linux
@pytest.mark.slow
def test_a_second_signal_ends_all_at_once(corpus_file: Path, tmp_path: Path) -> None:
    """The second process is stopped again whenever it is woken, so that the first one waits for it."""
    with launched(tmp_path) as process:
        both = ranks(process.pid)
        os.kill(both[1], signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        for _ in range(20):
            os.kill(both[1], signal.SIGSTOP)
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 130 and time.monotonic() - began < 3
        assert not any(map(alive, both))


@pytest.mark.row("P27")
@linux
@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "one is stopped"])
def test_processes_save_and_end_when_their_launcher_is_killed(corpus_file: Path, tmp_path: Path, stopped: bool) -> None:
    with launched(tmp_path) as process:
        both = ranks(process.pid)
        if stopped:
            os.kill(both[1], signal.SIGSTOP)
        process.kill()
        until = time.monotonic() + 30
        while any(map(alive, both)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(alive, both))
    assert Run(tmp_path / "run").latest()


@linux
@pytest.mark.slow
def test_a_process_that_is_killed_is_named(corpus_file: Path, tmp_path: Path) -> None:
    with launched(tmp_path) as process:
        os.kill(ranks(process.pid)[1], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 9, err
        assert "process 1 of 2 was ended by SIGKILL" in err


class Child:
    """A process that ends with `code` once it was asked `polls` times, or at a signal that it does not ignore."""

    def __init__(self, code: int, polls: int = 1, ignores: tuple[int, ...] = ()) -> None:
        self.code, self.polls, self.ignores = code, polls, ignores
        self.returncode: int | None = None
        self.received: list[int] = []

    def poll(self) -> int | None:
        self.polls -= 1
        if self.polls < 0 and self.returncode is None:
            self.returncode = self.code
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.received.append(number)
        if number != signal.SIGCONT and number not in self.ignores:
            self.returncode = -number

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second for each look at the processes."""
    now = [0.0]
    monkeypatch.setattr(launch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(launch.time, "sleep", lambda _: now.__setitem__(0, now[0] + 1))


def watched(*children: Child, received: Sequence[int] = ()) -> tuple[int, list[str]]:
    group, notices = launch._Group(list(children)), []  # pyright: ignore[reportArgumentType]
    return launch._watch(group, list(received), notices.append), notices


def test_the_code_is_that_of_the_first_that_failed(clock: None) -> None:
    assert watched(Child(0), Child(0, 4)) == (0, [])
    assert watched(Child(3), Child(9, 3)) == (3, [])
    assert watched(Child(9, 3), Child(3)) == (3, [])


def test_those_that_do_not_notice_a_failure_are_ended(clock: None) -> None:
    deaf = Child(0, 1000, ignores=(signal.SIGTERM,))
    assert watched(Child(3), deaf)[0] == 3
    assert [s for s in deaf.received if s != signal.SIGCONT] == [signal.SIGTERM, signal.SIGKILL]


def test_what_keeps_them_after_a_signal_is_said_once(clock: None) -> None:
    slow = Child(130, 60, ignores=(signal.SIGINT,))
    code, notices = watched(slow, Child(0, 60, ignores=(signal.SIGINT,)), received=[signal.SIGINT])
    assert code == 130
    assert len(notices) == 1 and notices[0].startswith("2 processes of 2 did not finish the step")
    assert slow.received == [signal.SIGINT, signal.SIGCONT]


@pytest.mark.row("P27")
def test_patience_after_a_signal_ends(clock: None) -> None:
    hanging = Child(0, 10**6, ignores=(signal.SIGINT,))
    assert watched(hanging, received=[signal.SIGINT])[0] == 130
    assert hanging.returncode == -signal.SIGKILL


@pytest.mark.row("P27")
def test_only_a_launcher_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts the processes from a shell may close it."""
    monkeypatch.delenv(launch.LAUNCHER, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(launch.threading, "Thread", lambda **_: pytest.fail("nobody is to be watched"))
    launch.end_with_launcher()
