"""Word vectors of other programs: both formats of word2vec are read, and nothing else is taken for them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

from gptlite.embedding.word2vec_format import MOST_DIMENSIONS, READ_SIZE, read_word2vec
from gptlite.errors import CorpusError, LimitError

ROWS = np.array([[1, 2, 3], [4, 5, 6.5]], dtype=np.float32)


def binary(words: list[str], rows: np.ndarray, end: bytes = b"") -> bytes:
    lines = [word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in zip(words, rows, strict=True)]
    return b"%d %d\n" % rows.shape + b"".join(lines)


@pytest.mark.parametrize(
    "content",
    [
        "2 3\nbank 1 2 3\nriver 4 5 6.5\n",
        "bank 1 2 3\nriver 4 5 6.5",
        "2 3\r\nbank 1 2 3 \r\nriver 4 5 6.5 \r\n",
        "3 3\nbank 1 2 3\nbank 9 9 9\nriver 4 5 6.5\n",
    ],
    ids=["header", "no header", "trailing spaces", "a word twice"],
)
def test_word2vec_text_is_read(content: str) -> None:
    words, vectors = read_word2vec(io.BytesIO(content.encode()), "x.vec")
    assert words == ["bank", "river"]
    assert np.array_equal(vectors, np.array([[1, 2, 3], [4, 5, 6.5]], dtype=np.float32)) and vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends after 0"),
        (b"2 3\nbank 1 2 3\n", "ends after 1 word vectors; its first line promises 2"),
        (b"1 3\nbank 1 2\nriver 1 2 3\n", "line 2: a word and 3 numbers"),
        (b"bank 1 2\nriver 1 2 3\n", "line 2: a word and 2 numbers"),
        (b"bank\n", "line 1: a word and its numbers"),
        (b"bank 1 2\nriver 1 x\n", "line 2: could not convert"),
        (b"bank 1 nan\n", "'bank' is not of finite numbers"),
        (b"bank 1 1e99\n", "'bank' is not of finite numbers"),
        (b"caf\xe9 1 2\n", "line 1 is not UTF-8: .*`lossy=True`"),
        (b"bank 1 2\n\n", "line 2: a word"),
    ],
    ids=repr,
)
def test_what_is_no_word2vec_text_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=re.compile(f"^x.vec.*{message}")):
        read_word2vec(io.BytesIO(content), "x.vec")


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["gensim's", "the original program's"])
def test_word2vec_binary_is_read(end: bytes) -> None:
    words, vectors = read_word2vec(io.BytesIO(binary(["bank", "银行"], ROWS, end)), "x.bin")
    assert words == ["bank", "银行"]
    assert np.array_equal(vectors, ROWS) and vectors.dtype == np.float32
    rows = np.stack([ROWS[0], ROWS[1], ROWS[1]])
    assert read_word2vec(io.BytesIO(binary(["a", "a", "b"], rows, end)), "x.bin")[0] == ["a", "b"]


def test_a_binary_file_longer_than_what_is_read_at_once() -> None:
    rows = np.random.default_rng(0).normal(size=(READ_SIZE // 100, 50)).astype(np.float32)
    words = [f"w{i}" for i in range(len(rows))]
    found, vectors = read_word2vec(io.BytesIO(binary(words, rows)), "x.BIN")
    assert found == words and np.array_equal(vectors, rows)


def test_gensims_files_are_read(tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models")
    saved = models.KeyedVectors(3)
    saved.add_vectors(["bank", "naïve"], ROWS)
    for name in ("x.bin", "x.vec"):
        saved.save_word2vec_format(str(tmp_path / name), binary=name.endswith(".bin"))
        with open(tmp_path / name, "rb") as file:
            words, vectors = read_word2vec(file, name)
        assert words == ["bank", "naïve"] and np.allclose(vectors, ROWS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with two numbers"),
        (b"bank 1 2\n", "does not begin with two numbers"),
        (b"0 3\n", "does not begin with two numbers"),
        (binary(["bank", "river"], ROWS)[:-1], "ends after 1 word vectors; its first line promises 2"),
        (b"2 3\n" + b"x" * 5000, "ends after 0 word vectors"),
        (b"1 %d\nbank " % (MOST_DIMENSIONS + 1), "promises vectors of"),
        (binary(["bank", "river"], ROWS).replace(b"river", b"caf\xe9 "), "word 2 is not UTF-8"),
        (binary(["bank", "river"], ROWS * np.array([[1], [np.inf]])), "'river' is not of finite numbers"),
    ],
    ids=repr,
)
def test_what_is_no_word2vec_binary_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=re.compile(f"^x.bin.*{message}")):
        read_word2vec(io.BytesIO(content), "x.bin")


def test_a_file_that_promises_more_than_memory_should_hold_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitError, match="more than 1,073,741,824 numbers"):
        read_word2vec(io.BytesIO(b"999999999 300\n"), "x.bin")


def test_words_of_glove_may_have_spaces() -> None:
    words, vectors = read_word2vec(io.BytesIO(b". . . 1 2\nat name@domain.com 3 4\nbank 5 6\n"), "x.txt")
    assert words == [". . .", "at name@domain.com", "bank"]
    assert vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("name", ["x.bin", "x.vec"])
def test_a_damaged_word_is_read_on_request(name: str) -> None:
    rows = np.eye(2, dtype=np.float32)
    content = b"2 2\ncaf\xe9 " + rows[0].tobytes() + b"\nbank " + rows[1].tobytes() + b"\n"
    content = content if name == "x.bin" else b"caf\xe9 1 0\nbank 0 1\n"
    with pytest.raises(CorpusError, match=r"UTF-8.*`lossy=True`"):
        read_word2vec(io.BytesIO(content), name)
    words, vectors = read_word2vec(io.BytesIO(content), name, lossy=True)
    assert words == ["caf\ufffd", "bank"] and np.array_equal(vectors, rows)
