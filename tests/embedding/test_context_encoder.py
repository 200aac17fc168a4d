"""What a backward model reads for a word: the tokens after it from right to left, wherever the word stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_text

from gptlite.checkpoint.context_encoder import Uses, shapes
from gptlite.config import ModelConfig
from gptlite.embedding.both_sides import use_vectors
from gptlite.embedding.context_encoder import ContextEncoder, last_states, windows_after
from gptlite.embedding.known_uses import KnownUses
from gptlite.model import GPT, initialise
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence
from gptlite.tracing import hidden

CONTEXT = 8


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([make_text(200)], 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    config = ModelConfig.preset(
        "qwen3", "tiny", tokenizer.vocab_size, context_length=CONTEXT, dim=16, n_layers=2, n_heads=2
    )
    made = GPT(config)
    initialise(made, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def place(text: str, word: str) -> Occurrence:
    start = text.index(word)
    return Occurrence(0, text, start, start + len(word))


def read(tokenizer: Tokenizer, text: str, word: str, context: int = CONTEXT) -> list[int]:
    (window,) = windows_after(tokenizer, [place(text, word)], [7], context)
    assert window.positions == [window.end - window.begin - 1]
    return window.ids[window.begin : window.end]


def test_the_end_of_the_text_is_read_first_and_the_token_after_the_word_last(tokenizer: Tokenizer) -> None:
    text = "the dog ran home"
    after = tokenizer.encode(text)[len(tokenizer.encode("the dog")) :]
    assert read(tokenizer, text, "dog", 100) == [7, *reversed(after)]
    assert read(tokenizer, text, "home", 100) == [7]
    assert read(tokenizer, text, "dog", 2) == list(reversed(after[:2]))


def test_of_a_long_text_what_is_near_is_read(tokenizer: Tokenizer) -> None:
    near = "the dog ran home . "
    whole = read(tokenizer, near + "so it is " * 3000, "dog")
    assert whole == read(tokenizer, near + "so it is " * 10, "dog")
    assert whole == read(tokenizer, "it was so . " * 3000 + near + "so it is " * 10, "dog")
    assert 7 not in whole and len(whole) == CONTEXT
    assert read(tokenizer, "it was so . " * 3000 + "the dog", "dog") == [7]


def test_words_of_one_text_share_what_is_read(tokenizer: Tokenizer) -> None:
    text = "the dog ran home"
    windows = windows_after(tokenizer, [place(text, word) for word in ("the", "dog", "ran")], [7], 100)
    assert len({id(window.ids) for window in windows}) == 1
    assert [w.end for w in windows] == sorted((w.end for w in windows), reverse=True)


def test_states_are_those_of_the_reversed_text(model: GPT) -> None:
    windows = np.random.default_rng(0).integers(0, 200, (20, CONTEXT))
    states = last_states(model, windows, backward=True)
    expected = hidden(model, torch.from_numpy(windows[:, ::-1].copy()), [2])[0].numpy()[:, ::-1]
    assert np.allclose(states, expected, atol=1e-5)
    assert np.allclose(last_states(model, windows), hidden(model, torch.from_numpy(windows), [2])[0].numpy(), atol=1e-5)


def test_a_vector_depends_on_what_is_after_the_word(model: GPT, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    network = {name: torch.randn(shape).abs() + 0.1 for name, shape in shapes(16, 4).items()}
    encoder = ContextEncoder(model, network, KnownUses(Uses(np.zeros((0, 12)), np.zeros(0, np.int64))))
    places = [
        place("the dog ran home", "dog"), place("a cat ran home", "cat"), place("the dog ran away", "dog"),
        place("the dog", "dog"),
    ]  # fmt: skip
    before, bags, words = np.ones((4, 16), np.float32), np.ones((4, 8), np.float32), np.full(4, -1)
    vectors, uses = encoder.vectors(tokenizer, places, [7], before, bags, words)
    assert np.allclose(uses, use_vectors(bags, vectors)), "a use of a word that is not known is itself"
    assert vectors.shape == (4, 4) and np.allclose(vectors[0], vectors[1], atol=1e-4)
    for other in vectors[2:]:
        assert not np.allclose(vectors[0], other, atol=1e-2)
    assert not np.allclose(vectors, encoder.vectors(tokenizer, places, [7], before, 2 * bags, words)[0], atol=1e-2)
