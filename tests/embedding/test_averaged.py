"""Static vectors made of contexts: each against a slow computation word by word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config

from gptlite.embedding import averaged
from gptlite.embedding.averaged import Contexts, average_vectors, equalise, read_contexts
from gptlite.embedding.similarity import cosine_matrix, unit
from gptlite.errors import CorpusError
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.tracing import trace


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=64))


def test_a_mean_is_of_the_states_before_the_word(model: GPT, tokenizer: Tokenizer) -> None:
    text = "Ada finds the river and Ada paints the river ."
    contexts = read_contexts(model, tokenizer, [text], min_count=2)
    assert sorted(contexts.words) == ["Ada", "river", "the"]
    assert contexts.counts.tolist() == [2, 2, 2]
    states = trace(model, torch.tensor([[tokenizer.separator_id, *tokenizer.encode(text)]])).hidden[-1][0]
    ends = [end for _, end in tokenizer.encode_with_spans(text)[1]]
    for word in contexts.words:
        places = [i for i in range(len(text)) if text.startswith(word, i)]
        before = [sum(end <= i for end in ends) for i in places]  # tokens; the separator makes it one more
        expected = states[before].mean(dim=0)
        assert np.allclose(contexts.means[contexts.words.index(word)], expected, atol=1e-5), word


def test_at_the_word_is_its_last_token(model: GPT, tokenizer: Tokenizer) -> None:
    text = "Zebedee finds Zebedee ."
    contexts = read_contexts(model, tokenizer, [text, text], min_count=2, at_word=True, layer=1)
    states = trace(model, torch.tensor([[tokenizer.separator_id, *tokenizer.encode(text)]])).hidden[1][0]
    ends = [len(tokenizer.encode(text[:7])), len(tokenizer.encode(text[:21]))]
    assert ends[0] > 1, "a word of several tokens"
    assert np.allclose(contexts.means[contexts.words.index("Zebedee")], states[ends].mean(dim=0), atol=1e-5)


def test_long_texts_are_read_in_windows_with_history(model: GPT, tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode(make_text(60)), dtype=np.int64)
    covered: list[int] = []
    for first, states in averaged._states(model, ids):
        covered += range(first, first + len(states))
    assert covered == list(range(len(ids))), "each position once, in order"
    last = list(averaged._states(model, ids))[-1][1][-1]
    direct = model.transformer(torch.from_numpy(ids[-64:])[None])[0, -1]
    assert torch.allclose(last, direct, atol=1e-5)


def test_neighbours_are_those_of_a_slow_sum() -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.integers(-1, 6, 300).astype(np.int32), rng.integers(-1, 6, 7).astype(np.int32)]
    counts = np.bincount(np.concatenate(pieces)[np.concatenate(pieces) >= 0], minlength=6)
    vectors = rng.normal(size=(6, 4)).astype(np.float32)
    contexts = Contexts(list("abcdef"), counts, vectors, pieces)
    weighted = unit(vectors) * np.minimum(1, np.sqrt(averaged.FREQUENT * counts.sum() / counts))[:, None]
    expected, n = np.zeros((6, 4)), np.zeros(6)
    for piece in pieces:
        for i, word in enumerate(piece):
            around = [piece[j] for j in range(max(0, i - 3), min(len(piece), i + 4)) if j != i and piece[j] >= 0]
            if word >= 0:
                expected[word] += sum((weighted[j] for j in around), np.zeros(4))
                n[word] += 1
    found = averaged._neighbours(vectors, contexts, 3)
    assert np.allclose(found, expected / n[:, None], atol=1e-5)


def test_a_long_text_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(0, 9, 1000).astype(np.int32)
    contexts = Contexts(list("abcdefghi"), np.bincount(words), rng.normal(size=(9, 5)).astype(np.float32), [words])
    whole = averaged._neighbours(contexts.means, contexts, 10)
    monkeypatch.setattr(averaged, "CHUNK", 64)
    assert np.allclose(averaged._neighbours(contexts.means, contexts, 10), whole, atol=1e-5)


def test_equal_axes() -> None:
    cloud = (np.random.default_rng(0).normal(size=(800, 4)) * [8.0, 4.0, 2.0, 1.0] + 3).astype(np.float32)
    assert np.allclose(equalise(cloud, 0.0).std(axis=0), 1, atol=1e-2)
    assert np.allclose(sorted(equalise(cloud, 0.5).std(axis=0)), np.sqrt(np.sort(cloud.std(axis=0))), rtol=0.05)
    centred = cloud - cloud.mean(axis=0)
    assert np.allclose(cosine_matrix(equalise(cloud, 1.0)), cosine_matrix(centred), atol=1e-4), "a rotation"


def test_words_of_one_class_come_together(model: GPT, tokenizer: Tokenizer) -> None:
    """Even a random model's states, averaged with neighbours, put nouns with nouns: their contexts are the same."""
    contexts = read_contexts(model, tokenizer, [make_text(600)])
    vectors = average_vectors(contexts, rounds=1, window=2)
    assert vectors.shape == (len(contexts.words), model.config.dim)
    cosines = cosine_matrix(vectors)
    at = {word: i for i, word in enumerate(contexts.words)}
    assert cosines[at["river"], at["garden"]] > cosines[at["river"], at["finds"]]
    assert cosines[at["Ada"], at["Bela"]] > cosines[at["Ada"], at["garden"]]


def test_a_script_without_spaces_has_vectors_too() -> None:
    text = "我去银行取钱。银行在河边。" * 20
    chinese = Tokenizer.train([text], 400)
    model = random_model(tiny_config("qwen3", vocab_size=chinese.vocab_size))
    contexts = read_contexts(model, chinese, [text])
    assert len(contexts.words) > 1 and all(word in text and "。" not in word for word in contexts.words)
    assert np.isfinite(average_vectors(contexts)).all()


@pytest.mark.parametrize("text", ["", "once", "a b c d"])
def test_too_few_words_are_a_corpus_error(model: GPT, tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(CorpusError, match="too few words stand 5 times"):
        read_contexts(model, tokenizer, [text])
