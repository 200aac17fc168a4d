"""The page of occurrences: what stands in it, and what a browser without a network makes of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from support.browser import Page
from support.pages import BANKS, HOSTILE, Elements, needs_browser
from support.pages import occurrences_of as made

from gptlite.distribution import install_hint
from gptlite.errors import UsageError

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from gptlite.report.occurrences import MOST, Occurrences, figures, render
from gptlite.report.page import draw


def numbered(n: int, n_characters: int = 150) -> list[tuple[str, str, str]]:
    return [(f"{i} " + "word " * (n_characters // 5), "bank", " and so on.") for i in range(n)]


# -- What stands in the page


@pytest.mark.row("S04")
def test_text_makes_no_elements() -> None:
    tame = {"bank": "bank", "<b>bank</b>": "river", "{{constructor}}": "song"}
    plain = Elements(render(made([("the ", tame[word], " of") for _, word, _ in HOSTILE])))
    hostile = Elements(render(made(HOSTILE)))
    assert [name for name, _ in hostile.elements] == [name for name, _ in plain.elements]
    names = {name for _, attributes in hostile.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "action", "srcset", "style")}


@pytest.mark.row("S04")
def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else() -> None:
    page = Elements(render(made(BANKS)))
    policy = next(x["content"] for x in page.all("meta") if x.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert (rules["default-src"], rules["base-uri"], rules["form-action"]) == ("'none'",) * 3
    assert all(
        re.fullmatch(r"'sha256-[\w+/=]{44}'( 'sha256-[\w+/=]{44}')?", rules[x]) for x in ("script-src", "style-src")
    )
    style = next(text for tag, text in page.texts if tag == "style")
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in rules["style-src"]


def test_the_table_says_it_all_without_a_script() -> None:
    page = render(made(BANKS))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page.split("<tbody>")[1].split("</tbody>")[0]))
    assert "She sat on the river bank and fished." in text
    assert "5 tokens" in text and "_of ⏎" in text
    cosines = made(BANKS).cosines[2][0].copy()
    cosines[0] = -1
    assert f"{cosines.argmax() + 1} ({cosines.max():.2f})" in text


def test_the_summary_compares_with_the_scale_of_the_model() -> None:
    page = render(made(BANKS))
    assert "In this model one word in two random places has 0.42 ± 0.13" in page
    assert "Their static vectors cannot be told apart: 1.00." in page
    assert "random places" not in render(made(BANKS, measured=False)).split("<script")[0]


def test_several_words_have_static_vectors_that_differ() -> None:
    page = render(made([*BANKS, ("the ", "river", " is")]))
    assert "Of their static vectors it is" in page and "5 occurrences on 2" in page


@pytest.mark.parametrize("n", [1, 2, MOST])
def test_any_number_makes_a_page(n: int) -> None:
    assert f"{n} occurrence{'s' if n > 1 else ''}</small>" in render(made(numbered(n)))


def test_a_page_of_200_has_less_than_a_megabyte() -> None:
    assert len(render(made(numbered(200), n_layers=8)).encode()) < 1_000_000


@pytest.mark.parametrize("missing", ["altair", "vl_convert"])
def test_missing_libraries_are_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=re.escape(install_hint("report"))):
        render(made(BANKS))


# -- Charts by themselves


@pytest.mark.parametrize("n", [1, 4, 50])
def test_figures_have_the_numbers_of_the_page(n: int) -> None:
    shown = made(numbered(n, 10))
    charts = figures(shown)
    assert set(charts) == {"map", "static-map", "matrix", "static-matrix", "curve"}
    cells = charts["matrix"].data["cells"]
    for cell in cells:
        i, j = cell["row"] - 1, cell["column"] - 1
        assert cell["cosine"] == pytest.approx(1 if i == j else shown.cosines[2][i, j], abs=1e-4)
    for name, figure in charts.items():
        svg, png = draw(figure)
        assert png.startswith(b"\x89PNG")
        if name == "map":
            assert svg.count('aria-roledescription="point"') == n
            assert f"axis 1: {shown.shares[2][0]:.0%} of variance" in svg
        if name == "matrix" and n == 4:
            assert f">{cells[1]['cosine']:.2f}<".replace("-", "−") in svg


# -- In a browser

POINTS = "[...document.querySelectorAll('#{} .mark-symbol path')]"


def show(page: Page, shown: Occurrences, *, width: int = 1200, scheme: str = "light") -> None:
    """Open the page of `shown` and wait for its charts."""
    path = Path("page.html")
    path.write_text(render(shown), encoding="utf-8")
    page.resize(width)
    page.prefer(scheme)
    page.open(path)
    page.wait_for("document.body?.dataset.shown !== undefined")


def places_of(page: Page, chart: str) -> list[str]:
    return page.evaluate(POINTS.format(chart) + ".map((x) => x.getAttribute('transform'))")


@needs_browser
@pytest.mark.row("S04")
def test_the_page_asks_for_nothing_and_nothing_goes_wrong(page: Page) -> None:
    show(page, made(BANKS))
    assert page.errors == []
    assert [url for url in page.requests if url != Path("page.html").resolve().as_uri()] == []


@needs_browser
@pytest.mark.row("S04")
@pytest.mark.row("S05")
def test_hostile_text_is_shown_and_does_nothing(page: Page) -> None:
    show(page, made(HOSTILE))
    page.evaluate("document.querySelector('#map').scrollIntoView()")
    tooltip = "document.querySelector('#vg-tooltip-element.visible')"
    for i, (left, _, _) in enumerate(HOSTILE):
        box = page.evaluate(f"{POINTS.format('map')}[{i}].getBoundingClientRect().toJSON()")
        page.point_at(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for(f"({tooltip}?.textContent ?? '').includes({json.dumps(left.strip())})")
    sentences = page.evaluate("[...document.querySelectorAll('#sentences .sentence')].map((x) => x.textContent)")
    for (left, word, right), found in zip(HOSTILE, sentences, strict=True):
        expected = left + word + re.sub("[\u2028\u2029\ud800]", "�", right.translate({0: "␀", 0x1B: "␛"}))
        assert found == expected
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('img, b > *, td script, td svg, iframe, object').length") == 0
    assert (page.errors, page.requests) == ([], [Path("page.html").resolve().as_uri()])


@needs_browser
def test_occurrences_are_points_apart_and_their_static_vectors_one_point(page: Page) -> None:
    show(page, made(BANKS))
    assert len(set(places_of(page, "map"))) == len(BANKS)
    assert len(places_of(page, "static-map")) == len(BANKS)
    assert len(set(places_of(page, "static-map"))) == 1


@needs_browser
def test_the_slider_goes_by_keys_and_takes_everything_along(page: Page) -> None:
    shown = made(BANKS)
    show(page, shown)

    def state() -> dict[str, object]:
        return {
            "name": page.evaluate("document.querySelector('#name').textContent"),
            "spoken": page.evaluate("document.querySelector('#layer').getAttribute('aria-valuetext')"),
            "summary": page.evaluate("document.querySelector('#summary').textContent"),
            "nearest": page.evaluate("document.querySelector('.nearest:not(th)').textContent"),
            "points": places_of(page, "map"),
            "cells": page.evaluate("document.querySelector('#matrix canvas').toDataURL()"),
            "now": page.evaluate(
                "document.querySelector('#curve .mark-rule.role-mark line').getAttribute('transform')"
            ),
        }

    assert page.evaluate("document.querySelector('#layer').labels[0].textContent") == "Layer"
    page.evaluate("document.querySelector('#layer').focus()")
    last = state()
    page.press("ArrowLeft")
    page.wait_for("document.body.dataset.shown === '1'")
    middle = state()
    page.press("Home")
    page.wait_for("document.body.dataset.shown === '0'")
    first = state()
    assert (last["name"], middle["name"], first["name"]) == ("block 2 of 2", "block 1 of 2", "below the first block")
    for name in last.keys() - {"nearest"}:
        assert last[name] != middle[name] != first[name], name
    page.press("End")
    page.wait_for("document.body.dataset.shown === '2'")
    assert state() == last
    assert page.errors == []


@needs_browser
def test_the_page_has_the_verdicts_and_all_sections_follow_the_layer(page: Page) -> None:
    shown = made([*BANKS, ("the ", "river", " is")])
    show(page, shown)
    assert "the model reads left to right <b>." in page.evaluate("byId('notes').textContent")
    before = page.evaluate("byId('verdicts').textContent")
    lines = page.evaluate("[...byId('verdicts').children].map((x) => x.textContent)")
    assert len(lines) == 6 and page.evaluate("byId('verdicts-note').textContent").startswith("of 10 pairs")
    for line in lines:
        pair, said = line.split(" ", 1)
        i, j = (int(x) - 1 for x in pair.split("–"))
        cosine, share = (
            shown.cosines[2, i, j],
            float(np.interp(shown.cosines[2, i, j], shown.quantiles["unrelated"][2], range(101))),
        )
        assert said.startswith(f"{cosine:.2f} is {'lower' if share < 50 else 'higher'} than ".replace("-", "−"))
        assert f" {min(99, round(max(share, 100 - share)))} % of pairs of " in said
        assert ("one word" in said) is (j < 4) and said.endswith(".")
    page.evaluate("document.querySelector('#verdicts button').click()")
    i, j = (int(x) - 1 for x in lines[0].split(" ")[0].split("–"))
    assert page.evaluate("[byId('shown-0').textContent, byId('shown-1').textContent]") == [
        "".join(shown.texts[k]) for k in (i, j)
    ]
    number = f"{shown.cosines[2, i, j]:.2f}".replace("-", "−")
    assert page.evaluate("byId('contextual').textContent") == number
    assert number in page.evaluate("byId('verdict').textContent")
    page.evaluate("(byId('layer').value = 0, byId('layer').dispatchEvent(new Event('input')))")
    page.wait_for("document.body.dataset.shown === '0'")
    assert page.evaluate("byId('contextual').textContent") == f"{shown.cosines[0, i, j]:.2f}".replace("-", "−")
    assert page.evaluate("byId('verdicts').textContent") != before
    assert page.errors == []


@needs_browser
def test_points_and_cells_choose_what_is_compared(page: Page) -> None:
    """A point said nothing but its number, and only under a mouse."""
    show(page, made(BANKS))
    names = page.evaluate("[...document.querySelectorAll('#map [aria-roledescription=point]')].map((x) => x.ariaLabel)")
    assert [name for name in names if BANKS[2][0] + "bank" + BANKS[2][2] in name]
    page.evaluate("document.querySelector('#map').scrollIntoView()")
    box = page.evaluate(f"{POINTS.format('map')}[3].getBoundingClientRect().toJSON()")
    page.click_at(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for("String(pair) === '3,1'")
    assert "grassy" in page.evaluate("byId('shown-0').textContent")
    page.evaluate("document.querySelectorAll('#sentences tbody tr')[2].click()")
    assert page.evaluate("String(pair)") == "3,2"
    page.evaluate("document.querySelector('#matrix').scrollIntoView({ block: 'center' })")
    place = page.evaluate("document.querySelector('#matrix canvas').getBoundingClientRect().toJSON()")
    at = page.evaluate(
        "(([x, y], { matrix }) => [x + matrix.scale('x')(2), y + matrix.scale('y')(1)])(views.matrix.origin(), views)"
    )
    page.click_at(place["x"] + at[0] + 6, place["y"] + at[1] + 6)
    page.wait_for("String(pair) === '0,1'")
    page.evaluate("(byId('pick-1').value = 3, byId('pick-1').dispatchEvent(new Event('change')))")
    assert page.evaluate("String(pair)") == "0,3" and page.errors == []


@needs_browser
def test_the_matrix_can_follow_the_map(page: Page) -> None:
    show(page, made(BANKS))
    in_text_order = page.evaluate("document.querySelector('#matrix canvas').toDataURL()")
    page.evaluate("document.querySelector('#sorted').click()")
    page.wait_for(f"document.querySelector('#matrix canvas').toDataURL() !== {json.dumps(in_text_order)}")
    page.evaluate("document.querySelector('#sorted').click()")
    page.wait_for(f"document.querySelector('#matrix canvas').toDataURL() === {json.dumps(in_text_order)}")


@needs_browser
def test_light_and_dark_follow_the_reader(page: Page) -> None:
    show(page, made(BANKS))
    fill = POINTS.format("map") + "[0].getAttribute('fill')"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor"), page.evaluate(fill)
    page.prefer("dark")
    page.wait_for(f"{fill} !== {json.dumps(light[1])}")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor"), page.evaluate(fill)
    assert (light, dark) == (("rgb(253, 253, 252)", "#007a5a"), ("rgb(20, 24, 29)", "#43c69a"))


@needs_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    show(page, made([*BANKS, ("x" * 200 + " ", "y" * 120, " z")]), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    charts = "[...document.querySelectorAll('svg, canvas')]"
    assert page.evaluate(f"Math.max(...{charts}.map((x) => x.getBoundingClientRect().right))") <= width


@needs_browser
def test_charts_grow_with_the_window(page: Page) -> None:
    show(page, made(BANKS), width=400)
    narrow = page.evaluate("document.querySelector('#curve svg').getBoundingClientRect().width")
    page.resize(1200)
    page.wait_for(f"document.querySelector('#curve svg').getBoundingClientRect().width > {narrow + 300}")


@needs_browser
@pytest.mark.parametrize("n", [50, 101])
def test_a_cell_is_the_mean_cosine_between_the_occurrences_of_its_row_and_column(page: Page, n: int) -> None:
    shown = made(numbered(n))
    show(page, shown)
    cells = page.evaluate("cells(cosinesOf(2), [...rows.keys()])")
    together = 1 if n == 50 else 3
    groups = [range(i, min(i + together, n)) for i in range(0, n, together)]
    assert len(cells) == len(groups) ** 2 <= 50**2
    for cell, (a, b) in zip(cells, ((a, b) for a in groups for b in groups), strict=True):
        pairs = [shown.cosines[2][i, j] for i in a for j in b if i != j] or [1]
        assert cell["cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)
    by_themselves = {(x["row"], x["column"]): x["cosine"] for x in figures(shown)["matrix"].data["cells"]}
    shown_first = page.evaluate("cells(cosinesOf(2), order(2))")
    assert by_themselves == pytest.approx({(x["row"], x["column"]): x["cosine"] for x in shown_first}, abs=1e-4)
    names = "4, 5, 6 and 1, 2, 3" if together == 3 else "2 and 1"
    assert cells[len(groups)]["text"].startswith(f"{names}: ")
    note = page.evaluate("document.querySelector('.note')?.textContent ?? ''")
    assert ("3 neighbours share one" in note) is (together == 3)
    sorted_by_the_map = page.evaluate("document.querySelector('#sorted').checked")
    assert sorted_by_the_map is (together == 3)  # or a mean would be of neighbours in the text, which share no sense
    assert page.errors == []


@needs_browser
@pytest.mark.slow
def test_200_occurrences_are_drawn_within_a_second(page: Page) -> None:
    show(page, made(numbered(200), n_layers=8))
    assert page.processor_seconds() < 1
    assert page.errors == []
