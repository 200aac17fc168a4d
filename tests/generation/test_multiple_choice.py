"""Given texts: their log-probability is the sum of their tokens', whatever stands before."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model, tiny_config

from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.generation.multiple_choice import score_choices
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

CONTEXT = 32


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=CONTEXT))


@pytest.mark.parametrize("prompt", ["", "Ada finds", "Ada finds the river and the bank . " * 4])
def test_a_choice_is_as_likely_as_its_tokens_one_by_one(model: GPT, tokenizer: Tokenizer, prompt: str) -> None:
    for choice in score_choices(model, tokenizer, prompt, [" the", " the river and", "河岸"]):
        ids = (tokenizer.encode(prompt) or [tokenizer.separator_id]) + choice.tokens
        expected = 0.0
        with torch.no_grad():
            for at in range(len(ids) - len(choice.tokens), len(ids)):
                begin = max(0, len(ids) - 1 - CONTEXT)
                expected += float(model(torch.tensor([ids[begin:at]]))[0, -1].double().log_softmax(-1)[ids[at]])
        assert tokenizer.decode(choice.tokens) == choice.text
        assert choice.logprob == pytest.approx(expected, abs=1e-4)
        assert choice.logprob_per_token == choice.logprob / len(choice.tokens)


def test_the_probabilities_of_all_that_may_come_add_up(model: GPT, tokenizer: Tokenizer) -> None:
    """Of all single ASCII characters and of the separator: what is left are tokens that no single character makes."""
    singles = [chr(i) for i in range(128)]
    total = sum(torch.tensor(c.logprob).exp() for c in score_choices(model, tokenizer, "Ada", singles))
    ids = [tokenizer.encode(each)[0] for each in singles]
    with torch.no_grad():
        probabilities = model(torch.tensor([tokenizer.encode("Ada")]))[0, -1].softmax(-1)
    assert float(total) == pytest.approx(float(probabilities[ids].sum()), abs=1e-4)


def test_choices_that_cannot_be_scored(model: GPT, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="`choices` needs texts"):
        score_choices(model, tokenizer, "Ada", [" the", ""])
    assert score_choices(model, tokenizer, "Ada", ["x" * CONTEXT])[0].logprob < 0
    with pytest.raises(LimitError, match="a choice of 33 tokens is longer than the 32"):
        score_choices(model, tokenizer, "Ada", ["x" * (CONTEXT + 1)])
    broken = random_model(model.config)
    with torch.no_grad():
        broken.transformer.embed.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not numbers"):
        score_choices(broken, tokenizer, "Ada", [" the"])
