"""JSON and safetensors headers without loopholes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors.torch
import torch

from gptlite.errors import CheckpointError
from gptlite.storage import validation


@pytest.mark.parametrize(
    "text",
    ["[]", "5", "{", '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}',
     '{"a": ' + "[" * 40 + "]" * 40 + "}", "{" * 100_000],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_no_plain_object_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="file"):
        validation.parse_object(text, "file")


@pytest.mark.parametrize(("value", "count", "number"), [
    (0, True, True), (2**63, False, True), (-1, False, True), (True, False, False), (1.0, False, True),
    ("1", False, False), (None, False, False), (float("inf"), False, False), (10**400, False, False),
])  # fmt: skip
def test_counts_and_numbers(value: Any, count: bool, number: bool) -> None:
    assert validation.is_count(value) is count
    assert validation.is_number(value) is number


def test_the_length_of_a_header_is_foreseen() -> None:
    shapes = {f"layers.{i}.weight": (i + 1, 3) for i in range(50)}
    content = safetensors.torch.save({name: torch.zeros(s) for name, s in shapes.items()}, metadata={"format": "pt"})
    length = int.from_bytes(content[:8], "little")
    assert abs(validation.header_bytes(shapes) - length) <= 16
    assert validation.parse_table(content[: 8 + length], len(content), "file").entries.keys() == shapes.keys()
    assert json.loads(content[8 : 8 + length])["__metadata__"] == {"format": "pt"}
