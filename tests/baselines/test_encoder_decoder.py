"""Encoder-decoders: shapes, what can see what, attention, greedy answers, and that they learn to copy."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save

from gptlite.baselines.encoder_decoder import KINDS, EncoderDecoder, EncoderDecoderConfig, build, initialise
from gptlite.errors import UsageError
from gptlite.training.optimizer import mean_loss

V, BEGIN, END = 40, 38, 39


def made(kind: str, dim: int = 32, seed: int = 0) -> EncoderDecoder:
    model = build(EncoderDecoderConfig(kind, V, dim, 2 if kind == "transformer" else 1, BEGIN))
    initialise(model, seed)
    return model.eval()


def rows(n: int = 2, prompt: int = 5, answer: int = 4) -> torch.Tensor:
    ids = torch.randint(0, BEGIN, (n, prompt + 1 + answer), generator=torch.Generator().manual_seed(n))
    ids[:, prompt] = BEGIN
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_parameters(kind: str) -> None:
    model = made(kind)
    assert sum(p.numel() for p in model.parameters()) == model.config.n_params
    found = EncoderDecoderConfig.of_size(kind, 500, 300_000, 2 if kind == "transformer" else 1, 7)
    assert abs(found.n_params / 300_000 - 1) < 0.15 and found.begin == 7


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_sees_all_of_the_prompt_and_nothing_of_its_own_future(kind: str) -> None:
    model, ids = made(kind), rows()
    logits = model(ids)
    assert logits.shape == (2, 10, V)
    later, prompt = ids.clone(), ids.clone()
    later[:, 8:], prompt[:, 0] = 0, (ids[:, 0] + 1) % BEGIN
    assert torch.allclose(logits[:, 5:8], model(later)[:, 5:8], atol=1e-6)
    assert not torch.allclose(logits[:, 8], model(later)[:, 8])
    assert all(not torch.allclose(logits[:, t], model(prompt)[:, t]) for t in range(5, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_the_same_beside_longer_ones(kind: str) -> None:
    model, short, long = made(kind), rows(1, 3, 3)[0], rows(1, 6, 4)[0]
    batch = torch.stack([torch.cat([short, torch.zeros(4, dtype=torch.long)]), long])
    logits = model(batch)
    assert torch.allclose(logits[0, 3:7], model(short[None])[0, 3:7], atol=1e-5)
    assert torch.allclose(logits[1, 6:], model(long[None])[0, 6:], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_cross_attention_sum_to_one_and_padding_gets_nothing(kind: str) -> None:
    model, short, long = made(kind), rows(1, 3, 3)[0], rows(1, 6, 4)[0]
    batch = torch.stack([torch.cat([short, torch.zeros(4, dtype=torch.long)]), long])
    source, known, target, mark = model.split(batch)
    assert mark.tolist() == [3, 6] and known.sum(1).tolist() == [3, 6] and (target[:, 0] == BEGIN).all()
    weights = model.attention(source, known, target)
    layers, heads = (2, 4) if kind == "transformer" else (1, 1)
    assert weights.shape == (layers, 2, heads, 8, 6)
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    assert (weights[:, 0, :, :, 3:] == 0).all()
    assert torch.equal(model(batch), model(batch)), "nothing stays attached"


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_the_whole_forward_pass(kind: str) -> None:
    model = made(kind, seed=3)
    prompts = [[1, 2, 3, BEGIN], [4, BEGIN]]
    for prompt, written in zip(prompts, model.write(prompts, END, 5), strict=True):
        ids = list(prompt)
        for token in written:
            assert int(model(torch.tensor([ids]))[0, -1].argmax()) == token
            ids.append(token)
        assert len(written) == 5 or int(model(torch.tensor([ids]))[0, -1].argmax()) == END
    assert model.write(prompts, END, 0) == [[], []]


def copying(step: int) -> torch.Tensor:
    """Two symbols, 2 to 5 of them, and the same again, as rows with what is not learned as `~id`."""
    generator = torch.Generator().manual_seed(step)
    n = int(torch.randint(2, 6, (), generator=generator))
    symbols = torch.randint(0, 2, (32, n), generator=generator)
    begin, end = torch.full((32, 1), BEGIN), torch.full((32, 1), END)
    return torch.cat([~torch.full((32, 1), 2), ~symbols, ~begin, symbols, end], 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_copying_two_symbols_is_learned_in_seconds(kind: str) -> None:
    model = made(kind, 32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01 if kind == "lstm" else 0.001)
    for step in range(200):
        optimizer.zero_grad()
        loss = mean_loss(model, copying(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    prompts = [[2, *map(int, f"{i:04b}"), BEGIN] for i in range(16)]
    right = sum(w == prompt[1:-1] for w, prompt in zip(model.write(prompts, END, 8), prompts, strict=True))
    assert right >= 14, right


def test_a_new_model_expects_nothing_and_the_seed_decides() -> None:
    batch = torch.where(torch.arange(10) > 5, rows(8), ~rows(8))
    for kind in KINDS:
        one, two, other = made(kind, seed=1), made(kind, seed=1), made(kind, seed=2)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        assert not torch.equal(one.embed.weight, other.embed.weight)
        assert mean_loss(one, batch).item() == pytest.approx(math.log(V), abs=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_weights_are_the_model(kind: str) -> None:
    one, two = made(kind, seed=1), made(kind, seed=2)
    two.load_state_dict(load(save(one.state_dict())))
    assert torch.equal(one(rows()), two(rows()))


def test_what_makes_no_model_is_refused() -> None:
    for arguments, said in (
        (("rnn", V, 16), "lstm, transformer"),
        (("lstm", V, 0), "`dim` must be at least 1"),
        (("lstm", V, 20), "multiple of 16"),
        (("lstm", V, 16, 2), "`n_layers` must be 1"),
    ):
        with pytest.raises(UsageError, match=said):
            EncoderDecoderConfig(*arguments)
