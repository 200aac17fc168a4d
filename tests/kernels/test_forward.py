"""The forward pass in C: hidden states and predictions are those of the model, and whoever cannot have it goes on."""

from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import random_model, tiny_config

from gptlite.device import choose_hardware
from gptlite.errors import CheckpointError
from gptlite.evaluation import surprisals
from gptlite.evaluation.surprisals import ScoredText, Scorer
from gptlite.kernels.build import NoKernel
from gptlite.kernels.forward import Forward
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
CPU = choose_hardware("cpu", "fp32", threads=2)
TEXTS = ["Ada finds the river .", "a", "", "the bank of the river " * 20, "3,000 windows!"]


@pytest.fixture
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size)).eval()


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_states_are_those_of_the_model(architecture: str, tied: bool) -> None:
    model = random_model(dataclasses.replace(tiny_config(architecture), tie_embeddings=tied)).eval()
    for shape in ((1, 1), (3, 5), (2, model.config.context_length)):
        tokens = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            theirs = model.transformer(tokens)
        assert torch.allclose(Forward(model).states(tokens), theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("cached")
def test_predictions_are_those_of_softmax(model: GPT) -> None:
    forward, generator = Forward(model), torch.Generator().manual_seed(3)
    states = torch.randn(9, model.config.dim, generator=generator)
    targets = torch.randint(model.config.vocab_size, (9,), generator=generator)
    sets = (torch.rand(3, model.config.vocab_size, generator=generator) < 0.3).float()
    sets[2] = 0
    surprisal, entropy, rank, of_sets = forward.next_token(states, targets, sets)
    logp = (states @ model.head.weight.detach().T).double().log_softmax(-1)
    chosen = logp.gather(1, targets[:, None])
    assert torch.allclose(surprisal, -chosen[:, 0], atol=1e-5)
    assert torch.allclose(entropy, -(logp.exp() * logp).sum(-1), atol=1e-5)
    assert rank.tolist() == (1 + (logp > chosen).sum(-1)).tolist()
    assert torch.allclose(of_sets[:, :2], -(logp.exp() @ sets[:2].double().T).log(), atol=1e-5)
    assert of_sets[:, 2].tolist() == pytest.approx([-math.log(1e-300)] * 9)  # no token at all: the least there is


def scored(model: GPT, tokenizer: Tokenizer, how: str) -> tuple[Scorer, list[ScoredText]]:
    scorer = Scorer(model, tokenizer, CPU, compile=how)
    return scorer, scorer.score(TEXTS, ["", "Bela . ", "", "", ""])


@pytest.mark.usefixtures("cached")
def test_scores_are_those_of_torch(model: GPT, tokenizer: Tokenizer) -> None:
    (in_c, ours), (without, theirs) = scored(model, tokenizer, "on"), scored(model, tokenizer, "off")
    assert in_c.forward is not None and without.forward is None
    for mine, other in zip(ours, theirs, strict=True):
        for field in ("surprisal", "entropy", "boundary"):
            assert np.allclose(getattr(mine, field), getattr(other, field), atol=1e-4)
        for field in ("ids", "rank", "seen", "is_cut"):
            assert np.array_equal(getattr(mine, field), getattr(other, field))


@pytest.mark.usefixtures("cached")
def test_it_is_taken_where_it_was_compiled_before(model: GPT, tokenizer: Tokenizer) -> None:
    assert scored(model, tokenizer, "auto")[0].forward is not None


def test_a_compiler_is_called_when_there_is_enough_to_read(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, _ = scored(model, tokenizer, "auto")
    assert scorer.forward is None
    monkeypatch.setattr(surprisals, "TOKENS_WORTH_COMPILING", scorer.n_read + 1)
    scorer.score(TEXTS)
    assert scorer.forward is not None


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("changed", [{"n_kv_heads": 1}, {"architecture": "gpt2"}])
def test_other_models_are_read_by_torch(tokenizer: Tokenizer, changed: dict[str, object]) -> None:
    name = str(changed.pop("architecture", "qwen3"))
    model = random_model(tiny_config(name, vocab_size=tokenizer.vocab_size, **changed)).eval()
    with pytest.raises(NoKernel, match="not written in C"):
        Forward(model)
    assert scored(model, tokenizer, "on")[0].forward is None


@pytest.mark.usefixtures("cached")
def test_numbers_that_are_none_are_found(model: GPT, tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        model.transformer.embed.weight.fill_(math.nan)
    with pytest.raises(CheckpointError, match="not numbers"):
        scored(model, tokenizer, "on")
