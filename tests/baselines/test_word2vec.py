"""Word2Vec for comparison: the same text gives the same vectors, and nothing of it is dropped."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
from conftest import make_text

from gptlite.baselines import word2vec
from gptlite.distribution import install_hint
from gptlite.embedding.similarity import nearest
from gptlite.errors import CorpusError, UsageError

TEXT = make_text(600)


@pytest.fixture(autouse=True)
def gensim() -> None:
    pytest.importorskip("gensim")


def test_the_same_text_gives_the_same_vectors() -> None:
    words, vectors = word2vec.train_word2vec([TEXT], epochs=1, dim=12)
    again, same = word2vec.train_word2vec([TEXT], epochs=1, dim=12)
    assert words == again and np.array_equal(vectors, same)
    assert vectors.shape == (len(words), 12) and vectors.dtype == np.float32
    assert words[0] == "the", "the most frequent word comes first"
    other = word2vec.train_word2vec([TEXT], epochs=1, dim=12, seed=2)[1]
    assert not np.array_equal(vectors, other)


def test_words_of_one_kind_are_neighbours() -> None:
    words, vectors = word2vec.train_word2vec([TEXT], epochs=40, dim=16, window=2)
    near = [words[i] for i, _ in nearest(vectors[words.index("Ada")], vectors, 6)]
    assert set(near) == {"Ada", "Bela", "Chidi", "Dora", "Emre", "Fen"}


def test_rare_words_have_no_vector() -> None:
    words, _ = word2vec.train_word2vec(["once thrice thrice thrice\n"], epochs=1, dim=4, min_count=3)
    assert words == ["thrice"]
    with pytest.raises(CorpusError, match="no word stands 9 times"):
        word2vec.train_word2vec(["once"], epochs=1, min_count=9)


def test_a_text_without_lines_is_not_cut_off() -> None:
    assert [len(s) for s in word2vec.split_sentences("word " * 2500)] == [1000, 1000, 500]
    assert list(word2vec.split_sentences("Ada's café,\n\nनदी 12!")) == [["Ada", "s", "café"], ["नदी", "12"]]


def test_without_gensim_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        word2vec, "find_spec", lambda name: None if name == "gensim" else importlib.util.find_spec(name)
    )
    with pytest.raises(UsageError, match=re.escape(install_hint("word2vec"))):
        word2vec.train_word2vec([TEXT], epochs=1)
