"""Every command of the how-to pages runs as it stands, in order; only trainings are shorter."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import Command, make_text

PAGES = sorted((Path(__file__).parent.parent.parent / "docs" / "howto").glob("*.md"))
FILE = re.compile(r"`([\w.-]+\.(?:csv|tsv|txt|jsonl))`:\n(?:\nin pandas:\n)?\n```\w+\n(.*?)```", re.DOTALL)
SHORT = "--steps 20 --layers 2 --dim 32 --heads 2 --context 64"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page(gptlite: Command, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    Path("corpus.txt").write_text(make_text(2000), encoding="utf-8")
    for name, content in FILE.findall(text):
        Path(name).write_text(content, encoding="utf-8")
    commands = re.findall(r"^    gptlite (.+)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        arguments = shlex.split(re.sub(r"--time \S+", SHORT, command).replace("--vocab-size 8k", "--vocab-size 400"))
        outcome = gptlite(*arguments)
        assert outcome.code == 0, f"gptlite {command}\n{outcome.err}"
        if "-o" in arguments and arguments[0] != "train":
            assert Path(arguments[arguments.index("-o") + 1]).stat().st_size
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        pytest.importorskip("pandas")
        exec(code, {"__name__": "page"})
