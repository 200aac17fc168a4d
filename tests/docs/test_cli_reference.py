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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_listed_once_and_hidden_ones_as_for_experts(name: str) -> None:
    shown, _, experts = sections()[name].partition(EXPERTS)
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    assert sorted(listed(shown)) == sorted(p.opts[0] for p in options if not p.hidden)
    assert sorted(listed(experts)) == sorted(p.opts[0] for p in options if p.hidden)
