"""Watching a model changes nothing in it, and shows what runs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random_model, tiny_config

from gptlite.config import ARCHITECTURES
from gptlite.tracing import attention_inputs, attention_weights, hidden, trace

TOKENS = torch.arange(10)[None]


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_trace_is_bit_for_bit_what_runs(architecture: str) -> None:
    model = random_model(tiny_config(architecture))
    seen = trace(model, TOKENS, attention=True)
    assert seen.logits is not None and torch.equal(seen.logits, model(TOKENS))
    for layer in range(model.config.n_layers):
        attention, residual, x, rotation = attention_inputs(model, TOKENS, layer)
        assert torch.equal(residual, seen.hidden[layer])
        assert torch.equal(attention_weights(attention, x, rotation), seen.attention[layer])


def test_threads_may_watch_one_model() -> None:
    """Each gets the states of its own tokens, and none an error: nothing is attached to what they share."""
    model = random_model(tiny_config("qwen3"))
    inputs = [torch.arange(n, n + 10)[None] for n in range(4)]
    expected = [hidden(model, tokens, (0, 1, 2)) for tokens in inputs]
    barrier = threading.Barrier(len(inputs))

    def watch(number: int) -> bool:
        barrier.wait()
        return all(torch.equal(hidden(model, inputs[number], (0, 1, 2)), expected[number]) for _ in range(50))

    with ThreadPoolExecutor(len(inputs)) as pool:
        assert all(pool.map(watch, range(len(inputs))))


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


def test_blocks_above_the_highest_layer_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(tiny_config("qwen3"))

    def forbidden(*_: object) -> None:
        raise AssertionError("the last block must not be computed")

    monkeypatch.setattr(model.transformer.blocks[-1], "forward", forbidden)
    hidden(model, TOKENS, (0, 1))
    with pytest.raises(AssertionError, match="the last block"):
        hidden(model, TOKENS, (2,))
