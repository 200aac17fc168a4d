"""Surprisals of words: against brute force on a small vocabulary, against `inspection`, and the units of odd texts."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config

from gptlite.device import choose_hardware
from gptlite.evaluation import inspection
from gptlite.evaluation.boundaries import Boundaries
from gptlite.evaluation.surprisals import (
    ScoredText,
    Scorer,
    bits,
    regions_of,
    sentence_of,
    tokens_of,
    words_of,
)
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

TEXTS = [
    "Ada finds the river and the bank .",
    "Bela doesn't open it: 3,000 windows!",
    "a",
    " Ada",
    "the the the the",
    "naïve café, 银行旁边的河。",
    "ends with a space ",
    "two\n\nlines\tand tabs",
    "well-known e.g. U.S. things 3.14",
]


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))


@pytest.fixture(scope="module")
def scorer(model: GPT, tokenizer: Tokenizer) -> Scorer:
    return Scorer(model, tokenizer, choose_hardware("cpu"))


def next_probabilities(model: GPT, ids: list[list[int]]) -> torch.Tensor:
    """(n, V): what comes after each of the equally long sequences."""
    with torch.inference_mode():
        return model(torch.tensor(ids))[:, -1].double().softmax(-1)


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_a_single_reading(model: GPT, tokenizer: Tokenizer, scorer: Scorer, text: str) -> None:
    (scored,) = scorer.score([text])
    reading = inspection.read(model, tokenizer, text, choose_hardware("cpu"))
    assert scored.ids.tolist() == reading.ids.tolist() and list(scored.spans) == list(reading.spans)
    assert np.allclose(scored.surprisal, reading.surprisal, atol=1e-4)
    assert np.allclose(scored.entropy, reading.entropy, atol=1e-4)
    assert scored.rank.tolist() == reading.rank.tolist()


def test_a_batch_gives_what_each_text_gives_alone(scorer: Scorer) -> None:
    for together, text in zip(scorer.score(TEXTS), TEXTS, strict=True):
        (alone,) = scorer.score([text])
        assert together.text == text and np.allclose(together.surprisal, alone.surprisal, atol=1e-5)
        assert np.allclose(together.boundary, alone.boundary, atol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("split", ["unicode", "whitespace"])
def test_words_have_all_tokens_and_sum_to_the_sentence(model: GPT, tokenizer: Tokenizer, text: str, split: str) -> None:
    (scored,) = Scorer(model, tokenizer, choose_hardware("cpu"), split).score([text])
    words = words_of(scored)
    assert [i for word in words for i in range(word.first, word.last)] == list(range(len(scored.ids)))
    assert math.isclose(sum(word.surprisal for word in words), sentence_of(scored).surprisal, abs_tol=1e-6)
    raw = sum(word.surprisal for word in words_of(scored, raw=True))
    assert math.isclose(raw, float(scored.surprisal.sum()), abs_tol=1e-6)
    assert math.isclose(raw, sum(token.surprisal for token in tokens_of(scored)), abs_tol=1e-6)


class AsciiHead(torch.nn.Module):
    """The head of a model that never writes a token with a byte beyond ASCII."""

    def __init__(self, head: torch.nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.head = head
        self.penalty = torch.tensor([1e4 * (not spelled.isascii()) for spelled in tokenizer.token_bytes])

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.head(states) - self.penalty


def continues(so_far: str, spelled: str) -> bool:
    """May an ASCII token that follows `so_far` belong to the same word? Letters, digits and "_" go on with letters."""
    return bool(so_far) and bool(re.fullmatch(r"\w", so_far[-1])) and bool(re.match(r"\w|['.-]\w", spelled))


def goes_on(so_far: str, spelled: str) -> bool:
    """The same where words stand between white space."""
    return bool(so_far) and not spelled[:1].isspace() and spelled != ""


@pytest.mark.parametrize("split", ["unicode", "whitespace"])
@pytest.mark.parametrize("text", ["Ada finds the river", "the window opens the", "a bank", "Ada-Bela don't"])
def test_a_word_is_what_marginalisation_over_its_end_gives(tokenizer: Tokenizer, text: str, split: str) -> None:
    """p(word) = sum over all tokens that may come next of p(word, token), over the same sum before the word."""
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    model.head = AsciiHead(model.head, tokenizer)
    (scored,) = Scorer(model, tokenizer, choose_hardware("cpu"), split).score([text])
    belongs = goes_on if split == "whitespace" else continues
    spelled = [token.decode("latin-1") for token in tokenizer.token_bytes]
    for word in words_of(scored):
        before = [tokenizer.separator_id, *scored.ids[: word.first].tolist()]
        ids = scored.ids[word.first : word.last].tolist()
        p = next_probabilities(model, [before])[0]
        so_far = text[: word.start].rstrip()
        denominator = sum(float(p[t]) for t in range(len(p)) if not belongs(so_far, spelled[t]))
        joint = 1.0
        for i, token in enumerate(ids):
            joint *= float(next_probabilities(model, [[*before, *ids[:i]]])[0, token])
        p = next_probabilities(model, [[*before, *ids]])[0]
        numerator = joint * sum(float(p[t]) for t in range(len(p)) if not belongs(text[: word.end], spelled[t]))
        assert 2**-word.surprisal == pytest.approx(numerator / denominator, rel=1e-5, abs=1e-9)


def test_words_up_to_a_length_and_the_rest_sum_to_one(model: GPT, tokenizer: Tokenizer) -> None:
    """Every sequence of one or two tokens that is a word, and all that goes on."""
    boundaries = Boundaries(tokenizer, model.config.vocab_size)
    start = [tokenizer.separator_id, *tokenizer.encode("Ada finds")]
    p = next_probabilities(model, [start])[0].numpy()
    can_begin = boundaries.masks[boundaries.ending_of("Ada finds")]
    mass = p[can_begin].sum()
    ends = [t for t in range(len(p)) if can_begin[t] and t in tokenizer.end_ids]
    firsts = [t for t in range(len(p)) if can_begin[t] and t not in tokenizer.end_ids]
    total = p[ends].sum() / mass
    after = next_probabilities(model, [[*start, t] for t in firsts]).numpy()
    for row, first in zip(after, firsts, strict=True):
        spelled = tokenizer.token_bytes[first].decode("utf-8", errors="replace")
        masks = boundaries.masks[boundaries.ending_of("Ada finds" + spelled, "\ufffd" not in spelled)]
        one = p[first] * row[masks].sum() / mass  # the word is this token
        more = p[first] * row[~masks].sum() / mass  # it goes on
        total += one + more
        assert one >= 0 and more >= 0
    assert total == pytest.approx(1.0, abs=1e-6)


def test_no_word_is_likelier_than_certain(scorer: Scorer) -> None:
    for scored in scorer.score([*TEXTS, *make_text(50).splitlines()]):
        for word in words_of(scored):
            assert word.surprisal > -1e-6, (scored.text, word)


def test_units_are_those_of_a_linguist(scorer: Scorer) -> None:
    def units(text: str) -> list[str]:
        (scored,) = scorer.score([text])
        return [word.text for word in words_of(scored) if word.kind == "word"]

    assert units("Bela doesn't open it: 3,000 windows!") == ["Bela", "doesn't", "open", "it", "3,000", "windows"]
    assert units("well-known U.S. (things)") == ["well-known", "U.S", "things"]


def test_a_context_is_read_and_not_scored(model: GPT, tokenizer: Tokenizer, scorer: Scorer) -> None:
    (alone,) = scorer.score(["The bank ."])
    (after,) = scorer.score([" The bank ."], ["Ada finds the river ."])
    (whole,) = scorer.score(["Ada finds the river . The bank ."])
    n = len(after.ids)
    assert after.ids.tolist() == whole.ids[-n:].tolist()
    assert np.allclose(after.surprisal, whole.surprisal[-n:], atol=1e-5)
    assert np.allclose(after.boundary, whole.boundary[-n - 1 :], atol=1e-5)
    assert after.seen.tolist() == whole.seen[-n:].tolist() and alone.seen[0] == 0
    assert [word.text for word in words_of(after) if word.kind == "word"] == ["The", "bank"]


def test_a_text_beyond_the_context_is_cut_and_says_so(scorer: Scorer) -> None:
    text = make_text(20).replace("\n", " ")
    (scored,) = scorer.score([text])
    context = scorer.model.config.context_length
    assert len(scored.ids) > 2 * context and len(scored.boundary) == len(scored.ids) + 1
    assert not scored.is_cut[: context - 1].any() and scored.is_cut[-1]
    assert (scored.seen[context:] >= context // 2 - 1).all() and (scored.seen <= context).all()
    reading = inspection.read(scorer.model, scorer.tokenizer, text, choose_hardware("cpu"))
    assert np.allclose(scored.surprisal, reading.surprisal, atol=1e-4)


def test_regions_take_the_tokens_whose_letters_they_have(scorer: Scorer) -> None:
    text = "Ada finds the river and the bank ."
    (scored,) = scorer.score([text])
    first, second = regions_of(scored, [(0, 10), (10, len(text))])
    assert (first.text, second.text) == ("Ada finds", "the river and the bank .")
    assert first.surprisal + second.surprisal == pytest.approx(sentence_of(scored).surprisal, abs=1e-6)
    (nothing,) = regions_of(scored, [(3, 4)])
    assert math.isnan(nothing.surprisal)


def test_an_empty_text_has_no_tokens(scorer: Scorer) -> None:
    (scored,) = scorer.score([""])
    assert len(scored.ids) == 0 and words_of(scored) == [] and sentence_of(scored).surprisal == 0.0


def test_bits_are_raw_or_with_boundaries(scorer: Scorer) -> None:
    (scored,) = scorer.score(["Ada finds"])
    assert isinstance(scored, ScoredText)
    difference = bits(scored, 0, 1) - bits(scored, 0, 1, raw=True)
    assert difference == pytest.approx(scored.boundary[1] - scored.boundary[0])
