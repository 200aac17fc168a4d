"""docs/reference: errors.md, files.md and glossary.md say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gptlite import errors
from gptlite.checkpoint import run_info

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_every_exit_code_and_every_error_has_a_row() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| (?:`(\w+)`)? ?\|", page("errors.md"), re.MULTILINE)
    written = {name: codes for codes, name in rows if name}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    assert len(kinds) > 8
    for kind in kinds:
        if kind is errors.Interrupted:
            assert written["Interrupted"] == "129, 130, 143"
        elif kind is not errors.GptliteError:  # the base of the others
            assert written[kind.__name__] == str(kind.exit_code)
    assert {codes for codes, name in rows if not name} == {"0", "1"}
    sections = re.findall(r"^## (\d+):", page("errors.md"), re.MULTILINE)
    assert set(sections) <= set(written.values())


def test_every_file_of_a_run_is_named(trained_run: Path) -> None:
    text = page("files.md")
    for path in trained_run.rglob("*"):
        if path.is_symlink() or path.is_file():
            name = re.sub(r"^step-\d+/", "", path.relative_to(trained_run).as_posix())
            assert f"`{name}`" in text, name


def test_every_key_of_the_metrics_is_named(trained_run: Path) -> None:
    lines = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    section = page("files.md").partition("## metrics.jsonl")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    assert set().union(*lines) <= named
    assert named - set().union(*lines) == {"val_exact_match", "sample"}  # of pairs, and of --sample-every


def test_the_keys_of_run_json_that_are_named_exist() -> None:
    section = page("files.md").partition("## run.json")[2].partition("\n## ")[0]
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert named and set(named) <= set(run_info.RunInfo.__annotations__)


def test_the_glossary_is_sorted() -> None:
    terms = [
        re.sub(r"[^a-z0-9 ]", "", term.lower())
        for term in re.findall(r"^\*\*(.+?)\.\*\*", page("glossary.md"), re.MULTILINE)
    ]
    assert len(terms) > 40
    assert terms == sorted(terms)
