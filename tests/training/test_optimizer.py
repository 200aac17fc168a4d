"""Optimizers and schedule: what decays, what an update looks like, the rate's shape, and a state that can be saved."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from conftest import random_model, tiny_config
from torch import Tensor, nn

from gptlite.config import ARCHITECTURES, ModelConfig, TrainConfig
from gptlite.device import Hardware, choose_hardware
from gptlite.errors import CheckpointError
from gptlite.model import GPT
from gptlite.training.adamw import AdamW
from gptlite.training.muon import Muon
from gptlite.training.optimizer import (
    OTHERS_SCALE,
    learning_rate,
    make_optimizers,
    mean_loss,
    optimizer_tensors,
    parameter_groups,
    restore_optimizers,
    set_learning_rate,
    training_step,
)

CONFIGS = [
    *(tiny_config(architecture) for architecture in ARCHITECTURES),
    tiny_config("qwen3", n_kv_heads=1, tie_embeddings=False),
    tiny_config("gpt2", tie_embeddings=False),
]
ADAMW = TrainConfig(optimizer="adamw", lr=0.01, weight_decay=0.3, beta1=0.8, beta2=0.99)
MUON = dataclasses.replace(ADAMW, optimizer="muon", momentum=0.9)
both = pytest.mark.parametrize("train", [ADAMW, MUON], ids=lambda t: t.optimizer)


def label(config: ModelConfig) -> str:
    return config.architecture + ("" if config.tie_embeddings else "-untied")


def hidden_matrices(model: GPT) -> list[nn.Parameter]:
    return [p for name, group in parameter_groups(model).items() if name != "others" for p in group]


def take_steps(model: GPT, optimizers: Sequence[torch.optim.Optimizer], steps: range) -> None:
    for step in steps:
        tokens = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(step))
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def random_matrices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Groups


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_every_parameter_is_in_one_group(config: ModelConfig) -> None:
    model = GPT(config)
    groups = parameter_groups(model)
    members = [id(p) for group in groups.values() for p in group]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in model.parameters()}
    assert sum(p.numel() for group in groups.values() for p in group) == config.n_params


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_only_hidden_matrices_are_matrices(config: ModelConfig) -> None:
    model = GPT(config)
    matrices = {id(p) for p in hidden_matrices(model)}
    names = {name for name, p in model.named_parameters() if id(p) in matrices}
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    kinds |= {"gate_proj"} if config.activation == "swiglu" else set()
    assert {name.split(".")[-2] for name in names} == kinds
    assert all(name.endswith(".weight") for name in names)
    assert len(names) == len(kinds) * config.n_layers


@both
@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_every_parameter_has_one_optimizer(config: ModelConfig, train: TrainConfig) -> None:
    model = GPT(config)
    groups = [group for optimizer in make_optimizers(model, train) for group in optimizer.param_groups]
    members = [id(p) for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in model.parameters()}


def test_adamw_gets_its_settings() -> None:
    model = GPT(CONFIGS[0])
    (optimizer,) = make_optimizers(model, ADAMW)
    assert isinstance(optimizer, torch.optim.AdamW)
    matrices, others = optimizer.param_groups
    assert [id(p) for p in matrices["params"]] == [id(p) for p in hidden_matrices(model)]
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert all((group["lr"], group["betas"]) == (0.01, (0.8, 0.99)) for group in (matrices, others))


def test_muon_gets_the_matrices_and_adamw_the_rest() -> None:
    model = GPT(CONFIGS[0])
    groups = parameter_groups(model)
    muon, adamw = make_optimizers(model, MUON)
    assert isinstance(muon, Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    (others,) = adamw.param_groups
    assert [id(p) for g in muon.param_groups for p in g["params"]] == [id(p) for p in hidden_matrices(model)]
    assert [id(p) for p in others["params"]] == [id(p) for p in groups["others"]]
    assert all((g["lr"], g["momentum"], g["weight_decay"]) == (0.01, 0.9, 0.3) for g in muon.param_groups)
    assert (others["lr"], others["betas"], others["weight_decay"]) == (0.01 * OTHERS_SCALE, (0.8, 0.99), 0.0)


@both
def test_without_gradient_only_matrices_shrink(train: TrainConfig) -> None:
    model = random_model(CONFIGS[0])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in make_optimizers(model, train):
        optimizer.step()
    matrices = {id(p) for p in hidden_matrices(model)}
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 0.01 * 0.3) if id(p) in matrices else before[name]
        assert torch.allclose(p, expected, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_each_head_is_orthogonalised_by_itself(config: ModelConfig) -> None:
    """One step from zero moves every head's part of the four projections by an orthogonal matrix."""
    model = random_model(config)
    muon, _ = make_optimizers(model, dataclasses.replace(MUON, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = random_matrices(*parameter.shape, seed=i)
    muon.step()
    C = config.head_dim
    for name, parameter in model.named_parameters():
        kind, moved = name.split(".")[-2], (parameter.detach() - before[name]) / muon.param_groups[0]["lr"]
        if parameter.ndim == 2 and kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
            heads = moved.split(C, dim=1) if kind == "o_proj" else moved.split(C, dim=0)
            for head in heads:
                values = torch.linalg.svdvals(head) / max(1.0, head.shape[0] / head.shape[1]) ** 0.5
                assert float(values.min()) > 0.85 and float(values.max()) < 1.15, name


# The learning rate


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


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_no_step_of_a_run_has_the_rate_zero(steps: int) -> None:
    config = TrainConfig()
    rates = [learning_rate(step / steps, config, 1 / steps) for step in range(steps)]
    assert min(rates) > 0
    assert max(rates) == config.lr


@both
def test_each_group_gets_its_share_of_the_rate(train: TrainConfig) -> None:
    optimizers = make_optimizers(GPT(CONFIGS[0]), train)
    before = [group["lr"] / train.lr for optimizer in optimizers for group in optimizer.param_groups]
    set_learning_rate(optimizers, 0.125)
    after = [group["lr"] / 0.125 for optimizer in optimizers for group in optimizer.param_groups]
    assert after == pytest.approx(before)
    assert set(after) == {1.0, OTHERS_SCALE} if train is MUON else {1.0}


# State


@both
@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_restored_optimizers_go_on_bit_for_bit(config: ModelConfig, train: TrainConfig) -> None:
    model = random_model(config)
    optimizers = make_optimizers(model, train)
    take_steps(model, optimizers, range(3))
    # Cloned because on a CPU the tensors are those that the optimizers go on to change.
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizers).items()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_steps(model, optimizers, range(3, 6))

    other = GPT(config)
    other.load_state_dict(weights)
    restored = make_optimizers(other, train)
    restore_optimizers(other, restored, saved)
    take_steps(other, restored, range(3, 6))
    for (name, expected), actual in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(actual, expected), name
    again = optimizer_tensors(other, restored)
    assert all(torch.equal(tensor, again[name]) for name, tensor in optimizer_tensors(model, optimizers).items())


@both
def test_the_state_matters(train: TrainConfig) -> None:
    """So that the test above can fail: fresh optimizers go elsewhere."""
    model = random_model(CONFIGS[0])
    optimizers = make_optimizers(model, train)
    take_steps(model, optimizers, range(3))
    other = GPT(CONFIGS[0])
    other.load_state_dict(model.state_dict())
    take_steps(model, optimizers, range(3, 4))
    take_steps(other, make_optimizers(other, train), range(3, 4))
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@both
def test_state_is_named_by_kind_and_parameter(train: TrainConfig) -> None:
    model = random_model(CONFIGS[0])
    optimizers = make_optimizers(model, train)
    assert optimizer_tensors(model, optimizers) == {}
    take_steps(model, optimizers, range(1))
    matrices = {id(p) for p in hidden_matrices(model)}
    expected = {
        f"{kind}.{name}"
        for name, p in model.named_parameters()
        for kind in (["momentum"] if train is MUON and id(p) in matrices else ["step", "exp_avg", "exp_avg_sq"])
    }
    tensors = optimizer_tensors(model, optimizers)
    assert set(tensors) == expected
    assert tensors["step.transformer.embed.weight"].item() == 1


@pytest.mark.row("K34")
@both
def test_state_of_another_model_is_refused(train: TrainConfig) -> None:
    model = random_model(CONFIGS[0])
    with pytest.raises(
        CheckpointError, match=r"the optimizer state names 'exp_avg\.head\.bias', which this model does not"
    ):
        restore_optimizers(model, make_optimizers(model, train), {"exp_avg.head.bias": torch.zeros(3)})


# A step


def test_optimizers_alone_compute_with_rough_products(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def rough(_: Hardware) -> Iterator[None]:
        seen.append("begin")
        yield
        seen.append("end")

    monkeypatch.setattr(Hardware, "rough_products", rough)
    model = random_model(tiny_config("qwen3"))
    optimizers = make_optimizers(model, MUON)
    for optimizer in optimizers:
        optimizer.register_step_post_hook(lambda *_: seen.append("step"))
    model.register_forward_hook(lambda *_: seen.append("forward"))
    training_step(model, optimizers, torch.zeros(2, 9, dtype=torch.long), choose_hardware("cpu"), 1.0)
    assert seen == ["forward", "begin", "step", "step", "end"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_that_of_torch(weight_decay: float) -> None:
    """Bit for bit, though its step is taken without the decorators that load the compiler."""
    ends = []
    for kind in (AdamW, torch.optim.AdamW):
        model = random_model(tiny_config("qwen3"))
        made = kind(list(model.parameters()), lr=0.01, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        for _ in range(3):
            model.zero_grad()
            mean_loss(model, torch.arange(66).view(2, 33)).backward()
            made.step()
        ends.append([*model.parameters(), *(made.state[p]["exp_avg_sq"] for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
