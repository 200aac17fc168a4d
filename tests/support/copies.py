"""Texts with copies in them, and a search for copies by hand."""

from __future__ import annotations

import random
from pathlib import Path

from gptlite.text.corpus import Text, open_text
from gptlite.text.options import TextOptions

AS_IT_IS = TextOptions(keep_line_ends=True, keep_copies=True)
PASSAGE = "so she walked down to the harbour and counted every mast that stood against the evening"


def open_files(**contents: str) -> Text:
    for name, content in contents.items():
        Path(f"{name}.txt").write_bytes(content.encode())
    return open_text([f"{name}.txt" for name in contents], smallest=1, options=AS_IT_IS)


def longest_from(text: str, i: int, documents: list[str]) -> int:
    """By hand: how many characters of text[i:] stand in one of the documents."""
    length = 0
    while i + length < len(text) and any(text[i : i + length + 1] in document for document in documents):
        length += 1
    return length


def noise(n: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("bcdfghjklmnpqrstvwxyz") for _ in range(n))
