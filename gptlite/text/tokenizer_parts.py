"""What another program needs to turn a text into the ids that a byte-level tokenizer gives it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tokenizers import Regex, pre_tokenizers

from gptlite.errors import UsageError
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.tokenizer_json import PATTERNS, byte_of_character, is_of_characters

CUTS = (*PATTERNS.values(), "SmolLM")
CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)  # no characters
AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Parts:
    """Byte-level BPE in parts.

    - `cut`: the family after which text is cut before it is merged; `nfc`: is it composed first?
    - `tokens`: the bytes of each id; `byte_ids`: the ids of the 256 bytes; `merges`: (left, right, merged), best first.
    - `whole_first`: is a piece that is a token taken whole, whatever the merges say?
    - `added`: tokens that are looked for before anything else, as (text, id, in the composed text?); `added_ids`: of
      these and of special tokens.
    - `letters`, `numbers`: the code points [first, last] that count as such; they depend on the edition of Unicode.
    """

    cut: str
    nfc: bool
    tokens: Sequence[bytes]
    byte_ids: Sequence[int]
    merges: Sequence[tuple[int, int, int]]
    whole_first: bool
    added: Sequence[tuple[str, int, bool]]
    added_ids: Sequence[int]
    letters: Sequence[tuple[int, int]]
    numbers: Sequence[tuple[int, int]]


def parts_of(tokenizer: Tokenizer) -> Parts:
    """Raises `UsageError` for a tokenizer that is not byte-level, or cuts a text in a way of its own."""
    content = json.loads(tokenizer.to_json())
    if is_of_characters(content):
        raise UsageError("a page needs a byte-level tokenizer; this one merges characters, as that of Llama 2 does.")
    if tokenizer.cut not in CUTS:
        raise UsageError(
            f"a page needs a tokenizer that cuts texts as {', '.join(CUTS)} do; this one has a way of its own."
        )
    added = [token for token in content["added_tokens"] if not token["special"]]
    for token in added:
        if token["single_word"] or token["lstrip"] or token["rstrip"]:
            raise UsageError("a page needs a tokenizer whose added tokens do not look at the characters around them.")
    model = content["model"]
    ids = model["vocab"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return Parts(
        cut=tokenizer.cut,
        nfc=content["normalizer"] is not None,
        tokens=tokenizer.token_bytes,
        byte_ids=[i for _, i in sorted((byte, ids[spelled]) for spelled, byte in byte_of_character().items())],
        merges=[(ids[left], ids[right], ids[left + right]) for left, right in pairs],
        whole_first=bool(model.get("ignore_merges")),
        added=[(token["content"], token["id"], bool(token["normalized"])) for token in added],
        added_ids=[token["id"] for token in content["added_tokens"]],
        letters=code_points(r"\p{L}+"),
        numbers=code_points(r"\p{N}+"),
    )


@cache
def code_points(pattern: str) -> list[tuple[int, int]]:
    """The code points [first, last] that the tokenizers library finds when it looks for runs of a class."""
    cut = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    found: list[tuple[int, int]] = []
    for start in range(0, CODE_POINTS, AT_ONCE):
        text = "".join(" " if i in SURROGATES else chr(i) for i in range(start, start + AT_ONCE))
        for _, (first, end) in cut.pre_tokenize_str(text):
            if found and found[-1][1] == start + first - 1:
                found[-1] = (found[-1][0], start + end - 1)
            else:
                found.append((start + first, start + end - 1))
    return found
