"""The progress of counted work: what it says, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command, make_text
from support.screens import Terminal

from gptlite.cli.score.items import Items
from gptlite.cli.shared import console, progress


def test_the_bar_says_what_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.CountedProgress(console.Messages(quiet=True), "text", 1000)
    shown.skip(200)
    now[0] += 10
    shown.update(600)
    line = "".join(text for text, _ in shown.line(100))
    assert " 60%" in line and "600 of 1,000 texts" in line and "40 texts/s" in line and "10 s left" in line
    assert all(len("".join(text for text, _ in shown.line(width))) <= width for width in (30, 60, 100))
    shown.update(1200)
    assert shown.fraction == 1.0
    unknown = progress.CountedProgress(console.Messages(quiet=True), "text", None)
    unknown.update(7)
    assert "".join(text for text, _ in unknown.line(80)) == "scoring · 7 texts"


def test_rows_are_counted_before_they_are_read() -> None:
    Path("a.txt").write_text("one\n\n \ntwo", encoding="utf-8")
    Path("b.csv").write_text('text,n\n"two\nlines",1\n\nshort,2\n', encoding="utf-8")
    Path("c.jsonl").write_text('{"text": "x"}\nnot json\n', encoding="utf-8")
    assert [Items([name]).count() for name in ("a.txt", "b.csv", "c.jsonl", "-", "gone.txt")] == [2, 2, 2, None, None]
    assert Items(["a.txt", "b.csv"]).count() == 4 == len(list(Items(["a.txt", "b.csv"])))


def test_a_terminal_has_a_bar_and_quiet_has_none(
    gptlite: Command, terminal: Terminal, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("lines.txt").write_text(make_text(600), encoding="utf-8")
    code, screen = terminal("score", "lines.txt", "-m", trained_run, "-o", "a.csv")
    assert code == 0 and "━" in screen and "600 texts" in screen
    assert "━" not in terminal("score", "lines.txt", "-m", trained_run, "-o", "b.csv", "-q")[1]
    assert "━" not in terminal("score", "lines.txt", "-m", trained_run)[1], "the rows are there already"
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    plain = gptlite("score", "lines.txt", "-m", trained_run, "-o", "c.csv")
    assert " 85% 512 of 600 texts" in plain.err and "100% 600 of 600 texts" in plain.err
    assert gptlite("score", "lines.txt", "-m", trained_run, "-o", "d.csv", "-q").err == ""
