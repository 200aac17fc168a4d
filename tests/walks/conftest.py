"""One model of the built-in text, trained for three seconds, for all walks and all processes of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sharing import made_once

from gptlite.cli.main import run

TIME = "3s"


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("GPTLITE_CACHE", str(folder / "cache"))
            assert run(["train", "--demo", "--time", TIME, "-o", "demo", "-q"]) == 0

    return made_once(tmp_path_factory, "walks", make) / "demo"
