"""Layer by layer: what cosines are worth, and the same for a model that has learned nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config

from gptlite.config import ARCHITECTURES
from gptlite.embedding.contextual import embed
from gptlite.embedding.layerwise import describe_layers, untrained_model, untrained_statistics
from gptlite.embedding.similarity import cosine_matrix
from gptlite.embedding.statistics import measure_statistics
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import find_word

TEXTS = [line for line in make_text(60, seed=1).splitlines() if "bank" in line]
PLACES = [place for i, text in enumerate(TEXTS) for place in find_word(text, i, "bank")[:1]]


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))


def test_layers_are_described_as_they_were_measured(model: GPT, tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode(make_text(300)))
    statistics = measure_statistics(model, tokenizer, ids)
    vectors = np.stack([v.contextual for v in embed(model, tokenizer, PLACES)])
    described = describe_layers(vectors, statistics, "center")
    assert [layer.number for layer in described] == [0, 1, 2]
    for layer in described:
        mean = statistics["mean"][layer.number].numpy()
        cosines = cosine_matrix(vectors[:, layer.number] - mean)[np.triu_indices(len(PLACES), 1)]
        assert layer.occurrences == pytest.approx((cosines.mean(), cosines.std()), abs=1e-6)
        assert layer.unrelated == pytest.approx(statistics["unrelated"][layer.number, 1].tolist())
        assert layer.same_word == pytest.approx(statistics["same_word"][layer.number, 1].tolist())
    assert described[0].separation == 1.0, "below the blocks a word is one vector"


def test_one_place_has_no_pairs(model: GPT, tokenizer: Tokenizer) -> None:
    statistics = measure_statistics(model, tokenizer, np.array(tokenizer.encode(make_text(100))))
    vectors = embed(model, tokenizer, PLACES[:1])[0].contextual[None]
    assert all(layer.occurrences is None for layer in describe_layers(vectors, statistics, "zscore"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_untrained_model_mixes_context_in_by_chance(architecture: str, tokenizer: Tokenizer) -> None:
    control = untrained_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size))
    first, second = (v.contextual for v in embed(control, tokenizer, PLACES[:2]))
    assert np.abs(first[1:] - second[1:]).max(axis=1).min() > 0.01
    again = untrained_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size))
    assert all(torch.equal(a, b) for a, b in zip(control.parameters(), again.parameters(), strict=True))


def test_an_untrained_model_is_measured_on_the_words_it_would_have_seen(tokenizer: Tokenizer) -> None:
    control = untrained_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    for words, texts in (([("bank", 7)], ["river"]), ([], ["bank"])):
        statistics = untrained_statistics(control, tokenizer, words, texts)
        rows = control.transformer.embed.weight[tokenizer.encode(" bank")]
        assert torch.allclose(statistics["mean"][0], rows.mean(dim=0), atol=1e-3)
