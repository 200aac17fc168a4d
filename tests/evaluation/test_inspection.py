"""A text as a model reads it: the sums of `eval`, the numbers of transformers, and words that own all tokens."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlite.checkpoint import saved_step
from gptlite.config import ARCHITECTURES
from gptlite.device import choose_hardware
from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.evaluation import inspection
from gptlite.evaluation.inspection import (
    Reading,
    attend,
    explain,
    find_token,
    habits,
    parse_head,
    read,
    window_of,
    words_of,
)
from gptlite.evaluation.scoring import score_model
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.tracing import trace

SENTENCE = "Ada finds the river and the bank ."
CPU = choose_hardware("cpu", "fp32")
BPE = Tokenizer.train([make_text(20), "天 ab, 3.3 don't  天天"], 300)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def model_of(architecture: str, tokenizer: Tokenizer, **overrides: int) -> GPT:
    return random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size + 10, **overrides))


def reading_of(text: str, tokenizer: Tokenizer, surprisal: Any = None) -> Reading:
    """What `words_of` needs: tokens and their bits."""
    ids, spans = tokenizer.encode_with_spans(text)
    n = len(ids)
    bits = np.arange(1.0, n + 1) if surprisal is None else surprisal
    some = np.zeros((n, 1))
    return Reading(text, np.array(ids), spans, bits, bits, np.ones(n), some.astype(int), some, len(text.encode()))


# -- Surprisal


@architectures
@pytest.mark.parametrize("n_lines", [1, 40])
def test_surprisals_add_up_to_what_eval_says(architecture: str, n_lines: int, tokenizer: Tokenizer) -> None:
    """Of a text that fits into the context, and of one that takes many windows."""
    text = make_text(n_lines)
    model = model_of(architecture, tokenizer)
    reading = read(model, tokenizer, text, CPU)
    ids = np.array([tokenizer.separator_id, *tokenizer.encode(text)])
    expected = score_model(model, tokenizer, ids, CPU)
    assert (len(ids) > model.config.context_length) is (n_lines > 1)
    assert reading.score.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert float(reading.surprisal.sum(dtype=np.float64)) == pytest.approx(expected.nats / math.log(2), abs=1e-4)
    assert (reading.score.tokens, reading.score.bytes) == (expected.tokens, expected.bytes)


@pytest.mark.hf
@architectures
@torch.no_grad()
def test_transformers_gives_the_same_surprisals_and_maps(
    architecture: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = model_of(architecture, tokenizer)
    saved_step.save_step(tmp_path / "step", model, tokenizer, {})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "step", attn_implementation="eager").eval()
    ids = torch.tensor([[tokenizer.separator_id, *tokenizer.encode(SENTENCE)]])
    seen = theirs(ids, output_attentions=True)
    expected = -seen.logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0] / math.log(2)
    reading = read(model, tokenizer, SENTENCE, CPU)
    assert np.abs(reading.surprisal - expected.numpy()).max() < 1e-4
    window = window_of(reading, tokenizer, model.config.context_length)
    maps = attend(model, window).weights
    assert np.abs(maps - torch.cat(seen.attentions).numpy()).max() < 1e-5
    for layer in (1, 2):
        for head in (1, 2):
            assert np.abs(attend(model, window, layer, head).weights[0, 0] - maps[layer - 1, head - 1]).max() < 1e-6


def test_entropy_rank_and_alternatives_are_those_of_the_distribution(tokenizer: Tokenizer) -> None:
    model = model_of("qwen3", tokenizer)
    reading = read(model, tokenizer, SENTENCE, CPU, top=3)
    stream = torch.tensor([[tokenizer.separator_id, *reading.ids]])
    p = trace(model, stream).logits[0, :-1].double().softmax(-1)  # type: ignore[index]
    for i, true in enumerate(reading.ids):
        assert reading.surprisal[i] == pytest.approx(-math.log2(p[i, true]), abs=1e-4)
        assert reading.entropy[i] == pytest.approx(float(-(p[i] * p[i].log2()).sum()), abs=1e-4)
        assert reading.rank[i] == 1 + int((p[i] > p[i, true]).sum())
        order = p[i, : tokenizer.vocab_size].argsort(descending=True)[:3]
        assert reading.top[i].tolist() == order.tolist(), "only tokens that can be spelled"
        assert reading.top_p[i] == pytest.approx(p[i, order].numpy(), abs=1e-5)


@architectures
def test_the_last_layer_of_the_lens_is_the_model(architecture: str, tokenizer: Tokenizer) -> None:
    model = model_of(architecture, tokenizer)
    reading = read(model, tokenizer, SENTENCE, CPU, lens=True)
    assert reading.lens is not None and reading.lens.surprisal.shape == (3, len(reading.ids))
    assert np.array_equal(reading.lens.surprisal[-1], reading.surprisal)
    assert np.array_equal(reading.lens.best[-1], reading.top[:, 0])
    middle = trace(model, torch.tensor([[tokenizer.separator_id, *reading.ids]])).hidden[1]
    with torch.no_grad():
        logp = model.head(model.transformer.norm(middle))[0, :-1].log_softmax(-1)
    true = logp.gather(-1, torch.from_numpy(reading.ids)[:, None])[:, 0]
    assert reading.lens.surprisal[1] == pytest.approx(-true.numpy() / math.log(2), abs=1e-4)


def test_few_numbers_at_a_time_give_the_same(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = model_of("qwen3", tokenizer), make_text(20)
    whole = read(model, tokenizer, text, CPU, lens=True)
    monkeypatch.setattr(inspection, "LARGEST_LOGITS", 3 * 40 * model.config.vocab_size)
    parts = read(model, tokenizer, text, CPU, lens=True)
    assert whole.lens is not None and parts.lens is not None
    assert np.allclose(whole.lens.surprisal, parts.lens.surprisal, atol=1e-4)
    assert np.array_equal(whole.ids, parts.ids)


def test_a_sure_model_has_no_negative_surprisal(tokenizer: Tokenizer) -> None:
    model = model_of("gpt2", tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(30.0)
    bits = read(model, tokenizer, make_text(5), CPU).surprisal
    assert not np.signbit(bits).any()


def test_what_cannot_be_read_is_said(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("qwen3", tokenizer)
    with pytest.raises(UsageError, match="empty"):
        read(model, tokenizer, "", CPU)
    monkeypatch.setattr(inspection, "LONGEST_TEXT", 10)
    with pytest.raises(LimitError, match="34 characters"):
        read(model, tokenizer, SENTENCE, CPU)
    monkeypatch.setattr(inspection, "LARGEST_MAPS", 10)
    with pytest.raises(LimitError, match="4 heads over 9 tokens"):
        attend(model, (0, list(range(9))))
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    with pytest.raises(CheckpointError, match="not numbers"):
        read(model, tokenizer, "Ada", CPU)


# -- Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada finds", "Ada/finds"),
        ("Ada (don't) .", "Ada/(/don't/)/."),
        ("3,000.5 mother-in-law's", "3,000.5/mother-in-law's"),
        ("so—well", "so/—/well"),
        (" Ada\n\nfinds  ", "Ada/\n\n/finds/  "),
        ("天地。", "天/地/。"),
        ("e\u0301t\u0301 👩\u200d👧", "e\u0301t\u0301/👩\u200d👧"),
    ],
)
def test_words_are_found_in_tokens(text: str, expected: str, tokenizer: Tokenizer) -> None:
    assert "/".join(word.text for word in words_of(reading_of(text, tokenizer))) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from(" \n\tab'.,-3天ที่e\u0301👩\u200d🏽(_"), min_size=1, max_size=12))
def test_words_own_all_tokens_and_all_bits(text: str) -> None:
    reading = reading_of(text, BPE)
    words = words_of(reading)
    assert [i for word in words for i in range(word.first, word.last)] == list(range(len(reading.ids)))
    assert sum(word.surprisal for word in words) == pytest.approx(reading.surprisal.sum())
    assert all(text[word.start : word.end] == word.text for word in words)
    letters = [i for i, c in enumerate(text) if not c.isspace()]
    covered = {i for word in words for i in range(word.start, word.end)}
    assert set(letters) <= covered, "only white space before a word is left to it"


def test_the_space_before_a_word_is_the_words(tokenizer: Tokenizer) -> None:
    words = words_of(reading_of("the river", tokenizer))
    ids = tokenizer.encode("the river")
    assert tokenizer.decode(ids[words[1].first : words[1].last]) == " river"
    assert words[1].text == "river"


# -- Attention


@architectures
def test_one_step_is_the_attention_of_the_model(architecture: str, tokenizer: Tokenizer) -> None:
    """Its heads' outputs add up to what attention adds to the residual stream."""
    model = model_of(architecture, tokenizer)
    reading = read(model, tokenizer, SENTENCE, CPU)
    window = window_of(reading, tokenizer, 32)
    ids = torch.tensor([window[1]])
    captured: list[torch.Tensor] = []
    attention = model.transformer.blocks[1].attn
    with torch.no_grad(), attention.register_forward_hook(lambda *x: captured.append(x[2])):  # type: ignore[union-attr]
        model(ids)
    steps = [explain(model, window, 2, head, 5) for head in (1, 2)]
    bias = attention.o_proj.bias  # type: ignore[union-attr]
    total = sum(step.update for step in steps) + (0 if bias is None else bias.detach().numpy())
    assert total == pytest.approx(captured[0][0, 5].numpy(), abs=1e-5)
    maps = trace(model, ids, attention=True).attention[1][0]
    for head, step in enumerate(steps):
        assert step.weights == pytest.approx(maps[head, 5].numpy(), abs=1e-6)


@architectures
def test_the_numbers_of_a_step_follow_from_each_other(architecture: str, tokenizer: Tokenizer) -> None:
    model = model_of(architecture, tokenizer)
    e = explain(model, window_of(read(model, tokenizer, SENTENCE, CPU), tokenizer, 32), 1, 2, 4)
    assert e.scores == pytest.approx(e.keys @ e.query, rel=1e-4, abs=1e-5)
    assert e.scaled == pytest.approx(e.scores / math.sqrt(len(e.query)), rel=1e-5)
    assert np.array_equal(np.isneginf(e.masked), np.arange(len(e.masked)) > e.position)
    powers = np.exp(e.masked)
    assert e.weights == pytest.approx(powers / powers.sum(), rel=1e-4)
    assert e.output == pytest.approx(e.weights @ e.values, abs=1e-5)
    assert (len(e.x), len(e.update), len(e.residual), e.map.size) == (*[model.config.dim] * 3, 0)


def test_heads_may_share_keys(tokenizer: Tokenizer) -> None:
    config = tiny_config("qwen3", vocab_size=tokenizer.vocab_size, n_heads=4)
    model = random_model(dataclasses.replace(config, n_kv_heads=2))
    window = window_of(read(model, tokenizer, SENTENCE, CPU), tokenizer, 32)
    steps = [explain(model, window, 1, head, 6) for head in (1, 2, 3, 4)]
    assert [step.key_head for step in steps] == [1, 1, 2, 2]
    assert np.array_equal(steps[0].keys, steps[1].keys) and not np.array_equal(steps[1].keys, steps[2].keys)
    maps = attend(model, window).weights
    assert all(np.allclose(step.weights, maps[0, i, 6], atol=1e-6) for i, step in enumerate(steps))


def test_the_window_of_a_long_text_ends_at_the_token(tokenizer: Tokenizer) -> None:
    reading = reading_of(make_text(20), tokenizer)
    stream = [tokenizer.separator_id, *reading.ids]
    assert window_of(reading, tokenizer, 32) == (len(stream) - 32, stream[-32:])
    assert window_of(reading, tokenizer, 32, 50) == (19, stream[19:51])
    assert window_of(reading, tokenizer, 32, 3) == (0, stream[:32])
    assert window_of(reading, tokenizer, 1000, 3) == (0, stream)


def test_habits_say_where_a_head_looks() -> None:
    T = 6
    previous = np.eye(T, k=-1)
    previous[0, 0] = 1
    first = np.zeros((T, T))
    first[:, 0] = 1
    weights = np.stack([previous, first, np.eye(T)])[None]
    found = habits(inspection.Attended(0, weights))
    shares = [(h.first, h.previous, h.itself, h.rest) for h in found]
    assert shares == [(0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0)]
    assert [(h.layer, h.head) for h in found] == [(1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("text", ["", "3", "3.0", "0.1", "3.1", "1.3", "a.b", "-1.1", "1.1.1", "٣.١"])
def test_a_head_that_is_not_there_is_refused(text: str) -> None:
    assert parse_head("2.1", 2, 2, "explain") == (2, 1)
    with pytest.raises(UsageError, match=r"`explain` takes a layer from 1 to 2 and a head from 1 to 2, such as 2\.2"):
        parse_head(text, 2, 2, "explain")


def test_a_token_is_named_by_number_or_word(tokenizer: Tokenizer) -> None:
    reading = reading_of(SENTENCE, tokenizer)
    ids = reading.ids.tolist()
    assert find_token(reading, "3") == 3
    for name, end in {"river": "Ada finds the river", "the#2": "Ada finds the river and the", "Ada": "Ada"}.items():
        assert find_token(reading, name) == len(tokenizer.encode(end)), name
    assert find_token(reading, ".") == len(ids)
    for name, message in {"0": "1 to", "99": "1 to", "cat": "no such word; it has Ada, finds, the"}.items():
        with pytest.raises(UsageError, match=message):
            find_token(reading, name)
