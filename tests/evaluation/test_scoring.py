"""Scores: windows that cover a text once, bits that can be checked by hand, and the same numbers as transformers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gptlite.checkpoint import runs, saved_step
from gptlite.device import choose_hardware
from gptlite.evaluation.scoring import Score, Window, score, score_model, sliding_windows, spread
from gptlite.text.tokenizer import Tokenizer

V = 11
ONE_BYTE = torch.ones(V, dtype=torch.long)


def uniform(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, V)


def stream(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, n).astype("<u2")


# -- Windows


@given(n=st.integers(0, 400), context=st.integers(1, 70))
def test_each_target_is_scored_exactly_once(n: int, context: int) -> None:
    scored = [
        target
        for w in sliding_windows(n, context)
        for target in range(w.start + 1 + w.length - w.scored, w.start + 1 + w.length)
    ]
    assert scored == list(range(1, n))


@given(n=st.integers(2, 400), context=st.integers(1, 70))
def test_each_target_is_predicted_from_half_a_context(n: int, context: int) -> None:
    for w in sliding_windows(n, context):
        assert 1 <= w.scored <= w.length <= context
        assert w.start >= 0 and w.start + w.length < n
        for position in range(w.length - w.scored, w.length):
            target, seen = w.start + 1 + position, position + 1
            assert seen >= min(target, context / 2)


@given(n=st.integers(2, 400), context=st.integers(1, 70))
def test_windows_are_of_one_length(n: int, context: int) -> None:
    """So that they can be scored in batches."""
    assert len({w.length for w in sliding_windows(n, context)}) == 1


@pytest.mark.parametrize("n", [0, 1])
def test_a_text_without_targets_has_no_windows(n: int) -> None:
    assert list(sliding_windows(n, 8)) == []


@given(n=st.integers(0, 300), most=st.integers(1, 40))
def test_spread_keeps_both_ends_and_even_gaps(n: int, most: int) -> None:
    windows = [Window(i, 8, 4) for i in range(n)]
    kept = [w.start for w in spread(windows, most)]
    assert len(kept) == min(n, most)
    assert kept == sorted(set(kept))
    if n > most > 1:
        gaps = np.diff(kept)
        assert (kept[0], kept[-1]) == (0, n - 1)
        assert gaps.max() - gaps.min() <= 1


# -- Scores


@pytest.mark.parametrize("n", [2, 9, 10, 57])
@pytest.mark.parametrize("context", [1, 8])
def test_a_uniform_model_needs_log2_v_bits_a_token(n: int, context: int) -> None:
    result = score(uniform, stream(n), sliding_windows(n, context), ONE_BYTE)
    assert (result.tokens, result.bytes) == (n - 1, n - 1)
    assert result.bits_per_byte == pytest.approx(math.log2(V), abs=1e-6)
    assert result.perplexity == pytest.approx(V, rel=1e-5)
    assert result.loss == pytest.approx(math.log(V), abs=1e-6)


def test_a_model_that_knows_needs_no_bits() -> None:
    ids = (np.arange(60) % V).astype("<u2")

    def clairvoyant(tokens: Tensor) -> Tensor:
        return 100.0 * torch.nn.functional.one_hot((tokens + 1) % V, V).float()

    assert score(clairvoyant, ids, sliding_windows(60, 8), ONE_BYTE).bits_per_byte == pytest.approx(0.0, abs=1e-9)


def test_bits_are_divided_by_bytes_not_tokens() -> None:
    ids = stream(40)
    lengths = torch.arange(1, V + 1)
    result = score(uniform, ids, sliding_windows(40, 8), lengths)
    assert result.bytes == int(lengths[ids[1:].astype(int)].sum())
    assert result.bits_per_byte * result.bytes == pytest.approx(39 * math.log2(V), rel=1e-6)


def test_bits_times_bytes_is_the_sum_over_tokens() -> None:
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(1))
    ids = stream(100, seed=2)
    result = score(lambda tokens: table[tokens], ids, sliding_windows(100, 8), ONE_BYTE * 3)
    surprise = -table.log_softmax(-1)[ids[:-1].astype(int), ids[1:].astype(int)].double() / math.log(2)
    assert result.bits_per_byte * result.bytes == pytest.approx(surprise.sum().item(), rel=1e-6)


def test_separators_do_not_count() -> None:
    """A token of no bytes is not scored, but whatever follows it is."""
    lengths = ONE_BYTE.clone()
    lengths[0] = 0
    ids = np.array([0, 3, 4, 0, 5, 0, 0, 6], dtype="<u2")

    def sure_of_separators(tokens: Tensor) -> Tensor:
        logits = uniform(tokens)
        logits[..., 0] = -50.0
        return logits

    result = score(sure_of_separators, ids, sliding_windows(8, 4), lengths)
    assert (result.tokens, result.bytes) == (4, 4)
    assert result.bits_per_byte == pytest.approx(math.log2(V - 1), abs=1e-6)


def test_many_windows_are_scored_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, windows = stream(200), sliding_windows(200, 8)
    shapes = []

    def logits_of(tokens: Tensor) -> Tensor:
        shapes.append(tokens.shape)
        return uniform(tokens)

    whole = score(logits_of, ids, windows, ONE_BYTE)
    assert len(shapes) == 1
    monkeypatch.setattr("gptlite.evaluation.scoring.LARGEST_LOGITS", 5 * V * 8)
    parts = score(logits_of, ids, windows, ONE_BYTE)
    assert {tuple(shape) for shape in shapes[1:-1]} == {(5, 8)}
    assert (parts.tokens, parts.bytes) == (whole.tokens, whole.bytes)
    assert parts.nats == pytest.approx(whole.nats)


def test_a_hopeless_model_has_infinite_perplexity() -> None:
    assert Score(nats=1e6, tokens=10, bytes=10).perplexity == math.inf


# -- Models


def test_scoring_leaves_the_model_as_it_was(tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size))
    ids = np.array(tokenizer.encode(make_text(5)), dtype="<u2")
    hardware = choose_hardware("cpu", "fp32")
    state = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        score_model(model, tokenizer, ids, hardware)
        assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_larger_vocabulary_than_the_tokenizer_is_fine(tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size + 7))
    text = make_text(5)
    ids = np.array([tokenizer.separator_id, *tokenizer.encode(text)], dtype="<u2")
    result = score_model(model, tokenizer, ids, choose_hardware("cpu", "fp32"))
    assert result.bytes == len(text.encode())


@pytest.mark.hf
def test_transformers_finds_the_same_bits(trained_run: Path) -> None:
    """Each target by itself, from the very context that our windows give it."""
    transformers = pytest.importorskip("transformers")
    step = runs.find_model(str(trained_run))
    ours = saved_step.load(step)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(step).eval()
    text = make_text(6, seed=5)
    ids = [ours.tokenizer.separator_id, *ours.tokenizer.encode(text)]
    context = ours.config.context_length
    assert len(ids) > 2 * context
    bits, stride, n = 0.0, context // 2, len(ids) - 1
    with torch.no_grad():
        for target in range(1, len(ids)):
            end = target if target <= context else min(n, context + stride * math.ceil((target - context) / stride))
            start = max(0, end - context)
            logits = theirs(torch.tensor([ids[start:target]])).logits[0, -1].double()
            bits -= logits.log_softmax(-1)[ids[target]].item() / math.log(2)
    result = score_model(ours.model, ours.tokenizer, np.array(ids, dtype="<u2"), choose_hardware("cpu", "fp32"))
    assert result.bytes == len(text.encode())
    assert result.bits_per_byte == pytest.approx(bits / len(text.encode()), abs=1e-4)
