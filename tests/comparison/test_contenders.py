"""Who takes part: names, their order, and what is no name."""

from __future__ import annotations

import pytest

from gptlite.comparison.contenders import (
    CONTENDERS,
    PAIRS,
    TEXT,
    Protocol,
    choose_contenders,
    expected_seconds,
)
from gptlite.errors import UsageError


def test_names_in_any_order_come_in_the_order_of_history() -> None:
    assert [c.name for c in choose_contenders("gptlite, LSTM ,unigram,lstm")] == ["unigram", "lstm", "gptlite"]
    assert [c.name for c in choose_contenders(["gru"])] == ["gru"]
    assert [c.name for c in choose_contenders(None)] == [
        n for n, c in CONTENDERS.items() if TEXT in c.on and not c.by_name
    ]
    assert [c.name for c in choose_contenders(None, PAIRS)] == ["lstm-attention", "encoder-decoder", "gptlite"]


@pytest.mark.parametrize("names", ["lstm,elman", "", ",", []])
def test_what_is_no_name_is_refused_with_those_that_are(names: str | list[str]) -> None:
    known = "unigram, 5-gram, rnn, gru, lstm, transformer-2017, masked, gptlite"
    with pytest.raises(UsageError, match=rf"`contenders` .*{known}"):
        choose_contenders(names)


def test_extra_time_is_limited_for_long_comparisons_and_a_share_of_short_ones() -> None:
    short, long = (Protocol(s, 1, "", {}, {}, {}, 1.0) for s in (8.0, 3600.0))
    assert (short.sweep_seconds, short.copy_seconds) == (2.0, 1.6)
    assert (long.sweep_seconds, long.copy_seconds) == (30.0, 20.0)


def test_two_minutes_each_take_a_quarter_of_an_hour() -> None:
    protocol = Protocol(120.0, 1, "", {}, {}, {}, 1.0)
    assert expected_seconds(choose_contenders(None), protocol) <= 15.5 * 60
