"""Standard input: read as often as needed, and gone with the process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gptlite.system import OPEN_FILES
from gptlite.text.reading import check_file
from gptlite.text.spool import spooled_stdin, sweep


def test_standard_input_can_be_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"some text\n")))
    with spooled_stdin(Path("cache")) as path:
        assert [check_file(path).size for _ in range(2)] == [10, 10]
        if Path(OPEN_FILES).exists():
            assert list(Path("cache").iterdir()) == [], "the copy has no name"
    assert list(Path("cache").iterdir()) == []


def test_without_open_files_by_name_the_copy_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptlite.system.OPEN_FILES", "nowhere")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"some text\n")))
    with spooled_stdin(Path("cache")) as path:
        assert path.parent.name == "cache" and check_file(path).size == 10
        sweep(Path("cache"))
        assert path.exists(), "it is in use"
    assert list(Path("cache").iterdir()) == []


@pytest.mark.row("C46")
def test_what_older_versions_left_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cache").mkdir()
    Path("cache/stdin-abc.txt").write_text("a secret")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"some text\n")))
    with spooled_stdin(Path("cache")):
        assert not Path("cache/stdin-abc.txt").exists()


@pytest.mark.row("C46")
@pytest.mark.skipif(not Path(OPEN_FILES).exists(), reason="files without a name are not opened again here")
def test_a_killed_process_leaves_no_text_in_the_cache() -> None:
    code = (
        "from pathlib import Path; from gptlite.text.spool import spooled_stdin; import sys, time\n"
        "with spooled_stdin(Path('cache')):\n    print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"a secret\n" * 1000)
    process.stdin.close()
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(Path("cache").iterdir()) == []
