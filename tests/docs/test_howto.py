"""Every command of the how-to pages runs as it stands, in order; only trainings are shorter."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import Command, make_text

PAGES = sorted((Path(__file__).parent.parent.parent / "docs" / "howto").glob("*.md"))
FILE = re.compile(r"`([\w.-]+\.(?:csv|tsv|txt|jsonl))`:\n(?:\nin pandas:\n)?\n```\w+\n(.*?)```", re.DOTALL)
SHORT = "--steps 20 --layers 2 --dim 32 --heads 2 --context 64"


def write_records() -> None:
    """The tables and conversations that a page describes without showing them whole."""
    lines = make_text(400).splitlines()
    pairs = [(a[:20], b[:20]) for a, b in zip(lines[:200], lines[200:], strict=True)]
    Path("faq.csv").write_text("question,answer\n" + "".join(f"{a},{b}\n" for a, b in pairs), encoding="utf-8")
    Path("letters.csv").write_text("author,text\n" + "".join(f"Bela,{line}\n" for line in lines), encoding="utf-8")
    chats = ([{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs)
    records = "".join(json.dumps({"messages": messages}) + "\n" for messages in chats)
    Path("chat.jsonl").write_text(records, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page(gptlite: Command, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    Path("corpus.txt").write_text(make_text(2000), encoding="utf-8")
    write_records()
    for name, content in FILE.findall(text):
        Path(name).write_text(content, encoding="utf-8")
    commands = re.findall(r"^    gptlite (?!serve)(.+)$", text, re.MULTILINE)  # `serve` runs until it is stopped
    assert commands
    for command in commands:
        short = "--steps 20" if "--init-from" in command else SHORT  # the model of which has its own shape
        arguments = shlex.split(re.sub(r"--time \S+", short, command).replace("--vocab-size 8k", "--vocab-size 400"))
        outcome = gptlite(*arguments)
        assert outcome.code == 0, f"gptlite {command}\n{outcome.err}"
        if "-o" in arguments and arguments[0] != "train":
            assert Path(arguments[arguments.index("-o") + 1]).stat().st_size
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        pytest.importorskip("pandas")
        exec(code, {"__name__": "page"})
