"""What the model thought of its tokens: the numbers of its own distribution, and the part of the text each spells."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
import torch
from conftest import random_model, tiny_config

from gptlite.config import SamplingConfig
from gptlite.generation.generate import Sample, generate
from gptlite.generation.logprobs import Attribution, Recorder, count_spelling
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

PROMPT = "Ada finds the"
CUT = SamplingConfig(temperature=1.7, top_k=9, top_p=0.8, max_new_tokens=12, num_samples=3)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=32))


def by_one_pass(model: GPT, prompt: list[int], sample: Sample) -> torch.Tensor:
    """The log-probabilities (T, V) at each token of a sample, from one pass over the whole text."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *sample.tokens]]))[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(dim=-1)


def test_log_probabilities_are_those_of_the_model_before_any_cut(model: GPT, tokenizer: Tokenizer) -> None:
    for sample in generate(model, tokenizer, PROMPT, CUT, seed=1, logprobs=0):
        expected = by_one_pass(model, tokenizer.encode(PROMPT), sample)
        chosen = [float(expected[i, token]) for i, token in enumerate(sample.tokens)]
        assert sample.logprobs == pytest.approx(chosen, abs=1e-5)
        assert sample.top == [[]] * len(sample.tokens)


def test_the_likeliest_tokens_come_in_their_order(model: GPT, tokenizer: Tokenizer) -> None:
    for sample in generate(model, tokenizer, PROMPT, CUT, seed=1, logprobs=5):
        values, ids = by_one_pass(model, tokenizer.encode(PROMPT), sample).topk(5)
        assert [[i for i, _ in top] for top in sample.top] == ids.tolist()
        assert [p for top in sample.top for _, p in top] == pytest.approx(values.flatten().tolist(), abs=1e-5)


def test_asking_changes_no_token_and_not_asking_keeps_none(model: GPT, tokenizer: Tokenizer) -> None:
    asked = generate(model, tokenizer, PROMPT, CUT, seed=1, logprobs=5)
    plain = generate(model, tokenizer, PROMPT, CUT, seed=1)
    assert [s.tokens for s in asked] == [s.tokens for s in plain]
    assert all(s.logprobs == [] == s.top for s in plain)


def test_the_end_of_the_document_is_no_token_of_the_text(model: GPT, tokenizer: Tokenizer) -> None:
    ends = SamplingConfig(temperature=9.0, top_p=1, min_p=0, max_new_tokens=1500)
    (sample,) = generate(model, tokenizer, PROMPT, ends, seed=1, logprobs=1)
    assert sample.finish_reason == "stop"
    assert len(sample.tokens) == len(sample.logprobs) == len(sample.top)


def test_a_sampler_may_spoil_the_logits() -> None:
    recorder = Recorder(lambda logits: logits.fill_(0).argmax(dim=-1), k=1)
    recorder(torch.tensor([[0.0, math.log(3.0)]]))
    assert recorder.chosen == {0: pytest.approx(math.log(0.25))}
    assert recorder.top[0] == [(1, pytest.approx(math.log(0.75)))]


def test_what_is_impossible_is_no_alternative() -> None:
    recorder = Recorder(lambda logits: logits.argmax(dim=-1), k=9)
    recorder(torch.tensor([[-torch.inf, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert {row: [i for i, _ in top] for row, top in recorder.top.items()} == {0: [2, 1], 1: [0, 1, 2]}


def test_rows_that_still_write_keep_their_numbers() -> None:
    recorder = Recorder(lambda logits, rows, more: logits.argmax(dim=-1), k=1)
    recorder(torch.tensor([[0.0, 0.0, -9.0], [9.0, 9.0, 9.0]]), [4, 7], None)
    assert recorder.chosen.keys() == recorder.top.keys() == {4, 7}
    assert recorder.chosen[7] == pytest.approx(-math.log(3))


def random_ids(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """Ids of texts in which characters are cut, left open and begun in the middle."""
    ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(6))]
    ids += [tokenizer.token_bytes.index(bytes([byte])) for byte in "é河🙂x".encode()[rng.randrange(4) :]]
    rng.shuffle(ids) if rng.random() < 0.5 else None
    return ids


@pytest.mark.parametrize("seed", range(50))
def test_parts_are_the_text_however_it_comes_and_carry_all_that_was_thought(tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    ids = random_ids(tokenizer, rng)
    logprobs = [-float(2**i) for i in range(len(ids))]  # any sum tells its terms
    text = tokenizer.decode(ids)
    cuts = sorted(rng.sample(range(len(text) + 1), k=min(3, len(text))))
    whole, portions = Attribution(tokenizer), Attribution(tokenizer)
    for token, logprob in zip(ids, logprobs, strict=True):
        whole.add(token, logprob)
        portions.add(token, logprob)
    parts = list(whole.take(text))
    assert "".join(part for part, _ in parts) == text
    unfinished = 0.0 if not parts or parts[-1][1] == whole.unfinished else whole.unfinished
    assert sum(p for _, p in parts) + unfinished == sum(logprobs)
    by_character = [p for part, p in parts for _ in part]
    pieces = [piece for a, b in pairwise([0, *cuts, len(text)]) for piece in portions.take(text[a:b])]
    assert [p for part, p in pieces for _ in part] == by_character


def test_a_character_of_several_tokens_is_one_part(tokenizer: Tokenizer) -> None:
    attribution = Attribution(tokenizer)
    for byte, logprob in zip("a河b".encode(), (-1.0, -2.0, -4.0, -8.0, -16.0), strict=True):
        attribution.add(tokenizer.token_bytes.index(bytes([byte])), logprob)
    assert list(attribution.take("a河b")) == [("a", -1.0), ("河", -14.0), ("b", -16.0)]


THE, BANK, AND, E_FIRST, E_SECOND, X = range(6)


@pytest.mark.parametrize(
    ("ids", "text", "n"),
    [
        ([THE, BANK, AND], "the bank and", 3),
        ([THE, BANK, AND], "the bank", 2),
        ([THE, BANK, AND], "the ba", 2),  # the stop string begins in the middle of a token
        ([THE, BANK, AND], "", 0),
        ([E_FIRST, E_SECOND, X], "é", 2),
        ([THE, E_FIRST], "the", 2),  # half a character belongs to the text, though it is not shown
        ([], "", 0),
    ],
)
def test_tokens_behind_the_text_are_not_of_it(ids: list[int], text: str, n: int) -> None:
    tokenizer = object.__new__(Tokenizer)
    tokenizer.token_bytes = [b"the", b" bank", b" and", b"\xc3", b"\xa9", b"x"]
    assert count_spelling(tokenizer, ids, text) == n
