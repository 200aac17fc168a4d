"""Static vectors of words from the text alone: words of one kind are alike, in any case and in any script."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from gptlite.checkpoint import word_vectors as files
from gptlite.embedding import word_vectors
from gptlite.embedding.similarity import unit
from gptlite.embedding.word_vectors import make_word_vectors, read_stream
from gptlite.text.tokenizer import Tokenizer

ANIMALS, TOOLS = ("cat", "dog", "cow", "hen"), ("saw", "axe", "file", "drill")


def sentences(n: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    animal = [f"The {rng.choice(ANIMALS)} eats {rng.choice(('hay', 'corn', 'grass'))} there ." for _ in range(n)]
    tool = [f"A {rng.choice(TOOLS)} cuts {rng.choice(('wood', 'steel', 'stone'))} well ." for _ in range(n)]
    return "\n".join(rng.sample(animal + tool, 2 * n))


def ids_of(tokenizer: Tokenizer, *texts: str) -> np.ndarray:
    return np.array([i for text in texts for i in (tokenizer.separator_id, *tokenizer.encode(text))], dtype="<u2")


def test_words_in_like_places_are_alike() -> None:
    text = sentences(200)
    tokenizer = Tokenizer.train([text], 300)
    made = make_word_vectors(tokenizer, ids_of(tokenizer, text))
    assert made is not None
    rows = unit(made.vectors)
    row = {word: rows[made.words.index(word)] for word in (*ANIMALS, *TOOLS)}
    within = [row[a] @ row[b] for kind in (ANIMALS, TOOLS) for a in kind for b in kind if a < b]
    across = [row[a] @ row[b] for a in ANIMALS for b in TOOLS]
    assert min(within) > max(across)
    again = make_word_vectors(tokenizer, ids_of(tokenizer, text))
    assert again is not None and np.array_equal(again.vectors, made.vectors)
    assert made.counts.tolist() == sorted(made.counts.tolist(), reverse=True)


def test_upper_and_lower_case_are_one_word_in_its_most_frequent_form() -> None:
    text = "king KING King king . London london London ."
    tokenizer = Tokenizer.train([text], 300)
    stream = read_stream(tokenizer, ids_of(tokenizer, text))
    assert dict(zip(stream.words, stream.counts.tolist(), strict=True)) == {"king": 4, "London": 3}


def test_tokens_are_the_words_of_scripts_without_spaces() -> None:
    text = "银行在河边。银行在山上。" * 30
    tokenizer = Tokenizer.train([text], 400)
    stream = read_stream(tokenizer, ids_of(tokenizer, text))
    assert sum(len(word) * n for word, n in zip(stream.words, stream.counts, strict=True)) == 10 * 30
    assert len(stream.words) > 1


def test_contexts_end_with_documents_and_paragraphs() -> None:
    tokenizer = Tokenizer.train(["a b c d"], 300)
    stream = read_stream(tokenizer, ids_of(tokenizer, "a b\n\na b.\nc d,\nc d", "a c"))
    assert [len(part) for part in stream.parts] == [2, 2, 4, 2]


@pytest.mark.parametrize("text", ["", "one", "a b c", "... !"])
def test_a_text_with_hardly_any_words_has_no_vectors(text: str) -> None:
    tokenizer = Tokenizer.train(["one two"], 300)
    assert make_word_vectors(tokenizer, ids_of(tokenizer, text)) is None


def test_a_part_of_a_long_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = sentences(300)
    tokenizer = Tokenizer.train([text], 300)
    ids, read = ids_of(tokenizer, text), []
    monkeypatch.setattr(word_vectors, "read_stream", lambda _, part: read.append(len(part)) or read_stream(_, part))
    make_word_vectors(tokenizer, ids, most_tokens=1000)
    assert read[0] <= 1000 < len(ids)
    assert word_vectors.affordable_tokens(10, 0.04) < word_vectors.affordable_tokens(None, 0.04)


def test_a_file_holds_words_of_all_scripts() -> None:
    words, counts = ["银行", "bank", "🙂", "naïve"], np.array([9, 8, 7, 2**40])
    content = files.to_bytes(words, counts, np.eye(4, 3, dtype=np.float32))
    assert len(content) < 2000 and isinstance(Path(files.NAME).suffix, str)
