"""Optimizer and schedule: what decays, the shape of the learning rate, and a state that can be saved and given back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import random_model, tiny_config

from gptlite.config import ARCHITECTURES, ModelConfig, TrainConfig
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.optim import (
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
    set_learning_rate,
)

CONFIGS = [
    *(tiny_config(architecture) for architecture in ARCHITECTURES),
    tiny_config("qwen3", n_kv_heads=1, tie_embeddings=False),
    tiny_config("gpt2", tie_embeddings=False),
]
TRAIN = TrainConfig(lr=0.01, weight_decay=0.3, beta1=0.8, beta2=0.99)


def label(config: ModelConfig) -> str:
    return config.architecture + ("" if config.tie_embeddings else "-untied")


def train(model: GPT, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        tokens = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(step))
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_every_parameter_is_in_one_group(config: ModelConfig) -> None:
    model = GPT(config)
    groups = parameter_groups(model)
    members = [id(p) for group in groups.values() for p in group]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in model.parameters()}
    assert sum(p.numel() for group in groups.values() for p in group) == config.n_params


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_only_hidden_matrices_decay(config: ModelConfig) -> None:
    model = GPT(config)
    decaying = {id(p) for p in parameter_groups(model)["matrices"]}
    names = {name for name, p in model.named_parameters() if id(p) in decaying}
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    kinds |= {"gate_proj"} if config.activation == "swiglu" else set()
    assert {name.split(".")[-2] for name in names} == kinds
    assert all(name.endswith(".weight") for name in names)
    assert len(names) == len(kinds) * config.n_layers


def test_the_groups_get_their_settings() -> None:
    optimizer = make_optimizer(GPT(CONFIGS[0]), TRAIN)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all((group["lr"], group["betas"]) == (0.01, (0.8, 0.99)) for group in optimizer.param_groups)


def test_without_gradient_only_matrices_shrink() -> None:
    model = random_model(CONFIGS[0])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, TRAIN)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decaying = {id(p) for p in parameter_groups(model)["matrices"]}
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 0.01 * 0.3) if id(p) in decaying else before[name]
        assert torch.allclose(p, expected, rtol=1e-6, atol=0), name


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, 0), (0.05, 0.5), (0.1, 1), (0.3, 1), (0.6, 1), (0.8, 0.5), (0.9, 0.25), (1, 0), (1.5, 0)],
)
def test_the_rate_rises_stays_and_falls(progress: float, expected: float) -> None:
    config = TrainConfig(lr=2e-3, warmup=0.1, decay=0.4)
    assert learning_rate(progress, config) == pytest.approx(2e-3 * expected)


@pytest.mark.parametrize(("warmup", "decay"), [(0.02, 0.6), (0.5, 0.5), (0.3, 0.7), (0.9, 0.9), (1, 1), (0, 0.2)])
def test_the_rate_stays_between_zero_and_its_peak(warmup: float, decay: float) -> None:
    config = TrainConfig(lr=1e-3, warmup=warmup, decay=decay)
    rates = [learning_rate(i / 1000, config) for i in range(1001)]
    assert all(0 <= rate <= 1e-3 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == 0
    assert rates[0] == (0 if warmup else 1e-3)
    if warmup + decay <= 1:
        assert max(rates) == 1e-3


def test_without_warmup_the_rate_begins_at_its_peak() -> None:
    assert learning_rate(0, TrainConfig(lr=1e-3, warmup=0)) == 1e-3


def test_without_decay_the_rate_ends_at_its_peak() -> None:
    config = TrainConfig(lr=1e-3, warmup=0.1, decay=0)
    assert [learning_rate(p, config) for p in (0.0, 0.1, 0.5, 1.0)] == [0, 1e-3, 1e-3, 1e-3]


def test_the_rate_is_set_in_all_groups() -> None:
    optimizer = make_optimizer(GPT(CONFIGS[0]), TRAIN)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_a_restored_optimizer_goes_on_bit_for_bit(config: ModelConfig) -> None:
    model = random_model(config)
    optimizer = make_optimizer(model, TRAIN)
    train(model, optimizer, range(3))
    # Cloned because on a CPU the tensors are those that the optimizer goes on to change.
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizer).items()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, optimizer, range(3, 6))

    other = GPT(config)
    other.load_state_dict(weights)
    restored = make_optimizer(other, TRAIN)
    restore_optimizer(other, restored, saved)
    train(other, restored, range(3, 6))
    for (name, expected), actual in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(actual, expected), name
    again = optimizer_tensors(other, restored)
    assert all(torch.equal(tensor, again[name]) for name, tensor in optimizer_tensors(model, optimizer).items())


def test_the_state_matters() -> None:
    """So that the test above can fail: a fresh optimizer goes elsewhere."""
    model = random_model(CONFIGS[0])
    optimizer = make_optimizer(model, TRAIN)
    train(model, optimizer, range(3))
    other = GPT(CONFIGS[0])
    other.load_state_dict(model.state_dict())
    train(model, optimizer, range(3, 4))
    train(other, make_optimizer(other, TRAIN), range(3, 4))
    assert not torch.equal(model.head.weight, other.head.weight)


def test_state_is_named_by_kind_and_parameter() -> None:
    model = GPT(CONFIGS[0])
    optimizer = make_optimizer(model, TRAIN)
    assert optimizer_tensors(model, optimizer) == {}
    model = random_model(CONFIGS[0])
    optimizer = make_optimizer(model, TRAIN)
    train(model, optimizer, range(1))
    names = [name for name, _ in model.named_parameters()]
    tensors = optimizer_tensors(model, optimizer)
    assert set(tensors) == {f"{kind}.{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name in names}
    assert all(tensors[f"step.{name}"].item() == 1 for name in names)


def test_state_of_another_model_is_refused() -> None:
    model = random_model(CONFIGS[0])
    with pytest.raises(CheckpointError, match=r"the optimizer state names 'head\.bias', which this model does not"):
        restore_optimizer(model, make_optimizer(model, TRAIN), {"exp_avg.head.bias": torch.zeros(3)})
