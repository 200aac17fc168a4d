"""A loss by autograd that threads divide: that of the whole batch, with dropout of its own, whoever computes it."""

from __future__ import annotations

import pytest
import torch
from conftest import random_model, tiny_config
from torch import Tensor

from gptlite.config import ARCHITECTURES, TrainConfig
from gptlite.device import Hardware, choose_hardware
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise
from gptlite.training import compile, optimizer
from gptlite.training.divided import DividedLoss, plain_loss


@pytest.fixture
def cpu() -> Hardware:
    return choose_hardware("cpu")


def windows(vocab_size: int, n: int = 5) -> Tensor:
    return torch.randint(vocab_size, (n, 17), generator=torch.Generator().manual_seed(1))


def gradients(loss_of: optimizer.Loss, model: GPT, batch: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, batch)
    loss.backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **named}


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_the_whole_batch(architecture: str, n: int, cpu: Hardware) -> None:
    model = random_model(tiny_config(architecture)).train()
    batch = windows(model.config.vocab_size, n)
    ours = gradients(DividedLoss(cpu, Workers(3)), model, batch)
    theirs = gradients(optimizer.mean_loss, model, batch)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("architecture", ["gpt2", "transformer-2017"])
def test_the_bits_do_not_depend_on_how_many_threads_compute(architecture: str, cpu: Hardware) -> None:
    """With dropout, through all optimizers, and where the number changes on the way."""
    ends: list[dict[str, Tensor]] = []
    for active in ([3] * 3, [1] * 3, [2, 3, 1]):
        torch.manual_seed(0)
        model = GPT(tiny_config(architecture), dropout=0.3)
        initialise(model, 0)
        workers = Workers(3)
        optimizers = optimizer.make_optimizers(model.train(), TrainConfig(lr=0.02), workers=workers)
        loss_of, batch = plain_loss(cpu, workers), windows(model.config.vocab_size)
        for workers.active in active:
            optimizer.training_step(model, optimizers, batch, cpu, 1.0, loss_of, workers=workers)
        ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert all(torch.equal(ends[0][name], end[name]) for end in ends[1:] for name in end)


def test_dropout_is_decided_by_torchs_seed_and_drops_as_much_as_asked(cpu: Hardware) -> None:
    config = tiny_config("gpt2")
    model = GPT(config, dropout=0.3)
    model.load_state_dict(random_model(config).state_dict())
    model.train()
    loss_of, batch = DividedLoss(cpu, Workers(2)), windows(config.vocab_size)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return loss_of(model, batch).item()

    assert loss(1) == loss(1) != loss(2)
    dropped = loss_of.copies[model][0].transformer.dropout(torch.ones(1 << 16))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    model.eval()
    assert loss(1) == loss(2) == pytest.approx(optimizer.mean_loss(model, batch).item(), rel=1e-6)


def test_copies_of_the_modules_share_the_weights(cpu: Hardware) -> None:
    model = random_model(tiny_config("gpt2")).train()
    loss_of = DividedLoss(cpu, Workers(2))
    before = loss_of(model, batch := windows(model.config.vocab_size)).item()
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert loss_of(model, batch).item() != before
    assert loss_of(model, batch).item() == pytest.approx(optimizer.mean_loss(model, batch).item(), rel=1e-6)


def test_what_is_compiled_by_torch_recomputed_or_shared_by_processes_is_not_divided(cpu: Hardware) -> None:
    from dataclasses import replace

    two, train = replace(cpu, threads=2), TrainConfig()
    parts = [
        compile.workers_for(hardware, config).parts
        for hardware, config in [
            (two, train),
            (replace(two, compile=True, fused=True), train),
            (replace(two, compile=True), train),
            (two, replace(train, recompute=True)),
            (replace(two, processes=2), train),
            (replace(two, device=torch.device("cuda")), train),
        ]
    ]
    assert parts == [2, 2, 1, 1, 1, 1]
