"""The Chinese pages have the commands, the output, the Python and the figures of the English ones.

The commands of the English pages are run by tests/docs/test_readme.py and test_pages.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAIRS = [("README.md", "README.zh.md"), ("docs/tutorial.md", "docs/zh/tutorial.md")]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    \S.*(?:(?<=\\)\n.*)*", re.MULTILINE)


def parts(page: str) -> tuple[list[str], list[str], set[str]]:
    """The fenced blocks, the commands without their comments, and the numbers of the other text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = FENCED.findall(text)
    text = FENCED.sub("", text)
    commands = [re.sub(r"\s+# .*", "", line).rstrip() for line in INDENTED.findall(text)]
    prose = re.sub(r"\]\([^)]*\)", "]", INDENTED.sub("", text))  # without addresses
    return blocks, commands, set(re.findall(r"\d[\d.,]*\d|\d", prose))


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_commands_output_and_figures_are_the_same(english: str, chinese: str) -> None:
    blocks, commands, figures = parts(english)
    their_blocks, their_commands, their_figures = parts(chinese)
    assert commands and their_commands == commands
    assert blocks and their_blocks == blocks
    assert figures - their_figures == set()
    assert their_figures - figures <= {"18030"}  # GB 18030, an encoding


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_have_the_same_sections(english: str, chinese: str) -> None:
    counted = [re.findall(r"^(#+) ", FENCED.sub("", (ROOT / page).read_text(encoding="utf-8")), re.MULTILINE)
               for page in (english, chinese)]  # fmt: skip
    assert counted[0] == counted[1]


@pytest.mark.parametrize(("_english", "chinese"), PAIRS)
def test_a_page_that_was_not_reviewed_says_so(_english: str, chinese: str) -> None:
    assert "本页尚未经中文流利的读者审阅" in (ROOT / chinese).read_text(encoding="utf-8")[:200]


def test_a_figure_that_differs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "a.md").write_text("    gptlite runs  # all\n\nIt takes 2.5 s.\n")
    assert parts("a.md") == ([], ["    gptlite runs"], {"2.5"})
