"""The page of a comparison on pairs: every sentence is true of its numbers, whoever wins, in both languages."""

from __future__ import annotations

import re
import string

import pytest
from support.comparisons import EXACT, made_of_pairs

from gptlite.report import pair_comparison
from gptlite.report.comparison import Comparison
from gptlite.report.comparison_text import LANGUAGES, phrases
from gptlite.report.pair_comparison_text import PAGE, explain


def said(found: dict, name: str) -> str:
    return explain(found, "en")[name]


def test_both_languages_say_the_same_things_with_the_same_numbers() -> None:
    def fields(template: str) -> set[str | None]:
        return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}

    one, other = (phrases(lang, PAGE) for lang in LANGUAGES)
    assert {part: set(one[part]) for part in one} == {part: set(other[part]) for part in other}
    for part in one:
        for key, template in one[part].items():
            assert fields(template) == fields(other[part][key]), key
    english, chinese = (explain(made_of_pairs(), lang) for lang in LANGUAGES)
    for name in english:
        numbers = [set(re.findall(r"\d+[\d.,]*\d", text)) - {"2017"} for text in (english[name], chinese[name])]
        assert numbers[0] == numbers[1], name
        assert not re.search(r"[{}]|nan|inf\b", english[name] + chinese[name])


def test_who_answers_exactly() -> None:
    text = said(made_of_pairs(), "exact")
    assert text.startswith("gptlite gives the known answer exactly to 90.0% of 200 prompts")
    assert "20.0 % more of the answers than those of encoder-decoder of 2017, and chance explains at most 2.0 %" in text
    assert "the two are level" in said(made_of_pairs({**EXACT, "encoder-decoder": 0.89}), "exact")
    assert said(made_of_pairs(dict.fromkeys(EXACT, 0.0)), "exact").startswith("In this time no model has learned")
    unclear = made_of_pairs()
    for each in unclear["contenders"]:
        each["behind_best"]["exact_match_interval"] = None
    assert "too few held-out pairs" in said(unclear, "exact") and "level" in said(unclear, "conclusion")


def test_the_decoder_ahead_behind_and_level() -> None:
    assert "the decoder alone is ahead of the encoder-decoder of 2017 by 20.0 %" in said(made_of_pairs(), "conclusion")
    behind = made_of_pairs({**EXACT, "encoder-decoder": 0.95})
    assert "the encoder-decoder of 2017 is the better choice: it answers 5.0 % more" in said(behind, "conclusion")
    level = made_of_pairs({**EXACT, "lstm-attention": 0.99, "encoder-decoder": 0.88})
    assert "the encoder-decoder of 2017 are level" in said(level, "conclusion")
    assert "were not both among" in said(made_of_pairs({"gptlite": 0.9}), "conclusion")


def test_what_is_read_in_the_same_time() -> None:
    found = made_of_pairs()
    assert "gptlite read 3,000,000 tokens and LSTM with attention 1,000,000, 3.0 times" in said(found, "curves")
    for each in found["contenders"]:
        each["n_tokens_seen"] = 1_000_000
    found["contenders"][0]["n_tokens_seen"] = 1_050_000
    assert "All read about as many tokens in this time: 1,000,000 to 1,050,000" in said(found, "curves")


def test_looks_that_are_sharp_and_wide() -> None:
    sharp, wide = said(made_of_pairs(), "attention"), said(made_of_pairs(sharp=0.4), "attention")
    assert "LSTM with attention looks at one place: on average, a token of the answer takes 80%" in sharp
    assert "LSTM with attention spreads its look: on average, the token" in wide and "has 40% of the weight" in wide
    assert "changes in 1 of 2 steps" in sharp and "100% of it at the prompt" in sharp
    found = made_of_pairs()
    for each in found["contenders"]:
        each["attention"] = None
    assert "attention" not in explain(found, "en")
    assert 'id="map-' not in pair_comparison.render(Comparison(found, "en", explained=True))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_asks_for_nothing_and_shows_everything(lang: str) -> None:
    html = pair_comparison.render(Comparison(made_of_pairs(), lang, explained=True))
    assert f'<html lang="{lang}">' in html and len(html) < 3_000_000
    assert "\x1b" not in html and not re.search(r"<(b|i|u)>To|2 <i>", html.split("<script")[0])
    for paragraph in explain(made_of_pairs(), lang).values():
        assert paragraph.split("(")[0].split('"')[0][:50] in html
    assert not re.search(r'(src|href)="?https?:', html)
    assert html.count('class="chart" id="map-') == 3
    assert 'class="explained"' not in pair_comparison.render(Comparison(made_of_pairs(), lang))


def test_figures_and_one_contender() -> None:
    found = Comparison(made_of_pairs({"gptlite": 0.9}))
    assert set(pair_comparison.figures(found)) == {"exact", "seconds", "tokens", "map-gptlite"}
