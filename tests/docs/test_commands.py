"""Commands and options that the README and the pages of docs/ name exist; docs/lab/log.md is a record, left out."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptlite.cli import main
from gptlite.cli.shared import options

ROOT = Path(__file__).parent.parent.parent
DOCS = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != "log.md")
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "checkpoints/README.md")), *DOCS]
LINK = re.compile(r"\]\(([^)]+)\)")
CODE_SPAN = re.compile(r"`([^`]+)`")
IN_BLOCK = re.compile(r"^(?: {4,}|.*-m )(gptlite [a-z].*)$")
# Of torchrun, hf and Slurm; and one that docs/explain/reliability.md says does not exist.
FOREIGN = {"--nproc-per-node", "--nnodes", "--local-dir", "--rdzv-id", "--signal", "--config"}


@functools.cache
def find(name: str) -> Any:
    return main.find_command(name)


def options_of(command: Any) -> set[str]:
    """The options of a command, both spellings of a switch included, and those that every command has."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in own if name.startswith("-")} | {"-h", "--help"}


def everything() -> set[str]:
    found: set[str] = {"--version", "-V", "--install-completion", "--show-completion"}
    for name in main.COMMANDS:
        command = find(name)
        for one in (command, *getattr(command, "commands", {}).values()):
            found |= options_of(one)
    return found


def unknown(words: list[str]) -> str | None:
    """What does not exist in the words of a command after `gptlite`; None where all of it does."""
    if not words or words[0].startswith(("-", "[", "COMMAND")):
        return None
    if words[0] == "help":
        return None if words[1:2] in ([], ["COMMAND"]) or find(words[1]) else f"gptlite help {words[1]}"
    command = find(words[0])
    if command is None:
        return f"gptlite {words[0]}"
    groups = getattr(command, "commands", None)
    if groups is not None and len(words) > 1 and not words[1].startswith("-"):
        named = words[1].split("|")
        if missing := [name for name in named if name not in groups]:
            return f"gptlite {words[0]} {missing[0]}"
        known = set[str]().union(*(options_of(groups[name]) for name in named))
    elif groups is not None:
        known = set[str]().union(*(options_of(one) for one in groups.values()))
    else:
        known = options_of(command)
    for word in words[1:]:
        name = re.match(r"--?[a-zA-Z][\w-]*", word.strip("[]()"))
        if name and _plain(name[0]) not in known:
            return f"gptlite {words[0]} ... {name[0]}"
    return None


def _plain(option: str) -> str:
    """An option under the name that the help page has."""
    return f"--{options.normalise(option[2:])}" if option.startswith("--") else option


def mentions(text: str) -> Iterator[list[str]]:
    """Commands as lines of a block, and as code in a sentence, with `gptlite` before them or without."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if match := IN_BLOCK.match(line):
            yield _split(match[1])[1:]
    prose = re.sub(r"```.*?```", "", joined, flags=re.DOTALL)
    for span in CODE_SPAN.findall(re.sub(r"\s+", " ", prose)):
        words = _split(span)
        if words[:1] == ["gptlite"]:
            yield words[1:]
        elif words[1:] and find(words[0]) and any(word.startswith("--") for word in words):
            yield words


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command, comments=True)
    except ValueError:  # a quotation mark that stands alone
        return command.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_named_exist(page: Path) -> None:
    missing = [gone for words in mentions(page.read_text(encoding="utf-8")) if (gone := unknown(words))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_are_named_alone_exist(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {_plain(name) for name in re.findall(r"`(--[a-z][a-z_-]+)", prose)} - FOREIGN
    assert named - everything() == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b(?:tests|gptlite|benchmarks|docs)/[\w./-]+\.(?:py|md|c|csv|svg)\b", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    links = [link.split("#")[0] for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.split("#")[0]).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in (ROOT / "docs").rglob("*.md") if page != index} - linked == set()


@pytest.mark.parametrize(
    "command",
    [
        "embed --nearest king",
        "embed bank --kwic",
        "embed --eval x.tsv",
        "kwic",
        "words closest king",
        "gone",
        "train --no",
    ],
)
def test_what_does_not_exist_is_found(command: str) -> None:
    assert [unknown(words) for words in mentions(f"`gptlite {command}`")] != [None]
    assert [unknown(words) for words in mentions(f"    gptlite {command}\n")] != [None]
