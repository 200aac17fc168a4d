"""gptlite as a process of its own, where a test is about signals, limits, pipes or what a process leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND = (sys.executable, "-m", "gptlite")


@dataclass(frozen=True)
class Ended:
    """How a process ended: `code` is negative for a signal, `peak` its largest resident memory in bytes."""

    code: int
    out: bytes
    err: bytes
    seconds: float
    peak: int


def run(
    *arguments: object,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    wrapper: Sequence[str] = (),
) -> Ended:
    """Run `gptlite ARGUMENTS...`, behind `wrapper` (such as strace) if one is given; kill it at `timeout`."""
    command = [*wrapper, *COMMAND, *(str(a) for a in arguments)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
        )
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        if process.stdin is not None:
            try:
                process.stdin.write(stdin or b"")
                process.stdin.close()
            except BrokenPipeError:
                pass
        _, status, usage = os.wait4(process.pid, 0)
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Ended(process.returncode, out.read(), err.read(), time.monotonic() - began, usage.ru_maxrss * 1024)
