"""Each call that only Unix has is made in one place, beside what Windows gets instead.

docs/explain/platforms.md says what each place does on Windows; without_unix.py takes the calls away and runs them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gptlite import system

LIBRARY = Path(__file__).parent.parent.parent / "gptlite"
# What a file imports, names or has in a string, and the files in which that may be.
HOMES = {
    r"fcntl": {"storage/locks.py", "storage/durable.py"},  # locks; flushing on macOS
    r"resource": {"system.py"},
    r"fork|forkpty|setsid|setpgid|killpg|getppid|start_new_session": {"system.py"},
    r"SIGHUP|SIGBREAK|SIGKILL|SIGCONT|SIGSTOP|SIGPIPE|SIGALRM|SIGCHLD|SIGUSR\d|CTRL_BREAK_EVENT": {"system.py"},
    r"sched_getaffinity|prctl|raise_signal": {"system.py"},
    r"symlink|symlink_to|hardlink_to|posix_fallocate|posix_fadvise": {"storage/durable.py"},
    r"/proc/self/fd.*": {"system.py"},
    r"/proc/(meminfo|self/cgroup)|/sys/.*": {"device.py"},
    r"/proc.*cpuinfo|memfd_create": {"kernels/build.py"},
    r"pwd|grp|O_PATH": {"kernels/folder.py"},
    r"geteuid|getuid|getegid|getgid|st_uid": {"kernels/folder.py", "kernels/build.py", "text/token_files.py"},
    r"termios|tty|pty|mkfifo|setitimer|pthread_sigmask|chroot|wait4|waitpid": set(),
}  # fmt: skip
SAID = {"training/launch.py": {"SIGKILL", "getppid"}}  # names a signal in a message; torchrun's own process


def words(path: Path) -> set[str]:
    """Modules, names, attributes and strings of a file, its docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword):
            found.add(node.arg or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def strays(path: str, found: set[str]) -> set[str]:
    """Of what a file has, what belongs elsewhere."""
    away = re.compile("|".join(pattern for pattern, homes in HOMES.items() if path not in homes))
    return {word for word in found if away.fullmatch(word)} - SAID.get(path, set())


def test_what_only_unix_has_is_used_at_home() -> None:
    for path in sorted(LIBRARY.rglob("*.py")):
        name = path.relative_to(LIBRARY).as_posix()
        assert strays(name, words(path)) == set(), name


def test_every_home_is_used() -> None:
    for pattern, homes in HOMES.items():
        for home in homes:
            assert any(re.fullmatch(pattern, word) for word in words(LIBRARY / home)), f"{pattern} is not in {home}"


def test_a_stray_is_found(tmp_path: Path) -> None:
    source = 'import fcntl\nimport os\nos.fork()\nopen("/proc/meminfo")\ngetattr(signal, "SIGHUP")\n'
    (tmp_path / "a.py").write_text(source, encoding="utf-8")
    assert strays("a.py", words(tmp_path / "a.py")) == {"fcntl", "fork", "/proc/meminfo", "SIGHUP"}


# -- The branches for Windows in system.py


class Process:
    """A process that only remembers what was done to it."""

    pid = 1

    def __init__(self) -> None:
        self.done: list[Any] = []

    def poll(self) -> int | None:
        return 1 if "kill" in self.done else None

    def kill(self) -> None:
        self.done.append("kill")

    def wait(self) -> None:
        self.done.append("wait")

    def send_signal(self, number: object) -> None:
        self.done.append(number)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`system` alone believes that it is on Windows."""
    names = ("path", "getpid", "cpu_count")
    monkeypatch.setattr(
        system, "os", types.SimpleNamespace(name="nt", **{name: getattr(system.os, name) for name in names})
    )
    raised: list[int] = []
    calls = {"SIGTERM": 15, "CTRL_BREAK_EVENT": "break", "raise_signal": raised.append, "raised": raised}
    monkeypatch.setattr(system, "signal", types.SimpleNamespace(**calls))


@pytest.mark.usefixtures("windows")
def test_processes_are_grouped_asked_and_ended_without_signals_of_unix() -> None:
    process: Any = Process()
    assert system.own_group() == {"start_new_session": False, "creationflags": system.NEW_GROUP}
    assert getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", system.NEW_GROUP) == system.NEW_GROUP
    system.ask_to_end(process, 2)
    system.end_group(process)
    system.end_group(process)
    assert process.done == ["break", "kill", "wait"]
    system.end_by_signal()
    assert system.signal.raised == [15]  # type: ignore[attr-defined]
    assert system.count_processors() >= 1


@pytest.mark.usefixtures("windows")
def test_the_end_of_a_parent_is_seen_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    there = types.SimpleNamespace(pid_exists=lambda number: number == 7)
    monkeypatch.setitem(sys.modules, "psutil", there)
    assert not system.is_gone(7) and system.is_gone(8)


def test_without_resource_nothing_limits_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    system.allow_open_files(10)


def test_a_group_is_ended_with_its_children() -> None:
    child = "import time; print(1, flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **system.own_group())
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    system.end_group(process)
    assert process.stdout.read() == b"", "the child has ended too"
    process.stdout.close()
