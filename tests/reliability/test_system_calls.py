"""The system calls themselves, killed and failed by strace: what the shim of faults.py does, from outside of Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import LEFTOVER, Run

SCRIPT = Path(__file__).parent / "one_save.py"
CALLS = "openat,open,write,fsync,fallocate,close,mkdir,rename,renameat,symlink,unlink,unlinkat,rmdir"


def traced(run: Path, *inject: str) -> list[str]:
    """What strace wrote down, in one save, of its system calls and of what was done to them."""
    log = run.parent / "log"
    options = ["-o", log, "-e", f"trace={CALLS},access,faccessat,faccessat2", *inject]
    subprocess.run(["strace", *options, sys.executable, SCRIPT, run], capture_output=True, check=False)
    return log.read_text(errors="replace").splitlines()


def was_hit(lines: list[str]) -> bool:
    """Did the fault come, and in the save?"""
    at = [i for i, line in enumerate(lines) if "INJECTED" in line or line.startswith(("--- SIG", "+++ killed"))]
    begin = next((i for i, line in enumerate(lines) if '"/begin"' in line), len(lines))
    assert not at or at[0] > begin, "a call before the save was hit"
    return bool(at)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """Each system call of a save: its name, and how many of that name came before it in the whole program."""
    if shutil.which("strace") is None or subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("strace is missing or not permitted")
    lines = traced(tmp_path_factory.mktemp("count") / "run")
    calls = [match[1] for line in lines if (match := re.match(r"(\w+)\(", line))]
    begin, end = [i for i, name in enumerate(calls) if "access" in name][-2:]
    return [(calls[i], calls[:i].count(calls[i])) for i in range(begin + 1, end)]


KEPT = ("latest", "table_history.safetensors")


def check(run: Run, failed: bool) -> None:
    announced = (run.path.parent / "announced").is_symlink()
    for step in run.step_directories():
        saved_step.verify(step)
    assert run.step_to_resume().name in (("step-000000002",) if announced else ("step-000000001", "step-000000002"))
    strange = [p.name for p in run.path.iterdir() if not p.name.startswith("step-") and p.name not in KEPT]
    assert all(LEFTOVER.fullmatch(name) for name in strange) and len(strange) <= 2
    if not failed:
        assert announced


@pytest.mark.row("P07", "P08", "D01", "D02", "D11", "D12")
@pytest.mark.parametrize("every", [30, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "fault", ["signal=SIGKILL", "signal=SIGINT", "error=ENOSPC", "error=EIO", "error=EINTR", "error=EDQUOT"]
)
def test_any_system_call_of_a_save_may_fail(
    places: list[tuple[str, int]], tmp_path: Path, fault: str, every: int
) -> None:
    hit = 0
    assert {"openat", "write", "fsync", "rename", "close", "unlinkat"} <= {name for name, _ in places}
    chosen = places[len(fault) % every :: every]
    for k, (name, before) in enumerate(chosen):
        (tmp_path / str(k)).mkdir()
        run = Run(tmp_path / str(k) / "run")
        hit += was_hit(traced(run.path, "-e", f"inject={name}:{fault}:when={before + 1}"))
        check(run, failed=not fault.endswith(("SIGINT", "EINTR")))
    assert hit >= 0.9 * len(chosen) > 0
