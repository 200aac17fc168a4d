"""docs/interop.md keeps its word: each gptlite command on it runs, in the order of the page, and its Python too."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import Command, make_text
from support.foreign import save, shake, their_llama

from gptlite.text.tokenizer import Tokenizer

PAGE = (Path(__file__).parent.parent.parent / "docs/interop.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    gptlite (.+)$", PAGE, re.MULTILINE)
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(trained_run: Path, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A folder with what the page speaks of."""
    for name, seed in (("corpus", 0), ("letters", 1), ("chapter", 2)):
        Path(f"{name}.txt").write_text(make_text(seed=seed) + "The bank of the river .\n")
    shutil.copytree(trained_run, "checkpoints/corpus", symlinks=True)
    save(shake(their_llama(num_key_value_heads=2)), tokenizer, tmp_path / "their-model")
    return tmp_path


def test_the_page_shows_every_road() -> None:
    assert len(COMMANDS) >= 8 and len(PYTHON) == 1
    assert {line.split()[0] for line in COMMANDS} >= {"train", "export", "info", "generate", "eval", "embed"}
    assert all(flag in " ".join(COMMANDS) for flag in ("--init-from", "--tokenizer", "--verify"))


@pytest.mark.hf
def test_every_command_runs(gptlite: Command, place: Path) -> None:
    pytest.importorskip("gguf")
    for line in COMMANDS:
        if "--verify" in line:
            pytest.importorskip("llama_cpp")
        arguments = shlex.split(re.sub(r"--time \S+", "--steps 2 --batch-size 4", line))
        outcome = gptlite(*arguments)
        assert outcome.code == 0, (line, outcome.err)


@pytest.mark.hf
def test_every_piece_of_python_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in PYTHON:
        exec(source, {})
    assert "Ada finds" in capsys.readouterr().out
