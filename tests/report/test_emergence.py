"""The part of a page about how words came to be: charts, tables, and sentences that are true of the numbers."""

from __future__ import annotations

import string
from typing import Any

import pytest

pytest.importorskip("altair")

from gptlite.report import emergence


def course(
    *, found: tuple[int, ...] = (0, 1, 2), cosines: tuple[float, ...] = (0.1, 0.4, 0.8), init: str = "random",
    losses: tuple[float | None, ...] = (None, 3.0, 2.0), first: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """One word with two neighbours at three steps."""
    steps = [first, first + 4, first + 8]
    near = [[{"word": f"w{i}", "cosine": c}, {"word": "<b>", "cosine": c}] for i, c in enumerate(cosines)]
    return {
        "init": init,
        "steps": [
            {"step": s, "train_loss_nats": loss, "val_bits_per_byte": None}
            for s, loss in zip(steps, losses, strict=True)
        ],
        "words": [
            {"word": "king", "n_found": list(found), "cosines_to_last": list(cosines), "neighbours": near},
        ],
        "pairs": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said", "not_said"),
    [
        ({}, ["random numbers", "none is among", "From step 4 on", "rose from 0.10 to 0.80"], ["fell from"]),
        ({"init": "bigrams"}, ["counts of which token follows which"], ["random numbers"]),
        ({"init": "model"}, ["the model which training started from"], ["random numbers"]),
        ({"first": 16}, ["kept are those of step 16"], ["Before the first step"]),
        ({"found": (1, 1, 2)}, ["1 are among their neighbours at step 0 already"], ["none is", "on, at least half"]),
        ({"found": (2, 0, 2)}, ["All 2", "From step 8 on"], ["By then", "by then"]),
        ({"cosines": (0.9, 0.5, 0.4)}, ["fell from 0.90 to 0.40"], ["rose"]),
        ({"cosines": (0.5, 0.1, 0.5)}, ["is 0.50 at both ends"], ["rose", "fell"]),
    ],
)  # fmt: skip
def test_sentences_are_true_of_the_numbers(changed: dict[str, Any], said: list[str], not_said: list[str]) -> None:
    text = emergence.explain(course(**changed))
    assert [part for part in said if part not in text] == []
    assert [part for part in not_said if part in text] == []


def test_the_loss_fell_or_did_not() -> None:
    at = {"found": (0, 1, 2), "first": 1}
    fell = emergence.explain(course(losses=(4.0, 3.0, 2.0), **at))
    assert "had fallen from 4.00 to 3.00 nats per token; in the end it is 2.00" in fell
    rose = emergence.explain(course(losses=(2.0, 3.0, 4.0), **at))
    assert "was 2.00 nats per token when it was first measured, 3.00 by then, and 4.00 in the end" in rose
    assert "fallen" not in rose


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_phrases() -> None:
    one, other = (emergence.phrases(lang) for lang in ("en", "zh"))
    for part in ("labels", "sentences"):
        assert one[part].keys() == other[part].keys()
        assert {key: fields(text) for key, text in one[part].items()} == {
            key: fields(text) for key, text in other[part].items()
        }


def test_chinese_says_the_same() -> None:
    text = emergence.explain(course(found=(1, 1, 2)), "zh")
    assert "随机数" in text and "有 1 个在第 0 步" in text and " the " not in text


EVEN, SHARP = [[1, 0, 0], [0.5, 0.5, 0], [0.3, 0.3, 0.4]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([EVEN, SHARP], "as if among 2.5 of the 3 tokens, in the end among 1.0, which is fewer"),
        ([SHARP, EVEN], "as if among 1.0 of the 3 tokens, in the end among 2.5, which is more"),
        ([SHARP, [[1, 0, 0], [1, 0, 0], [1, 0, 0]]], "among 1.0 of the 3 tokens, at step 0 and in the end, but among"),
    ],
)
def test_the_head_that_changed_most(weights: list[Any], said: str) -> None:
    kept = {"tokens": ["a", "b", "\n"], "steps": [0, 8], "heads": [{"layer": 2, "head": 1, "weights": weights}]}
    found = {**course(), "attention": kept}
    assert said in emergence.explain(found) and "heads of attention, 2.1 changed most" in emergence.explain(found)
    drawn = emergence.charts(found, of="_x")["emergence_heads_x"]
    sets = sorted(drawn["datasets"].values(), key=len)
    assert [name["text"] for name in sets[0]] == ["2.1, step 0", "2.1, step 8"] and len(sets[1]) == 2 * 6


def test_charts_have_every_word_and_step() -> None:
    drawn = emergence.charts(course(), [(10, 3.0), (20, 2.5)])
    assert set(drawn) == {"emergence", "emergence_loss"}
    (values,) = drawn["emergence"]["datasets"].values()
    assert [value["at"] for value in values] == [0, 4, 8]
    assert "'~s'" not in str(drawn)  # with which steps below 1,000 are 0k and 0.1k
    (losses,) = drawn["emergence_loss"]["datasets"].values()
    assert [value["at"] for value in losses] == [4, 8, 10, 20]
    assert set(emergence.charts(course(losses=(None, None, 2.0)))) == {"emergence"}
    one = course()
    one["steps"] = one["steps"][:1]
    assert emergence.charts(one) == {}


def test_tables_show_the_neighbours_as_text() -> None:
    ((word, rows),) = emergence.context(course())["tables"]
    assert word == "king" and rows[0] == ["step", "loss", "nearest words"]
    assert rows[1] == ["0", "", "w0 0.10, <b> 0.10"] and rows[-1][:2] == ["8", "2.00"]
