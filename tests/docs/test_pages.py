"""The commands of docs/train.md and docs/generate.md run in the order of the page; only trainings are shorter."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import TRAIN_TINY, Command, make_text

DOCS = Path(__file__).parent.parent.parent / "docs"
SHORT = " ".join(("--steps", "2", *TRAIN_TINY[2:]))


def commands(name: str) -> list[str]:
    found = re.findall(r"^    gptlite (.+)$", (DOCS / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) >= 8
    return found


def test_the_commands_of_the_page_about_training(gptlite: Command) -> None:
    """`--time 3m` is two steps of a tiny model. `--gpus auto` needs a GPU and is left out."""
    Path("folder").mkdir()
    for name, seed in (("corpus.txt", 0), ("letters.txt", 1), ("folder/one.txt", 2), ("folder/two.txt", 3)):
        Path(name).write_text(make_text(seed=seed), encoding="utf-8")
    Path("stories.txt").write_text("<|endoftext|>".join(make_text(40, seed) for seed in range(9)), encoding="utf-8")
    rows = "".join(f"{number},{line}\n" for number, line in enumerate(make_text().splitlines()))
    Path("table.csv").write_text(f"id,text\n{rows}", encoding="utf-8")
    for command in commands("train.md"):
        if "--gpus auto" in command:
            continue
        short = "--steps 2" if "--init-from" in command else SHORT
        if "--tokenizer" in command:
            short = short.replace("--vocab-size 320", "")
        outcome = gptlite(*shlex.split(re.sub(r"--time \S+", short, command)))
        assert outcome.code == 0, (command, outcome.err)


def test_the_commands_of_the_page_about_generating(
    gptlite: Command, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTLITE_MODEL", str(trained_run))
    Path("prompt.txt").write_text("Ada finds", encoding="utf-8")
    Path("prompts.csv").write_text("id,prompt\n1,Ada finds\n2,Bela opens\n", encoding="utf-8")
    for command in commands("generate.md"):
        outcome = gptlite(*shlex.split(command), stdin=b"Ada\n/quit\n")
        assert outcome.code == 0, (command, outcome.err)
        assert outcome.out or "-o" in command, command
