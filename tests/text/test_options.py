"""Options of reading: what a run records of them, and what a resumed run may not change."""

from __future__ import annotations

import json

import pytest

from gptlite.errors import UsageError
from gptlite.text.options import TextOptions


def test_a_run_gives_back_what_it_recorded() -> None:
    options = TextOptions(lossy=True, encoding="GBK", separator="<|endoftext|>")
    stored = json.loads(json.dumps({"reading": options.to_dict()}))
    found = TextOptions.of_run(stored)
    assert found == TextOptions(lossy=True, encoding="gbk", separator="<|endoftext|>", noted=True)
    assert TextOptions().for_resume(stored) == found
    assert options.for_resume(stored) == found


def test_a_run_that_recorded_nothing_kept_line_ends_and_copies() -> None:
    assert TextOptions.of_run({}) == TextOptions(keep_line_ends=True, as_text=True, keep_copies=True)
    assert TextOptions.of_run({"lossy": True}).lossy


@pytest.mark.parametrize(
    "asked", [{"lossy": True}, {"encoding": "big5"}, {"separator": "x"}, {"keep_line_ends": True}], ids=str
)
def test_a_resumed_run_reads_as_it_did(asked: dict[str, str | bool]) -> None:
    with pytest.raises(
        UsageError, match=f"`{next(iter(asked))}` is .*, and the run was started without it; leave it out"
    ):
        TextOptions(**asked).for_resume({"reading": TextOptions().to_dict()})


@pytest.mark.parametrize("separator", ["", " \n", "x" * 1001])
def test_separators_must_be_seen(separator: str) -> None:
    with pytest.raises(UsageError, match="`separator` must be"):
        TextOptions(separator=separator)
