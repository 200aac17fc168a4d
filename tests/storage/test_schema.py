"""Values from JSON compared with types: what fits passes, what does not is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest

from gptlite.errors import CheckpointError
from gptlite.storage import schema
from gptlite.storage.schema import Rule


class Base(TypedDict):
    name: str


class Item(Base, total=False):
    size: Annotated[int, Rule(lambda n: n >= 0, "zero or more")]
    tags: list[str]
    scores: dict[str, float | None]


@dataclass
class Settings:
    rate: float
    steps: int | None = None
    on: bool = False


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, int),
        (-(2**63), int),
        (3, float),
        (0.5, float),
        ("", str),
        (True, bool),
        (None, int | None),
        ([], list[int]),
        ({"a": 1, "b": None}, dict[str, float | None]),
        ({"name": "x"}, Item),
        ({"name": "x", "more": [1]}, Item),
        ({"name": "x", "size": 0, "tags": ["a"], "scores": {"b": 1}}, Item),
        ({"rate": 1}, Settings),
        ({"rate": 1.5, "steps": None, "on": True}, Settings),
        ([1, "a", None], list[Any]),
        ("a", str | int),
    ],
    ids=repr,
)
def test_what_fits_passes(value: Any, kind: Any) -> None:
    schema.check(value, kind, "file")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, int, "'at' is True, not an integer"),
        (2**63, int, "not an integer"),
        (1.0, int, "not an integer"),
        (True, float, "not a number"),
        (10**400, float, "not a number"),
        (0, bool, "'at' is 0, not true or false"),
        (None, str, "'at' is None, not a text"),
        ("5", int | None, "'at' is '5', not an integer"),
        (None, str | int, "not a text or an integer"),
        ([1, None], list[int], r"'at\[1\]' is None, not an integer"),
        ({}, list[int], "not a list"),
        ([], dict[str, int], "not an object"),
        ({"a": "b"}, dict[str, int], "'at.a' is 'b', not an integer"),
        ({}, Item, "file does not say 'at.name'"),
        ({"name": "x", "size": -1}, Item, "'at.size' is -1, not zero or more"),
        ({"name": "x", "scores": {"b": "c"}}, Item, "'at.scores.b' is 'c', not a number"),
        ({}, Settings, "does not say 'at.rate'"),
        ({"rate": 1.0, "other": 1}, Settings, "'at.other' is not known"),
        ({"rate": 1.0, "on": None}, Settings, "'at.on' is None, not true or false"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_named(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        schema.check(value, kind, "file", "at")


def test_a_message_stays_short_whatever_is_in_the_file() -> None:
    with pytest.raises(CheckpointError) as caught:
        schema.check({"\x1b[31m" * 1000: ["x" * 10_000]}, dict[str, int], "file")
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()
