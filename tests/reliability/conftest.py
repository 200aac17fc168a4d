"""A command on a terminal, without a process."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator

import pytest
from reliability.screens import Screen, Terminal

from gptlite.cli.main import run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Run a command on a terminal: terminal("info", "run") -> exit code, what arrived there."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")

    def call(*arguments: object, columns: int = 100) -> tuple[int, str]:
        screen = Screen(columns)
        with monkeypatch.context() as patch:
            for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
                raw = open(os.dup(screen.slave), mode + "b", buffering=0)  # noqa: SIM115
                file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
                patch.setattr(sys, name, file)
            streams = (sys.stdin, sys.stdout, sys.stderr)
            code = run([str(a) for a in arguments])
            for stream in streams:
                stream.close()
        return code, screen.close()

    yield call
