"""Every row of the fault matrix has a test that carries its id, or a written reason why it has none."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LAST_OF = {"C": 40, "D": 22, "P": 24, "K": 43, "N": 13, "R": 18, "G": 26, "E": 13, "S": 17}
ROWS = {f"{letter}{number:02}" for letter, last in LAST_OF.items() for number in range(1, last + 1)}


def with_a_test() -> set[str]:
    """The ids in the marks `row("C01", ...)` of all tests."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    marks = (arguments for source in sources for arguments in re.findall(r"\brow\(([^)]*)\)", source))
    return {row for arguments in marks for row in re.findall(r'"([A-Z]\d\d)"', arguments)}


def listed(page: str) -> list[str]:
    """The ids at the beginning of the table rows of a page."""
    return re.findall(r"^\| ([A-Z]\d\d) \|", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_matrix_is_complete() -> None:
    rows = listed("reliability-matrix.md")
    assert len(rows) == len(set(rows)) == 216
    assert set(rows) == ROWS


def test_each_row_has_a_test_or_a_reason() -> None:
    reasons = listed("reliability.md")
    assert sorted(ROWS - with_a_test() - set(reasons)) == []
    assert sorted(with_a_test() & set(reasons)) == []
    assert sorted((with_a_test() | set(reasons)) - ROWS) == []
