"""gptlite score --plot: what is drawn, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import Command
from support.browser import Page
from support.pages import needs_browser

from gptlite.distribution import install_hint

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("Ada finds | the river | and the <b>bank .\nBela paints .\n", encoding="utf-8")
    return path


def test_words_stand_under_the_bars_of_each_text(gptlite: Command, trained_run: Path, texts: Path) -> None:
    outcome = gptlite("score", texts, "-m", trained_run, "-m", trained_run / "..", "--plot", "out.svg")
    assert outcome.code == 4, "a model that is none is refused before anything is drawn"
    assert not Path("out.svg").exists()
    assert gptlite("score", texts, "-m", trained_run, "--plot", "out.svg").code == 0
    svg = Path("out.svg").read_text(encoding="utf-8")
    for word in ("Ada", "finds", "river", "&lt;", "paints"):
        assert f">{word}</text>" in svg
    first, second = 11, 3  # words and punctuation marks
    assert svg.count('aria-roledescription="bar"') == first + second
    assert svg.count('aria-roledescription="rect mark"') == first, "the second text has no regions"
    assert "surprisal (bits)" in svg and "line 2" in svg


def test_a_page_and_a_picture(gptlite: Command, trained_run: Path, texts: Path) -> None:
    assert gptlite("score", texts, "-m", trained_run, "--base", "e", "--plot", "out.html").code == 0
    page = Path("out.html").read_text(encoding="utf-8")
    assert "surprisal (nats)" in page and "<bdi>Ada</bdi>" in page and "<b>bank" not in page
    assert gptlite("score", texts, "-m", trained_run, "--plot", "out.png", "-q").code == 0
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")


@needs_browser
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_opens_without_a_network(
    gptlite: Command, trained_run: Path, texts: Path, page: Page, width: int
) -> None:
    assert gptlite("score", texts, "-m", trained_run, "--plot", "out.html").code == 0
    page.resize(width)
    page.open(Path("out.html"))
    page.wait_for("document.querySelectorAll('svg [aria-roledescription=bar]').length >= 14")
    assert page.errors == [] and page.requests == [Path("out.html").resolve().as_uri()]


def test_a_file_is_kept_unless_forced(gptlite: Command, trained_run: Path, texts: Path) -> None:
    Path("out.svg").write_text("mine")
    outcome = gptlite("score", texts, "-m", trained_run, "--plot", "out.svg")
    assert outcome.code == 2 and "--plot out.svg: the file exists" in outcome.err
    assert Path("out.svg").read_text() == "mine"
    assert gptlite("score", texts, "-m", trained_run, "--plot", "out.svg", "--force").code == 0


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        ("a\n" * 13, "--plot o.svg", 3, "x.txt, line 13: a plot shows up to 12 texts"),
        ("a " * 150 + "a", "--plot o.svg", 3, "up to 150 bars per text, and this text needs 151"),
        ("a", "--plot o.pdf", 2, "--plot o.pdf: the name must end in .svg, .png, .html or .htm"),
        ("a", "--plot o.svg --unit sentence", 2, "--unit must be word, token or region"),
        ("a", "--plot o.svg -o o.csv", 2, "--plot"),
        ("a", "--plot o.svg --pairs", 2, "--plot"),
        ("a", "--plot no/o.svg", 5, "there is no folder no"),
    ],
)
def test_what_cannot_be_drawn(
    gptlite: Command, trained_run: Path, content: str, options: str, code: int, message: str
) -> None:
    Path("x.txt").write_text(content, encoding="utf-8")
    outcome = gptlite("score", "x.txt", "-m", trained_run, *options.split())
    assert (outcome.code, outcome.out) == (code, "") and message in outcome.err
    assert not Path("o.svg").exists()


def test_without_the_libraries(
    gptlite: Command, trained_run: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    outcome = gptlite("score", texts, "-m", trained_run, "--plot", "out.svg")
    assert outcome.code == 2 and install_hint("report") in outcome.err
