"""Watching a model leaves no trace in it."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model, tiny_config

from gptlite.config import ARCHITECTURES
from gptlite.model import GPT
from gptlite.tracing import hidden, trace

TOKENS = torch.arange(10)[None]


def n_hooks(model: GPT) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("attention", [False, True])
def test_hooks_are_gone_afterwards(attention: bool) -> None:
    model = random_model(tiny_config("qwen3"))
    trace(model, TOKENS, attention=attention)
    assert n_hooks(model) == 0


@pytest.mark.parametrize("attention", [False, True])
def test_hooks_are_gone_after_an_error(attention: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(tiny_config("qwen3"))
    seen = []

    def broken(*_: object) -> None:
        seen.append(n_hooks(model))
        raise RuntimeError("in the last block")

    monkeypatch.setattr(model.transformer.blocks[-1], "forward", broken)
    with pytest.raises(RuntimeError, match="in the last block"):
        trace(model, TOKENS, attention=attention)
    assert seen[0] >= 2, "the hooks were there while it ran"
    assert n_hooks(model) == 0


def test_tokens_beyond_the_vocabulary_leave_no_hooks() -> None:
    model = random_model(tiny_config("qwen3"))
    with pytest.raises(IndexError):
        trace(model, TOKENS + 10_000)
    assert n_hooks(model) == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_the_head_there_are_no_logits(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(tiny_config(architecture))
    whole = trace(model, TOKENS)

    def forbidden(*_: object) -> None:
        raise AssertionError("the head must not be computed")

    monkeypatch.setattr(model.head, "forward", forbidden)
    part = trace(model, TOKENS, head=False)
    assert part.logits is None and whole.logits is not None
    assert len(part.hidden) == len(whole.hidden) == model.config.n_layers + 1
    assert all(torch.equal(a, b) for a, b in zip(part.hidden, whole.hidden, strict=True))


def test_attention_is_only_there_when_asked_for() -> None:
    model = random_model(tiny_config("qwen3"))
    assert trace(model, TOKENS).attention == []
    assert len(trace(model, TOKENS, attention=True).attention) == model.config.n_layers


def test_nothing_traced_holds_a_gradient() -> None:
    seen = trace(random_model(tiny_config("qwen3")), TOKENS)
    assert seen.logits is not None
    assert not any(tensor.requires_grad for tensor in (*seen.hidden, seen.logits))


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (0, 1, 2), (2, 0), (1, 1)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_some_layers_are_those_of_a_trace(architecture: str, layers: tuple[int, ...]) -> None:
    model = random_model(tiny_config(architecture))
    expected = torch.stack([trace(model, TOKENS).hidden[i] for i in layers])
    assert torch.equal(hidden(model, TOKENS, layers), expected)
    rows, columns = torch.tensor([0, 0, 0]), torch.tensor([9, 3, 3])
    assert torch.equal(hidden(model, TOKENS, layers, (rows, columns)), expected[:, rows, columns])
    assert n_hooks(model) == 0


def test_blocks_above_the_highest_layer_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(tiny_config("qwen3"))

    def forbidden(*_: object) -> None:
        raise AssertionError("the last block must not be computed")

    monkeypatch.setattr(model.transformer.blocks[-1], "forward", forbidden)
    hidden(model, TOKENS, (0, 1))
    with pytest.raises(AssertionError, match="the last block"):
        hidden(model, TOKENS, (2,))
    assert n_hooks(model) == 0
