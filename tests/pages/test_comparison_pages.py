"""The pages of a comparison and of several runs in a browser without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import Page
from support.comparisons import made, made_masked, made_of_pairs
from support.pages import HOSTILE, NO_ELEMENTS, needs_browser

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from gptlite.report import comparison, pair_comparison, runs
from gptlite.report.comparison import Comparison
from gptlite.report.runs import Runs

NASTY = "".join(part for parts in HOSTILE for part in parts)


def page_of(kind: str, text: str = "corpus") -> str:
    if kind == "pairs":
        of_pairs = made_of_pairs()
        of_pairs["contenders"][0]["answers"][0]["prompt"] = of_pairs["contenders"][0]["answers"][0]["written"] = text
        of_pairs["contenders"][0]["attention"]["prompt"][0] = text
        return pair_comparison.render(Comparison(of_pairs, explained=True))
    if kind != "runs":
        found = made()
        found["prompt"] = found["contenders"][0]["sample"] = text
        found["masked"] = {**made_masked(), "sample": text}
        return comparison.render(Comparison(found, kind, explained=True))
    lines = [{"step": i, "elapsed": i / 2, "val_bits_per_byte": 3 - i / 100, "train_loss": 4.0} for i in range(1, 40)]
    names = [text, "other"]
    results = [["", "bits per byte"], *([name, "2.0000"] for name in names)]
    return runs.render(Runs(dict.fromkeys(names, lines), "", [f"{text} is better"], results, [["", *names]]))


def show(page: Page, content: str, *, width: int = 1200, scheme: str = "light") -> None:
    Path("page.html").write_text(content, encoding="utf-8")
    page.resize(width)
    page.prefer(scheme)
    page.open(Path("page.html"))
    page.wait_for("document.body?.dataset.shown !== undefined")


@needs_browser
@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [("en", 400, "dark"), ("zh", 1920, "light"), ("runs", 400, "light"), ("pairs", 400, "dark")],
)
def test_pages_fit_the_window_and_ask_for_nothing(page: Page, kind: str, width: int, scheme: str) -> None:
    show(page, page_of(kind, "y" * 200), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    charts = "[...document.querySelectorAll('.chart svg, .chart canvas')]"
    assert page.evaluate(f"Math.max(...{charts}.map((x) => x.getBoundingClientRect().right))") <= width
    assert page.nameless() == []
    assert page.click_everything() > 0
    assert page.errors == [] and page.requests == [Path("page.html").resolve().as_uri()]


@needs_browser
@pytest.mark.parametrize("kind", ["en", "runs", "pairs"])
def test_hostile_text_does_nothing(page: Page, kind: str) -> None:
    show(page, page_of(kind, NASTY))
    assert page.evaluate("window.hacked") is None
    assert page.evaluate(NO_ELEMENTS) == 0
    assert page.errors == []
