"""A tokenizer in parts, for programs that have another language."""

from __future__ import annotations

import json

import pytest

from gptlite.errors import UsageError
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.tokenizer_parts import code_points, parts_of


def test_merges_join_the_bytes_of_tokens(tokenizer: Tokenizer) -> None:
    parts = parts_of(tokenizer)
    assert (parts.cut, parts.nfc, parts.added, parts.added_ids) == ("GPT-2", False, [], [tokenizer.separator_id])
    assert [parts.tokens[i] for i in parts.byte_ids] == [bytes([i]) for i in range(256)]
    for left, right, merged in parts.merges:
        assert parts.tokens[left] + parts.tokens[right] == parts.tokens[merged]


def test_letters_are_those_of_the_library() -> None:
    letters = code_points(r"\p{L}+")
    assert letters[:2] == [(65, 90), (97, 122)] and all(a <= b for a, b in letters)
    assert (0xAC00, 0xD7A3) in letters


def test_tokens_that_look_around_are_refused(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.to_json())
    frills = dict.fromkeys(("single_word", "rstrip", "normalized", "special"), False)
    content["added_tokens"].append({"id": tokenizer.vocab_size, "content": "<x>", "lstrip": True, **frills})
    with pytest.raises(UsageError, match="look at the characters around them"):
        parts_of(Tokenizer.from_json(json.dumps(content)))
