"""Six people use gptlite, command after command, on a terminal of 80 columns: the files `*.walk` beside this one.

A line that begins with `$` is a command. The lines with `|` after it say what it has to do: `exit 2|3` is the exit code
(0 where nothing is said), `shows` and `never` are patterns for what arrives on the terminal, `makes` names a file. RUN
is a model of the built-in text, trained for three seconds, once per run of the tests.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.screens import Terminal
from walks.texts import write_texts

WALKS = sorted(Path(__file__).parent.glob("*.walk"))
NEVER = (
    r"Traceback",
    r"\b1 (threads|heads|layers|tokens|words|files|texts|steps|samples|bytes|models|places|rows|documents)\b",
    r"\d{4,} tokens/s",
    r"<bool>",
    r"gptlite\.(cli|training|text|generation|checkpoint|evaluation|embedding|storage)\b",  # modules are not for people
    r"(?<![\w.])_[a-z]+\(",
)


@dataclass
class Step:
    """One command of a walk and what it has to do."""

    line: int
    arguments: list[str]
    codes: set[int] = field(default_factory=lambda: {0})
    shows: list[str] = field(default_factory=list)
    never: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)


def read_walk(path: Path) -> Iterator[Step]:
    step: Step | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("$ gptlite"):
            if step:
                yield step
            step = Step(number, shlex.split(line[2:])[1:])
        elif line.startswith("| "):
            assert step is not None, f"{path.name}:{number}"
            kind, _, value = line[2:].partition(" ")
            if kind == "exit":
                step.codes = {int(code) for code in value.split("|")}
            else:
                {"shows": step.shows, "never": step.never, "makes": step.makes}[kind].append(value)
        else:
            assert not line or line.startswith("#"), f"{path.name}:{number}: {line}"
    if step:
        yield step


def plain(arrived: str) -> str:
    """What a person reads: without colours, and each line as it stood last."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", arrived).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rpartition("\r")[2] for line in lines)


def test_there_are_six_walks_of_fifteen_commands() -> None:
    assert [len(list(read_walk(path))) for path in WALKS] == [15] * 6


@pytest.mark.parametrize("path", WALKS, ids=lambda path: path.stem)
def test_a_walk(path: Path, terminal: Terminal, demo_run: Path) -> None:
    write_texts()
    wrong = [problem for step in read_walk(path) for problem in problems_of(step, terminal, demo_run)]
    assert not wrong, "\n\n".join(f"{path.name}:{problem}" for problem in wrong)


def problems_of(step: Step, terminal: Terminal, demo_run: Path) -> Iterator[str]:
    """What a command did that it should not have done, each with all that it showed."""
    arguments = [str(demo_run) if word == "RUN" else word for word in step.arguments]
    code, arrived = terminal(*(arguments or ["--help"]), columns=80)  # as the command does by itself
    seen = plain(arrived)
    joined = " ".join(seen.split())  # patterns may lie across the end of a line
    where = f"{step.line}: gptlite {shlex.join(arguments)} (exit {code})\n{seen}"
    if code not in step.codes:
        yield f"exit code\n{where}"
    for pattern in step.shows:
        if not re.search(pattern, seen) and not re.search(pattern, joined):
            yield f"{pattern!r} is missing\n{where}"
    for pattern in (*step.never, *NEVER):
        if re.search(pattern, seen):
            yield f"{pattern!r} must not appear\n{where}"
    for name in step.makes:
        if not Path(name).is_file() or not Path(name).stat().st_size:
            yield f"there is no {name}\n{where}"
