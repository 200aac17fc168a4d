"""Static vectors of words from the text alone: words of one kind are alike, in any case and in any script."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from conftest import random_model, tiny_config

from gptlite.checkpoint import word_vectors as files
from gptlite.checkpoint.saved_step import save_step
from gptlite.checkpoint.word_vectors import SavedWords
from gptlite.embedding import word_vectors
from gptlite.embedding.similarity import unit
from gptlite.embedding.static_words import StaticWords
from gptlite.embedding.word_vectors import make_word_vectors, read_stream
from gptlite.errors import CheckpointError, UsageError
from gptlite.storage.reader import Reader
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


def saved(tmp_path: Path, tokenizer: Tokenizer, content: bytes) -> Path:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    save_step(tmp_path / "step", model, tokenizer, {}, embedding={"x": torch.zeros(1)}, word_vectors_file=content)
    return tmp_path / "step"


def test_decompositions_compute_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other programs, threads that wait for each other in them take a hundred times as long."""
    before, threads, qr = torch.get_num_threads(), [], torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda x: threads.append(torch.get_num_threads()) or qr(x))
    torch.set_num_threads(2)
    try:
        word_vectors.factorise(np.array([0, 1]), np.array([1, 0]), np.ones(2, dtype=np.float32), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


def test_a_file_holds_words_of_all_scripts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    words, counts = ["银行", "bank", "🙂", "naïve"], np.array([2**40, 9, 8, 7])
    with Reader(saved(tmp_path, tokenizer, files.to_bytes(words, counts, np.eye(4, 3, dtype=np.float32)))) as reader:
        read = files.read(reader)
    assert read is not None and read.words == words and read.counts.tolist() == counts.tolist()
    assert np.array_equal(read.vectors, np.eye(4, 3, dtype=np.float32)) and read.vectors.dtype == np.float32


def broken(name: str) -> bytes:
    tensors = {
        "vectors": np.ones((2, 3), np.float16), "counts": np.ones(2, np.int64),
        "words": np.frombuffer(b"a\nb", np.uint8),
    }  # fmt: skip
    change = {
        "lacks counts": {"counts": None},
        "too few words": {"words": np.frombuffer(b"a", np.uint8)},
        "not UTF-8": {"words": np.frombuffer(b"a\n\xff", np.uint8)},
        "not finite": {"vectors": np.full((2, 3), np.nan, np.float16)},
        "other dtype": {"vectors": np.ones((2, 3), np.float32)},
        "too few counts": {"counts": np.ones(1, np.int64)},
    }
    return safetensors.numpy.save({k: v for k, v in (tensors | change[name]).items() if v is not None})


@pytest.mark.parametrize(
    "name", ["lacks counts", "too few words", "not UTF-8", "not finite", "other dtype", "too few counts"]
)
def test_a_file_that_was_not_written_so_is_refused(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    with (
        pytest.raises(CheckpointError, match=r"words\.safetensors"),
        Reader(saved(tmp_path, tokenizer, broken(name))) as reader,
    ):
        files.read(reader)


# -- Look-ups


@pytest.fixture
def known() -> StaticWords:
    words = ["king", "kings", "queen", "London"]
    vectors = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.5, 0.5, 0], [0, 0, 1]], dtype=np.float32)
    return StaticWords(Path("run"), SavedWords(words, np.array([9, 5, 4, 3]), vectors))


def test_any_case_is_the_same_word(known: StaticWords) -> None:
    vectors = known.word_vectors()
    assert vectors.nearest("KING") == vectors.nearest("king")
    assert vectors.seen("LONDON") == 3 and not vectors.case_variants("king")
    assert vectors.similarity("King", "kings") == pytest.approx(0.9 / np.sqrt(0.82), abs=1e-6)


def test_an_unseen_word_is_made_of_words_that_share_its_pieces(known: StaticWords) -> None:
    assert known.kin("kingdom") and set(known.kin("kingdom") or ()) <= {"king", "kings"}
    assert known.kin("king") is None
    vectors = known.word_vectors()
    assert vectors.nearest("kingdom")[0].word in ("king", "kings") and vectors.seen("kingdom") == 0
    assert not vectors.has("xyz")
    with pytest.raises(UsageError, match="no vector for 'xyz'"):
        vectors.nearest("xyz")


def test_a_rare_word_keeps_its_own_vector(known: StaticWords) -> None:
    vectors = known.word_vectors(min_count=5)
    assert vectors.words == ["king", "kings"] and vectors.least == 5
    assert vectors.nearest("queen", 1)[0].cosine == pytest.approx(1 / np.sqrt(2) * (1 + 1 / 9) / np.sqrt(82 / 81))
    with pytest.raises(UsageError, match="no word was seen 10 times"):
        known.word_vectors(min_count=10)


def test_gensim_gets_the_same_vectors(known: StaticWords) -> None:
    pytest.importorskip("gensim")
    vectors = known.word_vectors()
    theirs = vectors.keyed_vectors()
    assert theirs.index_to_key == vectors.words and theirs.get_vecattr("king", "count") == 9
    assert [word for word, _ in theirs.most_similar("king")] == [word.word for word in vectors.nearest("king")]
