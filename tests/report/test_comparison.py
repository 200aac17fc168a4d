"""The page of a comparison: every sentence is true of its numbers, whoever wins, in both languages."""

from __future__ import annotations

import copy
import re
import string
from html import escape

import pytest
from support.comparisons import BITS, made

from gptlite.errors import UsageError
from gptlite.report import comparison, emergence
from gptlite.report.comparison import Comparison
from gptlite.report.comparison_text import LANGUAGES, bits_at, duration, explain, phrases, title

HEADINGS = ("scores", "curves", "reach", "speed", "copy", "conclusion", "samples", "rates")


def said(found: dict, name: str) -> str:
    return explain(found, "en")[name]


def test_both_languages_say_the_same_things_with_the_same_numbers() -> None:
    def fields(template: str) -> set[str | None]:
        return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}

    one, other = (phrases(lang) for lang in LANGUAGES)
    assert {part: set(one[part]) for part in one} == {part: set(other[part]) for part in other}
    for part in one:
        for key, template in one[part].items():
            assert fields(template) == fields(other[part][key]), key


@pytest.mark.parametrize("lang", LANGUAGES)
def test_each_picture_has_a_paragraph_without_holes(lang: str) -> None:
    paragraphs = explain(made(), lang)
    assert set(paragraphs) == {"curves", "reach", "speed", "copy", "conclusion"}
    assert not re.search(r"[{}]|nan|inf\b", " ".join(paragraphs.values()))


def test_numbers_of_the_other_language_are_the_same() -> None:
    one, other = (explain(made(), lang) for lang in LANGUAGES)
    for name in one:
        assert set(re.findall(r"\d+[\d.,%]*\d", one[name])) - {"2017"} == set(
            re.findall(r"\d+[\d.,%]*\d", other[name])
        ) - {"2017"}


# -- Both outcomes


def test_where_the_transformer_wins_and_where_the_lstm_does() -> None:
    loses, wins = made(), made({**BITS, "lstm": 1.9})
    assert "in the same time on this text it needs 0.300 bits per byte more than gptlite" in said(loses, "conclusion")
    assert "an LSTM would be the better choice: it needs 0.100 bits per byte less" in said(wins, "conclusion")
    assert said(loses, "curves").startswith("gptlite needs the fewest bits: 2.000")
    assert said(wins, "curves").startswith("LSTM needs the fewest bits: 1.900")


def test_a_difference_within_its_interval_is_no_win() -> None:
    level = made({**BITS, "lstm": 2.01}, sure=0.05)
    assert "the two are level" in said(level, "conclusion") and "the two are level" in said(level, "curves")
    assert "chance explains at most" in said(made(), "curves")


def test_where_too_little_is_held_out_nothing_is_claimed() -> None:
    found = made()
    for each in found["contenders"]:
        each["behind_best"]["bits_per_byte_interval"] = each["bits_per_byte_interval"] = None
    assert "too little held-out text to tell" in said(found, "curves")
    assert "level" in said(found, "conclusion")


def test_counting_ahead_and_counting_behind() -> None:
    assert "Counting is still ahead of RNN: the 5-gram" in said(made(), "curves")
    assert "All networks are better than the 5-gram" in said(made({**BITS, "5-gram": 3.0}), "curves")


def test_tokens_read_and_learned_from() -> None:
    more = made(tokens={"gptlite": 2_000_000})
    assert "gptlite read 2,000,000 tokens and LSTM 1,000,000, 2.0 times as many" in said(more, "curves")
    assert "token for token, LSTM learned more" in said(more, "curves")
    assert "about as many tokens" in said(made(), "curves")
    assert "gptlite learned more from each token too" in said(made(), "curves")


def test_bits_between_two_scores() -> None:
    found = made()["contenders"][-1]
    assert bits_at(found, 250_000) == pytest.approx(6.5)
    assert bits_at(found, 10**9) is None


def test_reach_near_and_far() -> None:
    found = made()
    lstm = next(c for c in found["contenders"] if c["name"] == "lstm")
    assert "For LSTM, tokens help as far back as this page can measure: with 16 to 31 known it needs 2.30" in said(
        found, "reach"
    )
    lstm["reach"][-1]["helps"] = False
    assert "For LSTM, more text helps up to about 15 known tokens" in said(found, "reach")
    for part in lstm["reach"]:
        part["helps"] = False
    assert "For LSTM, this text is too short" in said(found, "reach")


def test_speed_falls_stays_and_rises() -> None:
    text = said(made(), "speed")
    assert "training LSTM slows down from 20,000 to 5,000" in text and "one after the other" in text
    assert "gptlite keeps its speed" in text and "gptlite trains 3.8 times as fast as LSTM" in text
    slow = made(speed={"gptlite": (9_000, 1_000), "lstm": (5_000, 6_000)})
    text = said(slow, "speed")
    assert "training gptlite slows down from 9,000 to 1,000 tokens per second: attention" in text
    assert "training LSTM becomes faster" in text and "gptlite trains 6.0 times as slowly as LSTM" in text


def test_who_remembers_a_name() -> None:
    text = said(made(), "copy")
    assert "gptlite gives the right name after 200 tokens in 99% of cases" in text
    assert "RNN is right in 3% of cases after 200 tokens, which is no better than chance (3%)" in text
    assert "It still knew 90% of the names after 10 tokens" in text
    assert "LSTM is right in 40% of cases after 200 tokens: more often than chance" in text


def test_without_an_lstm_the_question_is_not_answered() -> None:
    found = made({"5-gram": 2.0, "gptlite": 2.5})
    assert said(found, "conclusion") == "The LSTM was not among the models of this comparison."
    assert set(explain(made({"unigram": 4.0}), "en")) == {"curves", "conclusion"}


def test_times() -> None:
    assert [duration(s, "en") for s in (0.25, 1, 20, 120)] == ["0.25 seconds", "1 second", "20 seconds", "2 minutes"]
    assert duration(90, "zh") == "90 秒"


# -- The page


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_asks_for_nothing_and_shows_everything(lang: str) -> None:
    html = comparison.render(Comparison(made(), lang, explained=True))
    assert f'<html lang="{lang}">' in html and len(html) < 3_000_000
    assert "\x1b" not in html and "<b>" not in re.sub(r"<figcaption><b>", "", html.split("<script")[0])
    for paragraph in explain(made(), lang).values():
        assert paragraph.split("(")[0].split('"')[0][:60] in html
    assert not re.search(r'(src|href)="?https?:', html) and "built-in" not in html
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    course = emergence.phrases(lang)["labels"]["heading"]
    courses = [f"{course} <small><bdi>{title(c, lang)}</bdi></small>" for c in made()["emergence"]]
    *before, samples, rates = [phrases(lang)["labels"][name] for name in HEADINGS]
    assert headings == [*before, *courses, samples, rates]
    for each in made()["emergence"]:
        assert escape(emergence.explain(each, lang)[:60]).replace("&#x27;", "&#39;") in html


def test_without_explain_there_are_no_paragraphs() -> None:
    html = comparison.render(Comparison(made()))
    assert 'class="explained"' not in html and "counts of which token follows which" not in html


def test_one_contender_and_one_that_counts() -> None:
    for bits in ({"gptlite": 2.0}, {"unigram": 4.0}):
        assert "<table" in comparison.render(Comparison(made(bits), explained=True))
    short = copy.deepcopy(made())
    for each in short["contenders"]:
        each["reach"] = []
    assert 'id="reach"' not in comparison.render(Comparison(short, explained=True))


def test_figures_and_unknown_languages() -> None:
    courses = {f"{name}_{of}" for name in emergence.CHARTS for of in ("gptlite", "transformer_2017")}
    assert set(comparison.figures(Comparison(made()))) == {"seconds", "tokens", "reach", "speed", "copy"} | courses
    with pytest.raises(UsageError, match="`lang` must be one of en, zh"):
        Comparison(made(), "fr")


def test_the_copy_test_fills_its_picture() -> None:
    spec = comparison.figures(Comparison(made()))["copy"].spec
    assert str(spec).count("'domain': [10, 200]") == 2  # intervals and lines
