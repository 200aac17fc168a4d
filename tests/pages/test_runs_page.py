"""The page of several runs in a browser: its curves, hostile names, narrow windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.browser import Page
from support.pages import HOSTILE, NO_ELEMENTS, Elements, needs_browser, seen

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from gptlite.report import runs
from gptlite.report.runs import Runs

NASTY = "".join(part for parts in HOSTILE for part in parts)


def log(moved: float) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 0, "elapsed": 1.0, "tokens": 0, "val_bits_per_byte": 4 + moved}]
    return lines + [
        {
            "step": 10 * i, "elapsed": 1.0 + 2 * i, "tokens": 640 * i, "train_loss": 5 - i / 10 + moved,
            "tokens_per_second": 900 + i, "val_bits_per_byte": 4 - i / 10 + moved,
        }
        for i in range(1, 11)
    ]  # fmt: skip


def of(*names: str) -> Runs:
    return Runs(
        metrics={name: log(i / 10) for i, name in enumerate(names)},
        result=f"{names[0]} is as uncertain as a choice among 8.0 bytes",
        verdict=[f"{names[0]} is better."],
        results=[["", "bits per byte"], *([name, "3.0"] for name in names)],
        settings=[["", *names], ["lr", *("0.1" for _ in names)]],
    )


def show(page: Page, shown: Runs, *, width: int = 1200, scheme: str = "light") -> None:
    Path("page.html").write_text(runs.render(shown), encoding="utf-8")
    page.resize(width)
    page.prefer(scheme)
    page.open(Path("page.html"))
    page.wait_for("document.body?.dataset.shown !== undefined")


def check_quiet(page: Page) -> None:
    assert page.errors == [] and page.requests == [Path("page.html").resolve().as_uri()]


def test_names_of_runs_make_no_elements() -> None:
    attacked, tame = Elements(runs.render(of(NASTY, "b"))), Elements(runs.render(of("a", "b")))
    assert [name for name, _ in attacked.elements] == [name for name, _ in tame.elements]
    attacked.check_attributes()


def test_figures_have_bits_over_each_axis() -> None:
    figures = runs.figures(of("a", "b"))
    assert set(figures) == {"bits", "bits-elapsed", "bits-tokens", "loss", "speed"}
    bare = [{"step": 1, "val_bits_per_byte": 2.0}]  # of an old log
    assert set(runs.figures(Runs({"a": bare}, "", [], [[""]], [[""]]))) == {"bits"}


@needs_browser
def test_curves_are_drawn_over_steps_seconds_or_tokens(page: Page) -> None:
    show(page, of("a", "b"))
    for field, name, last in (("elapsed", "seconds", 21), ("tokens", "tokens read", 6400), ("step", "step", 100)):
        page.evaluate(f"document.querySelector('#axes [value={field}]').click()")
        page.wait_for("document.body.dataset.shown !== undefined")
        for chart in ("bits", "loss", "speed"):
            assert page.evaluate(f"document.querySelector('#{chart} .role-axis-title text').textContent") == name
            assert page.evaluate(f"views['{chart}'].scale('x').domain()[1]") == pytest.approx(last, rel=0.25)
    assert page.nameless() == []
    check_quiet(page)


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
def test_hostile_names_do_nothing_and_the_page_fits_the_window(page: Page, width: int, scheme: str) -> None:
    show(page, of(NASTY, "y" * 200), width=width, scheme=scheme)
    assert seen(NASTY)[:200] in page.evaluate("document.body.textContent")
    assert page.evaluate("window.hacked") is None and page.evaluate(NO_ELEMENTS) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    charts = "[...document.querySelectorAll('.chart svg, .chart canvas')]"
    assert page.evaluate(f"Math.max(...{charts}.map((x) => x.getBoundingClientRect().right))") <= width
    check_quiet(page)
