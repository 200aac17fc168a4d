"""What an installation offers: a package that editors and type checkers find, and a clone that runs by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_commands_lie_in_the_package_and_are_linked_at_the_top() -> None:
    link = ROOT / "cli"
    if not link.is_symlink():  # a checkout on a system without links has a file that holds the target's name
        assert link.read_text(encoding="utf-8").strip() == "gptlite/cli"
        return
    assert link.resolve() == (ROOT / "gptlite" / "cli").resolve()


@pytest.mark.parametrize("module", ["gptlite", "gptlite.cli"])
def test_a_clone_runs_without_being_installed(tmp_path: Path, module: str) -> None:
    shutil.copytree(ROOT / "gptlite", tmp_path / "gptlite", ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "gptlite" / "__init__.py"
    source = package.read_text(encoding="utf-8")
    assert '__version__ = "' in source
    package.write_text(source.replace('__version__ = "', '__version__ = "9.'), encoding="utf-8")
    ended = run(sys.executable, "-m", module, "--version", cwd=tmp_path)
    assert ended.stdout.startswith("gptlite 9."), ended.stderr


def test_an_editable_installation_is_a_path_that_type_checkers_follow(tmp_path: Path) -> None:
    pyright = shutil.which("pyright", path=os.path.dirname(sys.executable))
    if pyright is None:
        pytest.skip("pyright is not installed beside this Python")
    user = tmp_path / "user.py"
    user.write_text(
        "import gptlite\nfrom gptlite.cli.main import main\nfrom gptlite.model import GPT\n\n"
        "reveal_type(gptlite.load)\nreveal_type(main)\nreveal_type(GPT.forward)\n"
    )
    ended = run(pyright, "--pythonpath", sys.executable, user, cwd=tmp_path)
    assert "could not be resolved" not in ended.stdout and "0 errors" in ended.stdout, ended.stdout
    assert "Unknown" not in ended.stdout, ended.stdout


def test_every_folder_with_code_is_a_package() -> None:
    """Folders without an `__init__.py` would be left out of what is installed."""
    for path in (ROOT / "gptlite").rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), path.parent
