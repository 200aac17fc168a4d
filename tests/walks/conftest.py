"""One model of the built-in text, trained for twelve seconds, for all walks and all processes of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from gptlite.cli.main import run

TIME = "3s"


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # one of several processes, which share the folder above
        shared = shared.parent
    folder = shared / "walks"
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        folder.mkdir(exist_ok=True)
        patch.chdir(folder)
        patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
        if not (folder / "demo" / "best").exists():
            assert run(["train", "--demo", "--time", TIME, "-o", "demo", "-q"]) == 0
    yield folder / "demo"
