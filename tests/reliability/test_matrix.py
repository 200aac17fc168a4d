"""Every row of the fault matrix has a test that carries its id, or a written reason why it has none."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LETTERS = "CDPKNRGES"


def with_a_test() -> set[str]:
    """The ids in the marks `row("C01", ...)` of all tests."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    marks = (arguments for source in sources for arguments in re.findall(r"\brow\(([^)]*)\)", source))
    return {row for arguments in marks for row in re.findall(r'"([A-Z]\d\d)"', arguments)}


def listed(page: str) -> list[str]:
    """The ids at the beginning of the table rows of a page."""
    text = (ROOT / "docs" / "explain" / page).read_text(encoding="utf-8")
    return re.findall(r"^\| ([A-Z]\d\d) \|", text, re.MULTILINE)


def test_the_rows_are_numbered_without_gaps() -> None:
    rows = listed("reliability-matrix.md")
    numbers = {letter: [int(row[1:]) for row in rows if row[0] == letter] for letter in LETTERS}
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values()), numbers
    assert sum(map(len, numbers.values())) == len(rows) > 216


def test_each_row_has_a_test_or_a_reason() -> None:
    rows, reasons, tested = (set(x) for x in (listed("reliability-matrix.md"), listed("reliability.md"), with_a_test()))
    assert sorted(rows - tested - reasons) == []
    assert sorted(tested & reasons) == []
    assert sorted((tested | reasons) - rows) == []


def test_the_pages_say_how_many_rows_there_are() -> None:
    n = len(listed("reliability-matrix.md"))
    for page in ("docs/explain/reliability.md", "README.md", "CHANGELOG.md"):
        assert re.search(rf"\b{n}\b (rows|faults)", (ROOT / page).read_text(encoding="utf-8")), f"{page}: {n} rows"
