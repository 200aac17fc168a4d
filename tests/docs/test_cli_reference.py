"""The reference of the command line is what the commands offer, options that help pages leave out included."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from support.commands import COMMANDS

from gptlite.cli.shared import parsing

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / parsing.REFERENCE
EXPERTS = "### Options for experts"


def sections() -> dict[str, str]:
    parts = re.split(r"^## gptlite (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def listed(table: str) -> list[str]:
    """The options of a table, one for each row."""
    rows = re.findall(r"^\| (`-[^|]*`) \|", table, re.MULTILINE)
    return [row.strip("`").split("`, `")[0] for row in rows]


def test_the_reference_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    assert made["render"]()[PAGE] == PAGE.read_text(encoding="utf-8"), "run: make reference"


def test_the_manual_page_is_current() -> None:
    page = PAGE.with_name("gptlite.1")
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    assert made["render"]()[page] == page.read_text(encoding="utf-8"), "run: make reference"


def test_the_manual_page_shows_every_command_and_option_of_the_help_pages() -> None:
    page = PAGE.with_name("gptlite.1").read_text(encoding="utf-8").replace(r"\-", "-")
    for name, command in COMMANDS.items():
        part = page.partition(f".SS gptlite {name} ")[2].partition(".SS")[0]
        for option in (p for p in command.params if p.param_type_name == "option" and not p.hidden):
            assert re.search(rf"^\.B {re.escape(option.opts[0])}\b", part, re.MULTILINE), (name, option.opts)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_listed_once_and_hidden_ones_as_for_experts(name: str) -> None:
    shown, _, experts = sections()[name].partition(EXPERTS)
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    assert sorted(listed(shown)) == sorted(p.opts[0] for p in options if not p.hidden)
    assert sorted(listed(experts)) == sorted(p.opts[0] for p in options if p.hidden)
