"""Counts in messages."""

from __future__ import annotations

import pytest

from gptlite.errors import plural


@pytest.mark.parametrize(
    ("n", "noun", "written"),
    [
        (0, "head", "0 heads"),
        (1, "head", "1 head"),
        (2, "head", "2 heads"),
        (1024, "token", "1,024 tokens"),
        (3, "process", "3 processes"),
        (2, "batch", "2 batches"),
        (2, "copy", "2 copies"),
        (2, "key", "2 keys"),
        (1.0, "byte", "1 byte"),
        (0.5, "byte", "0.5 bytes"),
    ],
)
def test_a_count_and_its_noun(n: float, noun: str, written: str) -> None:
    assert plural(n, noun) == written


def test_an_irregular_plural_is_given() -> None:
    assert plural(2, "line of text", "lines of text") == "2 lines of text"
    assert plural(1, "line of text", "lines of text") == "1 line of text"
