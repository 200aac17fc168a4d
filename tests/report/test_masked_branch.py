"""The section about the model that reads both sides: true sentences, whichever vectors are better."""

from __future__ import annotations

import string

import pytest
from support.comparisons import made, made_masked

from gptlite.report import comparison
from gptlite.report.comparison import Comparison
from gptlite.report.comparison_text import LANGUAGES, phrases
from gptlite.report.masked_branch import PAGE, explain, section


def test_both_languages_say_the_same_things() -> None:
    def fields(template: str) -> set[str | None]:
        return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}

    one, other = (phrases(lang, PAGE) for lang in LANGUAGES)
    assert {part: set(one[part]) for part in one} == {part: set(other[part]) for part in other}
    for key, template in one["sentences"].items():
        assert fields(template) == fields(other["sentences"][key]), key


@pytest.mark.parametrize(
    ("scores", "of_left", "of_both"),
    [
        ((0.8, 0.9, 0.95), "better than the causal ones", "also ahead of what gptlite makes"),
        ((0.9, 0.95, 0.8), "worse than the causal ones", "(both sides) is ahead of them: 95.0%"),
        ((0.9, 0.901, 0.9), "about equally well: 90.0% and 90.0%", "is level with them: 90.1%"),
    ],
)
def test_ahead_behind_and_level(scores: tuple[float, float, float], of_left: str, of_both: str) -> None:
    text = explain(made_masked(*scores), "en")
    assert of_left in text and of_both in text and "It cannot write" in text
    assert "took 300 steps and its causal twin 400" in text and "guess 31.0% of the hidden tokens" in text


def test_a_text_with_too_few_words_and_a_comparison_without_it() -> None:
    none = {**made_masked(), "senses": None}
    assert "Too few words" in explain(none, "en") and "{" not in explain(none, "zh")
    shown = section({"masked": none}, "en", False)
    assert shown is not None and shown["rows"] == [] and shown["explained"] == ""
    assert section(made(), "en", True) is None


@pytest.mark.parametrize("lang", LANGUAGES)
def test_it_stands_on_the_page(lang: str) -> None:
    heading = phrases(lang, PAGE)["labels"]["heading"]
    html = comparison.render(Comparison({**made(), "masked": made_masked()}, lang, explained=True))
    assert f"<h2>{heading}</h2>" in html and explain(made_masked(), lang)[:60] in html
    assert "<b>of" not in html and "&lt;b&gt;of" in html
    assert heading not in comparison.render(Comparison(made(), lang, explained=True))
